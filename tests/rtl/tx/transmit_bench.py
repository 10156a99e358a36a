"""A bench for the whole transmit path: memories behind two ports, a driver, a MAC.

The oracle is what the driver asked for: frames (made by scapy), outcomes, payload accesses, and the
rule that an index covers only descriptors whose reads were all answered.
"""

from collections import deque
from random import Random

from amaranth.sim import Simulator

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdsnic.tx import Transmit

CELL = abi.CELL_BYTES


class Port:
    """The read side of a memory port, as the DMA block behaves: bursts, and room set aside."""

    ROOM, BURST = 320, 64

    def __init__(self, client, width, read, rng, latency, pace, outstanding):
        self.outstanding = outstanding
        self.client, self.width, self.read, self.rng = client, width, read, rng
        self.latency, self.pace = latency, pace
        self.requests = []  # (address, length) as accepted
        self.answered = 0  # requests whose last beat was taken
        self.failing = []  # (address, length) that answer with an error
        self.splitting = None
        self.bursts = deque()  # (due cycle, beats)
        self.beats = deque()
        self.room = self.ROOM
        self.due = 0
        self.offered = False
        self.payload = client.beats.payload.as_value()
        self.fields = list(client.beats.payload.shape())

    def _cut(self, address, length, wrap):
        """All beats of a request, with poison around the bytes that are wanted."""
        width, beats = self.width, []
        at, left = address, length
        block = (1 << wrap) if wrap else 0
        while left:
            begin = at % width
            count = min(width - begin, left)
            data = bytes([0xEE] * begin) + self.read(at, count)
            data += bytes([0xEE] * (width - len(data)))
            failed = any(a < at + count and at < a + n for a, n in self.failing)
            beats.append(
                (int.from_bytes(data, "little"), begin, begin + count, left == count, failed)
            )
            at, left = at + count, left - count
            if block and at % block == 0:
                at -= block
        return beats

    def step(self, put, now, request, beat_taken):
        """One cycle: `request` was accepted, or None; `beat_taken`: the beat on offer was taken."""
        if beat_taken:
            self.answered += self.beats.popleft()[3]
            self.room += 1
        if request is not None:
            self.requests.append(request[:2])
            self.splitting = self._cut(*request)
        if self.splitting:
            burst = self.splitting[: self.BURST]
            if self.room >= len(burst) and len(self.bursts) < self.outstanding:
                self.room -= len(burst)
                self.splitting = self.splitting[self.BURST :]
                self.due = max(self.due + 1, now + self.rng.randint(*self.latency))
                self.bursts.append((self.due, burst))
        while self.bursts and self.bursts[0][0] <= now:
            self.beats.extend(self.bursts.popleft()[1])
        # A beat that was offered stays.
        self.offered = bool(self.beats) and ((self.offered and not beat_taken) or self._moves())
        put(self.client.request.ready, int(not self.splitting and self._moves()))
        put(self.client.beats.valid, int(self.offered))
        if self.offered:
            put(self.payload, self._pack(*self.beats[0]))

    def _pack(self, data, begin, end, last, failed):
        values = {"data": data, "begin": begin, "end": end, "last": last, "error": failed}
        return sum(int(values[name]) << field.offset for name, field in self.fields)

    def _moves(self):
        return self.pace == 1 or self.rng.random() < self.pace


