"""Bench of the command engine: header memory behind its read client, a stack that writes commands.

Around the engine stand models of what it asks: settings that take their time, a fence, the table of
exact rules, egress that takes placed frames. `run` returns once every command was completed.
"""

from random import Random

from amaranth.hdl import Module
from amaranth.sim import Simulator

from hdsnic import abi
from hdsnic.command import CommandEngine
from hdsnic.parameters import Parameters

CELL = abi.CELL_BYTES
HEADER_BASE = 0x10000
HEADER_PAGES = 16
RING, RING_LOG2 = 0x4000, 12  # offset of the command ring in header memory


class Bench:
    """A card of `width` bytes a beat; `pace` is the chance of every handshake in a cycle."""

    def __init__(self, width, seed=1, *, pace=1.0, latency=5, **parameters):
        self.p = Parameters(bus_bytes=width, **parameters)
        self.rng = Random(seed)
        self.pace, self.latency = pace, latency
        self.memory = bytearray(self.rng.randbytes(HEADER_PAGES * 4096))
        self.dut = CommandEngine(self.p)
        self.producer = 0
        self.commands = 0
        self.completions = []  # (kind's fields of CommandDone)
        self.frames = []  # (fields of SteeredFrame, bytes)
        self.stores = []  # fields of ExactStore, as they came
        self.asked = []  # ("revoke" | "off", bits), in their order
        self.fences = 0
        self.log = []  # what happened, in order
        self.failing = set()  # offsets whose read meets an error
        self.read_bytes = 0

    # -- the stack --------------------------------------------------------------------------

    def put(self, data: bytes):
        """Bytes of a command into the ring; cells are filled up."""
        data = data.ljust(-(-len(data) // CELL) * CELL, b"\xee")
        for k, byte in enumerate(data):
            at = (self.producer * CELL + k) % (1 << RING_LOG2)
            self.memory[RING + at] = byte
        self.producer += len(data) // CELL
        self.commands += 1

    def command(self, kind, cookie=0, **fields):
        self.put(abi.COMMAND.pack(kind=kind, cookie=cookie, **fields))

    def place(self, queue, ranges, cookie=0):
        first = {"offset": ranges[0][0], "length": ranges[0][1]} if ranges else {}
        data = abi.COMMAND.pack(
            kind=abi.CommandKind.PLACE, queue=queue, ranges=len(ranges), cookie=cookie, **first
        )
        for offset, length in ranges[1:]:
            data += abi.COMMAND_RANGE.pack(offset=offset, length=length)
        self.put(data)

    def rule(self, cookie=0, **fields):
        fixed = abi.COMMAND.pack(kind=abi.CommandKind.RULE, cookie=cookie)
        self.put(fixed + abi.EXACT_RULE.pack(**fields))

    # -- the surroundings -------------------------------------------------------------------

    def go(self):
        return self.pace == 1 or self.rng.random() < self.pace

    def beats_of(self, address, length, wrap):
        width, out = self.p.bus_bytes, []
        at, left = address - HEADER_BASE, length
        while left:
            begin = at % width
            count = min(width - begin, left)
            assert at >= 0 and at + count <= len(self.memory), "a read outside header memory"
            data = b"\xcc" * begin + self.memory[at : at + count]
            error = any(k in self.failing for k in range(at, at + count))
            out.append(
                {"data": int.from_bytes(data.ljust(width, b"\xcc"), "little"), "begin": begin,
                 "end": begin + count, "last": left == count, "error": error}
            )  # fmt: skip
            at, left = at + count, left - count
            if wrap and at % (1 << wrap) == 0:
                at -= 1 << wrap
        self.read_bytes += length
        return out

    async def _reads(self, ctx):
        request, beats = self.dut.read.request, self.dut.read.beats
        due = []  # (cycle, beat)
        now = 0
        while True:
            ready = self.go()
            ctx.set(request.ready, ready)
            ctx.set(beats.valid, bool(due) and due[0][0] <= now)
            if due and due[0][0] <= now:
                ctx.set(beats.payload, due[0][1])
            _, _, asked, payload, valid, taken = await ctx.tick().sample(
                request.valid, request.payload, beats.valid, beats.ready
            )
            if valid and taken:
                due.pop(0)
            if asked and ready:
                due += [
                    (now + self.latency, beat)
                    for beat in self.beats_of(payload.address, payload.length, payload.wrap_log2)
                ]
            now += 1

    async def _settings(self, ctx, asked, waiting, name):
        bits = 0
        left = 0
        while True:
            _, _, new = await ctx.tick().sample(asked)
            if new:
                self.asked.append((name, new))
                self.log.append(name)
                bits, left = bits | new, self.rng.randrange(1, 20)
            elif left:
                left -= 1
                if not left:
                    bits = 0
                    self.log.append(f"{name} done")
            ctx.set(waiting, bits)

    async def _fence(self, ctx):
        left = 0
        while True:
            _, _, begun = await ctx.tick().sample(self.dut.control.fence)
            if begun:
                self.fences += 1
                self.log.append("fence")
                left = self.rng.randrange(1, 20)
            elif left:
                left -= 1
                if not left:
                    self.log.append("fence done")
            ctx.set(self.dut.control.fenced, left == 0)

    async def _exact(self, ctx):
        store, left = self.dut.exact_store, 0
        while True:
            _, _, valid, payload, busy = await ctx.tick().sample(
                store.valid, store.payload, self.dut.exact_busy
            )
            if valid:
                assert not busy, "a rule was stored while the table was busy"
                self.stores.append({n: int(payload[n]) for n, _ in store.payload.shape()})
                self.log.append("rule")
                left = self.rng.randrange(6)
            elif left:
                left -= 1
                if not left:
                    self.log.append("rule done")
            ctx.set(self.dut.exact_busy, left > 0)

    async def _egress(self, ctx):
        frames, beats = self.dut.place_frames, self.dut.place_beats
        while True:
            while True:
                ctx.set(frames.ready, self.go())
                _, _, valid, ready, payload = await ctx.tick().sample(
                    frames.valid, frames.ready, frames.payload
                )
                if valid and ready:
                    break
            ctx.set(frames.ready, 0)
            fields = {n: int(payload[n]) for n, _ in frames.payload.shape()}
            data, last = b"", False
            while not last:
                ctx.set(beats.ready, self.go())
                _, _, valid, ready, beat = await ctx.tick().sample(
                    beats.valid, beats.ready, beats.payload
                )
                if valid and ready:
                    width = self.p.bus_bytes
                    last = bool(beat.last)
                    assert beat.count == width or last, "a beat that is not full within a frame"
                    data += int(beat.data).to_bytes(width, "little")[: beat.count]
            ctx.set(beats.ready, 0)
            self.frames.append((fields, data))
            self.log.append("frame")

    async def _completions(self, ctx):
        done = self.dut.completions
        while True:
            ctx.set(done.ready, self.go())
            _, _, valid, ready, payload = await ctx.tick().sample(
                done.valid, done.ready, done.payload
            )
            if valid and ready:
                self.completions.append({n: int(payload[n]) for n, _ in done.payload.shape()})
                self.log.append("completion")

    def run(self, scenario=None, cycles=20_000):
        """Set the ring up, ring once, run `scenario` beside it, wait for all completions."""
        m = Module()
        m.submodules.dut = self.dut
        control = self.dut.control
        simulator = Simulator(m)
        simulator.add_clock(1e-9)
        for part in (self._reads, self._fence, self._exact, self._egress, self._completions):
            simulator.add_testbench(part, background=True)
        for asked, waiting, name in (
            (control.revoke, control.revoking, "revoke"),
            (control.queue_off, control.switching, "off"),
        ):

            async def settings(ctx, asked=asked, waiting=waiting, name=name):
                await self._settings(ctx, asked, waiting, name)

            simulator.add_testbench(settings, background=True)

        async def stack(ctx):
            ctx.set(control.header_base, HEADER_BASE)
            ctx.set(control.header_pages, HEADER_PAGES)
            await self.set_ring(ctx)
            if scenario:
                await scenario(ctx)
            else:
                await self.ring(ctx, self.producer)
            left = cycles
            while len(self.completions) < self.commands:
                await ctx.tick()
                left -= 1
                assert left, f"{self.completions} of {self.commands} after {cycles} cycles"
            await ctx.tick().repeat(50)
            assert len(self.completions) == self.commands
            self.consumer = ctx.get(control.consumer)
            self.busy = ctx.get(control.busy)

        simulator.add_testbench(stack)
        simulator.run()
        return self

    async def set_ring(self, ctx):
        store = self.dut.control.ring_store
        ctx.set(self.dut.control.enable, 1)
        ctx.set(store.payload.base, HEADER_BASE + RING)
        ctx.set(store.payload.log2_bytes, RING_LOG2)
        ctx.set(store.valid, 1)
        await ctx.tick()
        ctx.set(store.valid, 0)

    async def ring(self, ctx, producer):
        bell = self.dut.control.producer
        ctx.set(bell.payload, producer & 0xFFFFFFFF)
        ctx.set(bell.valid, 1)
        await ctx.tick()
        ctx.set(bell.valid, 0)
