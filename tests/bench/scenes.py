"""One run of the card under full load: fill the rings, run, check every byte and every count.

Nothing here is timed on the host: all figures are cycles of the simulated clock.
"""

from dataclasses import dataclass, field

import numpy as np
from bench.card import BenchCard, BenchError, Region
from bench.frames import HEADER_BYTES, descriptor, received, segments, template

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome, TxOutcome

__all__ = ["Load", "Result", "run", "time_one"]

SEND_PIECE = 16384
"""Pieces in which payload to be segmented lies: buffers of an application."""
WATERMARK = 128
"""Most small frames that wait for their payload to be written."""
SETTLE_CYCLES = 2000
"""Beside the memory's latency: time in which prefetches and index writes come to rest."""


@dataclass(frozen=True)
class Load:
    """What goes through the card: `received` and `sent` frames of `frame_bytes`, together.

    With `tso_bytes` the sent frames are cut by the card from so much payload at a time. Received
    payload goes to elements of `element_bytes`.
    """

    frame_bytes: int
    received: int = 0
    sent: int = 0
    tso_bytes: int = 0
    element_bytes: int = 2048
    queues: int = 1


@dataclass
class Result:
    """Cycles a frame in each direction over the steady middle, and bytes moved beside frames."""

    cycles: dict[str, float] = field(default_factory=dict)
    traffic: dict[str, float] = field(default_factory=dict)


