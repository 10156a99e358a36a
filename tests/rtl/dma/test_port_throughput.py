"""Memory ports: no bubble between requests, and 200 cycles of latency hidden."""

import pytest
from rtl.dma.port_bench import (
    ReadMemory,
    WriteMemory,
    answers,
    requester,
    sender,
    verdicts,
)
from rtl.simulation import simulate

from hdsnic.dma import ReadPort, WritePort
from hdsnic.parameters import Parameters

RECORD_BYTES = 70  # fixed part and 54 bytes of header; records lie 80 bytes apart


def beats(requests, bus_bytes):
    return sum((a % bus_bytes + n + bus_bytes - 1) // bus_bytes for a, n in requests)


def records(count):
    return [(80 * k, RECORD_BYTES) for k in range(count)]


def pieces(count):
    return [(2048 * k, 6) for k in range(count)]


CASES = [(8, records(60)), (64, records(260)), (8, pieces(420)), (64, pieces(420))]
IDS = ["70 bytes at 8", "70 bytes at 64", "6 bytes at 8", "6 bytes at 64"]


@pytest.mark.parametrize("latency", [1, 200])
@pytest.mark.parametrize(("bus_bytes", "requests"), CASES, ids=IDS)
def test_small_writes_follow_one_another_without_a_bubble(bus_bytes, requests, latency):
    dut = WritePort(Parameters(bus_bytes=bus_bytes), 1)
    client, memory, ends = dut.clients[0], WriteMemory(dut, latency), []
    simulate(
        dut, requester(client, requests), sender(client, requests, bus_bytes),
        verdicts(client, len(requests), ends), background=(memory.run,),
    )  # fmt: skip
    assert ends == [0] * len(requests)
    assert memory.beats == beats(requests, bus_bytes)
    assert memory.last - memory.first + 1 == memory.beats


@pytest.mark.parametrize("latency", [1, 200])
@pytest.mark.parametrize(("bus_bytes", "requests"), CASES, ids=IDS)
def test_small_reads_follow_one_another_without_a_bubble(bus_bytes, requests, latency):
    dut = ReadPort(Parameters(bus_bytes=bus_bytes), 2)
    client, memory, got = dut.clients[1], ReadMemory(dut, latency), []
    simulate(
        dut, requester(client, requests), answers(client, len(requests), got),
        background=(memory.run,),
    )  # fmt: skip
    assert sum(map(len, got)) == memory.beats == beats(requests, bus_bytes)
    assert memory.last - memory.first + 1 == memory.beats


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_long_reads_hide_200_cycles_of_latency(bus_bytes):
    requests = [(9024 * k + 2, 9000) for k in range(4)]
    dut = ReadPort(Parameters(bus_bytes=bus_bytes), 1)
    memory, got = ReadMemory(dut, 200), []
    simulate(
        dut, requester(dut.clients[0], requests), answers(dut.clients[0], len(requests), got),
        background=(memory.run,),
    )  # fmt: skip
    assert memory.last - memory.first + 1 == memory.beats


def test_256_bursts_are_under_way_and_no_more():
    requests = pieces(300)
    dut = WritePort(Parameters(bus_bytes=64, outstanding=256), 1)
    client, memory, ends = dut.clients[0], WriteMemory(dut), []
    memory.responds = False
    seen = []

    async def wait(ctx):
        await ctx.tick().repeat(600)
        seen.append(memory.addresses)
        memory.responds = True

    simulate(
        dut, wait, requester(client, requests), sender(client, requests, 64),
        verdicts(client, len(requests), ends), background=(memory.run,),
    )  # fmt: skip
    assert seen == [256]
    assert ends == [0] * len(requests)


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_a_write_is_offered_a_cycle_after_its_request(bus_bytes):
    dut = WritePort(Parameters(bus_bytes=bus_bytes), 2)

    async def run(ctx):
        client = dut.clients[1]
        ctx.set(client.request.payload, {"address": 64, "length": 8, "wrap_log2": 0})
        ctx.set(client.request.valid, 1)
        ctx.set(client.beats.valid, 1)
        assert ctx.get(client.request.ready)
        assert not ctx.get(dut.awvalid) and not ctx.get(dut.wvalid)
        await ctx.tick()
        assert ctx.get(dut.awvalid) and ctx.get(dut.wvalid)

    simulate(dut, run)
