"""Thin drivers for what no library knows: the card's inner streams and strobes, in a cocotb bench.

Names are those of `hdsnic.verilog.convert`: stream `frames` is `frames_valid`, `frames_ready` and a
`frames_payload_<field>` each. A payload that is no structure has the one field `value`.
"""

import functools
import random
from collections import deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiSlave, MemoryRegion

from hdsnic.interfaces import RegionRow
from hdsnic.parameters import Parameters

__all__ = ["Memory", "Sink", "Source", "Strobe", "pauses", "start", "until", "write_region"]

RESET_CYCLES = 8


async def start(dut):
    """Clock and reset; returns the random numbers of this run (the seed is in cocotb's log)."""
    cocotb.start_soon(Clock(dut.clk, 4, unit="ns").start())
    for handle in dut:
        if handle._name.endswith("_valid") and f"{handle._name[:-6]}_ready" not in dir(dut):
            handle.value = 0
    dut.rst.value = 1
    await ClockCycles(dut.clk, RESET_CYCLES)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    return random.Random(cocotb.RANDOM_SEED)


async def until(dut, condition, what, *, cycles=20_000):
    """Wait for a condition, at most so many cycles."""
    for _ in range(cycles):
        if condition():
            return
        await RisingEdge(dut.clk)
    raise AssertionError(f"{what}: not within {cycles} cycles")


async def write_region(dut, number, **row):
    """A row into the region table that `rtl.blocks` put beside the block; the rest is zero."""
    for field in RegionRow(Parameters()).members:
        getattr(dut, f"region_row_{field}").value = row.get(field, 0)
    dut.region_index.value, dut.region_write.value = number, 1
    await RisingEdge(dut.clk)
    dut.region_write.value = 0


def pauses(rng, chance):
    """For cocotbext-axi: a channel pauses with this chance in each cycle."""
    while True:
        yield rng.random() < chance


class _Port:
    """`<name>_valid`, perhaps `<name>_ready`, and the fields of `<name>_payload`."""

    def __init__(self, dut, name):
        self.dut, self.name = dut, name
        self.valid, self.ready = getattr(dut, f"{name}_valid"), None
        self.fields = {}
        prefix = f"{name}_payload"
        for handle in dut:
            if handle._name == f"{name}_ready":
                self.ready = handle
            elif handle._name == prefix:
                self.fields["value"] = handle
            elif handle._name.startswith(f"{prefix}_"):
                self.fields[handle._name[len(prefix) + 1 :]] = handle

    def drive(self, values):
        assert values.keys() <= self.fields.keys(), f"{self.name} has {sorted(self.fields)}"
        for field, handle in self.fields.items():
            handle.value = values.get(field, 0)

    def sample(self):
        return {field: int(handle.value) for field, handle in self.fields.items()}


class Source(_Port):
    """Offers what was `put`, in order; a new item is offered with `chance` in each cycle."""

    def __init__(self, dut, name, rng, chance=1.0):
        super().__init__(dut, name)
        self.rng, self.chance = rng, chance
        self.items = deque()
        self.valid.value = 0
        cocotb.start_soon(self._run())

    def put(self, *items):
        self.items.extend(items)

    async def _run(self):
        offered = False
        while True:
            await RisingEdge(self.dut.clk)
            if offered and int(self.ready.value):
                self.items.popleft()
                offered = False
                self.valid.value = 0
            if not offered and self.items and self.rng.random() < self.chance:
                offered = True
                self.drive(self.items[0])
                self.valid.value = 1


class Sink(_Port):
    """Takes with `chance` in each cycle; `taken` are the items, `take` is told of each.

    What was offered and not taken must be offered again.
    """

    def __init__(self, dut, name, rng, chance=1.0, take=None):
        super().__init__(dut, name)
        self.rng, self.chance = rng, chance
        self.taken = []
        self.take = take or self.taken.append
        self.ready.value = 0
        cocotb.start_soon(self._run())

    async def _run(self):
        waiting = None
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.valid.value):
                item = self.sample()
                assert waiting in (None, item), f"{self.name} changed while it was offered"
                waiting = item
                if int(self.ready.value):
                    waiting = None
                    self.take(item)
            else:
                assert waiting is None, f"{self.name} was withdrawn"
            self.ready.value = int(self.rng.random() < self.chance)


class Strobe(_Port):
    """Watches a strobe of the block: `seen`, and `see` is told of each. For inputs: `pulse`."""

    @classmethod
    def watch(cls, dut, name, see=None):
        self = cls(dut, name)
        self.seen = []
        self.see = see or self.seen.append
        cocotb.start_soon(self._run())
        return self

    async def _run(self):
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.valid.value):
                self.see(self.sample())

    @classmethod
    @functools.cache
    def _of(cls, dut, name):
        return cls(dut, name)

    @classmethod
    async def pulse(cls, dut, name, **values):
        """A strobe into the block."""
        port = cls._of(dut, name)
        port.drive(values)
        port.valid.value = 1
        await RisingEdge(dut.clk)
        port.valid.value = 0


class Memory(MemoryRegion):
    """Behind an AXI4 port `prefix`: random bytes, pauses and waits; what is in `failing` (a set of
    byte addresses) answers with SLVERR, and is not written.

    `pressure` is the chance of a pause in each cycle on each channel, `latency` the most cycles
    that a beat waits beside, now and then.
    """

    def __init__(self, dut, prefix, rng, size=1 << 20, *, pressure=0.2, latency=20):
        super().__init__(size, mem=None)
        self.dut, self.rng, self.latency = dut, rng, latency
        self.failing = set()
        self.uncertain = set()  # addresses of writes that a bench knows to fail in part
        self.mem[:] = rng.randbytes(size)
        self.slave = AxiSlave(AxiBus.from_prefix(dut, prefix), dut.clk, dut.rst, target=self)
        for side in (self.slave.write_if, self.slave.read_if):
            side.log.setLevel("ERROR")  # each error response would be a warning
            for channel in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
                if hasattr(side, channel):
                    getattr(side, channel).set_pause_generator(pauses(rng, pressure))

    def peek(self, address, length):
        return bytes(self.mem[address : address + length])

    def poke(self, address, data):
        self.mem[address : address + len(data)] = data

    async def _meet(self, address, length):
        if self.rng.random() < 0.05:
            await ClockCycles(self.dut.clk, self.rng.randint(1, self.latency))
        if not self.failing.isdisjoint(range(address, address + length)):
            raise OSError("an address that fails")

    async def _read(self, address, length, **_):
        await self._meet(address, length)
        return self.peek(address, length)

    async def _write(self, address, data, **_):
        await self._meet(address, len(data))
        self.poke(address, data)
