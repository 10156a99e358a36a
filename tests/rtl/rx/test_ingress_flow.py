"""How frames flow: without a bubble, under back-pressure, beyond the room in the frame buffer."""

import random
from dataclasses import replace

import pytest
from frame_oracle import packed
from frames import tcp
from ingress_bench import Sent, run, small, store_address, store_exact
from setting import QUEUE, Exact

from hdsnic.abi import EXACT_TAG, RxOutcome
from hdsnic.rx.ingress import LOOKUP_CYCLES

rx = RxOutcome


def test_single_beat_frames_back_to_back_come_out_one_a_cycle():
    frames = [tcp(n % 11, port=80 + n % 2) for n in range(400)]
    assert all(len(frame) <= 65 for frame in frames)
    frames = [frame[:64] if len(frame) > 64 else frame for frame in frames]
    result = run(frames, small(64))
    good = [frame for frame in frames if len(frame) <= 64]
    assert result.input_cycles == len(frames)
    assert [f["bytes"] for f in result.frames] == good
    assert [f["reason"] for f in result.frames] == [
        rx.NO_RULE if n % 2 else (rx.SPLIT if n % 11 else rx.HEADER_ONLY) for n in range(400)
    ]
    assert result.beat_cycles[-1] - result.beat_cycles[0] == len(good) - 1
    assert result.frame_cycles[-1] - result.frame_cycles[0] == len(good) - 1


def test_single_beat_frames_that_alternate_good_and_bad_do_not_disturb_each_other():
    good, marked = tcp(10), Sent(tcp(9), error=True)
    damaged = Sent(tcp(9)[:-1] + b"\x00")
    frames = [good, marked, good, damaged, damaged, good, marked, marked, good] * 20
    result = run(frames, small(64))
    assert [f["bytes"] for f in result.frames] == [good] * 80
    assert result.outcomes == [rx.BAD_FCS, *[rx.L4_CHECKSUM] * 2, *[rx.BAD_FCS] * 2] * 20


