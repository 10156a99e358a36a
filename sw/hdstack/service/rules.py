"""Steering rules as TCP and UDP need them: one for each port listened on or bound, one for each
port range.

A rule is committed, and the frames looked up before it have passed, before the application hears
LISTENING or BOUND, or the first SYN leaves (R15, R32): what the rule is for cannot race it.
"""

import logging
import os

from hdsnic import abi

from ..driver import Card
from ..errors import ServiceError
from ..tcp import core, tables
from ..tcp.states import LISTENER_FREE, LISTENER_PENDING
from ..udp.tables import BOUND, PENDING
from .state import PORTS, Range, port_range

__all__ = ["Rules"]

_log = logging.getLogger(__name__)
_FIRST_EPHEMERAL = port_range(0)[0]


class Rules:
    """The card's listener rules; the first `range_listeners` are kept for port ranges as long as
    there are others. A rule is for every local address.

    `scaling`: by way of receive-side scaling, in the context of the queue's number. An application
    has one queue, so all of its indirection table leads there.
    """

    def __init__(self, card: Card, s, io, scaling: bool = False):
        self._card, self._s, self._io, self._scaling = card, s, io, scaling
        if scaling and card.parameters.rss_contexts < card.parameters.queues:
            raise ServiceError(
                f"the card has {card.parameters.rss_contexts} contexts of receive-side scaling for"
                f" {card.parameters.queues} queues; start the stack without it"
            )
        self._scaled: set[int] = set()
        p = card.parameters
        # Taken from the end: single ports first use the rules that cannot match a range.
        self._free_single = list(range(p.listeners - 1, p.range_listeners - 1, -1))
        self._free_range = list(range(p.range_listeners - 1, -1, -1))
        self._listeners: dict[int, tuple[int, int, int]] = {}
        self._ranges: dict[int, int] = {}
        self._bound: dict[tuple[int, int], int] = {}  # of UDP: (queue, port) to the rule's index

    def __len__(self) -> int:
        return len(self._listeners) + len(self._ranges) + len(self._bound)

    def _give_back(self, index: int) -> None:
        self._card.clear_listener(index)
        single = index >= self._card.parameters.range_listeners
        (self._free_single if single else self._free_range).append(index)
        for queue in self._io["queues"]:
            if queue["range"] == Range.REFUSED:
                queue["range"] = Range.NONE

    def _steer(
        self, index: int, queue: int, first: int, last: int | None = None, udp: bool = False
    ) -> None:
        if self._scaling and queue not in self._scaled:
            self._card.store_scaling(queue, os.urandom(abi.RSS_KEY_BYTES), [queue])
            self._scaled.add(queue)
        self._card.store_listener(
            index, queue, first, last, udp=udp, address=None, rss=self._scaling
        )

    def synchronise(self) -> None:
        """Make the card's rules those of listeners and UDP sockets, and tell which are in force."""
        self._synchronise_listeners()
        self._synchronise_bound()

    def _synchronise_listeners(self):
        rows = self._s["listeners"]
        states, queues, ports = (rows[name].tolist() for name in ("state", "queue", "port"))
        for row, (index, queue, port) in list(self._listeners.items()):
            if states[row] == LISTENER_FREE or (queues[row], ports[row]) != (queue, port):
                self._give_back(index)
                del self._listeners[row]
        pending = [row for row in range(tables.LISTENERS) if states[row] == LISTENER_PENDING]
        good = [row for row in pending if self._store(row, queues[row], ports[row])]
        if good:
            self._card.fence()
        for row in pending:
            core.listener_ready(self._s, row, int(row in good))

    def _synchronise_bound(self):
        rows = self._s["endpoints"]
        states, queues, ports = (rows[n].tolist() for n in ("state", "queue", "local_port"))
        open_now = [row for row, state in enumerate(states) if state in (PENDING, BOUND)]
        wanted = {(queues[row], ports[row]) for row in open_now}
        for key in [key for key in self._bound if key not in wanted]:
            self._give_back(self._bound.pop(key))
        before = len(self._bound)
        for queue, port in sorted(wanted - self._bound.keys()):
            index = self._take(queue, port, udp=True)
            if index is not None:
                self._bound[queue, port] = index
        if len(self._bound) > before:
            self._card.fence()
        for row in open_now:
            if states[row] == PENDING:
                ready = (queues[row], ports[row]) in self._bound
                core.endpoint_ready(self._s, row, int(ready))

    def _store(self, row: int, queue: int, port: int) -> bool:
        if row in self._listeners:
            return True
        index = self._take(queue, port)
        if index is not None:
            self._listeners[row] = index, queue, port
        return index is not None

    def _take(self, queue: int, port: int, udp: bool = False) -> int | None:
        """Store a rule for one port; its index, or None where there can be none."""
        if udp and "udp_split" not in self._card.parameters.features:
            _log.warning("this card does not split UDP: port %d cannot be bound", port)
            return None
        if port >= _FIRST_EPHEMERAL and (port - _FIRST_EPHEMERAL) // PORTS != queue:
            return None  # another application's ephemeral ports
        free = self._free_single or self._free_range
        if not free:
            _log.warning("no steering rule is left for port %d of queue %d", port, queue)
            return None
        index = free.pop()
        self._steer(index, queue, port, udp=udp)
        return index

    def give_range(self, queue: int) -> None:
        """Steer the ephemeral ports of `queue` to it; without a free rule its CONNECTs fail."""
        row = self._io["queues"][queue]
        if queue not in self._ranges:
            if not self._free_range:
                row["range"] = Range.REFUSED
                return
            index = self._free_range.pop()
            self._steer(index, queue, *port_range(queue))
            self._card.fence()
            self._ranges[queue] = index
        row["range"] = Range.READY

    def drop_queue(self, queue: int) -> None:
        """The application of `queue` is gone: no frame is steered to it any more."""
        for row, (index, owner, _) in list(self._listeners.items()):
            if owner == queue:
                self._give_back(index)
                del self._listeners[row]
        for key in [key for key in self._bound if key[0] == queue]:
            self._give_back(self._bound.pop(key))
        if queue in self._ranges:
            self._give_back(self._ranges.pop(queue))
        self._io["queues"][queue]["range"] = Range.NONE
