"""Bench of the receive egress: frames, posts and both memory ports, with an oracle in plain Python.

A scenario is a coroutine over a `Bench`. Each cycle the bench offers what is pending, lets random
back-pressure and latency act, and checks what must hold at every moment: strobes of a write are
exactly the bytes of its request, an index never passes a record that lacks an acknowledgement (I3),
outcomes come in the order of frames. `Bench.check` compares all that was written with the oracle.
"""

import random
from collections import Counter, deque
from dataclasses import dataclass, field

from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.sim import Simulator

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome
from hdsnic.parameters import Parameters
from hdsnic.rx.egress import Egress

CELL = abi.CELL_BYTES


def parameters(bus_bytes, **overrides):
    """A small card, so that tables are soon full."""
    small = {"queues": 4, "regions": 4, "postable_max": 64, "post_prefetch": 8, "outstanding": 8}
    return Parameters(bus_bytes=bus_bytes, **{**small, **overrides})


class Pins(Elaboratable):
    """Inputs and outputs of a component as named integers.

    All of them go through one wide signal each way, which the simulator moves much faster.
    """

    def __init__(self, component, inputs, outputs):
        self.component = component
        self.inputs = {n: Value.cast(v) for n, v in inputs.items()}
        self.outputs = {n: Value.cast(v) for n, v in outputs.items()}
        self.into = Signal(sum(map(len, self.inputs.values())))
        self.out_of = Signal(sum(map(len, self.outputs.values())))
        self.values = dict.fromkeys(self.inputs, 0)
        self._in = [(n, len(v)) for n, v in self.inputs.items()]
        self._out = [(n, len(v)) for n, v in self.outputs.items()]

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = self.component
        m.d.comb += self.out_of.eq(Cat(*self.outputs.values()))
        at = 0
        for signal in self.inputs.values():
            m.d.comb += signal.eq(self.into[at : at + len(signal)])
            at += len(signal)
        return m

    def drive(self, ctx):
        total, at = 0, 0
        for name, width in self._in:
            total |= int(self.values[name]) << at
            at += width
        ctx.set(self.into, total)

    def sample(self, ctx):
        total, out = ctx.get(self.out_of), {}
        for name, width in self._out:
            out[name] = total & ((1 << width) - 1)
            total >>= width
        return out


def pack(layout, **values):
    """A value of an Amaranth layout as an integer."""
    total = 0
    for name, f in layout:
        value = int(values.pop(name, 0))
        assert value < 1 << f.width, (name, value)
        total |= value << f.offset
    assert not values, values
    return total


def unpack(layout, total):
    return {name: (total >> f.offset) & ((1 << f.width) - 1) for name, f in layout}


@dataclass
class Frame:
    """A steered frame; `queue`, `header`, `payload` in bytes, `padding` behind them."""

    data: bytes
    header: int
    payload: int = 0
    queue: int = 0
    reason: RxOutcome = RxOutcome.NOT_IP
    tag: int = 0
    vlan_tags: int = 0
    ipv6: int = 0
    checksum_good: int = 1
    hash: int = 0
    time_stamp: int = 0
    written: bool = False  # the test expects writes although no record comes of it
    outcome: RxOutcome | None = None


def split_frame(rng, queue, payload, header=54, padding=0, **more):
    """A frame to be split (or, without payload, HEADER_ONLY), of random bytes."""
    reason = RxOutcome.SPLIT if payload else RxOutcome.HEADER_ONLY
    data = rng.randbytes(header + payload + padding)
    told = {"tag": rng.randrange(4096), "hash": rng.getrandbits(32)}
    return Frame(data, header, payload, queue, reason, **told, **more)


def placed_frame(rng, queue, length):
    """What a PLACE command sends: payload alone, and a cookie."""
    data = rng.randbytes(length)
    return Frame(data, 0, length, queue, RxOutcome.PLACED, hash=rng.getrandbits(32))


