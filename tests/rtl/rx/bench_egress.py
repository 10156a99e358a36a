"""The receive egress between both memories: scapy's frames as records and payload, no byte else.

A record is read as its index shows it, so what an index shows must be in memory by then (I3).
"""

from collections import Counter

import cocotb
from cocotb.triggers import ClockCycles
from frames import tcp
from rtl.drivers import Memory, Sink, Source, Strobe, start, until, write_region
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome

CELL = abi.CELL_BYTES
RING_LOG2 = 13
ELEMENT_LOG2, ELEMENTS, POSTABLE = 9, 32, 20
POSTS_AT = 3
"""Page of a region that is its queue's post ring, above what may be posted."""
QUEUES = (1, 2)
FRAMES = 70


class Driver:
    """Queues 0 to 2; queue q has owner q and region q. Frames go in, records are read."""

    @classmethod
    async def start(cls, dut, *, pressure):
        self = cls()
        self.dut = dut
        dut.pause.value = dut.time_stamps.value = dut.region_write.value = 0
        self.rng = rng = await start(dut)
        self.width = len(dut.m_axi_hdr_wstrb)
        self.header = Memory(dut, "m_axi_hdr", rng, pressure=pressure)
        self.payload = Memory(dut, "m_axi_pay", rng, pressure=pressure)
        self.frames = Source(dut, "frames", rng)
        self.beats = Source(dut, "beats", rng, rng.choice((0.7, 1)))
        self.clear = Source(dut, "element_clear", rng)
        self.rx_faults = Sink(dut, "rx_fault", rng, 0.5).taken
        self.post_faults = Sink(dut, "post_fault", rng, 0.5).taken
        self.sent, self.outcomes, self.records = [], [], []
        self.read, self.handed_back = Counter(), Counter()  # cells
        self.posted, self.free = Counter(), {q: list(range(POSTABLE)) for q in QUEUES}
        self.post_outcomes = Counter()
        self.image = bytearray(self.payload.mem[:])  # as payload memory must be
        self.around = bytes(self.header.mem[:])
        self.problems = []
        Strobe.watch(dut, "outcome", self._outcome)
        Strobe.watch(dut, "post_outcome", self._post_outcome)
        Strobe.watch(dut, "index", self._index)
        for queue in QUEUES:
            self.clear.put({"value": queue})
            await until(dut, lambda: not self.clear.items, "the clearing of a region")
            await until(dut, lambda: not int(dut.element_busy.value), "the sweep")
            await write_region(
                dut, queue, live=1, base=self.base(queue), elements=ELEMENTS, postable=POSTABLE,
                log2_element_bytes=ELEMENT_LOG2, owner=queue, generation=1, nic_write=1, nic_read=1,
            )  # fmt: skip
        dut.pause.value = 1
        await until(dut, lambda: int(dut.idle.value), "idle")
        for queue in (0, *QUEUES):
            ring = {"base": self.ring(queue), "log2_bytes": RING_LOG2}
            await Strobe.pulse(dut, "rx_ring_store", queue=queue, enable=1, **ring)
        for queue in QUEUES:
            ring = {"owner": queue, "region": queue, "offset": POSTS_AT}
            await Strobe.pulse(dut, "post_ring_store", queue=queue, enable=1, **ring)
        dut.pause.value = 0
        return self

    @staticmethod
    def base(region):
        return 0x10000 * region

    @staticmethod
    def ring(queue):
        return (queue + 4) << RING_LOG2

    # -- what goes in ------------------------------------------------------------------------------

    async def post(self, queue, elements):
        for element in elements:
            at = self.base(queue) + POSTS_AT * 4096
            at += self.posted[queue] * abi.POST_CELL.bytes % 4096
            cell = abi.POST_CELL.pack(element=element, region=queue, generation=1)
            self.payload.poke(at, cell)
            self.image[at : at + len(cell)] = cell
            self.posted[queue] += 1
        await Strobe.pulse(self.dut, "post_producer", queue=queue, index=self.posted[queue])

    async def post_some(self):
        """Random ones of the free elements of each queue, in any order."""
        for queue in QUEUES:
            free = self.free[queue]
            self.rng.shuffle(free)
            count = self.rng.randrange(len(free) + 1)
            await self.post(queue, free[:count])
            del free[:count]

    async def hand_back(self):
        for queue in (0, *QUEUES):
            at = self.read[queue]
            if at != self.handed_back[queue]:
                self.handed_back[queue] = at
                await Strobe.pulse(self.dut, "rx_consumer", queue=queue, index=at)

    def send(self, raw, queue, *, split=True):
        """A frame by scapy, steered as `split` or whole to queue 0."""
        header, payload, version6 = len(raw), 0, False
        reason = RxOutcome.NOT_IP
        if split:
            packet = Ether(raw)
            version6 = IPv6 in packet
            ip = packet[IPv6] if version6 else packet[IP]
            bytes_of_ip = ip.plen + 40 if version6 else ip.len
            at = len(raw) - len(ip.original)
            header = at + (40 if version6 else 4 * ip.ihl) + 4 * packet[TCP].dataofs
            payload = at + bytes_of_ip - header
            reason = RxOutcome.SPLIT if payload else RxOutcome.HEADER_ONLY
        fields = {
            "length": len(raw), "header_length": header, "payload_length": payload,
            "queue": queue if split else 0, "hash": self.rng.getrandbits(32),
            "tag": self.rng.randrange(4096), "reason": int(reason), "ipv6": int(version6),
            "checksum_good": int(split),
        }  # fmt: skip
        self.sent.append((fields, raw))
        self.frames.put(fields)
        for at in range(0, len(raw), self.width):
            chunk = raw[at : at + self.width]
            # Lanes beyond the frame hold what the wire left there: it must go nowhere.
            full = chunk + self.rng.randbytes(self.width - len(chunk))
            last = int(at + self.width >= len(raw))
            data = int.from_bytes(full, "little")
            self.beats.put({"data": data, "count": len(chunk), "last": last})

    # -- what comes out ----------------------------------------------------------------------------

    def _outcome(self, told):
        self.outcomes.append((told["queue"], RxOutcome(told["outcome"])))

    def _post_outcome(self, told):
        self.post_outcomes[PostOutcome(told["outcome"])] += 1

    def _index(self, told):
        queue, producer = told["queue"], told["low"]
        while self.read[queue] != producer:
            record = self._cells(queue, self.read[queue], abi.RECORD.bytes)
            fields = abi.RECORD.unpack(record)
            skip = abi.RECORD.bytes + 8 * fields["extensions"]
            whole = self._cells(queue, self.read[queue], skip + fields["header_length"])
            chain = [
                abi.CHAINED_BUFFER.unpack(whole[k : k + 8])
                for k in range(abi.RECORD.bytes, skip, 8)
            ]
            first = fields["payload_length"] - sum(buffer["length"] for buffer in chain)
            data = b""
            for buffer in ({**fields, "length": first}, *chain):
                if not buffer["length"]:
                    continue
                at = self.base(buffer["region"]) + (buffer["element"] << ELEMENT_LOG2)
                part = self.payload.peek(at, buffer["length"])
                self.image[at : at + len(part)] = part
                data += part
                if buffer["region"] != queue or buffer["length"] > 1 << ELEMENT_LOG2:
                    self.problems.append(f"buffer {buffer} in a record of queue {queue}")
                self.free[queue].append(buffer["element"])
            self.records.append((queue, fields, whole[skip:] + data))
            self.read[queue] += abi.record_cells(fields["header_length"], fields["extensions"])

    def _cells(self, queue, cell, count):
        size = 1 << RING_LOG2
        ring = self.header.peek(self.ring(queue), size)
        at = cell * CELL % size
        return (ring + ring)[at : at + count]

    async def finish(self):
        await until(
            self.dut, lambda: len(self.outcomes) >= len(self.sent), "every frame's outcome",
            cycles=60_000,
        )  # fmt: skip
        await ClockCycles(self.dut.clk, 100)
        assert not self.problems, self.problems
        assert len(self.outcomes) == len(self.sent)
        left = {queue: [r for r in self.records if r[0] == queue] for queue in (0, *QUEUES)}
        for (queue, outcome), (fields, raw) in zip(self.outcomes, self.sent, strict=True):
            assert queue == fields["queue"]
            if outcome >= abi.RX_RECORDS:
                continue
            assert outcome == fields["reason"]
            _, record, data = left[queue].pop(0)
            same = ("header_length", "payload_length", "hash", "tag", "reason", "ipv6",
                    "checksum_good")  # fmt: skip
            assert {n: record[n] for n in same} == {n: fields[n] for n in same}
            assert data == raw[: fields["header_length"] + fields["payload_length"]]
        assert not any(left.values()), "records of no frame"

    def check_around(self):
        """No byte but records and payload was written."""
        assert bytes(self.payload.mem[:]) == bytes(self.image)
        rings = range(self.ring(0), self.ring(max(QUEUES)) + (1 << RING_LOG2))
        header = bytes(self.header.mem[:])
        assert header[: rings.start] == self.around[: rings.start]
        assert header[rings.stop :] == self.around[rings.stop :]


