"""The stack process's loop: bursts while there is work, a brief poll, then sleep.

Sockets carry only what is rare: notices of the device, greetings of applications, wake-ups,
questions of observers. Whoever misbehaves on one of them loses it; every wait has a bound.
"""

import contextlib
import logging
import os
import select
import socket
import time
from dataclasses import dataclass

import numpy as np

from .. import memory
from ..atomic import fence, store_release
from ..driver import Card, DeviceProcess, HeaderMemory
from ..errors import DeviceError, HdstackError, ServiceError
from ..messages import ANSWER_BYTES, close_all, receive, send
from ..native import compiled
from ..net import duplicates
from ..net.checksums import POOL_STRIDE
from ..tcp import core, counters, tables
from . import state
from .applications import Application, Applications, credentials
from .burst import burst
from .bursts import bursts
from .placement import Placement
from .rules import Rules
from .state import NO_POOLS, Work

__all__ = ["Server"]

_log = logging.getLogger(__name__)

_POLL_NS = 50_000
"""How long the loop goes on without work before it sleeps."""
_LOOK_NS = 200_000
"""How often the sockets are looked at while there is work."""
_SLEEP_NS = 1_000_000_000
_GREETING_NS = 2_000_000_000
_SWEEP_NS = 100_000_000
_CLIENTS_MAX = 64
_CLIENTS_PER_USER = 16
"""Of those that have not attached: one user cannot keep all others out."""
_CONNECTIONS_TOLD = 100


@compiled
def _ask_for_wakes(io, channels, value):
    """Set every attached application's need-wake word for the stack, and fence."""
    for q in range(len(io["queues"])):
        if io["queues"][q]["attached"] != 0:
            store_release(channels, q * state.CHANNEL_WORDS + state.NEED_WAKE_STACK, value)
    fence()


@dataclass
class _Client:
    """A connection to the stack's socket, before and after it said who it is."""

    control: socket.socket
    uid: int
    since: int
    observer: bool = False
    greeting: tuple[dict, list[int]] | None = None
    application: Application | None = None


