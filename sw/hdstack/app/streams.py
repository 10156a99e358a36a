"""Streams in the manner of asyncio, and the zero-copy calls beneath them.

`read`, `readuntil` and the like, and `write`, copy each byte once between the pool and the
caller's bytes, and count it in `Runtime.copied_bytes`. `read_views` and `send_buffer` copy
nothing: a `View` is a piece of the pool that the card filled, a `SendBuffer` a piece that the card
will read.
"""

import asyncio
import socket
from collections import deque
from contextlib import suppress

from ..errors import HdstackError
from ..tcp.events import CloseReason, RequestKind

__all__ = ["NoResources", "SendBuffer", "StreamReader", "StreamWriter", "View", "failure"]

_CHUNK = 64 * 1024
"""Largest send buffer that `write` fills at a time."""
_HIGH, _LOW = 512 * 1024, 256 * 1024
"""Unacknowledged bytes of a connection at which `drain` begins and ends to wait."""
_LINGER_SECONDS = 10.0
"""How long a closed connection waits for the peer's end before it is reset."""


class NoResources(HdstackError, OSError):
    """The stack has no room: connections, steering rules, or requests under way."""


def failure(reason: int, what: str) -> Exception:
    """The exception for a CloseReason, in the terms of the operating system."""
    text, kind = {
        CloseReason.NORMAL: ("is closed", ConnectionResetError),
        CloseReason.REFUSED: ("was refused by the peer", ConnectionRefusedError),
        CloseReason.RESET: ("was reset by the peer", ConnectionResetError),
        CloseReason.TIMED_OUT: ("timed out: the peer does not answer", TimeoutError),
        CloseReason.ABORTED: ("was aborted", ConnectionAbortedError),
        CloseReason.ADDRESS_IN_USE: ("failed: the port is in use", OSError),
        CloseReason.NO_RESOURCES: ("failed: the stack has no room for it", NoResources),
        CloseReason.INVALID_REQUEST: ("failed: the stack refused the request", ConnectionError),
        CloseReason.STACK_GONE: ("is lost: the stack or the device ended", ConnectionResetError),
        CloseReason.UNREACHABLE: ("failed: no neighbour answers on the way", ConnectionError),
    }.get(reason, (f"ended with the unknown reason {reason}", ConnectionError))
    return kind(f"{what} {text}")


class View:
    """A received piece of payload, in the pool itself: `data` is a read-only memoryview.

    Its buffer stays with the application until every view of it is released: by `release`, at the
    end of `with`, or when the view is forgotten. `data` cannot be used afterwards.
    """

    __slots__ = ("_connection", "_length", "_start", "data")

    def __init__(self, connection, start: int, data: memoryview):
        self._connection, self._start, self._length = connection, start, len(data)
        self.data = data

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def release(self) -> None:
        """Give the buffer back. Raises BufferError while a part of `data` is exported elsewhere."""
        if self._connection is None:
            return
        self.data.release()
        connection, self._connection = self._connection, None
        connection.released(self._start, self._length)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def __del__(self):
        with suppress(Exception):
            self.release()


