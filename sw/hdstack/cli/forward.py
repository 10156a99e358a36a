"""`hdsnic forward`: relays TCP connections between the card and the kernel's sockets.

What the card received goes from the pool straight to a kernel socket, and what a kernel socket
holds straight into buffers of the pool: only the kernel copies. Each direction has back-pressure of
its own, and ends on its own (half-close); a reset of one side resets the other.
"""

import array
import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import resource
import socket
import struct
import termios
from pathlib import Path

from ..errors import HdstackError
from .application import run_application, tell_ready
from .common import say
from .errors import CommandError

__all__ = ["Forwarder", "addresses_of", "parse_target", "run_forward"]

CHUNK_BYTES = 64 << 10
"""Most bytes of a kernel socket in one send buffer."""
_BACKLOG = 1024
_CONNECT_SECONDS = 20.0
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_SCARCE_SECONDS = 0.2
"""How long no connection is accepted where the system has no room for one."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes closing a socket a reset."""


def parse_target(text: str) -> tuple[str, int]:
    """HOST:PORT, [IPv6]:PORT. Raises CommandError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise CommandError(f"{text!r} is no target; give HOST:PORT, as in 127.0.0.1:5201")
    return host, int(port)


def addresses_of(target: tuple[str, int]) -> list[tuple[str, int]]:
    """Address and port of a target that may be a name, best first. Raises CommandError."""
    host, port = target
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"{host} cannot be looked up: {reason}") from None
    return [address[:2] for *_, address in found]


class Forwarder:
    """Relays connections, of the card to a target through the kernel, or from a listening kernel
    socket to it through the card. `targets` are its addresses and ports, tried in this order.

    Connections to the target begin in the order in which they were accepted: there are protocols
    that take several and tell them apart by it (iperf3).
    """

    def __init__(self, runtime, targets: list[tuple[str, int]]):
        self.runtime, self.targets = runtime, targets
        self.figures = {
            "connections": 0, "refused": 0, "reset": 0, "to_kernel_bytes": 0, "to_card_bytes": 0,
        }  # fmt: skip

    async def from_card(self, reader, writer) -> None:
        """Serve a connection that the card accepted."""
        try:
            far = await self._kernel_connection()
        except (OSError, TimeoutError):
            self.figures["refused"] += 1
            writer.abort()
            return
        await self._relay(reader, writer, far)

    async def from_kernel(self, near: socket.socket) -> None:
        """Serve a connection that the kernel accepted."""
        try:
            where = self.targets[0]
            reader, writer = await self.runtime.open_connection(*where, _CONNECT_SECONDS)
        except (OSError, TimeoutError, HdstackError):
            self.figures["refused"] += 1
            _close_by_reset(near)
            return
        await self._relay(reader, writer, near)

    async def _kernel_connection(self) -> socket.socket:
        for target in self.targets[:-1]:
            with contextlib.suppress(OSError, TimeoutError):
                return await _connected(target)
        return await _connected(self.targets[-1])

    async def _relay(self, reader, writer, kernel: socket.socket) -> None:
        self.figures["connections"] += 1
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._to_kernel(reader, kernel))
                both.create_task(self._to_card(kernel, writer))
            with contextlib.suppress(OSError):
                writer.close()
                await writer.wait_closed()
            kernel.close()
        except* OSError:
            self.figures["reset"] += 1
            writer.abort()
            _close_by_reset(kernel)
        finally:
            kernel.close()

    async def _to_kernel(self, reader, kernel: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while views := await reader.read_views():
            for view in views:
                with view:
                    await loop.sock_sendall(kernel, view.data)
                    self.figures["to_kernel_bytes"] += len(view)
        with contextlib.suppress(OSError):  # the other direction tells if it is broken
            kernel.shutdown(socket.SHUT_WR)

    async def _to_card(self, kernel: socket.socket, writer) -> None:
        chunk = min(CHUNK_BYTES, self.runtime.send_bytes_max)
        # A buffer is taken once bytes wait for it, so idle connections hold none.
        while waiting := await _bytes_waiting(kernel):
            buffer = await self.runtime.buffer(min(waiting, chunk))
            try:
                got = kernel.recv_into(buffer.data)
            except BaseException:
                buffer.release()
                raise
            await writer.send_buffer(buffer, got)
            self.figures["to_card_bytes"] += got
        writer.write_eof()


async def _connected(target: tuple[str, int]) -> socket.socket:
    """A kernel socket with a connection to an address and port. Raises OSError, TimeoutError."""
    far = socket.socket(_family(target[0]), socket.SOCK_STREAM)
    far.setblocking(False)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        connecting = asyncio.get_running_loop().sock_connect(far, target)
        await asyncio.wait_for(connecting, _CONNECT_SECONDS)
    except BaseException:
        far.close()
        raise
    return far


async def _bytes_waiting(kernel: socket.socket) -> int:
    """Wait until the socket has bytes; how many, 0 at its end. Raises OSError when it broke."""
    loop = asyncio.get_running_loop()
    count = array.array("i", [0])
    while True:
        try:
            if not kernel.recv(1, socket.MSG_PEEK):
                return 0
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(kernel, _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(kernel)
            continue
        fcntl.ioctl(kernel, termios.FIONREAD, count)
        return count[0]


def _set(future: asyncio.Future) -> None:
    if not future.done():
        future.set_result(None)


def _close_by_reset(kernel: socket.socket) -> None:
    with contextlib.suppress(OSError):
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    kernel.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


def _listen(bind: str, port: int) -> socket.socket:
    listener = socket.socket(_family(bind), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((bind, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandError(f"cannot listen on {bind} port {port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


async def _accept(listener: socket.socket, forwarder: Forwarder) -> None:
    """Serve what the kernel accepts, for ever."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task] = set()
    while True:
        try:
            near, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno not in _SCARCE:
                raise
            await asyncio.sleep(_SCARCE_SECONDS)
            continue
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(forwarder.from_kernel(near))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def run_forward(
    port: int,
    target: str,
    reverse: bool,
    bind: str,
    run_directory: Path,
    pool_bytes: int,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
    control_fd: int | None,
) -> None:
    """Forward `port` to `target` until interrupted."""
    where = parse_target(target)
    try:
        for text in (where[0], bind) if reverse else ():
            ipaddress.ip_address(text)
    except ValueError as error:
        raise CommandError(f"{error}; --reverse takes addresses, not names") from None
    targets = [where] if reverse else addresses_of(where)
    listener = _listen(bind, port) if reverse else None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each connection
    forwarders: list[Forwarder] = []

    async def body(runtime) -> None:
        forwarder = Forwarder(runtime, targets)
        forwarders.append(forwarder)
        if reverse:
            if ready_fd is None:
                say.print(f"{bind} port {port} of this host to {target}; Ctrl-C ends it")
            tell_ready(ready_fd)
            await _accept(listener, forwarder)
        server = await runtime.start_server(forwarder.from_card, port)
        if ready_fd is None:
            say.print(f"port {port} of {runtime.address} to {target}; Ctrl-C ends it")
        tell_ready(ready_fd)
        await server.serve_forever()

    def stats(_) -> dict:
        return dict(forwarders[0].figures) if forwarders else {}

    run_application(body, run_directory, pool_bytes, uid, parent_pid, control_fd, stats)
