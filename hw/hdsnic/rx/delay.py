"""Delay line: holds what must wait for a slower neighbour in the pipeline.

Used by `verify`, whose beats wait for their checksums.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe

__all__ = ["DelayLine"]


class DelayLine(wiring.Component):
    """Gives out each strobe of `i` exactly `cycles` (2 or more) later.

    A ring in distributed memory instead of `cycles` wide registers. Takes a value every cycle; no
    back-pressure. The payload of `o` is of use only while `o.valid`.
    """

    def __init__(self, shape, cycles):
        if cycles < 2:
            raise ValueError(f"a delay line of {cycles} cycles was asked for; 2 is the least")
        self.shape = shape
        self.cycles = cycles
        super().__init__({"i": In(Strobe(shape)), "o": Out(Strobe(shape))})

    def elaborate(self, platform):
        m = Module()
        bits = (self.cycles - 1).bit_length()  # the reader is `cycles` - 1 behind the writer
        m.submodules.ring = ring = memory.Memory(
            shape=self.shape, depth=1 << bits, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = ring.write_port(), ring.read_port()
        now = Signal(bits)
        under_way = Signal(self.cycles)
        m.d.sync += [now.eq(now + 1), under_way.eq((under_way << 1) | self.i.valid)]
        m.d.comb += [
            write.addr.eq(now),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid),
            read.addr.eq(now - (self.cycles - 1)),
            read.en.eq(under_way[self.cycles - 2]),
            self.o.valid.eq(under_way[self.cycles - 1]),
            self.o.payload.eq(read.data),
        ]
        return m