@pytest.mark.parametrize("bus_bytes", (8, 16, 32, 64))
def test_a_beat_a_cycle_goes_in_and_out_without_a_bubble(bus_bytes):
    frames = [tcp(n) for n in (1400, 0, 3, 700, 1, 64, 65, 999)]
    result = run(frames, small(bus_bytes))
    beats = sum(-(-len(frame) // bus_bytes) for frame in frames)
    assert result.input_cycles == len(result.beat_cycles) == beats
    assert result.beat_cycles[-1] - result.beat_cycles[0] == beats - 1


@pytest.mark.parametrize("bus_bytes", (8, 16, 32, 64))
def test_latency_is_what_the_docstring_says(bus_bytes):
    result = run([tcp(0), Sent(tcp(700), idle=40)], small(bus_bytes))
    for last_in, announced in zip(result.last_beat_cycles, result.frame_cycles, strict=True):
        assert announced - last_in == 16
    assert result.beat_cycles[0] - result.last_beat_cycles[0] == 17


@pytest.mark.parametrize("bus_bytes", (8, 64))
@pytest.mark.parametrize("seed", (1, 2))
def test_back_pressure_and_gaps_change_nothing_but_time(bus_bytes, seed):
    chance = random.Random(seed)
    frames = [tcp(chance.choice((0, 1, 60, 400)), n % 3) for n in range(40)]
    result = run(frames, small(bus_bytes), ready=0.4, frames_ready=0.3, valid=0.3, seed=seed)
    assert not result.outcomes
    assert [f["bytes"] for f in result.frames] == frames


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_a_full_buffer_drops_and_counts_frames_and_keeps_those_it_has(bus_bytes):
    parameters = small(bus_bytes)
    frames = [tcp(1000, n % 3, port=80) for n in range(30)]
    result = run(frames, parameters, blocked=30 * 1100 // bus_bytes + 300)
    rows = parameters.rx_buffer_bytes // bus_bytes
    room, fit = rows, []
    for frame in frames:
        if (need := -(-len(frame) // bus_bytes)) <= room:
            room -= need
            fit.append(frame)
    # a row waits in the output register of the memory and so makes room for one more
    assert len(fit) <= len(result.frames) <= len(fit) + 1
    assert [f["bytes"] for f in result.frames] == frames[: len(result.frames)]
    assert set(result.outcomes) == {rx.OVERFLOW}


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_frames_that_overflow_make_room_again_for_smaller_ones(bus_bytes):
    parameters = small(bus_bytes)
    large, little = tcp(5000), tcp(20)
    fits = parameters.rx_buffer_bytes // len(large)
    frames = [large] * fits + [large, little, large, little]
    result = run(frames, parameters, blocked=sum(map(len, frames)) // bus_bytes + 300)
    assert [f["bytes"] for f in result.frames] == [large] * fits + [little] * 2
    assert result.outcomes == [rx.OVERFLOW] * 2


def test_more_tiny_frames_than_can_be_announced_are_dropped_and_counted():
    parameters = small(8)
    tiny = tcp(0)[:12] + b"\x88\xcc"  # 14 bytes: two rows, so the announcements run out first
    frames = [tiny] * 400
    result = run(frames, parameters, blocked=1100)
    assert len(result.frames) == parameters.rx_buffer_bytes // 64
    assert set(result.outcomes) == {rx.OVERFLOW}


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_sustained_overload_loses_nothing_uncounted(bus_bytes):
    chance = random.Random(5)
    frames = [tcp(chance.randrange(0, 1200)) for _ in range(120)]
    result = run(frames, small(bus_bytes), ready=0.3, frames_ready=0.5)
    assert rx.OVERFLOW in result.outcomes
    assert set(result.outcomes) == {rx.OVERFLOW}
    kept = iter(frames)
    assert all(f["bytes"] in kept for f in result.frames), "kept frames are whole and in order"


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_a_frame_is_looked_up_so_late_that_a_fence_behind_a_store_holds(bus_bytes):
    stored = []

    async def clear_address(ctx, dut):
        for _ in range(80):
            await ctx.tick()
        stored.append(ctx.get(dut.cycles))
        await store_address(ctx, dut, 0, None)

    result = run([tcp(0)] * 150, small(bus_bytes), during=clear_address)
    sees = [frame["reason"] == rx.NOT_LOCAL for frame in result.frames]
    late = [cycle - stored[0] >= LOOKUP_CYCLES for cycle in result.looked_up_cycles]
    assert 0 < sum(late) < len(late)
    assert all(see for see, is_late in zip(sees, late, strict=True) if is_late)
    if bus_bytes == 64:  # a frame a cycle: the first that sees it is the first that must
        assert sees == late


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_exact_rules_come_and_go_at_full_load_and_no_frame_is_lost_or_led_astray(bus_bytes):
    parameters = small(bus_bytes)
    own, peer = packed("10.77.0.2"), packed("10.77.0.1")
    rules = [Exact(peer, 40000 + n, own, 80, queue=8 + n, way=n % 2) for n in range(4)]
    rules = [r for n, r in enumerate(rules)
             if r.slot(parameters) not in {q.slot(parameters) for q in rules[:n]}]  # fmt: skip
    assert len(rules) > 2
    chance = random.Random(bus_bytes)

    async def change(ctx, dut):
        while True:
            rule = chance.choice(rules)
            await store_exact(ctx, dut, replace(rule, valid=chance.random() < 0.6), parameters)
            for _ in range(chance.choice((1, 2, 5, 9))):
                await ctx.tick()

    sources = [chance.randrange(40000, 40004) for _ in range(500)]
    frames = [tcp(6, source=source) for source in sources]
    result = run(frames, parameters, during=change)
    assert [f["bytes"] for f in result.frames] == frames
    by_source = {rule.remote_port: rule for rule in rules}
    seen = set()
    for source, frame in zip(sources, result.frames, strict=True):
        fates = {(QUEUE, 5)}
        if (rule := by_source.get(source)) is not None:
            fates.add((rule.queue, EXACT_TAG + rule.slot(parameters)))
        assert (frame["queue"], frame["tag"]) in fates
        seen.add(frame["queue"])
    assert seen == {QUEUE, *(rule.queue for rule in rules)}
