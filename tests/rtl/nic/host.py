"""A host around the card in a cocotb bench: memories, registers, rings, wire.

The other side of every port is a verification model of a library (cocotbext-axi); what stands here
is the least of a driver, written against the contract alone. `whole_card_test` ends every bench
with the rule that nothing is uncounted.
"""

import functools
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
from hdsnic.abi import CommandKind, CompletionKind

HEADER_BYTES = 1 << 20
PAYLOAD_BYTES = 1 << 20
RING_BYTES = 1 << 14
QUEUES = (0, 1, 2, 3)
"""Queues that benches use."""
COMMAND_RING = 0x1000
SMALL_RING_BYTES = 4096
"""Size of the command ring and of completion rings."""
_CELL = abi.CELL_BYTES


def whole_card_test(function):
    """A cocotb test of the whole card: at its end frames in = records + counted drops (R16)."""

    @functools.wraps(function)
    async def bench(dut):
        await function(dut)
        await Host.current.check_frames()

    return cocotb.test()(bench)


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
    async def start(cls, dut, *, pressure=False, baseline=True):
        self = cls.current = cls()
        self.dut = dut
        self.ring_bytes = dict.fromkeys(QUEUES, RING_BYTES)  # of receive and transmit ring each
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
        self.completion_consumer, self.told = {}, {}
        self.command_producer = self.cookie = self.placed = 0
        self.taken = dict.fromkeys(QUEUES, 0)  # records that were taken
        self.regions = {}
        if baseline:
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
        rows = (*QUEUES, abi.rx_port_row)
        addresses = [abi.rx_counter(row, o) for row in rows for o in abi.RxOutcome]
        addresses += [abi.post_counter(q, o) for q in (1, 2) for o in abi.PostOutcome]
        addresses += [abi.tx_counter(q, o) for q in (0, 1, 2) for o in abi.TxOutcome]
        addresses += [abi.port_counter(name) for name, _ in abi.PORT_COUNTERS]
        self.baseline = {address: await self._counter(address) for address in addresses}

    async def check_frames(self):
        """Frames from the wire and from PLACE are records, one each, or counted drops."""
        seen = {}

        async def accounted():
            for row in (*QUEUES, abi.rx_port_row):
                for outcome in abi.RxOutcome:
                    seen[row, outcome] = await self.counter(abi.rx_counter(row, outcome))
            came = await self.counter(abi.port_counter("rx_frames")) + self.placed
            assert sum(seen.values()) <= came, "a frame was counted twice"
            return sum(seen.values()) == came

        await self.until(accounted, cycles=2_000, what="every frame counted")
        for queue in self.rx_consumer:
            records = sum(seen[queue, o] for o in abi.RxOutcome if o < abi.RX_RECORDS)

            async def all_taken(queue=queue, records=records):
                await self.records(queue)
                return self.taken[queue] >= records

            await self.until(all_taken, what=f"{records} records of queue {queue}")
            assert self.taken[queue] == records, f"records of queue {queue}"

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
        for queue in queues:
            await self.enable_queue(queue)
        await self.switch_on(mac, address)

    async def switch_on(self, mac: bytes, address: bytes):
        """MAC and IPv4 address, receive and transmit switched on."""
        await self.write(abi.CONTROL.MAC_LO, int.from_bytes(mac[:4], "little"))
        await self.write(abi.CONTROL.MAC_HI, int.from_bytes(mac[4:], "little"))
        await self.add_address(0, address)
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

    def completion_ring(self, queue):
        return COMMAND_RING + (1 + queue) * SMALL_RING_BYTES

    async def enable_queue(self, queue):
        log2 = self.ring_bytes[queue].bit_length() - 1
        for register, base in (
            (abi.CONTROL.RX_RING, self.rx_ring(queue)),
            (abi.CONTROL.TX_RING, self.tx_ring(queue)),
        ):
            assert await self.write(
                register, register.pack(base=base // 4096, log2_bytes=log2), index=queue
            )
        register = abi.CONTROL.COMPLETION_RING
        ring = register.pack(base=self.completion_ring(queue) // 4096, log2_bytes=12)
        assert await self.write(register, ring, index=queue)
        await self.switch_queue(queue, 1)
        self.header.write(queue * abi.INDEX_SLOT_BYTES, bytes(abi.INDEX_SLOT.bytes))
        self.rx_consumer[queue] = self.tx_producer[queue] = self.completion_consumer[queue] = 0

    async def switch_queue(self, queue, enable):
        register = abi.CONTROL.QUEUE_SWITCH
        assert await self.write(register, enable, index=queue)

        async def done():
            state = register.unpack(await self.read(register, queue))
            return not state["busy"] and state["enable"] == enable

        await self.until(done, what=f"queue {queue} enable={enable}")

    async def listen(self, index, queue, first, last=None, *, valid=1, udp=0, rss=0):
        await self.write(
            abi.CONTROL.LISTENER_PORTS,
            abi.CONTROL.LISTENER_PORTS.pack(first=first, last=first if last is None else last),
        )
        assert await self.write(
            abi.CONTROL.LISTENER_STORE,
            abi.CONTROL.LISTENER_STORE.pack(
                index=index, valid=valid, udp=udp, any_address=1, rss=rss, queue=queue
            ),
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

    def _in_ring(self, queue, cell, count):
        size = self.ring_bytes[queue]
        data = self.header.read(self.rx_ring(queue), size)
        at = cell * _CELL % size
        return (data + data)[at : at + count]

    def take_records(self, queue):
        """Take all complete records: a list of (fields, header bytes, payload bytes). Their cells
        are not handed back.

        `fields` has the chained buffers and the time stamp too: `chain`, `cycles`.
        """
        out = []
        producer = self.index_slot(queue)["rx_producer"]
        while self.rx_consumer[queue] != producer:
            at = self.rx_consumer[queue]
            fields = abi.RECORD.unpack(self._in_ring(queue, at, abi.RECORD.bytes))
            skip = abi.RECORD.bytes + 8 * fields["extensions"]
            header = self._in_ring(queue, at, skip + fields["header_length"])[skip:]
            extensions = self._in_ring(queue, at, skip)[abi.RECORD.bytes :]
            if fields["time_stamp"]:
                fields["cycles"] = abi.TIME_STAMP.unpack(extensions)["cycles"]
                extensions = extensions[8:]
            chain = [
                abi.CHAINED_BUFFER.unpack(extensions[k:]) for k in range(0, len(extensions), 8)
            ]
            fields["chain"] = chain
            first = fields["payload_length"] - sum(buffer["length"] for buffer in chain)
            payload = b""
            for buffer in ({**fields, "length": first}, *chain):
                if buffer["length"]:
                    at_byte = self.regions[buffer["region"]].address(buffer["element"])
                    payload += self.payload.read(at_byte, buffer["length"])
            out.append((fields, bytes(header), bytes(payload)))
            self.taken[queue] += 1
            self.rx_consumer[queue] += abi.record_cells(
                fields["header_length"], fields["extensions"]
            )
        return out

    async def records(self, queue):
        """Take all complete records, and hand their cells back; see `take_records`."""
        out = self.take_records(queue)
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

    async def transmit(self, queue, header: bytes, references=(), *, tag=0, **fields):
        """Write a descriptor and ring the doorbell; `references` are dicts of REFERENCE fields,
        `tag` is the VLAN tag of a descriptor with `vlan`."""
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
        vlan = bool(fields.get("vlan"))
        data += abi.VLAN_TAG.pack(tci=tag) if vlan else b""
        data += b"".join(abi.REFERENCE.pack(**r) for r in references[1:]) + header
        cells = abi.descriptor_cells(len(header), len(references), vlan)
        data = data.ljust(cells * _CELL, b"\xee")
        ring = self.tx_ring(queue)
        for k in range(cells):
            at = (self.tx_producer[queue] + k) * _CELL % self.ring_bytes[queue]
            self.header.write(ring + at, data[k * _CELL : (k + 1) * _CELL])
        self.tx_producer[queue] += cells
        page = abi.stack_doorbell_page(queue)
        await self.doorbell(page, abi.STACK_DOORBELL.TX_PRODUCER, self.tx_producer[queue])

    # -- commands ----------------------------------------------------------------------------------

    async def start_commands(self):
        """Switch the command ring on."""
        register = abi.CONTROL.COMMAND_RING
        assert await self.write(register, register.pack(base=COMMAND_RING // 4096, log2_bytes=12))
        self.command_producer = 0

    async def submit(self, kind, tail=b"", **fields):
        """Put a command into the ring and ring; returns its cookie."""
        self.cookie += 1
        data = abi.COMMAND.pack(kind=kind, cookie=self.cookie, **fields) + tail
        data = data.ljust(-(-len(data) // _CELL) * _CELL, b"\0")
        for k in range(0, len(data), _CELL):
            at = self.command_producer * _CELL % SMALL_RING_BYTES
            self.header.write(COMMAND_RING + at, data[k : k + _CELL])
            self.command_producer += 1
        bell = abi.STACK_DOORBELL.COMMAND_PRODUCER
        await self.doorbell(abi.stack_doorbell_page(0), bell, self.command_producer)
        return self.cookie

    async def place(self, queue, ranges):
        """Submit a PLACE of ranges (offset, bytes)."""
        (offset, length), *more = ranges
        tail = b"".join(abi.COMMAND_RANGE.pack(offset=o, length=n) for o, n in more)
        self.placed += 1
        return await self.submit(
            CommandKind.PLACE, tail, queue=queue, ranges=len(ranges), offset=offset, length=length
        )

    async def store_rule(self, **rule):
        return await self.submit(CommandKind.RULE, abi.EXACT_RULE.pack(**rule))

    def take_completions(self, queue):
        """Take all completions of a queue's ring; those of commands go to `told` by cookie. Their
        cells are not handed back."""
        out = []
        producer = self.index_slot(queue)["completion_producer"]
        while self.completion_consumer[queue] != producer:
            at = self.completion_consumer[queue] * _CELL % SMALL_RING_BYTES
            fields = abi.COMPLETION.unpack(
                self.header.read(self.completion_ring(queue) + at, _CELL)
            )
            if fields["kind"] == CompletionKind.COMMAND:
                self.told[fields["cookie"]] = fields["status"]
            out.append(fields)
            self.completion_consumer[queue] += 1
        return out

    async def completions(self, queue):
        """Take all completions of a queue's ring, and hand their cells back."""
        out = self.take_completions(queue)
        if out:
            bell = abi.STACK_DOORBELL.COMPLETION_CONSUMER
            page = abi.stack_doorbell_page(queue)
            await self.doorbell(page, bell, self.completion_consumer[queue])
        return out

    async def completed(self, cookie, *, cycles=20_000):
        """Wait for a command's completion; returns its status."""

        async def told():
            await self.completions(0)
            return cookie in self.told

        await self.until(told, cycles=cycles, what=f"completion of command {cookie}")
        return self.told[cookie]

    async def command(self, kind, tail=b"", **fields):
        """Submit a command and wait for its completion; returns its status."""
        return await self.completed(await self.submit(kind, tail, **fields))

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
