"""Steering: which queue a verified frame is for (R15, R31).

Fourth in the receive path, behind the frame buffer's commit. Two tables: local addresses, and
listener rules on top of them. A rule decides only whose frame it is, never where it is placed.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import AddressStore, ListenerStore, SteeredFrame, Strobe
from .verify import Candidate

__all__ = ["AddressTable", "ListenerTable", "Steer"]

GROUP = 8  # rules of which the first that matches is chosen in one cycle


class AddressTable(wiring.Component):
    """The card's own IP addresses.

    Latency 2 cycles from `valid` to `local`, a frame a cycle: compare words, then combine. An entry
    that is stored counts for frames that come in the cycle after.

    Interface attributes
    --------------------
    store: writes an entry. valid, ipv6, destination: a frame's destination.
    local: a bit for each entry that equals it.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "store": In(Strobe(AddressStore(parameters))),
                "valid": In(1),
                "ipv6": In(1),
                "destination": In(128),
                "local": Out(parameters.local_addresses),
            }
        )

    def elaborate(self, platform):
        m = Module()
        stored = self.store.payload
        entry = data.StructLayout({"valid": 1, "ipv6": 1, "address": 128})
        compared = Signal()
        m.d.sync += compared.eq(self.valid)
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
    """Listener rules: TCP, a local address or all of them, a port or (the first rules) ports.

    Latency 3 cycles from `valid` to `hit`, a frame a cycle: all rules in parallel, the first match
    of each group of 8, the first group. `queue` is read with `hit`. UDP rules take a place and
    match nothing yet. Each frame sees either the rule before a store or the one after it, whole.

    Interface attributes
    --------------------
    store: writes a rule. valid, port, local: a frame's port, and the entries of its address.
    hit, rule, queue: the lowest rule that matches.
    """

    def __init__(self, parameters):
        self.p = parameters
        store = ListenerStore(parameters)
        super().__init__(
            {
                "store": In(Strobe(store)),
                "valid": In(1),
                "port": In(16),
                "local": In(parameters.local_addresses),
                "hit": Out(1),
                "rule": Out(store["index"].shape),
                "queue": Out(store["queue"].shape),
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
                    rule.addresses.eq(addresses),
                    rule.first.eq(stored.first),
                ]
                if is_range:
                    m.d.sync += rule.last.eq(stored.last)
            if is_range:
                port = (self.port >= rule.first) & (self.port <= rule.last)
            else:
                port = self.port == rule.first
            with m.If(self.valid):
                m.d.sync += hits[n].eq(rule.tcp & port & (rule.addresses & self.local).any())

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
            shape=unsigned(len(self.queue)),
            depth=p.listeners,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        write, read = queues.write_port(), queues.read_port(domain="comb")
        entry = data.StructLayout({"en": 1, "index": len(stored.index), "queue": len(self.queue)})
        later = Signal(entry)
        m.d.comb += [
            later.en.eq(self.store.valid & (stored.index < p.listeners)),
            later.index.eq(stored.index),
            later.queue.eq(stored.queue),
        ]
        for n in range(3):
            before, later = later, Signal(entry, name=f"later_{n}")
            m.d.sync += later.eq(before)
        m.d.comb += [
            write.en.eq(later.en),
            write.addr.eq(later.index),
            write.data.eq(later.queue),
            read.addr.eq(self.rule),
            self.queue.eq(read.data),
        ]
        return m


class Steer(wiring.Component):
    """Gives each kept frame its queue, tag and final reason.

    Latency 6 cycles, a frame a cycle, no back-pressure. Frames that are not TCP pass with the
    reason they have. TCP: a destination that is not local is NOT_LOCAL; a SYN with payload goes
    whole to queue 0 (R31); without a rule, NO_RULE.

    Interface attributes
    --------------------
    address_store, listener_store: the tables' writes.
    i: kept frames. A store in the same cycle or before counts for the frame.
    o: the frames, steered.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "address_store": In(Strobe(AddressStore(parameters))),
                "listener_store": In(Strobe(ListenerStore(parameters))),
                "i": In(Strobe(Candidate(parameters))),
                "o": Out(Strobe(SteeredFrame(parameters))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        m.submodules.addresses = addresses = AddressTable(p)
        m.submodules.listeners = listeners = ListenerTable(p)

        # a row of registers in front: the stages are numbered by what they hold
        stages = [(self.i.valid, self.i.payload)]
        for n in range(6):
            valid, frame = stages[-1]
            held = Signal(name=f"held_{n}"), Signal(Candidate(p), name=f"frame_{n}")
            m.d.sync += held[0].eq(valid)
            with m.If(valid):
                m.d.sync += held[1].eq(frame)
            stages.append(held)
        arrived, located, matched = stages[1], stages[3], stages[6]
        local = Signal()
        m.d.comb += [
            addresses.store.valid.eq(self.address_store.valid),
            addresses.store.payload.eq(self.address_store.payload),
            addresses.valid.eq(arrived[0]),
            addresses.ipv6.eq(arrived[1].ipv6),
            addresses.destination.eq(arrived[1].destination),
            listeners.store.valid.eq(self.listener_store.valid),
            listeners.store.payload.eq(self.listener_store.payload),
            listeners.valid.eq(located[0]),
            listeners.port.eq(located[1].port),
            listeners.local.eq(addresses.local),
        ]
        is_local = [addresses.local.any()]
        for n in range(3):
            later = Signal(name=f"is_local_{n}")
            m.d.sync += later.eq(is_local[-1])
            is_local.append(later)
        m.d.comb += local.eq(is_local[-1])

        frame, out = matched[1], self.o.payload
        reason = Signal(len(frame.reason))
        steered = Signal()
        rx = abi.RxOutcome
        m.d.comb += reason.eq(frame.reason)
        with m.If(frame.tcp):
            with m.If(~local):
                m.d.comb += reason.eq(rx.NOT_LOCAL)
            with m.Elif((frame.reason != rx.SYN_PAYLOAD) & ~listeners.hit):
                m.d.comb += reason.eq(rx.NO_RULE)
            with m.Elif(frame.reason != rx.SYN_PAYLOAD):
                m.d.comb += steered.eq(1)
        m.d.comb += [
            self.o.valid.eq(matched[0]),
            out.length.eq(frame.length),
            out.header_length.eq(Mux(steered, frame.header_length, frame.length)),
            out.payload_length.eq(Mux(steered, frame.payload_length, 0)),
            out.queue.eq(Mux(steered, listeners.queue, 0)),
            out.tag.eq(Mux(steered, listeners.rule, 0)),
            out.reason.eq(reason),
            out.vlan_tags.eq(frame.vlan_tags),
            out.ipv6.eq(frame.ipv6),
            out.checksum_good.eq(frame.checksum_good),
        ]
        return m
