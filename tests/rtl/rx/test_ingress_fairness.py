"""A queue that floods the frame buffer loses its own frames, and no one else's (I7)."""

import itertools
from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator
from frames import pad, tcp, udp
from ingress_bench import Sent, beats_of, set_up, small
from setting import Listener, Setting

from hdsnic.abi import RxOutcome
from hdsnic.rx.ingress import Ingress

rx = RxOutcome
A_PORT, B_PORT, A, B = 80, 81, 3, 4
BEAT_CYCLES = 3  # the consumer's pace; frames over their share it passes over at a beat a cycle
LISTENERS = (Listener(5, A_PORT, A), Listener(6, B_PORT, B), Listener(7, A_PORT, A, udp=True))
FAIR = Setting(listeners=LISTENERS, watermark=64, share=48)
UNFAIR = Setting(listeners=LISTENERS)


@dataclass
class Fates:
    """What became of the frames, in order of their coming out."""

    frames: list[tuple] = field(default_factory=list)  # queue, reason, bytes of beats
    outcomes: list[RxOutcome] = field(default_factory=list)

    def reasons(self, queue):
        return [reason for at, reason, _ in self.frames if at == queue]


def flood(frames, bus_bytes, setting):
    """Send without a gap (but for `Sent.idle`) to a consumer that works like the egress half."""
    parameters = small(bus_bytes)
    dut = Ingress(parameters)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    fates = Fates()

    async def send(ctx):
        await set_up(ctx, dut, setting, parameters)
        for frame in frames:
            sent = frame if isinstance(frame, Sent) else Sent(frame)
            for _ in range(sent.idle):
                await ctx.tick()
            for beat in beats_of(sent, bus_bytes):
                ctx.set(dut.mac.valid, 1)
                ctx.set(dut.mac.payload, beat)
                await ctx.tick()
                ctx.set(dut.mac.valid, 0)
        while len(fates.frames) + len(fates.outcomes) < len(frames):
            await ctx.tick()

    async def consume(ctx):
        while True:
            frame = await taken(ctx, dut.frames)
            reason, size, last = RxOutcome(frame.reason), 0, False
            while not last:
                if reason != rx.FAIR_SHARE:
                    for _ in range(BEAT_CYCLES - 1):
                        await ctx.tick()
                beat = await taken(ctx, dut.beats)
                size, last = size + beat.count, beat.last
            fates.frames.append((frame.queue, reason, size))

    async def watch(ctx):
        async for _, _, valid, why in ctx.tick().sample(dut.outcome.valid, dut.outcome.payload):
            if valid:
                fates.outcomes.append(RxOutcome(why))

    sim.add_testbench(send)
    for process in (consume, watch):
        sim.add_testbench(process, background=True)
    sim.run()
    return fates


async def taken(ctx, source):
    """The next payload of a stream."""
    ctx.set(source.ready, 1)
    valid = 0
    while not valid:
        *_, valid, payload = await ctx.tick().sample(source.valid, source.payload)
    ctx.set(source.ready, 0)
    return payload


def mixture(size_a, size_b, total, share_of_b=10):
    """Frames of both applications, B with one byte of `share_of_b`."""
    a, b = tcp(size_a, port=A_PORT), tcp(size_b, port=B_PORT)
    every = max(1, round((share_of_b - 1) * len(b) / len(a)))
    return [
        frame
        for group in itertools.repeat([a] * every + [b], total // (every * len(a) + len(b)))
        for frame in group
    ]


@pytest.mark.parametrize(
    ("bus_bytes", "sizes"),
    ((64, (6, 6)), (64, (1400, 6)), (64, (6, 700)), (64, (700, 700)), (8, (6, 6)), (8, (700, 6))),
)
def test_a_flood_for_one_application_drops_no_frame_of_another(bus_bytes, sizes):
    frames = mixture(*sizes, total=56000 if bus_bytes == 64 else 20000)
    of_b = sum(frame == tcp(sizes[1], port=B_PORT) for frame in frames)
    fair = flood(frames, bus_bytes, FAIR)
    assert fair.reasons(B) == [rx.SPLIT] * of_b
    assert set(fair.outcomes) <= {rx.FAIR_SHARE}
    assert set(fair.reasons(A)) == {rx.SPLIT, rx.FAIR_SHARE}
    assert fair.reasons(A).count(rx.SPLIT) > 10


def test_without_a_watermark_the_same_flood_drops_frames_of_both():
    frames = mixture(700, 700, total=56000)
    unfair = flood(frames, 64, UNFAIR)
    assert set(unfair.outcomes) == {rx.OVERFLOW}
    assert len(unfair.reasons(B)) < sum(frame == tcp(700, port=B_PORT) for frame in frames)


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_a_frame_over_its_share_keeps_its_queue_and_leaves_one_beat(bus_bytes):
    frames = [tcp(1000, port=A_PORT)] * 20
    fates = flood(frames, bus_bytes, FAIR)
    over = [size for queue, reason, size in fates.frames if reason == rx.FAIR_SHARE]
    assert over and max(over) <= bus_bytes
    assert {queue for queue, _, _ in fates.frames} == {A}
    whole = [size for _, reason, size in fates.frames if reason == rx.SPLIT]
    assert whole == [len(frames[0])] * (len(frames) - len(over))
    assert not fates.outcomes


def test_the_account_is_level_again_when_the_buffer_is_empty():
    burst = [tcp(700, port=A_PORT)] * 20 + [tcp(6, port=A_PORT)] * 30
    pause = Sent(tcp(0, port=B_PORT), idle=1500)
    # all is of one queue: only the account of that queue decides
    setting = Setting(listeners=LISTENERS, watermark=8, share=100)
    fates = flood([*burst, pause, *burst, pause, *burst, pause], 64, setting)
    assert not fates.outcomes
    rounds = [list(group) for in_a, group in itertools.groupby(
        fates.frames, key=lambda fate: fate[0] == A) if in_a]  # fmt: skip
    assert len(rounds) == 3
    assert rounds[0] == rounds[1] == rounds[2]
    assert {reason for _, reason, _ in rounds[0]} == {rx.SPLIT, rx.FAIR_SHARE}


def test_unsplit_frames_count_for_queue_0():
    other = pad(tcp(0)[:12] + b"\x88\xcc" + bytes(600))
    datagram = udp(600, port=A_PORT)
    fates = flood([other, datagram] * 40 + [tcp(6, port=B_PORT)] * 3, 64, FAIR)
    assert set(fates.reasons(0)) == {rx.NOT_IP, rx.UDP_WHOLE, rx.FAIR_SHARE}
    assert not fates.reasons(A)
    assert fates.reasons(B) == [rx.SPLIT] * 3


def test_below_the_watermark_a_queue_may_hold_more_than_its_share():
    setting = Setting(listeners=LISTENERS, watermark=200, share=1)
    fates = flood([tcp(1000, port=A_PORT)] * 10, 64, setting)
    assert fates.reasons(A) == [rx.SPLIT] * 10
