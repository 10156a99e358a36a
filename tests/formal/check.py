"""Transmit references: only bytes that the queue may read are asked for (R19, I6)."""

from amaranth.hdl import Array, Mux, Signal
from spec import Mutant, Property, Spec, as_value, count_ones

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdsnic.tx.check import ReferenceCheck

_MODULE = "hdsnic.tx.check"
_SENT = abi.TxOutcome.SENT


class ReferenceCheckSpec(Spec):
    """Any references, any region rows and owners, which may change in any cycle.

    Assumed, as the parser does it (`descriptors.py`): at most `references_max` references a
    descriptor, its first only after `room`, and none in the cycle behind another's last.
    """

    depth = 2
    properties = (
        Property(
            "R19 a piece is of a region that its queue may read",
            "A piece comes out only for a reference that at its lookup named a live region of its "
            "generation, whose owner is the queue's, with NIC_READ, and lay inside it.",
            (
                Mutant("a dead region is read", _MODULE, "~row.live | (row.gen", "(row.gen"),
                Mutant(
                    "an old generation is read",
                    _MODULE,
                    "~row.live | (row.generation != reference.generation)",
                    "~row.live",
                ),
                Mutant(
                    "another owner's region is read",
                    _MODULE,
                    "(row.owner != owner_read.data) | (row.owner == 0)",
                    "row.owner == 0",
                ),
                Mutant("a region without owner is read", _MODULE, " | (row.owner == 0)", ""),
                Mutant("NIC_READ is not asked for", _MODULE, "m.Elif(~row.nic_read)", "m.Elif(0)"),
                Mutant(
                    "the end of the region is not looked at",
                    _MODULE,
                    "((end > size) | (last_address",
                    "((last_address",
                ),
                Mutant("addresses wrap", _MODULE, " | (last_address >= 1 << p.address_bits)", ""),
                Mutant(
                    "a refused descriptor's pieces are committed",
                    _MODULE,
                    "queue.commit.eq(~refused)",
                    "queue.commit.eq(1)",
                ),
                Mutant(
                    "only the last reference counts",
                    _MODULE,
                    "account.eq(Mux(judged.finish, outcome.SENT, verdict))",
                    "account.eq(outcome.SENT)",
                ),
            ),
        ),
        Property(
            "R19 all pieces of a descriptor come out, or none",
            "As many pieces come out as the jobs with verdict SENT have references, so none is "
            "taken for another descriptor's.",
            (
                Mutant(
                    "a refused descriptor's pieces stay",
                    "hdsnic.tx.pieces",
                    "m.If(self.rollback)",
                    "m.If(0)",
                ),
                Mutant(
                    "a piece is put out twice",
                    "hdsnic.tx.pieces",
                    "m.d.sync += tail.eq(tail + 1)",
                    "m.d.sync += tail.eq(tail + self.pieces.ready)",
                ),
            ),
            depth=24,
        ),
        Property(
            "R17 a descriptor that is too long is refused",
            "A job with verdict SENT fits in a frame, or, with TSO, holds `tso_bytes_max` at most; "
            "its first segment and what follows are its payload.",
            (
                Mutant(
                    "what follows is counted from the payload",
                    _MODULE,
                    "job.later.eq(Mux(cut, payload - judged.job.mss, 0))",
                    "job.later.eq(Mux(cut, payload, 0))",
                ),
                Mutant(
                    "the length is not looked at",
                    _MODULE,
                    "m.If((job.verdict == outcome.SENT) & too_long)",
                    "m.If(0)",
                ),
            ),
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, queues=2, regions=2, references_max=3, address_bits=32)
        check = self.block(m, "check", ReferenceCheck(p))
        items, item = check.items, check.items.payload
        row = check.region.row
        store = check.owner_store
        m.d.comb += [
            items.valid.eq(self.free(1, "item_valid")),
            items.payload.eq(self.free(len(as_value(item)), "item")),
            store.valid.eq(self.free(1, "store")),
            store.payload.queue.eq(self.free(1, "store_queue")),
            store.payload.owner.eq(self.free(8, "store_owner")),
            check.region.row.eq(self.free(len(as_value(row)), "row")),
            check.pieces.ready.eq(self.free(1, "ready")),
        ]

        # -- what the parser keeps --
        inside = Signal()  # a descriptor has begun
        used = Signal(3)  # its references so far
        ended = Signal()
        with m.If(items.valid):
            m.d.sync += [
                inside.eq(~item.finish),
                used.eq(Mux(item.finish, 0, Mux(inside, used, 0) + item.has_reference)),
            ]
        m.d.sync += ended.eq(items.valid & item.finish)
        self.assume(m, ~(items.valid & ended))
        room = Signal()  # seen since the last item
        m.d.sync += room.eq((room | check.room) & ~items.valid)
        self.assume(m, (items.valid & ~inside).implies(room | check.room))
        self.assume(
            m, (items.valid & item.has_reference).implies(Mux(inside, used, 0) < p.references_max)
        )
        self.helper(m, (inside | (used == 0)) & (used <= p.references_max) & ~(inside & ended))

        # -- the reference through the lookup, by the rule's words --
        owners = Array(Signal(8, name=f"owner_{k}") for k in range(2))
        with m.If(store.valid):
            m.d.sync += owners[store.payload.queue].eq(store.payload.owner)
        asked, found, judged = (
            [Signal(name=f"{n}_valid"), Signal(item.shape(), name=n)]
            for n in ("asked", "found", "judged")
        )
        for before, after in (([items.valid, item], asked), (asked, found), (found, judged)):
            m.d.sync += [after[0].eq(before[0]), after[1].eq(before[1])]
        owner = Signal(8)
        m.d.sync += owner.eq(owners[asked[1].job.queue])
        reference = found[1].reference
        begin, end = Signal(40), Signal(40)
        granted = Signal()
        m.d.comb += [
            begin.eq(row.base + reference.offset),
            end.eq(begin + reference.length),
        ]
        m.d.sync += granted.eq(
            row.live
            & (row.generation == reference.generation)
            & (row.owner == owner)
            & (owner != 0)
            & row.nic_read
            & (reference.length != 0)
            & (end <= row.base + (row.elements << row.log2_element_bytes))
            & (end <= 1 << p.address_bits)
        )
        at = Signal(40)
        m.d.sync += at.eq(begin)

        # -- an arbitrary piece that no reference is granted --
        address, length = self.constant(m, 32, "address"), self.constant(m, 16, "length")
        here = (at == address) & (judged[1].reference.length == length)
        pushed = judged[0] & judged[1].has_reference
        self.assume(m, ~(pushed & granted & here))
        out = check.pieces.payload
        self.prove(
            m,
            self.properties[0].name,
            check.pieces.valid.implies((out.address != address) | (out.length != length)),
        )

        # -- the account of pieces --
        count = Signal(5)  # pushed of the descriptor at hand
        total = Signal(5)  # of the descriptor whose job comes now
        with m.If(judged[0]):
            m.d.sync += count.eq(Mux(judged[1].finish, 0, count + pushed))
        m.d.sync += total.eq(Mux(judged[0] & judged[1].finish, count + pushed, 0))
        credit = Signal(6)
        job = check.jobs
        good = job.valid & (job.payload.verdict == _SENT)
        taken = check.pieces.valid & check.pieces.ready
        m.d.sync += credit.eq(credit + Mux(good, total, 0) - taken)
        v = self.view(check)
        q = self.view(v.queue)
        waiting = Signal.like(q.head)
        m.d.comb += waiting.eq(q.committed - q.tail)
        self.prove(
            m,
            self.properties[1].name,
            check.pieces.valid.implies(credit != 0) & (credit == waiting + check.pieces.valid),
        )

        words = job.payload
        self.prove(
            m,
            self.properties[2].name,
            good.implies(
                Mux(
                    words.tso,
                    words.payload_length <= p.tso_bytes_max,
                    words.payload_length + words.header_length <= p.frame_bytes_max,
                )
                & (words.segment + words.later == words.payload_length)
                & (words.later != 0).implies(words.tso & (words.segment == words.mss))
            ),
        )
        long_job = Mux(
            v.job.tso,
            v.job.payload_length > p.tso_bytes_max,
            v.job.payload_length + v.job.header_length > p.frame_bytes_max,
        )
        self.helper(m, v.settled.implies(v.too_long == long_job))

        # -- helpers --
        self.helper(m, Array(owners)[0] == self.rows(v.owners)[0])
        self.helper(m, Array(owners)[1] == self.rows(v.owners)[1])
        for spec, block in ((asked, v.asked), (found, (v.found_valid, v.found))):
            self.helper(m, spec[0] == block[0])
            self.helper(m, as_value(spec[1]) == as_value(block[1]))
        self.helper(m, judged[0] == v.judged_valid)
        self.helper(m, as_value(judged[1]) == as_value(v.judged))
        self.helper(m, found[0].implies(owner == v.owner_read.data))
        self.helper(m, at == v.address)
        in_range = (v.end <= v.size) & (at + judged[1].reference.length <= 1 << p.address_bits)
        self.helper(m, (pushed & (v.grant == _SENT) & in_range).implies(granted))
        depth = len(self.rows(q.memory))
        open_ = Signal.like(q.head)  # pushed, neither committed nor rolled back
        filled = Signal.like(q.head)
        m.d.comb += [open_.eq(q.head - q.committed), filled.eq(q.head - q.tail)]
        self.helper(m, open_ == Mux(v.settled, total, count))
        self.helper(m, Mux(v.settled, count, total) == 0)
        stages = (asked, found, judged)
        under = count_ones(valid & word.has_reference for valid, word in stages)
        budget = Signal(6)
        m.d.comb += budget.eq(filled + under + Mux(inside, p.references_max - used, 0))
        self.helper(m, budget <= depth)
        self.helper(m, room.implies(filled + under < depth - p.references_max))
        self.helper(m, waiting <= filled)
        # A last item is alone in the next stage.
        for older, newer in (((ended, None), None), (judged, found), (found, asked)):
            if newer:
                self.helper(m, ~(older[0] & older[1].finish & newer[0]))
        self.helper(m, ended == (asked[0] & asked[1].finish))
        self.helper(m, ~(v.settled & judged[0]))
        # References in the stages and pushed ones of the descriptor at hand are within the limit.
        bad_open = Signal()
        words = self.rows(q.memory)
        in_open, in_waiting = [], []
        for k, word in enumerate(words):
            offset = Signal.like(q.head)
            since_tail = Signal(len(q.head) - 1)
            m.d.comb += since_tail.eq(k - q.tail)
            m.d.comb += offset.eq(since_tail)
            hit = (word.address == address) & (word.length == length)
            in_waiting.append((offset < waiting) & hit)
            in_open.append((offset >= waiting) & (offset < filled) & hit)
        m.d.comb += bad_open.eq(count_ones(in_open) != 0)
        self.helper(m, count_ones(in_waiting) == 0)
        refused = Mux(v.settled, job.payload.verdict != _SENT, v.account != _SENT)
        self.helper(m, bad_open.implies(refused))
