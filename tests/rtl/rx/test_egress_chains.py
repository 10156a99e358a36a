"""Payloads larger than a buffer: all of a chain is claimed, checked and committed, or none (R9)."""

import pytest
from egress_bench import ROUGH, Bench, Traffic, buffers_of, placed_frame, split_frame, whole_frame

from hdsnic.abi import CHAINED_BUFFER, RECORD, PostOutcome, RxOutcome

wide_and_narrow = pytest.mark.parametrize("width", [8, 64])
SMALL = {"log2_element_bytes": 8, "elements": 280}
DEEP = {"post_prefetch": 32}


async def small_buffers(b, posts, log2=14):
    """Queue 1 with `posts` buffers of 256 bytes each, all of them ready."""
    await b.usual(posts=posts, log2=log2, **SMALL)
    await b.step(100)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("stamps", [0, 2])
def test_a_payload_larger_than_a_buffer_takes_several_and_all_but_the_last_are_full(width, stamps):
    async def scenario(b):
        b.stamps = stamps
        await small_buffers(b, 24)
        for payload, header in [
            (256, 54), (257, 54), (512, 66), (513, 62), (1448, 66), (0, 54), (1, 54), (1000, 256),
        ]:  # fmt: skip
            b.send(split_frame(b.rng, 1, payload, header, 3, time_stamp=b.rng.getrandbits(64)))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    records = b.check()
    chained = [max(0, -(-p // 256) - 1) for p in (256, 257, 512, 513, 1448, 0, 1, 1000)]
    assert [r["extensions"] for r in records] == [c + bool(stamps) for c in chained]
    assert [r["time_stamp"] for r in records] == [bool(stamps)] * 8
    assert b.queues[1].shown == b.queues[1].producer


@wide_and_narrow
def test_a_chain_is_claimed_whole_or_not_at_all(width):
    async def scenario(b):
        await small_buffers(b, 3)
        b.send(split_frame(b.rng, 1, 769), split_frame(b.rng, 1, 2000), split_frame(b.rng, 1, 768))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent] == [
        RxOutcome.NO_BUFFER, RxOutcome.NO_BUFFER, RxOutcome.SPLIT,
    ]  # fmt: skip
    assert len(b.payload.writes) == 3 and b.post_outcomes[1, PostOutcome.FLUSHED] == 0
    b.check()


@wide_and_narrow
@pytest.mark.parametrize("most", [1, 4, 14])
def test_a_payload_larger_than_the_longest_chain_is_dropped_and_its_buffers_stay(width, most):
    async def scenario(b):
        await small_buffers(b, 16)
        b.send(split_frame(b.rng, 1, 256 * most + 1), split_frame(b.rng, 1, 256 * most))
        await b.finish()

    b = Bench(width, chain_max=most, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent] == [RxOutcome.PAYLOAD_TOO_LARGE, RxOutcome.SPLIT]
    assert len(b.payload.writes) == most
    b.check()


@wide_and_narrow
def test_buffers_of_several_regions_and_sizes_make_a_chain(width):
    async def scenario(b):
        await b.usual(posts=0, log2=14, **SMALL)
        await b.register(1, log2_element_bytes=10)
        b.post(1, [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4), (0, 5), (1, 6), (0, 7)])
        await b.step(100)
        b.send(split_frame(b.rng, 1, 1500), split_frame(b.rng, 1, 1281), split_frame(b.rng, 1, 900))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    b.check()
    lengths = [[n for _, _, n in buffers_of(w.data)[2]] for w in b.header.writes]
    assert lengths == [[256, 1024, 220], [1024, 256, 1], [900]]


@wide_and_narrow
def test_ring_space_for_all_references_comes_before_the_chain(width):
    async def scenario(b):
        await b.usual(posts=8, log2=12, **SMALL)
        await b.step(100)
        b.send(*(split_frame(b.rng, 1, 0, 240) for _ in range(15)))  # 16 cells are left of 256
        # 12 words make 6 cells, the header 11: too much by one cell.
        b.send(split_frame(b.rng, 1, 256 * 4, 176 + 48))
        b.send(split_frame(b.rng, 1, 256 * 3, 176 + 48))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent[15:]] == [RxOutcome.NO_RING_SPACE, RxOutcome.SPLIT]
    assert b.check()[-1]["posted_left"] == 5


