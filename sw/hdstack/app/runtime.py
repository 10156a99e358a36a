"""The runtime of an application: its pool, its channel, its listeners and connections.

One runtime belongs to one asyncio loop. Its file descriptors are readers of the loop; requests and
posts gather during a turn of the loop and leave together at its end.
"""

import asyncio
import errno
import inspect
from collections import deque
from contextlib import suppress

from .. import atomic, memory
from ..errors import ServiceError
from ..run_directory import default_run_directory
from ..tcp.events import CloseReason, EventKind, OpenFlag, RequestKind
from .buffers import SendBuffer
from .channel import Channel
from .connection import Connection, address_fields, address_text, failure
from .datagrams import DatagramSocket, bind, datagram_failure
from .pool import ELEMENT_BYTES, POOL_BYTES, DeviceLink, Pool
from .transport import DatagramTransport

__all__ = ["Runtime", "Server", "connect"]

_SENDS_MAX = 1000
"""Sends of an application that may be unacknowledged (the stack allows 1024)."""
_DATAGRAMS_MAX = 250
"""Datagrams of an application that may be on their way (the stack allows 256)."""
_CLOSE_SECONDS = 5.0
_BATCHES = 4

_CLOSED = "the runtime was closed"


class Server:
    """A listener; the methods of `asyncio.Server`."""

    def __init__(self, runtime, port: int, handler):
        self._runtime, self.port, self.handler = runtime, port, handler
        self.number = -1
        self.tasks: set[asyncio.Task] = set()
        self._closed = asyncio.Event()

    def is_serving(self) -> bool:
        return not self._closed.is_set()

    def close(self) -> None:
        """Accept no more; connections that were accepted go on."""
        if not self._closed.is_set():
            self._closed.set()
            self._runtime.unlisten(self)

    async def wait_closed(self) -> None:
        """Wait until `close` was called."""
        await self._closed.wait()

    async def serve_forever(self) -> None:
        """Serve until cancelled, or until `close`; then the listener is closed.

        Raises ServiceError when the stack or the device ends.
        """
        try:
            await self._closed.wait()
        finally:
            self.close()
        if self._runtime.lost:
            raise ServiceError(self._runtime.lost)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.close()


