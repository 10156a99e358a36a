"""Steering: which queue a frame is for (R14, R15, R31).

Beside verification: tables are read while the checksums are still being added up. A rule decides
only whose frame it is, never where it is placed.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import (
    AddressStore,
    ExactStore,
    ListenerStore,
    RssKeyStore,
    RssTableStore,
    Strobe,
)
from .delay import DelayLine
from .exact import ExactTable
from .parse import Addresses, Ports
from .rss import RssFlow, RssUnit, rss_steps
from .verify import Candidate, Steered

__all__ = ["STEER_CYCLES", "AddressTable", "ListenerTable", "Steer"]

STEER_CYCLES = 11

GROUP = 8  # rules of which the first that matches is chosen in one cycle


class AddressTable(wiring.Component):
    """The card's own IP addresses.

    Latency 2 cycles from `valid` to `local`, a frame a cycle: compare words, then combine. An entry
    that is stored counts for frames that come in the cycle after.

    Interface attributes
    --------------------
    store: writes an entry. valid, ipv6, destination: a frame's destination.
    done, local: a bit for each entry that equals it.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "store": In(Strobe(AddressStore(parameters))),
                "valid": In(1),
                "ipv6": In(1),
                "destination": In(128),
                "done": Out(1),
                "local": Out(parameters.local_addresses),
            }
        )

    def elaborate(self, platform):
        m = Module()
        stored = self.store.payload
        entry = data.StructLayout({"valid": 1, "ipv6": 1, "address": 128})
        compared = Signal()
        m.d.sync += [compared.eq(self.valid), self.done.eq(compared)]
        for n in range(self.p.local_addresses):
            own = Signal(entry, name=f"address_{n}")
            with m.If(self.store.valid & (stored.index == n)):
                m.d.sync += [
                    own.valid.eq(stored.valid),
                    own.ipv6.eq(stored.ipv6),
                    own.address.eq(stored.address),
                ]
            equal = Signal(4, name=f"equal_{n}")
            with m.If(self.valid):
                for word in range(4):
                    bits = slice(32 * word, 32 * word + 32)
                    same = self.destination[bits] == own.address[bits]
                    if word == 0:
                        m.d.sync += equal[0].eq(same & own.valid & (own.ipv6 == self.ipv6))
                    else:
                        m.d.sync += equal[word].eq(same | ~self.ipv6)
            with m.If(compared):
                m.d.sync += self.local[n].eq(equal.all())
        return m


