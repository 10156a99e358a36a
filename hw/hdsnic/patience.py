"""When a memory counts as failed: something is owed, and for too long nothing moved."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Patience"]


class Patience(wiring.Component):
    """Counts cycles in which `waiting` is 1 and `progress` is 0, one after the other.

    With as many as `timeout` of them, `expired` is 1 in the last one; 0 waits for ever. One cycle
    of progress, or of not waiting, begins anew.
    """

    waiting: In(1)
    progress: In(1)
    timeout: In(32)
    expired: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(32)  # cycles before this one
        stuck = Signal()
        m.d.comb += [
            stuck.eq(self.waiting & ~self.progress),
            self.expired.eq(stuck & (self.timeout != 0) & (count + 1 >= self.timeout)),
        ]
        with m.If(~stuck):
            m.d.sync += count.eq(0)
        with m.Elif(~count.all()):
            m.d.sync += count.eq(count + 1)
        return m
