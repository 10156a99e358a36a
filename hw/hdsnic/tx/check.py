"""Reference check: may this queue read these bytes? (R19, I6)

Between the descriptor parser and the payload port, whose only source of addresses it is.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import PostRingStore, RegionLookup, RegionRow, Strobe
from .layouts import CheckItem, Job, Piece
from .pieces import PieceQueue

__all__ = ["ReferenceCheck"]


class ReferenceCheck(wiring.Component):
    """Judges each reference against its region, and each descriptor by its references.

    A reference is good if its region is live and of the same generation (else BAD_REGION), the
    region's owner is the queue's, and not 0 (BAD_OWNER), it grants NIC_READ (NO_PERMISSION), all of
    its bytes lie in the region, and their bus address within `address_bits` (OUT_OF_REGION). One
    without bytes, a frame longer than `frame_bytes_max`, and a `tso` payload of more than
    `tso_bytes_max` make a BAD_DESCRIPTOR. The first fault is the descriptor's verdict, and then
    none of its pieces comes out.

    An item a cycle, never refused; a descriptor's job comes five cycles after its last item. Last
    items must be two cycles apart, and `room` be 1 at a descriptor's first item.

    Parameters: `regions`, `queues`, `frame_bytes_max`, `tso_bytes_max`, `references_max`,
    `address_bits`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "items": In(Strobe(CheckItem(p))),
                "owner_store": In(Strobe(PostRingStore(p))),
                "region": Out(RegionLookup(p)),
                "pieces": Out(stream.Signature(Piece(p))),
                "jobs": Out(Strobe(Job(p))),
                "room": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        outcome = abi.TxOutcome
        m.submodules.queue = queue = PieceQueue(p)
        m.submodules.owners = owners = Memory(shape=8, depth=max(2, p.queues), init=[])
        m.d.comb += self.room.eq(queue.room)
        wiring.connect(m, queue.pieces, wiring.flipped(self.pieces))

        owner_write = owners.write_port()
        owner_read = owners.read_port()
        m.d.comb += [
            owner_write.en.eq(self.owner_store.valid),
            owner_write.addr.eq(self.owner_store.payload.queue),
            owner_write.data.eq(self.owner_store.payload.owner),
        ]

        def register(valid, item):
            """The next stage of the pipeline."""
            next_valid, next_item = Signal(), Signal(CheckItem(p))
            m.d.sync += [next_valid.eq(valid), next_item.eq(item)]
            return next_valid, next_item

        # Stage 1 asks the tables, stage 2 has the rows.
        asked = register(self.items.valid, self.items.payload)
        m.d.comb += [
            self.region.index.eq(asked[1].reference.region),
            owner_read.addr.eq(asked[1].job.queue),
        ]
        found_valid, found = register(*asked)
        row = Signal(RegionRow(p))
        reference = found.reference
        m.d.comb += row.eq(self.region.row)

        # Stage 3: who may, and what has to be compared.
        judged_valid, judged = register(found_valid, found)
        grant = Signal(3)
        size = Signal(24 + 15)
        end = Signal(33)
        address = Signal(p.address_bits + 1)
        m.d.sync += [
            size.eq(row.elements << row.log2_element_bytes),
            end.eq(reference.offset + reference.length),
            address.eq(row.base + reference.offset),
            grant.eq(outcome.SENT),
        ]
        with m.If(reference.length == 0):
            m.d.sync += grant.eq(outcome.BAD_DESCRIPTOR)
        with m.Elif(~row.live | (row.generation != reference.generation)):
            m.d.sync += grant.eq(outcome.BAD_REGION)
        with m.Elif((row.owner != owner_read.data) | (row.owner == 0)):
            m.d.sync += grant.eq(outcome.BAD_OWNER)
        with m.Elif(~row.nic_read):
            m.d.sync += grant.eq(outcome.NO_PERMISSION)

        # Stage 4: the range, and the verdict so far.
        account = Signal(3)  # verdict of the references before this one
        verdict = Signal(3)
        m.d.comb += verdict.eq(account)
        last_address = Signal(p.address_bits + 2)
        m.d.comb += last_address.eq(address + judged.reference.length - 1)
        with m.If(judged.has_reference & (account == outcome.SENT)):
            m.d.comb += verdict.eq(grant)
            with m.If(
                (grant == outcome.SENT) & ((end > size) | (last_address >= 1 << p.address_bits))
            ):
                m.d.comb += verdict.eq(outcome.OUT_OF_REGION)
        with m.If(judged.job.verdict != outcome.SENT):
            m.d.comb += verdict.eq(judged.job.verdict)
        with m.If(judged_valid):
            m.d.sync += account.eq(Mux(judged.finish, outcome.SENT, verdict))
        m.d.comb += [
            queue.push.valid.eq(judged_valid & judged.has_reference),
            queue.push.payload.address.eq(address),
            queue.push.payload.length.eq(judged.reference.length),
        ]

        # Stage 5: the whole descriptor.
        settled = Signal()
        job = Signal(Job(p))
        too_long = Signal()
        payload = judged.job.payload_length
        cut = judged.job.tso & (payload > judged.job.mss)
        m.d.sync += [
            settled.eq(judged_valid & judged.finish),
            job.eq(judged.job),
            job.verdict.eq(verdict),
            job.segment.eq(Mux(cut, judged.job.mss, payload)),
            job.later.eq(Mux(cut, payload - judged.job.mss, 0)),
            too_long.eq(
                Mux(
                    judged.job.tso,
                    payload > p.tso_bytes_max,
                    payload + judged.job.header_length > p.frame_bytes_max,
                )
            ),
        ]
        m.d.comb += [self.jobs.valid.eq(settled), self.jobs.payload.eq(job)]
        refused = Signal()
        m.d.comb += refused.eq(job.verdict != outcome.SENT)
        with m.If((job.verdict == outcome.SENT) & too_long):
            m.d.comb += [refused.eq(1), self.jobs.payload.verdict.eq(outcome.BAD_DESCRIPTOR)]
        with m.If(settled):
            m.d.comb += [queue.commit.eq(~refused), queue.rollback.eq(refused)]
        return m
