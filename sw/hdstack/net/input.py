"""A record of a receive ring: its header bytes are looked at here, once, and handed on.

ARP and ICMP echo are answered here; TCP goes to `hdstack.tcp.input`. What the card verified
(lengths against the frame, IPv4, TCP and UDP checksums) is not verified again; what would make
this code read beyond the record is.
"""

from ..compile import entry, part
from ..tcp import counters
from ..tcp.input import on_segment, return_payload
from ..tcp.rows import count, return_buffer
from ..tcp.window import on_record
from . import arp, ethernet, icmp, ipv4, tcp_header
from .bytesio import get16, get32, get48

__all__ = ["on_frame"]

HEADER_ONLY_REASONS = 2
"""Reasons below this (SPLIT, HEADER_ONLY): the header ends where the record's header ends."""


@part
def on_tcp(s, memory, ip, header, total, header_end, payload_length, now):
    """TCP of `total` - `header` bytes; the record's header bytes end at `header_end`."""
    there = min(ip + total, header_end) - (ip + header)
    size = tcp_header.parse(s, memory, ip + header, there)
    p = s["parsed"]
    length = total - header - size
    if size == 0 or length < 0 or (p["region"] >= 0 and length != payload_length):
        count(s, counters.BAD_SEGMENT)
        return_payload(s)
        return
    p["length"] = length
    count(s, counters.SEGMENTS_IN)
    on_segment(s, now)


@part
def on_ipv4(s, memory, at, ip, header_end, payload_length, now):
    """An IPv4 packet at `ip` of the frame at `at`."""
    p = s["parsed"]
    header = ipv4.header_length(memory, ip, header_end - ip)
    if header == 0:
        count(s, counters.BAD_IP)
        return_payload(s)
        return
    total = get16(memory, ip + 2)
    if get32(memory, ip + 16) != s["control"]["address"]:
        count(s, counters.NOT_OURS)
        return_payload(s)
        return
    if get16(memory, ip + 6) & 0x3FFF:
        count(s, counters.FRAGMENTS)
        return_payload(s)
        return
    source = get32(memory, ip + 12)
    # no host has these: an answer would go to many, or to ourselves
    if source == 0 or source >> 28 >= 14 or source == s["control"]["address"]:
        count(s, counters.BAD_IP)
        return_payload(s)
        return
    protocol = memory[ip + 9]
    if protocol == ipv4.TCP:
        p["remote_address"] = source
        on_tcp(s, memory, ip, header, total, header_end, payload_length, now)
        return
    return_payload(s)
    whole = ip + total <= header_end
    if protocol == ipv4.ICMP and whole:
        icmp.on_packet(s, memory, at, ip, header, total, source, now)
        return
    count(s, counters.OTHER_PROTOCOL)
    if whole and protocol != ipv4.ICMP:
        code = icmp.PORT if protocol == ipv4.UDP else icmp.PROTOCOL
        icmp.send_unreachable(s, memory, at, ip, header, total, source, code, now)


@entry
def on_frame(
    s, queue, memory, at, header_length, payload_length, region, offset, posted_left, reason, now
):
    """Handle one record of `queue`; `hdstack.tcp.core.ready` said that there is room.

    `memory` holds the record's `header_length` header bytes from index `at`. `region`, `offset`
    (bytes): where the card put `payload_length` bytes of payload; region -1 where it put none.
    `posted_left`, `reason`: as in the record. `now` in ns.
    """
    s["control"]["now"] = now
    on_record(s, queue, posted_left, payload_length if region >= 0 else 0)
    p = s["parsed"]
    p["queue"] = queue
    p["region"] = region if payload_length > 0 else -1
    p["offset"] = offset
    skip = ethernet.payload_at(memory, at, header_length)
    if skip < 0:
        count(s, counters.NOT_IP)
        return_buffer(s, p["region"], offset)
        return
    p["mac"] = get48(memory, at + 6)
    kind = get16(memory, at + skip - 2)
    if kind == ethernet.IPV4:
        # a group address is nobody's: an answer to it would multiply
        if memory[at] & 1 or memory[at + 6] & 1:
            count(s, counters.NOT_OURS)
            return_payload(s)
            return
        on_ipv4(s, memory, at, at + skip, at + header_length, payload_length, now)
        return
    return_payload(s)
    if kind == ethernet.ARP:
        arp.on_packet(s, memory, at + skip, header_length - skip, now)
    else:
        count(s, counters.NOT_IP)
