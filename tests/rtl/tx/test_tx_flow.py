"""Doorbells, pause and idle, back-pressure, a stalled MAC, and descriptors of random bytes."""

import pytest
from transmit_bench import CELL, Bench
from transmit_frames import gathered, mixed, plain, random_bytes, seeded, segmented

from hdsnic.abi import TxOutcome

every_width = pytest.mark.parametrize("width", [8, 64])


def sixteen(bench, frames, seed=3):
    """Sixteen queues of sixteen owners, a region each."""
    rng = seeded(seed)
    for number in range(16):
        bench.region(number, size=2048, owner=number + 1, generation=number)
        queue = bench.queue(number, owner=number + 1)
        queue.send(*(mixed(rng, bench.memory, number, number, number) for _ in range(frames)))


@every_width
def test_sixteen_queues_are_served_and_each_keeps_its_order(width):
    bench = Bench(width, seed=width)
    sixteen(bench, 4)
    bench.deliver()
    assert len(bench.frames) == 64


@every_width
def test_a_doorbell_beyond_the_ring_or_backwards_is_ignored(width):
    bench = Bench(width)
    queue = bench.queue()
    queue.send(*(plain(bench.rng, 60) for _ in range(4)))

    async def script(bench):
        await bench.settled()
        for index in (queue.consumer + 257, queue.producer - 1, queue.producer + (1 << 31), 0):
            bench.ring(queue, index)
            await bench.cycles(150)
        assert len(bench.outcomes) == 4
        queue.send(*(plain(bench.rng, 60) for _ in range(4)))
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.ports[0].requests) == len({*bench.ports[0].requests})


def test_a_full_ring_is_served():
    bench = Bench(64)
    queue = bench.queue()
    queue.send(*(plain(bench.rng, 16 * 8 - 16) for _ in range(32)))  # exactly 256 cells
    bench.deliver()
    assert queue.producer == 256


@every_width
def test_a_disabled_queue_and_a_switched_off_transmitter_do_nothing(width):
    bench = Bench(width)
    off = bench.queue(1)
    bench.strobes.clear()
    bench.store(off, enable=0)
    queue = bench.queue(0)

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        off.send(plain(bench.rng, 60))
        await bench.cycles(300)
        assert not bench.ports[0].requests
        del bench.queues[1]
        bench.ctx.set(bench.dut.transmit, 0)
        queue.send(plain(bench.rng, 60))
        await bench.cycles(300)
        assert not bench.ports[0].requests
        bench.ctx.set(bench.dut.transmit, 1)
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 1


@every_width
def test_pause_at_any_time_leads_to_idle_and_loses_nothing(width):
    bench = Bench(width, seed=9, mac_pace=0.5)
    sixteen(bench, 4)

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        for _ in range(8):
            await bench.cycles(bench.rng.randrange(10, 250))
            bench.pause = True
            start = bench.cycle
            await bench.cycles(2)
            await bench.until(lambda: bench.idle, "idle")
            assert bench.cycle - start < 1500
            quiet = [len(port.requests) for port in bench.ports], len(bench.outcomes)
            assert bench.ports[1].answered == len(bench.ports[1].requests)
            await bench.cycles(50)
            assert quiet == ([len(port.requests) for port in bench.ports], len(bench.outcomes))
            assert bench.idle
            bench.pause = False
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 64


@every_width
def test_short_pauses_that_do_not_wait_for_idle_lose_nothing(width):
    bench = Bench(width, seed=10)
    sixteen(bench, 4)

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        for _ in range(40):
            await bench.cycles(bench.rng.randrange(40))
            bench.pause = True
            await bench.cycles(bench.rng.randrange(1, 12))
            bench.pause = False
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 64


@every_width
def test_pauses_and_turns_within_long_descriptors_lose_nothing(width):
    """Reads end in the middle of descriptors, some of which are longer than a whole turn."""
    bench = Bench(width, seed=11, pace=0.9, latency=(1, 4), mac_pace=1)
    # Little room: a descriptor is begun long before its last read has gone out.
    bench.ports[0].room = 64
    for number in range(3):
        queue = bench.queue(number, log2_bytes=14)
        sizes = [60, 700, 1500, 4000] if width == 8 else [60, 700, 3000, 8000, 8000]
        for _ in range(6 if width == 8 else 16):
            queue.send(plain(bench.rng, bench.rng.choice(sizes)))

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        for _ in range(60):
            await bench.cycles(bench.rng.randrange(60))
            bench.pause = True
            await bench.cycles(bench.rng.randrange(1, 12))
            bench.pause = False
        await bench.settled()

    bench.run(script)
    bench.check()


