"""Counters: every event counts, whatever came the cycle before."""

import random

from amaranth.sim import Simulator

from hdsnic.csr import CounterBank


def test_events_in_every_cycle_are_all_counted():
    dut = CounterBank(40)
    rng = random.Random(1)
    events = [rng.choice([3, 3, 3, rng.randrange(40)]) for _ in range(500)]

    async def bench(ctx):
        for index in events:
            ctx.set(dut.event.valid, 1)
            ctx.set(dut.event.payload, index)
            await ctx.tick()
        ctx.set(dut.event.valid, 0)
        await ctx.tick().repeat(3)
        for index in range(40):
            ctx.set(dut.read_index, index)
            await ctx.tick()
            assert ctx.get(dut.read_data) == events.count(index), index

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
