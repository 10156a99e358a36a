"""Who meets in these tests: a device process, and clients that are good or hostile."""

import json
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from hdsnic import abi
from hdstack import memory

SECONDS = 20.0
PAGE = abi.PAGE_BYTES


class DeviceUnderTest:
    """A device process around the tiny card, ended with the test."""

    def __init__(self, directory: Path, link="none", pass_fds=(), **more):
        self.directory = directory
        arguments = {"run_directory": str(directory), "link": link, "parent_pid": os.getpid()}
        arguments |= {"parameters": {"bus_bytes": 8}} | more
        script = Path(__file__).with_name("run_device.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(arguments)],
            stdout=subprocess.PIPE, text=True, pass_fds=pass_fds,
        )  # fmt: skip
        ready, _, _ = select.select([self.process.stdout], [], [], 300)  # the first one builds
        assert ready and self.process.stdout.readline() == "ready\n", "the device did not start"

    def close(self):
        self.process.terminate()
        try:
            assert self.process.wait(SECONDS) == 0
        finally:
            self.process.kill()
            self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def alive(self) -> bool:
        return self.process.poll() is None

    def state(self) -> str:
        """R: it runs, S: it sleeps (proc(5))."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


class Client:
    """A connection to a device's control socket."""

    def __init__(self, device: DeviceUnderTest):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(device.directory / "device.sock"))
        self.fds: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def send(self, message, fds=()):
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.socket, [data], list(fds))

    def receive(self):
        """(message, descriptors), or None at the end of the connection."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 16384, 8)
        except ConnectionResetError:
            return None
        self.fds += fds
        return (json.loads(data), fds) if data else None

    def ask(self, message, fds=()) -> dict:
        self.send(message, fds)
        got = self.receive()
        assert got is not None, "the device closed the connection"
        return got[0]

    def refused(self, message, fds=()) -> str:
        """The error of a request that must be refused."""
        answer = self.ask(message, fds)
        assert answer["ok"] is False, answer
        return answer["error"]

    def is_closed(self) -> bool:
        """Whether the device ends the connection; answers before that are passed over."""
        while self.receive() is not None:
            pass
        return True


def sealed(size: int, seals: int = memory.SIZE_SEALS, name: str = "pool") -> int:
    fd = memory.create(name, size)
    memory.add_seals(fd, seals)
    return fd


class Application(Client):
    """A well-behaved application; `queue`, `page` (its doorbell page), `wake`."""

    def __init__(self, device: DeviceUnderTest):
        super().__init__(device)
        self.wake, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            self.send({"role": "application", "abi": abi.ABI_VERSION}, [far.fileno()])
        self.hello, (page,) = self.receive()
        assert self.hello["ok"], self.hello
        self.queue, self.owner = self.hello["queue"], self.hello["owner"]
        self.page = mmap.mmap(page, PAGE)

    def close(self):
        self.wake.close()
        super().close()

    def pool(self, pages: int = 16, **more) -> tuple[int, dict]:
        """Register a pool of 2 KiB elements; its descriptor (open), and the answer."""
        fd = sealed(pages * PAGE)
        self.fds.append(fd)
        request = {"op": "register", "element_bytes": 2048, "elements": 2 * pages, "postable": 8}
        return fd, self.ask(request | more, [fd])

    def live_pool(self, **more) -> tuple[int, int]:
        """Register, seal and activate a pool; its descriptor and its region."""
        fd, answer = self.pool(**more)
        memory.add_seals(fd, memory.SEAL_FUTURE_WRITE | memory.SEAL_SEAL)
        assert self.ask({"op": "activate", "region": answer["region"]}) == {"ok": True}
        return fd, answer["region"]


class Stack(Client):
    """A stack: mailbox, doorbells, notices."""

    def __init__(self, device: DeviceUnderTest):
        super().__init__(device)
        self.irq, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.irq.settimeout(SECONDS)
        self.header = sealed(16 * PAGE, name="header")
        self.fds.append(self.header)
        with far:
            hello = {"role": "stack", "abi": abi.ABI_VERSION}
            self.send(hello, [self.header, far.fileno()])
        self.hello, fds = self.receive()
        assert self.hello["ok"], self.hello
        self.pages = mmap.mmap(fds[0], (1 + self.hello["queues"]) * PAGE)

    def close(self):
        self.irq.close()
        super().close()

    def word(self, at: int) -> int:
        return struct.unpack_from("<I", self.pages, at)[0]

    def put(self, at: int, value: int):
        struct.pack_into("<I", self.pages, at, value)

    def access(self, op: int, address: int, value: int = 0) -> tuple[int, int]:
        """A mailbox request; (status, value)."""
        sequence = self.word(0) + 1 & 0xFFFFFFFF
        for at, word in ((4, op), (8, address), (12, value), (0, sequence)):
            self.put(at, word)
        self.wake()
        wait_for(lambda: self.word(16) == sequence, "the mailbox to be answered")
        return self.word(20), self.word(12)

    def wake(self):
        if self.word(64):
            self.irq.send(b"\0")

    def notice(self) -> tuple[dict, list[int]]:
        got = self.receive()
        assert got is not None and "notice" in got[0], got
        return got


def wait_for(condition, what: str, seconds: float = SECONDS):
    """Return once `condition()` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        os.sched_yield()
