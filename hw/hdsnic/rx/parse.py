"""Parser: finds the headers of a frame as its beats flow past, a stage for each layer.

First in the receive path. A frame is never gathered here: each stage picks its fields out of the
beat that holds them, at an offset that the stage before has found, and hands the beat on together
with the facts known so far. On the last beat of a frame all facts are known. Every header starts
at byte 2 modulo 4 (14, plus 4 for each VLAN tag, plus whole words), so a field is always in the
same half of a 32-bit word, and no field straddles a beat.

A fact is of use only where the frame is long enough to hold its field: `verify` checks that first.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, Strobe, count_bits
from .filter import MacFilter, MacMatch

__all__ = ["Beat", "Facts", "Parser"]

ETHERNET_BYTES = 14
VLAN_TAG_BYTES = 4
VLAN_TAGS_MAX = 2
IPV6_BYTES = 40
TPIDS = (0x8100, 0x88A8)  # IEEE 802.1Q: customer and service tag
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
LENGTH_MAX = 65535  # stands for all lengths from 65,536 - bus_bytes on


class Beat(data.StructLayout):
    """A beat between the stages of the parser.

    `index` counts beats of the frame and `near` does so up to 15 only, for the headers; both stay
    at their largest value. `length` is the frame's length in bytes so far (up to LENGTH_MAX), `bad`
    the MAC's mark; both are of use on the last beat.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": unsigned(8 * bus_bytes),
                "count": unsigned(count_bits(bus_bytes)),
                "first": unsigned(1),
                "last": unsigned(1),
                "bad": unsigned(1),
                "near": unsigned(4),
                "index": unsigned(16 - count_bits(bus_bytes - 1)),
                "length": unsigned(16),
            }
        )


class LinkFacts(data.StructLayout):
    """Of the three halfwords that may be the type field: which are VLAN tags, IPv4, IPv6."""

    def __init__(self):
        super().__init__({"tag": 2, "ipv4": 3, "ipv6": 3})


class NetworkFacts(data.StructLayout):
    """Fields of the IP header as they stand in the frame.

    `total` is IPv4's total length or IPv6's payload length; `destination` holds the address's first
    byte in bits 7:0 (IPv4 in 31:0).
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
                "destination": 128,
            }
        )


class OffsetFacts(data.StructLayout):
    """Where the L4 header starts (in words of 4 bytes, and 2 bytes) and where the IP packet ends.

    `short` says that the IPv4 total length does not even cover its header; else `body` is the
    number of bytes between the IP header and the packet's end.
    """

    def __init__(self):
        super().__init__(
            {
                "network": NetworkFacts(),
                "tcp": 1,
                "udp": 1,
                "l4_word": 5,
                "words": data.ArrayLayout(5, 3),  # l4_word + 1, + 2, + 3
                "ip_end": 17,
                "body": 16,
                "short": 1,
            }
        )


class TransportFacts(data.StructLayout):
    """Fields of the TCP or UDP header as they stand in the frame; `seen`: udp_length is known."""

    def __init__(self):
        super().__init__(
            {
                "offsets": OffsetFacts(),
                "port": 16,
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
    frame of the IP header, the L4 header, the end of the TCP header, and of the end of the bytes
    that the L4 checksum covers. `l4_length`: bytes that it covers. `payload`: bytes behind the TCP
    header, unless `overrun` says that the header runs beyond the IP packet.
    """

    def __init__(self):
        super().__init__(
            {
                "transport": TransportFacts(),
                "l3": 5,
                "l4": 7,
                "header_end": 8,
                "l4_end": 17,
                "l4_length": 16,
                "payload": 16,
                "overrun": 1,
            }
        )


def located(bus_bytes, facts):
    """Layout of a beat with the `facts` known as it leaves a stage."""
    return data.StructLayout({"beat": Beat(bus_bytes), "facts": facts})


def lane(beat_data, at):
    """The halfword at byte `at` of a beat, in network byte order."""
    return Cat(beat_data[8 * at + 8 : 8 * at + 16], beat_data[8 * at : 8 * at + 8])


