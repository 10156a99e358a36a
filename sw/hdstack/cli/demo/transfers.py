"""The traffic of the demo: `curl` in the peer's namespace, a plain socket of the peer's kernel,
or client applications on a second stack. Each runs in a thread and knows how far it is."""

import contextlib
import hashlib
import os
import re
import subprocess
import threading
import time
from pathlib import Path

from ..errors import CommandError
from .peer import KernelPeer
from .scene import Child

__all__ = ["CurlDownload", "FetchTransfer", "SocketUpload", "Transfer", "random_file"]

_CHUNK_BYTES = 1 << 16


class Transfer(threading.Thread):
    """A transfer of `size` bytes whose sha256 is to be `expected`.

    `done` is how many bytes went so far; afterwards `seconds`, `digest` (what the receiver got,
    as hex digits) and `error` (None, or a sentence) are set.
    """

    def __init__(self, title: str, size: int, expected: str, limit_seconds: float):
        super().__init__(name=title, daemon=True)
        self.title, self.size, self.expected = title, size, expected
        self.limit_seconds = limit_seconds
        self.done, self.seconds, self.digest = 0, 0.0, ""
        self.error: str | None = None

    def run(self) -> None:
        begin = time.monotonic()
        try:
            self.transfer(begin + self.limit_seconds)
        except (CommandError, OSError) as error:
            self.error = f"{self.title}: {error}"
        self.seconds = time.monotonic() - begin
        if self.error is None and self.digest != self.expected:
            self.error = (
                f"{self.title}: {self.done} bytes came with sha256 {self.digest or '(none)'},"
                f" {self.size} bytes with {self.expected} were sent"
            )

    def transfer(self, deadline: float) -> None:
        """Do it; set `done` on the way and `digest` at the end. Raises before `deadline`."""
        raise NotImplementedError

    @property
    def megabytes_per_second(self) -> float:
        return self.done / 1e6 / max(self.seconds, 1e-9)


class CurlDownload(Transfer):
    """curl, in the peer's namespace, fetches a URL; its output is hashed as it comes."""

    def __init__(self, peer: KernelPeer, url: str, size: int, expected: str, limit_seconds: float):
        super().__init__("curl downloads from A", size, expected, limit_seconds)
        self._peer, self._url = peer, url

    def transfer(self, deadline: float) -> None:
        out, their_out = os.pipe()
        complaints, their_complaints = os.pipe()
        try:
            limit = str(int(deadline - time.monotonic()))
            argv = ["curl", "-q", "-sS", "--fail", "--noproxy", "*", "--max-time", limit, self._url]
            process = self._peer.run(argv, their_out, their_complaints)
        finally:
            os.close(their_out)
            os.close(their_complaints)
        digest = hashlib.sha256()
        with open(out, "rb", buffering=0) as stream, open(complaints, "rb") as errors:
            while data := stream.read(_CHUNK_BYTES):
                digest.update(data)
                self.done += len(data)
            status = process.wait(20)
            if status:
                said = errors.read(500).decode(errors="replace").strip()
                raise CommandError(f"curl ended with status {status}: {said}")
        self.digest = digest.hexdigest()


class SocketUpload(Transfer):
    """A socket of the peer's kernel uploads bytes by PUT; the answer is what was received."""

    def __init__(self, peer: KernelPeer, to: tuple[str, int], data: bytes, expected: str,
                 limit_seconds: float):  # fmt: skip
        super().__init__("a socket uploads to B", len(data), expected, limit_seconds)
        self._peer, self._to, self._data = peer, to, memoryview(data)

    def transfer(self, deadline: float) -> None:
        with self._peer.socket() as client:
            client.settimeout(max(1.0, deadline - time.monotonic()))
            client.connect(self._to)
            head = (
                f"PUT /upload HTTP/1.1\r\nHost: {self._to[0]}\r\nConnection: close\r\n"
                f"Content-Length: {self.size}\r\n\r\n"
            )
            client.sendall(head.encode())
            while self.done < self.size:
                if time.monotonic() > deadline:
                    raise CommandError(f"not done within {self.limit_seconds:.0f} s")
                self.done += client.send(self._data[self.done : self.done + _CHUNK_BYTES])
            client.settimeout(max(1.0, deadline - time.monotonic()))
            answer = bytearray()
            while data := client.recv(4096):
                answer += data
        match = re.match(rb"HTTP/1\.1 200 .*?\r\n\r\n([0-9a-f]{64})\n", answer, re.DOTALL)
        if match is None:
            raise CommandError(f"answered {bytes(answer[:200])!r}")
        self.digest = match.group(1).decode()


class FetchTransfer(Transfer):
    """A client application on another stack (`hdsnic fetch`), either way."""

    def __init__(self, title: str, child: Child, size: int, expected: str, limit_seconds: float):
        super().__init__(title, size, expected, limit_seconds)
        self._child = child
        self.copied_bytes = 0

    def transfer(self, deadline: float) -> None:
        process = self._child.process
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise CommandError(f"not done within {self.limit_seconds:.0f} s")
            with contextlib.suppress(OSError, ValueError):  # not yet connected, or just ended
                self.done = self._child.ask("stats")["stats"]["done_bytes"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        text = self._child.log.read_text()
        match = re.search(r"(\d+) bytes .* sha256 ([0-9a-f]{64})  copied (\d+)", text)
        if process.returncode or match is None:
            raise CommandError(
                f"hdsnic fetch ended with status {process.returncode}: {text.strip()}"
            )
        self.done, self.digest = int(match.group(1)), match.group(2)
        self.copied_bytes = int(match.group(3))


def random_file(path: Path, size: int, mode: int = 0o644) -> tuple[bytes, str]:
    """Fill a file with `size` random bytes; returns them and their sha256."""
    data = os.urandom(size)
    path.write_bytes(data)
    path.chmod(mode)
    return data, hashlib.sha256(data).hexdigest()
