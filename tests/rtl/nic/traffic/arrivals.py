"""Frames from the wire and from PLACE commands: what each may become, and what it became.

The oracle of a frame is `rtl.rx.frame_oracle`, asked once for every setting that the frame may have
met. What places it (queues, rings, buffers) is judged from what software knows for certain.
"""

from dataclasses import dataclass, field

from frame_oracle import expected
from rtl.nic.host import RING_BYTES
from rtl.nic.traffic.history import NEVER
from rtl.nic.traffic.matching import explain, named
from rtl.nic.traffic.memory import now

from hdsnic import abi
from hdsnic.abi import RxOutcome

LOOKUP_CYCLES = 60
"""From a frame's last beat to its verdict, and more."""
PORT = abi.rx_port_row
RECORD_FIELDS = (
    "reason", "header_length", "payload_length", "tag", "hash", "checksum_good", "vlan_tags",
    "ipv6",
)  # fmt: skip


@dataclass(eq=False)
class Arrival:
    """A frame, or the bytes of a PLACE (`placed`: its queue) with its cookie as `serial`."""

    serial: int
    data: bytes
    bad_fcs: bool = False
    placed: int | None = None
    start: int = NEVER  # first beat, or doorbell
    end: int = NEVER  # last beat, or completion
    seen: int = NEVER  # its record was visible
    cells: int = 0  # of its record
    left: int = NEVER  # it was surely gone from the card's buffer
    outcomes: dict = field(default_factory=dict)  # setting -> oracle's answer


