"""The device process: the simulated card, and around it what a host's privileged driver does.

Python serves the control socket (who registers what), C++ does everything else. A party connects
to `<run directory>/device.sock` (SOCK_SEQPACKET, JSON, descriptors beside it) and says its role:

- `stack`: brings header memory and a wake socket, gets the doorbell and mailbox pages, and from
  then on notices of every application and region;
- `application`: brings a wake socket, gets a queue and its post doorbell page, then registers
  pools (`register`, `activate`, `revoke`);
- `observer`: asks for `stats` and `maps`.

`main` is the whole process. It is trusted as a network card is, so it is small, drops its rights
before it serves anybody, and ends with its parent.
"""

import contextlib
import dataclasses
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdstack import memory
from hdstack.errors import HdstackError

from . import build
from .card import Card
from .control import Client, ControlSocket
from .errors import DeviceError, SimulationError
from .links import Impairment, Link, open_link
from .registration import Refused, Registration

__all__ = ["Device", "main"]

_NICENESS = -10


class Device:
    """The card, its link, and the parties that are connected.

    Parameters
    ----------
    run_directory:
        Gets `device.sock`.
    library:
        The native model (`hdsim.build.native_model`) of `parameters`.
    link:
        The wire; closed with the device.
    stack_uid:
        The only user who may be the stack; None: anybody.
    """

    def __init__(
        self,
        run_directory: Path,
        library: Path,
        parameters: Parameters,
        link: Link,
        stack_uid: int | None = None,
    ):
        self._parameters, self._link, self._stack_uid = parameters, link, stack_uid
        self._stack: Client | None = None
        self._stopping = False
        self._epoll = select.epoll()
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(self._epoll.close)
        self._cleanup.callback(link.close)
        with contextlib.ExitStack() as failed:
            failed.callback(self._cleanup.close)
            self.card = Card(library, self._epoll.fileno())
            self._cleanup.callback(self.card.close)
            self.card.set_link(link.fd, link.waits_for_receive)
            self.registration = Registration(self.card, parameters, self._notify)
            self._cleanup.callback(self.registration.close)
            self._control = ControlSocket(
                run_directory / "device.sock", self._epoll, self._handle, self._ended
            )
            self._cleanup.callback(self._control.close)
            self._stop_read, self._stop_write = socket.socketpair()
            for end in (self._stop_read, self._stop_write):
                end.setblocking(False)
                self._cleanup.callback(end.close)
            self._epoll.register(self._stop_read, select.EPOLLIN)
            failed.pop_all()

    def run(self):
        """Serve until `stop` is called; everything is closed afterwards."""
        with self._cleanup:
            self._link.start()
            while not self._stopping:
                self.card.run()
                events = dict(self._epoll.poll(0))
                if events.pop(self._stop_read.fileno(), None):
                    break
                self._control.serve(events)

    def stop(self, *_):
        """End `run` soon; may be called from a signal handler or another thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._stop_write.send(b"\0")

    def stop_on_signals(self):
        """End `run` at SIGTERM and SIGINT."""
        # The interpreter runs handlers only between its own steps, and the card runs outside it:
        # the wake-up descriptor brings it back.
        signal.set_wakeup_fd(self._stop_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    # -- requests ----------------------------------------------------------------------------------

    def _handle(self, client: Client, message: dict, descriptors: list[int]):
        try:
            if client.role is None:
                answer, reply = self._hello(client, message, descriptors)
            else:
                answer, reply = self._operation(client, message, descriptors), ()
        except (Refused, SimulationError, HdstackError) as error:
            client.send({"ok": False, "error": str(error)})
            return
        except OSError as error:
            client.send({"ok": False, "error": f"the system refused: {error}"})
            return
        except Exception:  # a fault of ours that one client met must not end the others
            traceback.print_exc()
            client.send({"ok": False, "error": "the device failed at this; see its output"})
            client.closed = True
            return
        client.send({"ok": True, **answer}, reply)
        if client.role == "stack" and "role" in message:
            self.registration.tell_all()

    def _hello(self, client, message, descriptors):
        role = message.get("role")
        version = message.get("abi", abi.ABI_VERSION)
        if version != abi.ABI_VERSION:
            raise Refused(f"this device speaks ABI version {abi.ABI_VERSION}, not {version!r:.20}")
        if role == "observer":
            client.role = role
            return self._card_facts(), ()
        if role == "stack":
            self._may_be_stack(client)
            header, wake = _exactly(descriptors, 2, "the header memory and the wake socket")
            _check_wake(wake)
            pages = self.registration.attach_stack(header, wake)
            client.role, client.state, self._stack = role, pages, client
            return self._card_facts(), (pages,)
        if role == "application":
            (wake,) = _exactly(descriptors, 1, "the wake socket")
            _check_wake(wake)
            application = self.registration.add_application(client.pid, client.uid, wake)
            client.role, client.state = role, application
            facts = {k: getattr(application, k) for k in ("queue", "owner", "token")}
            return {**facts, **self._card_facts()}, (application.page_fd,)
        raise Refused(f"role is {role!r:.40}; it must be stack, application or observer")

    def _may_be_stack(self, client):
        if self._stack_uid is not None and client.uid != self._stack_uid:
            raise Refused(f"user {client.uid} may not be the stack of this device")
        if self._stack is not None:
            raise Refused(f"process {self._stack.pid} is the stack of this device already")

    def _operation(self, client, message, descriptors) -> dict:
        op = message.get("op")
        if op == "stats":
            return {"stats": self._stats()}
        if op == "maps":
            return {"maps": [entry._asdict() for entry in memory.own_maps()]}
        if client.role == "application":
            application, region = client.state, message.get("region")
            if op == "register":
                (pool,) = _exactly(descriptors, 1, "the pool")
                made = self.registration.register(application, message, pool)
                return {"region": made.number, "generation": made.generation, "step": "seal"}
            if op == "activate":
                self.registration.activate(application, region)
                return {}
            if op == "revoke":
                self.registration.revoke(application, region)
                return {}
        raise Refused(f"op is {op!r:.40}, which the role {client.role} does not have")

    def _ended(self, client: Client):
        try:
            if client.role == "application":
                self.registration.remove_application(client.state)
            elif client.role == "stack":
                self._stack = None
                os.close(client.state)
                self.registration.detach_stack()
        except (SimulationError, OSError) as error:
            self.registration.stuck.append(f"what the {client.role} had: {error}")

    def _notify(self, message: dict, descriptors):
        if self._stack is not None:
            self._stack.send(message, descriptors)

    def _card_facts(self) -> dict:
        return {"abi": abi.ABI_VERSION, **dataclasses.asdict(self._parameters)}

    def _stats(self) -> dict:
        stats = self.card.stats()
        seconds = stats["awake_ns"] / 1e9
        return {
            **stats,
            "cycles_per_second": round(stats["cycles"] / seconds) if seconds else 0,
            "link": self._link.name,
            "applications": len(self.registration.applications),
            "stuck": self.registration.stuck[:8],
        }


def _run_before_software() -> None:
    """Hardware does not wait for software: where root may say so, this process runs first.

    Else card, stack and applications share few processors evenly, and the card is the slowest.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        # of its session, where the scheduler groups processes by it (sched(7), autogroup); one that
        # it shares with others, a terminal's, is not its own to change
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(_NICENESS))


