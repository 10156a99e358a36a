"""Frames for the receive benches, made with scapy."""

from ingress_bench import OWN_IPV4, OWN_IPV6, OWN_MAC, PORT
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

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


def transport(kind, version, port=PORT, flags="A", options=()):
    """TCP, UDP or ICMP header."""
    if kind == "tcp":
        return TCP(sport=40000, dport=port, flags=flags, seq=1000, ack=7, options=list(options))
    if kind == "udp":
        return UDP(sport=40000, dport=port)
    return ICMPv6EchoRequest() if version == 6 else ICMP()


def pad(frame):
    """The frame's bytes as a MAC sends them: at least 60."""
    return bytes(frame).ljust(60, b"\xa5")


def tcp(size=100, vlan_tags=0, version=4, *, padded=True, ip=None, **more):
    """Bytes of a good TCP frame with `size` bytes of payload."""
    packet = ethernet(vlan_tags) / network(version, **(ip or {})) / transport("tcp", version, **more)
    if size:
        packet /= Raw(payload_of(size))
    return pad(packet) if padded else bytes(packet)


def udp(size=20, vlan_tags=0, version=4):
    """Bytes of a good UDP frame."""
    packet = ethernet(vlan_tags) / network(version) / transport("udp", version)
    return pad(packet / Raw(payload_of(size)))


def edit(frame, at, replacement):
    """The frame with bytes replaced from `at` on; checksums stay as they were."""
    return frame[:at] + bytes(replacement) + frame[at + len(replacement) :]


def refresh(frame):
    """The frame with its IP and L4 checksums computed anew (of a frame that scapy can read)."""
    packet = Ether(frame)
    layer = packet
    while layer:
        if hasattr(layer, "chksum"):
            del layer.chksum
        layer = layer.payload
    return bytes(packet)
