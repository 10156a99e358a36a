"""Placement, write and commit of frames, one rule at a time."""

import pytest
from egress_bench import Bench, Traffic, split_frame, whole_frame

from hdsnic.abi import PostOutcome, RxOutcome

wide_and_narrow = pytest.mark.parametrize("width", [8, 64])


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_header_goes_to_the_ring_and_payload_to_the_posted_buffer(width):
    async def scenario(b):
        await b.usual(posts=20)
        await b.step(60)
        for header, payload, padding in [
            (54, 6, 0), (54, 0, 6), (66, 1448, 0), (54, 1, 5), (74, 64, 0), (142, 1400, 0),
            (64, 64, 0), (64, 128, 3), (60, 4, 9), (62, 2, 0), (63, 1, 70), (256, 1000, 0),
        ]:  # fmt: skip
            b.send(split_frame(b.rng, 1, payload, header, padding))
        b.send(whole_frame(b.rng, 60), whole_frame(b.rng, 1514, RxOutcome.NO_RULE))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.outcomes == {
        RxOutcome.SPLIT: 11, RxOutcome.HEADER_ONLY: 1, RxOutcome.NOT_IP: 1, RxOutcome.NO_RULE: 1,
    }  # fmt: skip
    b.check()
    assert b.queues[1].shown == b.queues[1].producer


@wide_and_narrow
def test_a_full_receive_ring_drops_and_takes_no_buffer(width):
    async def scenario(b):
        await b.usual(posts=4)
        await b.step(60)
        # 256 cells: 14 records of 17 cells, then 18 cells are left: one more.
        for _ in range(16):
            b.send(split_frame(b.rng, 1, 0, 256))
        b.send(split_frame(b.rng, 1, 10, 54))
        await b.finish()
        assert [f.outcome for f in b.sent[14:]] == [
            RxOutcome.HEADER_ONLY, RxOutcome.NO_RING_SPACE, RxOutcome.NO_RING_SPACE,
        ]  # fmt: skip
        b.hand_back(1, 17)
        await b.step(3)
        b.send(split_frame(b.rng, 1, 10, 54))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.sent[-1].outcome == RxOutcome.SPLIT
    assert b.check()[-1]["element"] == 0, "the first buffer was still there"


@wide_and_narrow
def test_a_frame_that_can_never_fit_its_ring_is_dropped(width):
    async def scenario(b):
        await b.usual(posts=0)
        b.send(whole_frame(b.rng, 9018), whole_frame(b.rng, 4096 - 15))
        b.send(whole_frame(b.rng, 4096 - 16), whole_frame(b.rng, 60))
        await b.finish()

    b = Bench(width).run(scenario)
    full = RxOutcome.NO_RING_SPACE
    assert [f.outcome for f in b.sent] == [full, full, RxOutcome.NOT_IP, full]
    b.check()


@wide_and_narrow
def test_without_posted_buffers_only_frames_with_payload_are_dropped(width):
    async def scenario(b):
        await b.usual(posts=2)
        await b.step(60)
        for payload in (5, 0, 6, 7, 0, 8):
            b.send(split_frame(b.rng, 1, payload, 54, 6))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.outcomes == {
        RxOutcome.SPLIT: 2, RxOutcome.HEADER_ONLY: 2, RxOutcome.NO_BUFFER: 2,
    }  # fmt: skip
    assert [r["posted_left"] for r in b.check()] == [1, 1, 0, 0]


@wide_and_narrow
def test_a_queue_without_a_ring_drops_its_frames(width):
    async def scenario(b):
        await b.usual(posts=4)
        b.send(split_frame(b.rng, 2, 10), split_frame(b.rng, 2, 0), split_frame(b.rng, 1, 0))
        await b.finish()
        await b.store_ring(1, 0, enable=0)
        b.send(split_frame(b.rng, 1, 10))
        await b.finish()
        b.sent = b.sent[2:3]  # the ring moved: only the record before that

    b = Bench(width).run(scenario)
    assert b.outcomes == {RxOutcome.DISABLED: 3, RxOutcome.HEADER_ONLY: 1}
    assert len(b.header.writes) == 1 and not b.payload.writes


@wide_and_narrow
@pytest.mark.parametrize("slow", ["header", "payload"])
def test_a_record_waits_for_the_acknowledgement_of_the_slower_port(width, slow):
    async def scenario(b):
        await b.usual(posts=8)
        await b.step(60)
        port = getattr(b, slow)
        port.stalled = True
        b.send(*(split_frame(b.rng, 1, 40) for _ in range(4)))
        await b.step(400)
        other = b.payload if slow == "header" else b.header
        assert other.done == 4, "the other port has acknowledged all"
        assert b.completed == 0 and b.queues[1].shown == 0 and not b.out["idle"]
        port.stalled = False
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.outcomes == {RxOutcome.SPLIT: 4}
    b.check()
    assert b.queues[1].shown == b.queues[1].producer


