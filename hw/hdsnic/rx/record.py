"""Record writer: the fixed part of a record and the header behind it, on the lanes of the ring.

The header side of the split. A record starts on a 16-byte cell, so on buses wider than a cell it
may begin in the middle of a beat: the header is shifted by whole cells, and strobes keep the bytes
outside of the record untouched.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, RECORD
from ..interfaces import WriteBeat, count_bits

__all__ = ["RecordJob", "RecordWriter"]


def _cells(parameters):
    """Cells in a beat, at least one."""
    return max(1, parameters.bus_bytes // CELL_BYTES)


class RecordJob(data.StructLayout):
    """A record: its fixed part, the `cell` of the beat in which it begins, and its end.

    `end` counts bytes from lane 0 of the record's first beat to its last byte.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "fields": RECORD.as_amaranth(),
                "cell": (_cells(parameters) - 1).bit_length(),
                "end": count_bits(parameters.frame_bytes_max) + 1,
            }
        )


class RecordWriter(wiring.Component):
    """Makes the beats of a record: as many as its bytes touch, one a cycle, no bubble between
    records.

    Latency one cycle. The fixed part goes out before the header's first beat is there where it
    fills a beat of its own. 70 bytes take 9 beats of 8 bytes, 2 of 64.

    Ports
    -----
    jobs: records, taken with their last beat. header: beats of the frame that hold header bytes.
    output: for the header port.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        width = parameters.bus_bytes
        super().__init__(
            {
                "jobs": In(stream.Signature(RecordJob(parameters))),
                "header": In(stream.Signature(8 * width)),
                "output": Out(stream.Signature(WriteBeat(width))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        cells = _cells(self.parameters)
        job, out = self.jobs.payload, self.output
        fields = job.fields.as_value()
        group = 8 * min(width, CELL_BYTES)  # bits that move together

        # Beats that the fixed part fills alone: all of it on a bus of at most a cell.
        fixed_beats = max(1, RECORD.bytes // width)
        beat = Signal(range(fixed_beats + 1))  # of the record, up to fixed_beats
        first = beat == 0
        fixed = Signal()  # this beat holds no header
        shift = Signal(range(max(2, cells)))  # cells by which the header is moved
        if cells == 1:
            m.d.comb += [fixed.eq(beat < fixed_beats), shift.eq(0)]
        else:
            m.d.comb += [fixed.eq(first & (job.cell == cells - 1)), shift.eq(job.cell + 1)]

        later = Signal.like(job.end)
        end = Signal.like(job.end)
        wants, fire = Signal(), Signal()
        m.d.comb += [
            end.eq(Mux(first, job.end, later)),
            wants.eq(~fixed & (end > shift * CELL_BYTES)),
            fire.eq(self.jobs.valid & (~wants | self.header.valid) & (~out.valid | out.ready)),
            self.header.ready.eq(fire & wants),
            self.jobs.ready.eq(fire & (end <= width)),
        ]

        groups = 8 * width // group
        moved = Array(self.header.payload.rotate_left(group * k) for k in range(groups))
        turned, kept, merged = (Signal(8 * width, name=n) for n in ("turned", "kept", "merged"))
        begin = Signal(count_bits(width))  # first lane of the record in its first beat
        m.d.comb += [turned.eq(moved[shift]), begin.eq(Mux(first, job.cell * CELL_BYTES, 0))]
        for k in range(groups):
            source = Mux(k < shift, kept.word_select(k, group), turned.word_select(k, group))
            if cells == 1:
                own = fields.word_select(beat[: max(1, (fixed_beats - 1).bit_length())], group)
                source = Mux(fixed, own, source)
            else:
                source = Mux(first & (job.cell == k), fields, source)
            m.d.comb += merged.word_select(k, group).eq(source)

        with m.If(~out.valid | out.ready):
            m.d.sync += out.valid.eq(fire)
        with m.If(fire):
            m.d.sync += [
                out.payload.data.eq(merged),
                out.payload.strobe.eq(Cat((lane >= begin) & (lane < end) for lane in range(width))),
                out.payload.last.eq(end <= width),
                later.eq(end - width),
                beat.eq(Mux(end <= width, 0, Mux(beat == fixed_beats, beat, beat + 1))),
                kept.eq(turned),
            ]
        return m
