"""Descriptors, good and bad: what must leave on the wire, in order, or be refused (R17 to R19).

scapy makes every frame (`rtl.tx.transmit_frames`).
"""

from collections import deque
from dataclasses import dataclass

import transmit_frames
from rtl.nic.host import RING_BYTES
from rtl.nic.traffic.history import NEVER
from rtl.nic.traffic.matching import explain, named
from rtl.nic.traffic.memory import now

from hdsnic import abi
from hdsnic.abi import TxOutcome

_CELL = abi.CELL_BYTES


@dataclass(eq=False)
class Ring:
    """A transmit ring from its store to the next one."""

    queue: int
    begun: int
    producer: int = 0
    consumer: int = 0
    closed: int = NEVER  # its queue was known to be off
    overrun: bool = False  # the last descriptor runs beyond the producer index


@dataclass(eq=False)
class Departure:
    """A descriptor: where it stands, its frames, and what is known of its fate."""

    ring: Ring
    begin: int
    end: int
    sent: transmit_frames.Sent
    fixed: TxOutcome | None  # what the fixed part alone decides
    rung: int
    consumed: int = NEVER
    left: int = 0  # frames that have left
    told: TxOutcome | None = None


class Departures:
    """Transmit rings of all queues."""

    def __init__(self, case):
        self.case = case
        self.rings, self.all = {}, []
        self.waiting = {}  # bytes of a frame -> [(departure, number of the segment)]
        self.last = {}  # queue -> departure of the last frame

    def ring_begins(self, queue):
        """A transmit ring starts at zero."""
        self.rings[queue] = Ring(queue, now())

    def ring_ends(self, queue):
        """The queue is off, its indices are final: what was not begun is gone."""
        self.rings[queue].closed = now()

    # -- what the stack does --

    async def send(self, queue, rng):
        """Put a random descriptor into the ring, if there is room, and ring the doorbell."""
        case, ring = self.case, self.rings[queue]
        if ring.closed != NEVER or ring.overrun:
            return
        sent, fixed = self._draw(queue, rng)
        cells = sent.cells
        size = case.host.ring_bytes.get(queue, RING_BYTES)
        overrun = fixed == TxOutcome.OVERRUN
        written = 1 if overrun else cells
        if ring.producer - ring.consumer + written > size // _CELL:
            return
        data = sent.encode() if not overrun else sent.encode()[:_CELL]
        for k in range(written):
            at = (ring.producer + k) * _CELL % size
            case.host.header.write(case.host.tx_ring(queue) + at, data[k * _CELL : (k + 1) * _CELL])
        departure = Departure(ring, ring.producer, ring.producer + written, sent, fixed, now())
        self.all.append(departure)
        for number, frame in enumerate(sent.frames):
            self.waiting.setdefault(frame, []).append((departure, number))
        ring.producer += written
        ring.overrun = overrun
        page = abi.stack_doorbell_page(queue)
        bell = abi.STACK_DOORBELL.TX_PRODUCER
        if rng.random() < 0.05:  # beyond the ring: ignored
            await case.host.doorbell(
                page, bell, ring.producer + size // _CELL + rng.getrandbits(20)
            )
        await case.host.doorbell(page, bell, ring.producer)

    def _draw(self, queue, rng):
        """A descriptor, and the outcome that its fixed part decides, if any."""
        case = self.case
        serial = 1024 + len(self.all)
        mine = [r for r in case.live_regions() if r.owner == case.owners[queue] and r.nic_read]
        if not mine:
            payload = rng.randbytes(rng.choice((1, 40, 700)))
            return transmit_frames.segment(payload, sport=serial, ipv6=rng.random() < 0.5), None
        region = rng.choice(mine)
        memory = {region.number: region.stock}
        if rng.random() < 0.25:
            sent = transmit_frames.mixed_segments(rng, memory, region.number, region.generation)
        elif rng.random() < 0.1:
            sent = transmit_frames.plain(
                rng, 54, transmit_frames.split(
                    rng, memory, region.number, region.generation, [rng.choice((1400, 8900))]
                ), memory,
            )  # fmt: skip
        else:
            sent = transmit_frames.mixed(rng, memory, region.number, region.generation, serial)
        sent.references = [(r, g, o + region.stock_at, n) for r, g, o, n in sent.references]
        fixed = None
        if rng.random() < 0.2:
            fixed = self._spoil(sent, queue, region, rng)
            sent.frames = []
        return sent, fixed

    def _spoil(self, sent, queue, region, rng):
        """Make one thing wrong; the outcome, if the fixed part or a length decides it."""
        bad = TxOutcome.BAD_DESCRIPTOR
        kind = rng.randrange(10)
        if kind == 0:
            sent.fields["spare"] = rng.randrange(1, 8)
            return bad
        if kind == 1 and not sent.fields.get("tso"):
            sent.fields["mss"] = rng.randrange(1, 1 << 16)
            return bad
        if kind == 2:
            sent.header = sent.header[:13]
            sent.fields |= {"header_length": 13}
            return bad
        if kind == 3 and rng.random() < 0.3:
            sent.fields |= {"header_length": 0xFFFF}
            return TxOutcome.OVERRUN
        at = rng.randrange(len(sent.references)) if sent.references else 0
        if not sent.references:
            sent.references = [(region.number, region.generation, 0, 64)]
        number, generation, offset, length = sent.references[at]
        others = [r for r in self.case.live_regions() if r.owner != region.owner]
        if kind == 4:
            length = 0
        elif kind == 5 and others:  # a neighbour's bytes
            number, generation = (other := rng.choice(others)).number, other.generation
        elif kind == 6:
            generation = (generation + rng.randrange(1, 256)) % 256
        elif kind == 7:
            number = rng.choice((14, 15, 16, 77, 255))
        elif kind == 8:
            offset = region.bytes - length + 1
        else:
            offset = rng.choice((0xFFFFFFFF, 1 << 31, region.bytes))
        sent.references[at] = (number, generation, offset, length)
        sent.fields.pop("references", None)
        return bad if length == 0 and at == 0 else None

    # -- what the card says --

    def consumed(self, queue, index):
        """The index slot shows a transmit consumer index."""
        ring = self.rings[queue]
        if ring.closed != NEVER:
            return
        assert ring.consumer <= index <= ring.producer, (
            f"tx_consumer {index} of queue {queue}; it was {ring.consumer}, written is"
            f" {ring.producer}"
        )
        ends = {0} | {d.end for d in self.all if d.ring is ring}
        assert index in ends, f"tx_consumer {index} of queue {queue} is within a descriptor"
        ring.consumer = index
        for departure in self.all:
            if departure.ring is ring and departure.end <= index:
                departure.consumed = min(departure.consumed, now())

    def told(self, queue, index, outcome):
        """A TRANSMIT_FAULT completion."""
        for departure in reversed(self.all):
            ring = departure.ring
            if ring.queue == queue and departure.begin == index:
                assert outcome in self.allowed(departure) - {TxOutcome.SENT}, (
                    f"{self.describe(departure)} was refused as {outcome!r}"
                )
                assert departure.told is None, f"{self.describe(departure)} was refused twice"
                departure.told = outcome
                return
        raise AssertionError(f"queue {queue} is told of descriptor {index}, which is none")

    def leave(self, frame, error):
        """A frame on the wire."""
        assert not error, "a frame was cut on the wire"
        entries = self.waiting.get(frame)
        assert entries, f"a frame that no descriptor asks for: {frame[:80].hex()} ({len(frame)})"
        departure, number = entries.pop(0)
        assert departure.left == number, f"segment {number} of {self.describe(departure)} is early"
        assert departure.told is None, f"{self.describe(departure)} was refused, and sent"
        departure.left += 1
        queue = departure.ring.queue
        last = self.last.get(queue)
        if last is not None and last is not departure:
            order = self.all.index(departure) > self.all.index(last)
            assert order, f"{self.describe(departure)} left behind a later one"
            whole = last.left == len(last.sent.frames) or self.case.errors.any
            assert whole, f"{self.describe(last)} was left before its last segment"
        self.last[queue] = departure

    # -- what must be --

    def allowed(self, departure):
        """Outcomes that the descriptor may have had."""
        if departure.told is not None:
            return {departure.told}
        queue = departure.ring.queue
        until = min(departure.consumed, departure.ring.closed)
        touched = self.case.errors.touched(queue, departure.rung, until)
        errors = {TxOutcome.PORT_ERROR} if touched else set()
        if departure.fixed is not None:
            return {departure.fixed} | errors
        out, owner = set(errors), self.case.owners[queue]
        for number, generation, offset, length in departure.sent.references:
            grants = set()
            for row in self.case.rows(number, departure.rung, until):
                if length == 0:
                    grants.add(TxOutcome.BAD_DESCRIPTOR)
                elif row is None or row.generation != generation:
                    grants.add(TxOutcome.BAD_REGION)
                elif row.owner != owner:
                    grants.add(TxOutcome.BAD_OWNER)
                elif not row.nic_read:
                    grants.add(TxOutcome.NO_PERMISSION)
                elif offset + length > row.bytes:
                    grants.add(TxOutcome.OUT_OF_REGION)
                else:
                    grants.add(TxOutcome.SENT)
            out |= grants - {TxOutcome.SENT}
            if TxOutcome.SENT not in grants:
                return out
        return out | {TxOutcome.SENT}

    def describe(self, departure):
        """A descriptor in words."""
        return (
            f"the descriptor at {departure.begin} of queue {departure.ring.queue}"
            f" ({named(self.allowed(departure))}; {departure.left} of"
            f" {len(departure.sent.frames)} frames left)"
        )

    def busy(self, stopped):
        """A descriptor that is still to be done, or None; `stopped`: queues that have stopped."""
        for departure in self.all:
            ring, frames = departure.ring, len(departure.sent.frames)
            if departure.consumed != NEVER:
                if departure.left < frames and self.allowed(departure) == {TxOutcome.SENT}:
                    return departure
            elif ring.closed == NEVER and ring.queue not in stopped:
                return departure
        return None

    def settle(self, counters, all_told):
        """All descriptors against the counters: by queue, outcome -> number.

        `all_told`: no completion was lost, so each refusal must have been told.
        """
        sent = TxOutcome.SENT
        for queue, counts in counters.items():
            certain, possible = [], deque()
            for departure in (d for d in self.all if d.ring.queue == queue):
                allowed, frames = self.allowed(departure), len(departure.sent.frames)
                what = self.describe(departure)
                if departure.left and departure.left == frames:
                    assert sent in allowed, f"{what} was sent"
                    certain.append(({sent}, what))
                    continue
                assert not departure.left or TxOutcome.PORT_ERROR in allowed, f"{what} in part"
                closed = departure.ring.closed != NEVER and departure.consumed == NEVER
                assert not (closed and departure.left), f"{what} left a queue that is off"
                refused = allowed - {sent}
                if departure.consumed != NEVER or departure.told is not None:
                    assert refused, f"{what} is behind the consumer index"
                    certain.append((refused, what))
                elif refused & {TxOutcome.OVERRUN, TxOutcome.PORT_ERROR}:
                    possible.append((refused, what))
            explain(certain, list(possible), counts, f"descriptors of queue {queue}")
            told = sum(d.told is not None for d in self.all if d.ring.queue == queue)
            refusals = sum(n for outcome, n in counts.items() if outcome != sent)
            assert told <= refusals, f"queue {queue}: {told} refusals told, {refusals} counted"
            if all_told:
                assert told == refusals, f"queue {queue}: {refusals} refusals, {told} told"
