"""Element states: a post is accepted once, until its buffer was finished or discarded (I4, R23)."""

from amaranth.hdl import Array, Mux, Signal
from spec import Mutant, Property, Spec

from hdsnic.parameters import Parameters
from hdsnic.rx.handles import ElementStates

_MODULE = "hdsnic.rx.handles"


class ElementStatesSpec(Spec):
    """Any operations in any order; an arbitrary element is followed from its region's sweep on.

    Assumed: an element is finished or discarded under a mark only if it was marked before; commit
    and the handle queues do so for every element (I4 there).
    """

    depth = 3
    properties = (
        Property(
            "I4 a post is told from a double post",
            "From the end of its region's sweep on, `marked_before` answers a mark with 1 exactly "
            "if the element was marked, and neither finished nor discarded nor swept since.",
            (
                Mutant(
                    "an operation does not see what the last one wrote",
                    _MODULE,
                    "read_port(transparent_for=(port,))",
                    "read_port()",
                ),
                Mutant(
                    "finish clears nothing",
                    _MODULE,
                    "clear.eq(self.finish.valid | self.discard.valid)",
                    "clear.eq(self.discard.valid & ~self.finish.valid)",
                ),
                Mutant(
                    "a discard is taken under a finish",
                    _MODULE,
                    "self.discard.ready.eq(~self.finish.valid)",
                    "self.discard.ready.eq(1)",
                ),
                Mutant(
                    "the sweep leaves out the last line",
                    _MODULE,
                    "with m.If(line == lines - 1):",
                    "with m.If(line == max(0, lines - 2)):",
                ),
                Mutant(
                    "a mark clears its neighbours",
                    _MODULE,
                    "(mark_own & ~mark_bit) | (~mark_other & mark_bit)",
                    "(~mark_other & mark_bit)",
                ),
            ),
            depth=14,
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, regions=2, postable_max=64, address_bits=32)
        states = self.block(m, "states", ElementStates(p))
        element_bits = len(states.finish.payload.as_value())
        m.d.comb += [
            states.mark.valid.eq(self.free(1, "mark")),
            states.mark.payload.eq(self.free(element_bits, "mark_element")),
            states.finish.valid.eq(self.free(1, "finish")),
            states.finish.payload.eq(self.free(element_bits, "finish_element")),
            states.discard.valid.eq(self.free(1, "discard")),
            states.discard.payload.eq(self.free(element_bits, "discard_element")),
            states.sweep.valid.eq(self.free(1, "sweep")),
            states.sweep.payload.eq(self.free(1, "sweep_region")),
        ]
        element = self.constant(m, states.finish.payload.shape(), "element")

        def concerns(port):
            return port.valid & (port.payload.as_value() == element.as_value())

        marked = concerns(states.mark) & states.mark.ready
        cleared = concerns(states.finish) | (concerns(states.discard) & states.discard.ready)
        posted = Signal()
        swept_now = states.sweep.valid & states.sweep.ready
        sweeping = Signal()  # its region
        clean = Signal()  # and no mark of it since that began
        known = Signal()
        end = sweeping & ~states.busy
        # Of a mark and a clear in one cycle the clear is of what was marked before.
        self.assume(m, (marked & cleared).implies(posted & ~(end & clean)))
        with m.If(swept_now & (states.sweep.payload == element.region)):
            m.d.sync += [sweeping.eq(1), known.eq(0), clean.eq(~marked)]
        with m.Else():
            m.d.sync += [sweeping.eq(sweeping & ~end), clean.eq(clean & ~marked)]
            m.d.sync += known.eq(known | (end & clean))
        m.d.sync += posted.eq(((posted & ~(end & clean)) | marked) & ~cleared)

        asked, expected = Signal(), Signal()
        m.d.sync += [
            asked.eq(marked & (known | (end & clean))),
            expected.eq(posted & ~(end & clean)),
        ]
        self.prove(m, self.properties[0].name, asked.implies(states.marked_before == expected))

        # The state as it will be stored once the operations under way have written.
        v = self.view(states)
        lane = element.element[:5]
        at = Signal.like(v.marks_write.addr)
        m.d.comb += at.eq((element.region << 1) | element.element[5])
        written, stored = [], []
        for memory, write in ((v.marks, v.marks_write), (v.clears, v.clears_write)):
            row = Array(self.rows(memory))[at]
            word = Signal(32)
            m.d.comb += word.eq(Mux(write.en & (write.addr == at), write.data, row))
            written.append(word.bit_select(lane, 1))
            stored.append(row.bit_select(lane, 1))
        bit = written[0] != written[1]
        self.helper(m, known.implies(bit == posted))
        self.helper(
            m, (sweeping & clean & states.busy & (v.line > element.element[5])).implies(~bit)
        )
        self.helper(m, (sweeping & clean & ~states.busy).implies(~bit))
        self.helper(m, (sweeping & states.busy).implies(v.region == element.region))
        self.helper(m, (states.busy & (v.region == element.region)).implies(sweeping))
        self.helper(m, (v.sweep_now & (v.marks_write.addr == at)).implies(sweeping))
        self.helper(m, v.sweep_now.implies(v.marks_write.addr == v.clears_write.addr))
        self.helper(m, ~(v.sweep_now & (v.mark_now | v.clear_now)))
        self.helper(m, v.line <= 2)
        self.helper(m, v.sweeping.implies(v.line < 2))
        self.helper(m, ~(known & sweeping))
        # What was read for the operations under way.
        for write, own, other, (mine, theirs) in (
            (v.marks_write, v.mark_own, v.mark_other, stored),
            (v.clears_write, v.clear_own, v.clear_other, stored[::-1]),
        ):
            here = write.en & (write.addr == at)
            self.helper(m, here.implies(own.bit_select(lane, 1) == mine))
            self.helper(m, here.implies(other.bit_select(lane, 1) == theirs))
