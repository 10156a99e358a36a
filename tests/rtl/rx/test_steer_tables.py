"""Exact rules and receive-side scaling by themselves, against published vectors and the driver."""

import ipaddress
import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator
from ingress_bench import small, store_exact
from setting import Exact
from toeplitz import KEY, VECTORS, toeplitz

from hdsnic.abi import RSS_ENTRIES
from hdsnic.abi.flow_hash import flow_slots
from hdsnic.parameters import Parameters
from hdsnic.rx.exact import ExactTable
from hdsnic.rx.rss import RssUnit, rss_steps

WIDTHS = (8, 16, 32, 64)


def hashed(bus_bytes, flows, key=KEY):
    """(hash, queue) of flows (source, port, destination, port), as fast as the unit takes them."""
    parameters = small(bus_bytes)
    dut = RssUnit(parameters)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    steps = rss_steps(bus_bytes)
    out = []

    async def drive(ctx):
        ctx.set(dut.key_store.payload, {"context": 2, "key": int.from_bytes(key, "little")})
        ctx.set(dut.key_store.valid, 1)
        await ctx.tick()
        ctx.set(dut.key_store.valid, 0)
        for entry in range(RSS_ENTRIES):
            value = {"context": 2, "entry": entry, "queue": (5 * entry + 3) % 16}
            ctx.set(dut.table_store.payload, value)
            ctx.set(dut.table_store.valid, 1)
            await ctx.tick()
        ctx.set(dut.table_store.valid, 0)
        for source, remote, destination, local in flows:
            ctx.set(
                dut.i.payload,
                {
                    "context": 2,
                    "addresses": {
                        "ipv6": int(len(source) == 16),
                        "source": int.from_bytes(source, "little"),
                        "destination": int.from_bytes(destination, "little"),
                    },
                    "remote": remote,
                    "local": local,
                },
            )
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)
            if steps > 1:
                await ctx.tick().repeat(steps - 1)
        await ctx.tick().repeat(steps + 3)

    async def watch(ctx):
        valid = [False] * (steps + 2)
        async for _, _, now, value, queue in ctx.tick().sample(dut.i.valid, dut.hash, dut.queue):
            if valid[-1]:
                out.append((value, queue))
            valid = [now, *valid[:-1]]

    sim.add_testbench(drive)
    sim.add_testbench(watch, background=True)
    sim.run()
    return out


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_hashes_are_those_of_the_published_verification_suite(bus_bytes):
    flows = [
        (ipaddress.ip_address(s).packed, sp, ipaddress.ip_address(d).packed, dp)
        for s, sp, d, dp, _ in VECTORS
    ]
    results = hashed(bus_bytes, flows)
    assert [value for value, _ in results] == [vector[-1] for vector in VECTORS]
    for value, queue in results:
        assert queue == (5 * (value % RSS_ENTRIES) + 3) % 16


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_random_flows_hash_as_the_definition_says(bus_bytes):
    chance = random.Random(bus_bytes)
    key = chance.randbytes(40)
    flows = []
    for _ in range(100):
        size = chance.choice((4, 16))
        flows.append(
            (
                chance.randbytes(size),
                chance.randrange(65536),
                chance.randbytes(size),
                chance.randrange(65536),
            )
        )
    for (source, remote, destination, local), (value, _) in zip(
        flows, hashed(bus_bytes, flows, key), strict=True
    ):
        message = source + destination + remote.to_bytes(2, "big") + local.to_bytes(2, "big")
        assert value == toeplitz(key, message)


def looked_up(parameters, rules, flows):
    """For each flow (as an Exact without a rule's fields) a cycle: None, or (slot, queue)."""
    dut = ExactTable(parameters)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    out, busy = [], []

    class Named:
        exact_store = dut.store

    def addresses(flow):
        return {
            "ipv6": int(len(flow.remote) == 16),
            "source": int.from_bytes(flow.remote, "little"),
            "destination": int.from_bytes(flow.local, "little"),
        }

    async def drive(ctx):
        while ctx.get(dut.busy):
            busy.append(True)
            await ctx.tick()
        for rule in rules:
            await store_exact(ctx, Named, rule, parameters)
        for cycle in range(len(flows) + 8):
            ctx.set(dut.addresses.valid, int(cycle < len(flows)))
            ctx.set(dut.ports.valid, int(0 <= cycle - 3 < len(flows)))
            if cycle < len(flows):
                ctx.set(dut.addresses.payload, addresses(flows[cycle]))
            if 0 <= cycle - 3 < len(flows):
                flow = flows[cycle - 3]
                ports = {"remote": flow.remote_port, "local": flow.local_port}
                ctx.set(dut.ports.payload, {"udp": int(flow.udp), "tcp": int(not flow.udp)} | ports)
            if 0 <= cycle - 4 < len(flows):
                ctx.set(dut.held, addresses(flows[cycle - 4]))
            if 0 <= cycle - 6 < len(flows):
                found = ctx.get(dut.slot), ctx.get(dut.queue)
                out.append(found if ctx.get(dut.hit) else None)
            await ctx.tick()

    sim.add_testbench(drive)
    sim.run()
    assert len(busy) == parameters.exact_rows
    return out


