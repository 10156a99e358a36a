"""The blocks that have a cocotb bench of their own, with the card's real ports put on.

A block's memory clients become AXI4 masters, its frame streams AXI4-Streams, its region lookups a
region table; all other ports go out as they are. `BLOCKS` names them; the bench of block `mac` is
`rtl.mac.bench_mac`.
"""

from amaranth.hdl import Module
from amaranth.lib.wiring import Component, Flow, In, Out, connect, flipped

from hdsnic.command import CommandEngine, CompletionWriter
from hdsnic.csr import RegionTable, RegisterBlock
from hdsnic.dma import AXI4, ReadPort, WritePort, connect_master
from hdsnic.interfaces import ReadClient, RegionRow, WriteClient
from hdsnic.mac import AXIStream, FrameFromMAC, FrameToMAC
from hdsnic.nic import FEATURES
from hdsnic.parameters import Parameters
from hdsnic.rx.egress import Egress
from hdsnic.rx.ingress import Ingress
from hdsnic.tx import Transmit

__all__ = ["BLOCKS", "parameters"]

PORT_CLIENTS = 2
"""Blocks on each side of the memory port of the bench `dma`."""


def parameters(bus_bytes):
    """A small card that leaves nothing out, so that it is soon built and its tables soon full.

    All queues, since the rules of the receive benches name them.
    """
    return Parameters(
        bus_bytes=bus_bytes, regions=4, listeners=12, range_listeners=2,
        local_addresses=3, exact_ways=2, exact_rows=16, rss_contexts=4, postable_max=64,
        post_prefetch=8, outstanding=16, rx_buffer_bytes=16384, tx_buffer_bytes=16384,
    )  # fmt: skip


