"""A Linux kernel as the peer: `open_peer` finds the best way that this system allows.

In order: a TAP device as root, a packet socket on veth as root, the same two in an unprivileged
user namespace. Where none can be had it raises `NoKernelPeer` with a reason for each.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

from ..errors import CommandError

__all__ = ["KernelPeer", "NoKernelPeer", "PeerProcess", "Way", "open_peer", "ways"]

_SET_UP_SECONDS = 30


class NoKernelPeer(CommandError):
    """No way to a kernel in a namespace of its own; the message lists what was refused."""


@dataclass(frozen=True)
class Way:
    """A kind of peer: `link` is "tap" or "veth"; `user`: in an unprivileged user namespace."""

    link: str
    user: bool

    def __str__(self):
        means = "TAP device" if self.link == "tap" else "packet socket on veth"
        return f"{means} in {'an unprivileged user' if self.user else 'a network'} namespace"


def ways(link: str = "auto") -> list[Way]:
    """The ways to try, best first; `link` is "auto", "tap" or "veth"."""
    links = ("tap", "veth") if link == "auto" else (link,)
    privileges = (False, True) if os.geteuid() == 0 else (True,)
    return [Way(name, user) for user in privileges for name in links]


class PeerProcess:
    """A client that runs in the peer's namespace."""

    def __init__(self, pid: int, status: int):
        self.pid = pid
        self._status = status

    def wait(self, seconds: float) -> int:
        """Its exit status, negative for a signal. Raises TimeoutError after `seconds`."""
        ready, _, _ = select.select([self._status], [], [], max(0.0, seconds))
        if not ready:
            raise TimeoutError(f"process {self.pid} runs longer than {seconds:.0f} s")
        text = os.read(self._status, 64)
        os.close(self._status)
        self._status = -1
        return int(text) if text else -signal.SIGKILL  # the namespace ended first


class KernelPeer:
    """The namespace, seen from outside. `link_fd` is the far end of its interface, for the device.

    Ends with `close`, at the latest with this process; may be used from several threads.
    """

    def __init__(self, way: Way, address: str, uid: int | None = None,
                 address6: str | None = None, tools: bool = False):  # fmt: skip
        self.way = way
        self.address = address.split("/")[0]
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {
            "fd": theirs.fileno(), "link": way.link, "address": address, "user": way.user,
            "uid": None if way.user else uid, "parent": os.getpid(), "address6": address6,
            "tools": tools,
        }  # fmt: skip
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.namespace", json.dumps(settings)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._socket.settimeout(_SET_UP_SECONDS)
        try:
            _, fds = self._answer()
            self.link_fd = fds[0]
        except BaseException:
            self.close()
            raise

    def _answer(self) -> tuple[dict, list[int]]:
        try:
            message, fds, _, _ = socket.recv_fds(self._socket, 65536, 8)
        except TimeoutError:
            raise NoKernelPeer(f"{self.way}: no answer in {_SET_UP_SECONDS} s") from None
        except OSError as error:
            raise NoKernelPeer(f"{self.way}: {error.strerror}") from None
        answer = json.loads(message) if message else {"ok": False, "error": "its process ended"}
        if not answer["ok"]:
            raise NoKernelPeer(f"{self.way}: {answer['error']}")
        return answer, fds

    def run(self, argv: list[str], stdout: int, stderr: int) -> PeerProcess:
        """Start a program in the namespace; the descriptors stay the caller's."""
        reader, writer = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            with self._lock:
                request = json.dumps({"op": "run", "argv": argv}).encode()
                socket.send_fds(self._socket, [request], [nothing, stdout, stderr, writer])
                answer, _ = self._answer()
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
            os.close(nothing)
        return PeerProcess(answer["pid"], reader)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of the peer's kernel."""
        request = {"op": "socket", "family": int(family), "kind": int(kind)}
        with self._lock:
            self._socket.send(json.dumps(request).encode())
            _, fds = self._answer()
        return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """End the clients, the interface and the namespace."""
        self._socket.close()
        if (fd := getattr(self, "link_fd", -1)) >= 0:
            os.close(fd)
            self.link_fd = -1
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_peer(address: str, link: str = "auto", uid: int | None = None,
              address6: str | None = None, tools: bool = False) -> KernelPeer:  # fmt: skip
    """The first way that works, with the peer's interface at `address` ("10.77.0.1/24").

    `uid`: whom clients run as when this is root. `address6`: one of IPv6, with prefix; without it
    the interface has none. `tools`: clients run as the namespace's root, with the capabilities over
    its network and no other. Raises NoKernelPeer.
    """
    refused = []
    for way in ways(link):
        try:
            return KernelPeer(way, address, uid, address6, tools)
        except NoKernelPeer as error:
            refused.append(str(error))
    raise NoKernelPeer("; ".join(refused))
