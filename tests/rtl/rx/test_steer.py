"""The tables of steering while rules change under full load."""

import random

import pytest
from amaranth.sim import Simulator
from ingress_bench import Listener, small, store_address, store_listener

from hdsnic.abi import RxOutcome
from hdsnic.rx.steer import Steer

OWN = bytes([10, 77, 0, 2])
LATENCY = 6
RULES = (Listener(4, 80, 1), Listener(4, 90, 2), Listener(4, 80, 1, valid=False))


def flood(frames, stores):
    """A frame a cycle into `Steer`, and stores in given cycles; gives what came out, by frame.

    `frames`: ports; `stores`: cycle -> Listener.
    """
    parameters = small(64)
    dut = Steer(parameters)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    out, ready = [], []

    async def drive(ctx):
        await store_address(ctx, _Stores(dut), 0, OWN)
        await ctx.tick()
        ready.append(True)
        for port in frames:
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.i.payload.tcp, 1)
            ctx.set(dut.i.payload.reason, RxOutcome.SPLIT)
            ctx.set(dut.i.payload.port, port)
            ctx.set(dut.i.payload.destination, int.from_bytes(OWN, "little"))
            await ctx.tick()
        ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(LATENCY + 3)

    async def store(ctx):
        await ctx.tick().repeat(2)
        for cycle in range(len(frames)):
            if cycle in stores:
                await store_listener(ctx, _Stores(dut), stores[cycle])
            else:
                await ctx.tick()

    async def watch(ctx):
        async for _, reset, valid, frame in ctx.tick().sample(dut.o.valid, dut.o.payload):
            assert not reset
            if valid:
                out.append((RxOutcome(frame.reason), frame.queue, frame.tag))

    sim.add_testbench(drive)
    sim.add_testbench(store)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert len(out) == len(frames)
    return out


class _Stores:
    """The store ports of `Steer` under the names that they have on `Ingress`."""

    def __init__(self, dut):
        self.address_store = dut.address_store
        self.listener_store = dut.listener_store


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_never_goes_to_the_queue_of_a_rule_that_it_did_not_match(seed):
    chance = random.Random(seed)
    frames = [chance.choice((80, 90)) for _ in range(1500)]
    stores, cycle = {}, 5
    while cycle < len(frames):
        stores[cycle] = chance.choice(RULES)
        cycle += chance.choice((1, 1, 2, 3, 4, 5, 9, 20))
    results = flood(frames, stores)
    settled = {True: 0, False: 0}
    for at, (port, (reason, queue, tag)) in enumerate(zip(frames, results, strict=True)):
        before = [stores[c] for c in sorted(stores) if c <= at]
        meanwhile = [stores[c] for c in sorted(stores) if at < c < at + LATENCY]
        may = {_fate(rule, port) for rule in before[-1:] + meanwhile} or {_fate(None, port)}
        if not before:
            may.add(_fate(None, port))
        assert (reason, queue, tag) in may, f"frame {at} to port {port}"
        settled[len(may) == 1] += 1
    assert min(settled.values()) > 50  # both kinds of frames were there


def _fate(rule, port):
    if rule is None or not rule.valid or rule.first != port:
        return RxOutcome.NO_RULE, 0, 0
    return RxOutcome.SPLIT, rule.queue, rule.index


def test_a_store_counts_for_a_frame_in_the_same_cycle():
    results = flood([80] * 40, {10: RULES[0], 30: RULES[2]})
    hits = [reason == RxOutcome.SPLIT for reason, _, _ in results]
    assert hits.index(True) <= 10
    assert all(hits[10:25])
    assert not any(hits[30:])
