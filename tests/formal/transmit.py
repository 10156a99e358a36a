"""Transmit: frames hold bytes of their own references; idle means all are read (R19, I6)."""

from amaranth.hdl import Mux, Signal
from spec import Mutant, Property, Spec, parts_of

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdsnic.tx import transmit as module
from hdsnic.tx.gather import Gather
from hdsnic.tx.parser import MSS_MIN
from hdsnic.tx.transmit import Transmit

_SENT = abi.TxOutcome.SENT


class GatherSpec(Spec):
    """The gather with any jobs, header beats and payload.

    Assumed: jobs are kept until they are taken; one that is not segmented fits in a frame, and the
    first segment with what follows is the payload (`check.py`); a segment that others follow has
    `MSS_MIN` bytes (the parser's rule); a header beat counts no more than its lanes.
    """

    depth = 2
    properties = (
        Property(
            "R19 a descriptor takes the bytes of its references",
            "From a job to the next one exactly `payload_length` bytes of payload are taken, none "
            "for a refused one; so each descriptor gets the bytes that were read for it.",
            (
                Mutant(
                    "a refused job takes payload",
                    "hdsnic.tx.gather",
                    "self.jobs.valid & ~refused & there & (queue",
                    "self.jobs.valid & there & (queue",
                ),
                Mutant(
                    "the last segment takes a whole MSS",
                    "hdsnic.tx.gather",
                    "next_segment.eq(Mux(cut, job.mss, later_left))",
                    "next_segment.eq(job.mss)",
                ),
                Mutant(
                    "a job ends with its first segment",
                    "hdsnic.tx.gather",
                    "(go & final & (later == 0)) | void",
                    "(go & final) | void",
                ),
                Mutant(
                    "payload that is not there is taken",
                    "hdsnic.tx.gather",
                    "segment_left.eq(segment - count)",
                    "segment_left.eq(segment)",
                ),
            ),
            depth=14,
        ),
    )

    def build(self, m):
        # A wide bus, so that a segment is few beats and mutants show early.
        p = Parameters(bus_bytes=32, queues=2, frame_bytes_max=1514, address_bits=32)
        gather = self.block(m, "gather", Gather(p))
        self.free_ports(m, gather)
        self.stream_holds(m, gather.jobs)
        self.assume(m, gather.header.payload.count <= p.bus_bytes)
        v = self.view(gather)
        job = gather.jobs.payload
        refused = job.verdict != _SENT
        self.assume(
            m,
            (gather.jobs.valid & ~refused & ~job.tso).implies(
                job.payload_length <= p.frame_bytes_max
            ),
        )
        # First segment and what is left are the payload; others follow at least 8 beats.
        self.assume(
            m,
            (gather.jobs.valid & ~refused).implies(
                (job.segment + job.later == job.payload_length)
                & (job.later != 0).implies(
                    job.tso & (job.segment == job.mss) & (job.mss >= MSS_MIN)
                )
            ),
        )
        taken, total = Signal(26), Signal(26)
        m.d.comb += total.eq(taken + v.queue.take)
        ends = gather.jobs.valid & gather.jobs.ready
        m.d.sync += taken.eq(Mux(ends, 0, total))
        self.prove(
            m,
            self.properties[0].name,
            ends.implies(total == Mux(refused, 0, job.payload_length))
            & (v.queue.take != 0).implies(gather.jobs.valid & ~refused)
            & (v.queue.take <= v.queue.level),
        )
        fresh = v.begins & v.opening
        waiting = Signal()
        m.d.sync += waiting.eq(gather.jobs.valid & ~gather.jobs.ready)
        self.helper(m, fresh | (waiting & ~refused))
        self.helper(m, fresh.implies(taken == 0))
        left = v.later_left + Mux(v.begins, 0, v.segment_left)
        self.helper(m, (~fresh).implies(taken + left == job.payload_length))
        self.helper(m, (~fresh & (v.later_left != 0)).implies(job.tso & (job.mss >= MSS_MIN)))
        cut = v.later_left > job.mss
        self.helper(
            m,
            (v.begins & ~v.opening).implies(
                (v.next_segment == Mux(cut, job.mss, v.later_left))
                & (v.next_later == Mux(cut, v.later_left - job.mss, 0))
                & (v.later_left != 0)
            ),
        )
        self.helper(m, v.last_count <= p.bus_bytes)


class TransmitSpec(Spec):
    """The wires and the account of the transmit path, whatever its blocks do."""

    depth = 1
    map_memories = False
    properties = (
        Property(
            "R19 the reference check is the only source of reads",
            "Requests on the payload port are the pieces of the reference check, unchanged.",
            (
                Mutant(
                    "a request is made without a piece",
                    "hdsnic.tx.transmit",
                    "self.payload.request.valid.eq(check.pieces.valid)",
                    "self.payload.request.valid.eq(check.pieces.valid | check.items.valid)",
                ),
            ),
            depth=2,
        ),
        Property(
            "I6 idle transmit has no descriptor under way",
            "`idle` only while no descriptor is fetched, parsed, or begun and not retired; each "
            "adds one to the account as its last reference is checked, and leaves it as it "
            "retires.",
            (
                Mutant(
                    "idle while a descriptor is under way",
                    "hdsnic.tx.transmit",
                    "hold & ~reads & (under_way == 0)",
                    "hold & ~reads",
                ),
                Mutant(
                    "idle while a descriptor is parsed",
                    "hdsnic.tx.transmit",
                    "reads.eq(~scheduler.quiet | ~parser.quiet)",
                    "reads.eq(~scheduler.quiet)",
                ),
                Mutant(
                    "a descriptor that begins as one retires is not counted",
                    "hdsnic.tx.transmit",
                    "under_way + begun - gather.retire.valid",
                    "under_way + (begun & ~gather.retire.valid) - gather.retire.valid",
                ),
            ),
            depth=12,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, references_max=3, frame_bytes_max=1514,
            address_bits=32, outstanding=2, tx_buffer_bytes=16384,
        )  # fmt: skip
        transmit = Transmit(p)
        with self.opaque(*parts_of(module)):
            self.block(m, "transmit", transmit)
        self.free_ports(m, transmit)
        v = self.view(transmit)
        request, piece = transmit.payload.request, v.check.pieces
        self.prove(
            m,
            self.properties[0].name,
            (request.valid == piece.valid)
            & request.valid.implies(
                (request.payload.address == piece.payload.address)
                & (request.payload.length == piece.payload.length)
                & (request.payload.wrap_log2 == 0)
            )
            & (piece.ready == request.ready),
        )
        # The account in words of its own.
        account = Signal.like(v.under_way)
        item = v.parser.items
        m.d.sync += account.eq(account + (item.valid & item.payload.finish) - v.gather.retire.valid)
        self.prove(
            m,
            self.properties[1].name,
            transmit.idle.implies(
                (transmit.pause | ~transmit.transmit)
                & v.scheduler.quiet
                & v.parser.quiet
                & (account == 0)
            ),
        )
        self.helper(m, account == v.under_way)
