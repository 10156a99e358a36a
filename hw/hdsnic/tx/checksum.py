"""Checksum: the Internet checksum (RFC 1071) of IP header and TCP or UDP segment, as beats go by.

Beside the way from gather to frame buffer; the sums meet the frame again when it leaves.
"""

from itertools import pairwise

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe, count_bits
from .layouts import OFFSET_BITS, BeatOfFrame, FrameMeta, beats_bits

__all__ = ["Checksum"]

_IPV4_FIELD, _TCP_FIELD, _UDP_FIELD = 10, 16, 6
"""Byte offset of the checksum in each header."""


class Checksum(wiring.Component):
    """Sums IPv4 header and TCP or UDP segment of each good frame, and says where they belong.

    The IPv4 sum goes from `l3_offset` over as many words as the header's IHL says, without the
    checksum field. The other sum goes from `l4_offset` to the frame's end with the field, which
    holds the folded pseudo-header sum, not complemented, and `extra`. A UDP result of 0 becomes
    0xffff (RFC 768). Offsets must be even. Ones' complement sums do not depend on byte order
    (RFC 1071, section 2 B): sums and results are kept in the order of memory.

    A beat a cycle, never refused. `meta` comes seven cycles after the last beat of a good frame.

    Parameters: `bus_bytes`, `frame_bytes_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__({"beats": In(Strobe(BeatOfFrame(p))), "meta": Out(Strobe(FrameMeta(p)))})

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        width, lanes = p.bus_bytes, p.bus_bytes // 2
        shift = width.bit_length() - 1
        index_bits = max(beats_bits(p), OFFSET_BITS)

        def place(offset):
            """Beat index and halfword lane of a byte offset."""
            return offset >> shift, (offset[1:shift] if shift > 1 else 0)

        every = Const((1 << lanes) - 1, lanes)

        def beyond(index, offset):
            """For each halfword of beat `index`: 1 if it lies at `offset` or later."""
            beat, lane = place(offset)
            return Mux(index == beat, (every << lane)[:lanes], Mux(index > beat, every, 0))

        def same(index, offset):
            beat, lane = place(offset)
            return Mux(index == beat, (Const(1, lanes) << lane)[:lanes], 0)

        # Stage 1: the masks that need no look into the frame; IHL comes by.
        beat = self.beats.payload
        index = Signal(index_bits)
        with m.If(self.beats.valid):
            m.d.sync += index.eq(Mux(beat.last, 0, index + 1))
        words = StructLayout(
            {
                "valid": 1,
                "first": 1,
                "last": 1,
                "good": 1,
                "count": count_bits(width),
                "index": index_bits,
                "l3_offset": OFFSET_BITS,
                "l4_offset": OFFSET_BITS,
                "ipv4": 1,
                "tcp": 1,
                "udp": 1,
                "extra": 16,
            }
        )
        marks = [Signal(words, name=f"marks_{k}") for k in range(4)]
        m.d.sync += [
            marks[0].valid.eq(self.beats.valid),
            marks[0].first.eq(index == 0),
            marks[0].last.eq(beat.last),
            marks[0].good.eq(beat.good),
            marks[0].count.eq(beat.count),
            marks[0].index.eq(index),
            marks[0].l3_offset.eq(beat.l3_offset),
            marks[0].l4_offset.eq(beat.l4_offset),
            marks[0].ipv4.eq(beat.ipv4_checksum),
            marks[0].tcp.eq(beat.tcp_checksum),
            marks[0].udp.eq(beat.udp_checksum),
            marks[0].extra.eq(beat.extra),
        ]
        m.d.sync += [later.eq(former) for former, later in pairwise(marks)]
        data = Signal(8 * width)
        l3_mask = Signal(lanes)
        l4_mask = Signal(lanes)
        l3_field = Signal(OFFSET_BITS)
        ihl = Signal(4)
        m.d.comb += l3_field.eq(beat.l3_offset + _IPV4_FIELD)
        m.d.sync += [
            data.eq(beat.data),
            l3_mask.eq(beyond(index, beat.l3_offset) & ~same(index, l3_field)),
            l4_mask.eq(beyond(index, beat.l4_offset)),
        ]
        l3_beat, l3_lane = place(beat.l3_offset)
        with m.If(self.beats.valid & (index == l3_beat)):
            m.d.sync += ihl.eq(beat.data.word_select(l3_lane, 16)[:4])

        # Stage 2: the IP header's end; sums of four halfwords.
        l3_end = Signal(OFFSET_BITS)
        l3_inside = Signal(lanes)
        m.d.comb += [
            l3_end.eq(marks[0].l3_offset + (ihl << 2)),
            l3_inside.eq(l3_mask & ~beyond(marks[0].index, l3_end)),
        ]

        def groups(mask):
            masked = [Mux(mask[k], data.word_select(k, 16), 0) for k in range(lanes)]
            sums = [Signal(18) for _ in range(0, lanes, 4)]
            m.d.sync += [total.eq(sum(masked[4 * k : 4 * k + 4])) for k, total in enumerate(sums)]
            return sums

        def totals(sums):
            total = Signal(16 + lanes.bit_length())
            m.d.sync += total.eq(sum(sums))
            return total

        def accumulate(total, start):
            """Stage 4: the frame so far. Stage 5 and 6: folded to 16 bits."""
            wide = Signal(16 + count_bits(p.frame_bytes_max))
            held = Signal(wide.shape())
            m.d.comb += wide.eq(Mux(marks[2].first, start, held) + total)
            with m.If(marks[2].valid):
                m.d.sync += held.eq(wide)
            once = Signal(17)
            twice = Signal(16)
            m.d.sync += [
                once.eq(held[:16] + held[16:]),
                twice.eq(once[:16] + once[16]),
            ]
            return twice

        l3_sum = accumulate(totals(groups(l3_inside)), 0)
        l4_sum = accumulate(totals(groups(l4_mask)), marks[2].extra)

        # Stages 4 to 6 beside them: the frame's size and places.
        meta = [Signal(FrameMeta(p), name=f"meta_{k}") for k in range(2)]
        valid = Signal(2)
        mark = marks[3]
        m.d.sync += [
            valid[0].eq(mark.valid & mark.last & mark.good),
            valid[1].eq(valid[0]),
            meta[0].last_beat.eq(mark.index),
            meta[0].count.eq(mark.count),
            meta[0].l3.eq(mark.ipv4),
            meta[0].l3_at.eq(mark.l3_offset + _IPV4_FIELD),
            meta[0].l4.eq(mark.tcp | mark.udp),
            meta[0].l4_at.eq(mark.l4_offset + Mux(mark.tcp, _TCP_FIELD, _UDP_FIELD)),
            meta[1].eq(meta[0]),
        ]
        udp = Signal(2)
        m.d.sync += [udp[0].eq(mark.udp), udp[1].eq(udp[0])]
        out = self.meta.payload
        m.d.sync += [
            self.meta.valid.eq(valid[1]),
            out.eq(meta[1]),
            out.l3_checksum.eq(~l3_sum),
            out.l4_checksum.eq(Mux(udp[1] & (l4_sum == 0xFFFF), 0xFFFF, ~l4_sum)),
        ]
        return m
