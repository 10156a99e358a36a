"""Runs a block in Amaranth's simulator under processes of a test."""

from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

CYCLES_MAX = 20_000


def simulate(dut, *processes, background=(), cycles=CYCLES_MAX):
    """Run until every one of `processes` has ended; fail after `cycles` cycles."""
    left = [len(processes)]
    top = Module()
    top.domains.sync = ClockDomain()  # also for a block that has no registers
    top.submodules.dut = dut
    simulator = Simulator(top)
    simulator.add_clock(1e-9)

    def counted(process):
        async def run(ctx):
            await process(ctx)
            left[0] -= 1

        return run

    for process in processes:
        simulator.add_testbench(counted(process))
    for process in background:
        simulator.add_testbench(process, background=True)

    async def watch(ctx):
        for _ in range(cycles):
            await ctx.tick()
            if not left[0]:
                return
        raise AssertionError(f"not finished after {cycles} cycles")

    simulator.add_testbench(watch)
    simulator.run()


async def give(ctx, stream, value):
    """Offer one item and wait until it is taken."""
    ctx.set(stream.payload, value)
    ctx.set(stream.valid, 1)
    await ctx.tick().until(stream.ready)
    ctx.set(stream.valid, 0)
