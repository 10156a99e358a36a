"""The register block: AXI4-Lite pages to switches, settings, doorbells and counters.

Which page belongs to whom is the bus's business (`hdsnic.abi.registers`); what is locked while it
is in force is refused here (R29).
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import abi
from ..dma.axi import AXI4Lite
from ..interfaces import (
    AddressStore,
    Doorbell,
    ExactStore,
    ListenerStore,
    PostRingStore,
    QueueStore,
    RegionRow,
    RssKeyStore,
    RssTableStore,
    Strobe,
    TxShareStore,
)  # fmt: skip
from .arrays import queue_modes, settings_words
from .decode import Decoder
from .fence import FENCES, Fence
from .lite import LiteSlave
from .moderation import Moderation
from .settings import SettingsEngine, ring_checks
from .steering import steering_registers

__all__ = ["CommandControl", "RegisterBlock"]

_C, _M = abi.CONTROL, abi.MANAGEMENT
_COUNTER_ADDRESS_BITS = 11  # 64-bit counters in the counter pages
_CYCLES_BEFORE_TIMEOUT = 1 << 20


class CommandControl(wiring.Signature):
    """What the command engine has from the registers, from their side.

    `ring_store`: the command ring is set up, its indices start at zero (`queue` is 0). `enable`: go
    on with the next command; `busy`: one is under way. `producer`: doorbell, not trusted.
    `consumer`: cells read. `revoke`, `queue_off`: bits of regions and queues, for a cycle;
    `revoking`, `switching`: not yet done. `fence`: begin one; `fenced`: none is under way.
    """

    def __init__(self, parameters):
        p = parameters
        super().__init__(
            {
                "ring_store": Out(Strobe(QueueStore(p))),
                "enable": Out(1),
                "busy": In(1),
                "producer": Out(Strobe(32)),
                "consumer": In(32),
                "header_base": Out(p.address_bits),
                "header_pages": Out(32),
                "revoke": In(p.regions),
                "revoking": Out(p.regions),
                "queue_off": In(p.queues),
                "switching": Out(p.queues),
                "fence": In(1),
                "fenced": Out(1),
            }
        )


class RegisterBlock(wiring.Component):
    """All registers. An access takes about six cycles; accesses are served one by one.

    Refused (SLVERR, and for writes ERROR.setting_refused): addresses that name no register, writes
    of read-only registers, settings that are locked or still being carried out, and every write of
    the control page while a reset is under way.

    RESET (R28) ends the command under way, holds the card still as a queue's switch does, so that
    all that was in flight has ended and its indices and counters tell how; then all queues are off,
    the control page is as after reset, and rules and addresses are gone. Frames that wait in the
    frame buffer are DISABLED. Ports that have failed are in use again (`port_reset`, for a cycle in
    which nothing is under way). Regions, owners, post rings and counters stay, keys and tables of
    receive-side scaling too.

    Parameters
    ----------
    features: names of the FEATURES bits that are set. lookup_cycles: of `Fence`.

    Ports
    -----
    counter_index / counter_data: which 64-bit counter is read (its place in the counter pages), and
    its value two cycles later. rx_written, tx_written: queues whose half of the index slot was
    written back; catch_up, behind: of `IndexWriter`. injected: egress took a frame of a command.
    idle: all blocks hold still and all indices are written. exact_clear, exact_busy: the table of
    exact rules. port_errors, port_failed: header write, header read, payload write, payload read.
    For the others see `hdsnic.nic`.
    """

    def __init__(self, parameters, features=(), lookup_cycles=0):
        self.parameters = parameters
        self.features, self.lookup_cycles = features, lookup_cycles
        p = parameters
        self._queue_bits = max(1, (p.queues - 1).bit_length())
        super().__init__(
            {
                "axil": In(AXI4Lite(address_bits=abi.ADDRESS_BITS)),
                "irq": Out(1),
                "receive": Out(1),
                "transmit": Out(1),
                "promiscuous": Out(1),
                "deliver_malformed": Out(1),
                "mac_address": Out(48),
                "watermark": Out(16),
                "share": Out(16),
                "port_timeout": Out(32),
                "cycles": Out(64),
                "index_base": Out(p.address_bits),
                "address_store": Out(Strobe(AddressStore(p))),
                "listener_store": Out(Strobe(ListenerStore(p))),
                "exact_clear": Out(Strobe(ExactStore(p))),
                "exact_busy": In(1),
                "rss_key_store": Out(Strobe(RssKeyStore(p))),
                "rss_table_store": Out(Strobe(RssTableStore(p))),
                "udp_split": Out(p.queues),
                "time_stamps": Out(p.queues),
                "stop_on_refusal": Out(p.queues),
                "tx_share_store": Out(Strobe(TxShareStore(p))),
                "rx_ring_store": Out(Strobe(QueueStore(p))),
                "tx_ring_store": Out(Strobe(QueueStore(p))),
                "completion_ring_store": Out(Strobe(QueueStore(p))),
                "post_ring_store": Out(Strobe(PostRingStore(p))),
                "rx_consumer": Out(Strobe(Doorbell(p))),
                "tx_producer": Out(Strobe(Doorbell(p))),
                "post_producer": Out(Strobe(Doorbell(p))),
                "completion_consumer": Out(Strobe(Doorbell(p))),
                "commands": Out(CommandControl(p)),
                "region_write": Out(1),
                "region_index": Out(8),
                "region_row": Out(RegionRow(p)),
                "element_clear": Out(stream.Signature(8)),
                "element_busy": In(1),
                "pause": Out(1),
                "idle": In(1),
                "port_reset": Out(1),
                "tx_stopped": In(p.queues),
                "looked_up": In(1),
                "injected": In(1),
                "completed": In(1),
                "catch_up": Out(1).array(FENCES),
                "behind": In(1).array(FENCES),
                "rx_written": In(Strobe(self._queue_bits)),
                "tx_written": In(Strobe(self._queue_bits)),
                "port_errors": In(4),
                "port_failed": In(4),
                "mac_stalled": In(1),
                "completion_lost": In(1),
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
        d = Decoder(m, access)

        after_start, latched_refusal = Signal(), Signal()
        m.d.sync += [
            after_start.eq(access.start),
            access.done.eq(after_start),
            access.read_data.eq(d.value),
        ]
        with m.If(access.start):
            m.d.sync += latched_refusal.eq(d.refused | ~d.known)
        m.d.comb += access.refused.eq(latched_refusal)

        m.submodules.engine = engine = SettingsEngine(p)
        reset_done = engine.reset_done
        self._identity(m, d, after_start)
        switches = d.stored(abi.CONTROL_PAGE, _C.SWITCHES, clear=reset_done)
        mac_low = d.stored(abi.CONTROL_PAGE, _C.MAC_LO, clear=reset_done)
        mac_high = d.stored(abi.CONTROL_PAGE, _C.MAC_HI, clear=reset_done)
        watermark = d.stored(abi.CONTROL_PAGE, _C.RX_WATERMARK, clear=reset_done)
        timeout = d.stored(
            abi.CONTROL_PAGE, _C.PORT_TIMEOUT, init=_CYCLES_BEFORE_TIMEOUT, clear=reset_done
        )
        m.d.comb += [
            Cat(self.receive, self.transmit, self.promiscuous, self.deliver_malformed).eq(switches),
            self.mac_address.eq(Cat(mac_low, mac_high[:16])),
            Cat(self.watermark, self.share).eq(watermark),
            self.port_timeout.eq(timeout),
        ]

        # -- settings that the engine carries out ----------------------------------------------
        commands_on, resetting = Signal(), Signal()
        in_use = (engine.queue_enabled | engine.queue_pending).any() | commands_on | resetting
        header_low = d.stored(abi.MANAGEMENT_PAGE, _M.HEADER_BASE_LO, locked=in_use)
        header_high = d.stored(abi.MANAGEMENT_PAGE, _M.HEADER_BASE_HI, locked=in_use)
        header_pages = d.stored(abi.MANAGEMENT_PAGE, _M.HEADER_PAGES, locked=in_use)
        index_page = d.stored(abi.CONTROL_PAGE, _C.INDEX_BASE, locked=in_use, clear=reset_done)
        header_base = Cat(header_low, header_high)[: p.address_bits]
        m.d.comb += [
            engine.header_base.eq(header_base),
            engine.header_pages.eq(header_pages),
            engine.index_page.eq(index_page),
            self.index_base.eq(header_base + (index_page << 12)),
            self.pause.eq(engine.pause),
            engine.idle.eq(self.idle),
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
            (self.completion_ring_store, engine.completion_ring_store),
            (self.post_ring_store, engine.post_ring_store),
        ):
            m.d.comb += [mine.valid.eq(theirs.valid), mine.payload.eq(theirs.payload)]
        asked = {"off": self.commands.queue_off, "revoke": self.commands.revoke}
        live = settings_words(m, p, d, engine, self.tx_stopped, asked, resetting)

        clear = Strobe(engine.clear_index.shape()).create(path=("clear",))
        m.d.comb += [
            clear.valid.eq(engine.clearing),
            clear.payload.eq(engine.clear_index),
            engine.clear_ready.eq(~self.exact_busy),
        ]
        m.submodules.moderation = moderation = Moderation(p.queues)
        modes = {n: getattr(self, n) for n in ("udp_split", "time_stamps", "stop_on_refusal")}
        queue_modes(m, p, d, live, clear, modes, moderation.store, self.tx_share_store)
        steering_registers(m, p, d, clear, self)

        m.submodules.fence = fence = Fence(FENCES, self.lookup_cycles)
        m.d.comb += [
            fence.looked_up.eq(self.looked_up),
            fence.injected.eq(self.injected),
            fence.completed.eq(self.completed),
            fence.begin[1].eq(self.commands.fence),
            self.commands.fenced.eq(~fence.waiting[1]),
        ]
        for k in range(FENCES):
            m.d.comb += [
                self.catch_up[k].eq(fence.catch_up[k]), fence.behind[k].eq(self.behind[k])
            ]  # fmt: skip
        with m.If(d.at(abi.CONTROL_PAGE, _C.FENCE)):
            m.d.comb += [
                d.known.eq(1), d.value.eq(fence.waiting[0]), fence.begin[0].eq(d.writing)
            ]  # fmt: skip

        self._commands(m, d, engine, header_base, header_pages, commands_on, resetting)
        self._interrupts(m, d, engine, moderation, access.done & latched_refusal & access.is_write)
        self._doorbells(m, d)

        counter_high = Signal(32)
        address = access.address
        m.d.comb += self.counter_index.eq(address[3 : 3 + _COUNTER_ADDRESS_BITS])
        with m.If((address >= abi.COUNTERS_PAGE) & (address < abi.COUNTERS_PAGE + 0x4000)):
            m.d.comb += [
                d.known.eq(~access.is_write),
                d.value.eq(Mux(address[2], counter_high, self.counter_data[:32])),
            ]
            with m.If(after_start & ~address[2]):
                m.d.sync += counter_high.eq(self.counter_data[32:])
        with m.If(resetting & (address[12:] == abi.CONTROL_PAGE >> 12)):
            m.d.comb += d.refused.eq(access.is_write)
        return m

    def _identity(self, m, d, after_start):
        """What the card is, and the cycle count."""
        p = self.parameters
        features = _C.FEATURES.pack(**dict.fromkeys(self.features, 1))
        for register, constant in (
            (_C.MAGIC, abi.MAGIC), (_C.ABI_VERSION, abi.ABI_VERSION), (_C.BUS_BYTES, p.bus_bytes),
            (_C.QUEUES, p.queues), (_C.REGIONS, p.regions), (_C.LISTENERS, p.listeners),
            (_C.RANGE_LISTENERS, p.range_listeners), (_C.LOCAL_ADDRESSES, p.local_addresses),
            (_C.REFERENCES_MAX, p.references_max), (_C.FRAME_BYTES_MAX, p.frame_bytes_max),
            (_C.POSTABLE_MAX, p.postable_max), (_C.FEATURES, features),
            (_C.EXACT_WAYS, p.exact_ways), (_C.EXACT_ROWS, p.exact_rows),
            (_C.RSS_CONTEXTS, p.rss_contexts), (_C.CHAIN_MAX, p.chain_max),
            (_C.TSO_BYTES_MAX, p.tso_bytes_max),
        ):  # fmt: skip
            d.reads(abi.CONTROL_PAGE, register, constant)
        cycles_high = Signal(32)
        m.d.sync += self.cycles.eq(self.cycles + 1)
        d.reads(abi.CONTROL_PAGE, _C.CYCLES_LO, self.cycles[:32])
        d.reads(abi.CONTROL_PAGE, _C.CYCLES_HI, cycles_high)
        with m.If(after_start & d.at(abi.CONTROL_PAGE, _C.CYCLES_LO)):
            m.d.sync += cycles_high.eq(self.cycles[32:])

    def _commands(self, m, d, engine, header_base, header_pages, on, resetting):
        """The command ring's switch, and RESET, which waits until commands are off.

        A ring that is switched off stays `on` until the command under way has ended.
        """
        commands = self.commands
        ring, going = Signal(32), Signal()
        wanted = d.fields(_C.COMMAND_RING)
        off = wanted["log2_bytes"] == 0
        sound = Cat(*ring_checks(m, "command", wanted, header_base, header_pages)).all()
        store = commands.ring_store
        with m.If(d.at(abi.CONTROL_PAGE, _C.COMMAND_RING)):
            m.d.comb += [
                d.known.eq(1),
                d.value.eq(Mux(on, ring, 0)),
                d.refused.eq(d.access.is_write & Mux(off, 0, on | ~sound)),
            ]
            with m.If(d.writing & ~d.refused):
                m.d.comb += store.valid.eq(~off)
                m.d.sync += going.eq(~off)
                with m.If(~off):
                    m.d.sync += [on.eq(1), ring.eq(d.data)]
        with m.If(on & ~going & ~commands.busy):
            m.d.sync += on.eq(0)
        d.reads(abi.CONTROL_PAGE, _C.COMMAND_CONSUMER, commands.consumer)
        m.d.comb += [
            store.payload.enable.eq(1),
            store.payload.base.eq(header_base + (wanted["base"] << 12)),
            store.payload.log2_bytes.eq(wanted["log2_bytes"]),
            commands.enable.eq(going),
            commands.header_base.eq(header_base),
            commands.header_pages.eq(header_pages),
            commands.revoking.eq(engine.revoke_pending),
            commands.switching.eq(engine.off_pending),
            engine.reset_pending.eq(resetting & ~on),
            self.port_reset.eq(engine.reset_done),
        ]
        with m.If(d.strobe(_C.RESET, beyond=d.data != abi.RESET_WORD)):
            m.d.sync += [resetting.eq(1), going.eq(0)]
        with m.Elif(engine.reset_done):
            m.d.sync += resetting.eq(0)

    def _interrupts(self, m, d, engine, moderation, write_refused):
        p = self.parameters
        status, errors = Signal(p.queues), Signal(sum(f.bits for f in _C.ERROR.fields))
        enable = d.stored(abi.CONTROL_PAGE, _C.IRQ_ENABLE, clear=engine.reset_done)
        for mine, theirs in zip(
            moderation.written, (self.rx_written, self.tx_written), strict=True
        ):
            m.d.comb += [mine.valid.eq(theirs.valid), mine.payload.eq(theirs.payload)]
        m.d.sync += self.irq.eq((status & enable).any())
        failures = Cat(
            write_refused | engine.refused, self.port_errors, self.port_failed, self.mac_stalled,
            self.completion_lost,
        )  # fmt: skip
        for register, word, new in (
            (_C.IRQ_STATUS, status, moderation.raised),
            (_C.ERROR, errors, failures),
        ):
            with m.If(d.at(abi.CONTROL_PAGE, register)):
                m.d.comb += [d.known.eq(1), d.value.eq(word)]
            cleared = Mux(d.writing & d.at(abi.CONTROL_PAGE, register), d.data, 0)
            m.d.sync += word.eq((word & ~cleared) | new)

    def _doorbells(self, m, d):
        """Doorbell pages: two a queue."""
        p = self.parameters
        address = d.address
        page = Signal(6)
        queue = page[1:]
        m.d.comb += page.eq(address[12:18] - (abi.DOORBELLS_PAGE >> 12))
        in_pages = (address[16:] != 0) & (queue < p.queues)
        offset = address[:12]
        stack = abi.STACK_DOORBELL
        for bell, odd, register in (
            (self.post_producer, 0, abi.POST_DOORBELL.POST_PRODUCER),
            (self.tx_producer, 1, stack.TX_PRODUCER),
            (self.rx_consumer, 1, stack.RX_CONSUMER),
            (self.completion_consumer, 1, stack.COMPLETION_CONSUMER),
        ):
            m.d.comb += [bell.payload.queue.eq(queue), bell.payload.index.eq(d.data)]
            with m.If(in_pages & (page[0] == odd) & (offset == register.offset)):
                m.d.comb += [d.known.eq(d.access.is_write), bell.valid.eq(d.writing)]
        command = self.commands.producer
        m.d.comb += command.payload.eq(d.data)
        with m.If(in_pages & (page == 1) & (offset == stack.COMMAND_PRODUCER.offset)):
            m.d.comb += [d.known.eq(d.access.is_write), command.valid.eq(d.writing)]
