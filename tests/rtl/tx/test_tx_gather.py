"""From header beats and payload beats to frames: byte queue, gather, segment edit, tags."""

from random import Random

import pytest
from amaranth.sim import Simulator

from hdsnic.parameters import Parameters
from hdsnic.tx.bytequeue import ByteQueue
from hdsnic.tx.gather import Gather
from hdsnic.tx.segment import SegmentEdit
from hdsnic.tx.tag import TagInsert

every_width = pytest.mark.parametrize("width", [8, 64])


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


def fields(ctx, view, **values):
    for name, value in values.items():
        ctx.set(getattr(view, name), value)


def whole(data):
    return int.from_bytes(data, "little")


def beats_of(data, width):
    return [data[k : k + width] for k in range(0, len(data), width)]


def header_beats(header, width):
    parts = beats_of(header, width)
    return [
        {"data": whole(part), "count": len(part), "last": k == len(parts) - 1, "error": 0}
        for k, part in enumerate(parts)
    ]


def payload_beats(data, begin, width, rng, faults=0.0):
    """Beats of a piece that begins on lane `begin`; poison around it."""
    parts = beats_of(bytes([0xEE] * begin) + data, width)
    return [
        {
            "data": whole(part.ljust(width, b"\xee")),
            "begin": 0 if k else begin,
            "end": len(part),
            "last": k == len(parts) - 1,
            "error": rng.random() < faults,
        }
        for k, part in enumerate(parts)
    ]


async def offer(ctx, rng, sources, taken):
    """Puts the next of each source on its stream; a beat that was offered stays."""
    for stream, rest in sources:
        held = ctx.get(stream.valid) and not taken.get(id(stream))
        valid = bool(rest) and (held or rng.random() < 0.8)
        ctx.set(stream.valid, valid)
        if valid:
            fields(ctx, stream.payload, **rest[0])
    return [ctx.get(stream.valid & stream.ready) for stream, _ in sources]


@every_width
def test_any_number_of_bytes_is_taken_from_the_queue_in_their_order(width):
    dut, rng = ByteQueue(Parameters(bus_bytes=width)), Random(width)
    beats, wanted, wrong = [], b"", []
    for _ in range(150):
        data = bytes(rng.getrandbits(8) for _ in range(rng.randint(1, 3 * width)))
        piece = payload_beats(data, rng.randrange(width), width, rng, faults=0.1)
        for beat in piece:
            wrong += [beat["error"]] * (beat["end"] - beat["begin"])
        beats += piece
        wanted += data

    async def testbench(ctx):
        got, errors, taken = b"", [], {}
        while len(got) < len(wanted):
            level, head = ctx.get(dut.level), ctx.get(dut.head)
            data, bad = ctx.get(dut.data).to_bytes(width, "little"), ctx.get(dut.errors)
            take = rng.randint(0, min(level, width)) if rng.random() < 0.8 else 0
            lanes = [(head + k) % width for k in range(take)]
            got += bytes(data[lane] for lane in lanes)
            errors += [bool(bad >> lane & 1) for lane in lanes]
            ctx.set(dut.take, take)
            (moved,) = await offer(ctx, rng, [(dut.beats, beats)], taken)
            await ctx.tick()
            taken[id(dut.beats)] = moved
            if moved:
                beats.pop(0)
        assert got == wanted
        assert errors == wrong

    simulate(dut, testbench)


def test_bytes_are_there_four_cycles_after_their_beat_and_a_full_queue_stops_the_port():
    dut = ByteQueue(Parameters(bus_bytes=64))

    async def testbench(ctx):
        ctx.set(dut.beats.valid, 1)
        fields(ctx, dut.beats.payload, begin=3, end=64)
        levels = []
        for _ in range(5):
            levels.append(ctx.get(dut.level))
            await ctx.tick()
        assert levels == [0, 0, 0, 0, 61]
        for _ in range(40):
            await ctx.tick()
        assert not ctx.get(dut.beats.ready)
        assert 15 * 64 <= ctx.get(dut.level) < 16 * 64

    simulate(dut, testbench)


