"""The register block: AXI4-Lite pages to switches, settings, doorbells and counters.

Which page belongs to whom is the bus's business (`hdsnic.abi.registers`); what is locked while it
is in force is refused here (R29).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import abi
from ..dma.axi import AXI4Lite
from ..interfaces import (
    AddressStore,
    Doorbell,
    ListenerStore,
    PostRingStore,
    QueueStore,
    RegionRow,
    Strobe,
)  # fmt: skip
from .lite import LiteSlave
from .settings import CONTROL_QUEUES, MANAGEMENT_QUEUES, MANAGEMENT_REGIONS, SettingsEngine

__all__ = ["RegisterBlock"]

_C, _M = abi.CONTROL, abi.MANAGEMENT
_COUNTER_ADDRESS_BITS = 11  # 64-bit counters in the counter pages


class RegisterBlock(wiring.Component):
    """All registers. An access takes about six cycles; accesses are served one by one.

    Refused (SLVERR, and for writes ERROR.setting_refused): addresses that name no register, writes
    of read-only registers, settings that are locked or still being carried out.

    Ports
    -----
    counter_index / counter_data: which 64-bit counter is read (its place in the counter pages), and
    its value two cycles later. For the others see `hdsnic.nic`.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        self._queue_bits = max(1, (p.queues - 1).bit_length())
        super().__init__(
            {
                "axil": In(AXI4Lite(address_bits=abi.ADDRESS_BITS)),
                "irq": Out(1),
                "receive": Out(1),
                "transmit": Out(1),
                "promiscuous": Out(1),
                "mac_address": Out(48),
                "index_base": Out(p.address_bits),
                "address_store": Out(Strobe(AddressStore(p))),
                "listener_store": Out(Strobe(ListenerStore(p))),
                "rx_ring_store": Out(Strobe(QueueStore(p))),
                "tx_ring_store": Out(Strobe(QueueStore(p))),
                "post_ring_store": Out(Strobe(PostRingStore(p))),
                "rx_consumer": Out(Strobe(Doorbell(p))),
                "tx_producer": Out(Strobe(Doorbell(p))),
                "post_producer": Out(Strobe(Doorbell(p))),
                "region_write": Out(1),
                "region_index": Out(8),
                "region_row": Out(RegionRow(p)),
                "element_clear": Out(stream.Signature(8)),
                "element_busy": In(1),
                "pause": Out(1),
                "rx_idle": In(1),
                "tx_idle": In(1),
                "tx_stopped": In(p.queues),
                "looked_up": In(1),
                "completed": In(1),
                "rx_written": In(Strobe(self._queue_bits)),
                "tx_written": In(Strobe(self._queue_bits)),
                "port_errors": In(4),
                "counter_index": Out(_COUNTER_ADDRESS_BITS),
                "counter_data": In(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.lite = lite = LiteSlave(abi.ADDRESS_BITS)
        connect(m, flipped(self.axil), lite.axil)
        access = lite.access
        address, data = access.address, access.write_data
        writing = access.start & access.is_write

        # An answer comes two cycles after `start`: memories have been read by then.
        known, refused = Signal(), Signal()
        after_start, latched_refusal = Signal(), Signal()
        value = Signal(32)
        m.d.sync += [
            after_start.eq(access.start),
            access.done.eq(after_start),
            access.read_data.eq(value),
        ]
        with m.If(access.start):
            m.d.sync += latched_refusal.eq(refused | ~known)
        m.d.comb += access.refused.eq(latched_refusal)

        def fields(register, word=data):
            out, at = {}, 0
            for f in register.fields:
                out[f.name] = word[at : at + f.bits]
                at += f.bits
            return out

        def at(page, register):
            return address == page + register.offset

        def reads(page, register, source):
            with m.If(at(page, register)):
                m.d.comb += [known.eq(~access.is_write), value.eq(source)]

        def stored(page, register, *, init=0, locked=0):
            """A register of 32 bits of its own."""
            word = Signal(32, name=register.name.lower(), init=init)
            with m.If(at(page, register)):
                m.d.comb += [known.eq(1), value.eq(word), refused.eq(access.is_write & locked)]
                with m.If(writing & ~refused):
                    m.d.sync += word.eq(data)
            return word

        def strobe(register, page=abi.CONTROL_PAGE):
            """1 in the cycle in which a write-only register is written."""
            hit = Signal(name=f"{register.name.lower()}_written")
            with m.If(at(page, register)):
                m.d.comb += [known.eq(access.is_write), hit.eq(writing)]
            return hit

        # -- identity and switches -------------------------------------------------------------
        for register, constant in (
            (_C.MAGIC, abi.MAGIC), (_C.ABI_VERSION, abi.ABI_VERSION), (_C.BUS_BYTES, p.bus_bytes),
            (_C.QUEUES, p.queues), (_C.REGIONS, p.regions), (_C.LISTENERS, p.listeners),
            (_C.RANGE_LISTENERS, p.range_listeners), (_C.LOCAL_ADDRESSES, p.local_addresses),
            (_C.REFERENCES_MAX, p.references_max), (_C.FRAME_BYTES_MAX, p.frame_bytes_max),
            (_C.POSTABLE_MAX, p.postable_max),
        ):  # fmt: skip
            reads(abi.CONTROL_PAGE, register, constant)
        cycles, cycles_high = Signal(64), Signal(32)
        m.d.sync += cycles.eq(cycles + 1)
        reads(abi.CONTROL_PAGE, _C.CYCLES_LO, cycles[:32])
        reads(abi.CONTROL_PAGE, _C.CYCLES_HI, cycles_high)
        with m.If(after_start & at(abi.CONTROL_PAGE, _C.CYCLES_LO)):
            m.d.sync += cycles_high.eq(cycles[32:])

        switches = fields(_C.SWITCHES, stored(abi.CONTROL_PAGE, _C.SWITCHES))
        mac_low = stored(abi.CONTROL_PAGE, _C.MAC_LO)
        mac_high = stored(abi.CONTROL_PAGE, _C.MAC_HI)
        m.d.comb += [
            self.receive.eq(switches["receive"]),
            self.transmit.eq(switches["transmit"]),
            self.promiscuous.eq(switches["promiscuous"]),
            self.mac_address.eq(Cat(mac_low, mac_high[:16])),
        ]

        # -- settings that the engine carries out ----------------------------------------------
        m.submodules.engine = engine = SettingsEngine(p)
        busy_queues = engine.queue_enabled | engine.queue_pending
        any_queue = busy_queues.any()
        header_low = stored(abi.MANAGEMENT_PAGE, _M.HEADER_BASE_LO, locked=any_queue)
        header_high = stored(abi.MANAGEMENT_PAGE, _M.HEADER_BASE_HI, locked=any_queue)
        header_pages = stored(abi.MANAGEMENT_PAGE, _M.HEADER_PAGES, locked=any_queue)
        index_page = stored(abi.CONTROL_PAGE, _C.INDEX_BASE, locked=any_queue)
        header_base = Cat(header_low, header_high)[: p.address_bits]
        m.d.comb += [
            engine.header_base.eq(header_base),
            engine.header_pages.eq(header_pages),
            engine.index_page.eq(index_page),
            self.index_base.eq(header_base + (index_page << 12)),
            self.pause.eq(engine.pause),
            engine.rx_idle.eq(self.rx_idle),
            engine.tx_idle.eq(self.tx_idle),
            self.region_write.eq(engine.region_write),
            self.region_index.eq(engine.region_index),
            self.region_row.eq(engine.region_row),
            self.element_clear.valid.eq(engine.element_clear.valid),
            self.element_clear.payload.eq(engine.element_clear.payload),
            engine.element_clear.ready.eq(self.element_clear.ready),
            engine.element_busy.eq(self.element_busy),
        ]
        for mine, theirs in (
            (self.rx_ring_store, engine.rx_ring_store),
            (self.tx_ring_store, engine.tx_ring_store),
            (self.post_ring_store, engine.post_ring_store),
        ):
            m.d.comb += [mine.valid.eq(theirs.valid), mine.payload.eq(theirs.payload)]
        self._settings_memory(m, access, engine, known, refused, value, after_start)

        # -- steering --------------------------------------------------------------------------
        address_words = [Signal(32, name=f"address_word_{k}") for k in range(4)]
        for k, word in enumerate(address_words):
            with m.If(address == abi.CONTROL_PAGE + _C.ADDRESS_WORD.at(k)):
                m.d.comb += known.eq(access.is_write)
                with m.If(writing):
                    m.d.sync += word.eq(data)
        entry = fields(_C.ADDRESS_STORE)
        beyond = entry["index"] >= p.local_addresses
        with m.If(at(abi.CONTROL_PAGE, _C.ADDRESS_STORE)):
            m.d.comb += refused.eq(beyond)
        m.d.comb += [
            self.address_store.valid.eq(strobe(_C.ADDRESS_STORE) & ~beyond),
            self.address_store.payload.index.eq(entry["index"]),
            self.address_store.payload.valid.eq(entry["valid"]),
            self.address_store.payload.ipv6.eq(entry["ipv6"]),
            self.address_store.payload.address.eq(Cat(*address_words)),
        ]
        ports = Signal(32)
        with m.If(strobe(_C.LISTENER_PORTS)):
            m.d.sync += ports.eq(data)
        port = fields(_C.LISTENER_PORTS, ports)
        rule = fields(_C.LISTENER_STORE)
        beyond = (
            (rule["index"] >= p.listeners)
            | (rule["valid"][0] & (rule["queue"] >= p.queues))
            | (rule["address"] >= p.local_addresses)
        )
        with m.If(at(abi.CONTROL_PAGE, _C.LISTENER_STORE)):
            m.d.comb += refused.eq(beyond)
        target = self.listener_store.payload
        m.d.comb += self.listener_store.valid.eq(strobe(_C.LISTENER_STORE) & ~beyond)
        m.d.comb += [
            target[name].eq(rule[name])
            for name in ("index", "valid", "udp", "any_address", "address", "queue")
        ] + [target.first.eq(port["first"]), target.last.eq(port["last"])]

        # -- fence: frames finish in order, so a count of those in flight is enough (R15) ------
        in_flight, fence_left = Signal(16), Signal(16)
        m.d.sync += in_flight.eq(in_flight + self.looked_up - self.completed)
        with m.If(at(abi.CONTROL_PAGE, _C.FENCE)):
            m.d.comb += [known.eq(1), value.eq(fence_left != 0)]
        with m.If(at(abi.CONTROL_PAGE, _C.FENCE) & writing):
            m.d.sync += fence_left.eq(in_flight + self.looked_up - self.completed)
        with m.Elif(self.completed & (fence_left != 0)):
            m.d.sync += fence_left.eq(fence_left - 1)

        # -- interrupts and errors -------------------------------------------------------------
        status, errors = Signal(p.queues), Signal(5)
        enable = stored(abi.CONTROL_PAGE, _C.IRQ_ENABLE)
        came = Mux(self.rx_written.valid, 1 << self.rx_written.payload, 0) | Mux(
            self.tx_written.valid, 1 << self.tx_written.payload, 0
        )
        m.d.sync += self.irq.eq((status & enable).any())
        for register, word, new in (
            (_C.IRQ_STATUS, status, came),
            (_C.ERROR, errors, Cat(access.done & latched_refusal & access.is_write
                                   | engine.refused, self.port_errors)),
        ):  # fmt: skip
            with m.If(at(abi.CONTROL_PAGE, register)):
                m.d.comb += [known.eq(1), value.eq(word)]
            cleared = Mux(writing & at(abi.CONTROL_PAGE, register), data, 0)
            m.d.sync += word.eq((word & ~cleared) | new)

        self._doorbells(m, access, known)

        # -- counters --------------------------------------------------------------------------
        counter_high = Signal(32)
        m.d.comb += self.counter_index.eq(address[3 : 3 + _COUNTER_ADDRESS_BITS])
        with m.If((address >= abi.COUNTERS_PAGE) & (address < abi.COUNTERS_PAGE + 0x4000)):
            m.d.comb += [
                known.eq(~access.is_write),
                value.eq(Mux(address[2], counter_high, self.counter_data[:32])),
            ]
            with m.If(after_start & ~address[2]):
                m.d.sync += counter_high.eq(self.counter_data[32:])
        return m

    def _settings_memory(self, m, access, engine, known, refused, value, after_start):
        """The arrays of rings, post rings and regions: words in a memory, and what is pending."""
        p = self.parameters
        address, data = access.address, access.write_data
        writing = access.start & access.is_write
        m.submodules.words = words = Memory(shape=32, depth=256, init=[])
        write, mine, theirs = words.write_port(), words.read_port(), words.read_port()
        m.d.comb += [theirs.addr.eq(engine.word_address), engine.word.eq(theirs.data)]

        place = Signal(8)
        m.d.comb += [mine.addr.eq(place), write.addr.eq(place), write.data.eq(data)]
        in_memory = Signal()  # the address is one of the words
        m.d.comb += write.en.eq(writing & in_memory & ~refused)

        pending = {
            "queue": (engine.queue_pending, engine.queue_done),
            "post": (engine.post_pending, engine.post_done),
            "region": (engine.region_pending, engine.region_done),
            "revoke": (engine.revoke_pending, engine.revoke_done),
        }
        requested = {
            name: Signal.like(bits, name=f"{name}_asked") for name, (bits, _) in pending.items()
        }
        for name, (bits, done) in pending.items():
            state = Signal.like(bits, name=f"{name}_state")
            m.d.sync += state.eq((state & ~done) | requested[name])
            m.d.comb += bits.eq(state)

        queue, region = address[4:8], address[5:9]
        queue_known, region_known = queue < p.queues, region < p.regions
        queue_bit, region_bit = Signal(p.queues), Signal(p.regions)
        m.d.comb += [queue_bit.eq(1 << queue), region_bit.eq(1 << region)]
        queue_busy = (engine.queue_pending & queue_bit).any()
        queue_on = (engine.queue_enabled & queue_bit).any()
        post_busy = (engine.post_pending & queue_bit).any()
        posts_on = (engine.posts_enabled & queue_bit).any()
        region_busy = ((engine.region_pending | engine.revoke_pending) & region_bit).any()
        region_on = (engine.region_live & region_bit).any()
        word = Signal(4)  # word of the entry
        go = writing & ~refused

        with m.If(
            (address[8:] == (abi.CONTROL_PAGE + 0x400) >> 8) & (address[2:4] != 3) & queue_known
        ):
            m.d.comb += [
                known.eq(1), in_memory.eq(1), word.eq(address[2:4]),
                place.eq(CONTROL_QUEUES + 4 * queue + word), value.eq(mine.data),
            ]  # fmt: skip
            with m.If(word == 2):
                m.d.comb += [
                    refused.eq(access.is_write & queue_busy),
                    value.eq(Cat(queue_on, Const(0, 15), queue_busy,
                                 (self.tx_stopped & queue_bit).any())),
                ]  # fmt: skip
                with m.If(go):
                    m.d.comb += requested["queue"].eq(queue_bit)
            with m.Else():
                m.d.comb += refused.eq(access.is_write & (queue_busy | queue_on))
        with m.If(
            (address[8:] == (abi.MANAGEMENT_PAGE + 0x800) >> 8) & (address[3] == 0) & queue_known
        ):
            m.d.comb += [
                known.eq(1), in_memory.eq(1), word.eq(address[2:4]),
                place.eq(MANAGEMENT_QUEUES + 4 * queue + word), value.eq(mine.data),
            ]  # fmt: skip
            with m.If(word == 0):
                m.d.comb += [
                    refused.eq(access.is_write & (post_busy | (posts_on & data[31]))),
                    value.eq(Cat(mine.data[:30], post_busy, posts_on)),
                ]
                with m.If(go):
                    m.d.comb += requested["post"].eq(queue_bit)
            with m.Else():
                m.d.comb += refused.eq(access.is_write & (post_busy | posts_on))
        with m.If(
            (address[9:] == (abi.MANAGEMENT_PAGE + 0x400) >> 9) & (address[2:5] < 5) & region_known
        ):
            m.d.comb += [
                known.eq(1), in_memory.eq(1), word.eq(address[2:5]),
                place.eq(MANAGEMENT_REGIONS + 8 * region + word), value.eq(mine.data),
                refused.eq(access.is_write & (region_busy | region_on)),
            ]  # fmt: skip
            with m.If(word == 4):
                m.d.comb += value.eq(Cat(mine.data[:30], region_on, region_busy))
                with m.If(go & data[30]):
                    m.d.comb += requested["region"].eq(region_bit)
        with m.If(address == abi.MANAGEMENT_PAGE + _M.REVOKE.offset):
            m.d.comb += [known.eq(1), value.eq(engine.revoke_pending)]
            with m.If(writing):
                m.d.comb += requested["revoke"].eq(data)

    def _doorbells(self, m, access, known):
        """Doorbell pages: two a queue."""
        p = self.parameters
        address = access.address
        page = Signal(6)
        queue = page[1:]
        m.d.comb += page.eq(address[12:18] - (abi.DOORBELLS_PAGE >> 12))
        in_pages = (address[16:] != 0) & (queue < p.queues)
        offset = address[:12]
        for bell, odd, register in (
            (self.post_producer, 0, abi.POST_DOORBELL.POST_PRODUCER),
            (self.tx_producer, 1, abi.STACK_DOORBELL.TX_PRODUCER),
            (self.rx_consumer, 1, abi.STACK_DOORBELL.RX_CONSUMER),
        ):
            m.d.comb += [bell.payload.queue.eq(queue), bell.payload.index.eq(access.write_data)]
            with m.If(in_pages & (page[0] == odd) & (offset == register.offset)):
                m.d.comb += [
                    known.eq(access.is_write),
                    bell.valid.eq(access.start & access.is_write),
                ]