def random_frame(rng):
    size = rng.choice((0, 1, 5, 64, 65, rng.randrange(200), 500 + rng.randrange(40), 1400))
    options = [("NOP", None)] * (4 * rng.randrange(8))
    return tcp(size, rng.randrange(3), rng.choice((4, "options", 6)), options=options)


async def traffic(dut, pressure):
    driver = await Driver.start(dut, pressure=pressure)
    rng = driver.rng
    for _ in range(FRAMES):
        if rng.random() < 0.4:
            await driver.post_some()
        if rng.random() < 0.5:
            await driver.hand_back()
        driver.send(random_frame(rng), rng.choice(QUEUES), split=rng.random() < 0.85)
        await ClockCycles(dut.clk, rng.randrange(1, 120))
    await driver.finish()
    driver.check_around()
    kinds = Counter(outcome for _, outcome in driver.outcomes)
    assert kinds[RxOutcome.SPLIT] and kinds[RxOutcome.NOT_IP]
    assert set(kinds) <= {
        RxOutcome.SPLIT, RxOutcome.HEADER_ONLY, RxOutcome.NOT_IP, RxOutcome.NO_BUFFER,
        RxOutcome.NO_RING_SPACE, RxOutcome.PAYLOAD_TOO_LARGE,
    }  # fmt: skip
    assert set(driver.post_outcomes) == {PostOutcome.ACCEPTED}
    assert not driver.rx_faults and not driver.post_faults


