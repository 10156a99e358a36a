"""The card: every block and every wire between them.

Receive: MAC -> rx.Ingress (parse, verify, buffer, steer) -> rx.Injector (placed frames join) ->
rx.Egress (place, split, commit) -> two write ports. Transmit: two read ports -> tx.Transmit (fetch,
gather, segment, checksum) -> MAC. Set-up and counters: csr. Commands and completions: command.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from . import abi
from .command import CommandEngine, CompletionWriter, TransmitIndices
from .csr import FENCES, ByteCounter, CounterBank, RegionTable, RegisterBlock
from .dma import AXI4, AXI4Lite, IndexWriter, ReadPort, WritePort, connect_master
from .mac import AXIStream, FrameFromMAC, FrameToMAC
from .rx.egress import Egress
from .rx.ingress import LOOKUP_CYCLES, Ingress
from .rx.inject import Injector
from .tx.transmit import Transmit

__all__ = ["FEATURES", "Nic"]

FEATURES = (
    "exact_rules", "rss", "udp_split", "chains", "time_stamps", "tso", "vlan_insertion", "commands",
    "tx_rate", "moderation",
)  # fmt: skip
"""What the card can do, as the register FEATURES tells it: the fields that are 1."""


class Nic(wiring.Component):
    """A card of the given parameters.

    Ports
    -----
    s_axis_rx, m_axis_tx: frames from and to the MAC (FCS stripped). m_axi_hdr: memory of the stack.
    m_axi_pay: memory of the applications. s_axil: registers. irq: level.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        memory = AXI4(address_bits=p.address_bits, bus_bytes=p.bus_bytes, id_bits=p.id_bits)
        super().__init__(
            {
                "s_axis_rx": In(AXIStream(p.bus_bytes)),
                "m_axis_tx": Out(AXIStream(p.bus_bytes)),
                "m_axi_hdr": Out(memory),
                "m_axi_pay": Out(memory),
                "s_axil": In(AXI4Lite(address_bits=abi.ADDRESS_BITS)),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.from_mac = from_mac = FrameFromMAC(p.bus_bytes)
        m.submodules.ingress = ingress = Ingress(p)
        m.submodules.injector = injector = Injector(p)
        m.submodules.egress = egress = Egress(p)
        m.submodules.transmit = transmit = Transmit(p)
        m.submodules.to_mac = to_mac = FrameToMAC(p.bus_bytes)
        m.submodules.registers = registers = RegisterBlock(p, FEATURES, LOOKUP_CYCLES)
        m.submodules.regions = regions = RegionTable(p, 3)
        m.submodules.index = index = IndexWriter(p, FENCES)
        m.submodules.tx_indices = tx_indices = TransmitIndices(p)
        m.submodules.commands = commands = CommandEngine(p)
        m.submodules.completions = completions = CompletionWriter(p)
        ports = {
            "header_write": WritePort(p, 3), "header_read": ReadPort(p, 2),
            "payload_write": WritePort(p, 1), "payload_read": ReadPort(p, 2),
        }  # fmt: skip
        header_write, header_read, payload_write, payload_read = ports.values()
        for name, port in ports.items():
            m.submodules[name] = port
            m.d.comb += [
                port.timeout.eq(registers.port_timeout),
                port.restart.eq(registers.port_reset),
            ]

        # -- bytes, in the order of their way --------------------------------------------------
        connect(m, flipped(self.s_axis_rx), from_mac.axis)
        connect(m, from_mac.beats, ingress.mac)
        connect(m, ingress.frames, injector.wire_frames)
        connect(m, ingress.beats, injector.wire_beats)
        connect(m, commands.place_frames, injector.place_frames)
        connect(m, commands.place_beats, injector.place_beats)
        connect(m, injector.frames, egress.frames)
        connect(m, injector.beats, egress.beats)
        connect(m, egress.header, header_write.clients[0])
        connect(m, egress.payload, payload_write.clients[0])
        connect(m, egress.posts, payload_read.clients[0])
        connect(m, transmit.payload, payload_read.clients[1])
        connect(m, transmit.descriptors, header_read.clients[0])
        connect(m, transmit.mac, to_mac.beats)
        connect(m, to_mac.axis, flipped(self.m_axis_tx))
        connect(m, commands.read, header_read.clients[1])
        connect(m, commands.completions, completions.commands)
        connect(m, completions.write, header_write.clients[2])
        faults = (egress.rx_fault, egress.post_fault, transmit.tx_fault)
        for fault, sink in zip(faults, completions.faults, strict=True):
            connect(m, fault, sink)
        connect(m, completions.index, tx_indices.completions)
        connect(m, transmit.index, tx_indices.transmit)
        connect(m, egress.index, index.rx_update)
        connect(m, tx_indices.update, index.tx_update)
        connect(m, index.write, header_write.clients[1])
        m.d.comb += [index.base.eq(registers.index_base), index.port_idle.eq(header_write.idle)]
        for axi, write, read in (
            (self.m_axi_hdr, header_write, header_read),
            (self.m_axi_pay, payload_write, payload_read),
        ):
            connect_master(m, axi, write, read)

        # -- set-up --------------------------------------------------------------------------------
        connect(m, flipped(self.s_axil), registers.axil)
        for source, sink in (
            (registers.address_store, ingress.address_store),
            (registers.listener_store, ingress.listener_store),
            (registers.rss_key_store, ingress.rss_key_store),
            (registers.rss_table_store, ingress.rss_table_store),
            (registers.rx_ring_store, egress.rx_ring_store),
            (registers.post_ring_store, egress.post_ring_store),
            (registers.rx_consumer, egress.rx_consumer),
            (registers.post_producer, egress.post_producer),
            (registers.tx_ring_store, transmit.tx_ring_store),
            (registers.tx_share_store, transmit.share_store),
            (registers.completion_ring_store, completions.ring_store),
            (registers.completion_consumer, completions.consumer),
            (registers.tx_producer, transmit.tx_producer),
            (index.rx_written, registers.rx_written),
            (index.tx_written, registers.tx_written),
        ):
            connect(m, source, sink)
        connect(m, registers.commands, commands.control)
        connect(m, registers.element_clear, egress.element_clear)
        for k, lookup in enumerate((egress.post_region, egress.claim_region, transmit.region)):
            connect(m, lookup, regions.readers[k])
        m.d.comb += [
            transmit.owner_store.valid.eq(registers.post_ring_store.valid),
            transmit.owner_store.payload.eq(registers.post_ring_store.payload),
            tx_indices.ring_store.valid.eq(registers.tx_ring_store.valid),
            tx_indices.ring_store.payload.eq(registers.tx_ring_store.payload),
            commands.cycles.eq(registers.cycles),
            completions.cycles.eq(registers.cycles),
            completions.command_waits.eq(registers.commands.enable),
            completions.pause.eq(registers.pause),
            ingress.receive.eq(registers.receive),
            ingress.promiscuous.eq(registers.promiscuous),
            ingress.deliver_malformed.eq(registers.deliver_malformed),
            ingress.udp_split.eq(registers.udp_split),
            ingress.watermark.eq(registers.watermark),
            ingress.share.eq(registers.share),
            ingress.cycles.eq(registers.cycles),
            # A reset clears the table only when commands are off.
            ingress.exact_store.valid.eq(registers.exact_clear.valid | commands.exact_store.valid),
            ingress.exact_store.payload.eq(
                Mux(
                    registers.exact_clear.valid,
                    registers.exact_clear.payload.as_value(),
                    commands.exact_store.payload.as_value(),
                )
            ),
            registers.exact_busy.eq(ingress.exact_busy),
            commands.exact_busy.eq(ingress.exact_busy),
            ingress.mac_address.eq(registers.mac_address),
            egress.time_stamps.eq(registers.time_stamps),
            transmit.transmit.eq(registers.transmit),
            transmit.stop_on_refusal.eq(registers.stop_on_refusal),
            transmit.mac_stalled.eq(to_mac.stalled),
            to_mac.timeout.eq(registers.port_timeout),
            registers.mac_stalled.eq(to_mac.stalled),
            regions.write.eq(registers.region_write),
            regions.write_index.eq(registers.region_index),
            regions.write_row.eq(registers.region_row),
            registers.element_busy.eq(egress.element_busy),
            egress.pause.eq(registers.pause),
            transmit.pause.eq(registers.pause),
            registers.idle.eq(egress.idle & transmit.idle & completions.idle & index.idle),
            registers.tx_stopped.eq(transmit.stopped),
            registers.looked_up.eq(ingress.looked_up),
            registers.injected.eq(injector.place_frames.valid & injector.place_frames.ready),
            registers.completed.eq(egress.completed),
            *(index.catch_up[k].eq(registers.catch_up[k]) for k in range(index.users)),
            *(registers.behind[k].eq(index.behind[k]) for k in range(index.users)),
            registers.completion_lost.eq(completions.lost),
            registers.port_errors.eq(Cat(port.error for port in ports.values())),
            registers.port_failed.eq(Cat(port.failed for port in ports.values())),
            self.irq.eq(registers.irq),
        ]
        self._counters(
            m, ingress, egress, transmit, registers,
            {
                "header_write_bytes": (header_write.bytes_valid, header_write.bytes_count),
                "header_read_bytes": (header_read.bytes_valid, header_read.bytes_count),
                "payload_write_bytes": (payload_write.bytes_valid, payload_write.bytes_count),
                "payload_read_bytes": (payload_read.bytes_valid, payload_read.bytes_count),
                "rx_frames": (ingress.frame_done, 1),
                "rx_bytes": (ingress.frame_done, ingress.frame_bytes),
                "tx_frames": (transmit.frame_done, 1),
                "tx_bytes": (transmit.frame_done, transmit.frame_bytes),
                "tx_flushed": (
                    to_mac.flushed | transmit.frame_discarded,
                    to_mac.flushed + transmit.frame_discarded,
                ),
            },
        )  # fmt: skip
        return m

    def _counters(self, m, ingress, egress, transmit, registers, sums):
        """Counter banks behind the counter pages, in the order of `hdsnic.abi.registers`."""
        p = self.parameters
        columns = 32
        m.submodules.rx_port = rx_port = CounterBank(columns)
        m.submodules.rx_queues = rx_queues = CounterBank(columns * p.queues)
        m.submodules.tx_queues = tx_queues = CounterBank(8 * p.queues)
        m.submodules.post_queues = post_queues = CounterBank(8 * p.queues)
        connect(m, ingress.outcome, rx_port.event)
        for bank, source, width in (
            (rx_queues, egress.outcome, 5),
            (tx_queues, transmit.outcome, 3),
            (post_queues, egress.post_outcome, 3),
        ):
            m.d.comb += [
                bank.event.valid.eq(source.valid),
                bank.event.payload.eq((source.payload.queue << width) | source.payload.outcome),
            ]

        totals = []
        for name, _ in abi.PORT_COUNTERS:
            counter = ByteCounter()
            m.submodules[name] = counter
            valid, amount = sums[name]
            m.d.comb += [counter.valid.eq(valid), counter.amount.eq(amount)]
            totals.append(counter.total)

        index = registers.counter_index
        begins = {
            bank: (address - abi.COUNTERS_PAGE) // abi.COUNTER_BYTES
            for bank, address in (
                ("port", abi.rx_counter(abi.rx_port_row, 0)),
                ("tx", abi.tx_counter(0, 0)),
                ("post", abi.post_counter(0, 0)),
                ("sums", abi.port_counter(abi.PORT_COUNTERS[0][0])),
            )
        }
        total = Signal(64)
        with m.Switch(index - begins["sums"]):
            for k, value in enumerate(totals):
                with m.Case(k):
                    m.d.comb += total.eq(value)
        m.d.comb += [
            rx_queues.read_index.eq(index),
            rx_port.read_index.eq(index - begins["port"]),
            tx_queues.read_index.eq(index - begins["tx"]),
            post_queues.read_index.eq(index - begins["post"]),
            registers.counter_data.eq(
                Mux(
                    index >= begins["sums"], total,
                    Mux(
                        index >= begins["post"], post_queues.read_data,
                        Mux(
                            index >= begins["tx"], tx_queues.read_data,
                            Mux(
                                index >= begins["port"], rx_port.read_data, rx_queues.read_data
                            ),
                        ),
                    ),
                )
            ),
        ]  # fmt: skip