def buffers_of(record):
    """The fixed part, time stamp (or None) and [(region, element, length)] of a record's bytes."""
    fixed = abi.RECORD.unpack(record[: abi.RECORD.bytes])
    at, end = abi.RECORD.bytes, abi.RECORD.bytes + 8 * fixed["extensions"]
    stamp = None
    if fixed["time_stamp"]:
        stamp = abi.TIME_STAMP.unpack(record[at : at + 8])["cycles"]
        at += 8
    chained = [abi.CHAINED_BUFFER.unpack(record[k : k + 8]) for k in range(at, end, 8)]
    buffers = []
    if fixed["payload_length"]:
        first = fixed["payload_length"] - sum(c["length"] for c in chained)
        buffers.append((fixed["region"], fixed["element"], first))
    buffers += [(c["region"], c["element"], c["length"]) for c in chained]
    assert all(c["spare"] == 0 for c in chained)
    return fixed, stamp, buffers


def whole_frame(rng, length, reason=RxOutcome.NOT_IP):
    """An unsplit frame for queue 0."""
    return Frame(rng.randbytes(length), length, reason=reason)


@dataclass
class Traffic:
    """How the surroundings behave: chances in a cycle, and ranges of latency in cycles."""

    beats: float = 1.0
    request: float = 1.0
    write: float = 1.0
    header_latency: tuple = (3, 10)
    payload_latency: tuple = (3, 10)
    read_latency: tuple = (3, 10)


ROUGH = Traffic(0.8, 0.5, 0.7, (1, 40), (1, 60), (1, 50))
"""Slow and jerky on every port."""


@dataclass
class Write:
    address: int
    length: int
    wrap_log2: int
    data: bytes = b""
    acknowledged: int = 0  # cycle


