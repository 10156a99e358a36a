"""Split: no byte but payload leaves toward the payload port, and all of it does (I1, I2)."""

from amaranth.hdl import Cat, Mux, Signal
from spec import Mutant, Property, Spec

from hdsnic.interfaces import count_bits
from hdsnic.parameters import Parameters
from hdsnic.rx.split import PayloadAligner, Splitter

_MODULE = "hdsnic.rx.split"
_WIDTH = 8
_TAG = 7
"""The bit of each byte that says whether it is payload."""


class SplitSpec(Spec):
    """Splitter and aligner in a row, over frames of any length, header and payload.

    Each byte of a frame carries a tag: is it one of the `payload_length` bytes behind the split
    offset? Assumed: jobs as `Egress` makes them (proven in `egress.py`), frames at least as long as
    header and payload (verified before), and streams that keep what they offer.
    """

    depth = 2
    properties = (
        Property(
            "I1 no byte but payload leaves for the payload port",
            "A lane that is strobed on the payload port holds a byte of the frame at or behind the "
            "split offset and before the payload's end.",
            (
                Mutant(
                    "the payload begins with its beat, not its lane",
                    _MODULE,
                    "self.payload.payload.shift.eq(job.shift)",
                    "self.payload.payload.shift.eq(0)",
                ),
                Mutant(
                    "the payload is too long by its lane",
                    _MODULE,
                    "Mux(index == job.payload_first, job.payload_length, later)",
                    "Mux(index == job.payload_first, job.payload_length + job.shift, later)",
                ),
                Mutant(
                    "a beat is not completed from the next one",
                    _MODULE,
                    "now.shift + lane >= width",
                    "0",
                ),
                Mutant(
                    "the last beat is strobed whole",
                    _MODULE,
                    "Cat(lane < now.bytes for lane in range(width))",
                    "Cat(1 for lane in range(width))",
                ),
                Mutant(
                    "a beat goes out before the one that completes it",
                    _MODULE,
                    "out.valid.eq(now_valid & (~now.joined | next_valid))",
                    "out.valid.eq(now_valid)",
                ),
            ),
            depth=14,
        ),
        Property(
            "I2 as many bytes leave as were claimed for",
            "Between two `last` beats of the aligner's input, the beats that begin an output beat "
            "announce as many bytes as the payload has, all beats full but the last.",
            (
                Mutant(
                    "later beats are counted from the whole payload",
                    _MODULE,
                    "Mux(index == job.payload_first, job.payload_length, later)",
                    "job.payload_length",
                ),
                Mutant(
                    "a spent beat begins an output beat",
                    _MODULE,
                    "self.payload.payload.spent.eq(left == 0)",
                    "self.payload.payload.spent.eq(0)",
                ),
            ),
            depth=8,
        ),
        Property(
            "I2 an output beat strobes what was announced",
            "Output beats come one for each beat that begins one, in their order, strobed from "
            "lane 0 on for as many bytes as that announced.",
            (
                Mutant(
                    "the last beat is put out twice",
                    _MODULE,
                    "emit.eq(out.valid & out.ready)",
                    "emit.eq(out.valid & out.ready & ~now.last)",
                ),
            ),
            depth=12,
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=_WIDTH, frame_bytes_max=1514, address_bits=32)
        splitter = self.block(m, "splitter", Splitter(p))
        aligner = self.block(m, "aligner", PayloadAligner(p))
        jobs, beats, middle = splitter.jobs, splitter.beats, splitter.payload
        bits = count_bits(p.frame_bytes_max)

        # -- jobs and frames --
        length, header, payload = (
            self.free(bits, n) for n in ("length", "header_length", "payload_length")
        )
        written, claimed = self.free(1, "written"), self.free(1, "claimed")
        job = jobs.payload
        first = Signal(bits)
        end = Signal(bits + 1)
        m.d.comb += [
            jobs.valid.eq(self.free(1, "job_valid")),
            first.eq(header >> 3),
            end.eq(header + payload),
        ]
        self.assume(m, (length >= 1) & (length <= p.frame_bytes_max) & (end <= length))
        self.assume(m, claimed.implies(written & (payload != 0)))
        with m.If(written):
            m.d.comb += job.header_beats.eq((header + 7) >> 3)
        with m.If(claimed):
            m.d.comb += [
                job.payload_first.eq(first),
                job.payload_end.eq((end + 7) >> 3),
                job.payload_length.eq(payload),
                job.shift.eq(header[:3]),
            ]
        drawn = Cat(length, header, payload, written, claimed)
        drawn_before, waiting = Signal(len(drawn)), Signal()
        m.d.sync += [drawn_before.eq(drawn), waiting.eq(jobs.valid & ~jobs.ready)]
        self.assume(m, waiting.implies(jobs.valid & (drawn == drawn_before)))

        index = Signal(bits)  # of the beat in its frame
        taken = beats.valid & beats.ready
        is_payload = Signal(_WIDTH)
        m.d.comb += [
            beats.valid.eq(self.free(1, "beat_valid")),
            beats.payload.data.eq(self.free(8 * _WIDTH, "data")),
            beats.payload.last.eq(index == ((length - 1) >> 3)),
            is_payload.eq(
                Cat(
                    claimed & ((index << 3) + k >= header) & ((index << 3) + k < end)
                    for k in range(_WIDTH)
                )
            ),
            splitter.header.ready.eq(self.free(1, "header_ready")),
            aligner.output.ready.eq(self.free(1, "output_ready")),
            aligner.input.valid.eq(middle.valid),
            aligner.input.payload.eq(middle.payload),
            middle.ready.eq(aligner.input.ready),
        ]

        def tags(data):
            return Cat(data[8 * k + _TAG] for k in range(_WIDTH))

        self.assume(m, beats.valid.implies(tags(beats.payload.data) == is_payload))
        with m.If(taken):
            m.d.sync += index.eq(Mux(beats.payload.last, 0, index + 1))

        # -- the three properties --
        out = aligner.output
        strobe = out.payload.strobe
        self.prove(
            m,
            self.properties[0].name,
            out.valid.implies((strobe & ~tags(out.payload.data)) == 0),
        )
        announced = Signal(bits + 1)  # bytes of the frame's payload so far
        word = middle.payload
        with m.If(taken):
            with m.If(beats.payload.last):
                m.d.sync += announced.eq(0)
            with m.Elif(middle.valid & ~word.spent):
                m.d.sync += announced.eq(announced + word.bytes)
        begins = middle.valid & ~word.spent
        total = Signal(bits + 2)
        m.d.comb += total.eq(announced + Mux(begins, word.bytes, 0))
        self.prove(
            m,
            self.properties[1].name,
            begins.implies(
                (word.last == (total == payload))
                & (total <= payload)
                & (word.bytes != 0)
                & (word.last | (word.bytes == _WIDTH))
            )
            & (taken & beats.payload.last & claimed).implies(total == payload)
            & (taken & beats.payload.last & ~claimed).implies(total == 0),
        )

        # -- the splitter's insides --
        inner = self.view(splitter)
        self.helper(m, inner.index == index)
        self.helper(m, (index != 0).implies(waiting & (index <= ((length - 1) >> 3))))
        inside = Signal()  # the frame's payload has begun, and has not ended
        m.d.comb += inside.eq(claimed & (index > first) & (index < job.payload_end))
        self.helper(m, ((index == 0) | ~claimed | (index <= first)).implies(announced == 0))
        self.helper(m, (claimed & (index > first)).implies(announced <= payload))
        gone = (index - first) << 3
        self.helper(
            m,
            (inside & (index != 0)).implies(
                (announced + inner.later == payload)
                & (announced == Mux(payload < gone, payload, gone))
            ),
        )
        self.helper(
            m,
            (claimed & (index != 0) & (index >= job.payload_end)).implies(announced == payload),
        )

        # -- the aligner's insides: what each stage holds, and what comes behind it --
        v = self.view(aligner)
        tail = Signal.like(word)  # the beat that was pushed last
        with m.If(middle.valid & middle.ready):
            m.d.sync += tail.eq(word)

        def joins(beat):
            return beat.joined & ~beat.spent

        def order(data, shift, levels):
            """Tags by the lane that they came from, of data that was rotated by `levels`."""
            value = tags(data)
            for level in levels:
                value = Mux(shift[level], value.rotate_left(1 << level), value)
            return value

        def lanes(condition):
            return Cat(condition(k) for k in range(_WIDTH))

        def own(beat):
            """Lanes of a beat that its output beat takes."""
            return lanes(lambda k: (k >= beat.shift) & (k < beat.shift + beat.bytes))

        def borrowed(beat):
            """Lanes of the next beat that it takes."""
            return lanes(lambda k: k + _WIDTH < beat.shift + beat.bytes)

        half = v.half
        lane_bits = v.lane_bits
        chain = (
            (v.now_valid, v.now, range(lane_bits)),
            (v.next_valid, v.next_beat, range(half, lane_bits)),
        )
        origin = []
        for valid, beat, levels in chain:
            value = Signal(_WIDTH)
            m.d.comb += value.eq(order(beat.data, beat.shift, levels))
            origin.append((valid, beat, value))
            sound = (
                (beat.bytes <= _WIDTH)
                & (beat.joined == (beat.shift + beat.bytes > _WIDTH))
                & ((own(beat) & ~value) == 0)
            )
            self.helper(m, (valid & ~beat.spent).implies(sound))
        self.helper(m, v.now_valid.implies(~v.now.spent))
        # Each beat and the next valid one behind it.
        for k, (valid, beat, _) in enumerate(origin):
            others = [*origin[k + 1 :]]
            between = valid & joins(beat)
            for later_valid, later, value in others:
                self.helper(
                    m,
                    (between & later_valid).implies(
                        ((borrowed(beat) & ~value) == 0) & (later.shift == beat.shift)
                    ),
                )
                between = between & ~later_valid
            youngest = valid
            for later_valid, _, _ in others:
                youngest = youngest & ~later_valid
            fields = ("shift", "bytes", "joined", "spent", "last")
            self.helper(m, youngest.implies(Cat(beat[f] == tail[f] for f in fields).all()))
        self.helper(m, joins(tail).implies(inside & (tail.shift == job.shift)))
        self.helper(
            m,
            (inside & joins(tail)).implies(
                (borrowed(tail) & ~lanes(lambda k: (index << 3) + k < end)) == 0
            ),
        )

        # -- the order of output beats --
        ahead = Signal(3)  # beats that begin an output beat, before the followed one
        met, waits = Signal(), Signal()
        bytes_of_it, last_of_it = Signal(count_bits(_WIDTH)), Signal()
        pick = self.free(1, "pick") & middle.valid & middle.ready & ~word.spent & ~met
        gone_out = out.valid & out.ready
        stages = [(valid, ~beat.spent) for valid, beat, _ in origin]
        count = Signal(3)
        m.d.comb += count.eq(sum((valid & wants for valid, wants in stages), start=0))
        with m.If(pick):
            m.d.sync += [
                met.eq(1), waits.eq(1), ahead.eq(count - gone_out),
                bytes_of_it.eq(word.bytes), last_of_it.eq(word.last),
            ]  # fmt: skip
        with m.Elif(waits & gone_out):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += waits.eq(0)
        announced_strobe = Cat(k < bytes_of_it for k in range(_WIDTH))
        self.prove(
            m,
            self.properties[2].name,
            (waits & (ahead == 0) & out.valid).implies(
                (strobe == announced_strobe) & (out.payload.last == last_of_it)
            )
            & (waits & gone_out).implies(out.valid)
            & (waits.implies(ahead < count)),
        )
        position = 0
        for k, (valid, wants) in enumerate(stages):
            here = waits & valid & wants & (ahead == position)
            beat = origin[k][1]
            self.helper(m, here.implies((beat.bytes == bytes_of_it) & (beat.last == last_of_it)))
            position = position + (valid & wants)
