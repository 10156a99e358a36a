"""Admission: the last decision before a frame is committed, and the account of the frame buffer.

Beside the frame buffer. A queue whose mode is not to split UDP has its datagrams whole; a queue
that holds more than its share of a buffer that is filling up loses its frames first (I7).
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import SteeredFrame, count_bits
from .buffer import FRAME_BYTES_MIN, buffer_frames
from .verify import VerifiedBeat

__all__ = ["Admission"]


class Admission(wiring.Component):
    """Final reason of a frame; rows of the frame buffer held by each queue.

    `frame` and `over` are a function of `verified` and of the account, which is three cycles old;
    a frame a cycle. A frame counts for its queue from its commit until its last beat has left.

    Interface attributes
    --------------------
    udp_split: a bit for each queue. watermark, share: in 64 bytes; watermark 0 switches this off.
    verified: a frame's last beat with its verdict. frame: as it is announced.
    over: more than the watermark is in use, and more than the share by the frame's queue.
    used, kept, rows, left: of the frame buffer.
    """

    def __init__(self, parameters):
        self.p = parameters
        rows = count_bits(parameters.rx_buffer_bytes // parameters.bus_bytes)
        super().__init__(
            {
                "udp_split": In(parameters.queues),
                "watermark": In(16),
                "share": In(16),
                "verified": In(VerifiedBeat(parameters)),
                "frame": Out(SteeredFrame(parameters)),
                "over": Out(1),
                "used": In(rows),
                "kept": In(1),
                "rows": In(rows),
                "left": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        rx = abi.RxOutcome
        frame, final = self.verified.frame, self.frame
        above, over = Signal(), Signal(p.queues)
        whole = Signal()
        m.d.comb += [
            whole.eq(self.verified.udp_payload & ~self.udp_split.bit_select(frame.queue, 1)),
            self.over.eq(above & Mux(whole, over[0], over.bit_select(frame.queue, 1))),
            final.eq(frame),
        ]
        with m.If(whole):
            m.d.comb += [
                final.reason.eq(rx.UDP_WHOLE),
                final.queue.eq(0),
                final.header_length.eq(frame.length),
                final.payload_length.eq(0),
            ]
        with m.If(self.over):
            m.d.comb += final.reason.eq(rx.FAIR_SHARE)

        held = data.StructLayout({"queue": len(frame.queue), "rows": len(self.rows)})
        m.submodules.inside = inside = fifo.SyncFIFOBuffered(
            width=held.size, depth=buffer_frames(p) + 4
        )
        enters, entered = Signal(), Signal(held)
        leaves, leaving = Signal(), Signal(held)
        owed = Signal(2)  # frames that left before their entry was there
        m.d.sync += [enters.eq(self.kept), owed.eq(owed + self.left - leaves)]
        with m.If(self.kept):
            m.d.sync += [entered.queue.eq(final.queue), entered.rows.eq(self.rows)]
        m.d.comb += [
            inside.w_en.eq(enters),
            inside.w_data.eq(entered),
            leaves.eq(inside.r_rdy & (self.left | (owed != 0))),
            inside.r_en.eq(leaves),
            leaving.eq(inside.r_data),
        ]
        scale = (FRAME_BYTES_MIN // p.bus_bytes).bit_length() - 1
        m.d.sync += above.eq((self.watermark != 0) & (self.used > (self.watermark << scale)))
        for queue in range(p.queues):
            rows = Signal(len(self.rows) + 1, name=f"rows_{queue}")
            into = enters & (entered.queue == queue)
            out_of = leaves & (leaving.queue == queue)
            with m.If(into | out_of):
                m.d.sync += rows.eq(
                    rows + Mux(into, entered.rows, 0) - Mux(out_of, leaving.rows, 0)
                )
            m.d.sync += over[queue].eq(rows > (self.share << scale))
        return m
