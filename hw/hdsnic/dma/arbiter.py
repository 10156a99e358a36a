"""Round robin between streams."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin"]


class RoundRobin(wiring.Component):
    """Streams of one shape in, one stream out with the number of its source as `tag`.

    No latency; one item a cycle; who was served last is asked last. Once `output.valid` is 1 the
    choice stands until it is taken, as the stream's rules demand.
    """

    def __init__(self, shape, count, *, name="request"):
        self.count = count
        self.name = name
        super().__init__(
            {
                "inputs": In(stream.Signature(shape)).array(count),
                "output": Out(
                    stream.Signature(
                        StructLayout({name: shape, "tag": max(1, (count - 1).bit_length())})
                    )
                ),
            }
        )

    def elaborate(self, platform):
        m = Module()
        n = self.count
        last = Signal(range(max(n, 2)))
        held = Signal()
        choice = Signal.like(last)
        chosen = Signal.like(last)

        m.d.comb += chosen.eq(last)
        with m.If(held):
            m.d.comb += chosen.eq(last)
        with m.Else():
            with m.Switch(last):
                for served in range(n):
                    with m.Case(served):
                        # Later assignments win: ask the next one after `served` last in this list.
                        for step in reversed(range(1, n + 1)):
                            k = (served + step) % n
                            with m.If(self.inputs[k].valid):
                                m.d.comb += chosen.eq(k)
        m.d.comb += choice.eq(chosen)

        payloads = Array(i.payload for i in self.inputs)
        valids = Array(i.valid for i in self.inputs)
        m.d.comb += [
            self.output.valid.eq(valids[choice]),
            self.output.payload[self.name].eq(payloads[choice]),
            self.output.payload.tag.eq(choice),
        ]
        for k, i in enumerate(self.inputs):
            m.d.comb += i.ready.eq(self.output.ready & (choice == k))
        with m.If(self.output.valid):
            m.d.sync += [last.eq(choice), held.eq(~self.output.ready)]
        return m
