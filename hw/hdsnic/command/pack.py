"""Bytes of several reads, at any alignment, packed gap-free into beats of a frame."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, Strobe, count_bits

__all__ = ["BytePacker", "Piece"]


class Piece(StructLayout):
    """Bytes `begin` to `begin` + `count` - 1 of a beat; `final`: the last of the frame."""

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": 8 * bus_bytes,
                "begin": count_bits(bus_bytes - 1),
                "count": count_bits(bus_bytes),
                "final": 1,
            }
        )


class BytePacker(wiring.Component):
    """A beat in is a cycle, and one cycle more where the last of a frame fills two beats.

    Four cycles from beat in to beat out. `beats` are always taken: whoever asks for the bytes has
    made room for them before. Lanes beyond the frame's end are zero.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "pieces": In(stream.Signature(Piece(bus_bytes))),
                "beats": Out(Strobe(FrameBeat(bus_bytes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.bus_bytes
        steps = width.bit_length() - 1
        piece = self.pieces.payload

        # Where in the beat do they go; a last one that does not fit leaves the rest for a flush.
        fill, spill = Signal(range(width)), Signal(range(width))
        total = Signal(range(2 * width + 1))
        taken, overflow, flush = Signal(), Signal(), Signal()
        m.d.comb += [
            self.pieces.ready.eq(~flush),
            taken.eq(self.pieces.valid & ~flush),
            total.eq(fill + piece.count),
            overflow.eq(taken & piece.final & (total > width)),
        ]
        m.d.sync += [flush.eq(overflow), spill.eq(total - width)]
        with m.If(taken):
            m.d.sync += fill.eq(Mux(piece.final, 0, total))

        shape = StructLayout(
            {
                "data": 8 * width,
                "turn": steps,  # lanes to turn the data left by
                "keep": count_bits(width),  # lanes that come from the beats before
                "valid": 1,
                "emit": 1,
                "count": count_bits(width),
                "last": 1,
            }
        )
        placed, half, whole = Signal(shape), Signal(shape), Signal(shape)
        m.d.sync += [
            placed.data.eq(piece.data),
            placed.turn.eq(fill - piece.begin),
            placed.keep.eq(Mux(flush, width, fill)),
            placed.valid.eq(taken),
            placed.emit.eq((taken & (piece.final | (total >= width))) | flush),
            placed.count.eq(Mux(flush, spill, Mux(piece.final & ~overflow, total, width))),
            placed.last.eq((taken & piece.final & ~overflow) | flush),
        ]

        def turned(value, turn, bits):
            for bit in bits:
                value = Mux(turn[bit], value.rotate_left(8 << bit), value)
            return value

        m.d.sync += [
            half.eq(placed),
            half.data.eq(turned(placed.data, placed.turn, range(steps // 2))),
            whole.eq(half),
            whole.data.eq(turned(half.data, half.turn, range(steps // 2, steps))),
        ]

        rest = Signal(8 * width)
        merged = [
            Mux(whole.keep > lane, rest.word_select(lane, 8), whole.data.word_select(lane, 8))
            for lane in range(width)
        ]
        with m.If(whole.valid):
            m.d.sync += rest.eq(Mux(whole.emit, whole.data, Cat(merged)))
        out = self.beats.payload
        m.d.sync += [
            self.beats.valid.eq(whole.emit),
            out.data.eq(Cat(Mux(whole.count > k, byte, 0) for k, byte in enumerate(merged))),
            out.count.eq(whole.count),
            out.last.eq(whole.last),
        ]
        return m
