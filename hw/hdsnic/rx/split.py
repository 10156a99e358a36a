"""Splitter: one pass over a frame's beats, header to the record writer, payload to the aligner.

Behind the placer. Beats leave the frame buffer at one a cycle; those that hold header bytes go to
the header path, those that hold payload bytes to the payload path (one beat may hold both), padding
and dropped frames go nowhere. The payload path begins at the split offset: what lies before it
never leaves its registers for the payload port (I1).
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, WriteBeat, count_bits

__all__ = ["PayloadAligner", "PayloadBeat", "SplitJob", "Splitter"]


def _lane_bits(parameters):
    return parameters.bus_bytes.bit_length() - 1


class SplitJob(data.StructLayout):
    """How a frame's beats are shared out, counted in beats from the frame's start.

    The header takes beats 0 to `header_beats` - 1, the payload `payload_first` to `payload_end` -
    1, beginning at lane `shift` of the first, `payload_length` bytes. All zero: the frame is
    skipped.
    """

    def __init__(self, parameters):
        length = count_bits(parameters.frame_bytes_max)
        beats = length - _lane_bits(parameters) + 1
        super().__init__(
            {
                "header_beats": beats,
                "payload_first": beats,
                "payload_end": beats,
                "payload_length": length,
                "shift": _lane_bits(parameters),
            }
        )


class PayloadBeat(data.StructLayout):
    """A beat of a frame with payload, on its way to the aligner.

    The output beat that begins in this one takes `bytes` bytes from lane `shift` on; `joined`: also
    from the next beat; `last`: it is the payload's last. `spent`: no output beat begins here.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": 8 * bus_bytes,
                "shift": bus_bytes.bit_length() - 1,
                "bytes": count_bits(bus_bytes),
                "joined": 1,
                "last": 1,
                "spent": 1,
            }
        )


class Splitter(wiring.Component):
    """One beat a cycle, no bubble between frames, no latency of its own.

    A beat is taken once all paths that want it have room. `idle` is 1 between frames.

    Ports
    -----
    jobs: one for each frame; taken with the frame's last beat. beats: the frames. header: whole
    beats with header bytes. payload: beats with payload bytes, for `PayloadAligner`.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        super().__init__(
            {
                "jobs": In(stream.Signature(SplitJob(p))),
                "beats": In(stream.Signature(FrameBeat(p.bus_bytes))),
                "header": Out(stream.Signature(8 * p.bus_bytes)),
                "payload": Out(stream.Signature(PayloadBeat(p.bus_bytes))),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        job, beat = self.jobs.payload, self.beats.payload
        index = Signal.like(job.payload_end)
        later = Signal.like(job.payload_length)  # payload bytes from this beat on, after the first
        left = Signal.like(job.payload_length)
        to_header, to_payload, taken = Signal(), Signal(), Signal()
        header_waits = to_header & ~self.header.ready
        payload_waits = to_payload & ~self.payload.ready
        m.d.comb += [
            to_header.eq(index < job.header_beats),
            to_payload.eq((index >= job.payload_first) & (index < job.payload_end)),
            left.eq(Mux(index == job.payload_first, job.payload_length, later)),
            taken.eq(self.beats.valid & self.jobs.valid & ~header_waits & ~payload_waits),
            self.beats.ready.eq(taken),
            self.jobs.ready.eq(taken & beat.last),
            self.header.valid.eq(taken & to_header),
            self.header.payload.eq(beat.data),
            self.payload.valid.eq(taken & to_payload),
            self.payload.payload.data.eq(beat.data),
            self.payload.payload.shift.eq(job.shift),
            self.payload.payload.bytes.eq(Mux(left > width, width, left)),
            self.payload.payload.joined.eq((job.shift != 0) & (left + job.shift > width)),
            self.payload.payload.last.eq(left <= width),
            self.payload.payload.spent.eq(left == 0),
            self.idle.eq(~self.jobs.valid),
        ]
        with m.If(taken):
            m.d.sync += [
                index.eq(Mux(beat.last, 0, index + 1)),
                later.eq(Mux(left > width, left - width, 0)),
            ]
        return m


class PayloadAligner(wiring.Component):
    """Shifts payload from its lane in the frame to lane 0.

    Latency 4 cycles, one input and one output beat a cycle, no bubble between frames: the output
    beat that begins in one input beat is completed from the next, which is only looked at until its
    own turn comes. Back-pressure of `output` holds all stages.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        width = parameters.bus_bytes
        super().__init__(
            {
                "input": In(stream.Signature(PayloadBeat(width))),
                "output": Out(stream.Signature(WriteBeat(width))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        lane_bits = _lane_bits(self.parameters)
        half = (lane_bits + 1) // 2

        def rotated(value, shift, levels):
            for level in levels:
                value = Mux(shift[level], value.rotate_right(8 << level), value)
            return value

        def stage(before, levels, name):
            """A register that rotates; it moves when empty or when the next one takes it."""
            after = stream.Signature(PayloadBeat(width)).create(path=(name,))
            m.d.comb += before.ready.eq(~after.valid | after.ready)
            with m.If(before.ready):
                m.d.sync += [
                    after.valid.eq(before.valid),
                    after.payload.eq(before.payload),
                    after.payload.data.eq(
                        rotated(before.payload.data, before.payload.shift, levels)
                    ),
                ]
            return after

        coarse = stage(self.input, range(half, lane_bits), "coarse")
        fine = stage(coarse, range(half), "fine")

        # `now` begins output beats; `fine` is the beat after it, and completes them.
        now_valid = Signal()
        now = Signal(PayloadBeat(width))
        emit = Signal()
        out = self.output
        merged = Signal(8 * width)
        m.d.comb += [
            emit.eq(now_valid & (~out.valid | out.ready) & (~now.joined | fine.valid)),
            fine.ready.eq(~now_valid | emit),
            merged.eq(
                Cat(
                    Mux(
                        now.shift + lane >= width,
                        fine.payload.data.word_select(lane, 8),
                        now.data.word_select(lane, 8),
                    )
                    for lane in range(width)
                )
            ),
        ]
        with m.If(fine.ready):
            m.d.sync += [now_valid.eq(fine.valid & ~fine.payload.spent), now.eq(fine.payload)]
        with m.If(~out.valid | out.ready):
            m.d.sync += out.valid.eq(emit)
        with m.If(emit):
            m.d.sync += [
                out.payload.data.eq(merged),
                out.payload.strobe.eq(Cat(lane < now.bytes for lane in range(width))),
                out.payload.last.eq(now.last),
            ]
        return m
