"""The transmit path between two memories and the MAC: descriptors in, the frames that scapy makes.

The oracle is `transmit_frames`: whole frames by scapy, of which a driver's part is derived.
"""

from collections import Counter, deque

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamSink
from rtl.drivers import Memory, Sink, Strobe, pauses, start, until, write_region
from transmit_frames import mixed, mixed_segments, plain

from hdsnic import abi
from hdsnic.abi import TxOutcome

CELL = abi.CELL_BYTES
RING_LOG2 = 13
REGION_BYTES = 8192
QUEUES = (0, 1)
DESCRIPTORS = 24
"""Of each queue."""


class Driver:
    """Two queues of two owners, a region each; queue q may read region q."""

    @classmethod
    async def start(cls, dut, *, pressure):
        self = cls()
        self.dut = dut
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        dut.pause.value = dut.transmit.value = dut.mac_stalled.value = 0
        dut.stop_on_refusal.value = dut.region_write.value = 0
        self.rng = rng = await start(dut)
        self.header = Memory(dut, "m_axi_hdr", rng, pressure=pressure)
        self.payload = Memory(dut, "m_axi_pay", rng, pressure=pressure)
        self.sink.set_pause_generator(pauses(rng, pressure))
        self.expected = {queue: deque() for queue in QUEUES}  # what was sent and has not ended
        self.producer, self.consumer = Counter(), Counter()
        self.outcomes, self.wanted, self.wanted_faults = [], [], []
        self.errors = []
        self.faults = Sink(dut, "tx_fault", rng, 0.5).taken
        Strobe.watch(dut, "index", self._index)
        Strobe.watch(dut, "outcome", self._outcome)
        self.memory = {q: self.payload.peek(self.base(q), REGION_BYTES) for q in QUEUES}
        dut.pause.value = 1
        await until(dut, lambda: int(dut.idle.value), "idle")
        for queue in QUEUES:
            await write_region(
                dut, queue, live=1, base=self.base(queue), elements=REGION_BYTES >> 8,
                log2_element_bytes=8, owner=queue + 1, generation=1, nic_read=1,
            )  # fmt: skip
            await Strobe.pulse(dut, "owner_store", queue=queue, owner=queue + 1)
            ring = {"base": self.ring(queue), "log2_bytes": RING_LOG2}
            await Strobe.pulse(dut, "tx_ring_store", queue=queue, enable=1, **ring)
        dut.pause.value, dut.transmit.value = 0, 1
        return self

    @staticmethod
    def base(queue):
        return 0x10000 * (queue + 1)

    @staticmethod
    def ring(queue):
        return (queue + 2) << RING_LOG2

    async def send(self, queue, sent):
        """A descriptor into the ring, once there is space, and perhaps a doorbell."""
        cells = (1 << RING_LOG2) // CELL

        def space():
            return self.producer[queue] - self.consumer[queue] + sent.cells <= cells

        if not space():
            await self.ring_bell(queue)
        await until(self.dut, space, "space in the ring", cycles=60_000)
        data = sent.encode()
        for at in range(0, len(data), CELL):
            place = self.producer[queue] * CELL % (1 << RING_LOG2)
            self.header.poke(self.ring(queue) + place, data[at : at + CELL])
            self.producer[queue] += 1
        self.expected[queue].append((sent, self.producer[queue]))
        if self.rng.random() < 0.4:
            await self.ring_bell(queue)

    async def ring_bell(self, queue):
        await Strobe.pulse(self.dut, "tx_producer", queue=queue, index=self.producer[queue])

    def _index(self, told):
        self.consumer[told["queue"]] = told["low"]

    def _outcome(self, told):
        queue, outcome = told["queue"], TxOutcome(told["outcome"])
        sent, behind = self.expected[queue].popleft()
        if outcome != sent.outcome:
            self.errors.append(f"{outcome!r} of queue {queue}, not {sent.outcome!r}")
        self.outcomes.append((queue, outcome))
        if outcome == TxOutcome.SENT:
            self.wanted += sent.frames
        else:
            index = (behind - sent.cells) & 0xFFFFFFFF
            self.wanted_faults.append({"queue": queue, "index": index, "status": int(outcome)})

    async def finish(self, *, faults):
        await until(
            self.dut, lambda: not any(self.expected.values()), "every descriptor's end",
            cycles=120_000,
        )  # fmt: skip
        await until(self.dut, lambda: self.sink.count() >= len(self.wanted), "every frame")
        for _ in range(60):
            await RisingEdge(self.dut.clk)
        assert not self.errors, self.errors
        frames = [await self.sink.recv() for _ in range(self.sink.count())]
        assert [bytes(frame.tdata) for frame in frames] == self.wanted
        assert self.faults == self.wanted_faults
        assert bool(self.faults) == faults
        assert self.producer == self.consumer


def refused(driver, queue):
    """A descriptor that must be refused."""
    other, rng = 1 - queue, driver.rng
    kind = rng.randrange(4)
    reference = [
        (other, 1, 0, 40), (queue, 2, 0, 40), (queue, 1, REGION_BYTES - 20, 40), (3, 1, 0, 40),
    ][kind]  # fmt: skip
    sent = plain(rng, 60)
    sent.references = [reference]
    sent.outcome = (
        TxOutcome.BAD_OWNER, TxOutcome.BAD_REGION, TxOutcome.OUT_OF_REGION, TxOutcome.BAD_REGION,
    )[kind]  # fmt: skip
    return sent


async def traffic(dut, pressure, refusals):
    driver = await Driver.start(dut, pressure=pressure)
    rng = driver.rng
    for number in range(DESCRIPTORS * len(QUEUES)):
        queue = rng.choice(QUEUES)
        if rng.random() < refusals:
            sent = refused(driver, queue)
        elif rng.random() < 0.3:
            sent = mixed_segments(rng, driver.memory, queue, 1)
        else:
            sent = mixed(rng, driver.memory, queue, 1, sport=1000 + number)
        await driver.send(queue, sent)
    for queue in QUEUES:
        await driver.ring_bell(queue)
    await driver.finish(faults=bool(refusals))


@cocotb.test()
async def frames_leave_as_scapy_makes_them(dut):
    await traffic(dut, 0.1, 0)


@cocotb.test()
async def what_may_not_be_read_is_refused_and_the_queues_go_on_under_pressure(dut):
    await traffic(dut, 0.4, 0.25)


@cocotb.test()
async def an_error_response_in_payload_stops_its_queue_alone(dut):
    driver = await Driver.start(dut, pressure=0.2)
    rng, memory = driver.rng, driver.memory
    broken = rng.randrange(2000, 6000)
    driver.payload.failing.add(driver.base(0) + broken)
    reads = [(1, 1, 0, 300), (0, 1, 0, 1900), (0, 1, broken - 20, 100), (1, 1, 500, 300)]
    for reference in reads:
        sent = plain(rng, 54, [reference], memory)
        if reference[2] == broken - 20:
            sent.outcome = TxOutcome.PORT_ERROR
        await driver.send(reference[0], sent)
        await driver.ring_bell(reference[0])
    await driver.finish(faults=True)
    assert int(dut.stopped.value) == 1
