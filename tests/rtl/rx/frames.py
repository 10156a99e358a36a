"""Frames for the receive benches, made with scapy."""

from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_NOP,
    IPOption_Router_Alert,
    in4_chksum,
)
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrRouting,
    PadN,
    in6_chksum,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import checksum
from setting import OWN_IPV4, OWN_IPV6, OWN_MAC, PORT

PEER_MAC = "02:68:64:73:00:01"
MAC_TEXT = OWN_MAC.hex(":")


def payload_of(size, start=1):
    """Bytes that differ from lane to lane and from beat to beat."""
    return bytes((start + n + n // 251) % 256 for n in range(size))


def ethernet(vlan_tags=0, destination=MAC_TEXT):
    """Ethernet header with 0 to 2 tags."""
    frame = Ether(dst=destination, src=PEER_MAC)
    if vlan_tags == 2:
        frame /= Dot1AD(vlan=7)
    if vlan_tags:
        frame /= Dot1Q(vlan=42)
    return frame


def network(version, destination=None, **fields):
    """IP header; `version` is 4, "options" or 6."""
    if version == 6:
        return IPv6(src="fd00:77::1", dst=destination or OWN_IPV6, **fields)
    if version == "options":
        fields["options"] = [IPOption_Router_Alert()] + [IPOption_NOP()] * 4
    return IP(src="10.77.0.1", dst=destination or OWN_IPV4, **fields)


def transport(kind, version, port=PORT, flags="A", options=(), source=40000):
    """TCP, UDP or ICMP header."""
    if kind == "tcp":
        return TCP(sport=source, dport=port, flags=flags, seq=1000, ack=7, options=list(options))
    if kind == "udp":
        return UDP(sport=source, dport=port)
    return ICMPv6EchoRequest() if version == 6 else ICMP()


def pad(frame):
    """The frame's bytes as a MAC sends them: at least 60."""
    return bytes(frame).ljust(60, b"\xa5")


def tcp(size=100, vlan_tags=0, version=4, *, padded=True, ip=None, **more):
    """Bytes of a good TCP frame with `size` bytes of payload."""
    packet = (
        ethernet(vlan_tags) / network(version, **(ip or {})) / transport("tcp", version, **more)
    )
    if size:
        packet /= Raw(payload_of(size))
    return pad(packet) if padded else bytes(packet)


def udp(size=20, vlan_tags=0, version=4, *, ip=None, **more):
    """Bytes of a good UDP frame."""
    packet = (
        ethernet(vlan_tags) / network(version, **(ip or {})) / transport("udp", version, **more)
    )
    return pad(packet / Raw(payload_of(size)) if size else packet)


def extended(headers, l4, size=30, vlan_tags=0, padded=True):
    """Bytes of an IPv6 frame with extension headers; scapy chains them and adds up."""
    packet = ethernet(vlan_tags) / network(6)
    for header in headers:
        packet /= header
    packet /= l4
    if size:
        packet /= Raw(payload_of(size))
    return pad(packet) if padded else bytes(packet)


def options_of(size, kind=IPv6ExtHdrDestOpt):
    """An options header of `size` bytes (a multiple of 8), filled up with PadN."""
    left, options = size - 2, []
    while left:
        take = min(left, 257)
        take -= left - take == 1  # nothing of one byte may be left
        options.append(PadN(optdata=bytes(take - 2)))
        left -= take
    return kind(options=options, autopad=0)


def routing(segments_left=0, size=24):
    """A routing header of type 4 (RFC 8754) with `size` bytes."""
    addresses = ["fd00:77::3"] * ((size - 8) // 16)
    header = IPv6ExtHdrRouting(type=4, segleft=segments_left, addresses=addresses)
    assert len(bytes(header)) == size
    return header


def edit(frame, at, replacement):
    """The frame with bytes replaced from `at` on; checksums stay as they were."""
    return frame[:at] + bytes(replacement) + frame[at + len(replacement) :]


def ip_sum(frame):
    """The frame with the right IPv4 header checksum, and nothing else made right."""
    at = ip_offset(frame)
    blank = edit(frame, at + 10, [0, 0])
    header = blank[at : at + 4 * (blank[at] & 15)]
    return edit(blank, at + 10, checksum(header).to_bytes(2, "big"))


def refresh(frame):
    """The frame with its IPv4 and its TCP or UDP checksum made right, as far as its lengths go."""
    at = ip_offset(frame)
    if frame[at] >> 4 == 4:
        frame = ip_sum(frame)
        ip = IP(frame[at : at + 20])
        start, end, protocol = at + 4 * ip.ihl, at + ip.len, ip.proto
        pseudo, sum_of = IP(src=ip.src, dst=ip.dst), in4_chksum
    else:
        ip = IPv6(frame[at : at + 40])
        start, end, protocol = at + 40, at + 40 + ip.plen, ip.nh
        pseudo, sum_of = IPv6(src=ip.src, dst=ip.dst), in6_chksum
    field = {6: 16, 17: 6}.get(protocol)
    if field is None or not start + field + 2 <= end <= len(frame):
        return frame
    blank = edit(frame, start + field, [0, 0])
    right = sum_of(protocol, pseudo, blank[start:end])
    return edit(blank, start + field, right.to_bytes(2, "big"))


def ip_offset(frame):
    """Where the IP header starts."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return at + 2
