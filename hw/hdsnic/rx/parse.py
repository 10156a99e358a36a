"""Parser: finds the headers of a frame as its beats flow past, a stage for each layer.

First in the receive path. `stage.py` says how stages work, `extension.py` holds the one for IPv6
extension headers. On the last beat of a frame all facts are known. A fact is of use only where the
frame is long enough to hold its field: `verify` checks that first.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, Strobe, count_bits
from .extension import (
    CHAIN_WORD_BITS,
    DESTINATION_OPTIONS,
    HOP_BY_HOP,
    ROUTING,
    ChainExits,
    ChainFacts,
    ChainStage,
    exit_cycles,
)
from .filter import MacFilter, MacMatch
from .stage import LENGTH_MAX, Beat, Stage, located, near_bits

__all__ = ["PARSER_CYCLES", "Addresses", "Facts", "Parser", "Ports"]

PARSER_CYCLES = 7  # arrival, L2, L3, offsets, extension headers, L4, bounds

ETHERNET_BYTES = 14
VLAN_TAG_BYTES = 4
VLAN_TAGS_MAX = 2
IPV6_BYTES = 40
UDP_BYTES = 8
TPIDS = (0x8100, 0x88A8)  # IEEE 802.1Q: customer and service tag
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17


class LinkFacts(data.StructLayout):
    """Of the three halfwords that may be the type field: which are VLAN tags, IPv4, IPv6."""

    def __init__(self):
        super().__init__({"tag": 2, "ipv4": 3, "ipv6": 3})


class NetworkFacts(data.StructLayout):
    """Fields of the IP header as they stand in the frame, but for the addresses.

    `total` is IPv4's total length or IPv6's payload length.
    """

    def __init__(self):
        super().__init__(
            {
                "mac": MacMatch(),
                "vlan_tags": 2,
                "ipv4": 1,
                "ipv6": 1,
                "version": 4,
                "ihl": 4,
                "total": 16,
                "fragment": 1,
                "protocol": 8,
            }
        )


class Addresses(data.StructLayout):
    """Addresses of the IP header, the first byte in bits 7:0; of IPv4 in bits 31:0, above zero."""

    def __init__(self):
        super().__init__({"ipv6": 1, "source": 128, "destination": 128})


class Ports(data.StructLayout):
    """The rest of a flow's tuple: source port (`remote`), destination port, which protocol."""

    def __init__(self):
        super().__init__({"udp": 1, "tcp": 1, "remote": 16, "local": 16})


class OffsetFacts(data.StructLayout):
    """Where the IP header ends (in words of 4 bytes, and 2 bytes), and where the IP packet does.

    `extended`: the IP header is followed by an extension header that is passed over.
    """

    def __init__(self):
        super().__init__({"network": NetworkFacts(), "extended": 1, "start_word": 5, "ip_end": 17})


class TransportFacts(data.StructLayout):
    """Fields of the TCP or UDP header as they stand in the frame.

    `body` is the number of bytes between the last IP header and the packet's end, unless `short`
    says that the packet ends before that. `udp_seen`: `udp_length` is known.
    """

    def __init__(self):
        super().__init__(
            {
                "offsets": OffsetFacts(),
                "chain": ChainFacts(),
                "ports": Ports(),
                "body": 16,
                "short": 1,
                "data_offset": 4,
                "syn": 1,
                "udp_length": 16,
                "udp_seen": 1,
                "udp_unchecked": 1,
            }
        )


class Facts(data.StructLayout):
    """All that the parser knows of a frame.

    Fields: those of `TransportFacts`; `l3`, `l4`, `header_end` and `l4_end`: byte offsets in the
    frame of the IP header, the L4 header (unless it is `far`, beyond the window), the end of the
    TCP or UDP header, and of the end of the bytes that the L4 checksum covers. `l4_length`: bytes
    that it covers. `payload`: bytes behind the L4 header, unless `overrun` says that a TCP header
    runs beyond the IP packet.
    """

    def __init__(self):
        super().__init__(
            {
                "transport": TransportFacts(),
                "l3": 5,
                "l4": 8,
                "far": 1,
                "header_end": 9,
                "l4_end": 17,
                "l4_length": 16,
                "payload": 16,
                "overrun": 1,
            }
        )