class Server:
    """The stack over one device.

    Parameters
    ----------
    device: the device process; its header memory is the stack's.
    listener: from `messages.listen`.
    mac: six bytes. address, gateway: IPv4 in host byte order (0: no gateway). prefix: 0 to 32.
    interfaces: further addresses (`ipaddress` interfaces of either family).
    routes: (network, next hop) each, of `ipaddress`.
    tso: the card cuts large sends into segments.
    checksums: the card inserts them; else the stack makes them, reads payload for it, and cuts.
    scaling: steer by way of the card's receive-side scaling.
    """

    def __init__(self, device: DeviceProcess, listener: socket.socket, mac: bytes, address: int,
                 prefix: int, gateway: int = 0, mtu: int = 1500, interfaces=(),
                 routes=(), tso: bool = True, checksums: bool = True,
                 scaling: bool = False):  # fmt: skip
        self._device, self._listener = device, listener
        self._state_fd = memory.create("hdsnic-state", -(-tables.STATE_BYTES // 4096) * 4096)
        memory.add_seals(self._state_fd, memory.SIZE_SEALS)
        self._state = memory.Mapping(self._state_fd, os.fstat(self._state_fd).st_size)
        self._s = s = tables.allocate(self._state.memory)
        tables.initialise(s, mac, address, prefix, gateway, os.urandom(16), mss=mtu - 40)
        for each in interfaces:
            tables.add_address(s, *tables.split_address(each.ip), each.network.prefixlen)
        for network, hop in routes:
            where = tables.split_network(network.network_address)
            tables.add_route(s, *where, network.prefixlen, *tables.split_address(hop))
        at = tables.STATE.fields["control"][1] + tables.CONTROL.fields["listeners_version"][1]
        self._version = np.frombuffer(self._state.memory, np.int64, 1, at)
        self._seen_version = 0
        self._io = io = np.zeros(1, state.SERVICE)[0]
        header: HeaderMemory = device.header
        io["ring_bytes"] = header.layout.ring_bytes
        self._channels = memory.SlotMapping(len(io["queues"]), state.CHANNEL_BYTES)
        self._pools = None
        io["checksums"] = checksums
        if not checksums:
            self._pools = memory.SlotMapping(tables.REGIONS, POOL_STRIDE, writable=False)
        self._arguments = (
            s, io, header.slots, device.doorbells, header.rings, header.rings.view(np.int64),
            header.area, self._channels.words, NO_POOLS if checksums else self._pools.bytes,
        )  # fmt: skip
        self.card = Card(device)
        if tso and checksums:
            s["control"]["tso_bytes"] = min(self.card.parameters.tso_bytes_max, tables.TSO_MOST)
        if "commands" in self.card.parameters.features:
            s["control"]["place_bytes"] = self.card.parameters.frame_bytes_max
        self._placement = Placement(self.card, s)
        self._rules = Rules(self.card, s, io, scaling)
        self._applications = Applications(
            self.card,
            self._rules,
            self._placement,
            s,
            io,
            self._channels,
            self._detaching,
            self._pools,
        )
        self._clients: dict[int, _Client] = {}
        self._wakes: dict[int, Application] = {}
        self._epoll = select.epoll()
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._stop_writer.setblocking(False)
        for end in (listener, device.irq, device.control, self._stop_reader):
            self._epoll.register(end, select.EPOLLIN)
        self._stopping = False
        self._armed = False
        self._swept = 0
        self._counting = None
        self._counted: list[_Client] = []
        self.card.start(mac, address)
        for index, each in enumerate(interfaces, 1):
            self.card.store_address(index, each.ip.packed)
        self._applications.open_queue(0)
        if s["control"]["place_bytes"]:
            self.card.commands.start()

    def stop_descriptor(self) -> int:
        """A byte written here ends `run` (for `signal.set_wakeup_fd`)."""
        return self._stop_writer.fileno()

    def stop(self) -> None:
        """End `run` from another thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._stop_writer.send(b"\0")

    def claim_addresses(self) -> None:
        """Ask the link, for a second, whether another host has one of our addresses (RFC 5227,
        RFC 4862 section 5.4). Raises ServiceError that names the address and who has it."""
        core.probe_addresses(self._s, time.monotonic_ns())
        rows = self._s["locals"][: int(self._s["control"]["locals"])]
        while not self._stopping and (rows["state"] == duplicates.TENTATIVE).any():
            if not self._burst():
                self._sleep()
        for row in rows[rows["state"] == duplicates.TAKEN]:
            address = tables.join_address(int(row["high"]), int(row["address"]))
            mac = int(row["mac"]).to_bytes(6, "big").hex(":")
            raise ServiceError(
                f"address {address} is in use on this link by {mac}; give this stack another"
                " address, or find that host"
            )

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`. Raises DeviceError when the device ends or fails."""
        looked = 0
        while not self._stopping:
            # what is counted or reaped goes on beside the bursts
            beside = self._counting is not None or bool(self._applications.leaving)
            work = bursts(*self._arguments, self._seen_version, _LOOK_NS, 0 if beside else _POLL_NS)
            self._answer_burst(work)
            if self._counting is not None:
                self._count()
            now = time.monotonic_ns()
            if work & Work.IDLE and self._counting is None:
                self._sleep()
                looked = time.monotonic_ns()
            elif now - looked > _LOOK_NS:
                looked = now
                self._look(0)

    def _burst(self) -> bool:
        """One burst. True: the next one has something to do."""
        work = burst(*self._arguments, time.monotonic_ns())
        return self._answer_burst(work) or bool(work & Work.DONE)

    def _answer_burst(self, work: int) -> bool:
        """Do what a burst cannot do itself. True: the next one may have something to do by it."""
        changed = bool(work & Work.CONTROL)
        if work & Work.DEVICE_SEEN:
            self._armed = False
        if work & Work.WAKE_DEVICE:
            self._device.wake()
        if work & Work.PLACE or len(self._placement):
            self._placement.turn(time.monotonic_ns())
        if work & Work.WAKE_APPLICATIONS:
            wakes = int(self._io["wakes"])
            for queue, application in self._applications.by_queue.items():
                if wakes >> queue & 1:
                    application.rouse()
        if self._version[0] != self._seen_version:
            self._seen_version = int(self._version[0])
            self._rules.synchronise()
            changed = True
        if work & Work.CONTROL:
            self._control()
        if self._applications.leaving:
            self._applications.reap(time.monotonic_ns())
        return changed

    def _control(self):
        for queue in list(self._applications.by_queue):
            row = self._io["queues"][queue]
            if row["fault"] == 1:
                row["fault"] = 2
                self._dismiss(queue, "an index in the channel was beyond its ring")
            elif row["range"] == state.Range.WANTED:
                self._rules.give_range(queue)

    def _sleep(self):
        if not self._armed:
            self.card.arm()
            self._armed = True
        io, channels = self._io, self._channels.words
        _ask_for_wakes(io, channels, 1)
        now = time.monotonic_ns()
        try:
            if self._burst():
                return
            wait = min(int(io["deadline"]) - now, _SLEEP_NS)
            if self._applications.leaving or any(c.greeting for c in self._clients.values()):
                wait = min(wait, 5_000_000)
            self._look(max(wait, 0))
        finally:
            _ask_for_wakes(io, channels, 0)

    def _look(self, wait_ns: int):
        """Serve the sockets; wait for one of them at most `wait_ns`."""
        ready = []
        for fd, _ in self._epoll.poll(wait_ns / 1e9, 64):
            if fd == self._device.irq.fileno():
                if self._device.drain_irq():
                    self._armed = False
            elif fd == self._device.control.fileno():
                pass  # below: notices come before what applications say about them
            elif fd == self._listener.fileno():
                self._accept()
            elif fd == self._stop_reader.fileno():
                self._stopping = True
            elif fd in self._wakes:
                self._drain(fd)
            elif fd in self._clients:
                ready.append(self._clients[fd])
        self._take_notices()
        now = time.monotonic_ns()
        if now - self._swept > _SWEEP_NS or any(c.greeting for c in self._clients.values()):
            self._swept = now
            ready = list(self._clients.values())
        for client in ready:
            if self._clients.get(client.control.fileno()) is client:
                self._serve(client)
        if self._device.gone and not self._stopping:
            raise DeviceError("the device process has ended")

    def _take_notices(self):
        for notice, descriptors in self._device.notices():
            self._applications.on_notice(notice, descriptors)

    def _drain(self, fd):
        """Take wake-ups; a bounded number, since the application can send without end."""
        wake = self._wakes[fd].wake
        try:
            for _ in range(16):
                if wake is None or not wake.recv(16, socket.MSG_DONTWAIT):
                    self._forget_wake(fd)
                    break
        except BlockingIOError:
            pass
        except OSError:
            self._forget_wake(fd)

    def _forget_wake(self, fd):
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)
        self._wakes.pop(fd, None)

    # -- clients -----------------------------------------------------------------------------

    def _accept(self):
        for _ in range(16):
            try:
                control, _ = self._listener.accept()
            except OSError:
                return
            _, uid = credentials(control)
            users = [c.uid for c in self._clients.values() if c.application is None]
            if len(users) >= _CLIENTS_MAX or users.count(uid) >= _CLIENTS_PER_USER:
                control.close()
                continue
            control.setblocking(False)
            self._clients[control.fileno()] = _Client(control, uid, time.monotonic_ns())
            self._epoll.register(control, select.EPOLLIN)

    def _close(self, client: _Client):
        for fd, known in list(self._clients.items()):
            if known is client:
                del self._clients[fd]
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(fd)
        if client.greeting:
            close_all(client.greeting[1])
            client.greeting = None
        client.control.close()

    def _serve(self, client: _Client):
        if client.greeting:
            self._greet(client)
            return
        try:
            got = receive(client.control)
        except BlockingIOError:
            silent = time.monotonic_ns() - client.since > _GREETING_NS
            asked = any(each is client for each in self._counted)  # it is we who are silent
            if silent and client.application is None and not asked:
                self._close(client)
            return
        except (OSError, HdstackError) as error:
            self._refuse(client, str(error))
            return
        if got is None:
            self._left(client)
        elif client.observer and not got[1]:
            self._observe(client, got[0])
        elif client.application is None and not client.observer:
            message, descriptors = got
            if message.get("role") == "observer":
                close_all(descriptors)
                client.observer = True
                self._answer(client, {"ok": True})
            elif message.get("role") == "application":
                client.greeting, client.since = (message, descriptors), time.monotonic_ns()
                self._greet(client)
            else:
                close_all(descriptors)
                self._refuse(client, "the role is neither 'application' nor 'observer'")
        else:
            close_all(got[1])
            self._refuse(client, "this message has no meaning here")

    def _answer(self, client, message, descriptors=()):
        try:
            send(client.control, message, descriptors, ANSWER_BYTES)
        except (OSError, HdstackError):  # it does not read its answers
            self._left(client)

    def _refuse(self, client, reason):
        with contextlib.suppress(OSError, HdstackError):
            send(client.control, {"ok": False, "error": reason})
        self._left(client)

    def _left(self, client):
        application = client.application
        self._close(client)
        if application is not None:
            self._applications.gone(application.queue)

    def _dismiss(self, queue: int, reason: str):
        _log.warning("application of queue %d is dismissed: %s", queue, reason)
        for client in list(self._clients.values()):
            if client.application and client.application.queue == queue:
                self._refuse(client, reason)
        self._applications.gone(queue)

    def _greet(self, client: _Client):
        message, descriptors = client.greeting
        try:
            application, answer = self._applications.greet(client.control, message, descriptors)
        except ServiceError as error:
            self._refuse(client, str(error))
            return
        if application is None:
            if time.monotonic_ns() - client.since > _GREETING_NS:
                self._refuse(client, "the device has told nothing of this token; connect to the"
                             " device of the same run directory first")  # fmt: skip
            return
        close_all(descriptors)
        client.greeting, client.application = None, application
        self._wakes[application.wake.fileno()] = application
        self._epoll.register(application.wake, select.EPOLLIN)
        self._answer(client, answer, (application.channel,))

    def _detaching(self, application: Application):
        """Its sockets are about to be closed: look at them no more.

        The application holds its own end of the wake socket's description, so closing would not
        take it out of the epoll set.
        """
        if application.wake is not None:
            self._forget_wake(application.wake.fileno())
        for client in list(self._clients.values()):
            if client.application is application:
                client.application = None
                self._close(client)

    # -- observers ---------------------------------------------------------------------------

    def _observe(self, client, message):
        client.since = time.monotonic_ns()
        operation = message.get("op")
        if operation == "maps":
            maps = [entry._asdict() for entry in memory.own_maps()]
            self._answer(client, {"ok": True, "pid": os.getpid(), "uid": os.getuid(), "maps": maps})
        elif operation == "connections":
            rows = tables.connection_rows(self._s)
            told = rows[:_CONNECTIONS_TOLD]
            self._answer(client, {"ok": True, "total": len(rows), "connections": told})
        elif operation == "stats":
            self._counted.append(client)
            if self._counting is None:
                self._counting = self.card.read_counters(sorted(self._applications.used))
        else:
            self._refuse(client, f"op is {operation!r}; stats, maps and connections are known")

    def _count(self):
        read = next(self._counting)
        if read is None:
            return
        self._counting = None
        live = [0, *sorted(self._applications.by_queue)]
        answer = {
            "ok": True,
            "device": read,
            "tcp": dict(
                zip((row[0] for row in counters.TABLE), self._s["counters"].tolist(), strict=True)
            ),
            "queues": {str(q): self._queue_row(q) for q in live},
            "bursts": int(self._io["bursts"]),
            "rules": len(self._rules),
            "moving": int(self._s["control"]["moving"]),
            "pid": os.getpid(),
        }
        for client in self._counted:
            if client in self._clients.values():
                client.since = time.monotonic_ns()
                self._answer(client, answer)
        self._counted = []

    def _queue_row(self, queue):
        row = self._io["queues"][queue]
        told = {n: int(row[n]) for n in ("records", "requests", "events", "segments", "paused")}
        application = self._applications.by_queue.get(queue)
        if application:
            told |= {"owner": application.owner, "pid": application.pid, "uid": application.uid}
        return told

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Reset what is open, switch the card off, give everything back."""
        for client in list(self._clients.values()):
            self._close(client)
        if not self._device.gone:
            with contextlib.suppress(HdstackError):
                for queue in list(self._applications.by_queue):
                    self._applications.gone(queue)
                burst(*self._arguments, time.monotonic_ns())
                self._device.wake()
                self.card.fence()
                self.card.stop()
        self._epoll.close()
        self._listener.close()
        self._stop_reader.close()
        self._stop_writer.close()
        self._arguments = ()
        os.close(self._state_fd)
