"""Exact rules: one for each flow, in a table whose slots the driver chooses.

The device looks for a flow in one slot of each way. Where all of them are taken, a rule that stands
there moves to another slot of its own, as in a cuckoo table: it is written in its new place before
its old one is written over, so no flow is without its rule for a moment.
"""

from collections import deque
from dataclasses import dataclass

from hdsnic.abi.flow_hash import flow_slots

from ..errors import ConfigurationError
from .commands import Commands

__all__ = ["ExactRules", "Flow"]

_LOOKED_AT_MAX = 512
"""Slots that a search for room looks at; a table that is four fifths full needs a few."""


@dataclass(frozen=True)
class Flow:
    """A flow as its received frames show it. Addresses: 4 or 16 bytes in network order."""

    remote: bytes
    remote_port: int
    local: bytes
    local_port: int
    udp: bool = False


class ExactRules:
    """What stands in the card's table of exact rules.

    `store` and `clear` return the cookie of their last command: the rule is in force, and fenced,
    once it is done (`Commands.wait`). Raises ConfigurationError where there is no room: the flow
    then goes by its listener rule, and what lands on queue 0 is moved by PLACE.
    """

    def __init__(self, commands: Commands, ways: int, rows: int):
        self._commands, self._ways, self._rows = commands, ways, rows
        self._flows: dict[Flow, tuple[int, int, bool]] = {}  # slot, queue or context, rss
        self._slots: dict[int, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, flow: Flow) -> bool:
        return flow in self._flows

    def slots(self, flow: Flow) -> list[int]:
        """The slots in which the device looks for a flow."""
        return flow_slots(
            self._ways, self._rows, flow.remote, flow.remote_port, flow.local, flow.local_port
        )

    def store(self, flow: Flow, queue: int, *, rss: bool = False) -> int:
        """Send the frames of a flow to `queue` (with `rss`, a context); changes an older rule."""
        if flow in self._flows:
            return self._write(self._flows[flow][0], flow, queue, rss)
        path = self._make_room(flow)
        # From the free end on: each rule has its new place before the old one is written over.
        for slot, mover in zip(path[:0:-1], [self._slots[s] for s in path[-2::-1]], strict=True):
            self._write(slot, mover, *self._flows[mover][1:])
        return self._write(path[0], flow, queue, rss)

    def clear(self, flow: Flow) -> int:
        """Take a rule away."""
        slot, _, _ = self._flows.pop(flow)
        del self._slots[slot]
        return self._commands.store_rule(slot=slot)

    def _make_room(self, flow):
        """Slots from one of the flow's own to a free one: each rule moves on to the next."""
        before: dict[int, int | None] = {}
        queue = deque()
        for slot in self.slots(flow):
            if slot not in before:
                before[slot] = None
                queue.append(slot)
        while queue and len(before) < _LOOKED_AT_MAX:
            slot = queue.popleft()
            holder = self._slots.get(slot)
            if holder is None:
                path = [slot]
                while before[path[-1]] is not None:
                    path.append(before[path[-1]])
                return path[::-1]
            for other in self.slots(holder):
                if other not in before:
                    before[other] = slot
                    queue.append(other)
        raise ConfigurationError(
            f"no room for an exact rule: {len(self)} of {self._ways * self._rows} slots are taken"
        )

    def _write(self, slot, flow, queue, rss):
        cookie = self._commands.store_rule(
            slot=slot, valid=1, ipv6=len(flow.remote) == 16, udp=flow.udp, rss=rss, queue=queue,
            remote_port=flow.remote_port, local_port=flow.local_port,
            remote=int.from_bytes(flow.remote, "little"),
            local=int.from_bytes(flow.local, "little"),
        )  # fmt: skip
        self._slots[slot] = flow
        self._flows[flow] = slot, queue, rss
        return cookie