@every_width
def test_a_pause_drops_frames_rather_than_wait_for_a_mac_that_takes_nothing(width):
    bench = Bench(width, mac_pace=0, pace=1, tx_buffer_bytes=16384)
    region = bench.region(0)
    queue = bench.queue(log2_bytes=15)
    sent = [plain(bench.rng, 54, [(region, 1, k, 1460)], bench.memory) for k in range(30)]
    queue.send(*sent)

    async def script(bench):
        await bench.cycles(16384 // width + 300)
        assert 2 <= len(bench.outcomes) < 12  # the buffer is full
        bench.pause = True
        await bench.cycles(1020)
        assert not bench.idle and not bench.discarded
        await bench.until(lambda: bench.idle, "idle")
        assert bench.ports[1].answered == len(bench.ports[1].requests)
        begun = len(bench.outcomes)
        assert bench.discarded > 0
        bench.pause, bench.mac_pace = False, 1
        await bench.until(lambda: not queue.waiting and not queue.expected, "the others")
        await bench.until(
            lambda: len(bench.frames) + bench.discarded == 30, "each frame to leave or be dropped"
        )
        assert begun < 30

    bench.run(script)
    # What was on its way out when the pause came ends as an error; the rest is whole and in order.
    assert len(bench.cut) == 1
    assert sent[0].frame.startswith(bench.cut[0])
    assert bench.frames == bench.wanted[bench.discarded :]


@every_width
def test_idle_comes_even_while_the_mac_takes_nothing_if_there_is_room(width):
    bench = Bench(width, mac_pace=0, pace=1)
    region = bench.region(0)
    queue = bench.queue(log2_bytes=15)
    queue.send(*(plain(bench.rng, 54, [(region, 1, 0, 1460)], bench.memory) for _ in range(10)))

    async def script(bench):
        await bench.cycles(300)
        bench.pause = True
        await bench.until(lambda: bench.idle, "idle")
        await bench.cycles(1500)
        bench.pause, bench.mac_pace = False, 1
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 10


@every_width
def test_a_pause_ends_a_tso_descriptor_whatever_the_mac_does(width):
    bench = Bench(width, mac_pace=0, pace=1, tx_buffer_bytes=16384)
    region = bench.region(0, size=65536)
    queue = bench.queue()
    pieces = [(region, 1, 0, 40000)]
    queue.send(segmented(gathered(bench.memory, pieces), pieces, 1460))

    async def script(bench):
        await bench.cycles(16384 // width + 300)
        bench.pause = True
        start = bench.cycle
        await bench.until(lambda: bench.idle, "idle")
        assert bench.cycle - start < 1024 + 40000 // width + 300
        assert len(bench.outcomes) == 1
        bench.mac_pace = 1
        await bench.until(lambda: len(bench.frames) + bench.discarded == 28, "the segments")

    bench.run(script)
    assert bench.frames == bench.wanted[bench.discarded :]


@every_width
def test_a_pause_waits_for_a_mac_that_is_only_slow(width):
    bench = Bench(width, mac_pace=0.2, pace=1, tx_buffer_bytes=16384)
    region = bench.region(0, size=65536)
    queue = bench.queue()
    pieces = [(region, 1, 0, 20000)]
    queue.send(segmented(gathered(bench.memory, pieces), pieces, 1460))

    async def script(bench):
        await bench.cycles(200)
        bench.pause = True
        await bench.until(lambda: bench.idle, "idle")
        bench.pause = False
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 14


@every_width
def test_while_the_mac_is_stalled_frames_are_dropped_and_afterwards_sent_again(width):
    bench = Bench(width, mac_pace=0.7, seed=4)
    region = bench.region(0)
    queue = bench.queue(log2_bytes=15)
    sent = [plain(bench.rng, 300, [(region, 1, k, 500)], bench.memory) for k in range(60)]

    async def script(bench):
        for stall in range(6):
            queue.send(*sent[10 * stall : 10 * stall + 10])
            wanted = len(bench.frames) + 2
            await bench.until(lambda wanted=wanted: len(bench.frames) >= wanted, "two frames")
            await bench.cycles(bench.rng.randrange(800 // width))
            bench.mac_pace = 0
            await bench.cycles(3)
            bench.ctx.set(bench.dut.mac_stalled, 1)
            await bench.until(lambda: not queue.waiting and not queue.expected, "the outcomes")
            await bench.cycles(10 * 800 // width + 60)
            bench.ctx.set(bench.dut.mac_stalled, 0)
            bench.mac_pace = 0.7
            await bench.cycles(30)
        queue.send(*sent[:3])
        await bench.until(lambda: bench.frames[-3:] == [s.frame for s in sent[:3]], "good frames")

    bench.run(script)
    # Each frame left whole, was cut, or is missing; and all of them are accounted for.
    assert all(outcome == TxOutcome.SENT for _, outcome in bench.outcomes)
    assert len(bench.frames) + bench.discarded == 63
    assert bench.discarded > 6
    left = iter(bench.wanted)
    assert all(frame in left for frame in bench.frames)
    starts = [frame[:300] for frame in bench.wanted]
    assert 1 <= len(bench.cut) <= 6
    assert all(any(frame.startswith(cut[:300]) for frame in starts) for cut in bench.cut)


@every_width
def test_more_frames_than_places_wait_for_the_mac(width):
    bench = Bench(width, mac_pace=0, pace=1, burst=1, latency=(2, 4))
    queue = bench.queue(log2_bytes=15)
    queue.send(*(plain(bench.rng, 14) for _ in range(300)))

    async def script(bench):
        await bench.until(lambda: len(bench.outcomes) >= 232, "the buffer to fill")
        await bench.cycles(2000)
        # 256 places, of which 24 are kept for what is under way.
        assert 232 <= len(bench.outcomes) <= 256
        bench.mac_pace = 1
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 300


@pytest.mark.parametrize("seed", range(3))
def test_a_doorbell_at_any_time_continues_the_visit_or_begins_another(seed):
    """Few cells at a time, so that reads end within beats and visits go on or end at every cell."""
    bench = Bench(64, seed=seed, pace=1, mac_pace=1, latency=(1, 60), burst=1)
    queues = [bench.queue(number) for number in range(2)]

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        for _ in range(70):
            queue = queues[bench.rng.random() < 0.2]
            queue.send(plain(bench.rng, bench.rng.choice([14, 30, 48, 60, 200])))
            await bench.cycles(bench.rng.choice([0, 1, 2, 3, 7, 40, 150]))
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 70


def test_a_frame_leaves_without_a_gap_once_it_began():
    """The frame is whole before its first beat: slow memories cannot starve the MAC (R17)."""
    bench = Bench(64, latency=(30, 90), pace=0.3, mac_pace=1)
    region = bench.region(0)
    queue = bench.queue()
    for _ in range(6):
        queue.send(plain(bench.rng, 54, [(region, 1, 5, 600), (region, 1, 9, 700)], bench.memory))
    bench.deliver()
    for start, end, frame in zip(bench.starts, bench.ends, bench.frames, strict=True):
        assert end - start + 1 == -(-len(frame) // 64)


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("seed", range(4))
def test_random_descriptors_hang_nothing_and_read_nothing_that_is_not_granted(width, seed):
    """Queue 0 is full of random bytes; queue 1's frames must all leave. The bench fails on a
    payload access outside a region, or one that no descriptor of its owner could have asked for."""
    bench = Bench(width, seed=seed, pace=1, latency=(2, 20), mac_pace=1)
    bench.region(0, owner=1)
    bench.region(1, owner=2, generation=1)
    wild, tame = bench.queue(0, owner=1), bench.queue(1, owner=2)
    wild.write(random_bytes(bench.rng, wild.size))
    # Fixed parts at many cells that are likely to be believed in part.
    for cell in range(0, 256, 3):
        fixed = random_bytes(bench.rng, 16)
        fixed = bytes([bench.rng.randrange(120), 0, bench.rng.randrange(6)]) + fixed[3:]
        if bench.rng.random() < 0.6:
            fixed = fixed[:3] + bytes([14, 34]) + fixed[5:]
        switches = bench.rng.choice([0, 0, 1, 2, 4, 8, 8, 16, 24])
        mss = bench.rng.choice([0, 64, 70]) if switches & 8 else bench.rng.choice([0, 0, 0, 64])
        fixed = fixed[:5] + bytes([switches, mss, 0]) + fixed[8:]
        reference = bytes([fixed[8], 0, 0, 0, 20, 0, bench.rng.choice([0, 0, 0, 1, 9]), 1])
        wild.write(fixed[:8] + reference, at=cell * CELL)
    bench.strict = False
    stops = (TxOutcome.OVERRUN, TxOutcome.PORT_ERROR)

    async def script(bench):
        await bench.until(lambda: not bench.strobes, "the rings")
        tame.send(*(plain(bench.rng, 60, [(1, 1, 0, 64)], bench.memory) for _ in range(20)))
        bench.ring(wild, 256)
        await bench.until(
            lambda: wild.consumer == 256 or any(o in stops for q, o in bench.outcomes if q == 0),
            "the wild queue to end or to stop",
        )
        await bench.until(lambda: tame.consumer == tame.producer > 0, "the tame queue")
        await bench.cycles(100)
        bench.pause = True
        await bench.until(lambda: bench.idle, "idle")

    bench.run(script)
    assert sum(q == 1 and o == TxOutcome.SENT for q, o in bench.outcomes) == 20
    tame_reads = [r for r in bench.ports[1].requests if r[0] >> 32 == 2]
    assert tame_reads == [(2 << 32, 64)] * 20
    assert len(bench.frames) >= sum(o == TxOutcome.SENT for _, o in bench.outcomes)
