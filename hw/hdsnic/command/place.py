"""PLACE: ranges of header memory become a frame whose payload goes to buffers of a queue.

The command names no destination: the frame goes through egress like one from the wire, which claims
posted buffers for it, so nothing that was delivered can be overwritten.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import FrameBeat, ReadClient, SteeredFrame, Strobe, count_bits
from .pack import BytePacker

__all__ = ["RANGES_MAX", "PlaceCommand", "Placement"]

RANGES_MAX = 16


class PlaceCommand(StructLayout):
    """A PLACE: how many ranges, whose queue."""

    def __init__(self):
        super().__init__({"ranges": range(RANGES_MAX + 1), "queue": 8, "cookie": 32})


class Placement(wiring.Component):
    """Reads the ranges of a command, gathers them, and gives the frame to egress.

    The frame is whole before egress hears of it, so a slow header memory holds up no frame from the
    wire, and one that fails makes no frame. Latency: a cycle a range, the reads, 4 cycles; a beat a
    cycle from then on.

    Ports
    -----
    start: begins a command; comes only between `done`s. range_index, range: the ranges, read in the
    same cycle. header_base, header_pages: the memory that they must lie in. read: header memory.
    frames, beats: to the injector. done: with `refused`, if a range is empty, lies outside the
    memory, or all are longer than a frame; with `failed`, if a read met an error.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "start": In(Strobe(PlaceCommand())),
                "range_index": Out(range(RANGES_MAX)),
                "range": In(abi.COMMAND_RANGE.as_amaranth()),
                "header_base": In(p.address_bits),
                "header_pages": In(32),
                "cycles": In(64),
                "read": Out(ReadClient(p)),
                "frames": Out(stream.Signature(SteeredFrame(p))),
                "beats": Out(stream.Signature(FrameBeat(p.bus_bytes))),
                "done": Out(1),
                "refused": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.packer = packer = BytePacker(p.bus_bytes)
        shape = StructLayout({"data": 8 * p.bus_bytes, "count": count_bits(p.bus_bytes), "last": 1})
        depth = -(-p.frame_bytes_max // p.bus_bytes) + 1
        m.submodules.whole = whole = SyncFIFOBuffered(width=shape.size, depth=depth)

        command = Signal(PlaceCommand())
        asked = Signal(range(RANGES_MAX + 1))  # ranges checked, then ranges asked for
        answered = Signal(range(RANGES_MAX + 1))
        length = Signal(count_bits(p.frame_bytes_max))
        total = Signal(17)
        error, offered = Signal(), Signal()
        stamp = Signal(64)
        one = self.range
        last_asked = asked == command.ranges - 1
        sound = Signal()
        m.d.comb += [
            self.range_index.eq(asked),
            total.eq(length + one.length),
            sound.eq(
                (one.length != 0)
                & (one.spare == 0)
                & (one.offset + one.length <= self.header_pages << 12)
                & (total <= p.frame_bytes_max)
            ),
        ]

        # Reads are asked for one after the other while the answers of those before are packed.
        request, beat = self.read.request, self.read.beats.payload
        piece = packer.pieces
        final = beat.last & (answered == command.ranges - 1)
        taken = Signal()
        m.d.comb += [
            request.payload.address.eq(self.header_base + one.offset),
            request.payload.length.eq(one.length),
            piece.payload.data.eq(beat.data),
            piece.payload.begin.eq(beat.begin),
            piece.payload.count.eq(beat.end - beat.begin),
            piece.payload.final.eq(final),
            piece.valid.eq(self.read.beats.valid),
            self.read.beats.ready.eq(piece.ready),
            taken.eq(piece.valid & piece.ready),
        ]
        with m.If(taken):
            m.d.sync += [error.eq(error | beat.error), answered.eq(answered + beat.last)]

        packed, stored = packer.beats, shape(whole.r_data)
        out, frame = self.beats.payload, self.frames.payload
        m.d.comb += [
            whole.w_en.eq(packed.valid),
            out.data.eq(stored.data),
            out.count.eq(stored.count),
            out.last.eq(stored.last),
            frame.length.eq(length),
            frame.payload_length.eq(length),
            frame.queue.eq(command.queue),
            frame.hash.eq(command.cookie),
            frame.time_stamp.eq(stamp),
            frame.reason.eq(abi.RxOutcome.PLACED),
        ]
        into = Signal(shape)
        m.d.comb += [
            into.data.eq(packed.payload.data),
            into.count.eq(packed.payload.count),
            into.last.eq(packed.payload.last),
            whole.w_data.eq(into),
        ]
        with m.FSM():
            with m.State("idle"):
                m.d.sync += [
                    command.eq(self.start.payload), asked.eq(0), answered.eq(0), length.eq(0),
                    error.eq(0), offered.eq(0),
                ]  # fmt: skip
                with m.If(self.start.valid):
                    m.next = "check"
            with m.State("check"):
                m.d.sync += [asked.eq(asked + 1), length.eq(total)]
                with m.If(~sound):
                    m.d.comb += [self.done.eq(1), self.refused.eq(1)]
                    m.next = "idle"
                with m.Elif(last_asked):
                    m.d.sync += asked.eq(0)
                    m.next = "read"
            with m.State("read"):
                m.d.comb += request.valid.eq(asked != command.ranges)
                with m.If(request.valid & request.ready):
                    m.d.sync += asked.eq(asked + 1)
                with m.If(packed.valid & packed.payload.last):
                    m.d.sync += stamp.eq(self.cycles)
                    m.next = "offer"
                    with m.If(error):
                        m.next = "discard"
            with m.State("offer"):
                m.d.comb += [
                    self.frames.valid.eq(~offered),
                    self.beats.valid.eq(whole.r_rdy),
                    whole.r_en.eq(self.beats.ready),
                ]
                with m.If(self.frames.valid & self.frames.ready):
                    m.d.sync += offered.eq(1)
                with m.If(self.beats.valid & self.beats.ready & out.last):
                    m.next = "accepted"
            with m.State("accepted"):
                m.d.comb += self.frames.valid.eq(~offered)
                with m.If(offered | self.frames.ready):
                    m.d.comb += self.done.eq(1)
                    m.next = "idle"
            with m.State("discard"):
                m.d.comb += whole.r_en.eq(1)
                with m.If(whole.r_rdy & stored.last):
                    m.d.comb += [self.done.eq(1), self.failed.eq(1)]
                    m.next = "idle"
        return m
