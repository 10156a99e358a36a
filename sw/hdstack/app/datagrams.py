"""A UDP socket as the application keeps it: what came, what is on its way, and what went wrong."""

import asyncio
import errno
import ipaddress
from collections import deque

import numpy as np

from ..errors import ServiceError
from ..tcp.events import SUM_GIVEN, CloseReason, EventKind, Family, RequestKind
from ..udp.tables import IPV4_MOST, IPV6_MOST
from .buffers import SendBuffer, View
from .connection import address_fields, address_text, failure

__all__ = ["DatagramSocket", "bind", "datagram_failure"]

_SENDS_MAX = 64
"""Datagrams of a socket that may be on their way; more wait in `send_buffer`."""
_HEADERS = {4: 28, 6: 48}


def datagram_failure(reason: int, what: str) -> OSError:
    """The exception for what became of a datagram, in the terms of the operating system."""
    if reason == CloseReason.UNREACHABLE:
        return OSError(errno.EHOSTUNREACH, f"{what}: no route, or no neighbour answers on the way")
    if reason == CloseReason.TOO_LARGE:
        return OSError(errno.EMSGSIZE, f"{what}: a datagram is larger than the path takes")
    if reason == CloseReason.NOT_LOCAL:
        return OSError(errno.EADDRNOTAVAIL, f"{what} failed: the stack does not have this address")
    return failure(reason, what)


def _port(port: int, least: int, name: str) -> int:
    if not least <= port < 65536:
        raise ValueError(f"the port of {name} is {port}; {least} to 65535 are allowed")
    return port


def _remote_fields(address) -> dict[str, int]:
    """(host, port) as the fields of PEER and TO."""
    fields = address_fields(address[0]) | {"port": _port(address[1], 1, "the peer")}
    if "connection" in fields:
        fields["offset"] = fields.pop("connection")
    return fields


def _local_fields(address, remote) -> dict[str, int]:
    """(host, port) as the fields of BIND; no host: all addresses, of both families."""
    host, port = address[:2] if address else (None, 0)
    port = _port(port, 0, "local_addr")
    if not host and not address and remote:
        host = "::" if ipaddress.ip_address(remote[0]).version == 6 else "0.0.0.0"
    if not host:
        return {"port": port, "region": Family.BOTH}
    return address_fields(host) | {"port": port}


def _sum(data: memoryview) -> int:
    """The one's complement sum of bytes (RFC 1071), as SEND_TO takes it."""
    even = len(data) & ~1
    total = int(np.frombuffer(data[:even], ">u2").sum(dtype=np.uint64))
    if len(data) > even:
        total += data[even] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return SUM_GIVEN | total


