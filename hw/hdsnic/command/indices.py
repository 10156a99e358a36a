"""The transmit half of the index slots: one update out of two sources."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Doorbell, IndexUpdate, QueueStore, Strobe
from ..rx.storage import IndexTable, queue_bits

__all__ = ["TransmitIndices"]


class TransmitIndices(wiring.Component):
    """Joins the consumer index of transmission and the producer index of completions.

    An update of transmission passes in its cycle; one of completions in a cycle without such. Each
    goes out with the newest of the other. Both are zero once the queue's ring is stored.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "transmit": In(Strobe(IndexUpdate(p))),
                "completions": In(stream.Signature(Doorbell(p))),
                "ring_store": In(Strobe(QueueStore(p))),
                "update": Out(Strobe(IndexUpdate(p))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = queue_bits(self.parameters)
        m.submodules.consumed = consumed = IndexTable(bits, 1)
        m.submodules.completed = completed = IndexTable(bits, 1)
        sent, done, out = self.transmit, self.completions, self.update
        queue = Signal(bits)
        for table in (consumed, completed):
            m.d.comb += [
                table.clear.eq(self.ring_store.valid),
                table.clear_queue.eq(self.ring_store.payload.queue),
                table.queue[0].eq(queue),
                table.write_queue.eq(queue),
            ]
        m.d.comb += [
            queue.eq(Mux(sent.valid, sent.payload.queue, done.payload.queue)),
            done.ready.eq(~sent.valid),
            consumed.write.eq(sent.valid),
            consumed.write_value.eq(sent.payload.low),
            completed.write.eq(done.valid & ~sent.valid),
            completed.write_value.eq(done.payload.index),
            out.valid.eq(sent.valid | done.valid),
            out.payload.queue.eq(queue),
            out.payload.low.eq(Mux(sent.valid, sent.payload.low, consumed.value[0])),
            out.payload.high.eq(Mux(sent.valid, completed.value[0], done.payload.index)),
        ]
        return m