class ListenerTable(wiring.Component):
    """Listener rules: TCP or UDP, a local address or all, a port or (the first rules) ports.

    Latency 3 cycles from `valid` to `hit`, a frame a cycle: all rules in parallel, the first match
    of each group of 8, the first group. `queue` and `rss` are read with `hit`. Each frame sees
    either the rule before a store or the one after it, whole.

    Interface attributes
    --------------------
    store: writes a rule.
    valid, udp, tcp, port, local: a frame's protocol and port, and the entries of its address.
    hit, rule, queue, rss: the lowest rule that matches.
    """

    def __init__(self, parameters):
        self.p = parameters
        store = ListenerStore(parameters)
        super().__init__(
            {
                "store": In(Strobe(store)),
                "valid": In(1),
                "udp": In(1),
                "tcp": In(1),
                "port": In(16),
                "local": In(parameters.local_addresses),
                "hit": Out(1),
                "rule": Out(store["index"].shape),
                "queue": Out(store["queue"].shape),
                "rss": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        stored = self.store.payload

        addresses = Signal(p.local_addresses)
        m.d.comb += [
            addresses[n].eq(stored.any_address | (stored.address == n))
            for n in range(p.local_addresses)
        ]
        hits = Signal(p.listeners)
        for n in range(p.listeners):
            is_range = n < p.range_listeners
            rule = Signal(
                data.StructLayout(
                    {
                        "tcp": 1,
                        "udp": 1,
                        "addresses": p.local_addresses,
                        "first": 16,
                        "last": 16 if is_range else 0,
                    }
                ),
                name=f"rule_{n}",
            )
            with m.If(self.store.valid & (stored.index == n)):
                m.d.sync += [
                    rule.tcp.eq(stored.valid & ~stored.udp),
                    rule.udp.eq(stored.valid & stored.udp),
                    rule.addresses.eq(addresses),
                    rule.first.eq(stored.first),
                ]
                if is_range:
                    m.d.sync += rule.last.eq(stored.last)
            if is_range:
                port = (self.port >= rule.first) & (self.port <= rule.last)
            else:
                port = self.port == rule.first
            protocol = (rule.tcp & self.tcp) | (rule.udp & self.udp)
            with m.If(self.valid):
                m.d.sync += hits[n].eq(protocol & port & (rule.addresses & self.local).any())

        def first_of(bits):
            """Index of the lowest bit that is set."""
            index = 0
            for n in reversed(range(len(bits))):
                index = Mux(bits[n], n, index)
            return index

        matched, grouped = Signal(), Signal()
        m.d.sync += [matched.eq(self.valid), grouped.eq(matched)]
        groups = [hits[n : n + GROUP] for n in range(0, p.listeners, GROUP)]
        group_hits = Signal(len(groups))
        firsts = [Signal(range(GROUP), name=f"first_{n}") for n in range(len(groups))]
        with m.If(matched):
            for n, group in enumerate(groups):
                m.d.sync += [group_hits[n].eq(group.any()), firsts[n].eq(first_of(group))]
        with m.If(grouped):
            chosen = Signal(range(max(2, len(groups))))
            m.d.comb += chosen.eq(first_of(group_hits))
            m.d.sync += [
                self.hit.eq(group_hits.any()),
                self.rule.eq(Cat(Array(firsts)[chosen], chosen)),
            ]

        # The queue is stored as much later as it is read later than the rule is compared: else a
        # frame that matched the old rule could go to the queue of the new one.
        m.submodules.queues = queues = memory.Memory(
            shape=unsigned(1 + len(self.queue)),
            depth=p.listeners,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        write, read = queues.write_port(), queues.read_port(domain="comb")
        entry = data.StructLayout(
            {"en": 1, "index": len(stored.index), "target": 1 + len(self.queue)}
        )
        later = Signal(entry)
        m.d.comb += [
            later.en.eq(self.store.valid & (stored.index < p.listeners)),
            later.index.eq(stored.index),
            later.target.eq(Cat(stored.rss, stored.queue)),
        ]
        for n in range(3):
            before, later = later, Signal(entry, name=f"later_{n}")
            m.d.sync += later.eq(before)
        m.d.comb += [
            write.en.eq(later.en),
            write.addr.eq(later.index),
            write.data.eq(later.target),
            read.addr.eq(self.rule),
            Cat(self.rss, self.queue).eq(read.data),
        ]
        return m


class Found(data.StructLayout):
    """The rule of a frame: `queue` is a context of receive-side scaling if `rss`."""

    def __init__(self, parameters):
        super().__init__(
            {
                "local": 1,
                "hit": 1,
                "rss": 1,
                "queue": ListenerStore(parameters)["queue"].shape,
                "tag": 12,
            }
        )


class Steer(wiring.Component):
    """Gives each frame its queue, tag, hash and reason, as if its checksums were right.

    A frame a cycle, no back-pressure, no waiting: all inputs and the output of a frame are at fixed
    distances. TCP and UDP frames: a destination that is not local is NOT_LOCAL; a SYN with payload
    goes whole to queue 0 (R31); then the exact rule counts, or the lowest listener rule; without
    one, NO_RULE. Other frames pass with the reason that they have.

    Interface attributes
    --------------------
    address_store, listener_store, exact_store, rss_key_store, rss_table_store: the tables' writes.
    A frame sees each table either before a store or after it, whole; after it, if its `addresses`
    come later.
    exact_busy: exact rules are being cleared behind a reset; they match nothing, stores are lost.
    addresses, ports, candidate: of a frame, the last two 3 and 6 cycles after the first. Addresses
    and ports come of every frame, a candidate with those of whole headers too.
    o: the frame, STEER_CYCLES after `addresses`. time_stamp: of that frame, in the same cycle.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "address_store": In(Strobe(AddressStore(parameters))),
                "listener_store": In(Strobe(ListenerStore(parameters))),
                "exact_store": In(Strobe(ExactStore(parameters))),
                "rss_key_store": In(Strobe(RssKeyStore(parameters))),
                "rss_table_store": In(Strobe(RssTableStore(parameters))),
                "exact_busy": Out(1),
                "addresses": In(Strobe(Addresses())),
                "ports": In(Strobe(Ports())),
                "candidate": In(Strobe(Candidate(parameters))),
                "time_stamp": In(64),
                "o": Out(Strobe(Steered(parameters))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        m.submodules.addresses = table = AddressTable(p)
        m.submodules.listeners = listeners = ListenerTable(p)
        m.submodules.exact = exact = ExactTable(p)
        m.submodules.rss = rss = RssUnit(p)
        for mine, theirs in (
            (self.address_store, table.store),
            (self.listener_store, listeners.store),
            (self.exact_store, exact.store),
            (self.rss_key_store, rss.key_store),
            (self.rss_table_store, rss.table_store),
        ):
            wiring.connect(m, wiring.flipped(mine), theirs)

        # Cycles, counted from `addresses`: ports come in 3, rules are found in 6 with the
        # candidate, the frame is steered in STEER_CYCLES.
        addresses, ports = self.addresses, self.ports
        local = Signal.like(table.local)  # in 3
        with m.If(table.done):
            m.d.sync += local.eq(table.local)
        m.submodules.held = held = DelayLine(Addresses(), 4)
        wiring.connect(m, wiring.flipped(addresses), held.i)
        m.d.comb += [
            table.valid.eq(addresses.valid),
            table.ipv6.eq(addresses.payload.ipv6),
            table.destination.eq(addresses.payload.destination),
            listeners.valid.eq(ports.valid),
            listeners.udp.eq(ports.payload.udp),
            listeners.tcp.eq(ports.payload.tcp),
            listeners.port.eq(ports.payload.local),
            listeners.local.eq(local),
            exact.addresses.valid.eq(addresses.valid),
            exact.addresses.payload.eq(addresses.payload),
            exact.ports.valid.eq(ports.valid),
            exact.ports.payload.eq(ports.payload),
            exact.held.eq(held.o.payload),
            self.exact_busy.eq(exact.busy),
        ]

        found = Signal(Found(p))  # in 6
        is_local = local.any()
        for n in range(3):
            before, is_local = is_local, Signal(name=f"is_local_{n}")
            m.d.sync += is_local.eq(before)
        m.d.comb += [
            found.local.eq(is_local),
            found.hit.eq(exact.hit | listeners.hit),
            found.rss.eq(Mux(exact.hit, exact.rss, listeners.rss)),
            found.queue.eq(Mux(exact.hit, exact.queue, listeners.queue)),
            found.tag.eq(Mux(exact.hit, abi.EXACT_TAG + exact.slot, listeners.rule)),
        ]

        # The hash starts so much later than in 6 that it ends with the frame's delay.
        spare = max(map(rss_steps, (8, 16, 32, 64))) - rss_steps(p.bus_bytes)
        m.submodules.flows = flows = DelayLine(RssFlow(p), 2 + spare)
        flow_ports = Signal(Ports())
        with m.If(ports.valid):
            m.d.sync += flow_ports.eq(ports.payload)
        m.d.comb += [
            flows.i.valid.eq(held.o.valid),
            flows.i.payload.addresses.eq(held.o.payload),
            flows.i.payload.remote.eq(flow_ports.remote),
            flows.i.payload.local.eq(flow_ports.local),
        ]
        candidate = self.candidate.payload
        start, context = Signal(), Signal.like(found.queue)
        m.d.comb += [
            start.eq(
                self.candidate.valid
                & (candidate.tcp | candidate.udp)
                & (found.local & found.hit & found.rss)
            ),
            context.eq(found.queue),
        ]
        for n in range(spare):
            before, start = start, Signal(name=f"start_{n}")
            before_context, context = context, Signal.like(context, name=f"context_{n}")
            m.d.sync += start.eq(before)
            with m.If(before):
                m.d.sync += context.eq(before_context)
        m.d.comb += [
            rss.i.valid.eq(start),
            rss.i.payload.eq(flows.o.payload),
            rss.i.payload.context.eq(context),
        ]

        waiting = data.StructLayout({"candidate": Candidate(p), "found": Found(p)})
        m.submodules.waiting = wait = DelayLine(waiting, 5)
        m.d.comb += [
            wait.i.valid.eq(self.candidate.valid),
            wait.i.payload.candidate.eq(candidate),
            wait.i.payload.found.eq(found),
        ]
        self.decide(m, wait.o, rss)
        return m

    def decide(self, m, waited, rss):
        """Rule and candidate to the steered frame."""
        frame, found = waited.payload.candidate, waited.payload.found
        out = self.o.payload
        rx = abi.RxOutcome
        m.d.comb += [
            self.o.valid.eq(waited.valid),
            out.verdict.eq(frame.verdict),
            out.frame.length.eq(frame.length),
            out.frame.header_length.eq(frame.length),
            out.frame.reason.eq(frame.reason),
            out.frame.time_stamp.eq(self.time_stamp),
            out.frame.vlan_tags.eq(frame.vlan_tags),
            out.frame.ipv6.eq(frame.ipv6),
            out.frame.checksum_good.eq(frame.checksum_good),
        ]
        with m.If(frame.tcp | frame.udp):
            with m.If(~found.local):
                m.d.comb += out.frame.reason.eq(rx.NOT_LOCAL)
            with m.Elif(frame.reason == rx.SYN_PAYLOAD):
                pass
            with m.Elif(~found.hit):
                m.d.comb += out.frame.reason.eq(rx.NO_RULE)
            with m.Else():
                m.d.comb += [
                    out.frame.header_length.eq(frame.header_length),
                    out.frame.payload_length.eq(frame.payload_length),
                    out.frame.queue.eq(Mux(found.rss, rss.queue, found.queue)),
                    out.frame.hash.eq(Mux(found.rss, rss.hash, 0)),
                    out.frame.tag.eq(found.tag),
                    out.udp_payload.eq(frame.udp & (frame.payload_length != 0)),
                ]
