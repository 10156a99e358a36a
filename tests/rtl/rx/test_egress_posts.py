"""Post rings, regions and claims: what an application may and may not do to the egress."""

import random

import pytest
from egress_bench import ROUGH, Bench, Traffic, split_frame

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome

wide_and_narrow = pytest.mark.parametrize("width", [8, 64])


@wide_and_narrow
def test_a_region_revoked_after_the_prefetch_gets_no_byte(width):
    async def scenario(b):
        await b.usual(posts=4)
        await b.step(60)
        await b.revoke(0)
        b.send(split_frame(b.rng, 1, 30), split_frame(b.rng, 1, 30))
        await b.finish()

    b = Bench(width).run(scenario)
    assert [f.outcome for f in b.sent] == [RxOutcome.BAD_REGION, RxOutcome.NO_BUFFER]
    assert b.post_outcomes[1, PostOutcome.FLUSHED] == 4
    assert not b.payload.writes and not b.header.writes


@wide_and_narrow
def test_stale_handles_are_passed_over_for_the_next_good_one(width):
    async def scenario(b):
        await b.usual(posts=0)
        await b.register(1, owner=1)
        b.post(1, [(1, 3), (1, 4), (0, 5), (1, 6), (0, 7)])
        await b.step(80)
        await b.revoke(1)
        b.send(split_frame(b.rng, 1, 30), split_frame(b.rng, 1, 30), split_frame(b.rng, 1, 30))
        await b.finish()

    b = Bench(width).run(scenario)
    assert [f.outcome for f in b.sent] == [RxOutcome.SPLIT, RxOutcome.SPLIT, RxOutcome.NO_BUFFER]
    assert b.post_outcomes[1, PostOutcome.FLUSHED] == 3
    assert [r["element"] for r in b.check(flushed=[(1, 3), (1, 4), (1, 6)])] == [5, 7]


@wide_and_narrow
@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"owner": 2}, {"nic_write": 0}, {"postable": 1}, {"live": 0}]
)
def test_a_claim_looks_at_the_region_again(width, change):
    async def scenario(b):
        await b.usual(posts=0)
        b.post(1, [(0, 3)])
        await b.step(60)
        b.rows[0] |= change
        b.send(split_frame(b.rng, 1, 30))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.outcomes == {RxOutcome.BAD_REGION: 1} and not b.payload.writes


@wide_and_narrow
def test_registering_a_region_anew_discards_its_handles_and_keeps_the_others_in_order(width):
    async def scenario(b):
        await b.usual(posts=0)
        await b.register(1, owner=1)
        await b.register(2, owner=1)
        b.post(1, [(0, 1), (1, 2), (2, 3), (1, 4), (0, 5), (2, 6)])
        await b.step(80)
        await b.revoke(1)
        await b.register(1, owner=1, generation=2)
        assert b.post_outcomes[1, PostOutcome.FLUSHED] == 2
        b.post(1, [(1, 2), (1, 4)])  # not double: the states were swept
        await b.step(80)
        b.send(*(split_frame(b.rng, 1, 30 + k) for k in range(7)))
        await b.finish()

    b = Bench(width).run(scenario)
    order = [(r["region"], r["element"]) for r in map(abi.RECORD.unpack, (
        w.data for w in b.header.writes))]  # fmt: skip
    assert order == [(0, 1), (2, 3), (0, 5), (2, 6), (1, 2), (1, 4)]
    assert b.outcomes == {RxOutcome.SPLIT: 6, RxOutcome.NO_BUFFER: 1}
    assert b.post_outcomes[1, PostOutcome.DOUBLE_POST] == 0


@wide_and_narrow
def test_a_region_is_swept_only_after_its_frames_in_flight(width):
    async def scenario(b):
        await b.usual(posts=4)
        await b.step(60)
        b.payload.stalled = True
        b.send(split_frame(b.rng, 1, 30))
        await b.step(60)
        b.clearing = 0
        await b.step(300)
        assert b.clearing is None and b.out["busy"] and b.completed == 0
        b.payload.stalled = False
        await b.finish()
        await b.until(lambda: not b.out["busy"])

    b = Bench(width).run(scenario)
    assert b.post_outcomes[1, PostOutcome.FLUSHED] == 3
    b.check()