class Stage(wiring.Component):
    """Frame of a parser stage: `i` to `o` in one cycle, a beat a cycle, without back-pressure.

    The output register doubles as the memory of the facts found in earlier beats of the frame.
    """

    def __init__(self, bus_bytes, facts_in, facts_out):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "i": In(Strobe(located(bus_bytes, facts_in))),
                "o": Out(Strobe(located(bus_bytes, facts_out))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid):
            m.d.sync += self.o.payload.beat.eq(self.i.payload.beat)
        self.find(m, self.i.payload.beat, self.i.payload.facts, self.o.payload.facts)
        return m

    def find(self, m, beat, known, facts):
        """Set `facts` from the beat and from the facts that came with it."""
        raise NotImplementedError

    def carry(self, m, *pairs):
        """Facts that are a function of the incoming facts: (target, value)."""
        with m.If(self.i.valid):
            m.d.sync += [target.eq(value) for target, value in pairs]

    def capture(self, m, hit, *pairs):
        """Facts that are in this beat if `hit`: (target, value). Zero until then."""
        with m.If(self.i.valid):
            with m.If(hit):
                m.d.sync += [target.eq(value) for target, value in pairs]
            with m.Elif(self.i.payload.beat.first):
                m.d.sync += [target.eq(0) for target, _ in pairs]

    def at(self, beat, position):
        """Whether the halfword at byte `position` (a constant) is in this beat; its value; raw."""
        near, at = divmod(position, self.bus_bytes)
        raw = beat.data[8 * at : 8 * at + 16]
        return beat.near == near, lane(beat.data, at), raw


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
    """L3: fields of the IP header, which starts at one of three offsets."""

    def __init__(self, bus_bytes):
        super().__init__(
            bus_bytes,
            data.StructLayout({"link": LinkFacts(), "mac": MacMatch()}),
            NetworkFacts(),
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
        for n in range(8):
            word = facts.destination[16 * n : 16 * n + 16]
            six = field(f"ipv6_destination_{n}", 24 + 2 * n)
            if n < 2:
                hit, _, raw = either(field(f"ipv4_destination_{n}", 16 + 2 * n), six)
            else:
                hit, _, raw = six[0] & ipv6, six[1], six[2]
            self.capture(m, hit, (word, raw))


class OffsetStage(Stage):
    """Between L3 and L4: turns lengths into offsets, so that no stage adds and selects at once."""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, NetworkFacts(), OffsetFacts())

    def find(self, m, beat, known, facts):
        header_words = Signal(4)  # of the IP header
        m.d.comb += header_words.eq(Mux(known.ipv6, IPV6_BYTES // 4, known.ihl))
        l4_word = Signal(5)
        m.d.comb += l4_word.eq(known.vlan_tags + header_words + ETHERNET_BYTES // 4)
        start = Signal(7)  # `total` counts from the IPv4 header, or from the end of the IPv6 header
        m.d.comb += start.eq(
            ETHERNET_BYTES + (known.vlan_tags << 2) + Mux(known.ipv6, IPV6_BYTES, 0)
        )
        body = Signal(17)
        m.d.comb += body.eq(known.total - Mux(known.ipv6, 0, known.ihl << 2))
        is_ip = known.ipv4 | known.ipv6
        whole = is_ip & ~known.fragment
        self.carry(
            m,
            (facts.network, known),
            (facts.tcp, whole & (known.protocol == PROTOCOL_TCP)),
            (facts.udp, whole & (known.protocol == PROTOCOL_UDP)),
            (facts.l4_word, l4_word),
            *((facts.words[n], l4_word + 1 + n) for n in range(3)),
            (facts.ip_end, known.total + start),
            (facts.body, body[:16]),
            (facts.short, body[16]),
        )


class TransportStage(Stage):
    """L4: fields of the TCP or UDP header, whose words are selected by index and lane."""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, OffsetFacts(), TransportFacts())

    def find(self, m, beat, known, facts):
        self.carry(m, (facts.offsets, known))
        words = Array(beat.data[at : at + 32] for at in range(0, 8 * self.bus_bytes, 32))
        lane_bits = count_bits(self.bus_bytes // 4 - 1)

        def word(n):
            """Hit and halves (network byte order) of word `n` + 1 after the one of the L4 start."""
            index = known.words[n]
            value = Signal(32, name=f"l4_word_{n}")
            m.d.comb += value.eq(words[index[:lane_bits]])
            hit = index[lane_bits:] == beat.near
            return hit, Cat(value[8:16], value[0:8]), Cat(value[24:32], value[16:24])

        # RFC 9293 3.1 and RFC 768; the L4 header starts in the upper half of its word
        hit, low, high = word(0)
        self.capture(m, hit, (facts.port, low), (facts.udp_length, high), (facts.udp_seen, 1))
        hit, low, _ = word(1)
        self.capture(m, hit, (facts.udp_unchecked, low == 0))
        hit, _, high = word(2)
        self.capture(m, hit, (facts.data_offset, high[12:16]), (facts.syn, high[1]))


class BoundStage(Stage):
    """Behind L4: the bounds of header, payload and checksums."""

    def __init__(self, bus_bytes):
        super().__init__(bus_bytes, TransportFacts(), Facts())

    def find(self, m, beat, known, facts):
        offsets = known.offsets
        l4 = Signal(7)
        m.d.comb += l4.eq(Cat(0, 1, offsets.l4_word))
        # RFC 768: the checksum ends with the datagram, which may end before the IP packet
        by_udp = offsets.udp & known.udp_seen
        payload = Signal(17)
        m.d.comb += payload.eq(offsets.body - (known.data_offset << 2))
        self.carry(
            m,
            (facts.transport, known),
            (facts.l3, ETHERNET_BYTES + (offsets.network.vlan_tags << 2)),
            (facts.l4, l4),
            (facts.header_end, l4 + (known.data_offset << 2)),
            (facts.l4_end, Mux(by_udp, l4 + known.udp_length, offsets.ip_end)),
            (facts.l4_length, Mux(by_udp, known.udp_length, offsets.body)),
            (facts.payload, payload[:16]),
            (facts.overrun, payload[16]),
        )


class Parser(wiring.Component):
    """Finds addresses, lengths, offsets and ports of each frame.

    Latency 6 cycles: one for arrival, L2, L3, offsets, L4, bounds each. Throughput one beat a
    cycle, frames back to back. No back-pressure: `mac.ready` is always 1. A last beat whose
    `count` is not 1 to `bus_bytes` is taken as a full one and marked bad, as by the MAC.

    Interface attributes
    --------------------
    mac: frames from the MAC.
    mac_address: own address, first byte in bits 7:0. promiscuous: let all destinations pass.
    o: beats with the facts known so far; on the last beat of a frame all are.
    frame_done, frame_bytes: pulse and length (up to LENGTH_MAX) of each frame.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "mac": In(stream.Signature(FrameBeat(bus_bytes))),
                "mac_address": In(48),
                "promiscuous": In(1),
                "o": Out(Strobe(located(bus_bytes, Facts()))),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arrival = Signal(Beat(self.bus_bytes))
        arrived = Signal()
        self.arrive(m, arrived, arrival)

        m.submodules.link = link = LinkStage(self.bus_bytes)
        m.submodules.filter = mac_filter = MacFilter(self.bus_bytes)
        m.submodules.network = network = NetworkStage(self.bus_bytes)
        m.submodules.offset = offset = OffsetStage(self.bus_bytes)
        m.submodules.transport = transport = TransportStage(self.bus_bytes)
        m.submodules.bound = bound = BoundStage(self.bus_bytes)
        m.d.comb += [
            link.i.valid.eq(arrived),
            link.i.payload.beat.eq(arrival),
            mac_filter.valid.eq(arrived),
            mac_filter.near.eq(arrival.near),
            mac_filter.data.eq(arrival.data),
            mac_filter.mac_address.eq(self.mac_address),
            mac_filter.promiscuous.eq(self.promiscuous),
            network.i.valid.eq(link.o.valid),
            network.i.payload.beat.eq(link.o.payload.beat),
            network.i.payload.facts.link.eq(link.o.payload.facts),
            network.i.payload.facts.mac.eq(mac_filter.match),
            offset.i.valid.eq(network.o.valid),
            offset.i.payload.eq(network.o.payload),
            transport.i.valid.eq(offset.o.valid),
            transport.i.payload.eq(offset.o.payload),
            bound.i.valid.eq(transport.o.valid),
            bound.i.payload.eq(transport.o.payload),
            self.o.valid.eq(bound.o.valid),
            self.o.payload.eq(bound.o.payload),
        ]
        return m

    def arrive(self, m, arrived, arrival):
        """Register a beat of the MAC, count beats and bytes."""
        incoming = self.mac.payload
        index = Signal(16 - count_bits(self.bus_bytes - 1))
        near = Signal(4)
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
