"""Interrupt moderation and fences: what is counted, and when it ends."""

from random import Random

import pytest
from amaranth.sim import Simulator

from hdsnic.csr.fence import Fence
from hdsnic.csr.moderation import Moderation


def simulate(dut, bench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()


class Moderated:
    """`raised`: cycles, from the beginning, at which queue 1 of 4 was raised."""

    def __init__(self, ctx, dut):
        self.ctx, self.dut, self.now, self.raised = ctx, dut, 0, []

    async def limit(self, updates, cycles):
        store = self.dut.store
        fields = {"queue": 1, "updates": updates, "cycles": cycles}
        self.ctx.set(store.payload, fields)
        self.ctx.set(store.valid, 1)
        await self.step()
        self.ctx.set(store.valid, 0)

    async def step(self, *written, cycles=1):
        """`written`: queues of the two writers in the first of so many cycles."""
        for k in range(2):
            self.ctx.set(self.dut.written[k].valid, k < len(written))
            if k < len(written):
                self.ctx.set(self.dut.written[k].payload, written[k])
        for _ in range(cycles):
            _, _, raised = await self.ctx.tick().sample(self.dut.raised)
            assert not raised & 0b1101, "another queue's interrupt"
            if raised:
                self.raised.append(self.now)
            self.now += 1
            for k in range(2):
                self.ctx.set(self.dut.written[k].valid, 0)


def moderated(scenario):
    dut = Moderation(4)

    async def bench(ctx):
        await scenario(Moderated(ctx, dut))

    simulate(dut, bench)


def test_without_moderation_every_write_back_raises_at_once():
    async def scenario(q):
        await q.step(1)
        await q.step(1, 1)
        await q.step(cycles=3)
        assert q.raised == [0, 1]

    moderated(scenario)


@pytest.mark.parametrize("updates", [1, 2, 5, 255])
def test_so_many_updates_raise_once(updates):
    async def scenario(q):
        await q.limit(updates, 0)
        for _ in range(3 * updates):
            await q.step(1)
        await q.step(cycles=600)
        assert q.raised == [updates, 2 * updates, 3 * updates]

    moderated(scenario)


def test_two_updates_of_a_cycle_count_as_two():
    async def scenario(q):
        await q.limit(4, 0)
        await q.step(1, 1)
        await q.step(1, 1)
        await q.step(cycles=5)
        assert q.raised == [2]

    moderated(scenario)


@pytest.mark.parametrize("cycles", [1, 2, 100])
def test_an_update_waits_so_many_cycles_at_most_after_the_first(cycles):
    async def scenario(q):
        await q.limit(0, cycles)
        await q.step(1, cycles=300)  # in cycle 1
        await q.step(1, cycles=max(1, cycles // 2))  # in cycle 301
        await q.step(1, cycles=300)
        assert q.raised == [1 + cycles, 301 + cycles]  # the third is told with the second

    moderated(scenario)


def test_count_or_time_whichever_is_first():
    async def scenario(q):
        await q.limit(3, 50)
        for _ in range(3):
            await q.step(1, cycles=10)  # in cycles 1, 11, 21
        await q.step(cycles=100)
        await q.step(1, cycles=100)  # in cycle 131
        assert q.raised == [21, 181]

    moderated(scenario)


def test_a_new_limit_lets_go_what_waits():
    async def scenario(q):
        await q.limit(9, 0)
        await q.step(1, cycles=5)
        await q.limit(0, 0)
        await q.step(cycles=5)
        assert q.raised == [6]

    moderated(scenario)


@pytest.mark.parametrize("lookup_cycles", [0, 1, 9])
def test_a_fence_ends_with_the_last_frame_looked_up_before_it_and_no_sooner(lookup_cycles):
    """Random traffic: frames whose tables are being read, frames in a buffer, frames that commands
    inject before them."""
    dut = Fence(2, lookup_cycles)
    rng = Random(4)
    waits = [0, 0]

    async def bench(ctx):
        buffered, taken = [], []  # frame numbers: looked up; in egress, in order
        pending = [set(), set()]
        behind = [False, False]
        began = [False, False]
        indices = [0, 0]  # cycles for which the index writer is still behind
        caught_up = [False, False]
        reading = [0] * lookup_cycles  # numbers of frames between table and pulse, 0: none
        for number in range(1, 4001):
            reading.append(number if rng.random() < 0.4 else 0)
            looked_up, injected = reading.pop(0), rng.random() < 0.1
            completed = bool(taken) and rng.random() < 0.6
            begin = [rng.random() < 0.05 for _ in range(2)]
            ctx.set(dut.looked_up, looked_up > 0)
            ctx.set(dut.injected, injected)
            ctx.set(dut.completed, completed)
            for k in range(2):
                ctx.set(dut.begin[k], begin[k])
                waiting = ctx.get(dut.waiting[k])
                assert waiting or not pending[k], "the fence ended before its last frame"
                assert waiting or caught_up[k] or not began[k], "no index was waited for"
                assert waiting or not indices[k], "the fence ended before its last index"
                indices[k] = max(0, indices[k] - 1)
                if ctx.get(dut.catch_up[k]):
                    assert not pending[k], "indices caught up before the last frame completed"
                    caught_up[k], indices[k] = True, rng.randrange(6)
                behind[k] = indices[k] > 0
                if not waiting and began[k]:
                    waits[k] += 1
                    began[k] = False
            if completed:
                done = taken.pop(0)
                for frames in pending:
                    frames.discard(done)
            if looked_up:
                buffered.append(looked_up)
            for k in range(2):
                if begin[k]:
                    pending[k] = {f for f in (*reading, *buffered, *taken) if f}
                    began[k], caught_up[k] = True, False
            if injected:
                taken.append(0)
            elif buffered and rng.random() < 0.6:
                taken.append(buffered.pop(0))
            await ctx.tick()
            for k in range(2):
                ctx.set(dut.behind[k], behind[k])
        for k in range(2):
            ctx.set(dut.behind[k], 0)
        for signal in (dut.looked_up, dut.injected, *dut.begin):
            ctx.set(signal, 0)
        taken += buffered
        while taken:
            ctx.set(dut.completed, 1)
            taken.pop(0)
            await ctx.tick()
        ctx.set(dut.completed, 0)
        await ctx.tick().repeat(lookup_cycles + 3)
        assert not ctx.get(dut.waiting[0]) and not ctx.get(dut.waiting[1])

    simulate(dut, bench)
    assert min(waits) > 20
