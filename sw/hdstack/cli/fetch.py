"""`hdsnic fetch`: an HTTP client as an application; what arrives goes from the pool to the file."""

import hashlib
import os
import re
import time
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .application import run_application
from .common import console, say
from .errors import CommandError
from .http import BadMessage, Incoming, parse_response

__all__ = ["run_fetch"]

_URL = re.compile(r"http://(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?(/[!-~]*)?")
_CHUNK_BYTES = 64 << 10


def parse_url(url: str) -> tuple[str, int, str]:
    """Address, port and path of a URL; raises CommandError for what this client cannot reach."""
    match = _URL.fullmatch(url)
    if match is None:
        raise CommandError(
            f"{url!r} cannot be fetched; it must be http://ADDRESS[:PORT]/PATH, IPv4 in digits"
        )
    address, port, path = match.group(1), int(match.group(2) or 80), match.group(3) or "/"
    if any(int(part) > 255 for part in address.split(".")) or not 0 < port < 65536:
        raise CommandError(f"{url!r} has an address or a port that does not exist")
    return address, port, path


class _Transfer:
    """One request. `done` counts the bytes of the body so far, either way."""

    def __init__(self, url: str, output: int | None, upload: int | None, timeout: float):
        self.address, self.port, self.path = parse_url(url)
        self.output, self.upload, self.timeout = output, upload, timeout
        self.size = os.fstat(upload).st_size if upload is not None else 0
        self.done, self.digest, self.seconds, self.agreed = 0, hashlib.sha256(), 0.0, True
        self.copied = 0

    async def run(self, runtime, progress: Progress) -> None:
        import asyncio

        bar = progress.add_task(self.path, total=self.size or None)
        start = time.monotonic()
        task = asyncio.ensure_future(self._exchange(runtime))
        last, last_change = -1, start
        try:
            while not task.done():
                await asyncio.wait([task], timeout=0.1)
                progress.update(bar, completed=self.done, total=self.size or None)
                now = time.monotonic()
                if self.done != last:
                    last, last_change = self.done, now
                elif now - last_change > self.timeout:
                    raise TimeoutError(f"nothing came for {self.timeout:.0f} s")
            await task
        finally:
            task.cancel()
        self.seconds = time.monotonic() - start
        self.copied = runtime.copied_bytes

    async def _exchange(self, runtime) -> None:
        reader, writer = await runtime.open_connection(
            self.address, self.port, timeout=self.timeout
        )
        incoming = Incoming(reader, runtime)
        try:
            await self._request(runtime, writer)
            try:
                head = await incoming.head(parse_response)
            except BadMessage as error:
                raise CommandError(f"{self.address}:{self.port} answered oddly: {error}") from None
            if head is None:
                raise CommandError(f"{self.address}:{self.port} ended without an answer")
            if head.status != 200:
                raise CommandError(f"{self.address}:{self.port} answered {head.status}; not 200")
            if self.upload is not None:
                expected, at = f"{self.digest.hexdigest()}\n".encode(), 0
                async for piece in incoming.body(head.length):
                    self.agreed = self.agreed and piece == expected[at : at + len(piece)]
                    at += len(piece)
                    piece = None
                self.agreed = self.agreed and at == len(expected)
                return
            self.size = head.length or 0
            async for piece in incoming.body(head.length):
                self.digest.update(piece)
                if self.output is not None:
                    _write_all(self.output, piece)
                self.done += len(piece)
                piece = None
        finally:
            incoming.close()
            writer.close()

    async def _request(self, runtime, writer) -> None:
        verb = "GET" if self.upload is None else "PUT"
        length = "" if self.upload is None else f"Content-Length: {self.size}\r\n"
        text = (
            f"{verb} {self.path} HTTP/1.1\r\nHost: {self.address}\r\nUser-Agent: hdsnic\r\n"
            f"{length}Connection: close\r\n\r\n"
        ).encode()
        chunk = min(_CHUNK_BYTES, runtime.send_bytes_max)
        at, first = 0, True
        while first or at < self.size:
            buffer = await runtime.buffer(min(chunk, len(text) + self.size - at))
            filled = len(text)
            buffer.data[:filled] = text
            if at < self.size:
                room = min(len(buffer.data) - filled, self.size - at)
                piece = buffer.data[filled : filled + room]
                got = os.preadv(self.upload, [piece], at)
                if not got:
                    buffer.release()
                    raise CommandError("the file became shorter while it was sent")
                self.digest.update(piece[:got])
                at += got
                filled += got
            await writer.send_buffer(buffer, filled)
            self.done = at
            text, first = b"", False


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]


def run_fetch(
    url: str,
    run_directory: Path,
    output: Path | None,
    upload: Path | None,
    pool_bytes: int,
    timeout: float,
    uid: int | None,
    parent_pid: int | None,
    control_fd: int | None,
) -> None:
    """Fetch or upload, then print the size, the rate and the digest of the body."""
    parse_url(url)
    source = os.open(upload, os.O_RDONLY | os.O_CLOEXEC) if upload else None
    target = None
    if output:
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    transfer = _Transfer(url, target, source, timeout)
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )  # fmt: skip

    async def body(runtime) -> None:
        with Progress(*columns, console=say, transient=True) as progress:
            await transfer.run(runtime, progress)

    run_application(
        body, run_directory, pool_bytes, uid, parent_pid, control_fd,
        lambda _: {"done_bytes": transfer.done, "size_bytes": transfer.size},
    )  # fmt: skip
    digest = transfer.digest.hexdigest()
    rate = transfer.done / 1e6 / max(transfer.seconds, 1e-9)
    if not transfer.agreed:
        raise CommandError(f"the server received other bytes than were sent (sha256 {digest})")
    console.print(
        f"{transfer.done} bytes  {rate:.2f} MB/s  sha256 {digest}  copied {transfer.copied} bytes",
        highlight=False,
        soft_wrap=True,
    )
