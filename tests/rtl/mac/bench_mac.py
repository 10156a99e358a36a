"""The MAC's adapters: frames of any length, marks of bad ones, and a MAC that stops."""

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSink, AxiStreamSource
from rtl.drivers import pauses, start, until

TIMEOUT = 60


class Bench:
    @classmethod
    async def start(cls, dut, *, timeout=0):
        self = cls()
        self.dut = dut
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        dut.timeout.value = timeout
        self.rng = await start(dut)
        self.bus_bytes = len(dut.s_axis_tkeep)
        return self

    def press(self):
        for side in (self.source, self.sink):
            side.set_pause_generator(pauses(self.rng, self.rng.choice((0, 0.2, 0.6))))

    async def send(self, data, error=False, keep=None):
        frame = AxiStreamFrame(data, tkeep=keep, tuser=[0] * (len(data) - 1) + [int(error)])
        await self.source.send(frame)

    async def taken(self):
        """The next frame that left: its bytes, and whether it was marked."""
        await until(self.dut, lambda: not self.sink.empty(), "a frame")
        frame = await self.sink.recv()
        user = frame.tuser[-1] if isinstance(frame.tuser, list) else frame.tuser
        return bytes(frame.tdata), bool(user)


@cocotb.test()
async def frames_of_any_length_go_through_with_their_mark(dut):
    bench = await Bench.start(dut)
    bench.press()
    rng = bench.rng
    sizes = [*range(1, 2 * bench.bus_bytes + 2), *(rng.randrange(1, 600) for _ in range(40))]
    rng.shuffle(sizes)
    frames = [(rng.randbytes(size), rng.random() < 0.2) for size in sizes]
    for frame in frames:
        await bench.send(*frame)
    for frame in frames:
        assert await bench.taken() == frame


@cocotb.test()
async def a_last_beat_with_a_hole_or_with_nothing_is_one_byte_of_a_bad_frame(dut):
    bench = await Bench.start(dut)
    bench.press()
    width, wanted = bench.bus_bytes, []
    for _ in range(40):
        whole = bench.rng.randbytes(width * bench.rng.randrange(4))
        last = bench.rng.randbytes(width)
        keep = [bench.rng.randrange(2) for _ in range(width)]
        if bench.rng.random() < 0.2:
            keep = [0] * width
        good = keep[: sum(keep)] == [1] * sum(keep) and any(keep)
        await bench.send(whole + last, keep=[1] * len(whole) + keep)
        wanted.append((whole + last[: sum(keep) if good else 1], not good))
    for frame in wanted:
        assert await bench.taken() == frame


@cocotb.test()
async def a_mac_that_stops_loses_frames_that_are_counted_and_gets_whole_ones_later(dut):
    bench = await Bench.start(dut, timeout=TIMEOUT)
    flushed = 0

    async def count():
        nonlocal flushed
        while True:
            await RisingEdge(dut.clk)
            flushed += int(dut.flushed.value)

    cocotb.start_soon(count())
    sent, whole, cut = [], [], 0

    async def drain():
        nonlocal cut
        await until(dut, bench.source.idle, "all frames to be taken")
        await ClockCycles(dut.clk, 20)
        while not bench.sink.empty():
            data, bad = await bench.taken()
            cut += bad
            if not bad:
                whole.append(data)

    for _ in range(6):
        lost = [bench.rng.randbytes(bench.rng.randrange(1, 400)) for _ in range(5)]
        bench.sink.pause = bench.rng.random() < 0.8
        for frame in lost:
            await bench.send(frame)
        if bench.sink.pause:
            await until(dut, lambda: int(dut.stalled.value), "the stall", cycles=2 * TIMEOUT)
        await ClockCycles(dut.clk, bench.rng.randrange(200))
        bench.sink.pause = False
        await drain()
        assert not int(dut.stalled.value)
        later = [bench.rng.randbytes(bench.rng.randrange(1, 400)) for _ in range(3)]
        for frame in later:
            await bench.send(frame)
        await drain()
        assert whole[-3:] == later
        sent += [*lost, *later]
    assert len(whole) + flushed == len(sent)
    left = iter(sent)
    assert all(frame in left for frame in whole), "not the frames that were sent, in their order"
    assert cut <= flushed
