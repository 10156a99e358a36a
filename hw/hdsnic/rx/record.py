"""Record writer: the fixed part of a record, its extensions and the header, on the ring's lanes.

The header side of the split. A record starts on a 16-byte cell, so on buses wider than a cell it
may begin in the middle of a beat: the header is shifted by whole 8-byte words, and strobes keep the
bytes outside of the record untouched.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, CHAINED_BUFFER, RECORD, TIME_STAMP
from ..interfaces import WriteBeat, count_bits

__all__ = ["RecordJob", "RecordWriter"]

_WORD_BYTES = 8
_FIXED_WORDS = RECORD.bytes // _WORD_BYTES

assert RECORD.bytes == 2 * _WORD_BYTES and RECORD.bytes == CELL_BYTES
assert CHAINED_BUFFER.bytes == TIME_STAMP.bytes == _WORD_BYTES


def _cells(parameters):
    """Cells in a beat, at least one."""
    return max(1, parameters.bus_bytes // CELL_BYTES)


class RecordJob(data.StructLayout):
    """A record: its fixed part, the `cell` of the beat in which it begins, and its end.

    `end` counts bytes from lane 0 of the record's first beat to its last byte. With `stamped` the
    word `time_stamp` follows the fixed part; then come `chained` words from the stream of them.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "fields": RECORD.as_amaranth(),
                "cell": (_cells(parameters) - 1).bit_length(),
                "end": count_bits(parameters.frame_bytes_max) + 1,
                "stamped": 1,
                "time_stamp": 64,
                "chained": count_bits(parameters.chain_max - 1),
            }
        )


class RecordWriter(wiring.Component):
    """Makes the beats of a record: as many as its bytes touch, one a cycle, no bubble between
    records. In a record with chained buffers each 8-byte word before the header takes a cycle.

    Latency one cycle. What is before the header goes out before the header's first beat is there
    where it fills beats of its own. 70 bytes take 9 beats of 8 bytes, 2 of 64.

    Ports
    -----
    jobs: records, taken with their last beat. words: CHAINED_BUFFER extensions, in order. header:
    beats of the frame that hold header bytes. output: for the header port.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        width = parameters.bus_bytes
        super().__init__(
            {
                "jobs": In(stream.Signature(RecordJob(parameters))),
                "words": In(stream.Signature(8 * _WORD_BYTES)),
                "header": In(stream.Signature(8 * width)),
                "output": Out(stream.Signature(WriteBeat(width))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        lanes = width // _WORD_BYTES  # words in a beat
        lane_bits = lanes.bit_length() - 1
        word = 8 * _WORD_BYTES
        job, out = self.jobs.payload, self.output
        fields = job.fields.as_value()

        # Words of the record before its header, and where the first of them and the header begin.
        prefix = Signal(range(_FIXED_WORDS + 1 + self.parameters.chain_max))
        start, behind = Signal(range(max(2, lanes))), Signal(range(lanes + 17))
        shift = Signal(range(max(2, lanes)))  # words by which the header is moved
        m.d.comb += [
            prefix.eq(_FIXED_WORDS + job.stamped + job.chained),
            start.eq(job.cell * (CELL_BYTES // _WORD_BYTES)),
            behind.eq(start + prefix),
            shift.eq(behind[:lane_bits]),
        ]

        # Without a chain the words before the header go in one beat with it, or by way of `kept`,
        # which completes the next beat; else, and on the narrowest bus, one by one into `kept`.
        done = Signal.like(prefix)  # words before the header
        opened = Signal()  # the record's first beat was made
        later, end, begin = Signal.like(job.end), Signal.like(job.end), Signal(count_bits(width))
        one_by_one, body, at_once = Signal(), Signal(), Signal()
        lane = Signal(range(max(2, lanes)))
        makes, wants, takes, fire = Signal(), Signal(), Signal(), Signal()
        header_at = Signal.like(job.end)  # lane of this beat where the header begins, in bytes
        m.d.comb += [
            one_by_one.eq((job.chained != 0) | (lanes == 1)),
            body.eq(done == prefix),
            at_once.eq(~body & ~one_by_one),
            end.eq(Mux(opened, later, job.end)),
            begin.eq(Mux(opened, 0, start * _WORD_BYTES)),
            lane.eq((start + done)[:lane_bits]),
            header_at.eq(Mux(at_once, behind, shift) * _WORD_BYTES),
            makes.eq(body | at_once | (lane == lanes - 1)),
            wants.eq((body | (at_once & (behind < lanes))) & (end > header_at)),
            takes.eq(one_by_one & ~body & (done >= _FIXED_WORDS + job.stamped)),
            fire.eq(
                self.jobs.valid
                & (~makes | ~out.valid | out.ready)
                & (~wants | self.header.valid)
                & (~takes | self.words.valid)
            ),
            self.header.ready.eq(fire & wants),
            self.words.ready.eq(fire & takes),
            self.jobs.ready.eq(fire & makes & (end <= width)),
        ]

        first_words = [fields[:word], fields[word:], job.time_stamp]
        single = Signal(word)
        m.d.comb += single.eq(
            Mux(takes, self.words.payload, Array(first_words)[done[: len(first_words) - 1]])
        )
        moved = Array(self.header.payload.rotate_left(word * k) for k in range(lanes))
        turned, kept, merged = (Signal(8 * width, name=n) for n in ("turned", "kept", "merged"))
        m.d.comb += turned.eq(moved[shift])
        for k in range(lanes):
            before = Mux(k < shift, kept.word_select(k, word), turned.word_select(k, word))
            together = turned.word_select(k, word)
            for n, first_word in enumerate(first_words):
                own = (start + n == k) & ((n < _FIXED_WORDS) | job.stamped)
                together = Mux(own, first_word, together)
            alone = Mux(lane == k, single, kept.word_select(k, word))
            m.d.comb += merged.word_select(k, word).eq(
                Mux(body, before, Mux(one_by_one, alone, together))
            )

        with m.If(~out.valid | out.ready):
            m.d.sync += out.valid.eq(fire & makes)
        with m.If(fire):
            m.d.sync += [
                done.eq(Mux(one_by_one & ~body, done + 1, prefix)),
                kept.eq(Mux(one_by_one & ~body, merged, turned)),
            ]
            # The time stamp begins the second beat.
            with m.If(at_once & (behind > lanes)):
                m.d.sync += kept.word_select(0, word).eq(job.time_stamp)
            with m.If(makes):
                m.d.sync += [
                    out.payload.data.eq(merged),
                    out.payload.strobe.eq(Cat((k >= begin) & (k < end) for k in range(width))),
                    out.payload.last.eq(end <= width),
                    later.eq(end - width),
                    opened.eq(1),
                ]
            with m.If(self.jobs.ready):
                m.d.sync += [opened.eq(0), done.eq(0)]
        return m
