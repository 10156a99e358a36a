"""The tables of steering while they change under full load: a frame a cycle."""

import itertools
import random

import pytest
from amaranth.sim import Simulator
from frame_oracle import packed
from ingress_bench import small, store_address, store_exact, store_listener, store_rss
from setting import Exact, Listener
from toeplitz import KEY, toeplitz

from hdsnic.abi import EXACT_TAG, RSS_ENTRIES, RxOutcome
from hdsnic.abi.flow_hash import flow_slots
from hdsnic.rx.steer import STEER_CYCLES as LATENCY
from hdsnic.rx.steer import Steer

OWN = packed("10.77.0.2")
PEER = packed("10.77.0.1")
PORTS, CANDIDATE = 3, 6  # cycles behind the addresses
RULES = (Listener(4, 80, 1), Listener(4, 90, 2), Listener(4, 80, 1, valid=False))
NO_RULE = (RxOutcome.NO_RULE, 0, 0, 0)


def flood(frames, stores, before=()):
    """A frame a cycle into `Steer`, and stores in given cycles; gives what came out, by frame.

    `frames`: (source port, destination port); `stores`: cycle -> `store(ctx, dut)`, which takes a
    cycle, counted from the first frame's addresses; `before`: such stores ahead of all frames.
    """
    dut = Steer(small(64))
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    out = []

    async def drive(ctx):
        await ctx.tick().until(~dut.exact_busy)
        await store_address(ctx, dut, 0, OWN)
        for each in before:
            await each(ctx, dut)
        await ctx.tick()
        for cycle in range(len(frames) + LATENCY + 2):
            for name, behind in (("addresses", 0), ("ports", PORTS), ("candidate", CANDIDATE)):
                at = cycle - behind
                ctx.set(getattr(dut, name).valid, int(0 <= at < len(frames)))
            ctx.set(dut.addresses.payload.source, int.from_bytes(PEER, "little"))
            ctx.set(dut.addresses.payload.destination, int.from_bytes(OWN, "little"))
            if 0 <= cycle - PORTS < len(frames):
                remote, local = frames[cycle - PORTS]
                ctx.set(dut.ports.payload, {"tcp": 1, "udp": 0, "remote": remote, "local": local})
            ctx.set(dut.candidate.payload.tcp, 1)
            ctx.set(dut.candidate.payload.reason, RxOutcome.SPLIT)
            if cycle in stores:
                await stores[cycle](ctx, dut)
            else:
                await ctx.tick()

    async def watch(ctx):
        async for _, reset, valid, steered in ctx.tick().sample(dut.o.valid, dut.o.payload):
            assert not reset
            if valid:
                frame = steered.frame
                out.append((RxOutcome(frame.reason), frame.queue, frame.tag, frame.hash))

    sim.add_testbench(drive)
    sim.add_testbench(watch, background=True)
    sim.run()
    assert len(out) == len(frames)
    return out


def listener(rule):
    return lambda ctx, dut: store_listener(ctx, dut, rule)


def exact(rule):
    return lambda ctx, dut: store_exact(ctx, dut, rule, small(64))


def at_random(chance, cycles, choices):
    """cycle -> one of `choices`, close together and far apart."""
    stores, cycle = {}, 5
    while cycle < cycles:
        stores[cycle] = chance.choice(choices)
        cycle += chance.choice((1, 1, 2, 3, 4, 5, 9, 20))
    return stores


def check(frames, results, stores, fate):
    """Each frame has the fate before or after a store that came while it was on its way.

    `fate(frame, stored)`: what is right for a frame when `stored` are the stores so far.
    """
    settled = {True: 0, False: 0}
    for at, (frame, result) in enumerate(zip(frames, results, strict=True)):
        known = [stores[c] for c in sorted(stores) if c < at]
        meanwhile = [stores[c] for c in sorted(stores) if at <= c < at + LATENCY]
        may = {fate(frame, known + meanwhile[:n]) for n in range(len(meanwhile) + 1)}
        assert result in may, f"frame {at}: {frame}"
        settled[len(may) == 1] += 1
    assert min(settled.values()) > 50  # both kinds of frames were there


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_never_goes_to_the_queue_of_a_listener_that_it_did_not_match(seed):
    chance = random.Random(seed)
    frames = [(40000, chance.choice((80, 90))) for _ in range(1500)]
    stores = at_random(chance, len(frames), RULES)

    def fate(frame, stored):
        rule = stored[-1] if stored else None
        if rule is None or not rule.valid or rule.first != frame[1]:
            return NO_RULE
        return RxOutcome.SPLIT, rule.queue, rule.index, 0

    results = flood(frames, {cycle: listener(rule) for cycle, rule in stores.items()})
    check(frames, results, stores, fate)


