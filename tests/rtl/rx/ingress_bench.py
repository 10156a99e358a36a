"""Bench of the receive ingress: frames in, all that comes out, and whether it adds up.

`run` sends frames through `Ingress` in Amaranth's simulator and gives back a `Result`. It checks
on every run what must always hold: each frame has one announcement or one outcome, and the beats
that come out are those of the announced frames, in order, full but for the last.
"""

import itertools
import random
from dataclasses import dataclass, field

from amaranth.sim import Simulator
from setting import OWN_MAC, Setting

from hdsnic.abi import RSS_ENTRIES, RxOutcome
from hdsnic.interfaces import SteeredFrame
from hdsnic.parameters import Parameters
from hdsnic.rx.ingress import Ingress
from hdsnic.rx.parse import PARSER_CYCLES
from hdsnic.rx.verify import VERDICT_CYCLES


@dataclass(frozen=True)
class Sent:
    """A frame to send; `error` is the MAC's mark; `idle` cycles go before it."""

    data: bytes
    error: bool = False
    idle: int = 0
    last_count: int | None = None  # a wrong `count` on the last beat


@dataclass
class Result:
    frames: list[dict] = field(default_factory=list)  # fields of SteeredFrame and `bytes`
    outcomes: list[RxOutcome] = field(default_factory=list)  # of dropped frames
    lengths: list[int] = field(default_factory=list)  # frame_bytes at each frame_done
    looked_up_cycles: list[int] = field(default_factory=list)
    input_cycles: int = 0  # from the first beat to the last
    beat_cycles: list[int] = field(default_factory=list)  # when beats were taken
    frame_cycles: list[int] = field(default_factory=list)  # when frames were announced
    last_beat_cycles: list[int] = field(default_factory=list)  # when last beats went in
    time_stamps: list[int] = field(default_factory=list)  # of the announced frames


def small(bus_bytes, **more):
    """Parameters that build fast and leave nothing out."""
    settings = {
        "listeners": 12, "range_listeners": 2, "local_addresses": 3, "exact_ways": 2,
        "exact_rows": 16, "rss_contexts": 4,
    }  # fmt: skip
    return Parameters(bus_bytes=bus_bytes, rx_buffer_bytes=16384, **(settings | more))


def beats_of(sent, bus_bytes):
    """Values of FrameBeat for a frame."""
    data = sent.data
    for at in range(0, len(data), bus_bytes):
        piece = data[at : at + bus_bytes]
        last = at + bus_bytes >= len(data)
        # what lies beyond `count` is nobody's: make it something that would be seen
        piece = piece + b"\x81\x00\x08\x00\x45\xff"[: bus_bytes - len(piece)]
        count = sent.last_count if last and sent.last_count is not None else None
        yield {
            "data": int.from_bytes(piece, "little"),
            "count": min(bus_bytes, len(data) - at) if count is None else count,
            "last": int(last),
            "error": int(last and sent.error),
        }


