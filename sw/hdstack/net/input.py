"""A record of a receive ring: its header bytes are looked at here, once, and handed on.

ARP and ICMP echo are answered here; TCP goes to `hdstack.tcp.input`, UDP to `hdstack.udp.input`.
What the card verified (lengths against the frame, IPv4, TCP and UDP checksums) is not verified
again; what would make this code read beyond the record is.
"""

from hdsnic import abi

from ..compile import entry, part
from ..tcp import counters
from ..tcp.input import on_segment
from ..tcp.routes import is_host, is_local
from ..tcp.rows import count, return_payload
from ..tcp.tables import CHAIN_MOST, NONE, REGIONS
from ..tcp.window import on_payload, on_record
from ..udp import input as udp
from . import arp, ethernet, icmp, icmp6, ipv4, ipv6, tcp_header, udp_header
from .bytesio import get8, get16, get32, get48, get64

__all__ = ["on_frame", "take_chain"]

WORD_BYTES = abi.CHAINED_BUFFER.bytes
ELEMENT_AT, REGION_AT, LENGTH_AT = (
    abi.CHAINED_BUFFER.offsets[name] // 8 for name in ("element", "region", "length")
)


@part
def on_tcp(s, memory, ip, header, total, header_end, payload_length, now):
    """TCP of `total` - `header` bytes; the record's header bytes end at `header_end`."""
    there = min(ip + total, header_end) - (ip + header)
    size = tcp_header.parse(s, memory, ip + header, there)
    p = s["parsed"]
    if p["region"] >= 0:
        on_payload(s, p["queue"], payload_length)
    length = total - header - size
    if size == 0 or length < 0 or (p["region"] >= 0 and length != payload_length):
        count(s, counters.BAD_SEGMENT)
        return_payload(s)
        return
    p["length"] = length
    count(s, counters.SEGMENTS_IN)
    on_segment(s, now)


@part
def on_udp(s, memory, ip, header, total, header_end, payload_length):
    """UDP of at most `total` - `header` bytes, as `on_tcp`; False where nobody takes it."""
    there = min(ip + total, header_end) - (ip + header)
    length = udp_header.parse(s, memory, ip + header, there, total - header)
    p = s["parsed"]
    if length < 0 or (p["region"] >= 0 and length != payload_length):
        count(s, counters.BAD_DATAGRAM)
        return_payload(s)
        return True
    p["length"] = length
    return udp.on_datagram(s)


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
    local = get32(memory, ip + 16)
    if not is_local(s, 0, local):
        count(s, counters.NOT_OURS)
        return_payload(s)
        return
    if get16(memory, ip + 6) & 0x3FFF:
        count(s, counters.FRAGMENTS)
        return_payload(s)
        return
    source = get32(memory, ip + 12)
    # no host has these: an answer would go to many, or to ourselves
    if not is_host(0, source) or is_local(s, 0, source):
        count(s, counters.BAD_IP)
        return_payload(s)
        return
    protocol = memory[ip + 9]
    p["local_high"] = 0
    p["local_address"] = local
    p["remote_high"] = 0
    p["remote_address"] = source
    if protocol == ipv4.TCP:
        on_tcp(s, memory, ip, header, total, header_end, payload_length, now)
        return
    if protocol == ipv4.UDP:
        if not on_udp(s, memory, ip, header, total, header_end, payload_length):
            icmp.send_unreachable(s, memory, at, ip, min(total, header_end - ip), icmp.PORT, now)
        return
    return_payload(s)
    whole = ip + total <= header_end
    if protocol == ipv4.ICMP and whole:
        icmp.on_packet(s, memory, at, ip, header, total, now)
        return
    count(s, counters.OTHER_PROTOCOL)
    if whole and protocol != ipv4.ICMP:
        icmp.send_unreachable(s, memory, at, ip, total, icmp.PROTOCOL, now)


