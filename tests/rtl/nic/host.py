"""A host around the card in a cocotb bench: memories, registers, rings, wire.

The other side of every port is a verification model of a library (cocotbext-axi); what stands here
is the least of a driver, written against the contract alone.
"""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteMaster,
    AxiRam,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)  # fmt: skip

from hdsnic import abi

HEADER_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 20
RING_BYTES = 1 << 14
_CELL = abi.CELL_BYTES


class Region:
    """A live region: where it lies, and which of its elements are posted."""

    def __init__(self, number, base, element_bytes, elements, postable, generation):
        self.number, self.base, self.generation = number, base, generation
        self.element_bytes, self.elements, self.postable = element_bytes, elements, postable

    def address(self, element):
        return self.base + element * self.element_bytes


class Host:
    """Models on every port, and the card reset. Make it by `await Host.start(dut)`."""

    @classmethod
    async def start(cls, dut, *, pressure=False):
        self = cls()
        self.dut = dut
        self.random = random.Random(cocotb.RANDOM_SEED)
        cocotb.start_soon(Clock(dut.clk, 4, unit="ns").start())
        lite = AxiLiteBus.from_prefix(dut, "s_axil")
        self.lite = AxiLiteMaster(lite, dut.clk, dut.rst)
        self.wire_in = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis_rx"), dut.clk, dut.rst)
        self.wire_out = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_tx"), dut.clk, dut.rst)
        header, payload = AxiBus.from_prefix(dut, "m_axi_hdr"), AxiBus.from_prefix(dut, "m_axi_pay")
        self.header = AxiRam(header, dut.clk, dut.rst, size=HEADER_BYTES)
        self.payload = AxiRam(payload, dut.clk, dut.rst, size=PAYLOAD_BYTES)
        if pressure:
            self.press()
        dut.rst.value = 1
        await ClockCycles(dut.clk, 8)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 8)
        self.bus_bytes = await self.read(abi.CONTROL.BUS_BYTES)
        self.rx_consumer, self.tx_producer, self.posts = {}, {}, {}
        self.regions = {}
        await self._take_baseline()
        return self

    def press(self):
        """Random pauses on every channel of every port but the wire in, which never waits."""

        def pauses(chance):
            while True:
                yield self.random.random() < chance

        for ram in (self.header, self.payload):
            for side in (ram.write_if, ram.read_if):
                for channel in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
                    if hasattr(side, channel):
                        chance = self.random.choice((0.1, 0.4))
                        getattr(side, channel).set_pause_generator(pauses(chance))
        self.wire_out.set_pause_generator(pauses(0.3))

    # -- registers ---------------------------------------------------------------------------------

    async def read(self, register, index=0, page=abi.CONTROL_PAGE):
        return await self.lite.read_dword(page + register.at(index))

    async def write(self, register, value, index=0, page=abi.CONTROL_PAGE):
        """Returns True if the card accepted the write."""
        data = value.to_bytes(4, "little")
        answer = await self.lite.write(page + register.at(index), data)
        return int(answer.resp) == 0

    async def counter(self, address):
        """What a 64-bit counter has counted since the start: counters outlive a reset."""
        return await self._counter(address) - self.baseline.get(address, 0)

    async def _counter(self, address):
        low = await self.lite.read_dword(address)
        return low | (await self.lite.read_dword(address + 4)) << 32

    async def _take_baseline(self):
        rows = (0, 1, 2, abi.rx_port_row)
        addresses = [abi.rx_counter(row, o) for row in rows for o in abi.RxOutcome]
        addresses += [abi.post_counter(q, o) for q in (1, 2) for o in abi.PostOutcome]
        addresses += [abi.tx_counter(q, o) for q in (0, 1, 2) for o in abi.TxOutcome]
        addresses += [abi.port_counter(name) for name, _ in abi.PORT_COUNTERS]
        self.baseline = {address: await self._counter(address) for address in addresses}

    async def until(self, condition, *, cycles=20_000, what="the condition"):
        """Wait for an awaitable condition, at most so many cycles."""
        for _ in range(cycles // 20):
            if await condition():
                return
            await ClockCycles(self.dut.clk, 20)
        raise AssertionError(f"{what} did not come true within {cycles} cycles")

    # -- set-up ------------------------------------------------------------------------------------

    async def set_up(self, mac: bytes, address: bytes, queues=(0, 1, 2)):
        """MAC and IPv4 address, header memory, rings of `queues`, everything switched on."""
        assert await self.write(
            abi.MANAGEMENT.HEADER_PAGES, HEADER_BYTES // 4096, page=abi.MANAGEMENT_PAGE
        )
        await self.write(abi.CONTROL.INDEX_BASE, 0)
        await self.write(abi.CONTROL.MAC_LO, int.from_bytes(mac[:4], "little"))
        await self.write(abi.CONTROL.MAC_HI, int.from_bytes(mac[4:], "little"))
        await self.add_address(0, address)
        for queue in queues:
            await self.enable_queue(queue)
        await self.write(abi.CONTROL.SWITCHES, abi.CONTROL.SWITCHES.pack(receive=1, transmit=1))

    async def add_address(self, index, address: bytes):
        for k in range(0, len(address), 4):
            word = int.from_bytes(address[k : k + 4], "little")
            await self.write(abi.CONTROL.ADDRESS_WORD, word, index=k // 4)
        await self.write(
            abi.CONTROL.ADDRESS_STORE,
            abi.CONTROL.ADDRESS_STORE.pack(index=index, valid=1, ipv6=len(address) == 16),
        )

    def rx_ring(self, queue):
        return 0x20000 + 2 * queue * RING_BYTES

    def tx_ring(self, queue):
        return self.rx_ring(queue) + RING_BYTES

    async def enable_queue(self, queue):
        log2 = RING_BYTES.bit_length() - 1
        for register, base in (
            (abi.CONTROL.RX_RING, self.rx_ring(queue)),
            (abi.CONTROL.TX_RING, self.tx_ring(queue)),
        ):
            assert await self.write(
                register, register.pack(base=base // 4096, log2_bytes=log2), index=queue
            )
        await self.switch_queue(queue, 1)
        self.header.write(queue * abi.INDEX_SLOT_BYTES, bytes(abi.INDEX_SLOT.bytes))
        self.rx_consumer[queue] = self.tx_producer[queue] = 0

    async def switch_queue(self, queue, enable):
        register = abi.CONTROL.QUEUE_SWITCH
        assert await self.write(register, enable, index=queue)

        async def done():
            state = register.unpack(await self.read(register, queue))
            return not state["busy"] and state["enable"] == enable

        await self.until(done, what=f"queue {queue} enable={enable}")

    async def listen(self, index, queue, first, last=None, *, valid=1):
        await self.write(
            abi.CONTROL.LISTENER_PORTS,
            abi.CONTROL.LISTENER_PORTS.pack(first=first, last=first if last is None else last),
        )
        assert await self.write(
            abi.CONTROL.LISTENER_STORE,
            abi.CONTROL.LISTENER_STORE.pack(index=index, valid=valid, any_address=1, queue=queue),
        )
        await self.write(abi.CONTROL.FENCE, 1)

        async def fenced():
            return not await self.read(abi.CONTROL.FENCE)

        await self.until(fenced, what="the fence")

    async def add_region(self, number, base, *, owner, element_bytes=2048, elements=32,
                         postable=24, generation=1, nic_write=1, nic_read=1):  # fmt: skip
        """A region that comes to life; its row must be accepted."""
        page, m = abi.MANAGEMENT_PAGE, abi.MANAGEMENT
        log2 = element_bytes.bit_length() - 1
        await self.write(m.REGION_BASE_LO, base, number, page)
        await self.write(m.REGION_BASE_HI, 0, number, page)
        shape = m.REGION_SHAPE.pack(elements=elements, log2_element_bytes=log2)
        await self.write(m.REGION_SHAPE, shape, number, page)
        await self.write(m.REGION_POSTABLE, postable, number, page)
        state = m.REGION_STATE.pack(
            owner=owner, generation=generation, nic_write=nic_write, nic_read=nic_read, live=1
        )
        assert await self.write(m.REGION_STATE, state, number, page)

        async def live():
            got = m.REGION_STATE.unpack(await self.read(m.REGION_STATE, number, page))
            return got["live"] and not got["busy"]

        await self.until(live, what=f"region {number}")
        region = Region(number, base, element_bytes, elements, postable, generation)
        self.regions[number] = region
        return region

    async def revoke(self, number):
        page, register = abi.MANAGEMENT_PAGE, abi.MANAGEMENT.REVOKE
        await self.write(register, 1 << number, page=page)

        async def acknowledged():
            return not (await self.read(register, page=page)) >> number & 1

        await self.until(acknowledged, what=f"revoke of region {number}")

    async def own(self, queue, owner, region, *, posts=1):
        """Give `queue` to `owner`; its post ring is the last two elements of `region`."""
        page, m = abi.MANAGEMENT_PAGE, abi.MANAGEMENT
        offset = (region.elements - 2) * region.element_bytes
        ring = m.POST_RING.pack(offset=offset // 4096, region=region.number, log2_pages=0)
        assert await self.write(m.POST_RING, ring, queue, page)
        assert await self.write(
            m.QUEUE_OWNER, m.QUEUE_OWNER.pack(owner=owner, posts=posts), queue, page
        )

        async def done():
            return not m.QUEUE_OWNER.unpack(await self.read(m.QUEUE_OWNER, queue, page))["busy"]

        await self.until(done, what=f"owner of queue {queue}")
        self.posts[queue] = (region.base + offset, 0)

    # -- rings -------------------------------------------------------------------------------------

    async def post(self, queue, cells):
        """Post cells, each a dict of `abi.POST_CELL` fields."""
        ring, producer = self.posts[queue]
        for cell in cells:
            at = producer % (4096 // abi.POST_CELL.bytes) * abi.POST_CELL.bytes
            self.payload.write(ring + at, abi.POST_CELL.pack(**cell))
            producer += 1
        self.posts[queue] = (ring, producer)
        await self.doorbell(
            abi.post_doorbell_page(queue), abi.POST_DOORBELL.POST_PRODUCER, producer
        )

    async def post_elements(self, queue, region, elements):
        await self.post(
            queue,
            [
                {"element": e, "region": region.number, "generation": region.generation}
                for e in elements
            ],
        )

    async def doorbell(self, page, register, index):
        await self.lite.write_dword(page + register.offset, index & 0xFFFFFFFF)

    def index_slot(self, queue):
        at = queue * abi.INDEX_SLOT_BYTES
        return abi.INDEX_SLOT.unpack(self.header.read(at, abi.INDEX_SLOT.bytes))

    def _ring_bytes(self, ring, cell, count):
        data = self.header.read(ring, RING_BYTES)
        at = cell * _CELL % RING_BYTES
        return (data + data)[at : at + count]

    async def records(self, queue):
        """Take all complete records: a list of (fields, header bytes, payload bytes)."""
        out = []
        producer, ring = self.index_slot(queue)["rx_producer"], self.rx_ring(queue)
        while self.rx_consumer[queue] != producer:
            at = self.rx_consumer[queue]
            fields = abi.RECORD.unpack(self._ring_bytes(ring, at, abi.RECORD.bytes))
            skip = abi.RECORD.bytes + 8 * fields["extensions"]
            header = self._ring_bytes(ring, at, skip + fields["header_length"])[skip:]
            payload = b""
            if fields["payload_length"]:
                region = self.regions[fields["region"]]
                payload = self.payload.read(
                    region.address(fields["element"]), fields["payload_length"]
                )
            out.append((fields, bytes(header), bytes(payload)))
            self.rx_consumer[queue] += abi.record_cells(
                fields["header_length"], fields["extensions"]
            )
        if out:
            page = abi.stack_doorbell_page(queue)
            await self.doorbell(page, abi.STACK_DOORBELL.RX_CONSUMER, self.rx_consumer[queue])
        return out

    async def wait_records(self, queue, count, *, cycles=100_000):
        """Take records until there are `count`."""
        out = []

        async def enough():
            out.extend(await self.records(queue))
            return len(out) >= count

        await self.until(enough, cycles=cycles, what=f"{count} records in queue {queue}")
        return out

    async def transmit(self, queue, header: bytes, references=(), **fields):
        """Write a descriptor and ring the doorbell; `references` are dicts of REFERENCE fields."""
        references = list(references)
        first = (
            references[0]
            if references
            else {"offset": 0, "length": 0, "region": 0, "generation": 0}
        )
        data = abi.DESCRIPTOR.pack(
            header_length=len(header), references=len(references),
            **{f"ref_{k}": v for k, v in first.items()}, **fields,
        )  # fmt: skip
        data += b"".join(abi.REFERENCE.pack(**r) for r in references[1:]) + header
        cells = abi.descriptor_cells(len(header), len(references))
        data = data.ljust(cells * _CELL, b"\xee")
        ring = self.tx_ring(queue)
        for k in range(cells):
            at = (self.tx_producer[queue] + k) * _CELL % RING_BYTES
            self.header.write(ring + at, data[k * _CELL : (k + 1) * _CELL])
        self.tx_producer[queue] += cells
        page = abi.stack_doorbell_page(queue)
        await self.doorbell(page, abi.STACK_DOORBELL.TX_PRODUCER, self.tx_producer[queue])

    # -- wire --------------------------------------------------------------------------------------

    async def send(self, frame: bytes, *, bad_fcs=False):
        """Put a frame on the wire, padded as a MAC would have received it."""
        user = [0] * len(frame)
        user[-1] = int(bad_fcs)
        await self.wire_in.send(AxiStreamFrame(tdata=frame, tuser=user))

    async def sent(self, *, cycles=20_000):
        """The next frame on the wire out."""
        for _ in range(cycles):
            if not self.wire_out.empty():
                return bytes((await self.wire_out.recv()).tdata)
            await RisingEdge(self.dut.clk)
        raise AssertionError(f"no frame left the card within {cycles} cycles")
