"""Header bytes of what goes out, written in place (into a descriptor of a transmit ring)."""

from ..compile import entry
from ..tcp.tables import ARP_PACKET, WHOLE_FRAME
from . import arp, ethernet, ipv4, ipv6, tcp_header

__all__ = ["encode_segment"]


@entry
def encode_segment(s, queue, index, memory, at):
    """Write the header bytes of segment `index` of `queue` to `memory` from `at`.

    Gives their number: 54 to 114 for TCP, up to 1514 for a whole frame. Ethernet, IP and TCP
    headers start at bytes 0, 14 and 34 (IPv6: 54). Of a TCP_SEGMENT the card inserts the checksums:
    that of IPv4 is 0, the TCP field holds the folded sum of the pseudo-header.
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