@part
def on_ipv6(s, memory, at, ip, header_end, payload_length, now):
    """An IPv6 packet at `ip` of the frame at `at`."""
    p = s["parsed"]
    if header_end - ip < ipv6.HEADER_BYTES or memory[ip] >> 4 != 6:
        count(s, counters.BAD_IP)
        return_payload(s)
        return
    total = ipv6.HEADER_BYTES + get16(memory, ip + 4)
    p["remote_high"] = get64(memory, ip + 8)
    p["remote_address"] = get64(memory, ip + 16)
    p["local_high"] = get64(memory, ip + 24)
    p["local_address"] = get64(memory, ip + 32)
    to_us = is_local(s, p["local_high"], p["local_address"]) and memory[at] & 1 == 0
    if not to_us and p["local_high"] >> 56 & 0xFF != 0xFF:
        count(s, counters.NOT_OURS)
        return_payload(s)
        return
    unspecified = p["remote_high"] == 0 and p["remote_address"] == 0
    no_host = p["remote_high"] == 0 or not is_host(p["remote_high"], p["remote_address"])
    protocol, after = ipv6.find_payload(memory, ip, min(ip + total, header_end))
    # only who looks for an address of its own may have none yet
    if (no_host and not (unspecified and protocol == ipv6.ICMP)) or is_local(
        s, p["remote_high"], p["remote_address"]
    ):
        count(s, counters.BAD_IP)
        return_payload(s)
        return
    if protocol == ipv6.TCP and to_us:
        on_tcp(s, memory, ip, after - ip, total, header_end, payload_length, now)
        return
    if protocol == ipv6.UDP and to_us:
        if not on_udp(s, memory, ip, after - ip, total, header_end, payload_length):
            there = min(total, header_end - ip)
            icmp6.send_error(s, memory, at, ip, there, icmp6.UNREACHABLE, icmp6.PORT, 0, now)
        return
    return_payload(s)
    whole = ip + total <= header_end
    if protocol == ipv6.FRAGMENT:
        count(s, counters.FRAGMENTS)
    elif protocol < 0:
        count(s, counters.BAD_IP)
        if protocol != ipv6.DROPPED and whole and to_us and not unspecified:
            code = icmp6.UNKNOWN_OPTION if protocol == ipv6.BAD_OPTION else icmp6.BAD_FIELD
            kind = icmp6.PARAMETER_PROBLEM
            icmp6.send_error(s, memory, at, ip, total, kind, code, after - ip, now)
    elif protocol == ipv6.ICMP and whole:
        icmp6.on_packet(s, memory, at, ip, after, ip + total - after, to_us, now)
    else:
        count(s, counters.OTHER_PROTOCOL)
        if whole and to_us and not unspecified and after == ip + ipv6.HEADER_BYTES:
            kind, code = icmp6.PARAMETER_PROBLEM, icmp6.NEXT_HEADER
            icmp6.send_error(s, memory, at, ip, total, kind, code, 6, now)


@entry
def take_chain(s, memory, at, buffers):
    """Before `on_frame`: `buffers` more buffers have payload (CHAINED_BUFFER, from index `at`)."""
    p = s["parsed"]
    p["chained"] = min(buffers, CHAIN_MOST)
    for step in range(p["chained"]):
        word = at + WORD_BYTES * step
        element = get8(memory, word + ELEMENT_AT)
        element |= get8(memory, word + ELEMENT_AT + 1) << 8
        element |= get8(memory, word + ELEMENT_AT + 2) << 16
        region = get8(memory, word + REGION_AT)
        row = p["chain"][step]
        row["length"] = get8(memory, word + LENGTH_AT) | get8(memory, word + LENGTH_AT + 1) << 8
        row["region"] = region if region < REGIONS else NONE
        row["offset"] = element * s["regions"][region]["element_bytes"] if region < REGIONS else 0


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
    on_record(s, queue, posted_left)
    p = s["parsed"]
    p["queue"] = queue
    p["region"] = region if payload_length > 0 else -1
    p["offset"] = offset
    skip = ethernet.payload_at(memory, at, header_length)
    if skip < 0:
        count(s, counters.NOT_IP)
        return_payload(s)
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
    if kind == ethernet.IPV6 and memory[at + 6] & 1 == 0:
        on_ipv6(s, memory, at, at + skip, at + header_length, payload_length, now)
        return
    return_payload(s)
    if kind == ethernet.ARP:
        arp.on_packet(s, memory, at + skip, header_length - skip, now)
    else:
        count(s, counters.NOT_IP)
