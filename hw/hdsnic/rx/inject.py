"""Injector: frames that a command made, between those from the wire.

Between ingress and egress. A PLACE's frame goes through egress like any other, so that buffers are
claimed, counted and completed in one place.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, SteeredFrame
from .storage import StreamFifo

__all__ = ["Injector"]

_AHEAD = 16
"""Frames that egress may take before it takes their beats."""


class Injector(wiring.Component):
    """Joins two sources of frames; a frame's beats follow in the order of frames.

    No latency; a frame and a beat a cycle; beats pass from the cycle after their frame was taken on
    (egress takes none earlier). A placed frame goes after a frame from the wire at most, and the
    wire goes on behind each. Once `frames.valid` is 1 the choice stands until it is taken.
    Whoever places a frame must have all of its beats: the wire waits behind them.
    """

    def __init__(self, parameters):
        p = parameters
        frame = stream.Signature(SteeredFrame(p))
        beat = stream.Signature(FrameBeat(p.bus_bytes))
        super().__init__(
            {
                "wire_frames": In(frame),
                "wire_beats": In(beat),
                "place_frames": In(frame),
                "place_beats": In(beat),
                "frames": Out(frame),
                "beats": Out(beat),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.order = order = StreamFifo(1, _AHEAD)
        placed, placed_last, held, held_placed = Signal(), Signal(), Signal(), Signal()
        wire, place, out = self.wire_frames, self.place_frames, self.frames
        with m.If(held):
            m.d.comb += placed.eq(held_placed)
        with m.Else():
            m.d.comb += placed.eq(place.valid & (~placed_last | ~wire.valid))
        moved = Signal()
        m.d.comb += [
            out.valid.eq(Mux(placed, place.valid, wire.valid) & order.input.ready),
            out.payload.eq(Mux(placed, place.payload.as_value(), wire.payload.as_value())),
            moved.eq(out.valid & out.ready),
            wire.ready.eq(moved & ~placed),
            place.ready.eq(moved & placed),
            order.input.valid.eq(moved),
            order.input.payload.eq(placed),
        ]
        m.d.sync += [held.eq(out.valid & ~out.ready), held_placed.eq(placed)]
        with m.If(moved):
            m.d.sync += placed_last.eq(placed)

        source, beats = order.output.payload, self.beats
        m.d.comb += [
            beats.valid.eq(
                order.output.valid & Mux(source, self.place_beats.valid, self.wire_beats.valid)
            ),
            beats.payload.eq(
                Mux(
                    source,
                    self.place_beats.payload.as_value(),
                    self.wire_beats.payload.as_value(),
                )
            ),
            self.wire_beats.ready.eq(order.output.valid & ~source & beats.ready),
            self.place_beats.ready.eq(order.output.valid & source & beats.ready),
            order.output.ready.eq(beats.valid & beats.ready & beats.payload.last),
        ]
        return m
