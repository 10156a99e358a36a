"""Cycles a frame, with the latency of both ports hidden: the figures that the docstrings claim."""

import pytest
from transmit_bench import Bench
from transmit_frames import gathered, seeded, segment, split


def cycles_per_frame(width, payload, frames, *, inline=False, queues=1, latency=80):
    bench = Bench(width, latency=(latency, latency), pace=1, mac_pace=1, burst=1)
    for number in range(queues):
        region = bench.region(number, owner=number + 1, size=4096)
        queue = bench.queue(number, owner=number + 1, log2_bytes=15)
        rng = seeded(number)
        for k in range(frames // queues):
            pieces = split(rng, bench.memory, region, 1, [payload])
            data = gathered(bench.memory, pieces)
            queue.send(segment(data, [] if inline else pieces, sport=k + 1))
    bench.deliver()
    # From a quarter on: what it takes to fill the pipeline is not counted.
    first = frames // 4
    return (bench.ends[-1] - bench.ends[first - 1]) / (frames - first)


@pytest.mark.parametrize(("width", "most"), [(8, 10.5), (16, 6.0), (32, 3.5), (64, 3.0)])
@pytest.mark.parametrize("inline", [False, True])
def test_frames_of_60_bytes_leave_near_the_wires_rate(width, most, inline, record_property):
    cycles = cycles_per_frame(width, 6, 64 if width == 8 else 120, inline=inline)
    record_property("cycles_per_frame", cycles)
    print(f"60 bytes, bus {width}, inline {inline}: {cycles:.2f} cycles a frame")
    assert cycles <= most


@pytest.mark.parametrize(("width", "most"), [(8, 194), (64, 26)])
def test_frames_of_1514_bytes_leave_at_a_beat_a_cycle(width, most, record_property):
    cycles = cycles_per_frame(width, 1460, 12)
    record_property("cycles_per_frame", cycles)
    print(f"1514 bytes, bus {width}: {cycles:.2f} cycles a frame")
    assert cycles <= most


def test_tiny_frames_of_two_queues_hide_the_latency_of_changing_between_them():
    cycles = cycles_per_frame(64, 6, 300, queues=2)
    print(f"60 bytes, bus 64, two queues: {cycles:.2f} cycles a frame")
    assert cycles <= 3.5
