"""Header bytes of what goes out, written in place (into a descriptor of a transmit ring)."""

from ..compile import entry, part
from ..tcp.tables import ARP_PACKET, HOPS, UDP_DATAGRAM, WHOLE_FRAME
from . import arp, ethernet, ipv4, ipv6, tcp_header, udp_header

__all__ = ["encode_segment"]


@part
def encode_datagram(s, row, memory, at):
    """Headers of a datagram, or of a fragment of it; gives their number of bytes."""
    ipv4_packet = row["remote_high"] == 0
    kind = ethernet.IPV4 if ipv4_packet else ethernet.IPV6
    ethernet.encode(memory, at, row["mac"], s["control"]["mac"], kind)
    fragment = row["fragment"]
    size = udp_header.HEADER_BYTES if fragment <= 0 else 0
    after = at + 34
    if ipv4_packet:
        ipv4.encode(
            memory, at + 14, row["address"], row["remote_address"], ipv4.UDP,
            size + row["payload"], HOPS, 0,
        )  # fmt: skip
        if fragment >= 0:
            ipv4.mark_fragment(memory, at + 14, row["identification"], fragment, row["more"])
    else:
        after = at + 54
        more = ipv6.FRAGMENT_BYTES if fragment >= 0 else 0
        ipv6.encode(
            memory, at + 14, more + size + row["payload"],
            ipv6.UDP if fragment < 0 else ipv6.FRAGMENT, HOPS, 0, row["high"], row["address"],
            row["remote_high"], row["remote_address"],
        )  # fmt: skip
        if fragment >= 0:
            ipv6.encode_fragment(
                memory, after, ipv6.UDP, row["identification"], fragment, row["more"]
            )
            after += more
    if size > 0:
        udp_header.encode(row, memory, after)
    return after + size - at


@entry
def encode_segment(s, queue, index, memory, at):
    """Write the header bytes of segment `index` of `queue` to `memory` from `at`.

    Gives their number: 54 to 114 for TCP, up to 1514 for a whole frame. Ethernet, IP and TCP or
    UDP headers start at bytes 0, 14 and 34 (IPv6: 54). The card inserts the checksums: that of IPv4
    is 0, the TCP or UDP field holds the folded sum of the pseudo-header; that of UDP is there
    already in fragments.
    """
    row = s["segments"][queue, index]
    if row["kind"] == ARP_PACKET:
        return arp.encode_packet(s, row, memory, at)
    if row["kind"] == WHOLE_FRAME:
        frame = s["frames"][row["frame"]]
        length = frame["length"]
        out = frame["bytes"]
        for step in range(length):
            memory[at + step] = out[step]
        return length
    if row["kind"] == UDP_DATAGRAM:
        return encode_datagram(s, row, memory, at)
    if row["remote_high"] != 0:
        size = tcp_header.encode(row, memory, at + 54)
        ethernet.encode(memory, at, row["mac"], s["control"]["mac"], ethernet.IPV6)
        ipv6.encode(
            memory, at + 14, size + row["payload"], ipv6.TCP, row["hops"],
            row["traffic_class"], row["high"], row["address"], row["remote_high"],
            row["remote_address"],
        )  # fmt: skip
        return 54 + size
    size = tcp_header.encode(row, memory, at + 34)
    ethernet.encode(memory, at, row["mac"], s["control"]["mac"], ethernet.IPV4)
    ipv4.encode(
        memory, at + 14, row["address"], row["remote_address"], ipv4.TCP, size + row["payload"],
        row["hops"], row["traffic_class"],
    )  # fmt: skip
    return 34 + size