class LinkStage(Stage):
    """L2: is the type field, or the field after the first or second VLAN tag, IPv4, IPv6, a tag?"""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, data.StructLayout({}), LinkFacts())

    def find(self, m, beat, known, facts):
        for n in range(VLAN_TAGS_MAX + 1):
            hit, value, _ = self.at(beat, ETHERNET_BYTES - 2 + n * VLAN_TAG_BYTES)
            kinds = [
                (facts.ipv4[n], value == ETHERTYPE_IPV4),
                (facts.ipv6[n], value == ETHERTYPE_IPV6),
            ]
            if n < VLAN_TAGS_MAX:
                is_tag = Signal(name=f"is_tag_{n}")
                m.d.comb += is_tag.eq((value == TPIDS[0]) | (value == TPIDS[1]))
                kinds.append((facts.tag[n], is_tag))
            self.capture(m, hit, *kinds)


class NetworkStage(Stage):
    """L3: fields of the IP header, which starts at one of three offsets.

    `addresses` are known with the facts of the frame's last beat.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            bus_bytes,
            data.StructLayout({"link": LinkFacts(), "mac": MacMatch()}),
            NetworkFacts(),
            addresses=Out(Addresses()),
        )

    def find(self, m, beat, known, facts):
        link = known.link
        tags = Signal(2)
        m.d.comb += tags.eq(Mux(link.tag[0], Mux(link.tag[1], 2, 1), 0))
        ipv4, ipv6 = Signal(), Signal()
        m.d.comb += [
            ipv4.eq(Mux(tags[1], link.ipv4[2], Mux(tags[0], link.ipv4[1], link.ipv4[0]))),
            ipv6.eq(Mux(tags[1], link.ipv6[2], Mux(tags[0], link.ipv6[1], link.ipv6[0]))),
        ]
        self.carry(
            m,
            (facts.mac, known.mac),
            (facts.vlan_tags, tags),
            (facts.ipv4, ipv4),
            (facts.ipv6, ipv6),
        )

        def field(name, offset):
            """Hit, value and raw lanes of the halfword at `offset` of the IP header."""
            hit = Signal(name=f"{name}_hit")
            value = Signal(16, name=name)
            with m.Switch(tags):
                for n in range(VLAN_TAGS_MAX + 1):
                    here, _, raw = self.at(beat, ETHERNET_BYTES + n * VLAN_TAG_BYTES + offset)
                    with m.Case(n) if n < VLAN_TAGS_MAX else m.Default():
                        m.d.comb += [hit.eq(here), value.eq(raw)]
            return hit, Cat(value[8:16], value[0:8]), value

        def either(four, six):
            """The IPv4 field, or for IPv6 the other."""
            return [Mux(ipv6, s, f) for f, s in zip(four, six, strict=True)]

        hit, value, _ = field("first", 0)
        self.capture(m, hit, (facts.version, value[12:16]), (facts.ihl, value[8:12]))
        hit, value, _ = either(field("ipv4_total", 2), field("ipv6_payload", 4))
        self.capture(m, hit, (facts.total, value))
        # RFC 791: more fragments (bit 13), or an offset other than 0
        hit, value, _ = field("ipv4_fragment", 6)
        self.capture(m, hit, (facts.fragment, value[0:14].any() & ipv4))
        four, six = field("ipv4_protocol", 8), field("ipv6_next", 6)
        hit, _, _ = either(four, six)
        self.capture(m, hit, (facts.protocol, Mux(ipv6, six[1][8:16], four[1][0:8])))
        self.carry(m, (self.addresses.ipv6, ipv6))
        for name, at_ipv4, at_ipv6 in (("source", 12, 8), ("destination", 16, 24)):
            address = self.addresses[name]
            for n in range(8):
                six = field(f"ipv6_{name}_{n}", at_ipv6 + 2 * n)
                if n < 2:
                    hit, _, raw = either(field(f"ipv4_{name}_{n}", at_ipv4 + 2 * n), six)
                else:
                    hit, _, raw = six[0] & ipv6, six[1], six[2]
                self.capture(m, hit, (address[16 * n : 16 * n + 16], raw))


class OffsetStage(Stage):
    """Behind L3: turns lengths into offsets, so that no stage adds and selects at once."""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, NetworkFacts(), OffsetFacts())

    def find(self, m, beat, known, facts):
        header_words = Signal(4)  # of the IP header
        m.d.comb += header_words.eq(Mux(known.ipv6, IPV6_BYTES // 4, known.ihl))
        start = Signal(7)  # `total` counts from the IPv4 header, or from the end of the IPv6 header
        m.d.comb += start.eq(
            ETHERNET_BYTES + (known.vlan_tags << 2) + Mux(known.ipv6, IPV6_BYTES, 0)
        )
        passed_over = Signal()
        with m.Switch(known.protocol):
            with m.Case(HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
                m.d.comb += passed_over.eq(1)
        self.carry(
            m,
            (facts.network, known),
            (facts.extended, known.ipv6 & passed_over),
            (facts.start_word, known.vlan_tags + header_words + ETHERNET_BYTES // 4),
            (facts.ip_end, known.total + start),
        )


class TransportStage(Stage):
    """L4: fields of the TCP or UDP header, whose words are selected by index and lane."""

    def __init__(self, bus_bytes):
        chained = data.StructLayout({"offsets": OffsetFacts(), "chain": ChainFacts()})
        super().__init__(bus_bytes, chained, TransportFacts())

    def find(self, m, beat, known, facts):
        network, chain, ports = known.offsets.network, known.chain, facts.ports
        body = Signal(18)
        m.d.comb += body.eq(known.offsets.ip_end - Cat(0, 1, chain.word))
        whole = (network.ipv4 | network.ipv6) & ~network.fragment
        self.carry(
            m,
            (facts.offsets, known.offsets),
            (facts.chain, chain),
            (facts.body, body[:16]),
            (facts.short, body[17]),
            (ports.tcp, whole & (chain.kind == PROTOCOL_TCP)),
            (ports.udp, whole & (chain.kind == PROTOCOL_UDP)),
        )
        words = Array(beat.data[at : at + 32] for at in range(0, 8 * self.bus_bytes, 32))
        lane_bits = count_bits(self.bus_bytes // 4 - 1)

        def word(n):
            """Hit and halves (network byte order) of word `n` from the one of the L4 start on."""
            index = Signal(CHAIN_WORD_BITS + 1, name=f"l4_index_{n}")
            value = Signal(32, name=f"l4_word_{n}")
            m.d.comb += [index.eq(chain.word + n), value.eq(words[index[:lane_bits]])]
            hit = index[lane_bits:] == beat.near
            return hit, Cat(value[8:16], value[0:8]), Cat(value[24:32], value[16:24])

        # RFC 9293 3.1 and RFC 768; the L4 header starts in the upper half of its word
        hit, _, high = word(0)
        self.capture(m, hit, (ports.remote, high))
        hit, low, high = word(1)
        self.capture(m, hit, (ports.local, low), (facts.udp_length, high), (facts.udp_seen, 1))
        hit, low, _ = word(2)
        self.capture(m, hit, (facts.udp_unchecked, low == 0))
        hit, _, high = word(3)
        self.capture(m, hit, (facts.data_offset, high[12:16]), (facts.syn, high[1]))


class BoundStage(Stage):
    """Behind L4: the bounds of header, payload and checksums."""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, TransportFacts(), Facts())

    def find(self, m, beat, known, facts):
        offsets, udp, word = known.offsets, known.ports.udp, known.chain.word
        l4 = Signal(len(facts.l4))
        m.d.comb += l4.eq(Cat(0, 1, word))
        header = Mux(udp, UDP_BYTES, known.data_offset << 2)
        # RFC 768: the checksum ends with the datagram, which may end before the IP packet
        covered = Signal(16)
        m.d.comb += covered.eq(Mux(udp, known.udp_length, known.body))
        payload = Signal(17)
        m.d.comb += payload.eq(covered - header)
        self.carry(
            m,
            (facts.transport, known),
            (facts.l3, ETHERNET_BYTES + (offsets.network.vlan_tags << 2)),
            (facts.l4, l4),
            (facts.far, word[len(l4) - 2 :].any()),
            (facts.header_end, l4 + header),
            (facts.l4_end, Mux(udp & known.udp_seen, l4 + known.udp_length, offsets.ip_end)),
            (facts.l4_length, covered),
            (facts.payload, payload[:16]),
            (facts.overrun, payload[16]),
        )


class Parser(wiring.Component):
    """Finds addresses, lengths, offsets and ports of each frame.

    Latency PARSER_CYCLES. Throughput one beat a cycle, frames back to back. No back-pressure:
    `mac.ready` is always 1. A last beat whose `count` is not 1 to `bus_bytes` is taken as a full
    one and marked bad, as by the MAC.

    Interface attributes
    --------------------
    mac: frames from the MAC.
    mac_address: own address, first byte in bits 7:0. promiscuous: let all destinations pass.
    o: beats with the facts known so far; on the last beat of a frame all are.
    addresses, ports: of each frame, 4 and 1 cycles before the last beat is at `o`.
    frame_done, frame_bytes: pulse and length (up to LENGTH_MAX) of each frame.
    """

    ADDRESSES_AHEAD, PORTS_AHEAD = 4, 1

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "mac": In(stream.Signature(FrameBeat(bus_bytes))),
                "mac_address": In(48),
                "promiscuous": In(1),
                "o": Out(Strobe(located(bus_bytes, Facts()))),
                "addresses": Out(Strobe(Addresses())),
                "ports": Out(Strobe(Ports())),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arrival = Signal(Beat(self.bus_bytes))
        arrived = Signal()
        near = self.arrive(m, arrived, arrival)

        m.submodules.link = link = LinkStage(self.bus_bytes)
        m.submodules.filter = mac_filter = MacFilter(self.bus_bytes)
        m.submodules.network = network = NetworkStage(self.bus_bytes)
        m.submodules.offset = offset = OffsetStage(self.bus_bytes)
        m.submodules.exits = exits = ChainExits(self.bus_bytes)
        m.submodules.chain = chain = ChainStage(self.bus_bytes, OffsetFacts())
        m.submodules.transport = transport = TransportStage(self.bus_bytes)
        m.submodules.bound = bound = BoundStage(self.bus_bytes)
        m.d.comb += [
            link.i.valid.eq(arrived),
            link.i.payload.beat.eq(arrival),
            mac_filter.valid.eq(arrived & arrival.first),
            mac_filter.data.eq(arrival.data),
            mac_filter.mac_address.eq(self.mac_address),
            mac_filter.promiscuous.eq(self.promiscuous),
            network.i.valid.eq(link.o.valid),
            network.i.payload.beat.eq(link.o.payload.beat),
            network.i.payload.facts.link.eq(link.o.payload.facts),
            network.i.payload.facts.mac.eq(mac_filter.match),
            chain.exits.eq(exits.exits),
        ]
        for source, sink in (
            (network, offset), (offset, chain), (chain, transport), (transport, bound)
        ):  # fmt: skip
            m.d.comb += [sink.i.valid.eq(source.o.valid), sink.i.payload.eq(source.o.payload)]

        # The exits of a beat are ready when the beat comes to the stage that follows the chain.
        before = [
            (self.mac.valid, near, self.mac.payload.data),
            (arrived, arrival.near, arrival.data),
            *(
                (stage.o.valid, stage.o.payload.beat.near, stage.o.payload.beat.data)
                for stage in (link, network)
            ),
        ]
        valid, of_beat, beat_data = before[-exit_cycles(self.bus_bytes)]
        in_window = ~of_beat.all()  # nobody asks for exits beyond it
        m.d.comb += [exits.i.valid.eq(valid & in_window), exits.i.payload.eq(beat_data)]

        m.d.comb += [
            self.o.valid.eq(bound.o.valid),
            self.o.payload.eq(bound.o.payload),
            self.addresses.valid.eq(network.o.valid & network.o.payload.beat.last),
            self.addresses.payload.eq(network.addresses),
            self.ports.valid.eq(transport.o.valid & transport.o.payload.beat.last),
            self.ports.payload.eq(transport.o.payload.facts.ports),
        ]
        return m

    def arrive(self, m, arrived, arrival):
        """Register a beat of the MAC, count beats and bytes; gives the number of the next beat."""
        incoming = self.mac.payload
        index = Signal(16 - count_bits(self.bus_bytes - 1))
        near = Signal(near_bits(self.bus_bytes))
        broken = incoming.last & ((incoming.count == 0) | (incoming.count > self.bus_bytes))
        count = Mux(incoming.last & ~broken, incoming.count, self.bus_bytes)
        length = Signal(16)
        m.d.comb += [
            self.mac.ready.eq(1),
            length.eq((index << count_bits(self.bus_bytes - 1)) + count),
            self.frame_done.eq(arrived & arrival.last),
            self.frame_bytes.eq(arrival.length),
        ]
        m.d.sync += arrived.eq(self.mac.valid)
        with m.If(self.mac.valid):
            m.d.sync += [
                arrival.data.eq(incoming.data),
                arrival.count.eq(count),
                arrival.first.eq(index == 0),
                arrival.last.eq(incoming.last),
                arrival.bad.eq(incoming.error | broken),
                arrival.near.eq(near),
                arrival.index.eq(index),
                arrival.length.eq(Mux(index.all(), LENGTH_MAX, length)),
            ]
            with m.If(incoming.last):
                m.d.sync += [index.eq(0), near.eq(0)]
            with m.Else():
                m.d.sync += [
                    index.eq(Mux(index.all(), index, index + 1)),
                    near.eq(Mux(near.all(), near, near + 1)),
                ]
        return near
