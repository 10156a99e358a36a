"""Traffic through the whole egress: shapes of frames, random surroundings, and speed."""

import pytest
from egress_bench import ROUGH, Bench, split_frame, whole_frame

from hdsnic.abi import PostOutcome, RxOutcome

wide_and_narrow = pytest.mark.parametrize("width", [8, 64])


@wide_and_narrow
@pytest.mark.parametrize("seed", range(2))
def test_random_frames_over_rough_ports_match_the_oracle(width, seed):
    async def scenario(b):
        rng = b.rng
        await b.store_ring(0, 0x40000, 14)
        for q in (1, 2):
            await b.store_ring(q, q << 20, 13)
            await b.register(q, owner=q, base=(q + 1) << 32, log2_element_bytes=8 + q)
            await b.store_posts(q, owner=q, region=q, offset=1)
        free = {q: [(q, e) for e in range(24)] for q in (1, 2)}
        for _ in range(25):
            for q in (1, 2):
                free[q] += b.queues[q].returned  # the application posts again what it has read
                b.queues[q].returned = []
                rng.shuffle(free[q])
                count = rng.randrange(len(free[q]) + 1)
                b.post(q, free[q][:count])
                del free[q][:count]
            for _ in range(rng.randrange(6)):
                q = rng.choice((1, 2))
                payload = rng.choice((0, 1, rng.randrange(100), rng.randrange(1100)))
                b.send(split_frame(rng, q, payload, rng.randrange(54, 257), rng.choice((0, 0, 7))))
            if rng.random() < 0.3:
                b.send(whole_frame(rng, rng.randrange(60, 400)))
            await b.step(rng.randrange(300))
            for q in (0, 1, 2):
                b.hand_back(q)
        await b.finish()

    b = Bench(width, seed, ROUGH).run(scenario)
    records = b.check()
    assert len(records) > 25
    assert sum(b.outcomes.values()) == len(b.sent)
    assert set(b.outcomes) <= {
        RxOutcome.SPLIT, RxOutcome.HEADER_ONLY, RxOutcome.NOT_IP, RxOutcome.NO_BUFFER,
        RxOutcome.PAYLOAD_TOO_LARGE,
    }  # fmt: skip
    assert not any(o == PostOutcome.DOUBLE_POST for _, o in b.post_outcomes)


@wide_and_narrow
def test_records_go_on_at_the_start_of_the_ring_when_they_meet_its_end(width):
    async def scenario(b):
        await b.usual(posts=0)
        for k in range(19):
            b.send(split_frame(b.rng, 1, 0, 200 + k, 0), whole_frame(b.rng, 700))
            await b.finish()
            b.hand_back(1)
            b.hand_back(0)

    b = Bench(width, 1).run(scenario)
    b.check()
    assert b.queues[0].producer > 2 * 256 and b.queues[1].producer > 256
    assert any(w.address % 4096 + w.length > 4096 for w in b.header.writes)


@wide_and_narrow
def test_the_largest_frame_goes_whole_to_queue_0(width):
    async def scenario(b):
        await b.usual(posts=0, log2=14)
        for _ in range(3):
            b.send(whole_frame(b.rng, 9018))
            await b.finish()
            b.hand_back(0)
            await b.step(5)

    b = Bench(width).run(scenario)
    b.check()
    assert b.outcomes == {RxOutcome.NOT_IP: 3}