class Arrivals:
    """All frames of a case in order; `take` as records show, `settle` against the counters."""

    def __init__(self, case):
        self.case = case
        self.frames, self.places = [], {}
        self.unseen = []
        self.last = {}  # queue -> serial of its last record
        self.returned = {}  # queue -> [(time, consumer index)], since its ring began
        self.records = {}  # queue -> arrivals of its ring, with records
        self.total = 0

    def add(self, data, bad_fcs):
        """A frame that is about to be sent."""
        arrival = Arrival(len(self.frames), data, bad_fcs)
        self.frames.append(arrival)
        self.unseen.append(arrival)
        return arrival

    def ring_begins(self, queue):
        """A receive ring starts at zero."""
        self.last[queue] = -1
        self.returned[queue] = [(now(), 0)]
        self.records[queue] = []

    # -- records ---------------------------------------------------------------------------------

    def take(self, queue, fields, header, payload):
        """A record that has just become visible, with its payload as it lies in memory now."""
        time = now()
        payload, buffers = self._payload(queue, fields, payload)
        if fields["reason"] == RxOutcome.PLACED:
            arrival = self.places.get(fields["hash"])
            assert arrival and arrival.seen == NEVER, f"a PLACED record of cookie {fields['hash']}"
            assert (arrival.placed, arrival.data) == (queue, payload), "placed bytes"
            assert not header
        else:
            arrival = self._find(queue, fields, header, payload)
            assert arrival.serial > self.last[queue], f"frame {arrival.serial} overtook another"
            self.last[queue] = arrival.serial
            self.unseen.remove(arrival)
        arrival.seen = time
        arrival.cells = abi.record_cells(fields["header_length"], fields["extensions"])
        self.records[queue].append(arrival)
        self.total += 1
        for region, element in buffers:
            self.case.posts.use(queue, region, element)

    def _find(self, queue, fields, header, payload):
        """The frame of a record, which must be one that the oracle says of it."""
        found = [a for a in self.unseen if a.data.startswith(header + payload) and a.end != NEVER]
        told = []
        for arrival in found:
            for outcome, want in self.fates(arrival, now()):
                if want is None or want["queue"] != queue:
                    continue
                if all(fields[name] == want[name] for name in RECORD_FIELDS if name in want):
                    return arrival
                told.append((outcome, {n: want.get(n) for n in RECORD_FIELDS}))
        got = {name: fields[name] for name in RECORD_FIELDS}
        near = [a.serial for a in self.frames if a.data.startswith(header[:40])]
        raise AssertionError(
            f"a record of queue {queue} fits no frame: {got}, header {header.hex()}, payload"
            f" {payload[:16].hex()}..; frames of this start: {near}; the oracle says {told}"
        )

    def fates(self, arrival, seen=NEVER):
        """[(outcome, fields or None)] by the oracle, for each setting that may have counted.

        A setting whose change was fenced is out of the question for a record that shows after the
        fence (R15).
        """
        out = []
        for span in self.case.settings.spans:
            met = span.possible(arrival.start, arrival.end + LOOKUP_CYCLES)
            late = seen != NEVER and seen > span.fenced
            if not met or late:
                continue
            if span not in arrival.outcomes:
                arrival.outcomes[span] = expected(
                    arrival.data, arrival.bad_fcs, span.state, self.case.parameters
                )
            if arrival.outcomes[span] not in out:
                out.append(arrival.outcomes[span])
        return out

    def _payload(self, queue, fields, payload):
        """(payload as it was written for this record, its buffers): it lies where it was claimed
        for, every byte written once, and nothing else (I1, I2, I4).

        A buffer that its application has posted again before it knew of this record may be taken
        once more by now: what was written for this record is what came first.
        """
        if not payload:
            return b"", []
        at, chain = 0, fields["chain"]
        first = fields["payload_length"] - sum(buffer["length"] for buffer in chain)
        written, buffers = [], []
        for buffer in ({**fields, "length": first}, *chain):
            region, element, length = (
                self.case.region(buffer["region"]), buffer["element"], buffer["length"]
            )  # fmt: skip
            assert region, (
                f"a record of queue {queue} names region {buffer['region']}, which is none"
            )
            full = length == region.element_bytes
            assert full or len(buffers) == len(chain), "a buffer before the last one is not full"
            doubled = self.case.posts.doubled(queue, region, element)
            shown, at = payload[at : at + length], at + length
            written.append(self._written(region, element, shown, doubled))
            buffers.append((region, element))
        return b"".join(written), buffers

    def _written(self, region, element, shown, doubled):
        """The bytes that were written into a buffer for a record, of which memory has `shown`."""
        frames, end = [], 0
        for write in region.writes.pop(element, ()):
            _, offset, data = write
            if offset == 0:
                frames.append([])
                end = 0
            assert offset == end, f"bytes {end} to {offset} were left out, or written twice"
            frames[-1].append(write)
            end += len(data)
        if self.case.errors.any:  # what was written for records that are void is of no interest
            if doubled:
                return shown
            del frames[:-1]
        found = b"".join(data for _, _, data in frames[0]) if frames else b""
        assert len(found) == len(shown), f"{len(found)} bytes were written, not {len(shown)}"
        assert doubled or (found == shown and len(frames) == 1), "other bytes were written"
        left = [write for frame in frames[1:] for write in frame]
        if left:
            region.writes[element] = left
        return found

    # -- drops -----------------------------------------------------------------------------------

    def settle(self, counters):
        """All frames against the counters: (row, outcome) -> number."""
        self._find_left()
        certain = []
        for arrival in (*self.frames, *self.places.values()):
            certain.append((self.outcomes(arrival), self.describe(arrival)))
        explain(certain, [], counters, "frames in = records + counted drops")

    def describe(self, arrival):
        """A frame in words."""
        if arrival.placed is not None:
            return f"the PLACE of cookie {arrival.serial}"
        fates = named({outcome for outcome, _ in self.fates(arrival)})
        return (
            f"frame {arrival.serial} ({fates}; {len(arrival.data)} bytes, beats of cycles"
            f" {arrival.start} to {arrival.end}, gone by {arrival.left})"
        )

    def _find_left(self):
        """Frames leave the buffer in order: one has left when a later one has been seen."""
        left = NEVER
        for arrival in reversed(self.frames):
            left = min(left, arrival.seen)
            arrival.left = left
        for arrival in self.places.values():
            arrival.left = arrival.seen

    def outcomes(self, arrival):
        """(row, outcome) pairs that the frame may have had."""
        if arrival.placed is not None:
            if arrival.seen != NEVER:
                return {(arrival.placed, RxOutcome.PLACED)}
            return self._drops(arrival, arrival.placed, len(arrival.data), 0, True)
        out = set()
        for outcome, fields in self.fates(arrival, arrival.seen):
            if fields is None:
                out.add((PORT, outcome))
                continue
            queue = fields["queue"]
            if arrival.seen != NEVER:
                out.add((queue, outcome))
                continue
            wants = outcome == RxOutcome.SPLIT
            out |= self._drops(
                arrival, queue, fields["payload_length"], fields["header_length"], wants
            )
        if arrival.seen != NEVER:
            return {pair for pair in out if pair[1] < abi.RX_RECORDS}
        if self._may_overflow(arrival):
            out.add((PORT, RxOutcome.OVERFLOW))
        return out

    def _drops(self, arrival, queue, payload, header, wants):
        """Why a frame for `queue` may have no record."""
        case, rx, out = self.case, RxOutcome, set()
        span = arrival.start, arrival.left
        on = case.queues[queue].possible(*span)
        if False in on:
            out.add((queue, rx.DISABLED))
        if True not in on:
            return out
        if case.errors.touched(queue, *span):
            out |= {(queue, rx.PORT_ERROR), (queue, rx.DISABLED), (queue, rx.BAD_REGION)}
        if self._may_lack_space(arrival, queue, header):
            out.add((queue, rx.NO_RING_SPACE))
        if not wants:
            return out
        lacks, filled = self._may_lack_buffers(arrival, queue, payload)
        owned = [
            span.state
            for history in case.regions.values()
            for span in history.spans
            if span.state and span.state.owner == case.owners[queue]
        ]
        if lacks:
            out.add((queue, rx.NO_BUFFER))
            if any(not case.surely_live(r.number, r.generation, None, span[1]) for r in owned):
                out.add((queue, rx.BAD_REGION))
        chain = case.parameters.chain_max
        if filled or (lacks and any(payload > chain * region.element_bytes for region in owned)):
            out.add((queue, rx.PAYLOAD_TOO_LARGE))
        return out

    def _may_lack_space(self, arrival, queue, header):
        history = self.case.queues[queue]
        ring_cells = self.case.host.ring_bytes.get(queue, RING_BYTES) // abi.CELL_BYTES
        needed = abi.record_cells(header, self.case.parameters.chain_max + 1)
        if (
            len([s for s in history.spans if s.state and s.possible(arrival.start, arrival.left)])
            != 1
        ):
            return True
        if self.case.errors.touched(queue, arrival.start, arrival.left):
            return True
        began = self.returned[queue][0][0]
        if arrival.start < began:  # its ring was given up since
            return True
        before = sum(
            a.cells
            for a in self.records[queue]
            if a.placed is not None or arrival.placed is not None or a.serial < arrival.serial
        )
        returned = max(
            index for time, index in self.returned[queue] if time < arrival.start or not index
        )
        return before - returned + needed > ring_cells

    def _may_lack_buffers(self, arrival, queue, payload):
        """Whether there may be too few, and whether as many as a chain has may be too small."""
        posts, most = self.case.posts, self.case.parameters.chain_max
        earlier = [
            a
            for a in (*self.frames, *self.places.values())
            if a.placed is not None or arrival.placed is not None or a.serial < arrival.serial
        ]
        taken_at = {a.seen for a in earlier if a.seen != NEVER}

        def smallest(cells):
            """Sizes of as many as a chain has, from the smallest on."""
            return sorted(self.case.element_bytes(c.region, c.generation) for c in cells)[:most]

        span = queue, arrival.start, arrival.left
        certain = smallest(
            c for c in posts.certain(*span) if c.used == NEVER or c.used not in taken_at
        )
        # Those that may be there as well may stand before them, and fill the chain.
        possible = smallest(posts.possible(*span))
        return (
            len(certain) < most and sum(certain) < payload,
            len(possible) == most and sum(possible) < payload,
        )

    def _may_overflow(self, arrival):
        """Whether the frames that may still have been inside fill the buffer with this one."""
        bus, held = self.case.parameters.bus_bytes, 0
        for other in reversed(self.frames[: arrival.serial + 1]):
            if other.left < arrival.start:
                break
            held += -(-len(other.data) // bus) * bus
        return held > self.case.parameters.rx_buffer_bytes - 2 * bus