class SendBuffer:
    """A piece of the pool to be filled and sent: `data` is a writable memoryview of it.

    It goes back to the pool by itself once its bytes are acknowledged and free of DMA; until then
    a change of `data` may still reach the peer. `release` gives back one that is never sent.
    """

    __slots__ = ("_runtime", "_sent", "_size", "_start", "data")

    def __init__(self, runtime, start: int, size: int):
        self._runtime, self._start, self._size = runtime, start, size
        self._sent = False
        self.data = runtime.pool.view[start : start + size]

    def __len__(self) -> int:
        return self._size

    def release(self) -> None:
        """Give it back unsent; nothing happens where it was sent or given back."""
        if not self._sent:
            self.done()

    def done(self) -> None:
        """Give it back to the pool, once."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            self._sent = True
            runtime.free(self._start, self._size)

    def __del__(self):
        with suppress(Exception):
            self.release()


class Connection:
    """One connection: what came and was not yet read, what is to go and was not yet released."""

    def __init__(self, runtime, number: int, local: tuple, peer: tuple):
        self.runtime, self.number, self.local, self.peer = runtime, number, local, peer
        self.arrived: deque[View] = deque()
        self.finished = False
        self.closed = False
        self.error: Exception | None = None
        self.consumed = 0
        self.discarding = False
        self.backlog: deque = deque()
        self.backlog_bytes = 0
        self.sent: deque[tuple[SendBuffer, int]] = deque()
        self.unacknowledged = 0
        self.end_wanted = self.ended = False
        self._changed: set[asyncio.Future] = set()
        self._linger = None
        self.reader, self.writer = StreamReader(self), StreamWriter(self)

    def __str__(self):
        return f"connection with {self.peer[0]}:{self.peer[1]}"

    # -- waiting -----------------------------------------------------------------------------

    async def changed(self) -> None:
        """Wait for the next thing to happen to this connection."""
        future = self.runtime.loop.create_future()
        self._changed.add(future)
        try:
            await future
        finally:
            self._changed.discard(future)

    def tell(self) -> None:
        for future in self._changed:
            if not future.done():
                future.set_result(None)

    # -- what the stack tells ----------------------------------------------------------------

    def on_readable(self, region: int, offset: int, length: int) -> None:
        pool = self.runtime.pool
        pool.take(region, offset, length)
        view = View(self, offset, pool.view[offset : offset + length].toreadonly())
        if self.discarding:
            view.release()
        else:
            self.arrived.append(view)
            self.tell()

    def on_finished(self) -> None:
        self.finished = True
        self.tell()

    def on_released(self) -> None:
        if self.sent:
            buffer, length = self.sent.popleft()
            self.unacknowledged -= length
            self.runtime.sends -= 1
            buffer.done()
            self.tell()

    def on_closed(self, reason: int) -> None:
        if self.closed:
            return
        self.closed = True
        if reason != CloseReason.NORMAL:
            self.error = failure(reason, str(self))
        while self.sent:
            self.on_released()
        self._drop_backlog()
        self.finished = True
        if self._linger:
            self._linger.cancel()
        self.tell()

    def _drop_backlog(self):
        for piece, _ in self.backlog:
            if isinstance(piece, SendBuffer):
                piece.done()
        self.backlog.clear()
        self.backlog_bytes = 0

    # -- receiving ---------------------------------------------------------------------------

    def released(self, start: int, length: int) -> None:
        """A view of `length` bytes at `start` of the pool is used no more."""
        self.runtime.released(self, start, length)

    def take_first(self, limit: int) -> View:
        """The first arrived view, or its first `limit` bytes; the rest stays."""
        view = self.arrived[0]
        if len(view) <= limit:
            return self.arrived.popleft()
        head, rest = view.data[:limit], view.data[limit:]
        self.runtime.pool.share(view._start)
        self.arrived[0] = View(self, view._start + limit, rest)
        first = View(self, view._start, head)
        view._connection = None  # its two halves stand for it
        view.data.release()
        return first

    def discard(self) -> None:
        """Nobody reads any more: whatever comes is given back at once."""
        self.discarding = True
        while self.arrived:
            self.arrived.popleft().release()

    # -- sending -----------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        return self.backlog_bytes + self.unacknowledged

    def queue(self, piece, length: int) -> None:
        """Append bytes, or a filled SendBuffer, to the stream."""
        if self.closed or self.end_wanted:
            if isinstance(piece, SendBuffer):
                piece.done()
            if self.error is not None:
                raise self.error
            raise ConnectionResetError(f"{self}: the sending side is closed")
        self.backlog.append((piece, length))
        self.backlog_bytes += length
        self.push()

    def push(self) -> None:
        """Hand over to the stack what has room."""
        runtime = self.runtime
        while self.backlog and not self.closed:
            if runtime.sends >= runtime.sends_max:
                runtime.wait_for_room(self)
                return
            piece, length = self.backlog[0]
            if isinstance(piece, SendBuffer):
                self.backlog.popleft()
                buffer = piece
            else:
                buffer, length = self._fill()
                if buffer is None:
                    runtime.wait_for_room(self)
                    return
            self.backlog_bytes -= length
            self.sent.append((buffer, length))
            self.unacknowledged += length
            runtime.sends += 1
            runtime.ask(
                RequestKind.SEND, connection=self.number, region=runtime.pool.region,
                generation=runtime.pool.generation, offset=buffer._start, length=length,
            )  # fmt: skip
        if self.end_wanted and not self.ended and not self.closed:
            self.ended = True
            runtime.ask(RequestKind.SHUTDOWN, connection=self.number)

    def _fill(self):
        """Copy the pieces of bytes at the head of the backlog into one send buffer."""
        wanted = 0
        for piece, length in self.backlog:
            if isinstance(piece, SendBuffer) or wanted >= _CHUNK:
                break
            wanted += length
        wanted = min(wanted, _CHUNK)
        buffer = self.runtime.allocate(wanted)
        while buffer is None and wanted > 4096:
            wanted //= 2
            buffer = self.runtime.allocate(wanted)
        if buffer is None:
            return None, 0
        at = 0
        while at < wanted:
            piece, length = self.backlog.popleft()
            take = min(length, wanted - at)
            buffer.data[at : at + take] = piece[:take]
            at += take
            if take < length:
                self.backlog.appendleft((piece[take:], length - take))
        self.runtime.copied_bytes += wanted
        return buffer, wanted

    def end(self) -> None:
        """Send FIN after the last byte."""
        if not self.end_wanted:
            self.end_wanted = True
            self.push()

    def close(self) -> None:
        """Both directions: what is queued is still sent, what comes is given back."""
        self.end()
        self.discard()
        if not self.closed and self._linger is None:
            self._linger = self.runtime.loop.call_later(_LINGER_SECONDS, self.linger_over)

    def linger_over(self) -> None:
        """The peer did not end its side in time: reset, unless bytes are still on their way."""
        if self.closed:
            return
        if self.unsent:
            self._linger = self.runtime.loop.call_later(_LINGER_SECONDS, self.linger_over)
        else:
            self.abort()

    def abort(self) -> None:
        """Reset the connection; everything not yet acknowledged is lost."""
        self.discard()
        self.end_wanted = self.ended = True
        self._drop_backlog()
        if not self.closed:
            self.runtime.ask(RequestKind.ABORT, connection=self.number)

    def abort_quietly(self) -> None:
        """`abort`, where the stack may be gone already."""
        with suppress(HdstackError):
            self.abort()


class StreamReader:
    """Reads a connection; the methods of `asyncio.StreamReader`, and `read_views`."""

    def __init__(self, connection: Connection):
        self._c = connection
        self._held = bytearray()  # bytes that an unfinished readuntil has copied

    def at_eof(self) -> bool:
        """Whether everything was read and the peer has ended its side."""
        return self._c.finished and not self._c.arrived and not self._held

    def exception(self) -> Exception | None:
        """Why the connection broke, if it did."""
        return self._c.error

    async def _wait(self) -> bool:
        """Wait for payload; False at the end. Raises what broke the connection."""
        c = self._c
        while not c.arrived:
            if c.error is not None:
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


def _held_view(data: bytes) -> View:
    """A view of bytes that were copied before: there is no buffer to give back."""
    return View(None, 0, memoryview(data))


class StreamWriter:
    """Writes a connection; the methods of `asyncio.StreamWriter`, and `send_buffer`."""

    def __init__(self, connection: Connection):
        self._c = connection

    def write(self, data) -> None:
        """Append `data` to the stream; copied into the pool, now or when there is room."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if data:
            self._c.queue(memoryview(data), len(data))

    def writelines(self, pieces) -> None:
        """`write` each of `pieces`."""
        self.write(b"".join(pieces))

    async def drain(self) -> None:
        """Wait until the peer has acknowledged enough that more may be written.

        Raises what broke the connection.
        """
        c = self._c
        if c.error is not None:
            raise c.error
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
        """Close both directions; what was written is still delivered."""
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
        """`peername` or `sockname`: (address, port)."""
        return {"peername": self._c.peer, "sockname": self._c.local}.get(name, default)


def ipv4(text: str) -> int:
    """An IPv4 address in text, as an integer in host byte order."""
    try:
        return int.from_bytes(socket.inet_aton(text), "big")
    except OSError:
        raise OSError(f"{text!r} is not an IPv4 address such as 10.77.0.1") from None