@pytest.mark.parametrize(("ways", "rows"), ((1, 16), (2, 64), (4, 256)))
def test_a_flow_is_found_in_each_slot_that_the_driver_computes(ways, rows):
    chance = random.Random(ways)
    parameters = Parameters(bus_bytes=64, exact_ways=ways, exact_rows=rows)
    rules, taken = [], set()
    for _ in range(ways * rows // 2):
        size = chance.choice((4, 16))
        rule = Exact(
            chance.randbytes(size), chance.randrange(65536), chance.randbytes(size),
            chance.randrange(65536), queue=chance.randrange(16), way=chance.randrange(ways),
            udp=chance.random() < 0.5,
        )  # fmt: skip
        if rule.slot(parameters) not in taken:
            taken.add(rule.slot(parameters))
            rules.append(rule)
    wanted = [(rule.slot(parameters), rule.queue) for rule in rules[:120]]
    assert looked_up(parameters, rules, rules[:120]) == wanted


def test_another_flow_in_the_same_slot_does_not_match_whichever_bits_differ():
    chance = random.Random(5)
    parameters = Parameters(bus_bytes=64, exact_ways=1, exact_rows=16)
    for size in (4, 16):
        rule = Exact(chance.randbytes(size), 40000, chance.randbytes(size), 80, queue=3)
        others = [replace(rule, udp=True)]
        for name, bits in (
            ("remote", 8 * size), ("local", 8 * size), ("remote_port", 16), ("local_port", 16),
        ):  # fmt: skip
            for bit in range(bits):
                others.append(impostor(rule, name, bits, bit, chance, parameters))
        results = looked_up(parameters, [rule], [*others, rule])
        assert results == [None] * len(others) + [(rule.slot(parameters), 3)]


def impostor(rule, name, bits, bit, chance, parameters):
    """A flow that differs in `bit` of a field, and in as few others as it takes to stay there."""
    value = getattr(rule, name)
    as_int = value if isinstance(value, int) else int.from_bytes(value, "little")
    while True:
        for also in (1, 2, 3):
            changed = as_int ^ 1 << bit
            for at in chance.sample(range(bits), also):
                changed ^= 1 << at if at != bit else 0
            back = changed if isinstance(value, int) else changed.to_bytes(bits // 8, "little")
            other = replace(rule, **{name: back})
            if other.slot(parameters) == rule.slot(parameters):
                return other


def test_an_ipv4_rule_does_not_match_ipv6_with_the_same_bits():
    parameters = Parameters(bus_bytes=64, exact_ways=1, exact_rows=16)
    four = Exact(bytes([10, 0, 0, 1]), 1000, bytes([10, 0, 0, 2]), 80, queue=4)
    six = Exact(four.remote + bytes(12), 1000, four.local + bytes(12), 80, queue=4)
    assert six.slot(parameters) == four.slot(parameters)
    assert looked_up(parameters, [four], [six, four]) == [None, (four.slot(parameters), 4)]


def test_flows_of_a_busy_server_spread_over_the_rows():
    ways, rows = 4, 512
    local = bytes([192, 168, 1, 5])
    flows = [
        (bytes([10, 1, n // 250, n % 250]), 30000 + 7 * n % 5000, local, 443) for n in range(2000)
    ]
    filled = [set() for _ in range(ways)]
    for flow in flows:
        for way, slot in enumerate(flow_slots(ways, rows, *flow)):
            assert slot // rows == way
            filled[way].add(slot)
    # 2,000 in 512 rows at random: 98 % of rows; the same in every way, and not the same rows
    assert all(len(slots) > 0.9 * rows for slots in filled)
    pairs = {tuple(flow_slots(ways, rows, *flow)[:2]) for flow in flows}
    assert len(pairs) > 0.98 * len(flows)


def test_addresses_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="4 or 16"):
        flow_slots(4, 512, bytes(4), 1, bytes(16), 2)
