"""Streams in the manner of asyncio, and the zero-copy calls beneath them.

`read`, `readuntil` and the like, and `write`, copy each byte once between the pool and the
caller's bytes, and count it in `Runtime.copied_bytes`. `read_views` and `send_buffer` copy nothing:
a `View` is a piece of the pool that the card filled, a `SendBuffer` a piece that it will read.
"""

import asyncio

from .buffers import SendBuffer, View

__all__ = ["StreamReader", "StreamWriter"]

_HIGH, _LOW = 512 * 1024, 256 * 1024
"""Unacknowledged bytes of a connection at which `drain` begins and ends to wait."""


def _held_view(data: bytes) -> View:
    """A view of bytes that were copied before: there is no buffer to give back."""
    return View(None, 0, memoryview(data))


class StreamReader:
    """Reads a connection; the methods of `asyncio.StreamReader`, and `read_views`."""

    def __init__(self, connection):
        self._c = connection
        self._held = bytearray()  # bytes that an unfinished readuntil has copied
        self._urgent_heard = 0

    def at_eof(self) -> bool:
        """Whether everything was read and the peer has ended its side."""
        return self._c.finished and not self._c.arrived and not self._held

    @property
    def held_bytes(self) -> int:
        """Bytes that were copied out of the pool and that nobody has read yet."""
        return len(self._held)

    def exception(self) -> Exception | None:
        """Why the connection broke, if it did."""
        return self._c.error

    @property
    def urgent_bytes(self) -> int:
        """Bytes not yet read up to the end of the peer's urgent data, come or not; 0: none.

        The data is in the stream, as with SO_OOBINLINE (RFC 6093 section 6).
        """
        c = self._c
        unread = sum(len(view) for view in c.arrived) + len(self._held)
        return max(0, c.urgent_mark - (c.arrived_bytes - unread))

    async def wait_urgent(self) -> int:
        """Wait until the peer names the end of urgent data, or a later one than before; gives
        `urgent_bytes`.

        0 where another task has read up to there meanwhile, and at the end of the stream. Raises
        what broke the connection.
        """
        c = self._c
        while self._urgent_heard == c.urgent_told and not (c.finished or c.discarding):
            await c.changed()
        if c.error is not None and not c.ended_by_peer:
            raise c.error
        self._urgent_heard = c.urgent_told
        return self.urgent_bytes

    async def _wait(self) -> bool:
        """Wait for payload; False at the end. Raises what broke the connection."""
        c = self._c
        while not c.arrived:
            if c.error is not None and not c.ended_by_peer:
                raise c.error
            if c.finished or c.discarding:
                return False
            await c.changed()
        return True

    async def read_views(self, max_bytes: int = 64 * 1024) -> list[View]:
        """What has come, at most `max_bytes`, without a copy; waits for the first byte.

        An empty list is the end of the stream. Release each view.
        """
        if max_bytes <= 0:
            raise ValueError(f"max_bytes is {max_bytes}; more than 0 is needed")
        if self._held:
            data, self._held = bytes(self._held[:max_bytes]), self._held[max_bytes:]
            return [_held_view(data)]
        if not await self._wait():
            return []
        out, left = [], max_bytes
        while self._c.arrived and left:
            view = self._c.take_first(left)
            left -= len(view)
            out.append(view)
        return out

    def _copy(self, limit: int) -> bytes:
        """Take at most `limit` bytes of what has come, as bytes."""
        parts = []
        if self._held:
            parts.append(bytes(self._held[:limit]))
            del self._held[:limit]
            limit -= len(parts[0])
        while limit and self._c.arrived:
            with self._c.take_first(limit) as view:
                parts.append(bytes(view.data))
                limit -= len(view)
                self._c.runtime.copied_bytes += len(view)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, n: int = -1) -> bytes:
        """Up to `n` bytes, as soon as there are any; all until the end for -1; b"" at the end."""
        if n == 0:
            return b""
        if n > 0:
            if not self._held:
                await self._wait()
            return self._copy(n)
        while await self._wait():
            self._hold()
        return self._copy(len(self._held))

    def _hold(self):
        while self._c.arrived:
            with self._c.arrived.popleft() as view:
                self._held += view.data
                self._c.runtime.copied_bytes += len(view)

    async def readexactly(self, n: int) -> bytes:
        """Exactly `n` bytes; raises `asyncio.IncompleteReadError` if the stream ends before."""
        if n < 0:
            raise ValueError(f"n is {n}; it must not be negative")
        while len(self._held) < n:
            if not await self._wait():
                partial = self._copy(n)
                raise asyncio.IncompleteReadError(partial, n)
            with self._c.take_first(n - len(self._held)) as view:
                self._held += view.data
                self._c.runtime.copied_bytes += len(view)
        return self._copy(n)

    async def readline(self) -> bytes:
        """A line with its newline; what is left at the end of the stream."""
        try:
            return await self.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def readuntil(self, separator: bytes = b"\n", limit: int = 64 * 1024) -> bytes:
        """Up to and with `separator`. Not a byte after it is taken from the pool.

        Raises `asyncio.IncompleteReadError` at the end of the stream, and
        `asyncio.LimitOverrunError` where it does not come within `limit` bytes.
        """
        if not separator:
            raise ValueError("the separator is empty")
        held, looked = self._held, 0
        while True:
            at = held.find(separator, looked)
            if at >= 0:
                return self._copy(at + len(separator))
            if len(held) > limit:
                raise asyncio.LimitOverrunError("separator not found within the limit", len(held))
            looked = max(0, len(held) - len(separator) + 1)
            if not await self._wait():
                partial = self._copy(len(held))
                raise asyncio.IncompleteReadError(partial, None)
            self._take_towards(separator)

    def _take_towards(self, separator):
        """Copy from the first view as far as the separator can reach, no further."""
        held, view = self._held, self._c.arrived[0]
        overlap = bytes(held[len(held) - len(separator) + 1 :]) if len(separator) > 1 else b""
        edge = overlap + bytes(view.data[: len(separator) - 1])
        at = edge.find(separator)
        if at >= 0:
            take = at + len(separator) - len(overlap)
        else:
            start = view._start  # searched in place: nothing is copied for it
            at = self._c.runtime.pool.file.find(separator, start, start + len(view))
            take = at + len(separator) - start if at >= 0 else len(view)
        with self._c.take_first(take) as view:
            held += view.data
            self._c.runtime.copied_bytes += len(view)

    def __aiter__(self):
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


