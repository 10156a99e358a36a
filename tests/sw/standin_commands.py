"""The software card's command ring and completion rings."""

from hdsnic import abi
from hdsnic.abi import CommandKind, CompletionKind
from hdstack.atomic import load_acquire

_CELL = abi.CELL_BYTES
_DONE, _REFUSED = 0, 1


class CommandRing:
    """The command ring of a software card: one command a turn."""

    def __init__(self, card):
        self.card = card
        self.base, self.bytes = 0, 0
        self.consumer = 0
        self.exact: dict[int, dict] = {}  # slot -> fields of EXACT_RULE
        self.completed: dict[int, int] = {}  # queue -> producer index of its completion ring

    def set_ring(self, value: int):
        fields = abi.CONTROL.COMMAND_RING.unpack(value)
        self.base = fields["base"] * 4096
        self.bytes = 1 << fields["log2_bytes"] if fields["log2_bytes"] else 0
        self.consumer = 0

    def step(self) -> bool:
        if not self.bytes:
            return False
        producer = load_acquire(self.card.pages, 1024 + 3)
        ahead = (producer - self.consumer) & 0xFFFFFFFF
        if not 0 < ahead <= self.bytes // _CELL:
            return False
        fields = abi.COMMAND.unpack(self._cells(self.consumer, 1))
        cells = 1
        if fields["kind"] == CommandKind.RULE:
            cells += abi.EXACT_RULE.bytes // _CELL
        elif fields["kind"] == CommandKind.PLACE:
            cells += max(fields["ranges"], 1) // 2
        tail = self._cells(self.consumer + 1, cells - 1)
        whole = cells <= ahead
        self.consumer = (self.consumer + min(cells, ahead)) & 0xFFFFFFFF
        status = self._carry_out(fields, tail) if whole else _REFUSED
        self.complete(
            0, kind=CompletionKind.COMMAND, queue=fields["queue"], status=status,
            cookie=fields["cookie"], index=self.consumer,
        )  # fmt: skip
        return True

    def _cells(self, at, count):
        return self.card.ring_bytes((self.base, self.bytes), at * _CELL, count * _CELL)

    def _carry_out(self, fields, tail):
        card, kind = self.card, fields["kind"]
        if kind == CommandKind.FENCE:
            card.log.append(("fence",))
        elif kind == CommandKind.RULE:
            rule = abi.EXACT_RULE.unpack(tail)
            if rule["valid"]:
                self.exact[rule["slot"]] = rule
            else:
                self.exact.pop(rule["slot"], None)
            card.log.append(("exact", rule["slot"], rule["valid"]))
        elif kind == CommandKind.REVOKE:
            for region in range(16):
                if fields["offset"] >> region & 1:
                    card.revoke_access(region)
        elif kind == CommandKind.QUEUE_RESET and fields["queue"]:
            card.queues[fields["queue"]].on = False
        elif kind == CommandKind.PLACE:
            return self._place(fields, tail)
        else:
            return _REFUSED
        return _DONE

    def _place(self, fields, tail):
        ranges = [(fields["offset"], fields["length"])]
        for k in range(fields["ranges"] - 1):
            more = abi.COMMAND_RANGE.unpack(tail[8 * k :])
            ranges.append((more["offset"], more["length"]))
        header = self.card.header
        if not 1 <= fields["ranges"] <= 16 or any(
            not n or at + n > len(header) for at, n in ranges
        ):
            return _REFUSED
        data = b"".join(header[at : at + n].tobytes() for at, n in ranges)
        self.card.place(fields["queue"], data, fields["cookie"])
        return _DONE

    def complete(self, ring, **fields):
        """Write a completion into the ring of queue `ring`, if it has one with room."""
        place = abi.CONTROL.COMPLETION_RING.unpack(
            self.card.registers.get(abi.CONTROL.COMPLETION_RING.at(ring), 0)
        )
        producer = self.completed.get(ring, 0)
        consumer = load_acquire(self.card.pages, (1 + ring) * 1024 + 2)
        if not self.card.queues[ring].on or not place["log2_bytes"]:
            return
        cells = (1 << place["log2_bytes"]) // _CELL
        if (producer - consumer) & 0xFFFFFFFF >= cells:
            return
        at = place["base"] * 4096 + producer % cells * _CELL
        self.card.header[at : at + _CELL] = memoryview(abi.COMPLETION.pack(**fields))
        self.completed[ring] = (producer + 1) & 0xFFFFFFFF
        self.card.publish(ring, 3, self.completed[ring])
