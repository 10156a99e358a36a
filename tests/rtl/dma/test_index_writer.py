"""Index write-back: the newest values, in idle beats, never more than 16 updates late."""

import random

import pytest
from rtl.simulation import simulate

from hdsnic.dma import IndexWriter
from hdsnic.parameters import Parameters

BASE = 0x10000
WIDTHS = pytest.mark.parametrize("bus_bytes", [8, 64])


class Slots:
    """The port of the writer: always ready, answers after `latency` cycles; keeps what was written.

    `writes` are (address, length); `memory` is byte -> value, of what was acknowledged.
    """

    def __init__(self, dut, bus_bytes, latency=3):
        self.dut, self.bus_bytes, self.latency = dut, bus_bytes, latency
        self.writes, self.memory = [], {}
        self.cycle, self.error = 0, 0

    async def run(self, ctx):
        write, at, due, burst = self.dut.write, None, [], {}
        ctx.set(write.request.ready, 1)
        ctx.set(write.beats.ready, 1)
        while True:
            done = bool(due and due[0][0] <= self.cycle)
            ctx.set(write.done, done)
            ctx.set(write.error, done and self.error)
            if done:
                self.memory |= due.pop(0)[1]
            *_, asked, request, given, beat = await ctx.tick().sample(
                write.request.valid, write.request.payload, write.beats.valid, write.beats.payload
            )
            self.cycle += 1
            if asked:
                self.writes.append((request.address, request.length))
                at = request.address // self.bus_bytes * self.bus_bytes
            if given:
                for lane in range(self.bus_bytes):
                    if beat.strobe >> lane & 1:
                        burst[at + lane] = beat.data >> 8 * lane & 0xFF
                at += self.bus_bytes
                if beat.last:
                    due.append((self.cycle + self.latency, burst))
                    burst = {}

    def half(self, queue, half):
        """(low, high) of half a slot."""
        at = BASE + 64 * queue + 8 * half
        data = bytes(self.memory.get(at + k, 0) for k in range(8))
        return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:], "little")


async def update(ctx, strobe, queue, low, high=0):
    ctx.set(strobe.payload, {"queue": queue, "low": low, "high": high})
    ctx.set(strobe.valid, 1)
    await ctx.tick()
    ctx.set(strobe.valid, 0)


def scene(bus_bytes):
    dut = IndexWriter(Parameters(bus_bytes=bus_bytes))
    return dut, Slots(dut, bus_bytes)


@WIDTHS
def test_writes_wait_for_an_idle_port_but_not_for_more_than_16_updates(bus_bytes):
    dut, slots = scene(bus_bytes)

    async def run(ctx):
        ctx.set(dut.base, BASE)
        for k in range(1, 16):
            await update(ctx, dut.rx_update, 3, k)
        await ctx.tick().repeat(8)
        assert slots.writes == []  # the port is busy, and fewer than 16 wait
        await update(ctx, dut.rx_update, 3, 16, 7)
        await ctx.tick().repeat(8)
        assert slots.writes == [(BASE + 3 * 64, 8)]
        assert slots.half(3, 0) == (16, 7)
        ctx.set(dut.port_idle, 1)
        await update(ctx, dut.tx_update, 2, 5)
        await ctx.tick().repeat(5)
        assert slots.writes[1:] == [(BASE + 2 * 64 + 8, 8)]
        assert slots.half(2, 1) == (5, 0)

    simulate(dut, run, background=(slots.run,))


@WIDTHS
def test_an_update_that_meets_an_idle_port_is_requested_in_the_next_cycle(bus_bytes):
    dut, slots = scene(bus_bytes)

    async def run(ctx):
        ctx.set(dut.base, BASE)
        ctx.set(dut.port_idle, 1)
        await ctx.tick().repeat(3)
        await update(ctx, dut.rx_update, 1, 9)
        assert ctx.get(dut.write.request.valid) and ctx.get(dut.write.beats.valid)
        await ctx.tick().repeat(5)
        assert slots.writes == [(BASE + 64, 8)]
        assert slots.half(1, 0) == (9, 0)

    simulate(dut, run, background=(slots.run,))


