"""Two stacks over a bad link: each stream arrives whole, in order, once; every connection ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_host import MS, load
from tcp_link import Link, World

PERFECT = Link()
BAD = Link(loss=0.1, duplicate=0.1, jitter=20 * MS, wait=5 * MS)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0, 0.02, 0.1]),
    duplicate=st.sampled_from([0, 0.1, 0.5]),
    jitter=st.sampled_from([0, 1, 5 * MS, 300 * MS]),
    wait=st.sampled_from([0, 20 * MS]),
    buffers=st.sampled_from([4, 16, 64]),
    urgent=st.sampled_from([0, 2]),
)
def test_streams_arrive_whole_over_any_link(seed, loss, duplicate, jitter, wait, buffers, urgent):
    link = Link(loss=loss, duplicate=duplicate, jitter=jitter, wait=wait)
    world = World(
        load(False), link, seed, connections=2, size=20000, buffers=buffers, urgent=urgent
    )
    world.run().check()


@pytest.mark.parametrize("seed", range(4))
def test_streams_arrive_whole_compiled_with_more_data(seed):
    link = Link(
        loss=seed % 4 * 0.03, duplicate=seed % 3 * 0.1, jitter=seed % 5 * 10 * MS, wait=10 * MS
    )
    World(load(True), link, seed, connections=3, size=60_000, urgent=seed).run().check()


def test_a_perfect_link_needs_no_retransmission():
    world = World(load(False), PERFECT, 1, connections=3, size=100_000).run()
    world.check()
    for host in world.hosts:
        for name in ("retransmits", "timeouts", "duplicates", "out_of_order", "beyond_window"):
            assert host.count(name) == 0, name
        assert host.dropped_no_buffer == 0 and host.dropped_not_ready == 0


def test_slow_start_fills_a_long_link():
    """400 kB over 10 ms round trips: a window stuck at ten segments would take 27 of them."""
    world = World(load(False), PERFECT, 2, connections=1, size=2, buffers=255)
    world.data[0] = [b"d" * 400_000, b""]
    world.most = 500
    start = world.now
    last = []
    deliver = world.client.receive

    def receive(frame):
        deliver(frame)
        if len(frame) > 1000:
            last.append(world.now)

    world.client.receive = receive
    world.run().check()
    assert (last[-1] - start) / (10 * MS) < 12


@pytest.mark.parametrize("seed", range(2))
def test_interpreted_and_compiled_agree_row_by_row(seed):
    """Same inputs: same rows, segments and events after each burst."""
    runs = []
    for compiled in (False, True):
        world = World(load(compiled), BAD, seed, connections=2, size=8000, urgent=3).run(
            traced=True
        )
        world.check()
        runs.append(world)
    plain, fast = runs
    for step, (one, other) in enumerate(zip(plain.trace, fast.trace, strict=True)):
        assert one == other, f"rows differ after burst {step}"
    for one, other in zip(plain.hosts, fast.hosts, strict=True):
        assert one.s.tobytes() == other.s.tobytes()
        assert one.app.streams == other.app.streams
