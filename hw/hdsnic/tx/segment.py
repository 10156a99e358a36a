"""Segment edit: what differs between the segments of a TSO descriptor and its header template.

Between gather and checksum. Offsets and fields: RFC 791, RFC 8200, RFC 9293.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe
from .layouts import OFFSET_BITS, BeatOfFrame, beats_bits

__all__ = ["SegmentEdit"]

_IPV4_LENGTH, _IPV4_IDENTIFICATION, _IPV6_LENGTH = 2, 4, 4
_IPV6_BYTES = 40
_TCP_SEQUENCE, _TCP_FLAGS = 4, 12
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


def swapped(value):
    """A 16-bit number in the order of memory, or back."""
    return Cat(value[8:16], value[:8])


class SegmentEdit(wiring.Component):
    """Writes lengths, identification, sequence number and flags of segments (frames with `tso`).

    The IP version is the first nibble at `l3_offset`. IPv4: total length, identification of the
    template plus the number of the segment, and `ipv4_checksum` is set; IPv6: payload length. TCP:
    sequence number of the template plus the payload before the segment; CWR only in the first
    segment (RFC 3168, section 6.1.2); PSH and FIN only in the last. `extra` is the segment's TCP
    length, which the pseudo-header sum in the template lacks. Other frames pass unchanged, with
    an `extra` of 0.

    A beat a cycle, never refused, two cycles later. Segments but the last must have two beats.

    Parameters: `bus_bytes`, `frame_bytes_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        beats = Strobe(BeatOfFrame(p))
        super().__init__({"beats": In(beats), "edited": Out(beats)})

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        width, lanes = p.bus_bytes, p.bus_bytes // 2
        shift = width.bit_length() - 1

        # -- where in the beat are the fields, and what does the template say --
        beat = self.beats.payload
        index = Signal(max(beats_bits(p), OFFSET_BITS))
        with m.If(self.beats.valid):
            m.d.sync += index.eq(Mux(beat.last, 0, index + 1))

        def field(base, offset, name):
            """Whether the halfword at `base` + `offset` lies in this beat; its lane; its number."""
            at = Signal(OFFSET_BITS + 1, name=f"{name}_at")
            here = Signal(name=f"{name}_here")
            lane = Signal(range(lanes), name=f"{name}_lane")
            value = Signal(16, name=f"{name}_value")
            m.d.comb += [
                at.eq(base + offset),
                here.eq(self.beats.valid & beat.tso & (index == at >> shift)),
                lane.eq(at[1:shift]),
                value.eq(swapped(beat.data.word_select(lane, 16))),
            ]
            return here, lane, value

        version = field(beat.l3_offset, 0, "version")
        ipv4_length = field(beat.l3_offset, _IPV4_LENGTH, "ipv4_length")
        # The identification, or the payload length of IPv6: at the same place.
        identification = field(beat.l3_offset, _IPV4_IDENTIFICATION, "identification")
        sequence_high = field(beat.l4_offset, _TCP_SEQUENCE, "sequence_high")
        sequence_low = field(beat.l4_offset, _TCP_SEQUENCE + 2, "sequence_low")
        flags = field(beat.l4_offset, _TCP_FLAGS, "flags")

        was_ipv4 = Signal()
        ipv4 = Signal()
        number = Signal(16)  # identification of this segment
        sequence = Signal(32)
        m.d.comb += ipv4.eq(Mux(version[0], version[2][12:] == 4, was_ipv4))
        m.d.sync += was_ipv4.eq(ipv4)
        with m.If(beat.opening):
            with m.If(identification[0]):
                m.d.sync += number.eq(identification[2])
            with m.If(sequence_high[0]):
                m.d.sync += sequence[16:].eq(sequence_high[2])
            with m.If(sequence_low[0]):
                m.d.sync += sequence[:16].eq(sequence_low[2])
        with m.If(self.beats.valid & beat.last & ~beat.closing):
            m.d.sync += [number.eq(number + 1), sequence.eq(sequence + beat.mss)]

        # -- a cycle later: replace --
        later = Signal(BeatOfFrame(p))
        later_valid = Signal()
        tcp_length = Signal(16)
        m.d.comb += tcp_length.eq(beat.length - beat.l4_offset)
        m.d.sync += [
            later_valid.eq(self.beats.valid),
            later.eq(beat),
            later.ipv4_checksum.eq(Mux(beat.tso, ipv4, beat.ipv4_checksum)),
            later.tcp_checksum.eq(beat.tcp_checksum | beat.tso),
            later.extra.eq(Mux(beat.tso, swapped(tcp_length), 0)),
        ]
        total = Signal(16)
        m.d.comb += total.eq(beat.length - beat.l3_offset)
        words = []  # (lanes hit, halfword in the order of memory), a cycle later

        def replace(hit, lane, value, name):
            hits = Signal(lanes, name=f"{name}_hits")
            word = Signal(16, name=f"{name}_word")
            m.d.sync += [
                hits.eq(Mux(hit, 1 << lane, 0)),
                word.eq(swapped(value)),
            ]
            words.append((hits, word))

        replace(ipv4_length[0] & ipv4, ipv4_length[1], total, "ipv4_length")
        third = Signal(16)
        m.d.comb += third.eq(
            Mux(ipv4, Mux(beat.opening, identification[2], number), total - _IPV6_BYTES)
        )
        replace(identification[0], identification[1], third, "third")
        again = ~beat.opening
        replace(sequence_high[0] & again, sequence_high[1], sequence[16:], "sequence_high")
        replace(sequence_low[0] & again, sequence_low[1], sequence[:16], "sequence_low")
        cleared = Signal(16)
        m.d.comb += cleared.eq(
            flags[2]
            & Mux(beat.opening, 0xFFFF, 0xFFFF ^ _CWR)
            & Mux(beat.closing, 0xFFFF, 0xFFFF ^ (_FIN | _PSH))
        )
        replace(flags[0], flags[1], cleared, "flags")

        out = self.edited.payload
        m.d.sync += [self.edited.valid.eq(later_valid), out.eq(later)]
        for k in range(lanes):
            half = later.data.word_select(k, 16)
            for hits, word in words:
                half = Mux(hits[k], word, half)
            m.d.sync += out.data[16 * k : 16 * k + 16].eq(half)
        return m