@every_width
def test_the_gather_packs_bytes_cuts_segments_and_drops_the_headers_of_refused_jobs(width):
    p, rng = Parameters(bus_bytes=width), Random(width)
    dut = Gather(p)
    jobs, headers, pieces, wanted, verdicts = [], [], [], [], []
    for _ in range(80):
        verdict = rng.choice([0, 0, 0, 2])
        tso = rng.random() < 0.4
        header = bytes(rng.getrandbits(8) for _ in range(rng.randint(14, 2 * width + 20)))
        has_header = verdict == 0 or rng.random() < 0.5
        if has_header:
            headers += header_beats(header, width)
        payload, bad = b"", []
        for _ in range(rng.choice([1, 2, 3]) if tso else rng.choice([0, 1, 2, 3])):
            data = bytes(rng.getrandbits(8) for _ in range(rng.randint(1, 4 * width)))
            payload += data
            if verdict:
                continue
            piece = payload_beats(data, rng.randrange(width), width, rng, faults=0.02)
            for beat in piece:
                bad += [beat["error"]] * (beat["end"] - beat["begin"])
            pieces += piece
        mss = rng.randint(64, 100)
        segment = min(mss, len(payload)) if tso else len(payload)
        jobs.append(
            {"segment": segment, "later": len(payload) - segment,
             "verdict": verdict, "header": has_header, "tso": tso, "mss": mss,
             "header_length": len(header), "payload_length": len(payload)}
        )  # fmt: skip
        verdicts.append(verdict or (6 if any(bad) else 0))
        step = mss if tso else max(len(payload), 1)
        for at in range(0, max(len(payload), 1), step) if not verdict else ():
            frame = header + payload[at : at + step]
            ends = at == 0, at + step >= len(payload)
            wanted.append((frame, not any(bad[: at + step]), len(frame), *ends))

    async def testbench(ctx):
        frames, retired, frame, taken = [], [], b"", {}
        left = sum(job["payload_length"] for job in jobs)
        sources = [(dut.jobs, jobs), (dut.header, headers), (dut.payload, pieces)]
        while len(retired) < len(verdicts):
            ctx.set(dut.room, rng.random() < 0.5)
            moved = await offer(ctx, rng, sources, taken)
            _, _, valid, beat, retire, verdict, done = await ctx.tick().sample(
                dut.beats.valid, dut.beats.payload, dut.retire.valid,
                dut.retire.payload.verdict, dut.done_bytes,
            )  # fmt: skip
            left -= done
            for took, (stream, rest) in zip(moved, sources, strict=True):
                taken[id(stream)] = took
                if took:
                    rest.pop(0)
            if valid:
                data = beat.data.to_bytes(width, "little")
                assert not any(data[beat.count :])
                frame += data[: beat.count]
                if beat.last:
                    ends = bool(beat.opening), bool(beat.closing)
                    frames.append((frame, bool(beat.good), beat.length, *ends))
                    frame = b""
            if retire:
                retired.append(verdict)
        assert frames == wanted
        assert retired == verdicts
        assert left == 0

    simulate(dut, testbench)


def test_a_frame_waits_for_room_and_then_takes_as_many_cycles_as_it_has_beats():
    p = Parameters(bus_bytes=64)
    dut = Gather(p)

    async def testbench(ctx):
        ctx.set(dut.payload.valid, 1)
        fields(ctx, dut.payload.payload, begin=1, end=64)
        ctx.set(dut.jobs.valid, 1)
        job = dut.jobs.payload
        fields(ctx, job, header_length=54, payload_length=1460, segment=1460, header=1)
        ctx.set(dut.header.valid, 1)
        fields(ctx, dut.header.payload, count=54, last=1)
        for _ in range(30):
            assert ctx.get(dut.starved) and not ctx.get(dut.header.ready)
            await ctx.tick()
        ctx.set(dut.room, 1)
        seen = []
        for cycle in range(60):
            if ctx.get(dut.beats.valid):
                seen.append((cycle, ctx.get(dut.beats.payload.last)))
            await ctx.tick()
        # Four cycles after room came, frame after frame of 24 beats.
        assert [cycle for cycle, _ in seen] == list(range(4, 60))
        assert [cycle for cycle, last in seen if last] == [27, 51]

    simulate(dut, testbench)


