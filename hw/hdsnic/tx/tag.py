"""VLAN tags into inline header bytes.

Between the parser and the header FIFO.
"""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import count_bits
from .layouts import TAG_BYTES, HeaderBeat, TaggedHeader

__all__ = ["TagInsert"]

_AT = 12
"""Byte offset of the tag: behind the MAC addresses (IEEE 802.1Q)."""

_TPID = 0x8100


class TagInsert(wiring.Component):
    """Puts the four bytes of an 802.1Q tag behind the MAC addresses of headers that want one.

    No latency; a beat a cycle, and one more for a header whose last beat has no room for what the
    tag moved on. Headers have at least 14 bytes. Back-pressure goes through.

    Parameters: `bus_bytes`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "header": In(stream.Signature(TaggedHeader(p.bus_bytes))),
                "tagged": Out(stream.Signature(HeaderBeat(p.bus_bytes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        header, beat, out = self.header.payload, self.header.payload.beat, self.tagged.payload
        tci = header.tci
        tag = Cat(C(_TPID >> 8, 8), C(_TPID & 0xFF, 8), tci[8:], tci[:8])
        before = 8 * (_AT % width)
        rest = Signal(8 * TAG_BYTES)  # what the tag pushed out of the beat before
        index = Signal(range(_AT // width + 2))
        more = Signal()  # the last beat did not have room: `rest` goes alone
        count = Signal(count_bits(width + TAG_BYTES))
        left = Signal(count_bits(TAG_BYTES))
        error = Signal()

        m.d.comb += [
            out.eq(beat),
            count.eq(beat.count + TAG_BYTES),
            self.tagged.valid.eq(self.header.valid),
            self.header.ready.eq(self.tagged.ready),
        ]
        with m.If(more):
            m.d.comb += [
                out.data.eq(rest),
                out.count.eq(left),
                out.last.eq(1),
                out.error.eq(error),
                self.tagged.valid.eq(1),
                self.header.ready.eq(0),
            ]
        with m.Elif(header.vlan & (index >= _AT // width)):
            first = index == _AT // width
            after = beat.data[: 8 * (width - TAG_BYTES)]
            m.d.comb += [
                out.data.eq(Mux(first, Cat(after[:before], tag, after[before:]), Cat(rest, after))),
                out.count.eq(Mux(count > width, width, count)),
                out.last.eq(beat.last & (count <= width)),
            ]
        with m.If(self.tagged.valid & self.tagged.ready):
            with m.If(more):
                m.d.sync += [more.eq(0), index.eq(0)]
            with m.Else():
                m.d.sync += [
                    rest.eq(beat.data[8 * (width - TAG_BYTES) :]),
                    left.eq(count - width),
                    error.eq(beat.error),
                    more.eq(header.vlan & beat.last & (count > width)),
                ]
                with m.If(beat.last):
                    m.d.sync += index.eq(0)
                with m.Elif(index <= _AT // width):
                    m.d.sync += index.eq(index + 1)
        return m
