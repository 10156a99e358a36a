"""Interrupt moderation: which index write-back of a queue raises its interrupt."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import Strobe

__all__ = ["Moderation", "ModerationStore"]

_WIDTHS = {f.name: f.bits for f in abi.CONTROL.IRQ_MODERATION.fields}


class ModerationStore(StructLayout):
    """A queue's IRQ_MODERATION."""

    def __init__(self, queues):
        super().__init__({"queue": max(1, (queues - 1).bit_length()), **_WIDTHS})


class Moderation(wiring.Component):
    """Turns index write-backs into interrupts.

    Of a queue whose setting is zero every write-back raises in the same cycle. Else a write-back
    waits until there are `updates` of them, or until `cycles` cycles after the first of them; a
    limit of zero is no limit, so with `updates` alone the last ones wait for more. A store lets
    what waits go at once.

    Ports
    -----
    store: sets a queue's limits. written: queues whose indices were written back, two in a cycle at
    most. raised: a bit for each queue, for a cycle.
    """

    def __init__(self, queues):
        self.queues = queues
        bits = max(1, (queues - 1).bit_length())
        super().__init__(
            {
                "store": In(Strobe(ModerationStore(queues))),
                "written": In(Strobe(bits)).array(2),
                "raised": Out(queues),
            }
        )

    def elaborate(self, platform):
        m = Module()
        limits = self.store.payload
        for q in range(self.queues):
            updates = Signal(_WIDTHS["updates"], name=f"updates_{q}")
            cycles = Signal(_WIDTHS["cycles"], name=f"cycles_{q}")
            count = Signal.like(updates, name=f"count_{q}")
            left = Signal.like(cycles, name=f"left_{q}")
            waiting = Signal(name=f"waiting_{q}")
            came = [w.valid & (w.payload == q) for w in self.written]
            total = count + came[0] + came[1]
            stored = self.store.valid & (limits.queue == q)
            any_came, enough, late = Signal(), Signal(), Signal()
            m.d.comb += [
                any_came.eq(came[0] | came[1]),
                enough.eq(any_came & Mux(updates != 0, total >= updates, cycles == 0)),
                late.eq(waiting & (((cycles != 0) & (left == 0)) | stored)),
                self.raised[q].eq(enough | late),
            ]
            with m.If(self.raised[q]):
                m.d.sync += [waiting.eq(0), count.eq(0)]
            with m.Elif(any_came):
                m.d.sync += [waiting.eq(1), count.eq(total)]
            with m.If(waiting):
                m.d.sync += left.eq(left - 1)
            with m.Elif(any_came):
                m.d.sync += left.eq(cycles - 1)
            with m.If(stored):
                m.d.sync += [updates.eq(limits.updates), cycles.eq(limits.cycles)]
        return m
