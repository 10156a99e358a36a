"""Cycles a frame behind memory ports of 200 cycles latency: the figures of README.md."""

import pytest
from transmit_bench import Bench
from transmit_frames import gathered, plain, seeded, segment, segmented, split

LATENCY = 200


def bench_of(width, latency=LATENCY):
    return Bench(width, latency=(latency, latency), pace=1, mac_pace=1, burst=1, outstanding=256)


def cycles_per_frame(width, payload, frames, *, inline=False, queues=1, latency=LATENCY, tci=None):
    bench = bench_of(width, latency)
    for number in range(queues):
        region = bench.region(number, owner=number + 1, size=16384)
        queue = bench.queue(number, owner=number + 1, log2_bytes=16)
        rng = seeded(number)
        for k in range(frames // queues):
            pieces = split(rng, bench.memory, region, 1, [payload])
            data = gathered(bench.memory, pieces)
            queue.send(segment(data, [] if inline else pieces, sport=k + 1, tci=tci))
    bench.deliver()
    # From a quarter on: what it takes to fill the pipeline is not counted.
    first = frames // 4
    cycles = (bench.ends[-1] - bench.ends[first - 1]) / (frames - first)
    print(f"\n{payload + 54} bytes, bus {width}, inline {inline}: {cycles:.2f} cycles a frame")
    return cycles


@pytest.mark.parametrize(("width", "most"), [(8, 10.5), (16, 5.5), (32, 3.2), (64, 2.1)])
@pytest.mark.parametrize("inline", [False, True])
def test_frames_of_60_bytes_leave_near_the_wires_rate(width, most, inline):
    assert cycles_per_frame(width, 6, 80 if width == 8 else 320, inline=inline) <= most


@pytest.mark.parametrize(("width", "most"), [(8, 190.2), (64, 24.2)])
def test_frames_of_1514_bytes_leave_at_a_beat_a_cycle(width, most):
    assert cycles_per_frame(width, 1460, 12 if width == 8 else 48) <= most


@pytest.mark.parametrize(("width", "most"), [(8, 1129), (64, 142)])
def test_frames_of_9018_bytes_leave_at_a_beat_a_cycle(width, most):
    assert cycles_per_frame(width, 9018 - 54, 4 if width == 8 else 12) <= most


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("mss", [1460, 1448])
def test_segments_of_64_kib_leave_without_a_gap(width, mss):
    bench = bench_of(width)
    region = bench.region(0, size=65536)
    queue = bench.queue()
    pieces = [(region, 1, 3, 30001), (region, 1, 0, 65536 - 30001)]
    sizes = [65536] if width == 8 else [65536, 65536]
    for _ in sizes:
        queue.send(segmented(gathered(bench.memory, pieces), pieces, mss))
    bench.deliver()
    beats = sum(-(-len(frame) // width) for frame in bench.frames)
    cycles = bench.ends[-1] - bench.starts[0] + 1
    print(f"\n64 KiB by {mss}, bus {width}: {cycles} cycles for {beats} beats")
    assert len(bench.frames) == len(sizes) * -(-65536 // mss)
    assert cycles == beats


def test_a_gap_of_a_cycle_would_be_seen():
    """The measure itself: a MAC that stalls now and then makes more cycles than beats."""
    bench = Bench(64, pace=1, mac_pace=0.9, latency=(5, 5))
    queue = bench.queue()
    queue.send(plain(bench.rng, 3000))
    bench.deliver()
    assert bench.ends[-1] - bench.starts[0] + 1 > 47


@pytest.mark.parametrize("queues", [2, 4])
@pytest.mark.parametrize(("payload", "frames", "most"), [(6, 1024, 2.1), (1460, 120, 24.2)])
def test_queues_hide_the_latency_of_changing_between_them(payload, frames, most, queues):
    assert cycles_per_frame(64, payload, frames, queues=queues) <= most


@pytest.mark.parametrize(("width", "frames", "most"), [(16, 408, 5.5), (32, 816, 3.2)])
def test_two_queues_hide_it_on_buses_between(width, frames, most):
    assert cycles_per_frame(width, 6, frames, queues=2) <= most


def test_a_ring_that_is_filled_as_it_is_emptied_is_served_without_gaps():
    """A driver with a ring of 409 descriptors, a doorbell each 8 of them."""
    bench = bench_of(64)
    bench.burst = 16
    region = bench.region(0, size=16384)
    queue = bench.queue(log2_bytes=15)
    for k in range(900):
        pieces = split(bench.rng, bench.memory, region, 1, [6])
        queue.send(segment(gathered(bench.memory, pieces), pieces, sport=k + 1))
    bench.deliver()
    cycles = (bench.ends[-1] - bench.ends[299]) / 600
    print(f"\n60 bytes, bus 64, ring of 32 KiB: {cycles:.2f} cycles a frame")
    assert cycles <= 2.1
