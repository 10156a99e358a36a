"""Byte window: descriptor bytes as 8-byte words, from any word of a beat on.

Between the header port and the parser. All parts of a descriptor are multiples of 8 bytes from its
start but for the header's end, so words are all that the parser must be able to step by.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import ReadBeat, ReadClient

__all__ = ["Window"]


class Window(wiring.Component):
    """Holds two beats and shows words from a pointer on.

    `words` shows the next max(U, 2) words, U = bus_bytes / 8, of which `level` are there. `take`
    moves the pointer by up to U + 1 words, at most `level`; `errors` says for each of the two
    beats whether it came with an error response. `align` puts the pointer to the place where the
    oldest beat begins. `drop` removes the oldest beat; `held` is the number of its words from the
    pointer on, 0 without a beat, and `whole` says that the pointer stands on its first word.

    One cycle from beat to words; takes a beat a cycle as long as the parser takes U words.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        self.unit = unit = p.bus_bytes // 8
        super().__init__(
            {
                "beats": ReadClient(p).members["beats"],
                "words": Out(64 * max(unit, 2)),
                "level": Out(range(2 * unit + 1)),
                "held": Out(range(unit + 1)),
                "whole": Out(1),
                "errors": Out(2),
                "take": In(range(unit + 2)),
                "align": In(1),
                "drop": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        unit = self.unit
        shape = ReadBeat(self.parameters.bus_bytes)
        slots = [Signal(shape, name=f"slot_{k}") for k in range(2)]
        valid = Signal(2)
        pointer = Signal(range(max(unit, 2)))

        both = Cat(slots[0].data, slots[1].data)
        m.d.comb += [
            self.words.eq(both >> (pointer * 64)),
            self.held.eq(Mux(valid[0], unit - pointer, 0)),
            self.level.eq(Mux(valid[1], 2 * unit - pointer, self.held)),
            self.whole.eq(pointer == 0),
        ]

        after = Signal(range(2 * unit + 1))
        shift = Signal(2)
        m.d.comb += [
            after.eq(pointer + self.take),
            self.errors.eq(Cat(slots[0].error, slots[1].error)),
        ]
        with m.If(self.drop):
            m.d.comb += shift.eq(1)
            m.d.sync += pointer.eq(0)
        with m.Elif(self.align):
            m.d.sync += pointer.eq(slots[0].begin >> 3)
        with m.Elif(after == 2 * unit):
            m.d.comb += shift.eq(2)
            m.d.sync += pointer.eq(0)
        with m.Elif(after >= unit):
            m.d.comb += shift.eq(1)
            m.d.sync += pointer.eq(after - unit)
        with m.Else():
            m.d.sync += pointer.eq(after)

        left = Signal(2)  # beats that stay, as a count
        load = Signal()
        m.d.comb += [
            left.eq(valid[0] + valid[1] - shift),
            self.beats.ready.eq(left < 2),
            load.eq(self.beats.valid & self.beats.ready),
        ]
        with m.If(shift == 1):
            m.d.sync += slots[0].eq(slots[1])
        with m.If(load & (left == 0)):
            m.d.sync += slots[0].eq(self.beats.payload)
        with m.If(load & (left == 1)):
            m.d.sync += slots[1].eq(self.beats.payload)
        m.d.sync += [valid[0].eq((left + load) >= 1), valid[1].eq((left + load) == 2)]
        return m
