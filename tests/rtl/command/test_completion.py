"""Completions: what goes wrong is told where there is room, counted where not; commands wait."""

from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdsnic import abi
from hdsnic.abi import CompletionKind as Kind
from hdsnic.command import CompletionWriter, TransmitIndices
from hdsnic.parameters import Parameters

CELLS = 256
WIDTHS = pytest.mark.parametrize("width", [8, 16, 64])


class Bench:
    """Write port, indices and a stack around the completion writer and the joined indices."""

    def __init__(self, width, *, latency=6, seed=1):
        self.p = Parameters(bus_bytes=width, queues=4)
        self.dut, self.indices = CompletionWriter(self.p), TransmitIndices(self.p)
        self.memory = {}
        self.latency, self.rng = latency, Random(seed)
        self.slots = [(0, 0)] * 4
        self.lost = 0
        self.acknowledged = 0
        self.error_next = False

    async def _port(self, ctx):
        write = self.dut.write
        address, data, due, now = None, [], [], 0
        while True:
            ready = self.rng.random() < 0.7
            ctx.set(write.request.ready, ready)
            ctx.set(write.beats.ready, ready)
            done = bool(due) and due[0] <= now
            ctx.set(write.done, done)
            ctx.set(write.error, done and self.error_next)
            _, _, asked, request, valid, beat = await ctx.tick().sample(
                write.request.valid, write.request.payload,
                write.beats.valid, write.beats.payload,
            )  # fmt: skip
            if done:
                due.pop(0)
                self.acknowledged += not self.error_next
                self.error_next = False
            if asked and ready:
                assert request.length == 16 and request.address % 16 == 0
                address = int(request.address)
            if valid and ready:
                data.append((int(beat.data), int(beat.strobe)))
                if beat.last:
                    self._store(address, data)
                    due.append(now + self.latency)
                    data = []
            now += 1

    def _store(self, address, beats):
        width, at = self.p.bus_bytes, address - address % self.p.bus_bytes
        touched = {}
        for data, strobe in beats:
            for k in range(width):
                if strobe >> k & 1:
                    touched[at + k] = data >> 8 * k & 255
            at += width
        assert sorted(touched) == list(range(address, address + 16)), "strobes are not the cell"
        self.memory.update(touched)

    async def _updates(self, ctx):
        update = self.indices.update
        while True:
            _, _, valid, payload = await ctx.tick().sample(update.valid, update.payload)
            if valid:
                if payload.high != self.slots[payload.queue][1]:
                    shown = sum(high for _, high in self.slots) + 1
                    assert shown <= self.acknowledged, "shown before its write was acknowledged"
                self.slots[payload.queue] = int(payload.low), int(payload.high)

    async def _losses(self, ctx):
        while True:
            _, _, lost = await ctx.tick().sample(self.dut.lost)
            self.lost += lost

    def run(self, scenario):
        m = Module()
        m.submodules.dut, m.submodules.indices = dut, indices = self.dut, self.indices
        m.d.comb += [
            indices.completions.valid.eq(dut.index.valid),
            indices.completions.payload.eq(dut.index.payload),
            dut.index.ready.eq(indices.completions.ready),
        ]
        simulator = Simulator(m)
        simulator.add_clock(1e-9)
        for part in (self._port, self._updates, self._losses):
            simulator.add_testbench(part, background=True)

        async def stack(ctx):
            ctx.set(dut.command_waits, 1)
            await scenario(ctx)

        simulator.add_testbench(stack)
        simulator.run()

    async def set_ring(self, ctx, queue, enable=1):
        for store in (self.dut.ring_store, self.indices.ring_store):
            ctx.set(store.payload.queue, queue)
            ctx.set(store.valid, 1)
        store = self.dut.ring_store
        ctx.set(store.payload.enable, enable)
        ctx.set(store.payload.base, self.base(queue))
        ctx.set(store.payload.log2_bytes, 12)
        await ctx.tick()
        ctx.set(self.dut.ring_store.valid, 0)
        ctx.set(self.indices.ring_store.valid, 0)
        self.slots[queue] = 0, 0

    @staticmethod
    def base(queue):
        return 0x100000 + 0x1000 * queue

    async def fault(self, ctx, source, queue, index, status):
        stream = self.dut.faults[source]
        ctx.set(stream.payload, {"queue": queue, "index": index, "status": status})
        ctx.set(stream.valid, 1)
        _, _, ready = await ctx.tick().sample(stream.ready)
        ctx.set(stream.valid, 0)
        assert ready, "a fault had to wait"

    async def command(self, ctx, cookie, *, cycles=400, status=0):
        """Offer a command's end; whether it was taken within so many cycles."""
        commands = self.dut.commands
        ctx.set(commands.payload, {"queue": 2, "status": status, "cookie": cookie, "index": 5})
        ctx.set(commands.valid, 1)
        for _ in range(cycles):
            _, _, ready = await ctx.tick().sample(commands.ready)
            if ready:
                ctx.set(commands.valid, 0)
                return True
        return False

    async def hand_back(self, ctx, queue, index):
        bell = self.dut.consumer
        ctx.set(bell.payload, {"queue": queue, "index": index & 0xFFFFFFFF})
        ctx.set(bell.valid, 1)
        await ctx.tick()
        ctx.set(bell.valid, 0)

    def completion(self, queue, index):
        at = self.base(queue) + index % CELLS * 16
        return abi.COMPLETION.unpack(bytes(self.memory[at + k] for k in range(16)))


