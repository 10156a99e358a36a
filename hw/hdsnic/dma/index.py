"""Index write-back: the newest indices of a queue, written into its slot in header memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import IndexUpdate, Strobe, WriteClient

__all__ = ["IndexWriter"]

_UPDATES_MAX = 16
"""A write-back is overdue after so many updates; before that it waits for an idle write port."""


class IndexWriter(wiring.Component):
    """Coalesces updates of one half of the index slots and writes them when the port is idle.

    An update is taken every cycle. It is written back, together with those that it overtook, as
    soon as `port_idle` is 1, and at the latest when 16 updates wait: one write of 8 bytes.
    `written` gives the queue once the memory has acknowledged it: only then may software be
    interrupted. `idle`: all updates are written and acknowledged.

    Parameters
    ----------
    half: 0 for the receive half of the slot (bytes 0 to 7), 1 for the transmit half (8 to 15).
    """

    def __init__(self, parameters, half):
        if half not in (0, 1):
            raise ValueError(f"half is {half!r}; it must be 0 (receive) or 1 (transmit)")
        self.parameters = parameters
        self.half = half
        p = parameters
        self._queue_bits = max(1, (p.queues - 1).bit_length())
        super().__init__(
            {
                "update": In(Strobe(IndexUpdate(p))),
                "base": In(p.address_bits),
                "port_idle": In(1),
                "write": Out(WriteClient(p)),
                "written": Out(Strobe(self._queue_bits)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        shape = StructLayout({"low": 32, "high": 32})
        m.submodules.newest = newest = Memory(shape=shape, depth=p.queues, init=[])
        write, read = newest.write_port(), newest.read_port(domain="comb")
        dirty = Signal(p.queues)
        waiting = Signal(range(_UPDATES_MAX + 1))

        m.d.comb += [
            write.addr.eq(self.update.payload.queue),
            write.data.low.eq(self.update.payload.low),
            write.data.high.eq(self.update.payload.high),
            write.en.eq(self.update.valid),
        ]

        # Round robin over the dirty queues, one write at a time through the two registers below.
        last = Signal(self._queue_bits)
        chosen = Signal(self._queue_bits)
        for k in reversed(range(p.queues)):
            with m.If(dirty[k]):
                m.d.comb += chosen.eq(k)
        for k in reversed(range(p.queues)):
            with m.If(dirty[k] & (k > last)):
                m.d.comb += chosen.eq(k)

        m.submodules.queues = queues = SyncFIFO(width=self._queue_bits, depth=p.outstanding)
        request, beats = self.write.request, self.write.beats
        free = Signal()
        start = Signal()
        due = self.port_idle | (waiting == _UPDATES_MAX)
        m.d.comb += [
            free.eq(~request.valid & ~beats.valid),
            start.eq(free & dirty.any() & due & queues.w_rdy),
            read.addr.eq(chosen),
            queues.w_en.eq(start),
            queues.w_data.eq(chosen),
        ]
        slot = self.base + chosen * abi.INDEX_SLOT_BYTES + 8 * self.half
        first_lane = 8 * self.half % p.bus_bytes  # slots are 64 bytes apart, and aligned
        with m.If(start):
            m.d.sync += [
                last.eq(chosen),
                request.valid.eq(1),
                request.payload.address.eq(slot),
                request.payload.length.eq(8),
                request.payload.wrap_log2.eq(0),
                beats.valid.eq(1),
                beats.payload.data.eq(Cat(read.data.low, read.data.high) << (8 * first_lane)),
                beats.payload.strobe.eq(0xFF << first_lane),
                beats.payload.last.eq(1),
            ]
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(beats.valid & beats.ready):
            m.d.sync += beats.valid.eq(0)

        cleared = Mux(start, 1 << chosen, 0)
        set_now = Mux(self.update.valid, 1 << self.update.payload.queue, 0)
        m.d.sync += dirty.eq((dirty & ~cleared) | set_now)
        with m.If(start):
            m.d.sync += waiting.eq(0)
        with m.Elif(self.update.valid & (waiting != _UPDATES_MAX)):
            m.d.sync += waiting.eq(waiting + 1)

        m.d.comb += [
            queues.r_en.eq(self.write.done),
            self.written.valid.eq(self.write.done & ~self.write.error),
            self.written.payload.eq(queues.r_data),
            self.idle.eq(~self.update.valid & ~dirty.any() & (queues.level == 0)),
        ]
        return m
