"""asyncio's datagram transport over a `DatagramSocket`: for programs that are written for it.

It copies each datagram once between the pool and the program's bytes, counted in
`Runtime.copied_bytes`.
"""

import asyncio
from collections import deque

from .datagrams import DatagramSocket

__all__ = ["DatagramTransport"]

_HIGH = 64 * 1024


class DatagramTransport(asyncio.DatagramTransport):
    """The methods of `asyncio.DatagramTransport`; from `Runtime.create_datagram_endpoint`.

    `made` is a future that is done when the protocol has been told of its transport.
    """

    def __init__(self, bound: DatagramSocket, protocol: asyncio.DatagramProtocol):
        super().__init__({"sockname": bound.address, "peername": bound.peer, "socket": bound})
        self._socket, self._protocol = bound, protocol
        self._backlog: deque[tuple[bytes, tuple | None]] = deque()
        self._size = 0
        self._high, self._low = _HIGH, _HIGH // 4
        self._paused = False
        self._lost = False
        bound.on_datagram, bound.on_error = self._arrived, self._failed
        bound.on_room, bound.on_closed = self.push, self._closed
        loop = bound.runtime.loop
        self.made = loop.create_future()
        loop.call_soon(self._begin)

    def _begin(self):
        self._protocol.connection_made(self)
        if not self.made.done():
            self.made.set_result(None)
        self._arrived()  # what came before this transport was there

    def get_protocol(self):
        return self._protocol

    def set_protocol(self, protocol) -> None:
        self._protocol = protocol

    # -- receiving ---------------------------------------------------------------------------

    def _arrived(self):
        while self._socket.arrived and not self._socket.closing:
            self._protocol.datagram_received(*self._socket.copy(*self._socket.take()))

    def _failed(self, error):
        if not self._lost:
            self._protocol.error_received(error)

    # -- sending -----------------------------------------------------------------------------

    def sendto(self, data, addr=None) -> None:
        """Send `data` as one datagram; held back in this process while there is no room.

        What is wrong with it goes to `error_received`, an address besides the fixed peer raises
        ValueError.
        """
        if self.is_closing():
            return
        data = bytes(data)
        try:
            self._socket.check_send(len(data), addr)
        except OSError as error:
            self._protocol.error_received(error)
            return
        self._backlog.append((data, addr))
        self._size += len(data)
        self.push()
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def push(self) -> None:
        """Hand over what has room."""
        bound = self._socket
        while self._backlog and bound.has_room and not bound.closing:
            data, addr = self._backlog[0]
            buffer = bound.runtime.allocate(len(data)) if data else None
            if data and buffer is None:
                bound.runtime.wait_for_room(self)
                break
            self._backlog.popleft()
            self._size -= len(data)
            if data:
                bound.fill(buffer, data)
            bound.post(buffer, len(data), addr)
        if self._paused and self._size <= self._low:
            self._paused = False
            self._protocol.resume_writing()
        if self._lost and not self._backlog:
            bound.close()

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")
        self._high, self._low = high, low

    # -- the end -----------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._lost or self._socket.closing

    def close(self) -> None:
        """Close once all that was handed to `sendto` has left; nothing more is received."""
        if not self.is_closing():
            self._lost = True
            self._socket.on_datagram = self._drop
            self.push()

    def abort(self) -> None:
        """Close at once; what was not handed over to the stack is lost."""
        self._backlog.clear()
        self._size = 0
        self._lost = True
        self._socket.close()

    def _drop(self):
        while self._socket.arrived:
            for view in self._socket.take()[0]:
                view.release()

    def _closed(self, error):
        self._lost = True
        self._backlog.clear()
        self._size = 0
        self._socket.runtime.loop.call_soon(self._protocol.connection_lost, error)
