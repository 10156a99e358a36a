"""Frames of two sources, joined: each whole, each source in its order, neither starved."""

from random import Random

import pytest
from amaranth.sim import Simulator

from hdsnic.parameters import Parameters
from hdsnic.rx.inject import Injector


def joined(frames, pace, *, ahead=4, seed=1):
    """Offer `frames` (per source a list of beat counts); returns [(source, number)] of the frames
    that came out, after checking that the beats of each followed in the same order."""
    dut = Injector(Parameters(bus_bytes=8))
    rng = Random(seed)
    out, beats = [], []

    def go():
        return pace == 1 or rng.random() < pace

    async def announce(ctx, stream, source):
        for number in range(len(frames[source])):
            while not go():
                await ctx.tick()
            ctx.set(stream.payload, {"queue": source, "length": number})
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    async def pour(ctx, stream, source):
        for number, count in enumerate(frames[source]):
            for k in range(count):
                while not go():
                    await ctx.tick()
                data = source << 32 | number << 16 | k
                ctx.set(stream.payload, {"data": data, "count": 8, "last": k == count - 1})
                ctx.set(stream.valid, 1)
                await ctx.tick().until(stream.ready)
                ctx.set(stream.valid, 0)

    async def take(ctx):
        """Egress: takes frames ahead of beats, a few; a frame on offer may not change."""
        passed, before = 0, None
        while passed < sum(map(len, frames)):
            ready = go() and len(out) - passed < ahead
            ctx.set(dut.frames.ready, ready)
            ctx.set(dut.beats.ready, go())
            _, _, valid, payload, beat_valid, beat_ready, beat = await ctx.tick().sample(
                dut.frames.valid, dut.frames.payload,
                dut.beats.valid, dut.beats.ready, dut.beats.payload,
            )  # fmt: skip
            frame = (int(payload.queue), int(payload.length))
            assert before is None or (valid and frame == before), "an offer was withdrawn"
            before = frame if valid and not ready else None
            if valid and ready:
                out.append(frame)
            if beat_valid and beat_ready:
                beats.append(int(beat.data))
                passed += int(beat.last)

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    for source, (f, b) in enumerate(
        ((dut.wire_frames, dut.wire_beats), (dut.place_frames, dut.place_beats))
    ):

        async def frame_source(ctx, f=f, source=source):
            await announce(ctx, f, source)

        async def beat_source(ctx, b=b, source=source):
            await pour(ctx, b, source)

        simulator.add_testbench(frame_source, background=True)
        simulator.add_testbench(beat_source, background=True)
    simulator.add_testbench(take)
    simulator.run()
    expected = [s << 32 | n << 16 | k for s, n in out for k in range(frames[s][n])]
    assert beats == expected
    return out


@pytest.mark.parametrize("pace", [1, 0.5, 0.2])
def test_beats_follow_in_the_order_of_frames_and_each_source_keeps_its_own(pace):
    rng = Random(2)
    frames = [[rng.choice([1, 1, 2, 9]) for _ in range(80)] for _ in range(2)]
    out = joined(frames, pace)
    for source in range(2):
        assert [n for s, n in out if s == source] == list(range(80))


def test_neither_source_waits_for_more_than_a_frame_of_the_other():
    out = joined([[1] * 60, [1] * 60], 1)
    sources = [source for source, _ in out]
    assert sorted(sources[:2]) == [0, 1]
    assert sources[:100] == sources[:2] * 50