@WIDTHS
def test_faults_go_to_the_ring_of_their_queue_and_show_once_acknowledged(width):
    b = Bench(width)
    told = []

    async def scenario(ctx):
        ctx.set(b.dut.cycles, 0xABCD1234)
        for queue in range(4):
            await b.set_ring(ctx, queue)
        for turn in range(60):
            source, queue = b.rng.randrange(3), b.rng.randrange(4)
            fault = queue, b.rng.getrandbits(32), b.rng.randrange(32)
            told.append((source, *fault))
            await b.fault(ctx, source, *fault)
            await ctx.tick().repeat(b.rng.choice([1, 30, 60]) if turn % 6 else 150)
        await ctx.tick().repeat(400)

    b.run(scenario)
    kinds = (Kind.RECEIVE_FAULT, Kind.POST_FAULT, Kind.TRANSMIT_FAULT)
    got = []
    for queue in range(4):
        for n in range(b.slots[queue][1]):
            fields = b.completion(queue, n)
            assert fields["cycles"] == 0xABCD1234 and fields["cookie"] == fields["spare"] == 0
            source = kinds.index(fields["kind"])
            got.append((source, fields["queue"], fields["index"], fields["status"]))
            assert fields["queue"] == queue
    assert sorted(got) == sorted(told)
    assert b.lost == 0


def test_faults_are_lost_and_counted_where_there_is_no_ring_or_no_room():
    b = Bench(64)

    async def scenario(ctx):
        await b.set_ring(ctx, 1)
        await b.fault(ctx, 0, 2, 0, 30)
        await ctx.tick().repeat(20)
        assert b.lost == 1
        for index in range(CELLS + 3):
            await b.fault(ctx, 1, 1, index, 4)
            await ctx.tick().repeat(25)
        assert b.lost == 4
        assert b.slots[1][1] == CELLS
        assert b.completion(1, 0)["index"] == 0, "a full ring was written over"
        await b.hand_back(ctx, 1, 1)
        await b.fault(ctx, 2, 1, 77, 1)
        await ctx.tick().repeat(30)
        assert (b.slots[1][1], b.completion(1, CELLS)["index"]) == (CELLS + 1, 77)

    b.run(scenario)


def test_a_burst_of_faults_beyond_what_waits_is_counted_as_lost():
    b = Bench(64, latency=60)

    async def scenario(ctx):
        await b.set_ring(ctx, 1)
        for index in range(30):
            await b.fault(ctx, 0, 1, index, 30)
        await ctx.tick().repeat(1500)

    b.run(scenario)
    assert b.lost + b.slots[1][1] == 30
    assert b.lost >= 20


