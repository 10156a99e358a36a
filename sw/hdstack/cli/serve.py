"""`hdsnic serve`: an HTTP file server as an application, without a copy of payload.

The request is read in the pool where the card put it; the file is read from the page cache
straight into buffers of the pool, from which the card sends; what is uploaded is hashed in place.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from .application import run_application, tell_ready
from .common import say
from .errors import CommandError
from .http import BadMessage, Head, Incoming, parse_request

__all__ = ["FileServer", "run_server"]

CHUNK_BYTES = 64 << 10
"""Most bytes of a file in one send buffer."""

_REASONS = {
    100: "Continue", 200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    411: "Length Required", 431: "Request Header Fields Too Large",
}  # fmt: skip


def _head(status: int, length: int, keep_alive: bool, kind: str) -> bytes:
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nServer: hdsnic\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    ).encode()


class FileServer:
    """Serves the files below the directory open at `root`; never leaves it, follows no link."""

    def __init__(self, runtime, root: int):
        self.runtime = runtime
        self.root = root
        self.figures = {"requests": 0, "sent_bytes": 0, "received_bytes": 0}

    async def handle(self, reader, writer) -> None:
        """Serve one connection; the peer may send several requests."""
        incoming = Incoming(reader, self.runtime)
        try:
            keep_alive = True
            while keep_alive:
                try:
                    head = await incoming.head(parse_request)
                    if head is None:
                        break
                    self.figures["requests"] += 1
                    keep_alive = await self._answer(head, incoming, writer)
                except BadMessage as error:
                    await self._say(writer, error.status, f"{error}\n", False)
                    keep_alive = False
            writer.write_eof()
        except (ConnectionError, TimeoutError):
            writer.abort()  # the peer went away, or its file changed while it was sent
        finally:
            incoming.close()
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()

    async def _answer(self, head: Head, incoming: Incoming, writer) -> bool:
        if head.method in ("GET", "HEAD"):
            async for _ in incoming.body(head.length or 0):
                pass
            await self._send_file(head, writer)
        elif head.method in ("PUT", "POST"):
            await self._take_upload(head, incoming, writer)
        else:
            raise BadMessage(405, f"{head.method} is not known here; GET, HEAD, PUT and POST are")
        return head.keep_alive

    async def _take_upload(self, head: Head, incoming: Incoming, writer) -> None:
        if head.length is None:
            raise BadMessage(411, "an upload needs a Content-Length")
        if head.expects_continue:
            await self._send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
        digest = hashlib.sha256()
        async for piece in incoming.body(head.length):
            digest.update(piece)
            self.figures["received_bytes"] += len(piece)
            piece = None  # the view is given back by the next turn
        await self._say(writer, 200, f"{digest.hexdigest()}\n", head.keep_alive)

    async def _send_file(self, head: Head, writer) -> None:
        file = self._open(head.path)
        if file is None:
            await self._say(writer, 404, "no such file\n", head.keep_alive)
            return
        try:
            length = os.fstat(file).st_size
            text = _head(200, length, head.keep_alive, "application/octet-stream")
            if head.method == "HEAD":
                length = 0
            chunk = min(CHUNK_BYTES, self.runtime.send_bytes_max)
            at, first = 0, True
            while first or at < length:
                buffer = await self.runtime.buffer(min(chunk, len(text) + length - at))
                filled = len(text)
                buffer.data[:filled] = text
                if at < length:
                    room = min(len(buffer.data) - filled, length - at)
                    got = os.preadv(file, [buffer.data[filled : filled + room]], at)
                    if not got:
                        buffer.release()
                        raise ConnectionResetError("the file became shorter while it was sent")
                    at += got
                    filled += got
                await writer.send_buffer(buffer, filled)
                self.figures["sent_bytes"] += filled
                text, first = b"", False
        finally:
            os.close(file)

    def _open(self, path: bytes) -> int | None:
        """The regular file at `path` below the root, or None. One step at a time, no links."""
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if not names or b".." in names or b"\0" in path:
            return None
        opened = [os.dup(self.root)]
        try:
            for name in names[:-1]:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                opened.append(os.open(name, flags, dir_fd=opened[-1]))
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(names[-1], flags, dir_fd=opened[-1])
        except OSError:
            return None
        finally:
            for fd in opened:
                os.close(fd)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return None
        return file

    async def _say(self, writer, status: int, text: str, keep_alive: bool) -> None:
        await self._send(writer, _head(status, len(text), keep_alive, "text/plain") + text.encode())

    async def _send(self, writer, data: bytes) -> None:
        """Words of our own: written into the pool where they are made."""
        buffer = await self.runtime.buffer(len(data))
        buffer.data[: len(data)] = data
        await writer.send_buffer(buffer, len(data))
        self.figures["sent_bytes"] += len(data)


def run_server(
    directory: Path,
    run_directory: Path,
    port: int,
    pool_bytes: int,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
    control_fd: int | None,
) -> None:
    """Serve `directory` on `port` until interrupted."""
    try:
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise CommandError(f"{directory} is no directory; name the folder of the files") from None
    servers: list[FileServer] = []

    async def body(runtime) -> None:
        server = FileServer(runtime, root)
        servers.append(server)
        listener = await runtime.start_server(server.handle, port)
        if ready_fd is None:
            where = f"http://{runtime.address}:{port}/"
            say.print(f"serving {directory} at {where} ; Ctrl-C ends it", soft_wrap=True)
        tell_ready(ready_fd)
        await listener.serve_forever()

    def stats(_) -> dict:
        return dict(servers[0].figures) if servers else {}

    run_application(body, run_directory, pool_bytes, uid, parent_pid, control_fd, stats)