def test_payload_is_in_a_beat_eight_cycles_later():
    dut = Gather(Parameters(bus_bytes=64))

    async def testbench(ctx):
        ctx.set(dut.room, 1)
        ctx.set(dut.jobs.valid, 1)
        fields(ctx, dut.jobs.payload, header_length=54, payload_length=6, segment=6, header=1)
        ctx.set(dut.header.valid, 1)
        fields(ctx, dut.header.payload, count=54, last=1)
        for _ in range(10):
            await ctx.tick()
        ctx.set(dut.payload.valid, 1)
        fields(ctx, dut.payload.payload, begin=1, end=7)
        cycles = 0
        while not ctx.get(dut.beats.valid):
            await ctx.tick()
            ctx.set(dut.payload.valid, 0)
            cycles += 1
            assert cycles < 20
        assert cycles == 8

    simulate(dut, testbench)


def test_frames_that_are_no_segments_pass_the_edit_unchanged_two_cycles_later():
    p, rng = Parameters(bus_bytes=8), Random(2)
    dut = SegmentEdit(p)

    async def testbench(ctx):
        sent, got = [], []
        shape = dut.beats.payload.shape()
        for cycle in range(300):
            value = rng.getrandbits(shape.size)
            ctx.set(dut.beats.payload.as_value(), value)
            fields(ctx, dut.beats.payload, tso=0, extra=0, last=rng.random() < 0.1)
            ctx.set(dut.beats.valid, rng.random() < 0.8)
            if ctx.get(dut.beats.valid):
                sent.append((cycle + 2, ctx.get(dut.beats.payload.as_value())))
            if ctx.get(dut.edited.valid):
                got.append((cycle, ctx.get(dut.edited.payload.as_value())))
            await ctx.tick()
        assert got == [beat for beat in sent if beat[0] < 300]

    simulate(dut, testbench)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_tags_are_inserted_without_latency_and_cost_a_beat_only_where_the_last_one_overflows(width):
    p, rng = Parameters(bus_bytes=width), Random(width)
    dut = TagInsert(p)
    beats, wanted, count = [], [], 0
    for _ in range(80):
        header = bytes(rng.getrandbits(8) for _ in range(rng.randint(14, 3 * width + 14)))
        vlan, tci = rng.random() < 0.6, rng.getrandbits(16)
        parts = header_beats(header, width)
        parts[-1]["error"] = rng.random() < 0.3
        beats += [{"beat": part, "vlan": vlan, "tci": tci} for part in parts]
        tag = b"\x81\x00" + tci.to_bytes(2, "big") if vlan else b""
        wanted.append((header[:12] + tag + header[12:], bool(parts[-1]["error"])))
        count += -(-len(wanted[-1][0]) // width)

    async def testbench(ctx):
        got, frame, cycles = [], b"", 0
        while len(got) < len(wanted):
            valid = bool(beats)
            ctx.set(dut.header.valid, valid)
            if valid:
                header = dut.header.payload
                fields(ctx, header.beat, **beats[0]["beat"])
                fields(ctx, header, vlan=beats[0]["vlan"], tci=beats[0]["tci"])
            stalled = rng.random() < 0.3
            ctx.set(dut.tagged.ready, not stalled)
            cycles += not stalled
            moved = ctx.get(dut.header.valid & dut.header.ready)
            if ctx.get(dut.tagged.valid & dut.tagged.ready):
                beat = ctx.get(dut.tagged.payload)
                assert beat.last or beat.count == width
                frame += beat.data.to_bytes(width, "little")[: beat.count]
                if beat.last:
                    got.append((frame, bool(beat.error)))
                    frame = b""
            await ctx.tick()
            if moved:
                beats.pop(0)
        assert got == wanted
        assert cycles == count

    simulate(dut, testbench)