class WithPorts(Component):
    """`block`, with members of it behind the card's ports.

    `memory`: for each AXI4 master `m_axi_<name>` the write clients and the read clients behind it.
    `source`, `sink`: the member that takes frames from `s_axis`, that gives them to `m_axis`.
    `regions`: lookups, whose table is written by `region_write`, `region_index`, `region_row`.
    """

    def __init__(self, p, block, *, memory=None, source=None, sink=None, regions=()):
        self.parameters, self.block = p, block
        self.memory, self.source, self.sink = memory or {}, source, sink
        self.regions = regions
        hidden = {name for sides in self.memory.values() for side in sides for name in side}
        hidden |= {source, sink, *regions}
        self.kept = {
            name: member for name, member in block.signature.members.items() if name not in hidden
        }
        members = dict(self.kept)
        axi = AXI4(address_bits=p.address_bits, bus_bytes=p.bus_bytes, id_bits=p.id_bits)
        members |= {f"m_axi_{name}": Out(axi) for name in self.memory}
        if source:
            members["s_axis"] = In(AXIStream(p.bus_bytes))
        if sink:
            members["m_axis"] = Out(AXIStream(p.bus_bytes))
        if regions:
            row = RegionRow(p)
            members |= {"region_write": In(1), "region_index": In(8), "region_row": In(row)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p, block = self.parameters, self.block
        m.submodules.block = block
        mine = {path: value for path, _, value in self.signature.flatten(self)}
        for path, member, value in block.signature.flatten(block):
            if path[0] in self.kept:
                inward = member.flow is Flow.In
                m.d.comb += value.eq(mine[path]) if inward else mine[path].eq(value)
        for name, (writers, readers) in self.memory.items():
            ports = {}
            for kind, port, clients in (
                ("write", WritePort, writers), ("read", ReadPort, readers)
            ):  # fmt: skip
                if clients:
                    ports[kind] = m.submodules[f"{name}_{kind}"] = port(p, len(clients))
                for k, client in enumerate(clients):
                    connect(m, getattr(block, client), ports[kind].clients[k])
            connect_master(m, getattr(self, f"m_axi_{name}"), **ports)
        if self.source:
            m.submodules.from_mac = from_mac = FrameFromMAC(p.bus_bytes)
            connect(m, flipped(self.s_axis), from_mac.axis)
            connect(m, from_mac.beats, getattr(block, self.source))
        if self.sink:
            m.submodules.to_mac = to_mac = FrameToMAC(p.bus_bytes)
            connect(m, getattr(block, self.sink), to_mac.beats)
            connect(m, to_mac.axis, flipped(self.m_axis))
        if self.regions:
            m.submodules.table = table = RegionTable(p, len(self.regions))
            for reader, lookup in zip(table.readers, self.regions, strict=True):
                connect(m, getattr(block, lookup), reader)
            m.d.comb += [
                table.write.eq(self.region_write),
                table.write_index.eq(self.region_index),
                table.write_row.eq(self.region_row),
            ]
        return m


class Mac(Component):
    """Both adapters of the MAC, one behind the other."""

    def __init__(self, p):
        self.parameters = p
        axis = AXIStream(p.bus_bytes)
        more = {"timeout": In(32), "stalled": Out(1), "flushed": Out(1)}
        super().__init__({"s_axis": In(axis), "m_axis": Out(axis), **more})

    def elaborate(self, platform):
        m = Module()
        m.submodules.from_mac = from_mac = FrameFromMAC(self.parameters.bus_bytes)
        m.submodules.to_mac = to_mac = FrameToMAC(self.parameters.bus_bytes)
        connect(m, flipped(self.s_axis), from_mac.axis)
        connect(m, from_mac.beats, to_mac.beats)
        connect(m, to_mac.axis, flipped(self.m_axis))
        m.d.comb += [
            to_mac.timeout.eq(self.timeout),
            self.stalled.eq(to_mac.stalled),
            self.flushed.eq(to_mac.flushed),
        ]
        return m


class Port(Component):
    """Both sides of a memory port as an AXI4 master, the clients `write_<k>` and `read_<k>`."""

    def __init__(self, p):
        self.parameters = p
        axi = AXI4(address_bits=p.address_bits, bus_bytes=p.bus_bytes, id_bits=p.id_bits)
        members = {"m_axi": Out(axi)}
        for k in range(PORT_CLIENTS):
            members |= {f"write_{k}": In(WriteClient(p)), f"read_{k}": In(ReadClient(p))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.write = write = WritePort(p, PORT_CLIENTS)
        m.submodules.read = read = ReadPort(p, PORT_CLIENTS)
        connect_master(m, self.m_axi, write, read)
        for k in range(PORT_CLIENTS):
            connect(m, flipped(getattr(self, f"write_{k}")), write.clients[k])
            connect(m, flipped(getattr(self, f"read_{k}")), read.clients[k])
        return m


class Commands(Component):
    """Command engine and completion writer, as the card wires them."""

    _ENGINE = ("control", "exact_store", "exact_busy", "place_frames", "place_beats", "read")
    _WRITER = ("faults", "ring_store", "consumer", "index", "lost", "pause", "idle", "write")

    def __init__(self, p):
        self.parameters = p
        self.engine, self.writer = CommandEngine(p), CompletionWriter(p)
        members = {}
        for block, names in ((self.engine, self._ENGINE), (self.writer, self._WRITER)):
            members |= {name: block.signature.members[name] for name in names}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine, m.submodules.writer = engine, writer = self.engine, self.writer
        mine = {path: value for path, _, value in self.signature.flatten(self)}
        for block in (engine, writer):
            for path, member, value in block.signature.flatten(block):
                if path in mine:
                    inward = member.flow is Flow.In
                    m.d.comb += value.eq(mine[path]) if inward else mine[path].eq(value)
        connect(m, engine.completions, writer.commands)
        m.d.comb += writer.command_waits.eq(self.control.enable)
        return m


BLOCKS = {
    "mac.bench_mac": Mac,
    "dma.bench_port": Port,
    "rx.bench_ingress": lambda p: WithPorts(p, Ingress(p), source="mac"),
    "rx.bench_egress": lambda p: WithPorts(
        p, Egress(p), regions=("post_region", "claim_region"),
        memory={"hdr": (("header",), ()), "pay": (("payload",), ("posts",))},
    ),
    "tx.bench_path": lambda p: WithPorts(
        p, Transmit(p), regions=("region",), sink="mac",
        memory={"hdr": ((), ("descriptors",)), "pay": ((), ("payload",))},
    ),
    "csr.bench_map": lambda p: RegisterBlock(p, FEATURES),
    "command.bench_rings": lambda p: WithPorts(
        p, Commands(p), memory={"hdr": (("write",), ("read",))}
    ),
}  # fmt: skip
"""Bench module below `rtl` -> the block of a card of given parameters."""
