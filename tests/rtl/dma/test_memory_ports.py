"""Memory ports: bursts that AXI allows, in the order of requests, around the end of rings."""

import random

import pytest
from rtl.dma.port_bench import beats_of
from rtl.simulation import give, simulate

from hdsnic.dma import ReadPort, WritePort
from hdsnic.dma.bursts import BurstSplitter
from hdsnic.parameters import Parameters


def ring_address(address, offset, wrap_log2):
    """Where byte `offset` of a request at `address` lies."""
    if not wrap_log2:
        return address + offset
    size = 1 << wrap_log2
    return address // size * size + (address + offset) % size


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_bursts_cover_a_request_once_and_never_cross_4_kib(bus_bytes):
    p = Parameters(bus_bytes=bus_bytes)
    dut = BurstSplitter(p)
    rng = random.Random(1)
    requests = []
    for _ in range(60):
        wrap = rng.choice([0, 0, 12, 13])
        length = rng.choice([1, 8, 70, 4095, 4096, 9000]) if not wrap else rng.randrange(1, 4096)
        requests.append({"address": rng.randrange(1 << 20), "length": length, "wrap_log2": wrap})
    bursts = []

    async def ask(ctx):
        for request in requests:
            await give(ctx, dut.requests, {"request": request, "tag": 0})

    async def take(ctx):
        ctx.set(dut.bursts.ready, 1)
        while sum(b[2] for b in bursts) < len(requests):
            *_, valid, payload = await ctx.tick().sample(dut.bursts.valid, dut.bursts.payload)
            if valid:
                b = payload
                bursts.append((b.address, b.length, b.last, b.beats_less_one, b.begin, b.end))

    simulate(dut, ask, take)
    for request in requests:
        done = 0
        while True:
            address, length, last, beats, begin, end = bursts.pop(0)
            assert address == ring_address(request["address"], done, request["wrap_log2"])
            assert address // 4096 == (address + length - 1) // 4096
            assert beats <= 255
            assert begin == address % bus_bytes
            assert end == (address + length - 1) % bus_bytes + 1
            assert (beats + 1) * bus_bytes == (
                begin + length + bus_bytes - 1
            ) // bus_bytes * bus_bytes
            done += length
            if last:
                break
        assert done == request["length"]
    assert not bursts


class Memory:
    """The memory behind a write port: random pauses, late acknowledgements, one ID."""

    def __init__(self, dut, bus_bytes, rng, *, bad=()):
        self.dut, self.bus_bytes, self.rng = dut, bus_bytes, rng
        self.bytes, self.addresses, self.finished = {}, [], []
        self.bad = set(bad)  # numbers of bursts that answer with an error
        self.answered = 0

    async def address_channel(self, ctx):
        dut = self.dut
        while True:
            ctx.set(dut.awready, self.rng.random() < 0.7)
            *_, valid, ready, address, beats = await ctx.tick().sample(
                dut.awvalid, dut.awready, dut.awaddr, dut.awlen
            )
            if valid and ready:
                self.addresses.append((address, beats + 1))

    async def data_channel(self, ctx):
        dut, waiting, beat = self.dut, [], 0
        while True:
            ctx.set(dut.wready, self.rng.random() < 0.7)
            *_, valid, ready, data, strobe, last = await ctx.tick().sample(
                dut.wvalid, dut.wready, dut.wdata, dut.wstrb, dut.wlast
            )
            if valid and ready:
                waiting.append((data, strobe))
                beat += 1
                if last:
                    self.finished.append((beat, waiting))
                    waiting, beat = [], 0

    async def answers(self, ctx):
        dut = self.dut
        while True:
            if self.addresses and self.finished and self.rng.random() < 0.3:
                address, beats = self.addresses.pop(0)
                count, data = self.finished.pop(0)
                assert count == beats, "WLAST does not stand where AWLEN says"
                base = address // self.bus_bytes * self.bus_bytes
                for k, (word, strobe) in enumerate(data):
                    for lane in range(self.bus_bytes):
                        if strobe >> lane & 1:
                            self.bytes[base + k * self.bus_bytes + lane] = word >> 8 * lane & 0xFF
                ctx.set(dut.bresp, 2 if self.answered in self.bad else 0)
                self.answered += 1
                ctx.set(dut.bvalid, 1)
            await ctx.tick()
            ctx.set(dut.bvalid, 0)

    @property
    def processes(self):
        return self.address_channel, self.data_channel, self.answers


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_writes_of_two_clients_land_and_are_acknowledged_in_order(bus_bytes):
    p = Parameters(bus_bytes=bus_bytes, outstanding=4)
    dut = WritePort(p, 2)
    rng = random.Random(2)
    memory = Memory(dut, bus_bytes, rng)
    expected = {}
    work = {0: [], 1: []}
    for k in range(30):
        client = rng.randrange(2)
        wrap = rng.choice([0, 12])
        address = (k << 14) + rng.randrange(4096)
        data = rng.randbytes(rng.choice([1, 8, 70, 300, 2000]))
        work[client].append((address, data, wrap))
        for i, byte in enumerate(data):
            expected[ring_address(address, i, wrap)] = byte

    def requester(client):
        async def run(ctx):
            for address, data, wrap in work[client]:
                request = {"address": address, "length": len(data), "wrap_log2": wrap}
                await give(ctx, dut.clients[client].request, request)

        return run

    def sender(client):
        async def run(ctx):
            for address, data, _ in work[client]:
                for beat in beats_of(address, data, bus_bytes):
                    await give(ctx, dut.clients[client].beats, beat)

        return run

    def acknowledged(client):
        async def run(ctx):
            done = 0
            while done < len(work[client]):
                *_, pulse, error = await ctx.tick().sample(
                    dut.clients[client].done, dut.clients[client].error
                )
                assert not (pulse and error)
                done += pulse

        return run

    simulate(
        dut, *(f(c) for c in (0, 1) for f in (requester, sender, acknowledged)),
        background=memory.processes,
    )  # fmt: skip
    assert memory.bytes == expected


