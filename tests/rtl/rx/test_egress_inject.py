"""Injector: two sources of frames become one, beats in the order of frames."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator
from egress_bench import pack, parameters

from hdsnic.rx.inject import Injector


def run(width, wire, place, beats=1.0, frames=1.0, hold=0, limit=4000):
    """Sends frames of (source, number, beats) through; returns them, as they left, with cycles.

    `beats`, `frames`: chance that the other side takes one. Command frames come after `hold` cycles
    at the earliest, and beats of frame k come only after frame k - 4 was split.
    """
    p = parameters(width)
    dut = Injector(p)
    rng = random.Random(width)
    sources = {"wire": deque(wire), "place": deque(place)}
    pending = {n: deque((f, k) for f in fs for k in range(f[2])) for n, fs in sources.items()}
    out_frames, out_beats = [], []
    shape, beat_shape = dut.frames.payload.shape(), dut.beats.payload.shape()

    async def scenario(ctx):
        for cycle in range(limit):
            for name in ("wire", "place"):
                ready = name == "wire" or cycle >= hold
                stream, queue = getattr(dut, f"{name}_frames"), sources[name]
                ctx.set(stream.valid, bool(queue) and ready)
                if queue:
                    ctx.set(stream.payload.as_value(), pack(shape, hash=queue[0][1]))
                stream, queue = getattr(dut, f"{name}_beats"), pending[name]
                ctx.set(stream.valid, bool(queue))
                if queue:
                    frame, k = queue[0]
                    beat = pack(beat_shape, data=frame[1] << 8 | k, last=k == frame[2] - 1)
                    ctx.set(stream.payload.as_value(), beat)
            behind = len(out_frames) - sum(b[1] for b in out_beats)
            ctx.set(dut.frames.ready, behind < 4 and rng.random() < frames)
            ctx.set(dut.beats.ready, rng.random() < beats)
            if ctx.get(dut.frames.valid) and ctx.get(dut.frames.ready):
                out_frames.append((ctx.get(dut.frames.payload.hash), cycle))
            if ctx.get(dut.beats.valid) and ctx.get(dut.beats.ready):
                beat = ctx.get(dut.beats.payload)
                out_beats.append((beat.data, beat.last, cycle))
            for name in ("wire", "place"):
                for stream, queue in (("frames", sources[name]), ("beats", pending[name])):
                    port = getattr(dut, f"{name}_{stream}")
                    if ctx.get(port.valid) and ctx.get(port.ready):
                        queue.popleft()
            await ctx.tick()
            if not any(map(len, (*sources.values(), *pending.values()))):
                return
        raise AssertionError("frames are stuck")

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(scenario)
    simulator.run()
    by_number = {f[1]: f for f in (*wire, *place)}
    expected = [n << 8 | k for n, _ in out_frames for k in range(by_number[n][2])]
    assert [b[0] for b in out_beats] == expected, "beats follow the order of frames"
    return out_frames, out_beats


def made(source, count, first, beats):
    return [(source, first + k, beats(k)) for k in range(count)]


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("chance", [1.0, 0.4])
def test_frames_of_both_sources_leave_whole_and_in_their_order(width, chance):
    rng = random.Random(5)
    wire = made("wire", 60, 0, lambda k: rng.randrange(1, 9))
    place = made("place", 20, 100, lambda k: rng.randrange(1, 9))
    frames, _ = run(width, wire, place, chance, chance)
    numbers = [n for n, _ in frames]
    assert [n for n in numbers if n < 100] == list(range(60))
    assert [n for n in numbers if n >= 100] == list(range(100, 120))


def test_the_wire_goes_first_and_a_command_after_at_most_16_of_its_frames():
    frames, _ = run(64, made("wire", 70, 0, lambda k: 1), made("place", 3, 100, lambda k: 2))
    numbers = [n for n, _ in frames]
    assert [numbers.index(n) for n in (100, 101, 102)] == [16, 33, 50]


def test_a_command_goes_when_the_wire_is_silent():
    frames, _ = run(8, made("wire", 5, 0, lambda k: 3), made("place", 2, 100, lambda k: 9), hold=90)
    assert [n for n, _ in frames] == [0, 1, 2, 3, 4, 100, 101]


@pytest.mark.parametrize("beats", [1, 2, 24])
def test_the_wire_meets_no_bubble(beats):
    frames, out = run(64, made("wire", 80, 0, lambda k: beats), [])
    cycles = [c for _, _, c in out]
    assert cycles == list(range(cycles[0], cycles[0] + 80 * beats))
    assert cycles[0] == frames[0][1] + 1, "a cycle after its frame"


def test_an_offer_stands_until_it_is_taken():
    p = parameters(8)
    dut = Injector(p)

    async def scenario(ctx):
        ctx.set(dut.place_frames.payload.hash, 7)
        ctx.set(dut.wire_frames.payload.hash, 8)
        ctx.set(dut.place_frames.valid, 1)
        await ctx.tick()
        ctx.set(dut.wire_frames.valid, 1)
        for _ in range(3):
            assert ctx.get(dut.frames.valid) and ctx.get(dut.frames.payload.hash) == 7
            await ctx.tick()
        ctx.set(dut.frames.ready, 1)
        await ctx.tick()
        assert ctx.get(dut.frames.payload.hash) == 8

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(scenario)
    simulator.run()