def colliding_flows():
    """Two flows that may stand in one slot, in the same way: (source port, destination port)."""
    p = small(64)
    by_slot = {}
    for remote, local in itertools.product(range(40000, 40100), (80, 90)):
        slot = flow_slots(p.exact_ways, p.exact_rows, PEER, remote, OWN, local)[1]
        if slot in by_slot and by_slot[slot][1] != local:
            return by_slot[slot], (remote, local)
        by_slot[slot] = remote, local
    raise AssertionError("the hash spreads better than it can")


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_sees_an_exact_rule_before_or_after_a_store_and_never_half_of_each(seed):
    chance = random.Random(seed)
    one, two = colliding_flows()
    frames = [chance.choice((one, two)) for _ in range(1500)]
    choices = [
        Exact(PEER, flow[0], OWN, flow[1], queue=queue, way=1, valid=valid)
        for flow, queue, valid in ((one, 1, True), (two, 2, True), (one, 3, True), (two, 2, False))
    ]
    stores = at_random(chance, len(frames), choices)
    slot = choices[0].slot(small(64))
    assert {rule.slot(small(64)) for rule in choices} == {slot}

    def fate(frame, stored):
        rule = stored[-1] if stored else None
        if rule is None or not rule.valid or frame != (rule.remote_port, rule.local_port):
            return RxOutcome.SPLIT, 7, 1, 0  # the listener's
        return RxOutcome.SPLIT, rule.queue, EXACT_TAG + slot, 0

    results = flood(
        frames,
        {cycle: exact(rule) for cycle, rule in stores.items()},
        before=[listener(Listener(1, 80, 7, last=90))],
    )
    check(frames, results, stores, fate)


def test_moving_a_rule_to_another_slot_loses_it_for_no_frame():
    rules = [Exact(PEER, 40000, OWN, 80, queue=5, way=way) for way in (0, 1)]
    off = [Exact(PEER, 40000, OWN, 80, queue=0, way=way, valid=False) for way in (0, 1)]
    frames = [(40000, 80)] * 600
    stores, cycle = {}, 10
    for n in range(100):
        new, old = n % 2, (n + 1) % 2
        stores[cycle], stores[cycle + 1] = exact(rules[old]), exact(off[new])
        cycle += 4
    results = flood(frames, stores, before=[exact(rules[0])])
    slots = {EXACT_TAG + rule.slot(small(64)) for rule in rules}
    assert {(reason, queue) for reason, queue, _, _ in results} == {(RxOutcome.SPLIT, 5)}
    assert {tag for _, _, tag, _ in results} == slots


@pytest.mark.parametrize("seed", range(2))
def test_a_hash_is_of_one_key_and_its_queue_of_that_context(seed):
    chance = random.Random(seed)
    keys = [KEY, chance.randbytes(40)]
    frames = [(chance.randrange(65536), chance.choice((80, 90))) for _ in range(800)]
    queues = {0: (1, 2, 3), 1: (8, 9)}

    def key_store(key):
        async def run(ctx, dut):
            value = {"context": 0, "key": int.from_bytes(key, "little")}
            ctx.set(dut.rss_key_store.payload, value)
            ctx.set(dut.rss_key_store.valid, 1)
            await ctx.tick()
            ctx.set(dut.rss_key_store.valid, 0)

        return run

    def tables(ctx, dut):
        async def both():
            for context in (0, 1):
                await store_rss(ctx, dut, context, keys[context], queues[context])

        return both()

    stores = at_random(chance, len(frames), keys)

    def fate(frame, stored):
        context = int(frame[1] == 90)
        key = keys[1] if context else stored[-1] if stored else keys[0]
        flow = PEER + OWN + frame[0].to_bytes(2, "big") + frame[1].to_bytes(2, "big")
        value = toeplitz(key, flow)
        queue = queues[context][value % RSS_ENTRIES % len(queues[context])]
        return RxOutcome.SPLIT, queue, 4 + context, value

    results = flood(
        frames,
        {cycle: key_store(key) for cycle, key in stores.items()},
        before=[
            listener(Listener(4, 80, 0, rss=True)),
            listener(Listener(5, 90, 1, rss=True)),
            tables,
        ],
    )
    check(frames, results, stores, fate)


@pytest.mark.parametrize("kind", ("listener", "exact"))
def test_a_store_counts_for_frames_whose_addresses_come_later(kind):
    on, off = {
        "listener": (listener(RULES[0]), listener(RULES[2])),
        "exact": (
            exact(Exact(PEER, 40000, OWN, 80, queue=1)),
            exact(Exact(PEER, 40000, OWN, 80, queue=1, valid=False)),
        ),
    }[kind]
    results = flood([(40000, 80)] * 60, {20: on, 40: off})
    hits = [reason == RxOutcome.SPLIT for reason, *_ in results]
    assert not any(hits[: 20 - LATENCY])
    assert all(hits[21 : 40 - LATENCY])
    assert not any(hits[41:])
