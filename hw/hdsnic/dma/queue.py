"""A queue without latency: what finds it empty passes in the same cycle."""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

__all__ = ["PassingQueue"]


class PassingQueue(wiring.Component):
    """`depth` items of `shape`, one in and one out a cycle; no cycle of latency when empty.

    An item that passes but is not taken is queued, so `output` keeps it, as the stream's rules
    demand. `input.ready` does not depend on `output.ready`.
    """

    def __init__(self, shape, depth):
        self.depth = depth
        super().__init__(
            {"input": In(stream.Signature(shape)), "output": Out(stream.Signature(shape))}
        )

    def elaborate(self, platform):
        m = Module()
        source, sink = self.input, self.output
        m.submodules.held = held = SyncFIFO(width=len(source.payload.as_value()), depth=self.depth)
        passes = ~held.r_rdy & sink.ready
        m.d.comb += [
            source.ready.eq(held.w_rdy),
            held.w_data.eq(source.payload),
            held.w_en.eq(source.valid & ~passes),
            sink.valid.eq(held.r_rdy | source.valid),
            sink.payload.eq(Mux(held.r_rdy, held.r_data, source.payload)),
            held.r_en.eq(sink.ready),
        ]
        return m