class StreamWriter:
    """Writes a connection; the methods of `asyncio.StreamWriter`, and `send_buffer`."""

    def __init__(self, connection):
        self._c = connection

    def write(self, data) -> None:
        """Append `data` to the stream; copied into the pool, now or when there is room."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if data:
            self._c.queue(memoryview(data), len(data))

    def write_urgent(self, data) -> None:
        """As `write`, and the peer hears, ahead of what windows hold back, that all is urgent up to
        the end of `data` (RFC 9293 section 3.8.5). Not for new protocols (RFC 6093)."""
        data = bytes(data)
        if data:
            self._c.queue(memoryview(data), len(data), urgent=True)

    def writelines(self, pieces) -> None:
        """`write` each of `pieces`."""
        self.write(b"".join(pieces))

    async def drain(self) -> None:
        """Wait until the peer has acknowledged enough that more may be written.

        Raises what broke the connection, or why the stack refused an option that was set.
        """
        c = self._c
        if c.error is not None:
            raise c.error
        if c.options.unsettled:
            await c.options.settled()
        if c.unsent > _HIGH:
            while c.unsent > _LOW and not c.closed:
                await c.changed()
            if c.error is not None:
                raise c.error

    async def send_buffer(self, buffer: SendBuffer, length: int | None = None) -> None:
        """Send the first `length` bytes of `buffer` without a copy, after all written before.

        Returns when more may be sent, as `drain` does. The buffer is the stream's from now on.
        """
        length = len(buffer) if length is None else length
        if buffer._sent or buffer._runtime is not self._c.runtime:
            raise ValueError("the buffer was sent or given back, or is of another runtime")
        if not 0 < length <= len(buffer):
            raise ValueError(f"length is {length}; 1 to {len(buffer)} bytes are in the buffer")
        buffer._sent = True
        self._c.queue(buffer, length)
        await self.drain()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """No more is written: FIN after the last byte. Reading goes on."""
        self._c.end()

    def close(self) -> None:
        """Close both directions; what was written is still delivered. Where data that came is left
        unread, or more comes, the peer is told by RST that it is lost."""
        self._c.close()

    def is_closing(self) -> bool:
        return self._c.closed or self._c.end_wanted

    async def wait_closed(self) -> None:
        """Wait until all that was written is acknowledged, or the connection is over.

        Raises what broke the connection. A peer that takes no more is waited for as long as TCP
        itself does.
        """
        c = self._c
        while not c.closed and (c.unsent or not c.ended):
            await c.changed()
        if c.error is not None:
            raise c.error

    def abort(self) -> None:
        """Reset the connection at once."""
        self._c.abort()

    def get_extra_info(self, name: str, default=None):
        """`peername` or `sockname`: (address, port); `socket`: options of the connection;
        `problem`: why the peer does not answer at present, as an exception, or None."""
        found = {"peername": self._c.peer, "sockname": self._c.local, "socket": self._c.options,
                 "problem": self._c.problem}  # fmt: skip
        return found.get(name, default)