class Runtime:
    """What `hdstack.connect` returns. Use `async with`, or `close` it.

    `copied_bytes` counts the payload bytes that this process copied by its CPU.
    """

    def __init__(self, link: DeviceLink, pool: Pool, channel: Channel):
        self.loop = asyncio.get_running_loop()
        self._link, self.pool, self._channel = link, pool, channel
        self.copied_bytes = 0
        self.sends, self.sends_max = 0, _SENDS_MAX
        self.datagrams, self.datagrams_max = 0, _DATAGRAMS_MAX
        self.mtu = int(channel.hello["mtu"])
        self.address, self.queue = str(channel.hello["address"]), link.queue
        self._connections: dict[int, Connection] = {}
        self._listeners: dict[int, Server] = {}
        self._sockets: dict[int, DatagramSocket] = {}
        self._pending: dict[int, tuple[str, asyncio.Future, object]] = {}
        self._free_sockets: deque[int] = deque(range(1024))
        self._room: deque = deque()
        self._dirty: set[Connection | DatagramSocket] = set()
        self._flushing = False
        self._gone: str | None = None
        self._ending = asyncio.Event()
        self.loop.add_reader(channel.wake, self._on_wake)
        self.loop.add_reader(channel.control, self._on_control)
        self.loop.add_reader(link.control, self._on_device)
        self.loop.call_soon(self._on_wake)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    @property
    def send_bytes_max(self) -> int:
        """Largest buffer that `buffer` can give."""
        return self.pool.send_bytes_max

    @property
    def lost(self) -> str | None:
        """Why stack or device are gone, in a sentence; None while they are there."""
        return None if self._gone == _CLOSED else self._gone

    async def until_lost(self) -> str | None:
        """Wait until stack or device are gone; why. None once the runtime was closed."""
        await self._ending.wait()
        return self.lost

    def maps(self) -> list[memory.MapEntry]:
        """The shared memories that this process has mapped."""
        return memory.own_maps()

    # -- listeners and connections -----------------------------------------------------------

    def _alive(self):
        if self._gone:
            raise ServiceError(self._gone)

    async def request(self, kind, what: str, context, socket: int | None = None, **fields):
        """Ask for something that is answered; `socket`: the number of one that is there already."""
        self._alive()
        if socket is None and not self._free_sockets:
            raise failure(CloseReason.NO_RESOURCES, what)
        number = self._free_sockets.popleft() if socket is None else socket
        future = self.loop.create_future()
        self._pending[number] = what, future, context
        self.ask(kind, socket=number, **fields)
        return await future

    async def start_server(self, handler, port: int, *, backlog: int = 0) -> Server:
        """Listen on `port` (1 to 65535); `handler(reader, writer)` serves each connection.

        `backlog`: connections that may be half open at a time, 0 for the most.
        A coroutine function runs as a task. Returns when the card steers the port here. Raises
        OSError (EADDRINUSE) where the port is taken.
        """
        if not 0 < port < 65536:
            raise ValueError(f"port is {port}; 1 to 65535 are allowed")
        if not 0 <= backlog < 1 << 16:
            raise ValueError(f"backlog is {backlog}; 0 (the most) to 65535 are allowed")
        server = Server(self, port, handler)
        return await self.request(RequestKind.LISTEN, f"listening on port {port}", server,
                                   port=port, offset=OpenFlag.NODELAY, length=backlog)  # fmt: skip

    async def open_connection(self, host: str, port: int, timeout: float = 30.0):
        """Connect to `host` (an address) and `port`; returns (reader, writer).

        Raises ConnectionRefusedError, TimeoutError (after `timeout` seconds) or another OSError.
        """
        address = address_fields(host)
        if not 0 < port < 65536:
            raise ValueError(f"port is {port}; 1 to 65535 are allowed")
        what = f"connection to {host}:{port}"
        request = self.request(RequestKind.CONNECT, what, (host, port), port=port,
                                offset=OpenFlag.NODELAY, **address)  # fmt: skip
        try:
            connection = await asyncio.wait_for(request, timeout)
        except TimeoutError:
            raise TimeoutError(f"{what} timed out after {timeout} s") from None
        return connection.reader, connection.writer

    async def bind_datagram(self, local_addr=None, remote_addr=None, *,
                            fragment: bool = True) -> DatagramSocket:  # fmt: skip
        """A UDP socket at `local_addr`, (host, port): no host is every address of both families,
        "0.0.0.0" or "::" every one of a family, port 0 one of this application's range.

        With `remote_addr` it talks to that peer only, and hears of its ICMP errors. Without
        `fragment` what is larger than the path takes is refused. Returns when the card steers the
        port here. Raises OSError (EADDRINUSE, EADDRNOTAVAIL, EHOSTUNREACH).
        """
        return await bind(self, local_addr, remote_addr, fragment)

    async def create_datagram_endpoint(self, protocol_factory, local_addr=None,
                                       remote_addr=None):  # fmt: skip
        """As asyncio's: (transport, protocol). Hosts are addresses; there is no name lookup."""
        bound = await bind(self, local_addr, remote_addr, True)
        protocol = protocol_factory()
        transport = DatagramTransport(bound, protocol)
        try:
            await transport.made
        except BaseException:
            transport.abort()
            raise
        return transport, protocol

    def unlisten(self, server: Server) -> None:
        """Stop a listener."""
        for number, known in list(self._listeners.items()):
            if known is server:
                del self._listeners[number]
                self._free_sockets.append(number)
                if not self._gone:
                    self.ask(RequestKind.UNLISTEN, connection=server.number)

    # -- buffers -----------------------------------------------------------------------------

    def allocate(self, size: int) -> SendBuffer | None:
        """A send buffer now, or None."""
        start = self.pool.allocate(size)
        return None if start is None else SendBuffer(self, start, size)

    async def buffer(self, size: int) -> SendBuffer:
        """A buffer of `size` bytes in the pool to fill and send; waits until there is room."""
        if not 0 < size <= self.send_bytes_max:
            raise ValueError(f"size is {size}; 1 to {self.send_bytes_max} bytes are possible")
        while True:
            self._alive()
            buffer = None if self._room else self.allocate(size)
            if buffer is not None:
                return buffer
            future = self.loop.create_future()
            self._room.append(future)
            await future
            buffer = self.allocate(size)
            if buffer is not None:
                self._room_came()
                return buffer

    def free(self, start: int, size: int) -> None:
        """A send buffer is free again: those who wait for room may go on."""
        self.pool.free(start, size)
        self._room_came()

    def wait_for_room(self, waiter: Connection | DatagramTransport) -> None:
        """`waiter.push` is to be called when there is room."""
        if waiter not in self._room:
            self._room.append(waiter)

    def _room_came(self):
        for _ in range(len(self._room)):
            waiter = self._room.popleft()
            if not isinstance(waiter, asyncio.Future):
                self.loop.call_soon(waiter.push)
            elif not waiter.done():
                waiter.set_result(None)
                return

    def datagram_room_came(self):
        """A datagram has left: those that wait for their turn may go on."""
        for bound in list(self._sockets.values()):
            bound.room_came()

    # -- towards the stack and the device ----------------------------------------------------

    def ask(self, kind, **fields) -> None:
        """Queue a request; it leaves at the end of this turn of the loop."""
        self._alive()
        self._channel.ask(kind, **fields)
        self._flush_soon()

    def released(self, connection: Connection, start: int, length: int) -> None:
        """`length` bytes were read; their element is posted again when it has no more users."""
        if self._gone:
            return
        self.pool.release(start)
        if not connection.closed:
            connection.consumed += length
            self._dirty.add(connection)
        self._flush_soon()

    def account_soon(self, bound: DatagramSocket) -> None:
        """`bound.account` is to be called at the end of this turn of the loop."""
        self._dirty.add(bound)
        self._flush_soon()

    def _flush_soon(self):
        if not self._flushing and not self._gone:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self):
        if self._gone:
            return
        self.pool.flush()
        dirty, self._dirty = self._dirty, set()
        for each in dirty:
            each.account()
        self._channel.flush()
        self._flushing = False

    # -- what comes --------------------------------------------------------------------------

    def _on_wake(self):
        if self._gone:
            return
        if not self._channel.awake():
            self._lost("the stack process has ended")
            return
        for _ in range(_BATCHES):
            try:
                for event in self._channel.events():
                    self._dispatch(*event)
            except ServiceError as error:
                self._lost(str(error))
                return
            self._channel.flush()
            if self._channel.may_sleep():
                return
        self.loop.call_soon(self._on_wake)  # let others of this loop have a turn

    def _dispatch(self, kind, port, socket, number, address, region, reason, offset, length, spare):
        connection = self._connections.get(number)
        if kind == EventKind.READABLE:
            if connection is not None:
                connection.on_readable(region, offset, length)
            else:
                self.pool.returned(region, offset)
                self._flush_soon()
        elif kind == EventKind.RELEASED:
            if connection is not None:
                connection.on_released()
        elif kind == EventKind.RETURNED:
            self.pool.returned(region, offset)
            self._flush_soon()
        elif kind == EventKind.FINISHED:
            if connection is not None:
                connection.on_finished()
        elif kind == EventKind.CLOSED:
            if connection is not None:
                del self._connections[number]
                connection.on_closed(reason)
        elif kind == EventKind.OPTION:
            if connection is not None:
                connection.options.on_answer(port, length, reason)
        elif kind == EventKind.PROBLEM:
            if connection is not None:
                connection.on_problem(reason)
        elif kind == EventKind.URGENT:
            if connection is not None:
                connection.on_urgent(length)
        elif kind >= EventKind.BOUND:
            self._on_datagram(
                kind, port, socket, number, address, region, reason, offset, length, spare
            )
        elif kind == EventKind.ACCEPTED:
            peer = address_text(address, region, offset, length, spare), port
            self._accepted(socket, number, peer)
        elif kind in (EventKind.CONNECTED, EventKind.LISTENING, EventKind.FAILED):
            self._answered(kind, socket, number, reason)

    def _answered(self, kind, socket, number, reason):
        if socket not in self._pending:
            return
        what, future, context = self._pending.pop(socket)
        if kind == EventKind.FAILED:
            datagram = isinstance(context, DatagramSocket)
            if not datagram or context.number < 0:
                self._free_sockets.append(socket)
            if not future.done():
                error = datagram_failure(reason, what) if datagram else failure(reason, what)
                if reason == CloseReason.ADDRESS_IN_USE:
                    error = OSError(errno.EADDRINUSE, str(error))
                future.set_exception(error)
        elif kind == EventKind.LISTENING:
            context.number = number
            if future.done():  # nobody waits for it any more
                self._free_sockets.append(socket)
                self.ask(RequestKind.UNLISTEN, connection=number)
            else:
                self._listeners[socket] = context
                future.set_result(context)
        else:
            self._free_sockets.append(socket)
            connection = Connection(self, number, (self.address, 0), context)
            self._connections[number] = connection
            if future.done():
                connection.abort()
            else:
                future.set_result(connection)

    def _on_datagram(self, kind, port, socket, number, address, region, reason, offset, length,
                     spare):  # fmt: skip
        if kind == EventKind.BOUND and socket in self._pending:
            _, future, bound = self._pending.pop(socket)
            host = address_text(address, region, offset, length, spare)
            bound.on_bound(number, socket, host, port)
            self._sockets[number] = bound
            if future.done():  # nobody waits for it any more
                bound.close()
            else:
                future.set_result(bound)
            return
        bound = self._sockets.get(number)
        if bound is None:
            if kind == EventKind.PIECE:
                self.pool.returned(region, offset)
                self._flush_soon()
            return
        if kind == EventKind.UNBOUND:
            del self._sockets[number]
            self._free_sockets.append(bound.socket)
        bound.on_event(kind, socket, address, port, region, reason, offset, length, spare)

    def _accepted(self, socket, number, peer):
        server = self._listeners.get(socket)
        local = (self.address, server.port if server else 0)
        connection = self._connections[number] = Connection(self, number, local, peer)
        if server is None:
            connection.abort()
            return
        result = server.handler(connection.reader, connection.writer)
        if inspect.iscoroutine(result):
            task = self.loop.create_task(self._serve(connection, result))
            server.tasks.add(task)
            task.add_done_callback(server.tasks.discard)

    async def _serve(self, connection, coroutine):
        try:
            await coroutine
        except asyncio.CancelledError:
            connection.abort_quietly()
            raise
        except Exception as error:
            connection.abort_quietly()
            if isinstance(error, ServiceError) and self._gone:
                return  # said to whoever waits for the server, and once
            self.loop.call_exception_handler(
                {"message": f"handler of {connection} failed", "exception": error}
            )

    def _on_control(self):
        """The stack says nothing on this socket unless it dismisses us, or ends."""
        try:
            data = self._channel.control.recv(8192)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        reason = f"the stack dismissed this application: {data.decode(errors='replace')}"
        self._lost(reason if data else "the stack process has ended")

    def _on_device(self):
        try:
            data = self._link.control.recv(8192)
        except (BlockingIOError, TimeoutError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost("the device process has ended")

    def _lost(self, reason: str):
        if self._gone:
            return
        self._gone = reason
        self._ending.set()
        for end in (self._channel.wake, self._channel.control, self._link.control):
            self.loop.remove_reader(end)
        for what, future, _ in self._pending.values():
            if not future.done():
                future.set_exception(failure(CloseReason.STACK_GONE, what))
        self._pending.clear()
        for connection in list(self._connections.values()):
            connection.on_closed(CloseReason.STACK_GONE)
        self._connections.clear()
        for bound in list(self._sockets.values()):
            bound.gone(failure(CloseReason.STACK_GONE, str(bound)))
        self._sockets.clear()
        for server in list(self._listeners.values()):
            server.close()
        for waiter in self._room:
            if isinstance(waiter, asyncio.Future) and not waiter.done():
                waiter.set_exception(ServiceError(reason))
        self._room.clear()

    async def close(self) -> None:
        """Close listeners and connections, leave; at most 5 s for what is still under way."""
        if self._channel is None:
            return
        if not self._gone:
            for server in list(self._listeners.values()):
                server.close()
            for connection in self._connections.values():
                connection.close()
            for bound in self._sockets.values():
                bound.close()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_closed(), _CLOSE_SECONDS)
            for connection in self._connections.values():
                connection.abort()
            self._flush()
        self._lost(_CLOSED)
        self._channel.close()
        self._link.close()
        self.pool.close()
        self._channel = None

    async def _all_closed(self):
        for connection in list(self._connections.values()):
            while not connection.closed:
                await connection.changed()
        for bound in list(self._sockets.values()):
            await bound.wait_closed()