class DatagramSocket:
    """A bound UDP socket; from `Runtime.bind_datagram`. Addresses are (host, port).

    `address` is our end, `peer` the fixed other end or None. Errors that ICMP or the stack tell of
    datagrams sent before are raised by the next call, as sockets do.
    """

    def __init__(self, runtime, peer=None, fragment: bool = True):
        self.runtime, self.peer, self.fragment = runtime, peer, fragment
        self.number = self.socket = -1
        self.address = ("", 0)
        self.closing = self.closed = False
        self.arrived: deque[tuple[list[View], tuple]] = deque()
        self.on_datagram = self.on_error = self.on_room = self.on_closed = None
        self._coming: tuple[list[View], tuple, int] | None = None
        self._out: dict[int, tuple[SendBuffer | None, int, tuple | None, bool]] = {}
        self._cookie = 0
        self._to = peer
        self._error: Exception | None = None
        self._given_back = self._posted = 0
        self._changed: set[asyncio.Future] = set()

    def __str__(self):
        return f"UDP socket {self.address[0]}:{self.address[1]}"

    def getsockname(self) -> tuple:
        """Our address and port; no host where it is bound to all."""
        return self.address

    def getpeername(self) -> tuple:
        """The fixed peer; OSError (ENOTCONN) without one."""
        if self.peer is None:
            raise OSError(errno.ENOTCONN, f"{self} has no fixed peer")
        return self.peer

    # -- waiting -----------------------------------------------------------------------------

    async def _change(self):
        future = self.runtime.loop.create_future()
        self._changed.add(future)
        try:
            await future
        finally:
            self._changed.discard(future)

    def _tell(self):
        for future in self._changed:
            if not future.done():
                future.set_result(None)

    def _check(self):
        """Raise what went wrong since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self.closing:
            raise OSError(errno.EBADF, f"{self} is closed")

    def _fail(self, error: Exception):
        if self.on_error is not None:
            self.on_error(error)
        else:
            self._error = error
            self._tell()

    # -- receiving ---------------------------------------------------------------------------

    async def recv_views(self) -> tuple[list[View], tuple]:
        """The next datagram, without a copy: (views, source address).

        The views, one after the other, are the datagram; none where it has no bytes. Release each:
        a socket that holds too many gets no more, and what comes meanwhile is dropped.
        """
        while not self.arrived:
            self._check()
            await self._change()
        return self.take()

    async def recv(self) -> tuple[bytes, tuple]:
        """The next datagram, copied: (bytes, source address)."""
        return self.copy(*await self.recv_views())

    def take(self) -> tuple[list[View], tuple]:
        """The oldest datagram that has come."""
        views, address = self.arrived.popleft()
        if not views:
            self._account(0)
        return views, address

    def copy(self, views: list[View], address: tuple) -> tuple[bytes, tuple]:
        """Bytes of a datagram, counted as copied; its views are released."""
        data = b"".join(view.data for view in views)
        self.runtime.copied_bytes += len(data)
        for view in views:
            view.release()
        return data, address

    def released(self, start: int, length: int) -> None:
        """A view is used no more; called by it."""
        self.runtime.pool.release(start)
        self._account(1)

    def _account(self, buffers: int):
        self._given_back += 1
        self._posted += buffers
        self.runtime.account_soon(self)

    def account(self) -> None:
        """Tell the stack what was given back since the last time."""
        if self._given_back and not self.closing:
            self.runtime.ask(
                RequestKind.TAKEN, connection=self.number, length=self._given_back,
                offset=self._posted,
            )  # fmt: skip
        self._given_back = self._posted = 0

    # -- sending -----------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether one more datagram may be on its way."""
        return len(self._out) < _SENDS_MAX and self.runtime.datagrams < self.runtime.datagrams_max

    async def send_buffer(self, buffer: SendBuffer, length: int | None = None, address=None):
        """Send the first `length` bytes of `buffer` as one datagram, without a copy.

        `address`: where to; not needed with a fixed peer. Waits while too many are on their way.
        The buffer is the socket's from now on. What is larger than the path takes leaves in
        fragments, or, without `fragment`, raises OSError (EMSGSIZE).
        """
        length = len(buffer) if length is None else length
        if buffer._sent or buffer._runtime is not self.runtime:
            raise ValueError("the buffer was sent or given back, or is of another runtime")
        if not 0 <= length <= len(buffer):
            raise ValueError(f"length is {length}; 0 to {len(buffer)} bytes are in the buffer")
        self.check_send(length, address)
        self._check()
        while not self.has_room:
            await self._change()
            self._check()
        self.post(buffer, length, address)

    async def sendto(self, data, address=None) -> None:
        """Send a copy of `data` as one datagram; as `send_buffer` otherwise."""
        data = memoryview(data).cast("B")
        self.check_send(len(data), address)
        self._check()
        buffer = await self.runtime.buffer(max(len(data), 1))
        try:
            self.fill(buffer, data)
            await self.send_buffer(buffer, len(data), address)
        except BaseException:
            buffer.release()
            raise

    def fill(self, buffer: SendBuffer, data) -> None:
        """Copy into a send buffer, and count it."""
        buffer.data[: len(data)] = data
        self.runtime.copied_bytes += len(data)

    def check_send(self, length: int, address) -> None:
        """Raise what is wrong with a datagram of `length` bytes to `address`, before it is sent."""
        if address is None and self.peer is None:
            raise OSError(errno.EDESTADDRREQ, f"{self} has no fixed peer: an address is needed")
        if self.peer is not None and address is not None and tuple(address[:2]) != self.peer:
            raise ValueError(f"{self} talks to {self.peer} only; the address is {address}")
        version = ipaddress.ip_address((address or self.peer)[0]).version
        _port((address or self.peer)[1], 1, "the peer")
        most = IPV4_MOST if version == 4 else IPV6_MOST
        if not self.fragment:
            most = min(most, self.runtime.mtu - _HEADERS[version])
        if length > most:
            raise OSError(
                errno.EMSGSIZE, f"{self}: {length} bytes in one datagram; {most} at most fit"
            )

    def post(self, buffer: SendBuffer | None, length: int, address) -> None:
        """Hand a datagram over; there is room (`has_room`), and `check_send` was content."""
        if buffer is not None:
            buffer._sent = True
        where = self.peer if address is None else tuple(address[:2])
        version = ipaddress.ip_address(where[0]).version
        self._ask(buffer, length, where, length > self.runtime.mtu - _HEADERS[version])

    def _ask(self, buffer, length, where, cut):
        self._cookie = (self._cookie + 1) & 0xFFFFFFFF
        self._out[self._cookie] = buffer, length, where, cut
        self.runtime.datagrams += 1
        if where != self._to:
            self.runtime.ask(RequestKind.TO, connection=self.number, **_remote_fields(where))
            self._to = where
        pool = self.runtime.pool
        self.runtime.ask(
            RequestKind.SEND_TO, connection=self.number, socket=self._cookie, length=length,
            region=pool.region, generation=pool.generation,
            offset=buffer._start if buffer is not None else 0,
            spare=_sum(buffer.data[:length]) if cut else 0,
        )  # fmt: skip

    # -- what the stack tells ----------------------------------------------------------------

    def on_bound(self, number: int, socket: int, host: str, port: int) -> None:
        """The stack has opened it, or fixed its peer."""
        self.number, self.socket = number, socket
        self.address = "" if host in ("0.0.0.0", "::") else host, port

    def on_event(self, kind, socket, address, port, region, reason, offset, length, spare) -> None:
        """Take one event about this socket."""
        if kind == EventKind.DATAGRAM:
            source = address_text(address, region, offset, length, spare), port
            self._coming = [], source, reason
            self._complete()
        elif kind == EventKind.PIECE:
            if self._coming is None:
                raise ServiceError("the stack delivered a part of no datagram")
            pool = self.runtime.pool
            pool.take(region, offset, length)
            data = pool.view[offset : offset + length].toreadonly()
            self._coming[0].append(View(self, offset, data))
            self._complete()
        elif kind == EventKind.SENT:
            self._on_sent(socket, reason)
        elif kind == EventKind.SOCKET_ERROR:
            self._fail(
                datagram_failure(reason, f"{self}: a datagram to {self.peer[0]}:{self.peer[1]}")
            )
        elif kind == EventKind.UNBOUND:
            self.gone(None)

    def _complete(self):
        views, source, pieces = self._coming
        if len(views) < pieces:
            return
        self._coming = None
        self.arrived.append((views, source))
        if self.closing:
            self._discard()
        elif self.on_datagram is not None:
            self.on_datagram()
        else:
            self._tell()

    def _on_sent(self, cookie, reason):
        if cookie not in self._out:
            raise ServiceError("the stack tells of a datagram that was never sent")
        buffer, length, where, cut = self._out.pop(cookie)
        self.runtime.datagrams -= 1
        if reason == CloseReason.TOO_LARGE and self.fragment and not cut and not self.closing:
            self._ask(buffer, length, where, True)  # the path takes less than the link
            return
        if buffer is not None:
            buffer.done()
        if reason != CloseReason.NORMAL:
            self._fail(datagram_failure(reason, f"{self}: a datagram to {where[0]}:{where[1]}"))
        self.runtime.datagram_room_came()

    def room_came(self) -> None:
        """One more datagram may be on its way."""
        self._tell()
        if self.on_room is not None:
            self.on_room()

    # -- the end -----------------------------------------------------------------------------

    def _discard(self):
        while self.arrived:
            for view in self.arrived.popleft()[0]:
                view.release()

    def close(self) -> None:
        """Give the port back. What was handed over still leaves; views that are held stay good."""
        if self.closing:
            return
        self.account()
        self.closing = True
        self._discard()
        if not self.closed:
            self.runtime.ask(RequestKind.UNBIND, connection=self.number)
        self._tell()

    async def wait_closed(self) -> None:
        """Wait until the port is free and every buffer that was sent is back."""
        while not self.closed:
            await self._change()

    def gone(self, error: Exception | None) -> None:
        """The stack has closed the socket, or is gone itself (`error`)."""
        self.closing = self.closed = True
        self.runtime.datagrams -= len(self._out)
        for buffer, *_ in self._out.values():
            if buffer is not None:
                buffer.done()
        self._out.clear()
        self._error = error
        self._discard()
        self._tell()
        if self.on_closed is not None:
            self.on_closed(error)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()


async def bind(runtime, local_addr, remote_addr, fragment: bool) -> DatagramSocket:
    """Open a socket; see `Runtime.bind_datagram`."""
    peer = tuple(remote_addr[:2]) if remote_addr is not None else None
    remote = _remote_fields(peer) if peer else None
    fields = _local_fields(local_addr, peer)
    bound = DatagramSocket(runtime, peer, fragment)
    what = f"binding UDP port {fields['port'] or '(any)'}"
    await runtime.request(RequestKind.BIND, what, bound, offset=int(peer is not None), **fields)
    if peer:
        try:
            await runtime.request(
                RequestKind.PEER, f"{bound}: peer {peer[0]}:{peer[1]}", bound,
                socket=bound.socket, connection=bound.number, **remote,
            )  # fmt: skip
        except BaseException:
            bound.close()
            raise
    return bound
