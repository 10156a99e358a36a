"""Exact rules: the 5-tuple of a flow, in block RAM, in the slots that a hash allows (R15).

Part of `steer`. All ways are read at once and compared whole; the hash only says where to look. It
stands in `abi.flow_hash`, where the driver finds it, too.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..abi.flow_hash import FLOW_HASH_ROTATIONS, flow_hash_mask
from ..interfaces import ExactStore, Strobe
from .parse import Addresses, Ports

__all__ = ["ExactTable"]

COMPARED_BITS = 8  # behind the RAM, in the cycle in which its data come


class ExactTable(wiring.Component):
    """`exact_ways` x `exact_rows` exact rules.

    Latency 3 cycles from `ports` to `hit`, a frame a cycle: read, compare bytes, choose the way. A
    frame sees each rule either before a store or after it, whole: after it, if the store comes
    before `ports`. All slots are cleared behind a reset, a row a cycle; while `busy` no frame finds
    a rule, and stores are lost.

    Interface attributes
    --------------------
    store: writes a slot.
    addresses: of a frame, 3 cycles before its `ports`; `held`: the same, a cycle after `ports`.
    ports: of a frame; only the valid addresses and protocol of a whole header mean something.
    hit, slot, queue, rss: the rule of the lowest way that matches.
    """

    def __init__(self, parameters):
        self.p = parameters
        store = ExactStore(parameters)
        super().__init__(
            {
                "store": In(Strobe(store)),
                "addresses": In(Strobe(Addresses())),
                "ports": In(Strobe(Ports())),
                "held": In(Addresses()),
                "busy": Out(1),
                "hit": Out(1),
                "slot": Out(store["slot"].shape),
                "queue": Out(store["queue"].shape),
                "rss": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        row_bits = (p.exact_rows - 1).bit_length()
        stored = self.store.payload

        sweep = Signal(row_bits + 1)
        m.d.comb += self.busy.eq(~sweep[row_bits])
        with m.If(self.busy):
            m.d.sync += sweep.eq(sweep + 1)

        # The addresses are folded as they come, and wait for the ports.
        folded, valid = self.folded(), self.addresses.valid
        for n in range(3):
            later, later_valid = Signal(32, name=f"folded_{n}"), Signal(name=f"folded_valid_{n}")
            m.d.sync += later_valid.eq(valid)
            with m.If(valid):
                m.d.sync += later.eq(folded)
            folded, valid = later, later_valid
        ports = self.ports.payload
        hashed = Cat(folded, ports.remote, ports.local)

        flow = Signal(Ports())  # beside the data of the RAM
        read, compared = Signal(), Signal()
        m.d.sync += [read.eq(self.ports.valid), compared.eq(read)]
        with m.If(self.ports.valid):
            m.d.sync += flow.eq(ports)
        wanted = Cat(
            Const(1, 1), self.held.ipv6, flow.udp, flow.remote, flow.local, self.held.source,
            self.held.destination,
        )  # fmt: skip

        entry = data.StructLayout(
            {
                "valid": 1,
                "ipv6": 1,
                "udp": 1,
                "remote_port": 16,
                "local_port": 16,
                "remote": 128,
                "local": 128,
                "rss": 1,
                "queue": len(self.queue),
            }
        )
        hits, results = [], []
        for way in range(p.exact_ways):
            rules = memory.Memory(
                shape=entry, depth=p.exact_rows, init=[], attrs={"ram_style": "block"}
            )
            m.submodules[f"way_{way}"] = rules
            write, reader = rules.write_port(), rules.read_port()
            here = stored.slot[row_bits:] == way if p.exact_ways > 1 else 1
            m.d.comb += [
                write.en.eq(self.busy | (self.store.valid & here)),
                write.addr.eq(Mux(self.busy, sweep[:row_bits], stored.slot[:row_bits])),
                write.data.valid.eq(stored.valid & ~self.busy),
                write.data.ipv6.eq(stored.ipv6),
                write.data.udp.eq(stored.udp),
                write.data.remote_port.eq(stored.remote_port),
                write.data.local_port.eq(stored.local_port),
                write.data.remote.eq(stored.remote),
                write.data.local.eq(stored.local),
                write.data.rss.eq(stored.rss),
                write.data.queue.eq(stored.queue),
                reader.en.eq(self.ports.valid),
                reader.addr.eq(
                    Cat((hashed & flow_hash_mask(way, bit)).xor() for bit in range(row_bits))
                ),
            ]
            rule = reader.data
            found = rule.as_value()[: len(wanted)]
            equal = Signal(-(-len(wanted) // COMPARED_BITS), name=f"equal_{way}")
            result = Signal(
                data.StructLayout({"rss": 1, "queue": len(self.queue), "row": row_bits}),
                name=f"result_{way}",
            )
            row = Signal(row_bits, name=f"row_{way}")
            with m.If(self.ports.valid):
                m.d.sync += row.eq(reader.addr)
            with m.If(read):
                for n in range(len(equal)):
                    bits = slice(n * COMPARED_BITS, (n + 1) * COMPARED_BITS)
                    m.d.sync += equal[n].eq(found[bits] == wanted[bits])
                m.d.sync += [
                    result.rss.eq(rule.rss),
                    result.queue.eq(rule.queue),
                    result.row.eq(row),
                ]
            hits.append(equal.all())
            results.append((way, result))

        with m.If(compared):
            m.d.sync += self.hit.eq(Cat(hits).any() & ~self.busy)
            for way, result in reversed(results):
                with m.If(hits[way]):
                    m.d.sync += [
                        self.slot.eq(Cat(result.row, Const(way, (p.exact_ways - 1).bit_length()))),
                        self.queue.eq(result.queue),
                        self.rss.eq(result.rss),
                    ]
        return m

    def folded(self):
        """The addresses in 32 bits, as `abi.flow_hash` folds them."""
        folded = 0
        for name, address in (
            ("remote", self.addresses.payload.source),
            ("local", self.addresses.payload.destination),
        ):
            for n, rotation in enumerate(FLOW_HASH_ROTATIONS[name]):
                folded = folded ^ address[32 * n : 32 * n + 32].rotate_left(rotation)
        return folded
