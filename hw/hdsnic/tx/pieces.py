"""Piece queue: checked references on their way to the payload port, all of a descriptor or none.

Between the reference check and the payload port. It is what keeps a refused descriptor from making
any payload access.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe
from .layouts import Piece

__all__ = ["PieceQueue"]

_UNDER_WAY = 4
"""References that the check may still hold when a descriptor is begun."""


class PieceQueue(wiring.Component):
    """FIFO with commit and rollback.

    Pieces that were pushed come out once `commit` was 1, and are forgotten if `rollback` was; both
    mean the pieces pushed before that cycle. `room`: another descriptor's references have place.
    Two cycles from commit to the first piece; a piece a cycle.

    Parameters: `references_max`; two descriptors of that many fit in.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "push": In(Strobe(Piece(p))),
                "commit": In(1),
                "rollback": In(1),
                "room": Out(1),
                "pieces": Out(stream.Signature(Piece(p))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = (2 * (p.references_max + _UNDER_WAY) - 1).bit_length()
        depth = 1 << bits
        m.submodules.memory = memory = Memory(shape=Piece(p), depth=depth, init=[])
        write = memory.write_port()
        read = memory.read_port()

        # One bit more than an address, so that full and empty differ.
        head = Signal(bits + 1)
        committed = Signal(bits + 1)
        tail = Signal(bits + 1)
        filled = Signal(bits + 1)
        m.d.comb += [
            filled.eq(head - tail),
            self.room.eq(filled <= depth - p.references_max - _UNDER_WAY),
            write.addr.eq(head),
            write.data.eq(self.push.payload),
            write.en.eq(self.push.valid),
        ]
        with m.If(self.rollback):
            m.d.sync += head.eq(committed)
        with m.Elif(self.push.valid):
            m.d.sync += head.eq(head + 1)
        with m.If(self.commit):
            m.d.sync += committed.eq(head)

        # The memory's output register is the stream's register.
        move = Signal()
        m.d.comb += [
            move.eq(~self.pieces.valid | self.pieces.ready),
            read.en.eq(move & (tail != committed)),
            read.addr.eq(tail),
            self.pieces.payload.eq(read.data),
        ]
        with m.If(move):
            m.d.sync += self.pieces.valid.eq(read.en)
        with m.If(read.en):
            m.d.sync += tail.eq(tail + 1)
        return m
