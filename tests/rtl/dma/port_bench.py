"""Scene for benches of the memory ports: clients, and a memory that can be slowed and stopped."""

from collections import deque

from rtl.simulation import give


def requester(client, requests):
    """A process that makes requests of (address, length), as fast as they are taken."""

    async def run(ctx):
        for address, length in requests:
            request = {"address": address, "length": length, "wrap_log2": 0}
            await give(ctx, client.request, request)

    return run


def beats_of(address, data, bus_bytes):
    """A request's beats on the lanes of its address."""
    lane = address % bus_bytes
    padded = bytes(lane) + data
    out = []
    for k in range(0, len(padded), bus_bytes):
        chunk = padded[k : k + bus_bytes]
        strobe = sum(1 << i for i in range(len(chunk)) if k + i >= lane)
        last = k + bus_bytes >= len(padded)
        out.append({"data": int.from_bytes(chunk, "little"), "strobe": strobe, "last": last})
    return out


def sender(client, requests, bus_bytes, data=None):
    """A process that gives the beats of requests of (address, length)."""

    async def run(ctx):
        for address, length in requests:
            content = data(address, length) if data else bytes(length)
            for beat in beats_of(address, content, bus_bytes):
                await give(ctx, client.beats, beat)

    return run


def verdicts(client, count, out):
    """A process that takes `count` ends of requests: `out` gets their `error`s."""

    async def run(ctx):
        while len(out) < count:
            *_, done, error = await ctx.tick().sample(client.done, client.error)
            if done:
                out.append(error)

    return run


def answers(client, count, out):
    """A process that takes `count` answers: `out` gets lists of (begin, end, error) of beats."""

    async def run(ctx):
        ctx.set(client.beats.ready, 1)
        beats = []
        while len(out) < count:
            *_, valid, beat = await ctx.tick().sample(client.beats.valid, client.beats.payload)
            if not valid:
                continue
            beats.append((beat.begin, beat.end, beat.error))
            if beat.last:
                out.append(beats)
                beats = []

    return run


class _Channel:
    """Sees that what was offered and not taken is offered again (ARM IHI 0022, A3.2.1)."""

    def __init__(self, name):
        self.name, self.offered = name, None

    def see(self, valid, ready, payload):
        if self.offered is not None:
            assert valid and payload == self.offered, f"{self.name} changed while it was offered"
        self.offered = payload if valid and not ready else None


class WriteMemory:
    """Behind a WritePort: takes what its switches allow, answers `latency` cycles after the data.

    `takes_addresses`, `takes_data`, `responds` may be changed at any time. `events` are what was
    taken, in order: ("AW", address, beats) and ("W", strobe, last). `beats` counts W beats, with
    the cycle of the first and the last.
    """

    def __init__(self, dut, latency=1):
        self.dut, self.latency = dut, latency
        self.takes_addresses = self.takes_data = self.responds = True
        self.events, self.beats, self.first, self.last = [], 0, None, None
        self.cycle = 0
        self.finished = deque()  # cycles at which bursts got their last beat
        self.addresses = self.answered = self.outstanding_max = 0
        self.stray = 0  # responses to be given that nobody is owed

    async def run(self, ctx):
        dut = self.dut
        aw, w = _Channel("AW"), _Channel("W")
        while True:
            ctx.set(dut.awready, self.takes_addresses)
            ctx.set(dut.wready, self.takes_data)
            due = (
                self.responds
                and self.finished
                and self.addresses > self.answered
                and self.finished[0] + self.latency <= self.cycle + 1
            )
            ctx.set(dut.bvalid, bool(due or self.stray))
            (
                *_, awvalid, awready, address, length, wvalid, wready, data, strobe, last, bready
            ) = await ctx.tick().sample(
                dut.awvalid, dut.awready, dut.awaddr, dut.awlen, dut.wvalid, dut.wready, dut.wdata,
                dut.wstrb, dut.wlast, dut.bready,
            )  # fmt: skip
            self.cycle += 1
            assert bready
            if due:
                self.finished.popleft()
                self.answered += 1
            elif self.stray:
                self.stray -= 1
            aw.see(awvalid, awready, (address, length))
            w.see(wvalid, wready, (data, strobe, last))
            if awvalid and awready:
                self.addresses += 1
                self.events.append(("AW", address, length + 1))
            if wvalid and wready:
                self.beats += 1
                self.first = self.first or self.cycle
                self.last = self.cycle
                self.events.append(("W", strobe, last))
                if last:
                    self.finished.append(self.cycle)
            self.outstanding_max = max(self.outstanding_max, self.addresses - self.answered)


class ReadMemory:
    """Behind a ReadPort: bursts in order, a beat a cycle, `latency` cycles after their addresses.

    `takes_addresses` and `beats_left` (beats that it still gives; None: all) may be changed at any
    time. `stray`: beats, as (id,), to be given that nobody is owed.
    """

    def __init__(self, dut, latency=1):
        self.dut, self.latency = dut, latency
        self.takes_addresses, self.beats_left = True, None
        self.bursts, self.taken, self.stray = deque(), [], deque()
        self.cycle, self.beats, self.first, self.last = 0, 0, None, None

    async def run(self, ctx):
        dut = self.dut
        ar = _Channel("AR")
        while True:
            ctx.set(dut.arready, self.takes_addresses)
            give_one = (
                self.bursts
                and self.bursts[0][0] + self.latency <= self.cycle + 1
                and self.beats_left != 0
            )
            stray = not give_one and self.stray
            ctx.set(dut.rvalid, bool(give_one or stray))
            if stray:
                ctx.set(dut.rid, self.stray.popleft())
            if give_one:
                _, identity, beats = self.bursts.popleft()
                ctx.set(dut.rid, identity)
                if beats > 1:
                    self.bursts.appendleft((0, identity, beats - 1))
                if self.beats_left is not None:
                    self.beats_left -= 1
            *_, arvalid, arready, identity, address, length, rready = await ctx.tick().sample(
                dut.arvalid, dut.arready, dut.arid, dut.araddr, dut.arlen, dut.rready
            )
            self.cycle += 1
            assert rready
            if give_one:
                self.beats += 1
                self.first = self.first or self.cycle
                self.last = self.cycle
            ar.see(arvalid, arready, (identity, address, length))
            if arvalid and arready:
                self.taken.append((identity, address, length + 1))
                self.bursts.append((self.cycle, identity, length + 1))
