"""Frames out of the transmit path equal what scapy builds, from descriptors of every shape."""

import pytest
from transmit_bench import Bench
from transmit_frames import gathered, mixed, plain, random_bytes, segment, seeded, split

WIDTHS = [8, 64]
every_width = pytest.mark.parametrize("width", WIDTHS)


@every_width
def test_a_tcp_frame_from_one_piece_has_the_checksums_that_scapy_computes(width):
    bench = Bench(width)
    region = bench.region(3)
    queue = bench.queue()
    pieces = [(region, 1, 1001, 1200)]
    queue.send(segment(gathered(bench.memory, pieces), pieces))
    bench.deliver()
    assert len(bench.frames) == 1


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_mixed_frames_are_right_under_random_latency_and_back_pressure(width):
    bench = Bench(width, seed=width)
    region = bench.region(0)
    queue = bench.queue()
    rng = seeded(width + 1)
    queue.send(*(mixed(rng, bench.memory, region, 1) for _ in range(60)))
    bench.deliver()
    assert len(bench.frames) == 60
