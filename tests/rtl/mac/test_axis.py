"""Frames from and to a MAC: kept bytes, marks of bad frames, and a MAC that stops taking."""

import pytest
from rtl.simulation import simulate

from hdsnic.mac import FrameFromMAC, FrameToMAC

TIMEOUT = 30
WIDTHS = pytest.mark.parametrize("bus_bytes", [8, 64])


def frames_of(bus_bytes, count):
    """Frames of one beat and of several, of every length of the last beat in turn."""
    return [
        bytes((17 * k + i) & 0xFF for i in range((k % 4) * bus_bytes + 1 + k % bus_bytes))
        for k in range(count)
    ]


def beats_of(frame, bus_bytes, error=0):
    chunks = [frame[k : k + bus_bytes] for k in range(0, len(frame), bus_bytes)]
    return [
        {
            "data": int.from_bytes(chunk, "little"), "count": len(chunk),
            "last": k == len(chunks) - 1, "error": error and k == len(chunks) - 1,
        }
        for k, chunk in enumerate(chunks)
    ]  # fmt: skip


def source(dut, frames, bus_bytes):
    """A process that gives frames as fast as they are taken."""

    async def run(ctx):
        for frame in frames:
            for beat in beats_of(frame, bus_bytes):
                ctx.set(dut.beats.payload, beat)
                ctx.set(dut.beats.valid, 1)
                await ctx.tick().until(dut.beats.ready)
        ctx.set(dut.beats.valid, 0)

    return run


