"""Descriptors: what their parser promises to the reference check and to the gather (R19)."""

from amaranth.hdl import Mux, Signal
from spec import Mutant, Property, Spec, parts_of

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdsnic.tx import parser as module
from hdsnic.tx.parser import MSS_MIN, DescriptorParser

_MODULE = "hdsnic.tx.parser"
_SENT = abi.TxOutcome.SENT


class DescriptorParserSpec(Spec):
    """The parser behind a window that shows any words at any time.

    Assumed: a visit is kept until it is taken.
    """

    depth = 2
    properties = (
        Property(
            "R19 a job names the bytes of its references",
            "The `payload_length` of a descriptor that the parser does not refuse is the sum of "
            "its references' lengths, and all of its items are of its queue.",
            (
                Mutant(
                    "the last reference is not counted",
                    _MODULE,
                    "payload.eq(payload_held + reference.length)",
                    "payload.eq(payload_held)",
                ),
                Mutant(
                    "a waiting reference loses the sum",
                    _MODULE,
                    "                    payload.eq(payload_held),\n",
                    "",
                ),
            ),
        ),
        Property(
            "R19 a descriptor is within what its check holds",
            "A descriptor has `references_max` references at most, begins only after `room`, and "
            "no item comes in the cycle behind another descriptor's last; a segment has `MSS_MIN` "
            "bytes.",
            (
                Mutant(
                    "any number of references is taken",
                    _MODULE,
                    "                | (fixed.references > p.references_max)\n",
                    "",
                ),
                Mutant(
                    "segments of any size are made",
                    _MODULE,
                    "(fixed.mss < MSS_MIN)",
                    "(fixed.mss < 1)",
                ),
                Mutant("a descriptor is begun without room", _MODULE, "& self.room &", "&"),
                Mutant(
                    "references are taken beyond the last",
                    _MODULE,
                    "with m.If(references_left == 1):",
                    "with m.If(references_left == 0):",
                ),
            ),
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, queues=2, references_max=3, address_bits=32)
        parser = DescriptorParser(p)
        with self.opaque(*parts_of(module)):
            self.block(m, "parser", parser)
        self.free_ports(m, parser)
        self.stream_holds(m, parser.visit)
        v = self.view(parser)
        items, item = parser.items, parser.items.payload

        inside, ended = Signal(), Signal()
        used, total = Signal(8), Signal(24)
        count, bytes_ = Signal(8), Signal(24)
        queue = Signal.like(item.job.queue)
        room = Signal()  # seen since the last item
        m.d.comb += [
            count.eq(Mux(inside, used, 0) + item.has_reference),
            bytes_.eq(Mux(inside, total, 0) + Mux(item.has_reference, item.reference.length, 0)),
        ]
        m.d.sync += [
            ended.eq(items.valid & item.finish),
            room.eq((room | parser.room) & ~items.valid),
        ]
        with m.If(items.valid):
            m.d.sync += [
                inside.eq(~item.finish), used.eq(count), total.eq(bytes_), queue.eq(item.job.queue),
            ]  # fmt: skip
        good = items.valid & item.finish & (item.job.verdict == _SENT)
        self.prove(
            m,
            self.properties[0].name,
            good.implies(item.job.payload_length == bytes_)
            & (items.valid & inside).implies(item.job.queue == queue),
        )
        self.prove(
            m,
            self.properties[1].name,
            items.valid.implies(~ended & (count <= p.references_max))
            & (items.valid & ~inside).implies(room | parser.room)
            & (good & item.job.tso).implies(item.job.mss >= MSS_MIN),
        )

        fsm = v.fsm
        self.helper(m, fsm.state < len(fsm.encoding))
        judge, tag, references = (fsm.ongoing(n) for n in ("JUDGE", "TAG", "REFERENCES"))
        self.helper(m, inside == references)
        self.helper(m, (judge | tag | references).implies(~ended))
        self.helper(m, (judge | tag).implies(room))
        self.helper(m, (tag | references).implies(~v.bad))
        self.helper(m, tag.implies(v.references_left == v.further))
        self.helper(
            m,
            references.implies(
                (used + v.references_left == v.fixed.references)
                & (v.references_left != 0)
                & (v.payload_held == total)
                & (queue == parser.visit.payload.queue)
            ),
        )
        visiting = Signal()
        m.d.sync += visiting.eq(parser.visit.valid & ~parser.visit.ready)
        self.helper(m, (~fsm.ongoing("VISIT")).implies(visiting))
