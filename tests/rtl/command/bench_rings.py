"""Command ring and completion rings in one header memory: what is asked for is done, then told."""

from collections import Counter

import cocotb
from cocotb.triggers import ClockCycles, RisingEdge
from rtl.blocks import parameters
from rtl.drivers import Memory, Sink, Source, Strobe, start, until

from hdsnic import abi
from hdsnic.abi import CommandKind, CompletionKind, RxOutcome

CELL = abi.CELL_BYTES
BASE, PAGES = 0x10000, 16
"""Header memory."""
COMMANDS, LOG2 = 0x4000, 12
DATA_AT, DATA_BYTES = 0x8000, 0x8000
"""Bytes that PLACE commands name; rings lie below."""
DONE, REFUSED, LOST = range(3)

FAULT_QUEUES = (0, 1, 2)
NO_RING = 3
FAULTS = 40


class Host:
    @classmethod
    async def start(cls, dut, *, pressure):
        self = cls()
        self.dut, self.p = dut, parameters(len(dut.m_axi_hdr_wstrb))
        for name in (
            "control_enable",
            "control_revoking",
            "control_switching",
            "exact_busy",
            "pause",
        ):
            getattr(dut, name).value = 0
        dut.control_fenced.value = 1
        dut.control_header_base.value, dut.control_header_pages.value = BASE, PAGES
        self.rng = rng = await start(dut)
        self.memory = Memory(dut, "m_axi_hdr", rng, pressure=pressure)
        self.before = bytearray(self.memory.mem[:])
        self.producer = self.cookie = 0
        self.shown, self.told = Counter(), []  # completion rings: index shown; (queue, fields)
        self.frames, self.beats = [], []
        self.asked, self.stores = [], Strobe.watch(dut, "exact_store").seen
        self.lost = 0
        chance = rng.choice((0.4, 1))
        Sink(dut, "place_frames", rng, chance, self.frames.append)
        Sink(dut, "place_beats", rng, chance, self.beats.append)
        Sink(dut, "index", rng, chance, self._index)
        self.faults = [Source(dut, f"faults_{k}", rng, 0.05) for k in range(3)]
        cocotb.start_soon(self._settings("revoke", dut.control_revoke, dut.control_revoking))
        cocotb.start_soon(self._settings("off", dut.control_queue_off, dut.control_switching))
        cocotb.start_soon(self._fence())
        cocotb.start_soon(self._count_lost())
        for queue in FAULT_QUEUES:
            ring = {"base": self.ring(queue), "log2_bytes": LOG2}
            await Strobe.pulse(dut, "ring_store", queue=queue, enable=1, **ring)
        dut.control_enable.value = 1
        ring = {"base": BASE + COMMANDS, "log2_bytes": LOG2, "enable": 1}
        await Strobe.pulse(dut, "control_ring_store", **ring)
        return self

    @staticmethod
    def ring(queue):
        return BASE + (queue << LOG2)

    # -- what the card would do --------------------------------------------------------------------

    async def _settings(self, name, asked, waiting):
        """Carries out what is asked for after a while."""
        while True:
            await RisingEdge(self.dut.clk)
            bits = int(asked.value)
            if bits:
                waiting.value = bits
                await ClockCycles(self.dut.clk, self.rng.randrange(1, 30))
                self.asked.append((name, bits))
                waiting.value = 0

    async def _fence(self):
        while True:
            await RisingEdge(self.dut.clk)
            if int(self.dut.control_fence.value):
                self.dut.control_fenced.value = 0
                await ClockCycles(self.dut.clk, self.rng.randrange(1, 30))
                self.asked.append(("fence", len(self.stores)))
                self.dut.control_fenced.value = 1

    async def _count_lost(self):
        while True:
            await RisingEdge(self.dut.clk)
            self.lost += int(self.dut.lost.value)

    # -- the stack ---------------------------------------------------------------------------------

    def put(self, kind, tail=b"", **fields):
        """A command into the ring; returns its cookie."""
        self.cookie += 1
        data = abi.COMMAND.pack(kind=kind, cookie=self.cookie, **fields) + tail
        data = data.ljust(-(-len(data) // CELL) * CELL, b"\xee")
        for at in range(0, len(data), CELL):
            place = BASE + COMMANDS + self.producer * CELL % (1 << LOG2)
            self.memory.poke(place, data[at : at + CELL])
            self.before[place : place + CELL] = data[at : at + CELL]
            self.producer += 1
        return self.cookie

    async def ring_bell(self):
        await Strobe.pulse(self.dut, "control_producer", value=self.producer)

    def _index(self, told):
        """A completion shows: it must be in memory."""
        queue = told["queue"]
        while self.shown[queue] != told["index"]:
            at = self.ring(queue) + self.shown[queue] * CELL % (1 << LOG2)
            data = self.memory.peek(at, CELL)
            self.before[at : at + CELL] = data
            self.told.append((queue, abi.COMPLETION.unpack(data)))
            self.shown[queue] += 1

    def commands_told(self):
        return [
            (fields["cookie"], fields["status"])
            for queue, fields in self.told
            if fields["kind"] == CompletionKind.COMMAND and queue == 0
        ]

    def placed(self):
        """(fields, bytes) of the frames that came."""
        out, frames, data = [], iter(self.frames), b""
        for beat in self.beats:
            data += beat["data"].to_bytes(self.p.bus_bytes, "little")[: beat["count"]]
            if beat["last"]:
                out.append((next(frames), data))
                data = b""
        return out

    def check_around(self):
        """Nothing but completions was written."""
        assert bytes(self.memory.mem[:]) == bytes(self.before)


def random_command(host, wanted):
    """Puts a command; notes in `wanted` what must come of it."""
    rng, p = host.rng, host.p
    kind = rng.choice((*CommandKind, CommandKind.PLACE, CommandKind.PLACE, 0))
    status = DONE
    if kind == CommandKind.PLACE:
        ranges = [
            (DATA_AT + rng.randrange(DATA_BYTES - 600), rng.choice((1, 7, 8, 63, 64, 500)))
            for _ in range(rng.choice((1, 1, 2, 3, 9)))
        ]
        if rng.random() < 0.2:  # a range that ends beyond the header memory
            ranges[-1] = (PAGES * 4096 - 3, 4)
            status = REFUSED
        (offset, length), *more = ranges
        tail = b"".join(abi.COMMAND_RANGE.pack(offset=o, length=n) for o, n in more)
        queue = rng.randrange(p.queues)
        fields = {"queue": queue, "ranges": len(ranges), "offset": offset, "length": length}
        cookie = host.put(kind, tail, **fields)
        if status == DONE:
            data = b"".join(host.memory.peek(BASE + o, n) for o, n in ranges)
            wanted["frames"].append((queue, cookie, data))
    elif kind == CommandKind.RULE:
        rule = {name: rng.getrandbits(bits) for name, bits in abi.EXACT_RULE.widths.items()}
        rule |= {"spare": 0, "spare_2": 0, "rss": 0, "valid": 1}
        rule |= {"queue": rng.randrange(p.queues), "slot": rng.randrange(32)}
        cookie = host.put(kind, abi.EXACT_RULE.pack(**rule))
        wanted["stores"].append({n: v for n, v in rule.items() if not n.startswith("spare")})
        wanted["asked"].append(("fence", len(wanted["stores"])))
    elif kind == CommandKind.REVOKE:
        mask = rng.randrange(1, 1 << p.regions)
        cookie = host.put(kind, offset=mask)
        wanted["asked"].append(("revoke", mask))
    elif kind == CommandKind.QUEUE_RESET:
        queue = rng.randrange(1, p.queues)
        cookie = host.put(kind, queue=queue)
        wanted["asked"].append(("off", 1 << queue))
    elif kind == CommandKind.FENCE:
        cookie = host.put(kind)
        wanted["asked"].append(("fence", len(wanted["stores"])))
    else:
        cookie, status = host.put(kind), REFUSED
    wanted["told"].append((cookie, status))


async def commands(dut, pressure):
    host = await Host.start(dut, pressure=pressure)
    wanted = {"told": [], "frames": [], "stores": [], "asked": []}
    for _ in range(50):
        random_command(host, wanted)
        if host.rng.random() < 0.4:
            await host.ring_bell()
            await ClockCycles(dut.clk, host.rng.randrange(100))
    await host.ring_bell()
    await until(
        dut, lambda: len(host.commands_told()) >= len(wanted["told"]), "all completions",
        cycles=60_000,
    )  # fmt: skip
    await ClockCycles(dut.clk, 100)
    assert host.commands_told() == wanted["told"]
    assert (host.asked, host.stores) == (wanted["asked"], wanted["stores"])
    placed = host.placed()
    assert [(f["queue"], f["hash"], data) for f, data in placed] == wanted["frames"]
    assert {f["reason"] for f, _ in placed} <= {RxOutcome.PLACED}
    assert int(dut.control_consumer.value) == host.producer and not host.lost
    host.check_around()


@cocotb.test()
async def commands_are_carried_out_in_order_and_told(dut):
    await commands(dut, 0.1)


@cocotb.test()
async def a_slow_memory_changes_nothing(dut):
    await commands(dut, 0.45)


@cocotb.test()
async def faults_are_told_in_the_ring_of_their_queue_or_counted_as_lost(dut):
    host = await Host.start(dut, pressure=0.3)
    kinds = (
        CompletionKind.RECEIVE_FAULT, CompletionKind.POST_FAULT, CompletionKind.TRANSMIT_FAULT
    )  # fmt: skip
    wanted = {int(kind): [] for kind in kinds}
    for kind, source in zip(kinds, host.faults, strict=True):
        for _ in range(FAULTS):
            queue, index = host.rng.choice((*FAULT_QUEUES, NO_RING)), host.rng.getrandbits(32)
            fault = {"queue": queue, "index": index, "status": host.rng.randrange(32)}
            source.put(fault)
            wanted[kind].append((queue, fault["status"], index))
    await until(dut, lambda: not any(source.items for source in host.faults), "all faults taken")
    await ClockCycles(dut.clk, 2_000)  # three queues of eight, and a slow memory
    everything, told = FAULTS * len(kinds), len(host.told)
    # Two may be lost in one cycle, and one as its completion is given up.
    assert everything - 4 * host.lost <= told <= everything - host.lost
    assert told > everything // 3
    for kind, sent in wanted.items():
        left = iter(sent)
        for queue, fields in host.told:
            if fields["kind"] == kind:
                assert fields["queue"] == queue
                seen = (queue, fields["status"], fields["index"])
                assert seen in left, "not the faults, in their order"
    assert all(queue != NO_RING for queue, _ in host.told)
    host.check_around()


@cocotb.test()
async def a_read_error_stops_the_command_ring_and_is_told(dut):
    host = await Host.start(dut, pressure=0.2)
    broken = host.rng.randrange(2, 6)
    host.memory.failing.add(BASE + COMMANDS + broken * CELL + host.rng.randrange(CELL))
    # On a wide bus the first command of the broken one's beat meets the error already.
    good = broken - broken % max(1, host.p.bus_bytes // CELL)
    for _ in range(8):
        host.put(CommandKind.FENCE)
    await host.ring_bell()
    await until(dut, lambda: len(host.told) > good, "the completions")
    await ClockCycles(dut.clk, 300)
    assert [fields["status"] for _, fields in host.told] == [DONE] * good + [LOST]
