"""asyncio's datagram transport over a `DatagramSocket`: for programs that are written for it.

It copies each datagram once between the pool and the program's bytes, counted in
`Runtime.copied_bytes`.
"""

import asyncio
from collections import deque
from functools import partial

from .datagrams import DatagramSocket

__all__ = ["DatagramTransport"]

_HIGH = 64 * 1024
_HEADER_BYTES = 8
"""Counted for each datagram that is held back, so that those without payload are bounded, too."""


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
        self._lost = self._pushing = False
        loop = bound.runtime.loop
        self.made = loop.create_future()
        # Callbacks of the program have a turn of their own: what they raise is the loop's to tell.
        self._soon = partial(partial, loop.call_soon)
        bound.on_closed = self._closed
        loop.call_soon(self._begin)

    def _begin(self):
        bound = self._socket
        bound.on_datagram, bound.on_error = self._soon(self._deliver), self._soon(self._failed)
        bound.on_room = self._push_soon
        for _ in bound.arrived:  # came before this transport was there
            bound.on_datagram()
        if not self.made.done():
            self.made.set_result(None)
        self._protocol.connection_made(self)

    def get_protocol(self):
        return self._protocol

    def set_protocol(self, protocol) -> None:
        self._protocol = protocol

    # -- receiving ---------------------------------------------------------------------------

    def _deliver(self):
        bound = self._socket
        if bound.arrived and not self.is_closing():
            self._protocol.datagram_received(*bound.copy(*bound.take()))

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
        self._size += len(data) + _HEADER_BYTES
        self.push()
        if self._size > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _push_soon(self):
        if not self._pushing:
            self._pushing = True
            self._socket.runtime.loop.call_soon(self.push)

    def push(self) -> None:
        """Hand over what has room."""
        self._pushing = False
        bound = self._socket
        while self._backlog and bound.has_room and not bound.closing:
            data, addr = self._backlog[0]
            buffer = bound.runtime.allocate(len(data)) if data else None
            if data and buffer is None:
                bound.runtime.wait_for_room(self)
                break
            self._backlog.popleft()
            self._size -= len(data) + _HEADER_BYTES
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