class Mac:
    """Takes frames while `takes` is set; sees that what is offered stays until it is taken."""

    def __init__(self, dut):
        self.dut, self.takes = dut, True
        self.frames, self.bad, self.part = [], [], b""
        self.flushed = self.beats = self.cycle = 0

    async def run(self, ctx):
        axis, offered = self.dut.axis, None
        while True:
            ctx.set(axis.tready, self.takes)
            *_, valid, ready, data, keep, last, user, flushed = await ctx.tick().sample(
                axis.tvalid, axis.tready, axis.tdata, axis.tkeep, axis.tlast, axis.tuser,
                self.dut.flushed,
            )  # fmt: skip
            self.cycle += 1
            self.flushed += flushed
            beat = (data, keep, last, user)
            if offered is not None:
                assert valid and beat == offered, "a beat changed while it was offered"
            offered = beat if valid and not ready else None
            if not (valid and ready):
                continue
            self.beats += 1
            count = keep.bit_length()
            assert keep == (1 << count) - 1
            self.part += data.to_bytes(len(axis.tdata) // 8, "little")[:count]
            if last:
                (self.bad if user else self.frames).append(self.part)
                self.part = b""


@WIDTHS
def test_frames_leave_whole_a_beat_a_cycle(bus_bytes):
    dut = FrameToMAC(bus_bytes)
    mac, frames = Mac(dut), frames_of(bus_bytes, 80)
    simulate(dut, source(dut, frames, bus_bytes), background=(mac.run,))
    assert mac.frames == frames and not mac.bad and not mac.flushed
    assert mac.cycle - mac.beats <= 3


@WIDTHS
@pytest.mark.parametrize("stop_after", [0, 1, 5, 6, 7, 8])
def test_a_mac_that_stalls_loses_frames_and_holds_up_nobody(bus_bytes, stop_after):
    dut = FrameToMAC(bus_bytes)
    mac, frames = Mac(dut), frames_of(bus_bytes, 40)
    later = frames_of(bus_bytes, 24)[8:]
    seen = []

    async def stop(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        mac.takes = stop_after > 0
        while mac.beats < stop_after:
            await ctx.tick()
        mac.takes = False

    async def run(ctx):
        await source(dut, frames, bus_bytes)(ctx)  # ends though nothing is taken
        assert ctx.get(dut.stalled)
        await ctx.tick().repeat(50)
        seen.append(len(mac.frames))
        mac.takes = True
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.stalled)
        await source(dut, later, bus_bytes)(ctx)
        await ctx.tick().repeat(3)

    simulate(dut, stop, run, background=(mac.run,))
    # Whole frames, in order: those before the stall, and all after it; at most one cut between.
    whole = len(mac.frames) - len(later)
    assert mac.frames == frames[:whole] + later
    assert len(mac.bad) <= 1 and mac.part == b""
    assert mac.flushed == len(frames) - whole
    for cut in mac.bad:
        assert frames[whole].startswith(cut[:-1]) and len(cut) < len(frames[whole])


@WIDTHS
def test_a_mac_that_comes_back_amid_a_frame_gets_the_next_one_whole(bus_bytes):
    dut = FrameToMAC(bus_bytes)
    mac = Mac(dut)
    long, after = bytes(range(200)) * 4, frames_of(bus_bytes, 6)
    slow = []

    async def give(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        for k, beat in enumerate(beats_of(long, bus_bytes)):
            if k == 3:  # by now the MAC has stalled; the frame's rest comes when it is back
                await ctx.tick().until(dut.stalled)
                mac.takes = True
                await ctx.tick().repeat(10)
                slow.append(ctx.get(dut.stalled))
            ctx.set(dut.beats.payload, beat)
            ctx.set(dut.beats.valid, 1)
            await ctx.tick().until(dut.beats.ready)
            ctx.set(dut.beats.valid, 0)
        await source(dut, after, bus_bytes)(ctx)
        await ctx.tick().repeat(3)

    async def stop(ctx):
        while mac.beats < 1:
            await ctx.tick()
        mac.takes = False

    simulate(dut, give, stop, background=(mac.run,))
    assert slow == [1]  # stalled until the frame's end has come and gone
    assert mac.frames == after
    assert len(mac.bad) == 1 and mac.flushed == 1


@WIDTHS
@pytest.mark.parametrize("back_after", range(40, 48))
def test_frames_that_come_while_the_mac_comes_back_are_whole_or_counted(bus_bytes, back_after):
    dut = FrameToMAC(bus_bytes)
    mac, frames = Mac(dut), frames_of(bus_bytes, 120)

    async def blink(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        await ctx.tick().repeat(10)
        mac.takes = False
        await ctx.tick().repeat(back_after)
        assert ctx.get(dut.stalled)
        mac.takes = True

    simulate(dut, blink, source(dut, frames, bus_bytes), background=(mac.run,))
    assert set(mac.frames) <= set(frames) and len(mac.bad) <= 1
    assert 0 < mac.flushed == len(frames) - len(mac.frames)


def test_a_slow_mac_has_not_stalled():
    dut = FrameToMAC(8)
    mac, frames = Mac(dut), frames_of(8, 6)

    async def blink(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        while len(mac.frames) < len(frames):
            mac.takes = not mac.takes
            await ctx.tick().repeat(1 if mac.takes else TIMEOUT - 2)
            assert not ctx.get(dut.stalled)

    simulate(dut, blink, source(dut, frames, 8), background=(mac.run,))
    assert mac.frames == frames and not mac.flushed


def test_without_a_timeout_the_mac_may_take_any_time():
    dut = FrameToMAC(8)
    mac, frames = Mac(dut), frames_of(8, 4)
    mac.takes = False

    async def wake(ctx):
        await ctx.tick().repeat(2000)
        assert not ctx.get(dut.stalled)
        mac.takes = True

    simulate(dut, wake, source(dut, frames, 8), background=(mac.run,))
    assert mac.frames == frames


# -- from the MAC ----------------------------------------------------------------------------------


def taken(dut, axis_beats):
    """What `FrameFromMAC` makes of beats of (keep, last, user)."""
    out = []

    async def run(ctx):
        ctx.set(dut.beats.ready, 1)
        for keep, last, user in axis_beats:
            ctx.set(dut.axis.tkeep, keep)
            ctx.set(dut.axis.tlast, last)
            ctx.set(dut.axis.tuser, user)
            ctx.set(dut.axis.tvalid, 1)
            *_, valid, beat, ready = await ctx.tick().sample(
                dut.beats.valid, dut.beats.payload, dut.axis.tready
            )
            assert valid and ready
            out.append((beat.count, beat.last, beat.error))

    simulate(dut, run)
    return out


@WIDTHS
def test_the_last_beat_tells_how_many_bytes_it_keeps(bus_bytes):
    beats = [((1 << count) - 1, 1, 0) for count in range(1, bus_bytes + 1)]
    assert taken(FrameFromMAC(bus_bytes), beats) == [
        (count, 1, 0) for count in range(1, bus_bytes + 1)
    ]


def test_a_mark_on_the_last_beat_alone_makes_a_frame_bad():
    assert taken(FrameFromMAC(8), [(0xFF, 0, 1), (0xFF, 1, 0), (0xFF, 1, 1)]) == [
        (8, 0, 0), (8, 1, 0), (8, 1, 1),
    ]  # fmt: skip


def test_a_last_beat_that_keeps_nothing_or_has_gaps_is_bad():
    for keep in (0, 0b10, 0b1011, 0xFE):
        assert taken(FrameFromMAC(8), [(keep, 1, 0)]) == [(1, 1, 1)]


def test_a_frame_that_does_not_end_is_taken_at_a_beat_a_cycle():
    assert taken(FrameFromMAC(8), [(0xFF, 0, 0)] * 3000 + [(1, 1, 0)])[-1] == (1, 1, 0)
