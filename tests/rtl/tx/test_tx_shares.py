"""Deficit round robin by bytes, rate limits, and that one queue stops no other (R20)."""

from collections import Counter

import pytest
from amaranth.sim import Simulator
from transmit_bench import Bench
from transmit_frames import gathered, plain, segmented

from hdsnic.abi import TxOutcome
from hdsnic.parameters import Parameters
from hdsnic.tx.shares import Shares

every_width = pytest.mark.parametrize("width", [8, 64])


def busy(bench, number, payload, frames):
    """A queue that has much to send: 54 bytes of header, and payload by reference."""
    region = bench.region(number, owner=number + 1, size=65536)
    queue = bench.queue(number, owner=number + 1, log2_bytes=15)
    queue.send(
        *(plain(bench.rng, 54, [(region, 1, k % 7, payload)], bench.memory) for k in range(frames))
    )
    return queue


async def retired(bench, cycles, after):
    """Descriptors of each queue that retire in so many cycles, once `after` have retired."""
    await bench.until(lambda: len(bench.outcomes) >= after, "the start")
    before = len(bench.outcomes)
    await bench.cycles(cycles)
    return Counter(queue for queue, _ in bench.outcomes[before:])


def test_queues_of_large_and_of_tiny_frames_get_the_same_bytes():
    bench = Bench(8, pace=1, mac_pace=1, latency=(10, 10), burst=1)
    large = busy(bench, 0, 1460, 24)
    tiny = busy(bench, 1, 6, 420)
    for queue in (large, tiny):
        bench.share(queue, quantum=16)

    async def script(bench):
        await bench.until(lambda: not bench.strobes and tiny.producer and large.producer, "work")
        sent = await retired(bench, 4_500, after=20)
        assert all(queue.expected for queue in (large, tiny)), "not busy all the time"
        assert sent[1] > 200
        # The slack, a quantum and a frame.
        assert abs(1514 * sent[0] - 60 * sent[1]) <= 2048 + 1024 + 1514

    bench.run(script)


def test_quanta_divide_the_bytes():
    bench = Bench(8, pace=1, mac_pace=1, latency=(10, 10), burst=1)
    queues = [busy(bench, number, 946, 60) for number in range(3)]
    for queue, quantum in zip(queues, (16, 32, 64), strict=True):
        bench.share(queue, quantum=quantum)

    async def script(bench):
        await bench.until(lambda: not bench.strobes and all(q.producer for q in queues), "work")
        sent = await retired(bench, 9_600, after=6)
        assert all(queue.expected for queue in queues), "not busy all the time"
        total = sum(sent.values())
        for number, part in enumerate((1, 2, 4)):
            assert abs(sent[number] - total * part / 7) <= 6, sent  # 2 KiB of slack, and a quantum

    bench.run(script)


@every_width
def test_a_queue_of_64_kib_descriptors_holds_up_another_one_for_no_longer_than_one_of_them(width):
    bench = Bench(width, pace=1, mac_pace=1, latency=(10, 10), burst=1)
    region = bench.region(0, size=65536)
    huge = bench.queue(0, log2_bytes=12)
    pieces = [(region, 1, 0, 32768)]
    huge.send(*(segmented(gathered(bench.memory, pieces), pieces, 8192) for _ in range(6)))
    tiny = busy(bench, 1, 6, 30)

    async def script(bench):
        await bench.until(lambda: not tiny.expected and tiny.producer, "the tiny ones")
        # They came after at most what was under way: the first, and one that was begun behind it.
        assert sum(queue == 0 for queue, _ in bench.outcomes) <= 3

    bench.run(script)


