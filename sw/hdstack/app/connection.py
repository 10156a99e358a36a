"""One connection as the application keeps it: what came, what is to go, and how it ended."""

import asyncio
import ipaddress
import struct
from collections import deque
from contextlib import suppress

from ..errors import HdstackError
from ..tcp.events import IPV6, NO_LINGER, CloseFlag, CloseReason, RequestKind
from .buffers import SendBuffer, View
from .socket_options import SocketOptions
from .streams import StreamReader, StreamWriter

__all__ = ["Connection", "NoResources", "address_fields", "address_text", "failure"]

_CHUNK = 64 * 1024
"""Largest send buffer that `write` fills at a time."""


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
        CloseReason.UNSUPPORTED: ("failed: the stack does not have this", OSError),
        CloseReason.UNREACHABLE: ("failed: no neighbour answers on the way", ConnectionError),
    }.get(reason, (f"ended with the unknown reason {reason}", ConnectionError))
    return kind(f"{what} {text}")


class Connection:
    """One connection: what came and was not yet read, what is to go and was not yet released."""

    def __init__(self, runtime, number: int, local: tuple, peer: tuple):
        self.runtime, self.number, self.local, self.peer = runtime, number, local, peer
        self.arrived: deque[View] = deque()
        self.arrived_bytes = self.urgent_mark = self.urgent_told = 0
        """Of the stream: how many came, before which one the last urgent data ends, and how often
        that was told."""
        self.finished = self.ended_by_peer = False
        self.closed = False
        self.error: Exception | None = None
        self.problem: Exception | None = None
        """Why the peer does not answer at present; the connection goes on."""
        self.consumed = 0
        self.discarding = False
        self.backlog: deque = deque()
        self.backlog_bytes = 0
        self.sent: deque[tuple[SendBuffer, int]] = deque()
        self.unacknowledged = 0
        self.end_wanted = self.ended = False
        self.close_wanted = self.close_asked = False
        self.unread = False
        self._linger_end: float | None = None
        self._changed: set[asyncio.Future] = set()
        self.options = SocketOptions(self)
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
        self.arrived_bytes += length
        if self.discarding:
            view.release()
            self._left_unread()
        else:
            self.arrived.append(view)
            self.tell()

    def on_finished(self) -> None:
        self.ended_by_peer = True
        self._no_more_comes()
        self.tell()

    def _no_more_comes(self):
        self.finished = True
        self.urgent_mark = min(self.urgent_mark, self.arrived_bytes)

    def on_urgent(self, ahead: int) -> None:
        self.urgent_mark = self.arrived_bytes + ahead
        self.urgent_told += 1
        self.tell()

    def on_problem(self, reason: int) -> None:
        self.problem = failure(reason, str(self))
        self.tell()

    def on_released(self) -> None:
        self.problem = None
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
        self._no_more_comes()
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

    def account(self) -> None:
        """Tell the stack what was read since the last time."""
        if not self.closed:
            self.runtime.ask(RequestKind.CONSUMED, connection=self.number, length=self.consumed)
        self.consumed = 0

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

    def queue(self, piece, length: int, urgent: bool = False) -> None:
        """Append bytes, or a filled SendBuffer, to the stream; it may be urgent up to their end."""
        if self.closed or self.end_wanted:
            if isinstance(piece, SendBuffer):
                piece.done()
            if self.error is not None:
                raise self.error
            raise ConnectionResetError(f"{self}: the sending side is closed")
        self.backlog.append((piece, length))
        self.backlog_bytes += length
        if urgent:
            self.runtime.ask(RequestKind.URGENT, connection=self.number, length=self.backlog_bytes)
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
        if self.closed:
            return
        if self.close_wanted and not self.close_asked:
            self.ended = self.close_asked = True
            self._ask_close()
        elif self.end_wanted and not self.ended:
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
        """Both directions: FIN after what is queued; what comes, and what is left unread, is given
        back, and the peer told by RST that it is lost (RFC 9293 section 3.6.1). How long the peer
        may take to acknowledge is SO_LINGER's; the stack keeps that time."""
        if self.closed or self.close_wanted:
            return
        seconds = self.options.linger_seconds
        if seconds == 0:
            self.abort()
            return
        self.end_wanted = self.close_wanted = True
        self.unread = bool(self.arrived or self.reader.held_bytes)
        self.discard()
        if seconds is not None:
            self._linger_end = self.runtime.loop.time() + seconds
        self.push()
        if seconds is not None and not self.close_asked:
            self.runtime.loop.call_later(seconds, self._linger_over)

    def _ask_close(self):
        length = NO_LINGER
        if self._linger_end is not None:
            length = max(1, round(1000 * (self._linger_end - self.runtime.loop.time())))
        self.runtime.ask(
            RequestKind.CLOSE, connection=self.number, length=length,
            offset=CloseFlag.UNREAD if self.unread else 0,
        )  # fmt: skip

    def _left_unread(self):
        """Data came between the program's close and the stack's knowledge of it."""
        if self.close_wanted and not self.unread and not self.closed:
            self.unread = True
            if self.close_asked:
                self._ask_close()

    def _linger_over(self):
        """The time to linger is over while bytes still wait for room."""
        if not self.closed and not self.close_asked:
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


def address_fields(text: str) -> dict[str, int]:
    """An address in text, as the fields of a CONNECT request (`events.IPV6`)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise OSError(f"{text!r} is no address such as 10.77.0.1 or fd00:77::1") from None
    if address.version == 4:
        return {"address": int(address)}
    first, second, third, last = struct.unpack(">4I", address.packed)
    return {"region": IPV6, "address": last, "connection": third, "length": second, "spare": first}


def address_text(address: int, region: int, offset: int, length: int, spare: int) -> str:
    """The address in an event, as text."""
    if region != IPV6:
        return str(ipaddress.IPv4Address(address))
    return str(ipaddress.IPv6Address(struct.pack(">4I", spare, length, offset, address)))
