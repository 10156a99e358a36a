"""Memory ports in front of a memory that stops: every request ends, and AXI's rules hold."""

import pytest
from rtl.dma.port_bench import (
    ReadMemory,
    WriteMemory,
    answers,
    beats_of,
    requester,
    sender,
    verdicts,
)
from rtl.simulation import simulate

from hdsnic.dma import ReadPort, WritePort
from hdsnic.parameters import Parameters

TIMEOUT = 50
WIDTHS = pytest.mark.parametrize("bus_bytes", [8, 64])


def write_port(bus_bytes, clients=2):
    return WritePort(Parameters(bus_bytes=bus_bytes, outstanding=16), clients)


def read_port(bus_bytes, clients=2):
    return ReadPort(Parameters(bus_bytes=bus_bytes, outstanding=16), clients)


def patience(dut, cycles=TIMEOUT):
    async def run(ctx):
        ctx.set(dut.timeout, cycles)

    return run


def content(address, length):
    return bytes((address // 7 + k) & 0xFF for k in range(length))


def uncounted(dut):
    """A process that sees that a failed port counts no bytes: it moves none."""

    async def run(ctx):
        while True:
            *_, failed, counted = await ctx.tick().sample(dut.failed, dut.bytes_valid)
            assert not (failed and counted)

    return run


def work(client, requests, bus_bytes, ends):
    return (
        requester(client, requests),
        sender(client, requests, bus_bytes, content),
        verdicts(client, len(requests), ends),
    )


@WIDTHS
@pytest.mark.parametrize("stopped", ["takes_addresses", "takes_data", "responds"])
def test_every_write_ends_with_an_error_when_the_memory_stops(bus_bytes, stopped):
    dut = write_port(bus_bytes)
    memory = WriteMemory(dut)
    setattr(memory, stopped, False)
    requests = [(4096 * k + 4000, 300) for k in range(20)]  # two bursts each
    ends = ([], [])
    simulate(
        dut, patience(dut), *work(dut.clients[0], requests, bus_bytes, ends[0]),
        *work(dut.clients[1], requests, bus_bytes, ends[1]),
        background=(memory.run, uncounted(dut)),
    )  # fmt: skip
    assert ends == ([1] * 20, [1] * 20)


@WIDTHS
def test_what_was_acknowledged_before_the_failure_ended_well(bus_bytes):
    dut = write_port(bus_bytes, 1)
    memory, ends = WriteMemory(dut), []
    requests = [(4096 * k, 8) for k in range(10)]

    async def watch(ctx):
        while memory.answered < 3:
            await ctx.tick()
        memory.responds = False

    simulate(
        dut, patience(dut), watch, *work(dut.clients[0], requests, bus_bytes, ends),
        background=(memory.run,),
    )  # fmt: skip
    good = ends.count(0)
    assert good == memory.answered >= 3
    assert ends == [0] * good + [1] * (10 - good)


@WIDTHS
def test_a_failed_write_port_keeps_what_it_offered_and_begins_nothing(bus_bytes):
    dut = write_port(bus_bytes, 1)
    memory, ends = WriteMemory(dut), []
    requests = [(4096 * k, 4 * bus_bytes) for k in range(8)]

    async def watch(ctx):
        while memory.beats < 2:  # two of the four beats of the first burst
            await ctx.tick()
        memory.takes_data = memory.takes_addresses = False
        await ctx.tick().until(dut.failed)
        addresses, before = memory.addresses, len(memory.events)
        offered = ctx.get(dut.awvalid)
        await ctx.tick().repeat(100)
        assert len(memory.events) == before
        # The memory comes back: it gets what AXI owes it, and nothing else.
        memory.takes_data = memory.takes_addresses = True
        await ctx.tick().repeat(100)
        late = memory.events[before:]
        assert memory.addresses == addresses + offered
        strobes = [event[1] for event in late if event[0] == "W"]
        full = (1 << bus_bytes) - 1
        assert strobes[0] == full  # the beat that was offered
        assert not any(strobes[1:])
        assert sum(event[2] for event in memory.events if event[0] == "W") == memory.addresses
        assert memory.beats == 4 * memory.addresses
        # Its late answers, and others, end no request.
        assert len(ends) == 8
        memory.stray = 20
        await ctx.tick().repeat(30)

    async def count(ctx):
        while True:
            *_, done = await ctx.tick().sample(dut.clients[0].done)
            total.append(done)

    total = []
    simulate(
        dut, patience(dut), watch, *work(dut.clients[0], requests, bus_bytes, ends),
        background=(memory.run, count),
    )  # fmt: skip
    assert sum(total) == 8


def test_an_address_on_offer_stays_until_it_is_taken_and_no_other_follows():
    dut = write_port(8, 1)
    memory, ends = WriteMemory(dut), []
    memory.takes_addresses = memory.takes_data = False
    requests = [(4096 * k, 16) for k in range(4)]

    async def watch(ctx):
        await ctx.tick().until(dut.failed)
        await ctx.tick().repeat(200)
        assert ctx.get(dut.awvalid) and ctx.get(dut.awaddr) == 0
        memory.takes_addresses = True
        await ctx.tick().repeat(20)
        assert [e for e in memory.events if e[0] == "AW"] == [("AW", 0, 2)]
        assert not ctx.get(dut.awvalid)

    simulate(
        dut, patience(dut), watch, *work(dut.clients[0], requests, 8, ends),
        background=(memory.run,),
    )  # fmt: skip


def test_a_memory_has_failed_after_timeout_cycles_and_no_earlier():
    dut = write_port(8, 1)
    memory = WriteMemory(dut)
    memory.takes_addresses = False
    cycles = []

    async def watch(ctx):
        await ctx.tick().until(dut.awvalid)  # 1 in the cycle before this tick
        for cycle in range(2, 10 * TIMEOUT):
            if ctx.get(dut.failed):
                cycles.append(cycle - 2)
                return
            await ctx.tick()

    simulate(
        dut, patience(dut), watch, *work(dut.clients[0], [(0, 8)], 8, []), background=(memory.run,)
    )
    assert cycles == [TIMEOUT]


@pytest.mark.parametrize(("timeout", "late"), [(0, 3000), (TIMEOUT, TIMEOUT - 1)])
def test_a_slow_memory_has_not_failed(timeout, late):
    dut = write_port(8, 1)
    memory, ends = WriteMemory(dut, late), []
    requests = [(4096 * k, 8) for k in range(3)]
    simulate(
        dut, patience(dut, timeout), *work(dut.clients[0], requests, 8, ends),
        background=(memory.run,),
    )  # fmt: skip
    assert ends == [0, 0, 0]


def test_a_client_that_keeps_its_data_back_is_no_failure_of_the_memory():
    dut = write_port(8, 1)
    memory, ends = WriteMemory(dut), []
    request = [(64, 8)]

    async def late(ctx):
        await ctx.tick().repeat(10 * TIMEOUT)
        await sender(dut.clients[0], request, 8)(ctx)

    simulate(
        dut, patience(dut), requester(dut.clients[0], request), late,
        verdicts(dut.clients[0], 1, ends), background=(memory.run,),
    )  # fmt: skip
    assert ends == [0]


def test_a_response_that_nobody_is_owed_ends_no_write():
    dut = write_port(8, 1)
    memory, ends = WriteMemory(dut, 100), []
    memory.stray = 5
    cycles = []

    async def run(ctx):
        await requester(dut.clients[0], [(64, 8)])(ctx)
        memory.stray = 5
        await ctx.tick().repeat(20)
        assert not ends
        for beat in beats_of(64, bytes(8), 8):
            ctx.set(dut.clients[0].beats.payload, beat)
            ctx.set(dut.clients[0].beats.valid, 1)
            await ctx.tick()
        ctx.set(dut.clients[0].beats.valid, 0)
        cycles.append(memory.cycle)
        while not ends:
            await ctx.tick()
        assert memory.cycle - cycles[0] >= 99

    simulate(dut, run, verdicts(dut.clients[0], 1, ends), background=(memory.run,))
    assert ends == [0]


async def restart(ctx, dut):
    ctx.set(dut.restart, 1)
    await ctx.tick()
    ctx.set(dut.restart, 0)
    await ctx.tick()
    return not ctx.get(dut.failed)


@WIDTHS
@pytest.mark.parametrize("stopped", ["takes_addresses", "takes_data", "responds"])
def test_a_write_port_restarts_when_the_memory_owes_nothing_and_not_before(bus_bytes, stopped):
    dut = write_port(bus_bytes, 1)
    client, memory, ends, later = dut.clients[0], WriteMemory(dut), [], []
    setattr(memory, stopped, False)
    requests = [(4096 * k + 4000, 300) for k in range(20)]
    again = [(1 << 20 | 512 * k, 200) for k in range(10)]

    async def run(ctx):
        while len(ends) < len(requests) or not drained:
            await ctx.tick()
        assert not await restart(ctx, dut)
        setattr(memory, stopped, True)
        await ctx.tick().repeat(200)
        assert await restart(ctx, dut)
        taken.append(len(memory.events))
        await requester(client, again)(ctx)

    async def data(ctx):
        await sender(client, requests, bus_bytes)(ctx)
        drained.append(True)
        while not taken:
            await ctx.tick()
        await sender(client, again, bus_bytes)(ctx)

    async def hear(ctx):
        await verdicts(client, len(requests), ends)(ctx)
        await verdicts(client, len(again), later)(ctx)

    drained, taken = [], []
    simulate(
        dut, patience(dut), run, requester(client, requests), data, hear, background=(memory.run,)
    )
    assert ends == [1] * len(requests) and later == [0] * len(again)
    addresses = [event[1] for event in memory.events[taken[0] :] if event[0] == "AW"]
    assert addresses == [address for address, _ in again]


# -- reads -----------------------------------------------------------------------------------------


def beats_wanted(address, length, bus_bytes):
    """(begin, end) of each beat of an answer."""
    at, out = address, []
    while at < address + length:
        end = min(address + length, (at // bus_bytes + 1) * bus_bytes)
        out.append((at % bus_bytes, (end - 1) % bus_bytes + 1))
        at = end
    return out


@WIDTHS
@pytest.mark.parametrize("given", [None, 0, 3])
def test_every_read_is_answered_in_full_with_errors_when_the_memory_stops(bus_bytes, given):
    dut = read_port(bus_bytes)
    memory = ReadMemory(dut)
    if given is None:
        memory.takes_addresses = False
    memory.beats_left = given
    requests = [(4096 * k + 4000 + k, 5 * bus_bytes) for k in range(20)]
    got = ([], [])
    simulate(
        dut, patience(dut),
        *(requester(client, requests) for client in dut.clients),
        *(answers(client, 20, out) for client, out in zip(dut.clients, got, strict=True)),
        background=(memory.run, uncounted(dut)),
    )  # fmt: skip
    for out in got:
        for (address, length), beats in zip(requests, out, strict=True):
            assert [b[:2] for b in beats] == beats_wanted(address, length, bus_bytes)
    errors = [beat[2] for out in got for beats in out for beat in beats]
    assert errors.count(0) == (given or 0)


def test_a_failed_read_port_keeps_its_address_and_makes_no_other():
    dut = read_port(8, 1)
    memory, got = ReadMemory(dut), []
    memory.takes_addresses = False
    requests = [(4096 * k, 16) for k in range(5)]

    async def watch(ctx):
        await ctx.tick().until(dut.failed)
        await ctx.tick().repeat(100)
        assert ctx.get(dut.arvalid) and ctx.get(dut.araddr) == 0
        memory.takes_addresses = True
        await ctx.tick().repeat(100)  # and it answers: dropped
        assert memory.taken == [(0, 0, 2)]
        assert not ctx.get(dut.arvalid)
        assert memory.beats == 2

    simulate(
        dut, patience(dut), watch, requester(dut.clients[0], requests),
        answers(dut.clients[0], 5, got), background=(memory.run,),
    )  # fmt: skip
    assert got == [[(0, 8, 1)] * 2] * 5


@pytest.mark.parametrize(("timeout", "late"), [(0, 3000), (TIMEOUT, TIMEOUT - 1)])
def test_a_slow_memory_answers_reads_well(timeout, late):
    dut = read_port(8, 1)
    memory, got = ReadMemory(dut, late), []
    simulate(
        dut, patience(dut, timeout), requester(dut.clients[0], [(0, 16)] * 3),
        answers(dut.clients[0], 3, got), background=(memory.run,),
    )  # fmt: skip
    assert got == [[(0, 8, 0)] * 2] * 3


def test_a_client_that_takes_no_beats_is_no_failure_of_the_memory():
    dut = read_port(8, 1)
    memory = ReadMemory(dut)

    async def watch(ctx):
        await ctx.tick().repeat(20 * TIMEOUT)
        assert not ctx.get(dut.failed)

    simulate(
        dut, patience(dut), watch, background=(memory.run, requester(dut.clients[0], [(0, 4000)])),
    )  # fmt: skip
    assert memory.beats


def test_beats_that_nobody_waits_for_are_dropped():
    dut = read_port(8)
    memory, got = ReadMemory(dut, 20), []
    memory.stray.extend([0, 1, 2, 15] * 3)

    async def later(ctx):
        await ctx.tick().repeat(30)
        await requester(dut.clients[0], [(0, 16)])(ctx)
        memory.stray.extend([1] * 5)  # of the client that asked for nothing

    simulate(dut, later, answers(dut.clients[0], 1, got), background=(memory.run,))
    assert got == [[(0, 8, 0)] * 2]


@pytest.mark.parametrize("given", [None, 0, 3])
def test_a_read_port_restarts_when_the_memory_owes_nothing_and_not_before(given):
    dut = read_port(8)
    memory, got, later = ReadMemory(dut), [], []
    memory.takes_addresses, memory.beats_left = given is not None, given
    requests = [(4096 * k, 40) for k in range(20)]

    async def run(ctx):
        while len(got) < len(requests):
            await ctx.tick()
        assert not await restart(ctx, dut)
        memory.takes_addresses, memory.beats_left = True, None
        await ctx.tick().repeat(200)
        assert await restart(ctx, dut)
        await requester(dut.clients[0], requests)(ctx)

    async def hear(ctx):
        await answers(dut.clients[0], len(requests), got)(ctx)
        await answers(dut.clients[0], len(requests), later)(ctx)

    simulate(
        dut, patience(dut), run, requester(dut.clients[0], requests), hear,
        background=(memory.run,),
    )  # fmt: skip
    assert later == [[(0, 8, 0)] * 5] * len(requests)