@every_width
def test_a_rate_limit_holds_over_time_and_for_its_queue_alone(width):
    bench = Bench(width, pace=1, mac_pace=1, latency=(10, 10), burst=1)
    slow = busy(bench, 0, 446, 40)
    free = busy(bench, 1, 446, 30)
    # A byte a cycle; bursts of 1,024 bytes.
    bench.share(slow, rate=65536, burst=16)

    async def script(bench):
        await bench.until(lambda: not free.waiting and not free.expected, "the free queue")
        start, before = bench.cycle, sum(queue == 0 for queue, _ in bench.outcomes)
        assert before <= (1024 + start) / 500 + 3
        await bench.cycles(5_000)
        sent = sum(queue == 0 for queue, _ in bench.outcomes) - before
        assert abs(sent - 5_000 / 500) <= 3
        # Without the limit the rest goes at once.
        bench.share(slow)
        await bench.until(lambda: not slow.waiting and not slow.expected, "the slow queue")
        assert bench.cycle - start < 5_000 + 40 * (500 // width + 3) + 300

    bench.run(script)


def test_a_limited_queue_may_send_its_burst_at_once():
    bench = Bench(64, pace=1, mac_pace=1, latency=(5, 5), burst=1)
    slow = busy(bench, 0, 446, 60)
    bench.share(slow, rate=1, burst=64)  # 4,096 bytes, then 500 in 30 million cycles

    async def script(bench):
        await bench.cycles(3_000)
        # Nine go over it; one or two more were begun before that was known.
        assert 9 <= len(bench.outcomes) <= 11
        bench.pause = True
        await bench.until(lambda: bench.idle, "idle")

    bench.run(script)


def test_a_queue_that_is_refused_over_and_over_stops_no_other():
    bench = Bench(64, pace=1, mac_pace=1, latency=(10, 10), burst=1)
    wrong = busy(bench, 0, 946, 100)
    for sent in wrong.waiting:
        sent.outcome, sent.references = TxOutcome.BAD_REGION, [(9, 1, 0, 946)]
    right = busy(bench, 1, 946, 40)

    async def script(bench):
        await bench.until(lambda: not right.expected and right.producer, "the right queue")
        assert bench.cycle < 40 * 16 * 4

    bench.run(script)


def test_a_refused_descriptor_stops_its_queue_only_where_that_is_asked_for():
    bench = Bench(64, burst=1)
    queues = [busy(bench, number, 100, 40) for number in range(2)]
    for queue in queues:
        sent = queue.waiting[1]
        sent.outcome, sent.references = TxOutcome.BAD_REGION, [(9, 1, 0, 100)]

    async def script(bench):
        bench.ctx.set(bench.dut.stop_on_refusal, 0b10)
        await bench.until(lambda: not queues[0].waiting and not queues[0].expected, "queue 0")
        await bench.cycles(300)
        assert bench.stopped == 0b10
        done = len(bench.outcomes)
        assert 2 <= done - 40 < 40  # what had been begun went on to its end
        assert queues[1].consumer == sum(queue == 1 for queue, _ in bench.outcomes) * 5
        await bench.cycles(200)
        assert len(bench.outcomes) == done
        queues[1].reset()
        queues[1].waiting.clear()
        bench.store(queues[1])
        await bench.until(lambda: not bench.strobes, "the ring to be stored")
        queues[1].send(plain(bench.rng, 60))
        await bench.settled()
        assert bench.stopped == 0

    bench.run(script)
    bench.check()


def test_faults_that_nobody_takes_are_lost_and_block_nothing():
    bench = Bench(64, burst=1)
    queue = busy(bench, 0, 100, 40)
    for sent in queue.waiting:
        sent.outcome, sent.references = TxOutcome.BAD_REGION, [(9, 1, 0, 100)]

    async def script(bench):
        bench.ctx.set(bench.dut.tx_fault.ready, 0)
        await bench.until(lambda: not queue.waiting and not queue.expected, "all outcomes")
        bench.ctx.set(bench.dut.tx_fault.ready, 1)
        await bench.cycles(50)

    bench.run(script)
    assert bench.faults == bench.wanted_faults[:16]
    assert len(bench.wanted_faults) == 40


# -- the account alone -----------------------------------------------------------------------------


def account(width=8, queues=4, script=None):
    dut = Shares(Parameters(bus_bytes=width, queues=queues))

    async def testbench(ctx):
        async def begin(queue, count):
            ctx.set(dut.begun.valid, 1)
            ctx.set(dut.begun.payload.queue, queue)
            ctx.set(dut.begun.payload.bytes, count)
            await ctx.tick()
            ctx.set(dut.begun.valid, 0)

        await script(ctx, dut, begin)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


def test_a_queue_alone_is_never_held_back_and_one_without_work_saves_up_nothing():
    async def script(ctx, dut, begin):
        ctx.set(dut.active, 0b0001)
        for _ in range(50):
            await begin(0, 60_000)
            assert not ctx.get(dut.spent)
            for _ in range(16):
                await ctx.tick()
            assert ctx.get(dut.ready) & 1
        # Queue 1 comes: it has one quantum, no more.
        ctx.set(dut.active, 0b0011)
        await begin(0, 8192)
        assert ctx.get(dut.ready) == 0b1110
        await begin(1, 4095)
        assert ctx.get(dut.ready) & 0b10
        await begin(1, 1)
        assert not ctx.get(dut.ready) & 0b10
        assert ctx.get(dut.nearly) & 0b10

    account(script=script)


def test_overdrawn_credit_is_paid_back_before_the_queue_is_ready_again():
    async def script(ctx, dut, begin):
        ctx.set(dut.active, 0b0011)
        ctx.set(dut.queue, 0)
        await begin(0, 3 * 4096)  # two quanta are owed: 2,048 is the slack at 8 bytes
        assert ctx.get(dut.spent)
        assert ctx.get(dut.ready) & 0b11 == 0b10
        assert ctx.get(dut.nearly) & 0b11 == 0b10
        for _ in range(2):  # each time queue 1 spends its quantum, both get one
            await begin(1, 4096)
            assert ctx.get(dut.ready) & 0b11 == 0
            await ctx.tick()
            assert ctx.get(dut.ready) & 0b11 == 0b10
        await begin(1, 4096)
        await ctx.tick()
        assert ctx.get(dut.ready) & 0b11 == 0b11

    account(script=script)


def test_tokens_come_at_the_rate_up_to_the_burst_and_a_descriptor_may_overdraw_them():
    async def script(ctx, dut, begin):
        ctx.set(dut.active, 0b0100)
        ctx.set(dut.queue, 2)
        ctx.set(dut.store.valid, 1)
        ctx.set(dut.store.payload.queue, 2)
        ctx.set(dut.store.payload.rate, 2 << 16)  # two bytes a cycle
        ctx.set(dut.store.payload.burst, 2)  # 128 bytes
        await ctx.tick()
        ctx.set(dut.store.valid, 0)
        for _ in range(1000):
            await ctx.tick()
        assert ctx.get(dut.ready) & 0b100
        await begin(2, 128 + 2000)
        cycles = 0
        while ctx.get(dut.ready) & 0b100:
            await ctx.tick()
            cycles += 1
        assert cycles <= 4
        assert ctx.get(dut.spent)
        while not ctx.get(dut.ready) & 0b100:
            await ctx.tick()
            cycles += 1
        assert abs(cycles - 1000) <= 12

    account(script=script)


def test_a_limited_queue_does_not_keep_the_others_from_their_quanta():
    async def script(ctx, dut, begin):
        ctx.set(dut.active, 0b0011)
        ctx.set(dut.store.valid, 1)
        ctx.set(dut.store.payload.queue, 0)
        ctx.set(dut.store.payload.rate, 1)
        ctx.set(dut.store.payload.burst, 1)
        ctx.set(dut.store.payload.quantum, 1000)
        await ctx.tick()
        ctx.set(dut.store.valid, 0)
        for _ in range(20):
            await ctx.tick()
        await begin(0, 100)
        for _ in range(20):
            await ctx.tick()
        for _ in range(5):
            await begin(1, 5000)
            for _ in range(3):
                await ctx.tick()
            assert ctx.get(dut.ready) & 0b11 == 0b10

    account(script=script)