def test_a_command_waits_for_room_and_faults_of_others_do_not_wait_for_it():
    b = Bench(64)

    async def scenario(ctx):
        for queue in (0, 1):
            await b.set_ring(ctx, queue)
        for cookie in range(CELLS):
            assert await b.command(ctx, cookie)
        assert not await b.command(ctx, 1000)
        await b.fault(ctx, 0, 1, 9, 30)
        assert not await b.command(ctx, 1000, cycles=60)
        assert b.slots[1][1] == 1
        await b.hand_back(ctx, 0, CELLS + 1)  # beyond what was written: ignored
        assert not await b.command(ctx, 1000, cycles=60)
        await b.hand_back(ctx, 0, 1)
        await b.hand_back(ctx, 0, 0)  # backwards: ignored
        assert await b.command(ctx, 1000)
        await ctx.tick().repeat(40)
        fields = b.completion(0, CELLS)
        assert (fields["kind"], fields["cookie"], fields["queue"]) == (Kind.COMMAND, 1000, 2)
        assert b.slots[0][1] == CELLS + 1 and b.lost == 0
        assert not await b.command(ctx, 1001)
        ctx.set(b.dut.command_waits, 0)  # commands are switched off: nobody waits any more
        assert await b.command(ctx, 1001)
        await ctx.tick().repeat(3)
        assert b.lost == 1

    b.run(scenario)


def test_without_a_ring_a_command_completes_unheard_and_is_counted():
    b = Bench(8)

    async def scenario(ctx):
        assert await b.command(ctx, 1)
        await ctx.tick().repeat(3)
        assert b.lost == 1

    b.run(scenario)


def test_a_write_error_loses_the_completion_and_shows_nothing():
    b = Bench(16)

    async def scenario(ctx):
        await b.set_ring(ctx, 1)
        b.error_next = True
        await b.fault(ctx, 0, 1, 1, 30)
        await ctx.tick().repeat(60)
        assert (b.lost, b.slots[1][1]) == (1, 0)
        await b.fault(ctx, 0, 1, 2, 30)
        await ctx.tick().repeat(60)
        assert b.slots[1][1] == 1 and b.completion(1, 0)["index"] == 2

    b.run(scenario)


def test_pause_holds_completions_until_it_ends_and_idle_tells_when_none_is_under_way():
    b = Bench(64, latency=20)

    async def scenario(ctx):
        await b.set_ring(ctx, 1)
        await b.fault(ctx, 0, 1, 1, 30)
        await ctx.tick().repeat(8)
        ctx.set(b.dut.pause, 1)
        assert not ctx.get(b.dut.idle)
        await ctx.tick().repeat(60)
        assert ctx.get(b.dut.idle) and b.slots[1][1] == 1
        await b.fault(ctx, 0, 1, 2, 30)
        await ctx.tick().repeat(60)
        assert ctx.get(b.dut.idle) and b.slots[1][1] == 1
        ctx.set(b.dut.pause, 0)
        await ctx.tick().repeat(60)
        assert b.slots[1][1] == 2

    b.run(scenario)


def test_both_indices_of_the_half_always_go_out_with_the_newest_of_the_other():
    b = Bench(64, latency=2)
    sent = [0] * 4

    async def scenario(ctx):
        for queue in range(4):
            await b.set_ring(ctx, queue)
        transmit = b.indices.transmit
        for turn in range(300):
            queue = b.rng.randrange(4)
            sent[queue] += b.rng.randrange(1, 9)
            ctx.set(transmit.payload, {"queue": queue, "low": sent[queue]})
            ctx.set(transmit.valid, turn % 3 != 0)
            sent[queue] = sent[queue] if turn % 3 else b.slots[queue][0]
            if turn % 12 == 0:
                await b.fault(ctx, 0, b.rng.randrange(4), turn, 30)
            else:
                await ctx.tick()
        ctx.set(transmit.valid, 0)
        await ctx.tick().repeat(100)

    b.run(scenario)
    assert [low for low, _ in b.slots] == sent
    assert sum(high for _, high in b.slots) == 25
