"""Segments of scripts to frames and back, by scapy: the stack's bytes meet another's reading."""

import ipaddress
from dataclasses import dataclass, field

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from script_language import ANY, ICMP6_KINDS, ICMP_KINDS, SegmentText

MASK = 0xFFFFFFFF
PEER_MAC = "02:00:00:00:00:01"
PATTERN_PERIOD = 65521


def pattern(salt: int, start: int, length: int) -> bytes:
    """Bytes `start` to `start + length` of an endless stream that does not repeat soon."""
    numbers = range(start, start + length)
    return bytes(
        (k * 31 + (k >> 8) * 7 + salt) & 0xFF for k in (n % PATTERN_PERIOD for n in numbers)
    )


@dataclass
class Peer:
    """One connection as the peer sees it. Numbers of scripts are relative to both ISNs."""

    number: int
    address: int
    port: int
    isn: int
    local_port: int = 80
    our_isn: int | None = None
    ts_base: int | None = None
    """What our time stamps of scripts are relative to (RFC 7323)."""
    connection: int | None = None
    sent: int = 0
    taken: int = 0
    sends: int = 0
    failed: list = field(default_factory=list)

    def theirs(self, number):
        return (self.isn + number) & MASK

    def ours(self, number):
        return ((self.our_isn or 0) + number) & MASK

    def stream(self, start, length):
        """Payload that this peer sends at number `start` (1 is the first byte of the stream)."""
        return pattern(0x55 + self.number, (start - 1) & MASK, length)

    def our_stream(self, start, length):
        """Payload that the stack sends to this peer at number `start`."""
        return pattern(0xA0 + self.number, (start - 1) & MASK, length)


OUR_IPV6 = "fd00:77::2"
PEER_IPV6 = "fd00:77::1"
EXTENSIONS = {
    "hop": IPv6ExtHdrHopByHop,
    "routing": lambda: IPv6ExtHdrRouting(addresses=[OUR_IPV6], segleft=0),
    "destination": IPv6ExtHdrDestOpt,
    "fragment": lambda: IPv6ExtHdrFragment(m=1, id=7),
    "unknown": lambda: Raw(bytes([6, 0]) + bytes(6)),
}
UNKNOWN_HEADER = 253
"""A number for experiments (RFC 3692): no extension header that a host has to know."""


def text_of(address: int) -> str:
    """An address as text; IPv6 where it does not fit into 32 bits."""
    return str(ipaddress.ip_address(address))


def is_ipv6(peer) -> bool:
    return peer.address >> 32 > 0


def _ethernet(host):
    return Ether(src=PEER_MAC, dst=host.mac.hex(":"))


def _options(options, peer):
    """As scapy names them."""
    made = []
    for name, *values in options or []:
        if name == "mss":
            made.append(("MSS", values[0]))
        elif name == "wscale":
            made.append(("WScale", values[0]))
        elif name == "sackOK":
            made.append(("SAckOK", b""))
        elif name == "TS":
            echo = values[1] + (peer.ts_base or 0) if values[1] else 0
            made.append(("Timestamp", (values[0], echo & MASK)))
        elif name == "sack":
            made.append(("SAck", tuple(peer.ours(edge) for block in values for edge in block)))
        else:
            made.append(("NOP" if name == "nop" else "EOL", None))
    return made