class Queue:
    """A transmit ring and its driver."""

    def __init__(self, bench, number, owner, log2_bytes):
        self.bench, self.number, self.owner, self.log2_bytes = bench, number, owner, log2_bytes
        self.base = (number + 1) << 22
        self.size = 1 << log2_bytes
        self.waiting = deque()
        self.reset()

    def reset(self):
        self.producer = self.consumer = 0
        self.expected = deque()  # (Sent, index behind it)

    def send(self, *descriptors):
        self.waiting.extend(descriptors)

    def write(self, data, at=None):
        """Bytes into the ring at a free-running byte position."""
        at = self.producer * CELL if at is None else at
        for k, byte in enumerate(data):
            self.bench.header[self.base + (at + k) % self.size] = byte

    def fill(self):
        """Writes descriptors while there is space; returns whether a doorbell is due."""
        rung = False
        while self.waiting:
            sent = self.waiting[0]
            free = self.size // CELL - ((self.producer - self.consumer) & 0xFFFFFFFF)
            if sent.cells > free:
                break
            self.waiting.popleft()
            self.write(sent.encode())
            self.producer = (self.producer + sent.cells) & 0xFFFFFFFF
            self.expected.append((sent, self.producer))
            rung = True
        return rung


class Bench:
    """`latency` (least, most) in cycles and `pace` (chance of a handshake a cycle) of each port."""

    def __init__(
        self, width, seed=1, *, latency=(3, 40), pace=0.8, mac_pace=0.8, burst=8, outstanding=32,
        **parameters,
    ):  # fmt: skip
        self.p = Parameters(bus_bytes=width, **parameters)
        self.rng = Random(seed)
        self.dut = Transmit(self.p)
        self.header = {}
        self.memory = {}  # region: bytes
        self.rows = {}
        self.queues = {}
        self.mac_pace = mac_pace
        self.burst = burst  # a doorbell is rung each so many cycles at most
        self.cycle = 0
        self.frames = []  # as they left
        self.ends = []  # cycle of each frame's last beat
        self.starts = []
        self.wanted = []  # as the outcomes say that they must leave
        self.outcomes = []  # (queue, outcome)
        self.accesses = []  # payload accesses that the retired descriptors may have made
        self.done_bytes = []
        self.cut = []  # what left of frames that ended as errors
        self.discarded = 0
        self.faults = []  # (queue, index, status)
        self.wanted_faults = []
        self.strobes = deque()  # set-up: (interface, {field: value})
        dut, rng = self.dut, self.rng
        self.ports = [
            Port(dut.descriptors, width, self._read_header, rng, latency, pace, outstanding),
            Port(dut.payload, width, self._read_payload, rng, latency, pace, outstanding),
        ]
        self.pause = False
        self.strict = True  # compare with the driver's expectations as descriptors retire

    # -- scene --

    def region(self, number, size=8192, owner=1, generation=1, live=1, nic_read=1, log2=8):
        """A live region of random bytes; returns the number."""
        self.memory[number] = bytes(self.rng.getrandbits(8) for _ in range(size))
        self.rows[number] = {
            "live": live,
            "base": (number + 1) << 32,
            "elements": size >> log2,
            "log2_element_bytes": log2,
            "owner": owner,
            "generation": generation,
            "nic_read": nic_read,
        }
        return number

    def queue(self, number=0, owner=1, log2_bytes=12):
        queue = self.queues[number] = Queue(self, number, owner, log2_bytes)
        self.store(queue)
        return queue

    def store(self, queue, enable=1):
        """Sets the ring up, as the registers do."""
        ring = {
            "queue": queue.number,
            "enable": enable,
            "base": queue.base,
            "log2_bytes": queue.log2_bytes,
        }
        self.strobes.append((self.dut.tx_ring_store, ring))
        self.strobes.append((self.dut.owner_store, {"queue": queue.number, "owner": queue.owner}))

    def ring(self, queue, index):
        """A doorbell with any value."""
        self.strobes.append(
            (self.dut.tx_producer, {"queue": queue.number, "index": index & 0xFFFFFFFF})
        )

    def share(self, queue, *, quantum=0, rate=0, burst=0):
        """Sets a queue's share and rate limit, as the registers do."""
        fields = {"queue": queue.number, "quantum": quantum, "rate": rate, "burst": burst}
        self.strobes.append((self.dut.share_store, fields))

    def _read_header(self, address, count):
        return bytes(self.header.get(address + k, 0) for k in range(count))

    def _read_payload(self, address, count):
        region, offset = (address >> 32) - 1, address & 0xFFFFFFFF
        data = self.memory[region][offset : offset + count]
        assert len(data) == count, f"payload access beyond region {region}: {address:#x}+{count}"
        return data

    # -- run --

    def run(self, script, limit=60_000):
        """Runs `script(bench, ctx)`, which awaits `bench.until(...)` or `bench.cycles(n)`."""
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)
        self.limit = limit

        async def testbench(ctx):
            self.ctx = ctx
            self._watch()
            ctx.set(self.dut.transmit, 1)
            ctx.set(self.dut.tx_fault.ready, 1)
            await self.cycles(1)
            await script(self)

        simulator.add_testbench(testbench)
        simulator.run()

    def deliver(self, limit=60_000):
        """Runs until the driver's descriptors have all retired, all frames left, and checks all."""

        async def script(bench):
            await bench.settled()

        self.run(script, limit)
        self.check()

    async def settled(self):
        await self.until(
            lambda: (
                not self.strobes
                and all(not q.waiting and not q.expected for q in self.queues.values())
                and len(self.frames) >= len(self.wanted)
            ),
            "all descriptors to retire and all frames to leave",
        )
        await self.cycles(60)

    async def until(self, condition, what):
        while not condition():
            assert self.cycle < self.limit, f"waited in vain for {what} ({self.cycle} cycles)"
            await self.step()

    async def cycles(self, count):
        for _ in range(count):
            await self.step()

    async def step(self):
        watched, rows = self._watched, self.rows
        values = (await self.ctx.tick().sample(*watched))[2:]
        self.cycle += 1
        (
            mac, beat, index_valid, index, outcome_valid, outcome, region, done, done_bytes,
            self.idle, self.stopped, discarded, fault_valid, fault, *handshakes,
        ) = values  # fmt: skip
        self.discarded += discarded
        if fault_valid:
            fault = self._unpack(fault, self.dut.tx_fault.payload.shape())
            self.faults.append((fault["queue"], fault["index"], fault["status"]))
        for k, port in enumerate(self.ports):
            accepted, request, taken = handshakes[3 * k : 3 * k + 3]
            request = self._unpack(request, self._request) if accepted else None
            port.step(self._put, self.cycle, request and tuple(request.values()), taken)
        if self._row is not rows.get(region):
            self._row = rows.get(region)
            for field in self.dut.region.row.shape().members:
                self.ctx.set(getattr(self.dut.region.row, field), (self._row or {}).get(field, 0))
        if mac:
            self._take(**self._unpack(beat, self.dut.mac.payload.shape()))
        if done:
            self.done_bytes.append(done_bytes)
        if outcome_valid:
            outcome = self._unpack(outcome, self.dut.outcome.payload.shape())
            index = self._unpack(index, self.dut.index.payload.shape())
            self._retire(outcome["queue"], outcome["outcome"], index if index_valid else None)
        else:
            assert not index_valid, "an index update without a retired descriptor"
        self._put(self.dut.mac.ready, int(self.mac_pace == 1 or self.rng.random() < self.mac_pace))
        self._drive()

    def _watch(self):
        dut, mac = self.dut, self.dut.mac
        self._known = {}
        self._row = None
        self.idle = self.stopped = 0
        self._request = dut.payload.request.payload.shape()
        self._watched = [
            mac.valid & mac.ready, mac.payload.as_value(),
            dut.index.valid, dut.index.payload.as_value(),
            dut.outcome.valid, dut.outcome.payload.as_value(),
            dut.region.index, dut.frame_done, dut.frame_bytes, dut.idle, dut.stopped,
            dut.frame_discarded, dut.tx_fault.valid & dut.tx_fault.ready,
            dut.tx_fault.payload.as_value(),
        ]  # fmt: skip
        for port in self.ports:
            request, beats = port.client.request, port.client.beats
            self._watched += [
                request.valid & request.ready,
                request.payload.as_value(),
                beats.valid & beats.ready,
            ]

    @staticmethod
    def _unpack(value, shape):
        return {name: (value >> field.offset) & ((1 << field.width) - 1) for name, field in shape}

    def _put(self, signal, value):
        """Sets a signal; most keep their value, and the simulator's `set` is slow."""
        if self._known.get(id(signal)) != value:
            self._known[id(signal)] = value
            self.ctx.set(signal, value)

    _beats = b""
    _wait = 0

    def _take(self, data, count, last, error):
        width = self.p.bus_bytes
        if not self._beats:
            self.starts.append(self.cycle)
        data = data.to_bytes(width, "little")
        assert last or count == width, "a beat that is not whole, within a frame"
        assert 1 <= count <= width and not any(data[count:]) and (last or not error)
        if error:
            assert count == 1 and not any(data)
            self.cut.append(self._beats)
            self._beats = b""
            return
        self._beats += data[:count]
        if last:
            self.frames.append(self._beats)
            self.ends.append(self.cycle)
            self._beats = b""

    def _retire(self, number, outcome, index):
        self.outcomes.append((number, abi.TxOutcome(outcome)))
        queue = self.queues[number]
        if index is not None:
            assert index["queue"] == number and index["high"] == 0
            queue.consumer = index["low"]
        if not self.strict:
            return
        sent, behind = queue.expected.popleft()
        assert outcome == sent.outcome, f"{abi.TxOutcome(outcome)!r}, not {sent.outcome!r}"
        if index is not None:
            assert index["low"] == behind
        if outcome != abi.TxOutcome.SENT:
            at = queue.consumer if behind is None else (behind - sent.cells) & 0xFFFFFFFF
            self.wanted_faults.append((number, at, outcome))
        if outcome in (abi.TxOutcome.SENT, abi.TxOutcome.PORT_ERROR):
            for region, _, offset, length in sent.references:
                self.accesses.append((((region + 1) << 32) + offset, length))
        # All reads of all retired descriptors were answered.
        assert self.ports[1].answered >= len(self.accesses)
        self.wanted.extend(sent.frames if outcome == abi.TxOutcome.SENT else sent.before_error)

    def _drive(self):
        dut = self.dut
        for strobe in (dut.tx_ring_store, dut.owner_store, dut.tx_producer, dut.share_store):
            self._put(strobe.valid, 0)
        anytime = (dut.tx_producer, dut.share_store)
        stores = bool(self.strobes) and self.strobes[0][0] not in anytime
        paused = self._known.get(id(dut.pause), 0)
        self._put(dut.pause, int(self.pause or stores))
        if self.strobes:
            strobe, fields = self.strobes[0]
            if not stores or (paused and self.idle):
                self.strobes.popleft()
                self._strobe(strobe, fields)
            return
        self._wait -= 1
        if self._wait < 0 and self.queues:
            self._wait = self.rng.randrange(self.burst)
            queue = self.rng.choice(list(self.queues.values()))
            if queue.fill():
                self._strobe(dut.tx_producer, {"queue": queue.number, "index": queue.producer})

    def _strobe(self, strobe, fields):
        self._put(strobe.valid, 1)
        for name, value in fields.items():
            self.ctx.set(getattr(strobe.payload, name), value)

    def check(self):
        """Frames, in order, and payload accesses are exactly those that were asked for."""
        assert len(self.frames) == len(self.wanted)
        for k, (got, wanted) in enumerate(zip(self.frames, self.wanted, strict=True)):
            assert got == wanted, f"frame {k} differs:\n got    {got.hex()}\n wanted {wanted.hex()}"
        assert self.done_bytes == [len(frame) for frame in self.frames]
        assert self.ports[1].requests == self.accesses
        assert self.faults == self.wanted_faults
        assert not self.cut and not self.discarded