@wide_and_narrow
def test_a_header_only_frame_does_not_wait_for_the_payload_port(width):
    async def scenario(b):
        await b.usual(posts=8)
        await b.step(60)
        b.payload.stalled = True
        b.send(split_frame(b.rng, 1, 0), whole_frame(b.rng, 60), split_frame(b.rng, 1, 9))
        await b.until(lambda: b.completed == 2)
        await b.step(200)
        assert b.completed == 2
        b.payload.stalled = False
        await b.finish()

    Bench(width).run(scenario).check()


@wide_and_narrow
@pytest.mark.parametrize("port", ["header", "payload"])
def test_a_write_error_voids_the_record_and_stops_its_queue_alone(width, port):
    async def scenario(b):
        await b.usual(posts=8, queue=1)
        await b.step(60)
        failing = getattr(b, port)
        failing.fails = lambda write: write is failing.writes[0]
        b.send(
            split_frame(b.rng, 1, 50, written=True),
            split_frame(b.rng, 1, 60, written=True),
            whole_frame(b.rng, 60),
        )
        await b.finish()
        assert [f.outcome for f in b.sent] == [
            RxOutcome.PORT_ERROR, RxOutcome.DISABLED, RxOutcome.NOT_IP,
        ]  # fmt: skip
        assert b.queues[1].shown == 0, "nothing of it became visible"
        assert b.post_outcomes[1, PostOutcome.FLUSHED] == 2
        writes = len(b.header.writes)
        b.send(split_frame(b.rng, 1, 0))
        await b.finish()
        assert b.sent[-1].outcome == RxOutcome.DISABLED and len(b.header.writes) == writes
        # The flushed buffers may be posted again, and a ring stored anew works.
        b.post(1, [(0, 0), (0, 1)])
        await b.store_ring(1, 0x80_0000)
        await b.step(80)
        for _ in range(8):
            b.send(split_frame(b.rng, 1, 70))
            await b.finish()

    b = Bench(width).run(scenario)
    assert [f.outcome for f in b.sent[4:]] == [RxOutcome.SPLIT] * 8
    assert [w.address >> 11 & 0xFF for w in b.payload.writes] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]


@wide_and_narrow
def test_pause_begins_nothing_and_idle_comes_when_all_is_committed(width):
    async def scenario(b):
        await b.usual(posts=8)
        await b.step(60)
        b.header.stalled = True
        b.send(*(split_frame(b.rng, 1, 30 * (k % 2)) for k in range(16)))
        await b.until(lambda: len(b.header.writes) == 2)
        b.pause = 1
        await b.step(500)
        begun = len(b.header.writes)
        assert begun < 10 and not b.out["idle"]
        b.post(1, [(0, k) for k in range(8, 12)])
        reads = len(b.posts.reads)
        await b.step(100)
        assert len(b.header.writes) == begun and len(b.posts.reads) == reads
        b.header.stalled = False
        await b.until(lambda: b.out["idle"])
        assert b.completed == begun
        await b.step(50)
        assert b.completed == begun and len(b.posts.reads) == reads
        b.pause = 0
        await b.finish()

    b = Bench(width, traffic=Traffic(beats=0.2)).run(scenario)
    assert b.outcomes == {RxOutcome.SPLIT: 8, RxOutcome.HEADER_ONLY: 8}
    b.check()


@wide_and_narrow
def test_consumer_doorbells_beyond_the_records_are_ignored(width):
    async def scenario(b):
        await b.usual(posts=0)
        for nonsense in (1, 257, 1 << 31):
            b.send(split_frame(b.rng, 1, 0, 256))
            await b.finish()
            b.hand_back(1, b.queues[1].shown + nonsense)
            await b.step(5)
        for _ in range(14):
            b.send(split_frame(b.rng, 1, 0, 256))
        await b.finish()

    b = Bench(width).run(scenario)
    # 256 cells hold 15 records of 17: no fewer, and no more, than without the nonsense.
    record, full = RxOutcome.HEADER_ONLY, RxOutcome.NO_RING_SPACE
    assert [f.outcome for f in b.sent] == [record] * 15 + [full] * 2
    b.check()


@wide_and_narrow
def test_a_queue_without_buffers_delays_no_other(width):
    async def scenario(b):
        await b.usual(posts=8)
        await b.store_ring(2, 0x50_0000)
        await b.step(60)
        for _ in range(6):
            b.send(split_frame(b.rng, 2, 900), split_frame(b.rng, 1, 30))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.outcomes == {RxOutcome.NO_BUFFER: 6, RxOutcome.SPLIT: 6}
    b.check()
