"""What the egress reports and passes over: faults, frames over their share, time stamps."""

import pytest
from egress_bench import Bench, Frame, split_frame, whole_frame

from hdsnic.abi import PostOutcome, RxOutcome

wide_and_narrow = pytest.mark.parametrize("width", [8, 64])


@wide_and_narrow
def test_frames_over_their_share_are_passed_over_and_counted_under_their_queue(width):
    async def scenario(b):
        await b.usual(posts=4)
        await b.step(60)
        for length in (60, 1514, 9018):
            over = Frame(b.rng.randbytes(length), 54, length - 54, 1, RxOutcome.FAIR_SHARE)
            b.send(split_frame(b.rng, 1, 20), over)
        unknown = Frame(b.rng.randbytes(70), 54, 16, 3, RxOutcome.FAIR_SHARE)
        b.send(unknown)  # a queue without a ring
        await b.finish()

    b = Bench(width).run(scenario)
    share = RxOutcome.FAIR_SHARE
    assert [f.outcome for f in b.sent] == [RxOutcome.SPLIT, share] * 3 + [share]
    assert [r["posted_left"] for r in b.check()] == [3, 2, 1]


@wide_and_narrow
@pytest.mark.parametrize("port", ["header", "payload"])
def test_a_voided_record_is_reported_with_the_index_where_its_ring_stopped(width, port):
    async def scenario(b):
        await b.usual(posts=8)
        await b.step(60)
        failing = getattr(b, port)
        failing.fails = lambda write: write in failing.writes[2:3]
        sent = [split_frame(b.rng, 1, 50) for _ in range(2)]
        sent += [split_frame(b.rng, 1, 60, written=True) for _ in range(2)]
        b.send(*sent, whole_frame(b.rng, 60))
        await b.finish()
        await b.step(5)
        assert b.faults["rx_fault"] == [(1, b.queues[1].producer, RxOutcome.PORT_ERROR)]

    b = Bench(width).run(scenario)
    assert b.queues[1].shown == b.queues[1].producer == 10
    assert b.outcomes[RxOutcome.PORT_ERROR] == b.outcomes[RxOutcome.DISABLED] == 1


@wide_and_narrow
def test_refused_cells_are_reported_with_their_index(width):
    async def scenario(b):
        await b.usual(posts=0)
        await b.register(1, owner=2)
        b.post(1, [(0, 0), (0, 24), (1, 0), (3, 0), (0, 0), (0, 1)])
        await b.step(100)
        b.posts.fails = lambda address: True
        b.post(1, [(0, 9)])
        await b.step(40)
        b.ring_posts(1, 600)  # no cell: counted, not reported

    b = Bench(width).run(scenario)
    assert b.faults["post_fault"] == [
        (1, 1, PostOutcome.BAD_ELEMENT), (1, 2, PostOutcome.BAD_OWNER),
        (1, 3, PostOutcome.BAD_REGION), (1, 4, PostOutcome.DOUBLE_POST),
        (1, 6, PostOutcome.PORT_ERROR),
    ]  # fmt: skip


@wide_and_narrow
def test_a_post_ring_that_is_given_up_is_reported_with_the_cell_that_was_not_read(width):
    async def scenario(b):
        await b.usual(posts=3)
        await b.step(60)
        await b.revoke(0)
        b.post(1, [(0, 5)], generation=1)
        await b.step(60)

    b = Bench(width).run(scenario)
    # A ring whose region is gone: a row that is not live has no owner to be compared with.
    assert b.faults["post_fault"] == [(1, 3, PostOutcome.BAD_REGION)]


@wide_and_narrow
def test_faults_that_nobody_takes_are_lost_and_hold_nothing_up(width):
    async def scenario(b):
        b.take_faults = False
        await b.usual(posts=0)
        b.post(1, [(0, 30)] * 12 + [(0, 1)])
        await b.step(200)
        b.take_faults = True
        await b.step(10)
        b.send(split_frame(b.rng, 1, 30))
        await b.finish()

    b = Bench(width).run(scenario)
    assert b.post_outcomes[1, PostOutcome.BAD_ELEMENT] == 12
    assert b.faults["post_fault"] == [(1, k, PostOutcome.BAD_ELEMENT) for k in range(4)]
    assert b.outcomes == {RxOutcome.SPLIT: 1}


@wide_and_narrow
def test_queues_whose_mode_says_so_have_a_time_stamp_in_every_record(width):
    async def scenario(b):
        b.stamps = 0b0101
        await b.usual(posts=16)
        await b.store_ring(2, 0x50_0000)
        await b.step(60)
        for k in range(8):
            stamp = b.rng.getrandbits(64)
            b.send(split_frame(b.rng, 1, 20, 54 + k, time_stamp=stamp))
            b.send(split_frame(b.rng, 2, 0, 54 + k, time_stamp=stamp + 1))
            b.send(whole_frame(b.rng, 60 + k))
        await b.finish()

    b = Bench(width).run(scenario)
    records = b.check()
    assert [(r["time_stamp"], r["extensions"]) for r in records] == [(0, 0), (1, 1), (1, 1)] * 8
