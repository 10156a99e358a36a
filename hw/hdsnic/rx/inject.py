"""Injector: frames of PLACE commands among those from the wire, in front of the egress.

PLACE moves bytes that lie in header memory into posted buffers. They go the way of a frame that is
all payload, so that nothing but the egress ever writes into an application's memory. Here the two
sources become one, a whole frame at a time.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, SteeredFrame
from .storage import StreamFifo

__all__ = ["Injector"]

_WIRE_FRAMES_MAX = 16
"""Frames from the wire that may pass while one of a command waits."""
_FRAMES = 16
"""Frames that may pass before the first of them has its last beat taken: more than egress places
ahead of its splitter."""


class Injector(wiring.Component):
    """Merges the frames of two sources, and the beats of each in the order of the frames.

    No latency, a frame and a beat a cycle. The wire goes first; a frame of a command passes when
    the wire offers none, and at the latest after 16 frames of the wire. Back-pressure reaches the
    source whose turn it is. The beats of a frame may come before it, but are taken in a later cycle
    than the frame.

    The beats of a frame of a command are to be there, all of them, when it is offered: those of the
    wire wait behind them.

    Ports
    -----
    wire_frames, wire_beats: from `Ingress`. place_frames, place_beats: of PLACE commands. frames,
    beats: for `Egress`.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        frames = stream.Signature(SteeredFrame(parameters))
        beats = stream.Signature(FrameBeat(parameters.bus_bytes))
        super().__init__(
            {
                "wire_frames": In(frames),
                "wire_beats": In(beats),
                "place_frames": In(frames),
                "place_beats": In(beats),
                "frames": Out(frames),
                "beats": Out(beats),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = StreamFifo(1, _FRAMES)  # 1: of a command

        passed = Signal(range(_WIRE_FRAMES_MAX + 1))  # of the wire, while one of a command waits
        held, choice, placing = Signal(), Signal(), Signal()
        m.d.comb += placing.eq(
            Mux(
                held,
                choice,
                self.place_frames.valid & (~self.wire_frames.valid | (passed == _WIRE_FRAMES_MAX)),
            )
        )
        chosen_valid, moves = Signal(), Signal()
        m.d.comb += [
            chosen_valid.eq(Mux(placing, self.place_frames.valid, self.wire_frames.valid)),
            self.frames.payload.eq(
                Mux(placing, self.place_frames.payload, self.wire_frames.payload)
            ),
            self.frames.valid.eq(chosen_valid & turns.input.ready),
            moves.eq(self.frames.valid & self.frames.ready),
            self.place_frames.ready.eq(moves & placing),
            self.wire_frames.ready.eq(moves & ~placing),
            turns.input.payload.eq(placing),
            turns.input.valid.eq(moves),
        ]
        # An offer stands until it is taken.
        m.d.sync += [held.eq(self.frames.valid & ~self.frames.ready), choice.eq(placing)]
        with m.If(moves):
            m.d.sync += passed.eq(Mux(placing | ~self.place_frames.valid, 0, passed + 1))

        beat = self.beats
        place = turns.output.payload
        last = Signal()
        m.d.comb += [
            beat.payload.eq(Mux(place, self.place_beats.payload, self.wire_beats.payload)),
            beat.valid.eq(
                turns.output.valid & Mux(place, self.place_beats.valid, self.wire_beats.valid)
            ),
            last.eq(beat.valid & beat.ready & beat.payload.last),
            self.wire_beats.ready.eq(turns.output.valid & ~place & beat.ready),
            self.place_beats.ready.eq(turns.output.valid & place & beat.ready),
            turns.output.ready.eq(last),
        ]
        return m