@WIDTHS
def test_both_halves_of_a_slot_share_a_write(bus_bytes):
    dut, slots = scene(bus_bytes)

    async def run(ctx):
        ctx.set(dut.base, BASE)
        for k in range(1, 17):
            await update(ctx, dut.rx_update, 5, k)
            await update(ctx, dut.tx_update, 5, 100 + k, k)
        await ctx.tick().repeat(8)
        assert slots.writes == [(BASE + 5 * 64, 16)]
        assert slots.half(5, 0) == (16, 0)
        assert slots.half(5, 1)[0] in (115, 116)

    simulate(dut, run, background=(slots.run,))


@WIDTHS
@pytest.mark.parametrize("idle", [0.0, 0.3, 1.0])
def test_the_last_update_of_every_queue_is_written_and_told(bus_bytes, idle):
    dut, slots = scene(bus_bytes)
    rng = random.Random(7)
    newest, told = {}, {}

    async def run(ctx):
        ctx.set(dut.base, BASE)
        strobes = (dut.rx_update, dut.tx_update)
        for k in range(1, 400):
            for half, strobe in enumerate(strobes):
                ctx.set(strobe.valid, rng.random() < 0.5)
                if ctx.get(strobe.valid):
                    queue = rng.randrange(16)
                    newest[queue, half] = (k, k ^ 0xFFFF)
                    ctx.set(strobe.payload, {"queue": queue, "low": k, "high": k ^ 0xFFFF})
            ctx.set(dut.port_idle, rng.random() < idle)
            await ctx.tick()
        for strobe in strobes:
            ctx.set(strobe.valid, 0)
        ctx.set(dut.port_idle, 1)
        await ctx.tick().repeat(200)

    async def hear(ctx):
        while True:
            *_, rx, rx_queue, tx, tx_queue = await ctx.tick().sample(
                dut.rx_written.valid, dut.rx_written.payload,
                dut.tx_written.valid, dut.tx_written.payload,
            )  # fmt: skip
            for half, valid, queue in ((0, rx, rx_queue), (1, tx, tx_queue)):
                if valid:
                    told[queue, half] = slots.half(queue, half)

    simulate(dut, run, background=(slots.run, hear))
    for (queue, half), value in newest.items():
        assert slots.half(queue, half) == value
        assert told[queue, half] == value


@WIDTHS
@pytest.mark.parametrize("idle", [0.0, 0.3])
@pytest.mark.parametrize("latency", [0, 3, 20])
def test_who_asks_to_catch_up_waits_for_the_updates_before_and_not_for_those_after(
    bus_bytes, idle, latency
):
    dut = IndexWriter(Parameters(bus_bytes=bus_bytes), 2)
    slots = Slots(dut, bus_bytes, latency)
    rng = random.Random(bus_bytes + latency)
    waits = []

    async def run(ctx):
        ctx.set(dut.base, BASE)
        newest, wanted, since = {}, [None, None], [0, 0]
        for k in range(1, 6000):
            for user, want in enumerate(wanted):
                if want is not None and not ctx.get(dut.behind[user]):
                    for queue, value in want.items():
                        assert slots.half(queue, 0)[0] >= value, f"queue {queue} is behind"
                    waits.append(k - since[user])
                    wanted[user] = None
            for half, strobe in enumerate((dut.rx_update, dut.tx_update)):
                queue, valid = rng.randrange(16), rng.random() < 0.1
                ctx.set(strobe.valid, valid)
                ctx.set(strobe.payload, {"queue": queue, "low": k, "high": 0})
                if valid and not half:
                    newest[queue] = k
            ctx.set(dut.port_idle, rng.random() < idle)
            for user in range(2):
                begin = wanted[user] is None and rng.random() < 0.02
                ctx.set(dut.catch_up[user], begin)
                if begin:
                    wanted[user], since[user] = dict(newest), k
            await ctx.tick()

    simulate(dut, run, background=(slots.run,))
    # 16 queues, two beats each at most, and another user's
    assert len(waits) > 60 and max(waits) <= 2 * 16 * 3 + latency


def test_a_write_that_met_an_error_is_not_told():
    dut, slots = scene(8)
    slots.error = 1
    heard = []

    async def run(ctx):
        ctx.set(dut.base, BASE)
        ctx.set(dut.port_idle, 1)
        await update(ctx, dut.rx_update, 1, 9)
        for _ in range(20):
            *_, valid = await ctx.tick().sample(dut.rx_written.valid)
            heard.append(valid)

    simulate(dut, run, background=(slots.run,))
    assert slots.writes and not any(heard)
