"""Applications of the stack: what the device told of them, and the channel that each one has.

The device's notices say which queue an application got, its credentials, and which regions are
live. An application then comes to the stack's own socket with its token and gets its channel. No
more than that is believed of it: a token counts only with the process and user that the kernel
reports for the socket.
"""

import contextlib
import hmac
import logging
import os
import socket
import struct
import time
from dataclasses import dataclass, field

from hdsnic import abi

from .. import memory
from ..driver import Card
from ..errors import MemoryRefused, ServiceError
from ..messages import close_all
from ..tcp import core, tables
from . import state
from .placement import Placement
from .rules import Rules

__all__ = ["Application", "Applications", "credentials"]

_log = logging.getLogger(__name__)
_LEAVE_NS = 100_000_000
"""How long the queue of an application that left still carries its resets to the peers."""


def credentials(control: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end of a Unix socket, on the kernel's word."""
    raw = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid


@dataclass
class Application:
    """One application: its queue, who it is, its live regions, and its channel once it came."""

    queue: int
    owner: int
    token: str
    pid: int
    uid: int
    regions: dict[int, memory.Mapping] = field(default_factory=dict)
    control: socket.socket | None = None
    wake: socket.socket | None = None
    channel: int = -1
    came: bool = False
    leave_by: int = 0

    def rouse(self) -> None:
        """Wake it. Never blocks; a full socket holds a wake that it has not yet taken."""
        if self.wake is not None:
            with contextlib.suppress(OSError):
                self.wake.send(b"\0", socket.MSG_DONTWAIT)


class Applications:
    """Brings device notices and applications' greetings into the tables of TCP and of the burst."""

    def __init__(self, card: Card, rules: Rules, placement: Placement, s, io,
                 channels: memory.SlotMapping, detaching,
                 pools: memory.SlotMapping | None = None):  # fmt: skip
        """`detaching(application)` is called before the sockets of an application are closed.

        `pools`: gets every live region in its slot, where the stack reads payload for checksums.
        """
        self._pools = pools
        self._card, self._rules, self._s, self._io = card, rules, s, io
        self._placement = placement
        self._channels, self._detaching = channels, detaching
        self.by_queue: dict[int, Application] = {}
        self.used = {0}
        """Queues that were ever on: their counters tell of those that left, too."""

    # -- queues ------------------------------------------------------------------------------

    def open_queue(self, queue: int) -> None:
        """Switch a queue on, with all of its indices at zero; that of an application splits UDP."""
        if queue and "udp_split" in self._card.parameters.features:
            self._card.set_mode(queue, udp_split=True)
        self._card.enable_queue(queue)
        row = self._io["queues"][queue]
        for name in row.dtype.names:
            row[name] = 0
        core.on_attach_tx(self._s, queue)
        row["live"] = 1
        self.used.add(queue)

    def close_queue(self, queue: int) -> None:
        """Switch a queue off; the card touches its rings no more."""
        self._io["queues"][queue]["live"] = 0
        self._card.disable_queue(queue)

    # -- what the device tells ---------------------------------------------------------------

    def on_notice(self, notice: dict, descriptors: list[int]) -> None:
        """Take one notice of the device; closes the descriptors."""
        try:
            kind = notice.get("notice")
            if kind == "application":
                self._arrived(notice)
            elif kind == "region":
                self._region(notice, descriptors)
            elif kind == "revoked":
                self._revoked(int(notice["region"]))
            elif kind == "gone":
                self.gone(int(notice["queue"]))
            else:
                _log.warning("the device sent a notice of an unknown kind: %s", notice)
        except (KeyError, TypeError, ValueError, MemoryRefused) as error:
            _log.error("notice %s of the device was refused: %s", notice, error)
        finally:
            close_all(descriptors)

    def _arrived(self, notice):
        queue = int(notice["queue"])
        if not 0 < queue < self._card.parameters.queues:
            raise ValueError(f"queue {queue} cannot belong to an application")
        if queue in self.by_queue:
            self.gone(queue)
            self._finish(self.by_queue[queue])
        self._placement.drain(queue)
        self.open_queue(queue)
        core.set_queue(self._s, queue, *state.port_range(queue))
        self.by_queue[queue] = Application(
            queue, int(notice["owner"]), str(notice["token"]), int(notice["pid"]),
            int(notice["uid"]),
        )  # fmt: skip

    def _region(self, notice, descriptors):
        queue, region = int(notice["queue"]), int(notice["region"])
        application = self.by_queue.get(queue)
        if application is None or application.leave_by:
            return
        element, elements = int(notice["element_bytes"]), int(notice["elements"])
        if not 0 <= region < abi.REGIONS_MAX or len(descriptors) != 1:
            raise ValueError(f"region {region} with {len(descriptors)} descriptors")
        size = memory.check(descriptors[0], needed=memory.PAYLOAD_SEALS)
        if element <= 0 or elements <= 0 or element * elements > size:
            raise ValueError(f"{elements} elements of {element} bytes in a pool of {size}")
        self._revoked(region)
        application.regions[region] = memory.Mapping(descriptors[0], size, writable=False)
        if self._pools is not None:
            self._pools.attach(region, descriptors[0], size)
        core.set_region(
            self._s, region, int(notice["generation"]), queue, element, element * elements,
            int(notice["postable"]),
        )  # fmt: skip

    def _revoked(self, region):
        for application in self.by_queue.values():
            mapping = application.regions.pop(region, None)
            if mapping is not None:
                core.clear_region(self._s, region)
                if self._pools is not None:
                    self._pools.detach(region)
                mapping.close()

    def gone(self, queue: int) -> None:
        """The application is dead, or has left: its peers are reset, its rules and channel go.

        Its queue stays for at most 100 ms, to carry the resets; see `reap`.
        """
        application = self.by_queue.get(queue)
        if application is None or application.leave_by:
            return
        now = time.monotonic_ns()
        self._detach(application)
        for region in list(application.regions):
            self._revoked(region)
        core.drop_owner(self._s, queue, now)
        self._placement.drop_queue(queue)
        self._rules.drop_queue(queue)
        self._rules.synchronise()
        application.leave_by = now + _LEAVE_NS

    def _detach(self, application):
        self._io["queues"][application.queue]["attached"] = 0
        self._channels.detach(application.queue)
        self._detaching(application)
        for end in (application.control, application.wake):
            if end is not None:
                end.close()
        application.control = application.wake = None
        if application.channel >= 0:
            os.close(application.channel)
            application.channel = -1

    @property
    def leaving(self) -> bool:
        return any(a.leave_by for a in self.by_queue.values())

    def reap(self, now_ns: int) -> None:
        """Switch off the queues of those that left, once their last segments are sent."""
        for application in [a for a in self.by_queue.values() if a.leave_by]:
            row = self._io["queues"][application.queue]
            sent = row["tx_producer"] == row["tx_consumer"]
            if now_ns >= application.leave_by or (
                sent and core.next_segment(self._s, application.queue) < 0
            ):
                self._finish(application)

    def _finish(self, application):
        self.close_queue(application.queue)
        del self.by_queue[application.queue]

    # -- what an application asks ------------------------------------------------------------

    def greet(self, control: socket.socket, message: dict, descriptors: list[int]):
        """Attach the application that sent its token; (application, answer).

        The application is None where the device has not told of it, or of its regions, yet: to be
        tried again. Raises ServiceError with the reason to tell it otherwise.
        """
        token, regions = message.get("token"), message.get("regions", [])
        if not isinstance(token, str) or not isinstance(regions, list) or len(descriptors) != 1:
            raise ServiceError("an application sends its token and one end of a socket pair")
        if any(type(region) is not int for region in regions):
            raise ServiceError("an application names its regions by their numbers")
        if message.get("abi") not in (None, abi.ABI_VERSION):
            raise ServiceError(f"the stack speaks version {abi.ABI_VERSION} of the contract,"
                               f" the application {message.get('abi')!r}")  # fmt: skip
        pid, uid = credentials(control)
        application = next(
            (a for a in self.by_queue.values()
             if hmac.compare_digest(a.token.encode(), token.encode("utf-8", "replace"))),
            None,
        )  # fmt: skip
        if application is None:
            return None, {}
        if (pid, uid) != (application.pid, application.uid):
            raise ServiceError(f"process {pid} of user {uid} is not the one with this token")
        if application.came:
            raise ServiceError("this token was used before; connect to the device again")
        if any(region not in application.regions for region in regions):
            return None, {}
        wake = _wake_socket(descriptors[0])
        channel = -1
        try:
            channel = memory.create("hdsnic-channel", state.CHANNEL_BYTES)
            memory.add_seals(channel, memory.SIZE_SEALS | memory.SEAL_SEAL)
            self._channels.attach(application.queue, channel)
        except OSError as error:
            if channel >= 0:
                os.close(channel)
            wake.close()
            raise ServiceError(f"no channel can be made: {error.strerror}") from None
        application.control, application.wake = control, wake
        application.channel, application.came = channel, True
        self._io["queues"][application.queue]["attached"] = 1
        address = int(self._s["control"]["address"])
        return application, {
            "ok": True,
            "abi": abi.ABI_VERSION,
            "address": socket.inet_ntoa(address.to_bytes(4, "big")),
            "addresses": [
                str(tables.join_address(int(row["high"]), int(row["address"])))
                for row in self._s["locals"][: self._s["control"]["locals"]]
            ],
            "queue": application.queue,
            "mtu": int(self._s["control"]["mss"]) + 40,
            "request_rows": state.REQUEST_ROWS,
            "event_rows": state.EVENT_ROWS,
            "bytes": state.CHANNEL_BYTES,
        }


def _wake_socket(fd: int) -> socket.socket:
    """The socket behind a descriptor of an application; ServiceError if it is something else."""
    own = os.dup(fd)
    try:
        end = socket.socket(fileno=own)
    except OSError as error:
        os.close(own)
        raise ServiceError(f"the descriptor for wake-ups is not a socket ({error})") from None
    good = end.family == socket.AF_UNIX and end.type == socket.SOCK_SEQPACKET
    if not good or end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        end.close()
        raise ServiceError("the descriptor for wake-ups is not an end of a SEQPACKET socket pair")
    end.setblocking(False)
    return end
