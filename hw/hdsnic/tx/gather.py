"""Gather: header bytes and payload, packed into beats of frames; a TSO descriptor into segments.

Between header FIFO and byte queue on one side, the segment edit and the checksum on the other. Here
a descriptor's reads end, so here it retires.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import ReadClient, Strobe, count_bits, lanes_below
from .bytequeue import ByteQueue, turned
from .layouts import PAYLOAD_BITS, BeatOfFrame, HeaderBeat, Job, Retirement, length_bits

__all__ = ["TEMPLATE_BYTES", "Gather"]

TEMPLATE_BYTES = 512
"""Largest header of a TSO descriptor that is kept for its segments, tag included."""


class Gather(wiring.Component):
    """Byte packer and segmenter.

    Takes the jobs in order. Of each: its header's beats, then as many payload bytes as its
    references have, which come from the payload port at any alignment. A `tso` job becomes segments
    of `mss` payload bytes, the last one of what is left, each behind the same header; all but the
    last must have two beats. Puts out frames on `beats`, which are always taken: a frame is begun
    only while `room` is 1, and `starved` says that the next one waits for that. `retire` comes with
    a descriptor's end. A refused job moves nothing; its header beats are dropped. `done_bytes` of
    payload were taken, or are not to come. If a beat came with an error, that frame and the
    descriptor's later ones are not `good`, and the verdict is PORT_ERROR; all bytes are taken all
    the same.

    A beat out a cycle, if the bytes are there: a header's last beat is filled up with payload, so a
    frame takes as many cycles as it has beats. Four cycles from header beat to beat out, eight from
    payload beat. A refused job takes a cycle, or its header beats.

    Parameters: `bus_bytes`, `frame_bytes_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "jobs": In(stream.Signature(Job(p))),
                "header": In(stream.Signature(HeaderBeat(p.bus_bytes))),
                "payload": ReadClient(p).members["beats"],
                "room": In(1),
                "starved": Out(1),
                "beats": Out(Strobe(BeatOfFrame(p))),
                "retire": Out(Strobe(Retirement(p))),
                "done_bytes": Out(PAYLOAD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        width = p.bus_bytes
        steps = width.bit_length() - 1
        outcome = abi.TxOutcome
        job = self.jobs.payload
        header = self.header.payload
        m.submodules.bytes = queue = ByteQueue(p)
        wiring.connect(m, wiring.flipped(self.payload), queue.beats)
        # The header of a TSO descriptor is written as its first segment goes by.
        m.submodules.template = template = Memory(
            shape=8 * width, depth=TEMPLATE_BYTES // width, init=[]
        )
        keep = template.write_port()
        kept = template.read_port(domain="comb")

        # -- which frame: how much payload it takes, and how much stays for later ones --
        opening = Signal(init=1)  # this frame is its descriptor's first
        begins = Signal(init=1)  # the next beat is its frame's first
        segment_left = Signal(length_bits(p))
        later_left = Signal(PAYLOAD_BITS)
        next_segment = Signal(length_bits(p))
        next_later = Signal(PAYLOAD_BITS)
        segment = Signal(length_bits(p))  # bytes that this frame still takes
        later = Signal(PAYLOAD_BITS)
        length = Signal(length_bits(p))
        length_held = Signal(length_bits(p))
        cut = later_left > job.mss
        # A frame that others follow has two beats, so this is in time for the next one's first.
        m.d.sync += [
            next_segment.eq(Mux(cut, job.mss, later_left)),
            next_later.eq(Mux(cut, later_left - job.mss, 0)),
        ]
        m.d.comb += [segment.eq(segment_left), later.eq(later_left), length.eq(length_held)]
        with m.If(begins):
            m.d.comb += [
                segment.eq(Mux(opening, job.segment, next_segment)),
                later.eq(Mux(opening, job.later, next_later)),
                length.eq(job.header_length + segment),
            ]

        # -- which beat: some of the header, or payload, or the header's end and payload --
        in_payload = Signal()
        index = Signal(range(TEMPLATE_BYTES // width))
        last_index = Signal.like(index)
        last_count = Signal(count_bits(width))
        head_data = Signal(8 * width)
        head_count = Signal(count_bits(width))
        head_last = Signal()
        head_valid = Signal()
        m.d.comb += [keep.addr.eq(index), keep.data.eq(header.data), kept.addr.eq(index)]
        with m.If(opening):
            m.d.comb += [
                head_data.eq(header.data),
                head_count.eq(header.count),
                head_last.eq(header.last),
                head_valid.eq(self.header.valid),
            ]
        with m.Else():
            m.d.comb += [
                head_data.eq(kept.data),
                head_last.eq(index == last_index),
                head_count.eq(Mux(head_last, last_count, width)),
                head_valid.eq(1),
            ]

        refused = Signal()
        void = Signal()  # a refused job ends
        there = Signal()  # the header bytes of this beat are there, if it has any
        before = Signal(count_bits(width))  # bytes of header in this beat
        space = Signal(count_bits(width))
        pieces = Signal()  # the beat takes payload
        count = Signal(count_bits(width))  # bytes of payload in this beat
        go = Signal()
        final = Signal()  # the frame's last beat
        m.d.comb += [
            refused.eq(job.verdict != outcome.SENT),
            there.eq(in_payload | head_valid),
            before.eq(Mux(in_payload, 0, head_count)),
            space.eq(width - before),
            pieces.eq(in_payload | head_last),
            count.eq(Mux(pieces, Mux(segment < space, segment, space), 0)),
            go.eq(
                self.jobs.valid & ~refused & there & (queue.level >= count) & (~begins | self.room)
            ),
            self.starved.eq(self.jobs.valid & ~refused & begins & ~self.room),
            final.eq(pieces & (segment == count)),
            queue.take.eq(Mux(go, count, 0)),
            self.done_bytes.eq(Mux(void, job.payload_length, queue.take)),
            keep.en.eq(go & opening & ~in_payload & job.tso),
            void.eq(self.jobs.valid & refused & (~job.header | (self.header.valid & header.last))),
            self.header.ready.eq(
                Mux(self.jobs.valid & refused, job.header, go & opening & ~in_payload)
            ),
            self.jobs.ready.eq((go & final & (later == 0)) | void),
        ]
        with m.If(go):
            m.d.sync += [
                begins.eq(final),
                in_payload.eq(pieces & ~final),
                index.eq(Mux(final, 0, index + 1)),
                segment_left.eq(segment - count),
                later_left.eq(later),
                length_held.eq(length),
            ]
            with m.If(opening & ~in_payload):
                m.d.sync += [last_index.eq(index), last_count.eq(header.count)]
            with m.If(final):
                m.d.sync += opening.eq(later == 0)

        stage_shape = StructLayout(
            {
                "header": 8 * width,
                "before": count_bits(width),
                "data": 8 * width,
                "errors": width,
                "turn": steps,  # lanes to turn the payload left by
                "count": count_bits(width),
                "emit": 1,
                "last": 1,
                "ends": 1,
                "failed": 1,
                "length": length_bits(p),
                "opening": 1,
                "closing": 1,
                "job": Job(p),
            }
        )
        placed = Signal(stage_shape)
        m.d.sync += [
            placed.header.eq(head_data),
            placed.before.eq(before),
            placed.data.eq(queue.data),
            placed.errors.eq(queue.errors),
            placed.turn.eq(before - queue.head),
            placed.count.eq(before + count),
            placed.emit.eq(go),
            placed.last.eq(final),
            placed.ends.eq(self.jobs.ready),
            placed.failed.eq(opening & ~in_payload & header.error),
            placed.length.eq(length),
            placed.opening.eq(opening),
            placed.closing.eq(later == 0),
            placed.job.eq(job),
        ]

        # -- turn the payload to its lanes, in two stages --
        half = Signal(stage_shape)
        whole = Signal(stage_shape)
        low, high = range(steps // 2), range(steps // 2, steps)
        m.d.sync += [
            half.eq(placed),
            half.data.eq(turned(placed.data, placed.turn, low)),
            half.errors.eq(turned(placed.errors, placed.turn, low, unit=1)),
            whole.eq(half),
            whole.data.eq(turned(half.data, half.turn, high)),
            whole.errors.eq(turned(half.errors, half.turn, high, unit=1)),
        ]

        # -- merge; lanes beyond the end are bytes that belong to others: they go no further --
        out = self.beats.payload
        in_header, in_frame = (lanes_below(n, width) for n in (whole.before, whole.count))
        header_bytes, frame_bytes = (lanes_below(n, width, 8) for n in (whole.before, whole.count))
        merged = Signal(8 * width)
        m.d.comb += merged.eq(
            ((whole.header & header_bytes) | (whole.data & ~header_bytes)) & frame_bytes
        )
        errors = whole.failed | (whole.errors & in_frame & ~in_header).any()
        bad = Signal()  # an error since the descriptor's start
        failed = Signal()
        verdict = Signal(3)
        m.d.comb += [
            failed.eq(bad | (whole.emit & errors)),
            verdict.eq(Mux(whole.emit & failed, outcome.PORT_ERROR, whole.job.verdict)),
        ]
        m.d.sync += bad.eq(failed & ~whole.ends)
        switches = ("l3_offset", "l4_offset", "ipv4_checksum", "tcp_checksum", "udp_checksum",
                    "tso", "mss")  # fmt: skip
        m.d.sync += [getattr(out, name).eq(getattr(whole.job, name)) for name in switches]
        m.d.sync += [
            self.beats.valid.eq(whole.emit),
            out.data.eq(merged),
            out.count.eq(whole.count),
            out.last.eq(whole.last),
            out.good.eq(~failed),
            out.length.eq(whole.length),
            out.opening.eq(whole.opening),
            out.closing.eq(whole.closing),
            self.retire.valid.eq(whole.ends),
            self.retire.payload.queue.eq(whole.job.queue),
            self.retire.payload.verdict.eq(verdict),
            self.retire.payload.position.eq(whole.job.position),
            self.retire.payload.consumer.eq(whole.job.consumer),
            self.retire.payload.advance.eq(whole.job.advance),
        ]
        return m
