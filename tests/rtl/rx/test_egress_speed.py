"""Cycles a frame through the whole egress, with near and with far memory, and its latency.

The default depths of prefetch and of outstanding writes have to cover 200 cycles of latency.
"""

import pytest
from egress_bench import Bench, Traffic, split_frame

from hdsnic.abi import RxOutcome
from hdsnic.parameters import Parameters

_INDEX_SHARE = 1 / 16
"""Beats of the header port that a record's share of the index write-back takes."""

_DEPTHS = {n: getattr(Parameters(), n) for n in ("post_prefetch", "outstanding")}

on_ports = pytest.mark.parametrize(
    ("width", "latency"), [(8, 1), (8, 200), (16, 200), (32, 200), (64, 1), (64, 200)]
)


def run(width, latency, frames, posts=1024, log2_element_bytes=11, stamps=0):
    """Sends `frames(rng)` at once, to queue 1 with `posts` buffers of which many are ready."""

    async def scenario(b):
        b.stamps = stamps
        await b.store_ring(0, 1 << 24, 18)
        await b.store_ring(1, 1 << 25, 18)
        elements = 1024 + (8192 >> log2_element_bytes) + 1
        await b.register(0, elements=elements, postable=1024, log2_element_bytes=log2_element_bytes)
        offset = 1024 << log2_element_bytes >> 12
        await b.store_posts(1, owner=1, region=0, offset=offset, log2_pages=1)
        b.post(1, [(0, k) for k in range(posts)])
        await b.step(2 * latency + 200)
        b.send(*frames(b.rng))
        await b.finish()

    near = (latency, latency)
    b = Bench(width, traffic=Traffic(1, 1, 1, near, near, near), postable_max=1024, **_DEPTHS)
    b.run(scenario)
    b.check()
    return b


def pace(b, warm_up):
    """Cycles a frame, from the acknowledgement of frame `warm_up` to that of the last one, with
    what the index write-backs take of the port."""
    times = [w.acknowledged for w in b.header.writes][warm_up:]
    return (times[-1] - times[0]) / (len(times) - 1) + _INDEX_SHARE


@on_ports
@pytest.mark.parametrize("stamps", [0, 2])
def test_small_frames_are_split_and_placed_at_the_speed_of_their_records(width, latency, stamps):
    # More than are ready when it begins: what is claimed has to be fetched again meanwhile.
    count = {8: 60, 16: 90, 32: 120, 64: 700 if latency == 200 and not stamps else 200}[width]
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 6, 54) for _ in range(count)],
        stamps=stamps,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: count}
    per_frame = pace(b, count // 3)
    most = {8: 9.1, 16: 5.1, 32: 3.1, 64: 2.1}[width]
    if stamps and width == 8:
        most += 1  # a record with a time stamp takes a beat more
    assert per_frame <= most, f"{per_frame} cycles a frame"


@on_ports
def test_frames_without_payload_flow_at_the_speed_of_their_records(width, latency):
    count = {8: 40, 16: 50, 32: 60, 64: 120}[width]
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 0, 54, 6) for _ in range(count)], posts=0
    )
    per_frame = pace(b, count // 3)
    assert per_frame <= {8: 9.1, 16: 5.1, 32: 3.1, 64: 2.1}[width], f"{per_frame} cycles a frame"


@on_ports
@pytest.mark.parametrize("log2_element_bytes", [8, 11])
def test_large_frames_flow_at_one_beat_a_cycle_in_one_buffer_or_in_chains(
    width, latency, log2_element_bytes
):
    count = {8: 8, 16: 12, 32: 20, 64: 30}[width]
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 1448, 66) for _ in range(count)],
        log2_element_bytes=log2_element_bytes, posts=256,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: count}
    per_frame = pace(b, 4)
    assert per_frame <= -(-1514 // width) + 0.1, f"{per_frame} cycles a frame"


@on_ports
@pytest.mark.parametrize("log2_element_bytes", [10, 14])
def test_jumbo_frames_take_their_beats_and_one(width, latency, log2_element_bytes):
    b = run(
        width, latency, lambda rng: [split_frame(rng, 1, 8952, 66) for _ in range(4)],
        log2_element_bytes=log2_element_bytes, posts=64,
    )  # fmt: skip
    assert b.outcomes == {RxOutcome.SPLIT: 4}
    per_frame = pace(b, 2)
    assert per_frame <= -(-9018 // width) + 1, f"{per_frame} cycles a frame"


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("payload", [6, 1400])
def test_a_frame_takes_3_cycles_to_its_first_beat_and_2_from_the_last_acknowledgement(
    width, payload
):
    async def scenario(b):
        await b.usual(posts=8)
        await b.step(80)
        b.begin = b.cycle
        b.send(split_frame(b.rng, 1, payload, 54))
        await b.finish()

    b = Bench(width, traffic=Traffic(1, 1, 1, (1, 1), (1, 1), (3, 3)))
    b.run(scenario)
    b.check()
    before = 54 // width  # beats of the frame with header alone
    assert b.header.beat_cycles[0] - b.begin == 3
    assert b.payload.beat_cycles[0] - b.begin == 4 + before
    last = max(b.header.writes[0].acknowledged, b.payload.writes[0].acknowledged)
    assert b.index_cycle - last == 2