@wide_and_narrow
def test_a_stale_handle_inside_a_chain_is_discarded_and_the_others_serve(width):
    async def scenario(b):
        await b.usual(posts=0, log2=14, **SMALL)
        await b.register(1, **SMALL)
        b.post(1, [(0, 1), (0, 2), (1, 3), (0, 4), (1, 5), (0, 6), (0, 7)])
        await b.step(100)
        await b.revoke(1)
        b.send(split_frame(b.rng, 1, 1000), split_frame(b.rng, 1, 200), split_frame(b.rng, 1, 1))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent] == [RxOutcome.SPLIT] * 2 + [RxOutcome.NO_BUFFER]
    assert b.post_outcomes[1, PostOutcome.FLUSHED] == 2
    b.check(in_order=False)
    assert sorted(w.address - (1 << 32) >> 8 for w in b.payload.writes) == [1, 2, 4, 6, 7]


@wide_and_narrow
@pytest.mark.parametrize(
    "change", [{"generation": 2}, {"owner": 2}, {"nic_write": 0}, {"postable": 1}, {"live": 0}]
)
def test_each_buffer_of_a_chain_is_checked_like_the_first(width, change):
    async def scenario(b):
        await b.usual(posts=0, log2=14, **SMALL)
        await b.register(1, **SMALL)
        b.post(1, [(0, 1), (0, 2), (1, 3)])
        await b.step(100)
        b.rows[1] |= change
        b.send(split_frame(b.rng, 1, 700), split_frame(b.rng, 1, 500))
        await b.finish()

    b = Bench(width, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent] == [RxOutcome.NO_BUFFER, RxOutcome.SPLIT]
    assert b.post_outcomes[1, PostOutcome.FLUSHED] == 1
    b.check(in_order=False)


@wide_and_narrow
def test_a_chain_shows_after_all_its_writes_and_its_buffers_are_in_flight_until_then(width):
    async def scenario(b):
        await small_buffers(b, 5)
        b.payload.most = 4  # four acknowledgements, then none
        b.send(split_frame(b.rng, 1, 1100))
        await b.step(300)
        assert b.payload.done == 4 and b.header.done == 1
        assert b.completed == 0 and b.queues[1].shown == 0 and not b.out["idle"]
        b.post(1, [(0, k) for k in range(5)])
        await b.step(150)
        assert b.post_outcomes[1, PostOutcome.DOUBLE_POST] == 5
        b.payload.most = None
        await b.finish()
        b.post(1, [(0, k) for k in range(5)])
        await b.step(150)
        assert b.post_outcomes[1, PostOutcome.ACCEPTED] == 10

    b = Bench(width, **DEEP).run(scenario)
    assert b.outcomes == {RxOutcome.SPLIT: 1}


@wide_and_narrow
@pytest.mark.parametrize("failing", [0, 2, 4])
def test_an_error_in_one_buffer_voids_the_record_and_frees_all_of_the_chain_once(width, failing):
    async def scenario(b):
        await small_buffers(b, 12)
        b.payload.fails = lambda write: write.address == (1 << 32) + 256 * failing
        b.send(split_frame(b.rng, 1, 1100, written=True), split_frame(b.rng, 1, 300, written=True))
        b.send(whole_frame(b.rng, 60))
        await b.finish()
        assert [f.outcome for f in b.sent] == [
            RxOutcome.PORT_ERROR, RxOutcome.DISABLED, RxOutcome.NOT_IP,
        ]  # fmt: skip
        assert b.queues[1].shown == 0 and b.post_outcomes[1, PostOutcome.FLUSHED] == 7
        b.post(1, [(0, k) for k in range(7)])
        await b.step(150)

    b = Bench(width, **DEEP).run(scenario)
    assert b.post_outcomes[1, PostOutcome.ACCEPTED] == 19
    assert b.post_outcomes[1, PostOutcome.DOUBLE_POST] == 0
    b.check()


