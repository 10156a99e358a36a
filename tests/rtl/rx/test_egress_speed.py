"""Cycles a frame through the whole egress, with near and with far memory, and its latency.

The default depths of prefetch and of outstanding writes have to cover 200 cycles of latency.
"""

import pytest
from egress_bench import Bench, Traffic, split_frame, whole_frame

from hdsnic.abi import PostOutcome, RxOutcome
from hdsnic.parameters import Parameters

_INDEX_SHARE = 1 / 16
"""Beats of the header port that a record's share of the index write-back takes."""

_DEPTHS = {n: getattr(Parameters(), n) for n in ("post_prefetch", "outstanding")}

latencies = pytest.mark.parametrize("latency", [1, 200])
every_width = pytest.mark.parametrize("width", [8, 16, 32, 64])


def run(width, latency, frames, posts=1024, log2_element_bytes=11, stamps=0, **traffic):
    """Sends `frames(rng)` at once, to queue 1 with `posts` buffers; a record takes no more time
    than the wire and the ports do."""

    async def scenario(b):
        b.stamps = stamps
        await b.store_ring(0, 1 << 24, 18)
        await b.store_ring(1, 1 << 25, 18)
        ring = 1024 << log2_element_bytes >> 12
        elements = 1024 + (8192 >> log2_element_bytes) + 1
        await b.register(
            0, elements=elements, postable=1024, log2_element_bytes=log2_element_bytes
        )
        await b.store_posts(1, owner=1, region=0, offset=ring, log2_pages=1)
        b.post(1, [(0, k) for k in range(posts)])
        await b.step(3 * latency + 300)
        b.send(*frames(b.rng))
        await b.finish()

    near = (latency, latency)
    b = Bench(width, traffic=Traffic(1, 1, 1, near, near, near), postable_max=1024, **_DEPTHS)
    b.run(scenario)
    b.check()
    return b


def pace(b, warm_up):
    """Cycles a frame, from the acknowledgement of frame `warm_up` to that of the last one."""
    times = [w.acknowledged for w in b.header.writes][warm_up:]
    return (times[-1] - times[0]) / (len(times) - 1)


@latencies
@every_width
@pytest.mark.parametrize("stamps", [0, 2])
def test_small_frames_are_split_and_placed_at_the_speed_of_their_records(width, latency, stamps):
    count = 420 if width == 64 else 1000 // width + 100
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 6, 54) for _ in range(count)],
        stamps=stamps,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: count}
    per_frame = pace(b, count // 3) + _INDEX_SHARE
    most = {8: 9.1, 16: 5.1, 32: 3.1, 64: 2.1}[width]
    if stamps:
        most += {8: 1, 16: 0, 32: 0.3, 64: 0}[width]
    assert per_frame <= most, f"{per_frame} cycles a frame"


@latencies
@every_width
def test_frames_without_payload_flow_at_the_speed_of_their_records(width, latency):
    count = 300 if width == 64 else 100
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 0, 54, 6) for _ in range(count)], posts=0
    )
    per_frame = pace(b, count // 3) + _INDEX_SHARE
    most = {8: 9.1, 16: 5.1, 32: 3.1, 64: 2.1}[width]
    assert per_frame <= most, f"{per_frame} cycles a frame"


@latencies
@every_width
@pytest.mark.parametrize("log2_element_bytes", [8, 9, 11])
def test_large_frames_flow_at_one_beat_a_cycle_in_one_buffer_or_in_chains(
    width, latency, log2_element_bytes
):
    count = 12 if width == 8 else 40
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 1448, 66) for _ in range(count)],
        log2_element_bytes=log2_element_bytes,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: count}
    per_frame = pace(b, 4) + _INDEX_SHARE
    assert per_frame <= -(-1514 // width) + 0.1, f"{per_frame} cycles a frame"


@latencies
@every_width
@pytest.mark.parametrize("log2_element_bytes", [10, 14])
def test_jumbo_frames_take_their_beats_and_one(width, latency, log2_element_bytes):
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 8952, 66) for _ in range(6)],
        log2_element_bytes=log2_element_bytes,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: 6}
    per_frame = pace(b, 2) + _INDEX_SHARE
    assert per_frame <= -(-9018 // width) + 1, f"{per_frame} cycles a frame"