@wide_and_narrow
def test_a_post_ring_stored_anew_discards_the_handles_of_the_old_owner(width):
    async def scenario(b):
        await b.usual(posts=5)
        await b.step(60)
        await b.register(3, owner=7)
        await b.store_posts(1, owner=7, region=3, offset=13)
        b.send(split_frame(b.rng, 1, 20))
        await b.finish()
        b.post(1, [(3, 9), (0, 1)])
        await b.step(80)
        b.send(split_frame(b.rng, 1, 20), split_frame(b.rng, 1, 20))
        await b.finish()
        # Element 1 of region 0 was flushed, so its first owner may post it elsewhere.
        await b.store_posts(2, owner=1, region=0, offset=14)
        b.post(2, [(0, 1)])
        await b.step(80)

    b = Bench(width).run(scenario)
    assert [f.outcome for f in b.sent] == [
        RxOutcome.NO_BUFFER, RxOutcome.SPLIT, RxOutcome.NO_BUFFER,
    ]  # fmt: skip
    assert b.post_outcomes == {
        (1, PostOutcome.ACCEPTED): 6, (1, PostOutcome.FLUSHED): 5, (1, PostOutcome.BAD_OWNER): 1,
        (2, PostOutcome.ACCEPTED): 1,
    }  # fmt: skip
    assert b.payload.writes[0].address == (4 << 32) + (9 << 11)


@wide_and_narrow
def test_bogus_posts_are_counted_and_harm_nobody(width):
    async def scenario(b):
        await b.usual(posts=0)
        await b.register(1, owner=2)
        await b.register(2, owner=1, nic_write=0)
        b.post(1, [(0, 0), (0, 24), (0, 1 << 23), (0, 0), (1, 0), (2, 0), (3, 0), (200, 0), (0, 1)])
        b.post(1, [(0, 2)], generation=9)
        b.post(1, [(0, 3)])
        await b.step(150)
        b.send(*(split_frame(b.rng, 1, 20) for _ in range(4)))
        await b.finish()
        b.post(1, [(0, 0)])  # its record has committed: it may be posted again
        await b.step(80)
        b.send(split_frame(b.rng, 1, 20))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.post_outcomes == {
        (1, PostOutcome.ACCEPTED): 4, (1, PostOutcome.BAD_ELEMENT): 2,
        (1, PostOutcome.DOUBLE_POST): 1, (1, PostOutcome.BAD_OWNER): 1,
        (1, PostOutcome.BAD_REGION): 4,
    }  # fmt: skip
    records = [abi.RECORD.unpack(w.data) for w in b.header.writes]
    assert [r["element"] for r in records] == [0, 1, 3, 0]
    assert b.queues[1].post_consumer == 12


@wide_and_narrow
def test_a_buffer_in_flight_cannot_be_posted(width):
    async def scenario(b):
        await b.usual(posts=1)
        await b.step(60)
        b.payload.stalled = True
        b.send(split_frame(b.rng, 1, 20))
        await b.step(100)
        b.post(1, [(0, 0)])
        await b.step(100)
        assert b.post_outcomes[1, PostOutcome.DOUBLE_POST] == 1
        b.payload.stalled = False
        await b.finish()
        b.post(1, [(0, 0)])
        await b.step(100)

    b = Bench(width).run(scenario)
    assert b.post_outcomes[1, PostOutcome.ACCEPTED] == 2


@wide_and_narrow
def test_doorbells_beyond_the_ring_or_backwards_are_ignored(width):
    async def scenario(b):
        await b.usual(posts=4)
        await b.step(100)
        for index in (4 + 513, 3, 1 << 31, (1 << 32) - 1):
            b.ring_posts(1, index)
        b.ring_posts(3, 1)  # a queue without a post ring
        await b.step(100)
        assert sum(length for _, length in b.posts.reads) == 4 * 8
        # Backwards, but not below what was read: seen only while cells wait.
        b.pause = 1
        b.post(1, [(0, k) for k in (4, 5, 6)])
        b.ring_posts(1, 5)
        await b.step(10)
        b.pause = 0
        b.send(*(split_frame(b.rng, 1, 10) for _ in range(4)))  # make room for the reads
        await b.step(200)

    b = Bench(width).run(scenario)
    assert b.post_outcomes == {
        (1, PostOutcome.ACCEPTED): 7,
        (1, PostOutcome.BAD_DOORBELL): 5,
        (3, PostOutcome.BAD_DOORBELL): 1,
    }