class WritePort:
    """The memory side of a WriteClient: beats and requests in any order, late acknowledgements."""

    def __init__(self, bench, name, latency):
        self.bench, self.name, self.latency = bench, name, latency
        self.requests, self.beats, self.unacknowledged = deque(), deque(), deque()
        self.writes, self.current = [], []
        self.beat_cycles = []
        self.fails = lambda write: False
        self.stalled = False
        self.most = None  # so many acknowledgements, and no more
        self.done = 0

    def before(self, pins):
        t, rng = self.bench.traffic, self.bench.rng
        pins[f"{self.name}_request_ready"] = rng.random() < t.request
        pins[f"{self.name}_beats_ready"] = rng.random() < t.write
        stalled = self.stalled or self.done == self.most
        head = self.unacknowledged[0] if self.unacknowledged and not stalled else None
        done = head is not None and head[0] <= self.bench.cycle
        pins[f"{self.name}_done"] = done
        pins[f"{self.name}_error"] = done and self.fails(head[1])
        if done:
            self.unacknowledged.popleft()[1].acknowledged = self.bench.cycle
            self.done += 1

    def after(self, pins, out):
        p = self.bench.parameters
        if out[f"{self.name}_request_valid"] and pins[f"{self.name}_request_ready"]:
            request = unpack(self.bench.write_request, out[f"{self.name}_request"])
            assert request["length"] > 0
            self.requests.append(Write(**request))
        if out[f"{self.name}_beats_valid"] and pins[f"{self.name}_beats_ready"]:
            beat = unpack(self.bench.write_beat, out[f"{self.name}_beats"])
            self.current.append(beat)
            self.beat_cycles.append(self.bench.cycle)
            if beat["last"]:
                self.beats.append(self.current)
                self.current = []
        while self.requests and self.beats:
            self._write(self.requests.popleft(), self.beats.popleft(), p.bus_bytes)

    def _write(self, write, beats, width):
        lane = write.address % width
        assert len(beats) == -(-(lane + write.length) // width), "beats do not fit the request"
        data = bytearray()
        for k, beat in enumerate(beats):
            begin = lane if k == 0 else 0
            end = min(width, lane + write.length - k * width)
            assert beat["strobe"] == (1 << end) - (1 << begin), "bytes outside of the request"
            data += beat["data"].to_bytes(width, "little")[begin:end]
        write.data = bytes(data)
        self.writes.append(write)
        due = self.bench.cycle + self.bench.rng.randint(*self.latency())
        if self.unacknowledged:
            due = max(due, self.unacknowledged[-1][0])
        self.unacknowledged.append((due, write))


class ReadPort:
    """The memory side of the post cells' ReadClient."""

    def __init__(self, bench):
        self.bench = bench
        self.answers = deque()  # (due cycle, beat)
        self.reads = []
        self.memory = {}  # address of a cell -> 8 bytes
        self.fails = lambda address: False
        self.offered = False

    def before(self, pins):
        rng, t = self.bench.rng, self.bench.traffic
        pins["posts_request_ready"] = rng.random() < t.request
        if not self.offered:
            due = self.answers and self.answers[0][0] <= self.bench.cycle
            self.offered = bool(due) and rng.random() < t.write
        pins["posts_beats_valid"] = self.offered
        pins["posts_beats"] = self.answers[0][1] if self.offered else 0

    def after(self, pins, out):
        if out["posts_beats_ready"] and self.offered:
            self.answers.popleft()
            self.offered = False
        if out["posts_request_valid"] and pins["posts_request_ready"]:
            self._read(**unpack(self.bench.read_request, out["posts_request"]))

    def _read(self, address, length, wrap_log2):
        assert wrap_log2 == 0 and address % 8 == 0 and length % 8 == 0 and length > 0
        self.reads.append((address, length))
        width = self.bench.parameters.bus_bytes
        due = self.bench.cycle + self.bench.rng.randint(*self.bench.traffic.read_latency)
        at, end = address, address + length
        while at < end:
            base = at // width * width
            stop = min(base + width, end)
            cells = b"".join(self.memory.get(base + k, b"\xa5" * 8) for k in range(0, width, 8))
            beat = pack(
                self.bench.read_beat,
                data=int.from_bytes(cells, "little"),
                begin=at - base,
                end=stop - base,
                last=stop == end,
                error=self.fails(at),
            )
            self.answers.append((due, beat))
            at = stop


@dataclass
class Queue:
    ring: int = 0
    log2: int = 12
    enabled: bool = False
    producer: int = 0  # cells, as the oracle counts them
    shown: int = 0  # newest rx_producer on `index`
    post_consumer: int = 0  # newest post_consumer on `index`
    post_base: int = 0
    post_cells: int = 0
    posted: int = 0
    accepted: list = field(default_factory=list)  # handles, in order
    held: list = field(default_factory=list)  # those without a record
    returned: list = field(default_factory=list)  # those that a record has given back
    cells: deque = field(default_factory=deque)  # cells without an outcome yet


class Bench:
    """The whole Egress with its surroundings; `rows` is the region table."""

    def __init__(self, bus_bytes, seed=0, traffic=None, **overrides):
        self.parameters = p = parameters(bus_bytes, **overrides)
        self.rng = random.Random(seed)
        self.traffic = traffic or Traffic()
        self.dut = dut = Egress(p)
        self.cycle = 0
        self.rows = [{} for _ in range(p.regions)]
        self.queues = [Queue() for _ in range(p.queues)]
        self.frames, self.frame_beats, self.sent, self.completed = deque(), deque(), [], 0
        self.strobes = deque()
        self.outcomes, self.post_outcomes = Counter(), Counter()
        self.visible = self.voids = self.buffers = 0  # records, void ones, buffers of records
        self.faults = {"rx_fault": [], "post_fault": []}
        self.take_faults = True
        self.pause = 0
        self.stamps = 0  # queues with time stamps, a bit each
        self.out = {}
        self.clearing = None

        self.write_request = dut.header.request.payload.shape()
        self.write_beat = dut.header.beats.payload.shape()
        self.read_request = dut.posts.request.payload.shape()
        self.read_beat = dut.posts.beats.payload.shape()
        self.header = WritePort(self, "header", lambda: self.traffic.header_latency)
        self.payload = WritePort(self, "payload", lambda: self.traffic.payload_latency)
        self.posts = ReadPort(self)

        streams_in = {"frames": dut.frames, "beats": dut.beats, "posts_beats": dut.posts.beats}
        streams_in["element_clear"] = dut.element_clear
        streams_out = {"posts_request": dut.posts.request}
        for name in ("header", "payload"):
            client = getattr(dut, name)
            streams_out |= {f"{name}_request": client.request, f"{name}_beats": client.beats}
        for name in self.faults:
            streams_out[name] = getattr(dut, name)
        inputs = {"pause": dut.pause, "time_stamps": dut.time_stamps}
        outputs = {"idle": dut.idle, "busy": dut.element_busy}
        for name, s in streams_in.items():
            inputs |= {name: s.payload, f"{name}_valid": s.valid}
            outputs[f"{name}_ready"] = s.ready
        for name, s in streams_out.items():
            outputs |= {name: s.payload, f"{name}_valid": s.valid}
            inputs[f"{name}_ready"] = s.ready
        for name in ("header", "payload"):
            client = getattr(dut, name)
            inputs |= {f"{name}_done": client.done, f"{name}_error": client.error}
        for name in ("rx_ring_store", "post_ring_store", "rx_consumer", "post_producer"):
            strobe = getattr(dut, name)
            inputs |= {name: strobe.payload, f"{name}_valid": strobe.valid}
        for name in ("index", "outcome", "post_outcome"):
            strobe = getattr(dut, name)
            outputs |= {name: strobe.payload, f"{name}_valid": strobe.valid}
        outputs["completed"] = dut.completed
        for name in ("post_region", "claim_region"):
            port = getattr(dut, name)
            inputs[name], outputs[f"{name}_index"] = port.row, port.index
        self.pins = Pins(dut, inputs, outputs)
        self.wanted_rows = {"post_region": 0, "claim_region": 0}

    # -- running ----------------------------------------------------------------------------------

    def run(self, scenario, limit=200_000):
        """Runs `scenario(bench)`; more than `limit` cycles are a failure."""
        self.limit = limit

        async def bench(ctx):
            self.ctx = ctx
            await scenario(self)

        simulator = Simulator(self.pins)
        simulator.add_clock(1e-8)
        simulator.add_testbench(bench)
        simulator.run()
        return self

    async def step(self, cycles=1):
        for _ in range(cycles):
            assert self.cycle < self.limit, "the bench ran too long"
            await self._cycle()

    async def until(self, condition, limit=20_000):
        """Steps until `condition()`; fails after `limit` cycles."""
        for _ in range(limit):
            if condition():
                return
            await self.step()
        raise AssertionError(f"not within {limit} cycles; completed {self.completed} of "
                             f"{len(self.sent)}, outcomes {dict(self.outcomes)}")  # fmt: skip

    async def _cycle(self):
        v = self.pins.values
        v["pause"], v["time_stamps"] = self.pause, self.stamps
        self.header.before(v)
        self.payload.before(v)
        self.posts.before(v)
        v["frames_valid"] = bool(self.frames)
        v["frames"] = self.frames[0] if self.frames else 0
        if not v["beats_valid"]:
            v["beats_valid"] = bool(self.frame_beats) and self.rng.random() < self.traffic.beats
        v["beats"] = self.frame_beats[0] if v["beats_valid"] else 0
        v["element_clear_valid"] = self.clearing is not None
        v["element_clear"] = self.clearing or 0
        for name, index in self.wanted_rows.items():
            row = self.rows[index] if index < len(self.rows) else {}
            v[name] = pack(self.dut.post_region.row.shape(), **row)
        for name in self.faults:
            v[f"{name}_ready"] = self.take_faults
        for name in ("rx_ring_store", "post_ring_store", "rx_consumer", "post_producer"):
            v[f"{name}_valid"] = 0
        if self.strobes:
            name, value = self.strobes.popleft()
            v[name], v[f"{name}_valid"] = value, 1

        self.pins.drive(self.ctx)
        self.out = out = self.pins.sample(self.ctx)
        self.wanted_rows = {n: out[f"{n}_index"] for n in self.wanted_rows}
        if v["frames_valid"] and out["frames_ready"]:
            self.frames.popleft()
        if v["beats_valid"] and out["beats_ready"]:
            self.frame_beats.popleft()
            v["beats_valid"] = 0
        if self.clearing is not None and out["element_clear_ready"]:
            self.clearing = None
        self.posts.after(v, out)
        self._observe(out)
        for name, seen in self.faults.items():
            if out[f"{name}_valid"] and v[f"{name}_ready"]:
                fault = unpack(self.dut.rx_fault.payload.shape(), out[name])
                seen.append((fault["queue"], fault["index"], fault["status"]))
        # Ports see this cycle's beats after the indices: nothing is acknowledged before it is sent.
        self.header.after(v, out)
        self.payload.after(v, out)
        await self.ctx.tick()
        self.cycle += 1

    def _observe(self, out):
        if out["post_outcome_valid"]:
            self._observe_post(**unpack(self.dut.post_outcome.payload.shape(), out["post_outcome"]))
        assert out["completed"] == out["outcome_valid"]
        if out["outcome_valid"]:
            self._observe_outcome(unpack(self.dut.outcome.payload.shape(), out["outcome"]))
        if out["index_valid"]:
            self.index_cycle = self.cycle
            index = unpack(self.dut.index.payload.shape(), out["index"])
            queue = self.queues[index["queue"]]
            assert queue.enabled, "index update of a queue without a ring"
            assert index["low"] == queue.producer % 2**32, "index shows what has not completed"
            queue.shown, queue.post_consumer = index["low"], index["high"]

    def _observe_post(self, queue, outcome):
        outcome = PostOutcome(outcome)
        self.post_outcomes[queue, outcome] += 1
        q = self.queues[queue]
        if outcome == PostOutcome.ACCEPTED:
            handle = q.cells.popleft()
            flushed = any(o == PostOutcome.FLUSHED for _, o in self.post_outcomes)
            # A flushed handle is not named, so from then on a second post may be right.
            assert flushed or not any(handle in other.held for other in self.queues)
            q.held.append(handle)
            q.accepted.append(handle)
        elif outcome not in (PostOutcome.FLUSHED, PostOutcome.BAD_DOORBELL) and q.cells:
            q.cells.popleft()

    def _observe_outcome(self, counted):
        frame = self.sent[self.completed]
        self.completed += 1
        frame.outcome = outcome = RxOutcome(counted["outcome"])
        assert counted["queue"] == frame.queue
        self.outcomes[outcome] += 1
        self.voids += frame.written
        if outcome < abi.RX_RECORDS:
            assert outcome == frame.reason
            self.visible += 1
            # I3: requests are acknowledged in order, so counts tell.
            assert self.header.done >= self.visible + self.voids
            record = self.header.writes[self.visible + self.voids - 1].data
            fixed, _, buffers = buffers_of(record)
            self.buffers += len(buffers)
            assert self.payload.done >= self.buffers
            q = self.queues[frame.queue]
            q.producer += abi.record_cells(frame.header, fixed["extensions"])
            for region, element, _ in buffers:
                q.held.remove((region, element))
                q.returned.append((region, element))

    # -- acting -----------------------------------------------------------------------------------

    def strobe(self, name, **values):
        self.strobes.append((name, pack(getattr(self.dut, name).payload.shape(), **values)))

    async def settle(self):
        """Pauses and waits until nothing is under way, as the registers do before they store."""
        self.pause = 1
        await self.step(2)
        await self.until(lambda: self.out["idle"] and not self.strobes)

    async def store_ring(self, queue, base, log2=12, enable=1):
        await self.settle()
        self.strobe("rx_ring_store", queue=queue, enable=enable, base=base, log2_bytes=log2)
        await self.step(2)
        q = self.queues[queue]
        q.ring, q.log2, q.enabled, q.producer, q.shown = base, log2, bool(enable), 0, 0
        self.pause = 0

    async def store_posts(self, queue, owner, region, offset, log2_pages=0, enable=1):
        """`offset` in 4 KiB within the region."""
        await self.settle()
        self.strobe("post_ring_store", queue=queue, enable=enable, owner=owner, region=region,
                    offset=offset, log2_pages=log2_pages)  # fmt: skip
        await self.step(2)
        q = self.queues[queue]
        q.post_base = self.rows[region].get("base", 0) + offset * 4096
        q.post_cells, q.posted = 512 << log2_pages, 0
        q.cells.clear()
        self.pause = 0

    async def register(self, region, **row):
        """A region goes live after its element states were swept."""
        self.clearing = region
        await self.until(lambda: self.clearing is None)
        await self.step()
        await self.until(lambda: not self.out["busy"])
        defaults = {
            "live": 1, "base": (region + 1) << 32, "elements": 32, "postable": 24, "owner": 1,
            "log2_element_bytes": 11, "generation": 1, "nic_write": 1, "nic_read": 1,
        }  # fmt: skip
        self.rows[region] = {**defaults, **row}

    async def revoke(self, region):
        await self.settle()
        self.rows[region] = {}
        await self.step(2)
        self.pause = 0

    async def usual(self, posts=16, queue=1, log2=12, **row):
        """Queues 0 and `queue` with rings, region 0 of owner 1, `posts` buffers posted."""
        await self.store_ring(0, 0x10_0000, log2)
        if queue:
            await self.store_ring(queue, 0x10_0000 + queue * 0x10_0000, log2)
        await self.register(0, **row)
        await self.store_posts(queue, owner=1, region=0, offset=12)
        if posts:
            self.post(queue, [(0, k) for k in range(posts)])

    def post(self, queue, handles, generation=None, ring=True):
        """Writes cells of (region, element) and, unless told not to, rings the doorbell."""
        q = self.queues[queue]
        for region, element in handles:
            row = self.rows[region] if region < len(self.rows) else {}
            number = row.get("generation", 0) if generation is None else generation
            cell = abi.POST_CELL.pack(element=element, region=region, generation=number)
            self.posts.memory[q.post_base + q.posted % q.post_cells * 8] = cell
            q.cells.append((region, element))
            q.posted += 1
        if ring:
            self.ring_posts(queue, q.posted)

    def ring_posts(self, queue, index):
        self.strobe("post_producer", queue=queue, index=index % 2**32)

    def hand_back(self, queue, cells=None):
        """The stack has read all records (or `cells`)."""
        at = self.queues[queue].shown if cells is None else cells
        self.strobe("rx_consumer", queue=queue, index=at % 2**32)

    def send(self, *frames):
        p = self.parameters
        width = p.bus_bytes
        for f in frames:
            self.sent.append(f)
            self.frames.append(
                pack(
                    self.dut.frames.payload.shape(),
                    length=len(f.data), header_length=f.header, payload_length=f.payload,
                    queue=f.queue, tag=f.tag, reason=f.reason, vlan_tags=f.vlan_tags,
                    ipv6=f.ipv6, checksum_good=f.checksum_good, hash=f.hash,
                    time_stamp=f.time_stamp,
                )
            )  # fmt: skip
            for at in range(0, len(f.data), width):
                chunk = f.data[at : at + width]
                # Lanes beyond the frame hold what the wire left there: it must go nowhere.
                full = chunk + self.rng.randbytes(width - len(chunk))
                beat = pack(
                    self.dut.beats.payload.shape(),
                    data=int.from_bytes(full, "little"),
                    count=len(chunk),
                    last=at + width >= len(f.data),
                )
                self.frame_beats.append(beat)

    async def finish(self, limit=20_000):
        """Until every frame has its outcome."""
        await self.until(lambda: self.completed == len(self.sent), limit)
        await self.step(3)

    # -- the oracle -------------------------------------------------------------------------------

    def check(self, flushed=(), in_order=True):
        """All writes against the oracle: records and payload as they must be, nothing else.

        `flushed`: handles that were accepted and discarded. `in_order`: buffers are taken in the
        order of posts. Returns the records, oldest first.
        """
        headers, payloads, records = list(self.header.writes), list(self.payload.writes), []
        at = Counter()
        claims = [iter([h for h in q.accepted if h not in flushed]) for q in self.queues]
        for f in self.sent:
            if f.outcome >= abi.RX_RECORDS and not f.written:
                continue
            q = self.queues[f.queue]
            write = headers.pop(0)
            record, stamp, buffers = buffers_of(write.data)
            assert stamp == (f.time_stamp if self.stamps >> f.queue & 1 else None)
            assert write.address == q.ring + at[f.queue] * CELL % (1 << q.log2)
            assert write.wrap_log2 == q.log2
            prefix = abi.RECORD.bytes + 8 * record["extensions"]
            assert write.length == prefix + f.header
            at[f.queue] += abi.record_cells(f.header, record["extensions"])
            assert write.data[prefix:] == f.data[: f.header]
            expected = {
                "header_length": f.header, "payload_length": f.payload, "hash": f.hash,
                "tag": f.tag, "reason": f.reason, "vlan_tags": f.vlan_tags, "ipv6": f.ipv6,
                "checksum_good": f.checksum_good, "spare": 0,
            }  # fmt: skip
            assert {k: record[k] for k in expected} == expected
            begin = f.header
            for region, element, length in buffers:
                wanted = next(claims[f.queue])
                assert not in_order or (region, element) == wanted
                write = payloads.pop(0)
                row = self.rows[region]
                size = 1 << row["log2_element_bytes"]
                assert length == min(size, f.header + f.payload - begin), (
                    "all but the last are full"
                )
                assert write.address == row["base"] + element * size
                assert write.wrap_log2 == 0
                assert write.data == f.data[begin : begin + length]
                begin += length
            assert begin == f.header + f.payload
            if not f.payload:
                assert (record["region"], record["element"]) == (0, 0)
            records.append(record)
        assert not headers and not payloads, "something was written that nobody asked for"
        return records