def run(
    frames,
    parameters,
    setting=None,
    *,
    ready=1.0,
    frames_ready=1.0,
    valid=1.0,
    seed=1,
    blocked=0,
    during=None,
):
    """Send `frames`, collect what comes out; give a `Result`.

    `ready`, `frames_ready`, `valid`: probability, each cycle, that `beats` and `frames` are taken
    and that the MAC has a beat. `blocked`: neither is taken in so many first cycles.
    `during(ctx, dut)`: runs beside it, from the first beat on.
    """
    setting = setting or Setting()
    frames = [f if isinstance(f, Sent) else Sent(f) for f in frames]
    dut = Ingress(parameters)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    chance = random.Random(seed)
    result = Result()
    payloads = []
    fields = list(SteeredFrame(parameters).members)
    state = {"sent": False, "set up": False}

    async def count(ctx):
        for cycle in itertools.count():
            ctx.set(dut.cycles, cycle)
            await ctx.tick()

    async def send(ctx):
        await set_up(ctx, dut, setting, parameters)
        state["set up"] = True
        first = None
        for sent in frames:
            for _ in range(sent.idle):
                await ctx.tick()
            for beat in beats_of(sent, parameters.bus_bytes):
                while chance.random() >= valid:
                    await ctx.tick()
                ctx.set(dut.mac.valid, 1)
                ctx.set(dut.mac.payload, beat)
                now = ctx.get(dut.cycles)
                first = now if first is None else first
                if beat["last"]:
                    result.last_beat_cycles.append(now)
                await ctx.tick()
                ctx.set(dut.mac.valid, 0)
            result.input_cycles = now + 1 - first
        state["sent"] = True

    async def take(ctx):
        for cycle in itertools.count():
            if cycle >= blocked:
                ctx.set(dut.beats.ready, chance.random() < ready)
                ctx.set(dut.frames.ready, chance.random() < frames_ready)
            await ctx.tick()

    async def watch(ctx):
        data = bytearray()
        sampled = ctx.tick().sample(
            dut.cycles,
            dut.mac.ready,
            dut.outcome.valid,
            dut.outcome.payload,
            dut.looked_up,
            dut.frame_done,
            dut.frame_bytes,
            dut.frames.valid & dut.frames.ready,
            dut.frames.payload,
            dut.beats.valid & dut.beats.ready,
            dut.beats.payload,
        )
        async for (
            _,
            reset,
            now,
            mac_ready,
            dropped,
            why,
            looked,
            done,
            size,
            go,
            frame_at,
            move,
            at,
        ) in sampled:
            assert not reset
            assert mac_ready, "the wire never waits"
            if dropped:
                result.outcomes.append(RxOutcome(why))
            if looked:
                result.looked_up_cycles.append(now)
            if done:
                result.lengths.append(size)
            if go:
                frame = {name: frame_at[name] for name in fields}
                result.time_stamps.append(frame.pop("time_stamp"))
                result.frames.append(frame)
                result.frame_cycles.append(now)
            if move:
                result.beat_cycles.append(now)
                assert not at.error
                assert at.last or at.count == parameters.bus_bytes
                data += at.data.to_bytes(parameters.bus_bytes, "little")[: at.count]
                if at.last:
                    payloads.append(bytes(data))
                    data.clear()

    async def beside(ctx):
        while not state["set up"]:
            await ctx.tick()
        await during(ctx, dut)

    def complete():
        return state["sent"] and len(payloads) + len(result.outcomes) >= len(frames)

    async def bound(ctx):
        beats = sum(len(f.data) // parameters.bus_bytes + 1 + f.idle for f in frames)
        slowest = min(ready, frames_ready, valid)
        for _ in range(int(4 * beats / slowest) + blocked + 2000):
            await ctx.tick()
            if complete():
                break
        assert complete(), "frames are missing"
        await ctx.tick().repeat(60)  # nothing more may come

    sim.add_testbench(count, background=True)  # first: the others read the cycle
    for process in (send, bound):
        sim.add_testbench(process)
    for process in (take, watch, *([beside] if during else [])):
        sim.add_testbench(process, background=True)
    sim.run()

    assert len(result.frames) == len(payloads) == len(result.looked_up_cycles)
    assert len(result.frames) + len(result.outcomes) == len(frames)
    assert len(result.lengths) == len(frames)
    for steered, payload in zip(result.frames, payloads, strict=True):
        steered["bytes"] = payload
        if steered["reason"] == RxOutcome.FAIR_SHARE:
            assert 0 < len(payload) <= parameters.bus_bytes, "its last beat only"
        else:
            assert steered["length"] == len(payload)
    pairs = zip(result.looked_up_cycles, result.time_stamps, strict=True)
    assert {looked - stamp for looked, stamp in pairs} <= {PARSER_CYCLES + VERDICT_CYCLES}
    assert set(result.time_stamps) <= set(result.last_beat_cycles)
    return result


async def set_up(ctx, dut, setting, parameters):
    """Switches and tables as `setting` has them; waits until exact rules can be stored."""
    ctx.set(dut.mac_address, int.from_bytes(OWN_MAC, "little"))
    for name in ("receive", "promiscuous", "udp_split", "deliver_malformed", "watermark", "share"):
        ctx.set(getattr(dut, name), int(getattr(setting, name)))
    for index, address in enumerate(setting.addresses):
        await store_address(ctx, dut, index, address)
    for listener in setting.listeners:
        await store_listener(ctx, dut, listener)
    for context, (key, queues) in setting.rss.items():
        await store_rss(ctx, dut, context, key, queues)
    await ctx.tick().until(~dut.exact_busy)
    for rule in setting.exact:
        await store_exact(ctx, dut, rule, parameters)


async def store_address(ctx, dut, index, address):
    """Write an entry of the address table: 4 or 16 bytes, or None to clear it."""
    value = {"index": index, "valid": 0, "ipv6": 0, "address": 0}
    if address is not None:
        value |= {"valid": 1, "ipv6": int(len(address) == 16)}
        value["address"] = int.from_bytes(address, "little")
    ctx.set(dut.address_store.payload, value)
    ctx.set(dut.address_store.valid, 1)
    await ctx.tick()
    ctx.set(dut.address_store.valid, 0)


async def store_listener(ctx, dut, listener):
    """Write a rule."""
    ctx.set(
        dut.listener_store.payload,
        {
            "index": listener.index,
            "valid": int(listener.valid),
            "udp": int(listener.udp),
            "rss": int(listener.rss),
            "any_address": int(listener.address is None),
            "address": listener.address or 0,
            "queue": listener.queue,
            "first": listener.first,
            "last": listener.last,
        },
    )
    ctx.set(dut.listener_store.valid, 1)
    await ctx.tick()
    ctx.set(dut.listener_store.valid, 0)


async def store(ctx, port, value):
    """A strobe with `value`."""
    ctx.set(port.payload, value)
    ctx.set(port.valid, 1)
    await ctx.tick()
    ctx.set(port.valid, 0)


async def store_exact(ctx, dut, rule, parameters):
    """Write an exact rule into its slot."""
    await store(
        ctx,
        dut.exact_store,
        {
            "slot": rule.slot(parameters),
            "valid": int(rule.valid),
            "ipv6": int(len(rule.remote) == 16),
            "udp": int(rule.udp),
            "rss": int(rule.rss),
            "queue": rule.queue,
            "remote_port": rule.remote_port,
            "local_port": rule.local_port,
            "remote": int.from_bytes(rule.remote, "little"),
            "local": int.from_bytes(rule.local, "little"),
        },
    )


async def store_rss(ctx, dut, context, key, queues):
    """Write a context's key, and its table with `queues` over and over."""
    value = {"context": context, "key": int.from_bytes(key, "little")}
    await store(ctx, dut.rss_key_store, value)
    for entry in range(RSS_ENTRIES):
        value = {"context": context, "entry": entry, "queue": queues[entry % len(queues)]}
        await store(ctx, dut.rss_table_store, value)
