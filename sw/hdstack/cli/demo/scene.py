"""The processes of a run: device, stack and applications, each a child under a uid of its own.

A `Scene` owns a run directory and all that lives in it. Whatever ends the scene (its `close`, an
exception, the death of this process) ends every child. Tests of the whole system use it too.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import CommandError

__all__ = ["PEER_UID", "Child", "ChildEnded", "Scene"]

_READY_SECONDS = 120
"""Longest start of a child: the first one may compile."""

_FIRST_UID = 64800
_UIDS = {"device": 1, "stack": 2, "A": 3, "B": 4, "C": 5, "D": 6}
PEER_UID = 64899
"""Clients in the peer's namespace run as this user, when this is root."""


class ChildEnded(CommandError):
    """A process of the scene ended before its time."""


@dataclass
class Child:
    """A process of the scene. `control` answers questions; only applications have it."""

    name: str
    process: subprocess.Popen
    log: Path
    control: socket.socket | None = None
    ends: bool = False
    """A client, which ends when its work is done."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, operation: str) -> dict:
        """The application's answer to `stats` or `maps`."""
        self.control.send(json.dumps({"op": operation}).encode())
        answer = json.loads(self.control.recv(1 << 16))
        if not answer.get("ok"):
            raise CommandError(f"application {self.name}: {answer.get('error')}")
        return answer

    def tail(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        return ""


class Scene:
    """A card, a stack and applications in a run directory of their own.

    `number` sets several scenes apart (the wire pair has two). Children are started from the
    thread that made the scene, which must outlive them: their death signal is tied to it.
    """

    def __init__(self, number: int = 0):
        self.number = number
        self.directory = Path(tempfile.mkdtemp(prefix="hdsnic-"))
        self.directory.chmod(0o711)
        self.run = self.directory / "run"
        self.run.mkdir(mode=0o711)
        self.run.chmod(0o711)
        self.children: dict[str, Child] = {}

    def uid(self, name: str) -> int | None:
        """The user of a process, when this is root; else None: all are this user."""
        if os.geteuid() != 0:
            return None
        return _FIRST_UID + 20 * self.number + _UIDS[name]

    # -- starting ----------------------------------------------------------------------------------

    def _start(self, name: str, arguments: list, fds=(), control: bool = False) -> Child:
        log = self.directory / f"{name}.log"
        ready, theirs = os.pipe()
        passed = [theirs, *fds]
        arguments = [*arguments, "--ready-fd", theirs, "--parent-pid", os.getpid()]
        if (uid := self.uid(name)) is not None:
            arguments += ["--uid", uid]
        ours = far = None
        if control:
            ours, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(20)
            passed.append(far.fileno())
            arguments += ["--control-fd", far.fileno()]
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "hdstack.cli", *map(str, arguments)],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=passed,
                    start_new_session=True,
                )  # fmt: skip
        finally:
            os.close(theirs)
            if far is not None:
                far.close()
        child = Child(name, process, log, ours)
        self.children[name] = child
        try:
            self._await_ready(child, ready)
        finally:
            os.close(ready)
        return child

    def _await_ready(self, child: Child, ready: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not select.select([ready], [], [], 0.2)[0]:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"{child.name} was not ready in {_READY_SECONDS} s", child.tail()
                )
        if not os.read(ready, 64).startswith(b"ready"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(5)
            raise ChildEnded(f"{child.name} did not start; its last lines:", child.tail())

    def start_device(
        self, link_fd: int, bus_bytes: int, capture: Path | None, impair: str | None = None
    ) -> Child:
        """The card, with its wire on `link_fd`; `impair` as `hdsnic device --impair` takes it."""
        arguments = ["device", "--run", self.run, "--link", f"fd:{link_fd}"]
        arguments += ["--bus-bytes", bus_bytes]
        if capture is not None:
            arguments += ["--capture", capture]
        if impair is not None:
            arguments += ["--impair", impair]
        if (uid := self.uid("stack")) is not None:
            arguments += ["--stack-uid", uid]
        return self._start("device", arguments, [link_fd])

    def start_stack(self, address: str, mac: str, *more) -> Child:
        """The stack, at `address` ("10.77.0.2/24"); `more`: options of the command."""
        arguments = ["stack", "--run", self.run, "--address", address, "--mac", mac, *more]
        return self._start("stack", arguments)

    def start_server(self, name: str, directory: Path, port: int) -> Child:
        """An application that serves `directory`, with a pool of its own."""
        return self._start(
            name, ["serve", directory, "--run", self.run, "--port", port], control=True
        )

    def start_echo(self, name: str, port: int) -> Child:
        """An application that sends back what comes to a UDP port."""
        return self._start(name, ["echo", "--run", self.run, "--port", port], control=True)

    def start_forward(self, name: str, port: int, target: str, *more) -> Child:
        """An application that relays connections to `target`; `more`: options of the command."""
        arguments = ["forward", port, target, "--run", self.run, *more]
        return self._start(name, arguments, control=True)

    def start_fetch(self, name: str, url: str, *more) -> Child:
        """A client application; its result is in its log."""
        ours, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(20)
        log = self.directory / f"{name}.log"
        arguments = ["fetch", url, "--run", self.run, "--parent-pid", os.getpid(),
                     "--control-fd", far.fileno(), *more]  # fmt: skip
        if (uid := self.uid(name)) is not None:
            arguments += ["--uid", uid]
        with far, log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "hdstack.cli", *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[far.fileno()], start_new_session=True,
            )  # fmt: skip
        self.children[name] = Child(name, process, log, ours, ends=True)
        return self.children[name]

    def file(self, name: str, owner: str) -> Path:
        """A path for a file of an application, in a directory that only it can enter."""
        directory = self.directory / f"files-{owner}"
        directory.mkdir(mode=0o700, exist_ok=True)
        if (uid := self.uid(owner)) is not None:
            os.chown(directory, uid, uid)
        return directory / name

    # -- watching ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ChildEnded if a server ended that was not ended by `end` or `kill`."""
        for child in self.children.values():
            if not child.ends and (code := child.process.poll()) is not None:
                how = f"signal {-code}" if code < 0 else f"status {code}"
                raise ChildEnded(f"{child.name} ended with {how}; its last lines:", child.tail())

    def observe(self, name: str, operation: str) -> dict:
        """What `device` or `stack` answers to an observer, or an application to its parent."""
        from ... import driver, service

        if name == "device":
            return driver.observe(self.run, operation)
        if name == "stack":
            return service.observe(self.run, operation)
        return self.children[name].ask(operation)

    def maps(self) -> dict[str, list]:
        """What each process finds in its own memory map: memfds with name, inode, permissions,
        bytes."""
        return {name: self.observe(name, "maps")["maps"] for name in self.children}

    def uids(self) -> dict[str, int]:
        """The user of each process, by the kernel's word."""
        found = {}
        for name, child in self.children.items():
            status = Path(f"/proc/{child.pid}/status").read_text()
            found[name] = int(re.search(r"^Uid:\t(\d+)", status, re.MULTILINE).group(1))
        return found

    # -- ending ------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9: the process has no chance to tidy up."""
        child = self.children.pop(name)
        child.process.kill()
        child.process.wait(10)

    def end(self, name: str, seconds: float = 10) -> int:
        """Ask a child to end; returns its status, after SIGKILL if it does not."""
        child = self.children.pop(name)
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(signal.SIGTERM)
        try:
            status = child.process.wait(seconds)
        except subprocess.TimeoutExpired:
            child.process.kill()
            status = child.process.wait(seconds)
        if child.control is not None:
            child.control.close()
        return status

    def close(self) -> None:
        """End all children, applications first and the card last; remove the directory."""
        for name in reversed(list(self.children)):
            self.end(name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
