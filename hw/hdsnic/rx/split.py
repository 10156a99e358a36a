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

__all__ = ["ChainCutter", "PayloadAligner", "PayloadBeat", "SplitJob", "Splitter"]


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

    Latency 2 cycles, one input and one output beat a cycle, no bubble between frames: the output
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

        # Half of the rotation in front of each register. `now` begins output beats; `next` is the
        # beat after it, and completes them.
        next_valid, now_valid = Signal(), Signal()
        next_beat, now = Signal(PayloadBeat(width)), Signal(PayloadBeat(width))
        aligned = Signal(8 * width)  # data of `next_beat`
        emit, move, merged = Signal(), Signal(), Signal(8 * width)
        out = self.output
        m.d.comb += [
            aligned.eq(rotated(next_beat.data, next_beat.shift, range(half))),
            out.valid.eq(now_valid & (~now.joined | next_valid)),
            emit.eq(out.valid & out.ready),
            move.eq(~now_valid | emit),
            self.input.ready.eq(~next_valid | move),
            merged.eq(
                Cat(
                    Mux(
                        now.shift + lane >= width,
                        aligned.word_select(lane, 8),
                        now.data.word_select(lane, 8),
                    )
                    for lane in range(width)
                )
            ),
            out.payload.data.eq(merged),
            out.payload.strobe.eq(Cat(lane < now.bytes for lane in range(width))),
            out.payload.last.eq(now.last),
        ]
        with m.If(self.input.ready):
            m.d.sync += [
                next_valid.eq(self.input.valid),
                next_beat.eq(self.input.payload),
                next_beat.data.eq(
                    rotated(
                        self.input.payload.data, self.input.payload.shift, range(half, lane_bits)
                    )
                ),
            ]
        with m.If(move):
            m.d.sync += [
                now_valid.eq(next_valid & ~next_beat.spent),
                now.eq(next_beat),
                now.data.eq(aligned),
            ]
        return m


class ChainCutter(wiring.Component):
    """Marks the last beat of each buffer of a chain.

    All buffers but the last are whole, and of at least 256 bytes, so no beat holds bytes of two. No
    latency, a beat a cycle; a beat waits until the length of its buffer is there.

    Ports
    -----
    lengths: for each buffer the beats that it takes; taken with the last of them. input: payload
    from `PayloadAligner`, whose `last` is not looked at. output: the same, `last` by buffer.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        beats = stream.Signature(WriteBeat(parameters.bus_bytes))
        most = parameters.frame_bytes_max // parameters.bus_bytes + 1
        super().__init__(
            {
                "lengths": In(stream.Signature(count_bits(most))),
                "input": In(beats),
                "output": Out(beats),
            }
        )

    def elaborate(self, platform):
        m = Module()
        done = Signal.like(self.lengths.payload)  # beats of this buffer
        last, moves = Signal(), Signal()
        m.d.comb += [
            last.eq(done + 1 == self.lengths.payload),
            self.output.valid.eq(self.input.valid & self.lengths.valid),
            self.output.payload.eq(self.input.payload),
            self.output.payload.last.eq(last),
            moves.eq(self.output.valid & self.output.ready),
            self.input.ready.eq(moves),
            self.lengths.ready.eq(moves & last),
        ]
        with m.If(moves):
            m.d.sync += done.eq(Mux(last, 0, done + 1))
        return m
