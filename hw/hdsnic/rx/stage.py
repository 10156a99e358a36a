"""What the parser's stages share: the beat that flows through them, and the frame of a stage.

A frame is never gathered in the parser: each stage picks its fields out of the beat that holds
them, at an offset that the stage before has found, and hands the beat on with the facts known so
far. Every header starts at byte 2 modulo 4, so no halfword field straddles a beat.
"""

from amaranth.hdl import Cat, Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe, count_bits

__all__ = ["HEADER_WINDOW", "LENGTH_MAX", "Beat", "Stage", "lane", "located", "near_bits"]

LENGTH_MAX = 65535  # stands for all lengths from 65,536 - bus_bytes on
HEADER_WINDOW = 256 + 16
"""Bytes of a frame in which fields are looked for: the longest header of a record, and the part of
a TCP header with the data offset behind it."""


def near_bits(bus_bytes):
    """Bits of a beat's number within the window; all ones are beyond it."""
    bits = count_bits(HEADER_WINDOW // bus_bytes)
    assert HEADER_WINDOW // bus_bytes < (1 << bits) - 1
    return bits


class Beat(data.StructLayout):
    """A beat between the stages of the parser.

    `index` counts beats of the frame and `near` does so within HEADER_WINDOW only; both stay at
    their largest value. `length` is the frame's length in bytes so far (up to LENGTH_MAX), `bad`
    the MAC's mark; both are of use on the last beat.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": unsigned(8 * bus_bytes),
                "count": unsigned(count_bits(bus_bytes)),
                "first": unsigned(1),
                "last": unsigned(1),
                "bad": unsigned(1),
                "near": unsigned(near_bits(bus_bytes)),
                "index": unsigned(16 - count_bits(bus_bytes - 1)),
                "length": unsigned(16),
            }
        )


def located(bus_bytes, facts):
    """Layout of a beat with the `facts` known as it leaves a stage."""
    return data.StructLayout({"beat": Beat(bus_bytes), "facts": facts})


def lane(beat_data, at):
    """The halfword at byte `at` of a beat, in network byte order."""
    return Cat(beat_data[8 * at + 8 : 8 * at + 16], beat_data[8 * at : 8 * at + 8])


class Stage(wiring.Component):
    """Frame of a parser stage: `i` to `o` in one cycle, a beat a cycle, without back-pressure.

    The output register doubles as the memory of the facts found in earlier beats of the frame.
    `more` are ports beside them.
    """

    def __init__(self, bus_bytes, facts_in, facts_out, **more):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "i": In(Strobe(located(bus_bytes, facts_in))),
                "o": Out(Strobe(located(bus_bytes, facts_out))),
            }
            | more
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid):
            m.d.sync += self.o.payload.beat.eq(self.i.payload.beat)
        self.find(m, self.i.payload.beat, self.i.payload.facts, self.o.payload.facts)
        return m

    def find(self, m, beat, known, facts):
        """Set `facts` from the beat and from the facts that came with it."""
        raise NotImplementedError

    def carry(self, m, *pairs):
        """Facts that are a function of the incoming facts: (target, value)."""
        with m.If(self.i.valid):
            m.d.sync += [target.eq(value) for target, value in pairs]

    def capture(self, m, hit, *pairs):
        """Facts that are in this beat if `hit`: (target, value). Zero until then."""
        with m.If(self.i.valid):
            with m.If(hit):
                m.d.sync += [target.eq(value) for target, value in pairs]
            with m.Elif(self.i.payload.beat.first):
                m.d.sync += [target.eq(0) for target, _ in pairs]

    def at(self, beat, position):
        """Whether the halfword at byte `position` (a constant) is in this beat; its value; raw."""
        near, at = divmod(position, self.bus_bytes)
        raw = beat.data[8 * at : 8 * at + 16]
        return beat.near == near, lane(beat.data, at), raw