def test_an_error_response_marks_its_request_and_no_other():
    p = Parameters(bus_bytes=8)
    dut = WritePort(p, 1)
    memory = Memory(dut, 8, random.Random(3), bad={1})
    verdicts = []

    async def requester(ctx):
        for k in range(3):
            # Crosses 4 KiB: two bursts each.
            request = {"address": 4096 * (k + 1) - 8, "length": 16, "wrap_log2": 0}
            await give(ctx, dut.clients[0].request, request)

    async def sender(ctx):
        for k in range(3):
            for beat in beats_of(4096 * (k + 1) - 8, bytes(16), 8):
                await give(ctx, dut.clients[0].beats, beat)

    async def listener(ctx):
        while len(verdicts) < 3:
            *_, done, error = await ctx.tick().sample(dut.clients[0].done, dut.clients[0].error)
            if done:
                verdicts.append(error)

    simulate(dut, requester, sender, listener, background=memory.processes)
    assert verdicts == [1, 0, 0]


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_reads_come_back_whole_while_another_client_takes_nothing(bus_bytes):
    p = Parameters(bus_bytes=bus_bytes)
    dut = ReadPort(p, 2)
    rng = random.Random(4)
    content = rng.randbytes(1 << 16)
    requests = [(rng.randrange(1 << 15), rng.randrange(1, 3000)) for _ in range(20)]
    bursts = []

    async def stuck(ctx):
        for _ in range(8):  # more than fits: must not hold up the other client
            ctx.set(dut.clients[1].request.payload, {"address": 0, "length": 4096, "wrap_log2": 0})
            ctx.set(dut.clients[1].request.valid, 1)
            await ctx.tick().repeat(20)

    async def ask(ctx):
        for address, length in requests:
            request = {"address": address, "length": length, "wrap_log2": 0}
            await give(ctx, dut.clients[0].request, request)

    async def addresses(ctx):
        while True:
            ctx.set(dut.arready, rng.random() < 0.7)
            *_, valid, ready, identity, address, beats = await ctx.tick().sample(
                dut.arvalid, dut.arready, dut.arid, dut.araddr, dut.arlen
            )
            if valid and ready:
                bursts.append((identity, address, beats + 1))

    async def data(ctx):
        while True:
            # IDs may overtake one another; within an ID order holds.
            identity = rng.randrange(2)
            turn = next((b for b in bursts if b[0] == identity), None)
            if turn is None:
                await ctx.tick()
                continue
            bursts.remove(turn)
            _, address, beats = turn
            base = address // bus_bytes * bus_bytes
            for k in range(beats):
                word = content[base + k * bus_bytes :][:bus_bytes]
                ctx.set(dut.rid, identity)
                ctx.set(dut.rdata, int.from_bytes(word, "little"))
                ctx.set(dut.rvalid, 1)
                await ctx.tick()
                ctx.set(dut.rvalid, 0)

    async def check(ctx):
        beats = dut.clients[0].beats
        for address, length in requests:
            got = b""
            while True:
                ctx.set(beats.ready, rng.random() < 0.8)
                *_, valid, ready, beat = await ctx.tick().sample(
                    beats.valid, beats.ready, beats.payload
                )
                if valid and ready:
                    got += beat.data.to_bytes(bus_bytes, "little")[beat.begin : beat.end]
                    assert not beat.error
                    if beat.last:
                        break
            assert got == content[address : address + length]

    simulate(dut, ask, check, background=(stuck, addresses, data))