def build(host, peer, segment: SegmentText) -> bytes:
    """The frame of a segment from `peer`."""
    payload = peer.stream(segment.seq, segment.length)
    ack = peer.ours(segment.ack) if segment.ack is not None else 0
    fields = {
        "sport": peer.port, "dport": peer.local_port, "seq": peer.theirs(segment.seq), "ack": ack,
        "flags": segment.flags, "urgptr": segment.urgent,
        "window": 65535 if segment.window is None else segment.window,
    }  # fmt: skip
    raw = b"".join(values[0] for name, *values in segment.options or [] if name == "hex")
    if raw:
        # options that scapy would not write: their bytes stand where a payload begins
        assert len(raw) % 4 == 0, "hex options fill whole words"
        tcp = TCP(**fields, dataofs=5 + len(raw) // 4) / Raw(raw + payload)
    else:
        tcp = TCP(**fields, options=_options(segment.options, peer))
        tcp = tcp / Raw(payload) if payload else tcp
    source = text_of(peer.address)
    if not is_ipv6(peer):
        return bytes(_ethernet(host) / IP(src=source, dst=text_of(host.address)) / tcp)
    packet = IPv6(src=source, dst=OUR_IPV6)
    for name in segment.extensions:
        packet = packet / EXTENSIONS[name]()
    if "unknown" in segment.extensions:
        packet.nh = UNKNOWN_HEADER
    # the checksum of a packet that scapy cannot read through is that of the packet without
    tcp = IPv6(bytes(IPv6(src=source, dst=OUR_IPV6) / tcp))[TCP]
    return bytes(_ethernet(host) / packet / tcp)


def build_icmp(host, peer, icmp) -> bytes:
    """An ICMP error about a segment of ours: IP header and eight bytes of it, as RFC 792 has it."""
    if is_ipv6(peer):
        return build_icmp6(host, peer, icmp)
    kind, code = ICMP_KINDS[icmp.kind]
    us, them = text_of(host.address), text_of(peer.address)
    quoted = IP(src=us, dst=them, flags="DF", len=40 + icmp.length, ttl=60) / TCP(
        sport=peer.local_port, dport=peer.port, seq=peer.ours(icmp.seq), flags="A"
    )
    message = ICMP(type=kind, code=code)
    if icmp.kind == "frag_needed":
        message.nexthopmtu = icmp.mtu
    router = IP(src=them, dst=us)
    return bytes(_ethernet(host) / router / message / Raw(bytes(quoted)[:28]))


def build_icmp6(host, peer, icmp) -> bytes:
    """An ICMPv6 error about a segment of ours, which it quotes whole (RFC 4443 section 2.4)."""
    kind, code = ICMP6_KINDS[icmp.kind]
    them = text_of(peer.address)
    quoted = IPv6(src=OUR_IPV6, dst=them, hlim=60)
    quoted /= TCP(sport=peer.local_port, dport=peer.port, seq=peer.ours(icmp.seq), flags="A")
    quoted /= Raw(peer.our_stream(icmp.seq, icmp.length))
    message = {
        1: ICMPv6DestUnreach(code=code),
        2: ICMPv6PacketTooBig(mtu=icmp.mtu),
        3: ICMPv6TimeExceeded(code=code),
        4: ICMPv6ParamProblem(code=code, ptr=40),
    }[kind]
    router = IPv6(src=them, dst=OUR_IPV6)
    return bytes(_ethernet(host) / router / message / Raw(bytes(quoted)[:1232]))


def neighbour_answer(host, frame: bytes) -> bytes | None:
    """The answer to a question of the stack for a MAC address, or None if it is none."""
    packet = Ether(frame)
    if ICMPv6ND_NS in packet:
        target = packet[ICMPv6ND_NS].tgt
        answer = IPv6(src=target, dst=packet[IPv6].src, hlim=255)
        answer /= ICMPv6ND_NA(tgt=target, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC)
        return bytes(_ethernet(host) / answer)
    if ARP not in packet or packet[ARP].op != 1:
        return None
    asked = packet[ARP]
    return bytes(
        _ethernet(host)
        / ARP(op=2, hwsrc=PEER_MAC, psrc=asked.pdst, hwdst=asked.hwsrc, pdst=asked.psrc)
    )


def read(frame: bytes):
    """The stack's segment: (destination port, SegmentText with numbers of the wire, payload).

    None for what is not TCP. Lengths and checksums must be as scapy computes them.
    """
    packet = Ether(frame)
    if TCP not in packet:
        return None
    copy = packet.copy()
    del copy[TCP].chksum, copy[TCP].dataofs
    if IPv6 in packet:
        hops, traffic_class = packet[IPv6].hlim, packet[IPv6].tc
        del copy[IPv6].plen
        again = Ether(bytes(copy))
        assert again[IPv6].plen == packet[IPv6].plen == len(frame) - 54, "IPv6 length"
    else:
        hops, traffic_class = packet[IP].ttl, packet[IP].tos
        del copy[IP].chksum, copy[IP].len
        again = Ether(bytes(copy))
        assert again[IP].chksum == packet[IP].chksum, "IPv4 checksum"
        assert again[IP].len == packet[IP].len == len(frame) - 14, "IPv4 length"
    assert again[TCP].dataofs == packet[TCP].dataofs, "data offset"
    assert again[TCP].chksum == packet[TCP].chksum, "TCP checksum"
    tcp = packet[TCP]
    payload = bytes(tcp.payload)
    options = []
    for name, value in tcp.options:
        if name == "MSS":
            options.append(("mss", value))
        elif name == "WScale":
            options.append(("wscale", value))
        elif name == "SAckOK":
            options.append(("sackOK",))
        elif name == "Timestamp":
            options.append(("TS", *value))
        elif name == "SAck":
            options.append(("sack", *zip(value[::2], value[1::2], strict=True)))
        elif name in ("NOP", "EOL"):
            options.append((name.lower(),))
        else:
            options.append(("hex", repr((name, value)).encode()))
    flags = int(tcp.flags)
    segment = SegmentText(
        flags,
        tcp.seq,
        len(payload),
        tcp.ack if flags & 16 else None,
        tcp.window,
        tcp.urgptr,
        options,
        hops,
        traffic_class,
    )
    return tcp.dport, segment, payload


def relative(peer: Peer, segment: SegmentText) -> SegmentText:
    """The stack's segment with numbers as scripts write them; learns our ISN from a SYN."""
    if segment.flags & 2:
        peer.our_isn = segment.seq
    options = []
    for name, *values in segment.options:
        if name == "sack":
            values = [tuple((edge - peer.isn) & MASK for edge in block) for block in values]
        elif name == "TS" and peer.ts_base is not None:
            values = [(values[0] - peer.ts_base) & MASK, values[1]]
        options.append((name, *values))
    ack = None if segment.ack is None else (segment.ack - peer.isn) & MASK
    return SegmentText(
        segment.flags, (segment.seq - (peer.our_isn or 0)) & MASK, segment.length, ack,
        segment.window, segment.urgent, options, segment.hops, segment.traffic_class,
    )  # fmt: skip


def differences(expected: SegmentText, got: SegmentText, ticks: int) -> list[str]:
    """What is not as expected, in words. `ticks`: by how much a time stamp may be off."""
    found = []
    for name in ("flags", "seq", "length", "ack", "urgent"):
        if getattr(expected, name) != getattr(got, name):
            found.append(name)
    for name in ("window", "hops", "traffic_class"):
        if getattr(expected, name) not in (None, getattr(got, name)):
            found.append(name)
    if expected.options is None:
        others = [o for o in got.options if o[0] not in ("nop", "TS")]
        if others:
            found.append("options, of which none is expected")
    elif expected.options != ANY and not _same_options(expected.options, got.options, ticks):
        found.append("options")
    return found


def _same_options(expected, got, ticks):
    if len(expected) != len(got):
        return False
    for one, other in zip(expected, got, strict=True):
        if one[0] == other[0] == "TS":
            if one[1] != ANY and abs(one[1] - other[1]) > ticks:
                return False
            if one[2] != ANY and one[2] != other[2]:
                return False
        elif one != other:
            return False
    return True
