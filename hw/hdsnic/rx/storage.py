"""Small storage that the egress half shares: typed stream FIFOs and per-queue index tables."""

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["IndexTable", "StreamFifo", "queue_bits"]


def queue_bits(parameters):
    """Width of a queue number."""
    return max(1, (parameters.queues - 1).bit_length())


class StreamFifo(wiring.Component):
    """A FIFO of `depth` entries of `shape` between two streams.

    Latency one cycle (two with `block`, which keeps the entries in block RAM; none with `through`
    while it is empty), one entry a cycle, back-pressure when full. `empty` is 1 when nothing is
    inside.
    """

    def __init__(self, shape, depth, *, block=False, through=False):
        self._depth, self._block, self._through = depth, block, through
        self._width = Shape.cast(shape).width
        super().__init__(
            {
                "input": In(stream.Signature(shape)),
                "output": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        kind = SyncFIFOBuffered if self._block else SyncFIFO
        m.submodules.fifo = fifo = kind(width=self._width, depth=self._depth)
        m.d.comb += [
            fifo.w_data.eq(self.input.payload),
            fifo.w_en.eq(self.input.valid),
            self.input.ready.eq(fifo.w_rdy),
            self.output.payload.eq(fifo.r_data),
            self.output.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.output.ready),
            self.level.eq(fifo.level),
            self.empty.eq(fifo.level == 0),
        ]
        if self._through:
            with m.If(self.empty):
                m.d.comb += [
                    self.output.payload.eq(self.input.payload),
                    self.output.valid.eq(self.input.valid),
                    fifo.w_en.eq(self.input.valid & ~self.output.ready),
                ]
        return m


class IndexTable(wiring.Component):
    """A 32-bit index for each queue, in LUT RAM, zero after reset.

    Reads are asynchronous. A write shows in the next cycle. `clear` zeroes one queue's index beside
    a write to another; both at one queue: it is zeroed.

    Parameters
    ----------
    bits: width of a queue number. reads: number of read ports.
    """

    def __init__(self, bits, reads):
        self._bits, self._reads = bits, reads
        super().__init__(
            {
                "write": In(1),
                "write_queue": In(bits),
                "write_value": In(32),
                "clear": In(1),
                "clear_queue": In(bits),
                "queue": In(bits).array(reads),
                "value": Out(32).array(reads),
            }
        )

    def elaborate(self, platform):
        m = Module()
        size = 1 << self._bits
        m.submodules.memory = memory = Memory(shape=32, depth=size, init=[])
        # A memory cannot be reset, and has one write port: zero is a flip-flop beside the word.
        zero = Signal(size, init=(1 << size) - 1)
        written = Mux(self.write, 1 << self.write_queue, 0)
        cleared = Mux(self.clear, 1 << self.clear_queue, 0)
        m.d.sync += zero.eq((zero & ~written[:size]) | cleared[:size])
        port = memory.write_port()
        m.d.comb += [
            port.en.eq(self.write),
            port.addr.eq(self.write_queue),
            port.data.eq(self.write_value),
        ]
        for queue, value in zip(self.queue, self.value, strict=True):
            read = memory.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(queue),
                value.eq(Mux(zero.bit_select(queue, 1), 0, read.data)),
            ]
        return m