@cocotb.test()
async def records_and_payload_are_the_frames_that_came(dut):
    await traffic(dut, 0.1)


@cocotb.test()
async def memories_under_pressure_lose_nothing(dut):
    await traffic(dut, 0.45)


@cocotb.test()
async def an_error_response_voids_its_record_and_shows_none_behind_it(dut):
    driver = await Driver.start(dut, pressure=0.2)
    rng = driver.rng
    broken = rng.randrange(2, 6)
    driver.payload.failing.add(driver.base(1) + (broken << ELEMENT_LOG2) + rng.randrange(40))
    for queue in QUEUES:
        await driver.post(queue, range(8))
    await until(
        dut, lambda: driver.post_outcomes[PostOutcome.ACCEPTED] == 16, "the posts", cycles=5_000
    )
    for _ in range(8):
        for queue in QUEUES:
            driver.send(tcp(40 + rng.randrange(200)), queue)
    await driver.finish()
    told = {q: [outcome for queue, outcome in driver.outcomes if queue == q] for q in QUEUES}
    assert told[2] == [RxOutcome.SPLIT] * 8
    assert told[1][: broken + 1] == [RxOutcome.SPLIT] * broken + [RxOutcome.PORT_ERROR]
    assert set(told[1][broken + 1 :]) == {RxOutcome.DISABLED}
    stopped = {"queue": 1, "index": driver.read[1], "status": int(RxOutcome.PORT_ERROR)}
    assert driver.rx_faults == [stopped]
