"""Counters: one memory word for each outcome, so that counting everything costs little."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe

__all__ = ["ByteCounter", "CounterBank"]


class CounterBank(wiring.Component):
    """`count` counters of 64 bits in block RAM; an event adds one to the counter it names.

    Takes an event every cycle, also of the same counter; an event shows in reads that begin three
    cycles later. `read_data` follows `read_index` by one cycle.
    """

    def __init__(self, count):
        self.count = count
        self.index_bits = max(1, (count - 1).bit_length())
        super().__init__(
            {
                "event": In(Strobe(self.index_bits)),
                "read_index": In(self.index_bits),
                "read_data": Out(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=64, depth=self.count, init=[])
        write = memory.write_port()
        old = memory.read_port(transparent_for=(write,))
        reader = memory.read_port()
        pending = Signal()
        pending_index = Signal(self.index_bits)
        m.d.sync += [pending.eq(self.event.valid), pending_index.eq(self.event.payload)]
        m.d.comb += [
            old.addr.eq(self.event.payload),
            write.addr.eq(pending_index),
            write.data.eq(old.data + 1),
            write.en.eq(pending),
            reader.addr.eq(self.read_index),
            self.read_data.eq(reader.data),
        ]
        return m


class ByteCounter(wiring.Component):
    """A 64-bit sum of `amount`, for every cycle with `valid`."""

    def __init__(self):
        super().__init__({"valid": In(1), "amount": In(16), "total": Out(64)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.valid):
            m.d.sync += self.total.eq(self.total + self.amount)
        return m
