"""Answers of the header read port, word by word."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..interfaces import ReadBeat

__all__ = ["Words"]


class Words(wiring.Component):
    """Beats of reads that begin and end on multiples of 8 bytes, as words of 8 bytes; no latency.

    A word a cycle; a beat is taken with its last word. `last` and `error` are those of the beat,
    `last` on its last word alone.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        word = StructLayout({"data": 64, "last": 1, "error": 1})
        super().__init__(
            {
                "beats": In(stream.Signature(ReadBeat(bus_bytes))),
                "words": Out(stream.Signature(word)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat, word = self.beats.payload, self.words.payload
        done = Signal(range(self.bus_bytes // 8 + 1))  # words of this beat that were given
        at = Signal(range(self.bus_bytes // 8 + 1))
        ends = Signal()
        m.d.comb += [
            at.eq((beat.begin >> 3) + done),
            ends.eq(at + 1 == beat.end >> 3),
            word.data.eq(beat.data.word_select(at, 64)),
            word.last.eq(beat.last & ends),
            word.error.eq(beat.error),
            self.words.valid.eq(self.beats.valid),
            self.beats.ready.eq(self.words.ready & ends),
        ]
        with m.If(self.words.valid & self.words.ready):
            m.d.sync += done.eq(done + 1)
            with m.If(ends):
                m.d.sync += done.eq(0)
        return m