def _establish(run_directory, pool_bytes, element_bytes):
    atomic.warm()
    link = DeviceLink(run_directory)
    pool = None
    try:
        pool = Pool(link, pool_bytes, element_bytes)
        channel = Channel(run_directory, link.token, [pool.region])
    except BaseException:
        if pool is not None:
            pool.close()
        link.close()
        raise
    link.control.setblocking(False)
    return link, pool, channel


async def connect(run_directory=None, *, pool_bytes: int = POOL_BYTES,
                  element_bytes: int = ELEMENT_BYTES, harden: bool = True) -> Runtime:  # fmt: skip
    """Reach the device and the stack of `run_directory`; returns a `Runtime`.

    Parameters
    ----------
    run_directory: None: `$HDSNIC_RUN`, else that of this user, as the commands have it.
    pool_bytes: size of the payload pool, a multiple of 4 KiB; half of it receives, half sends.
    element_bytes: size of a receive buffer, a power of two from 256 to 16384.
    harden: make this process not dumpable, so that no other process of the same user can write
        the pool through ptrace or /proc.

    Raises HdstackError with one sentence where something refuses.
    """
    run_directory = run_directory or default_run_directory()
    if harden:
        memory.harden()
    return Runtime(*await asyncio.to_thread(_establish, run_directory, pool_bytes, element_bytes))