def run(bus_bytes: int, latency: int, load: Load) -> Result:
    """Raises BenchError if a delivered byte is wrong or a count does not add up."""
    queues = tuple(range(1, load.queues + 1))
    with BenchCard(bus_bytes, latency, queues) as card:
        wire_in = (
            [received(load.frame_bytes, k) for k in range(load.queues)] if load.received else []
        )
        incoming = [
            wire_in[k % load.queues][k // load.queues % len(wire_in[0])]
            for k in range(load.received)
        ]
        outgoing = _Outgoing(load, queues)
        for queue in queues:
            _add_region(card, queue, load, outgoing)
            outgoing.describe(card, queue)
        before, harness = _post(card, load, latency)
        cells = abi.record_cells(HEADER_BYTES, _extensions(card, load))
        card.begin(load.received, cells)
        if incoming:
            room = card.parameters.rx_buffer_bytes // (-(-load.frame_bytes // 64) * 64)
            card.receive(incoming, load.frame_bytes - HEADER_BYTES, min(room, WATERMARK))
        outgoing.ring(card)
        limit = (
            4000
            + 40 * latency
            + 40 * (load.received + len(outgoing.frames)) * (load.frame_bytes // bus_bytes + 4)
        )
        if not card.run(load.received, len(outgoing.frames), limit):
            _stuck(card, load, len(outgoing.frames), limit)
        card.settle(SETTLE_CYCLES + 2 * latency)
        _check_received(card, load, incoming)
        out_cycles = outgoing.check(card)
        moved = _check_counts(card, load, before, harness, len(outgoing.frames))
        result = Result()
        _measure(result, card, load, out_cycles)
        frames = max(load.received, len(outgoing.frames))
        header_bytes = HEADER_BYTES * (load.received + outgoing.count)
        payload_bytes = (load.frame_bytes - HEADER_BYTES) * load.received + outgoing.payload_bytes
        result.traffic = {
            "header_port_overhead_bytes": (moved["header"] - header_bytes) / frames,
            "payload_port_overhead_bytes": (moved["payload"] - payload_bytes) / frames,
        }
        return result


def time_one(bus_bytes: int, frame_bytes: int, latency: int, frames: int = 100) -> float:
    """Mean cycles from the last beat of a frame at the MAC to its record being visible.

    Frames are far apart, so each finds the card idle. Visible: the write of the producer index has
    been handed over to header memory.
    """
    load = Load(frame_bytes, received=frames)
    with BenchCard(bus_bytes, latency, (1,)) as card:
        incoming = [received(frame_bytes, 0)[k % 61] for k in range(frames)]
        _add_region(card, 1, load, None)
        before, harness = _post(card, load, latency)
        card.begin(frames, abi.record_cells(HEADER_BYTES, _extensions(card, load)))
        apart = 600 + 4 * latency + 2 * frame_bytes // bus_bytes
        card.receive(incoming, frame_bytes - HEADER_BYTES, 1, apart)
        if not card.run(frames, 0, 2 * apart * frames):
            _stuck(card, load, 0, 2 * apart * frames)
        card.settle(SETTLE_CYCLES + 2 * latency)
        _check_received(card, load, incoming)
        _check_counts(card, load, before, harness, 0)
        return float(np.mean(card.visible - card.taken))


def _extensions(card: BenchCard, load: Load) -> int:
    """Words between the fixed part and the header of each record: chained buffers."""
    return -(-(load.frame_bytes - HEADER_BYTES) // load.element_bytes) - 1


def _add_region(card, queue, load, outgoing):
    elements = max(1, -(-load.received // load.queues) * (_extensions(card, load) + 1))
    if elements > card.parameters.postable_max:
        raise ValueError(f"{load} takes more buffers than a region has: {elements}")
    send = outgoing.region_bytes if outgoing else 0
    card.add_region(queue, Region(queue, load.element_bytes, elements, send))


def _post(card, load, latency):
    """Post all buffers. Gives the counters of card and harness before, so that all reads of posts
    count, and lets the card prefetch."""
    card.settle(SETTLE_CYCLES + 2 * latency)
    before, harness = card.port_counters(), card.stats()
    if load.received:
        for queue in card.queues:
            card.post_all(queue)
    card.settle(SETTLE_CYCLES + 2 * latency)
    return before, harness


def _stuck(card, load, sent, limit):
    seen = int(np.count_nonzero(card.visible)) if load.received else 0
    drops = {
        outcome.label: n
        for outcome in RxOutcome
        for row in (*card.queues, abi.rx_port_row)
        if outcome >= abi.RX_RECORDS and (n := card.counter(abi.rx_counter(row, outcome)))
    }
    raise BenchError(
        f"after {limit} cycles {seen} of {load.received} records are visible and"
        f" {len(card.sent()[0])} of {sent} frames have left; drops: {drops}"
    )


class _Outgoing:
    """Payload in the regions, descriptors in the rings, and the frames that must leave."""

    def __init__(self, load: Load, queues):
        self.load, self.queues = load, queues
        self.work = []  # (header, payload, frames, descriptor fields)
        if load.sent and load.tso_bytes:
            mss = load.frame_bytes - HEADER_BYTES
            self.work = [
                (*template(load.tso_bytes, mss, k), {"tso": 1, "mss": mss}) for k in range(4)
            ]
        elif load.sent:
            self.work = [(s.header, s.payload, [s.frame], {}) for s in segments(load.frame_bytes)]
        self.slot = -(-len(self.work[0][1]) // 64) * 64 + 64 if self.work else 0
        self.count = load.sent
        self.turns = [self.work[k // len(queues) % len(self.work)] for k in range(load.sent)]
        self.frames = [frame for turn in self.turns for frame in turn[2]]
        self.payload_bytes = sum(len(turn[1]) for turn in self.turns)
        self.region_bytes = self.slot * len(self.work)
        self.producers = {}

    def describe(self, card, queue):
        """Write the payload into the queue's region and all of its descriptors into its ring."""
        if not self.load.sent:
            return
        region, cells = card.regions[queue], []
        for k, (header, payload, _, fields) in enumerate(self.work):
            at = region.send + k * self.slot
            region.memory[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
            references = [
                {
                    "offset": at + piece, "length": min(SEND_PIECE, len(payload) - piece),
                    "region": region.number, "generation": region.generation,
                }
                for piece in range(0, len(payload), SEND_PIECE)
            ]  # fmt: skip
            cells.append(descriptor(header, references, **fields))
        mine = range(self.queues.index(queue), self.load.sent, len(self.queues))
        data = b"".join(cells[k // len(self.queues) % len(cells)] for k in mine)
        ring = card.tx_ring(queue)
        card.header[ring : ring + len(data)] = np.frombuffer(data, np.uint8)
        self.producers[queue] = len(data) // abi.CELL_BYTES

    def ring(self, card):
        for queue, producer in self.producers.items():
            page = abi.stack_doorbell_page(queue)
            card.doorbell(page, abi.STACK_DOORBELL.TX_PRODUCER, producer)

    def check(self, card):
        """Compare the frames that left; their cycles."""
        frames, cycles = card.sent()
        # Between queues any order is right; within one it is that of its descriptors.
        if len(self.queues) > 1:
            if sorted(frames) != sorted(self.frames):
                raise BenchError("the frames that left are not those that were described")
            return cycles
        for k, (got, wanted) in enumerate(zip(frames, self.frames, strict=True)):
            if got != wanted:
                raise BenchError(_difference(f"frame {k} that left", got, wanted))
        return cycles


def _difference(what, got, wanted):
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), None)
    if at is None:
        return f"{what} has {len(got)} bytes; it must have {len(wanted)}"
    return f"{what} differs at byte {at}: {got[at]:#04x} instead of {wanted[at]:#04x}"


def _check_received(card: BenchCard, load: Load, incoming):
    """Every record, and every byte of every region: payload where records say, else nothing."""
    for number, queue in enumerate(card.queues):
        region, expected = card.regions[queue], None
        at, used = card.rx_ring(queue), set()
        expected = region.memory.copy()
        expected[: region.ring] = 0xA5
        for k, frame in enumerate(incoming[number :: load.queues]):
            what = f"record {k} of queue {queue}"
            fixed = bytes(card.header[at : at + abi.RECORD.bytes])
            fields = abi.RECORD.unpack(fixed)
            if fields["reason"] != RxOutcome.SPLIT:
                raise BenchError(f"{what} has the reason {fields['reason']}, not SPLIT")
            words = at + abi.RECORD.bytes
            begin = words + 8 * fields["extensions"]
            header = bytes(card.header[begin : begin + fields["header_length"]])
            if header != frame[:HEADER_BYTES]:
                raise BenchError(_difference(f"header of {what}", header, frame[:HEADER_BYTES]))
            if fields["payload_length"] != len(frame) - HEADER_BYTES:
                raise BenchError(f"{what} tells {fields['payload_length']} bytes of payload")
            left, payload = fields["payload_length"], frame[HEADER_BYTES:]
            chain = [
                abi.CHAINED_BUFFER.unpack(bytes(card.header[w : w + 8]))
                for w in range(words + 8 * fields["time_stamp"], begin, 8)
            ]
            first = left - sum(link["length"] for link in chain)
            parts = [(fields["element"], fields["region"], first)]
            parts += [(link["element"], link["region"], link["length"]) for link in chain]
            done = 0
            for element, number_told, length in parts:
                if number_told != region.number or element in used:
                    raise BenchError(f"{what}: element {element} of region {number_told}, again?")
                used.add(element)
                to = element * region.element_bytes
                expected[to : to + length] = np.frombuffer(payload[done : done + length], np.uint8)
                done += length
            at += abi.record_cells(fields["header_length"], fields["extensions"]) * abi.CELL_BYTES
        wrong = np.flatnonzero(expected != region.memory)
        if len(wrong):
            raise BenchError(
                f"region of queue {queue}: {len(wrong)} bytes are wrong, the first at {wrong[0]:#x}"
            )


def _check_counts(card: BenchCard, load: Load, before, harness, frames_out):
    """Counters of the card against what went in and came out; bytes that its ports moved."""
    after, now = card.port_counters(), card.stats()
    moved = {name: after[name] - before[name] for name in after}

    def equal(what, got, wanted):
        if got != wanted:
            raise BenchError(f"{what} is {got}; it must be {wanted}")

    split = sum(card.counter(abi.rx_counter(q, RxOutcome.SPLIT)) for q in card.queues)
    sent = sum(card.counter(abi.tx_counter(q, TxOutcome.SENT)) for q in card.queues)
    accepted = sum(card.counter(abi.post_counter(q, PostOutcome.ACCEPTED)) for q in card.queues)
    equal("rx_frames", moved["rx_frames"], load.received)
    equal("rx_bytes", moved["rx_bytes"], load.received * load.frame_bytes)
    equal("split frames", split, load.received)
    equal("descriptors sent", sent, load.sent)
    equal("tx_frames", moved["tx_frames"], frames_out)
    if accepted < load.received:
        raise BenchError(f"{accepted} posts were accepted for {load.received} frames")
    for port in ("header", "payload"):
        name = f"{port}_write_bytes"
        equal(name, moved[name], now[name] - harness[name])
    for name in ("header_errors", "payload_errors", "protocol_errors"):
        equal(name, now[name], 0)
    return {
        port: moved[f"{port}_write_bytes"] + moved[f"{port}_read_bytes"]
        for port in ("header", "payload")
    }


def _measure(result: Result, card: BenchCard, load: Load, out_cycles):
    """Rates over the time in which every direction is in its middle half."""
    directions = {}
    if load.received:
        directions["rx"] = np.sort(card.visible).astype(np.int64)
    if len(out_cycles):
        directions["tx"] = out_cycles.astype(np.int64)
    begin = max(int(c[len(c) // 4]) for c in directions.values())
    end = min(int(c[3 * len(c) // 4]) for c in directions.values())
    for name, cycles in directions.items():
        # Records become visible in batches: count from one step to another.
        steps = np.unique(cycles)
        steps = steps[(steps >= begin) & (steps <= end)]
        if len(steps) < 2:
            raise BenchError(f"{name}: no steady middle of {len(cycles)} frames")
        frames = np.count_nonzero((cycles > steps[0]) & (cycles <= steps[-1]))
        result.cycles[name] = float(steps[-1] - steps[0]) / float(frames)