@wide_and_narrow
def test_the_post_ring_wraps_and_is_read_only_below_the_doorbell(width):
    async def scenario(b):
        await b.usual(posts=0)
        for k in range(22):  # 528 cells through a ring of 512
            b.post(1, [(0, i) for i in range(24)])
            for half in (12, 24):
                await b.until(lambda k=k, h=half: b.queues[1].post_consumer >= 24 * k + h)
                b.send(*(split_frame(b.rng, 1, 1 + i % 4, 14) for i in range(12)))
                await b.finish()
            b.hand_back(1)

    async def warmed(b):
        b.traffic = Traffic(read_latency=(1, 3), header_latency=(1, 3), payload_latency=(1, 3))
        await scenario(b)

    b = Bench(width, post_prefetch=16).run(warmed)
    base = b.queues[1].post_base
    assert all(base <= a and a + n <= base + 4096 for a, n in b.posts.reads)
    assert sum(n for _, n in b.posts.reads) == 528 * 8
    assert b.post_outcomes == {(1, PostOutcome.ACCEPTED): 528}
    assert b.outcomes == {RxOutcome.SPLIT: 528}
    b.check()


@wide_and_narrow
@pytest.mark.parametrize(
    ("row", "store", "outcome"),
    [
        ({}, {"owner": 2}, PostOutcome.BAD_OWNER),
        ({"nic_read": 0}, {}, PostOutcome.BAD_REGION),
        ({}, {"offset": 16}, PostOutcome.BAD_REGION),
        ({}, {"offset": 15, "log2_pages": 1}, PostOutcome.BAD_REGION),
        ({}, {"region": 3}, PostOutcome.BAD_REGION),
        ({}, {"owner": 0}, PostOutcome.BAD_OWNER),
    ],
)
def test_a_post_ring_outside_of_the_owners_region_is_never_read(width, row, store, outcome):
    async def scenario(b):
        await b.usual(posts=0, **row)
        await b.store_posts(1, **{"owner": 1, "region": 0, "offset": 15, **store})
        b.post(1, [(0, 0)])
        await b.step(80)
        b.post(1, [(0, 1)])
        await b.step(80)

    b = Bench(width).run(scenario)
    assert not b.posts.reads
    # The first doorbell meets the bad ring; from then on there is no ring to ring for.
    assert b.post_outcomes == {(1, outcome): 1, (1, PostOutcome.BAD_DOORBELL): 1}


@wide_and_narrow
def test_a_post_ring_whose_region_was_registered_anew_is_read_no_more(width):
    async def scenario(b):
        await b.usual(posts=1)
        await b.step(80)
        await b.revoke(0)
        await b.register(0, generation=2)
        reads = len(b.posts.reads)
        b.post(1, [(0, 5)])
        await b.step(80)
        assert len(b.posts.reads) == reads

    b = Bench(width).run(scenario)
    assert b.post_outcomes[1, PostOutcome.BAD_REGION] == 1


@wide_and_narrow
def test_cells_that_were_read_with_an_error_are_counted_and_not_used(width):
    async def scenario(b):
        await b.usual(posts=0)
        b.posts.fails = lambda address: True
        b.post(1, [(0, 0), (0, 1)])
        await b.step(80)
        b.posts.fails = lambda address: False
        b.post(1, [(0, 2)])
        await b.step(80)
        b.send(split_frame(b.rng, 1, 20), split_frame(b.rng, 1, 20))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.post_outcomes == {(1, PostOutcome.PORT_ERROR): 2, (1, PostOutcome.ACCEPTED): 1}
    assert [f.outcome for f in b.sent] == [RxOutcome.SPLIT, RxOutcome.NO_BUFFER]
    b.check()


@wide_and_narrow
def test_posts_are_accounted_for_each_exactly_once(width):
    async def scenario(b):
        rng = random.Random(3)
        await b.usual(posts=0)
        await b.register(1, owner=1)
        for round_ in range(8):
            b.post(1, [(rng.randrange(2), rng.randrange(24)) for _ in range(10)])
            b.send(*(split_frame(rng, 1, rng.randrange(1, 60)) for _ in range(rng.randrange(8))))
            await b.step(rng.randrange(120))
            b.hand_back(1)
            if round_ in (2, 5):
                await b.revoke(1)
                await b.register(1, owner=1, generation=round_)
        await b.finish()
        await b.store_posts(1, owner=1, region=0, offset=12, enable=0)
        await b.until(lambda: b.out["idle"])
        await b.step(5)

    b = Bench(width, 5, ROUGH).run(scenario)
    counts = {o: b.post_outcomes[1, o] for o in PostOutcome}
    assert counts[PostOutcome.ACCEPTED] == b.outcomes[RxOutcome.SPLIT] + counts[PostOutcome.FLUSHED]
    assert counts[PostOutcome.FLUSHED] > 0 and b.outcomes[RxOutcome.SPLIT] > 5