@wide_and_narrow
@pytest.mark.parametrize("after", [0, 5, 9, 14, 23])
def test_a_revoke_in_mid_chain_lets_the_chain_end_and_begins_no_other(width, after):
    async def scenario(b):
        await small_buffers(b, 22)
        b.send(*(split_frame(b.rng, 1, 1000) for _ in range(5)))
        await b.step(after)
        await b.revoke(0)
        writes, begun = len(b.payload.writes), b.completed
        assert writes == 4 * begun, "chains are whole"
        await b.finish()
        assert len(b.payload.writes) == writes
        b.begun = begun

    b = Bench(width, **DEEP).run(scenario)
    assert [f.outcome for f in b.sent[: b.begun]] == [RxOutcome.SPLIT] * b.begun
    assert RxOutcome.SPLIT not in [f.outcome for f in b.sent[b.begun :]]
    split, flushed = 4 * b.begun, b.post_outcomes[1, PostOutcome.FLUSHED]
    assert split + flushed == (22 if b.begun < 5 else 20)
    b.rows[0] = {"base": 1 << 32, "log2_element_bytes": 8}
    b.check()


@wide_and_narrow
def test_placed_frames_are_payload_alone_and_their_records_carry_the_cookie(width):
    async def scenario(b):
        b.stamps = 2
        await small_buffers(b, 22)
        for length in (1, 60, 256, 700, 1024):
            b.send(placed_frame(b.rng, 1, length), split_frame(b.rng, 1, 40))
        b.send(placed_frame(b.rng, 1, 1025), placed_frame(b.rng, 2, 10))
        await b.finish()

    b = Bench(width, chain_max=4, **DEEP).run(scenario)
    records = b.check()
    assert [r["reason"] for r in records] == [RxOutcome.PLACED, RxOutcome.SPLIT] * 5
    assert [f.outcome for f in b.sent[10:]] == [RxOutcome.PAYLOAD_TOO_LARGE, RxOutcome.DISABLED]


@wide_and_narrow
@pytest.mark.parametrize("seed", range(2))
def test_random_chains_over_rough_ports_match_the_oracle(width, seed):
    async def scenario(b):
        rng = b.rng
        b.stamps = rng.randrange(8)
        await b.store_ring(0, 0x40000, 14)
        for q in (1, 2):
            await b.store_ring(q, q << 20, 14)
            await b.register(q, owner=q, base=(q + 1) << 32, log2_element_bytes=7 + q, elements=160)
            await b.store_posts(q, owner=q, region=q, offset=6 * q)
        free = {q: [(q, e) for e in range(24)] for q in (1, 2)}
        for _ in range(20):
            for q in (1, 2):
                free[q] += b.queues[q].returned
                b.queues[q].returned = []
                rng.shuffle(free[q])
                count = rng.randrange(len(free[q]) + 1)
                b.post(q, free[q][:count])
                del free[q][:count]
            for _ in range(rng.randrange(6)):
                q = rng.choice((1, 2))
                stamp = rng.getrandbits(64)
                payload = rng.choice((1, rng.randrange(100), rng.randrange(2500), 512, 1024))
                if rng.random() < 0.2:
                    b.send(placed_frame(rng, q, rng.randrange(1, 900)))
                else:
                    header = rng.randrange(54, 257)
                    b.send(split_frame(rng, q, payload, header, rng.choice((0, 7)),
                                       time_stamp=stamp))  # fmt: skip
            await b.step(rng.randrange(400))
            for q in (0, 1, 2):
                b.hand_back(q)
        await b.finish()

    b = Bench(width, seed, ROUGH, **DEEP).run(scenario)
    records = b.check()
    assert sum(r["extensions"] > r["time_stamp"] for r in records) > 5
    assert not any(o == PostOutcome.DOUBLE_POST for _, o in b.post_outcomes)


def test_the_longest_chain_has_place_in_a_record_and_in_the_queues():
    # 14 buffers and a time stamp are 14 words; the requests of all wait for the slowest port.
    async def scenario(b):
        b.stamps = 2
        await b.usual(posts=24, log2=14, **SMALL)
        await b.step(100)
        b.payload.stalled = True
        b.send(split_frame(b.rng, 1, 14 * 256, 250))
        await b.step(200)
        b.payload.stalled = False
        await b.finish()

    b = Bench(8, chain_max=14, traffic=Traffic(request=0.05), **DEEP).run(scenario)
    (record,) = b.check()
    assert record["extensions"] == 14
    assert len(b.header.writes[0].data) == RECORD.bytes + 14 * CHAINED_BUFFER.bytes + 250