def main(
    run_directory: Path | str,
    link: str | int,
    parameters: Parameters | None = None,
    capture: Path | str | None = None,
    uid: int | None = None,
    ready_fd: int | None = None,
    parent_pid: int | None = None,
    stack_uid: int | None = None,
    timing: dict[str, tuple[int, float]] | None = None,
    waves: Path | str | None = None,
    impairment: Impairment | None = None,
) -> None:
    """Run a device process until SIGTERM, SIGINT, or the end of the process `parent_pid`.

    Parameters
    ----------
    link:
        A name as `hdsim.links.open_link` takes it, or the number of an open descriptor.
    capture:
        Record every frame of the wire in this pcapng file.
    uid:
        Become this user before serving anybody.
    ready_fd:
        Gets the line `ready`, and is closed, once the socket is there; without it the line goes to
        stdout.
    timing:
        Port (`header`, `payload`) -> (latency in cycles, share of the port's bandwidth).
    waves:
        Build with tracing (slow) and write a VCD waveform here.
    impairment:
        What the wire does to frames.

    Raises SimulationError where it cannot start.
    """
    parameters = parameters or Parameters()
    run_directory = Path(run_directory)
    opened = open_link(link)  # a wrong name is told before minutes of building
    library = build.native_model(parameters, waves=waves is not None)
    _run_before_software()
    device = Device(run_directory, library, parameters, opened, stack_uid)
    try:
        if capture is not None:
            with open(capture, "wb") as file:
                device.card.capture(file.fileno(), "hdsnic")
        if impairment is not None:
            device.card.impair(impairment)
        if waves is not None:
            device.card.waves(Path(waves))
        for port, (latency, bandwidth) in (timing or {}).items():
            device.card.memory_timing(port, latency, bandwidth)
        if uid is not None:
            memory.drop_to(uid)
        memory.harden()
        if parent_pid is not None:
            memory.die_with_parent(parent_pid)
        device.stop_on_signals()
        _say_ready(ready_fd)
    except OSError as error:
        raise DeviceError(f"the device process cannot start: {error}") from error
    device.run()


def _say_ready(ready_fd):
    if ready_fd is None:
        print("ready", flush=True)
        return
    os.write(ready_fd, b"ready\n")
    os.close(ready_fd)


def _exactly(descriptors, count, what):
    if len(descriptors) != count:
        raise Refused(f"{len(descriptors)} descriptors came; {count} are needed: {what}")
    return descriptors


def _check_wake(fd: int):
    """A wake socket is written and read without blocking, whatever its holder does to it."""
    try:
        with socket.socket(fileno=os.dup(fd)) as wake:
            kind = wake.family, wake.type
    except OSError:
        kind = None
    if kind != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        raise Refused("the wake descriptor is not a SOCK_SEQPACKET Unix socket")


if __name__ == "__main__":
    sys.exit("the device process is started by `hdsnic device`")
