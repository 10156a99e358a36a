"""Frame buffer behind the gather: a frame leaves when it is whole, good, and its sums are known.

Last block of the transmit path, in front of the MAC.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, Strobe, count_bits
from .layouts import OFFSET_BITS, BeatOfFrame, FrameMeta, beats_bits, beats_max

__all__ = ["FRAMES", "FrameBuffer"]

FRAMES = 256
"""Frames that fit in; at 60 bytes and 64 bytes a beat, some 340 cycles of wire."""

_BEATS_UNDER_WAY, _FRAMES_UNDER_WAY = 12, 24
"""What may still come of frames that were begun while `room` was 1, and before it falls."""


class FrameBuffer(wiring.Component):
    """Stores beats, forgets bad frames, inserts checksums on the way out.

    Beats and metas are always taken: who sends them begins a frame only while `room` is 1, which
    says that the largest frame fits in behind what is under way (12 beats, 24 frames). A frame's
    beats come out once its meta is there, a beat a cycle without gaps between frames; the MAC may
    stall them at any beat. `frame_done` is 1 in the cycle after a frame's last beat was taken, with
    its length on `frame_bytes`.

    While `discard` is 1 frames are dropped instead, a beat a cycle, and `frame_discarded` is 1 for
    each. The beat that is on offer stays; a frame that was cut ends with a beat of one byte that is
    marked as an `error`, before anything else is sent.

    Parameters: `bus_bytes`, `tx_buffer_bytes`, `frame_bytes_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "beats": In(Strobe(BeatOfFrame(p))),
                "meta": In(Strobe(FrameMeta(p))),
                "room": Out(1),
                "discard": In(1),
                "mac": Out(stream.Signature(FrameBeat(p.bus_bytes))),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
                "frame_discarded": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        width, lanes = p.bus_bytes, p.bus_bytes // 2
        shift = width.bit_length() - 1
        depth = p.tx_buffer_bytes // width
        m.submodules.memory = memory = Memory(shape=8 * width, depth=depth, init=[])
        m.submodules.metas = metas = SyncFIFOBuffered(width=FrameMeta(p).size, depth=FRAMES)
        write = memory.write_port()
        read = memory.read_port()

        head = Signal(range(depth))
        start = Signal(range(depth))
        tail = Signal(range(depth))
        filled = Signal(range(depth))
        beat = self.beats.payload
        m.d.comb += [
            write.addr.eq(head),
            write.data.eq(beat.data),
            write.en.eq(self.beats.valid),
            metas.w_data.eq(self.meta.payload),
            metas.w_en.eq(self.meta.valid),
            filled.eq(head - tail),
        ]
        with m.If(self.beats.valid):
            m.d.sync += head.eq(head + 1)
            with m.If(beat.last & beat.good):
                m.d.sync += start.eq(head + 1)
            with m.Elif(beat.last):
                m.d.sync += head.eq(start)
        m.d.sync += self.room.eq(
            (filled < depth - beats_max(p) - _BEATS_UNDER_WAY)
            & (metas.level < FRAMES - _FRAMES_UNDER_WAY)
        )

        # Two stages that move as soon as there is place: the memory's output, and `mac`.
        meta = FrameMeta(p)(metas.r_data)
        index = Signal(max(beats_bits(p), OFFSET_BITS))
        fetched = Signal()
        move_fetched = Signal()
        move_out = Signal()
        ends = Signal()  # the last beat of a frame is fetched
        l3_lane = Signal(lanes)  # halfword of the beat that takes the checksum
        l4_lane = Signal(lanes)
        l3_checksum = Signal(16)
        l4_checksum = Signal(16)
        count = Signal(count_bits(width))
        last = Signal()
        within = Signal()  # of the frame at the memory's output, some went to `mac`
        cut = Signal()  # the rest of that frame is dropped
        owed = Signal()  # `mac` has a frame without an end
        drop = Signal()

        def lane_of(there, at):
            lane = at[1:shift]
            return [there & (index == at >> shift) & (lane == k) for k in range(lanes)]

        m.d.comb += [
            drop.eq(self.discard | cut),
            move_out.eq(~self.mac.valid | self.mac.ready),
            move_fetched.eq(~fetched | drop | (move_out & ~owed)),
            read.en.eq(move_fetched & metas.r_rdy),
            read.addr.eq(tail),
            ends.eq(read.en & (index == meta.last_beat)),
            metas.r_en.eq(ends),
        ]
        with m.If(move_fetched):
            m.d.sync += fetched.eq(read.en)
        with m.If(read.en):
            m.d.sync += [
                tail.eq(tail + 1),
                index.eq(Mux(ends, 0, index + 1)),
                count.eq(Mux(ends, meta.count, width)),
                last.eq(ends),
                l3_checksum.eq(meta.l3_checksum),
                l4_checksum.eq(meta.l4_checksum),
            ]
            m.d.sync += [l3_lane[k].eq(hit) for k, hit in enumerate(lane_of(meta.l3, meta.l3_at))]
            m.d.sync += [l4_lane[k].eq(hit) for k, hit in enumerate(lane_of(meta.l4, meta.l4_at))]

        out = self.mac.payload
        m.d.sync += self.frame_discarded.eq(fetched & drop & last)
        with m.If(fetched & drop):
            m.d.sync += [cut.eq(~last), within.eq(0)]
            with m.If(within):
                m.d.sync += owed.eq(1)
        with m.If(move_out):
            m.d.sync += [
                self.mac.valid.eq(owed | (fetched & ~drop)),
                out.count.eq(Mux(owed, 1, count)),
                out.last.eq(owed | last),
                out.error.eq(owed),
            ]
            with m.If(owed):
                m.d.sync += owed.eq(0)
            with m.Elif(fetched & ~drop):
                m.d.sync += within.eq(~last)
            for k in range(lanes):
                half = slice(16 * k, 16 * k + 16)
                word = Mux(l3_lane[k], l3_checksum, read.data[half])
                m.d.sync += out.data[half].eq(Mux(owed, 0, Mux(l4_lane[k], l4_checksum, word)))

        total = Signal(16)
        m.d.sync += self.frame_done.eq(0)
        with m.If(self.mac.valid & self.mac.ready):
            m.d.sync += total.eq(Mux(out.last, 0, total + width))
            with m.If(out.last):
                m.d.sync += [
                    self.frame_done.eq(~out.error),
                    self.frame_bytes.eq(total + out.count),
                ]
        return m
