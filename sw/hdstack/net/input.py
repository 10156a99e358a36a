"""A record of a receive ring: its header bytes are looked at here, once, and handed on.

ARP and ICMP echo are answered here; TCP goes to `hdstack.tcp.input`, UDP to `hdstack.udp.input`.
What the card verified (lengths against the frame, IPv4, TCP and UDP checksums) is not verified
again; what would make this code read beyond the record is, and what the card could not verify
(fragments, extension headers, long ones). Fragments, and payload that came whole although an
application owns it, are told to the caller (`receive`), by a verdict and the row `whole`.
"""

from hdsnic import abi
from hdsnic.abi import RxOutcome

from ..compile import entry, part
from ..tcp import counters
from ..tcp.emit import SYN
from ..tcp.input import on_segment
from ..tcp.routes import is_host, is_local
from ..tcp.rows import count, return_payload
from ..tcp.tables import CHAIN_MOST, NONE, REGIONS
from ..tcp.window import on_payload, on_record
from ..udp import input as udp
from . import arp, ethernet, icmp, icmp6, ipv4, ipv6, tcp_header, udp_header
from .bytesio import checksum, fold, get8, get16, get32, get48, get64
from .owner import owner_of

__all__ = ["DONE", "FRAGMENT", "MOVE", "on_frame", "take_chain"]

WORD_BYTES = abi.CHAINED_BUFFER.bytes
ELEMENT_AT, REGION_AT, LENGTH_AT = (
    abi.CHAINED_BUFFER.offsets[name] // 8 for name in ("element", "region", "length")
)

DONE = 0
FRAGMENT = 1
"""The frame holds a fragment for us."""
MOVE = 2
"""The frame's payload is to be moved to an application's buffers, by PLACE."""
_NOBODY = 3
"""A datagram that nobody takes: its sender is told."""

_FRAGMENT = int(RxOutcome.FRAGMENT)
_UNCHECKED = tuple(int(r) for r in (RxOutcome.FRAGMENT, RxOutcome.EXTENSION,
                                    RxOutcome.LONG_HEADER, RxOutcome.MALFORMED))  # fmt: skip
"""Reasons for which a frame comes whole before the card has looked at its transport's checksum."""


@part
def sum_is_good(s, memory, at, length, protocol):
    """Whether `length` bytes of TCP or UDP at `at` hold a right checksum (RFC 768, RFC 9293)."""
    p = s["parsed"]
    if protocol == ipv4.UDP and get16(memory, at + 6) == 0:
        return p["remote_high"] == 0  # RFC 8200 section 8.1: IPv6 has no UDP without one
    total = (checksum(memory, at, length) ^ 0xFFFF) + length + protocol
    total += ipv6.half_sum(p["local_address"]) + ipv6.half_sum(p["remote_address"])
    if p["remote_high"] != 0:
        total += ipv6.half_sum(p["local_high"]) + ipv6.half_sum(p["remote_high"])
    return fold(total) == 0xFFFF


@part
def to_be_moved(s, protocol, at, ip, transport, payload, length, now):
    """Whether the packet at `ip` of the frame at `at`, whose `length` bytes of payload at `payload`
    came whole, belongs to an application; `whole` then says to which. `transport`: where the header
    of `protocol` begins."""
    queue = owner_of(s, protocol, now)
    if queue < 0:
        return False
    w = s["whole"]
    w["queue"] = queue
    w["protocol"] = protocol
    w["ip"] = ip - at
    w["transport"] = transport - at
    w["header"] = payload - at
    w["length"] = length
    return True


@part
def fragment(s, at, ip, start, length, identification, protocol, offset, more):
    """Note the fragment at `ip` of the frame at `at`, its `length` bytes of data at `start`."""
    w = s["whole"]
    w["protocol"] = protocol
    w["ip"] = ip - at
    w["start"] = start - at
    w["length"] = length
    w["identification"] = identification
    w["offset"] = offset
    w["more"] = more
    count(s, counters.FRAGMENTS)
    return FRAGMENT


@part
def on_tcp(s, memory, at, ip, header, total, header_end, payload_length, reason, now):
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
        return DONE
    p["length"] = length
    if reason in _UNCHECKED and p["region"] < 0:
        whole = ip + total <= header_end
        if not whole or not sum_is_good(s, memory, ip + header, total - header, ipv4.TCP):
            count(s, counters.BAD_CHECKSUM)
            return DONE
    # a SYN is taken without its data, which comes again
    if length > 0 and p["region"] < 0 and p["flags"] & SYN == 0 and ip + total <= header_end:
        payload = ip + header + size
        if to_be_moved(s, ipv4.TCP, at, ip, ip + header, payload, length, now):
            count(s, counters.WHOLE_PAYLOAD)
            return MOVE
    count(s, counters.SEGMENTS_IN)
    on_segment(s, now)
    return DONE


@part
def on_udp(s, memory, at, ip, header, total, header_end, payload_length, reason, now):
    """UDP of at most `total` - `header` bytes, as `on_tcp`; _NOBODY where nobody takes it."""
    there = min(ip + total, header_end) - (ip + header)
    length = udp_header.parse(s, memory, ip + header, there, total - header)
    p = s["parsed"]
    if length < 0 or (p["region"] >= 0 and length != payload_length):
        count(s, counters.BAD_DATAGRAM)
        return_payload(s)
        return DONE
    p["length"] = length
    whole = ip + total <= header_end
    size = udp_header.HEADER_BYTES + length
    unchecked = reason in _UNCHECKED and p["region"] < 0
    if unchecked and not (whole and sum_is_good(s, memory, ip + header, size, ipv4.UDP)):
        count(s, counters.BAD_CHECKSUM)
        return DONE
    if length > 0 and p["region"] < 0 and whole:
        payload = ip + header + udp_header.HEADER_BYTES
        if to_be_moved(s, ipv4.UDP, at, ip, ip + header, payload, length, now):
            count(s, counters.WHOLE_DATAGRAMS)
            return MOVE
    return DONE if udp.on_datagram(s) else _NOBODY


@part
def on_ipv4(s, memory, at, ip, header_end, payload_length, reason, now):
    """An IPv4 packet at `ip` of the frame at `at`."""
    p = s["parsed"]
    header = ipv4.header_length(memory, ip, header_end - ip)
    if header == 0:
        count(s, counters.BAD_IP)
        return_payload(s)
        return DONE
    total = get16(memory, ip + 2)
    local = get32(memory, ip + 16)
    if not is_local(s, 0, local):
        count(s, counters.NOT_OURS)
        return_payload(s)
        return DONE
    source = get32(memory, ip + 12)
    # no host has these: an answer would go to many, or to ourselves
    if not is_host(0, source) or is_local(s, 0, source):
        count(s, counters.BAD_IP)
        return_payload(s)
        return DONE
    protocol = get8(memory, ip + 9)
    whole = ip + total <= header_end
    p["local_high"] = 0
    p["local_address"] = local
    p["remote_high"] = 0
    p["remote_address"] = source
    place = get16(memory, ip + 6)
    if place & 0x3FFF:
        return_payload(s)
        if not whole:
            count(s, counters.BAD_IP)
            return DONE
        return fragment(
            s, at, ip, ip + header, total - header, get16(memory, ip + 4), protocol,
            8 * (place & 0x1FFF), place >> 13 & 1,
        )  # fmt: skip
    if protocol == ipv4.TCP:
        return on_tcp(s, memory, at, ip, header, total, header_end, payload_length, reason, now)
    if protocol == ipv4.UDP:
        verdict = on_udp(
            s, memory, at, ip, header, total, header_end, payload_length, reason, now
        )  # fmt: skip
        if verdict == _NOBODY:
            there = min(total, header_end - ip)
            icmp.send_error(s, memory, at, ip, there, icmp.UNREACHABLE, icmp.PORT, now)
            return DONE
        return verdict
    return_payload(s)
    if protocol == ipv4.ICMP and whole:
        icmp.on_packet(s, memory, at, ip, header, total, now)
        return DONE
    count(s, counters.OTHER_PROTOCOL)
    if whole and protocol != ipv4.ICMP:
        icmp.send_error(s, memory, at, ip, total, icmp.UNREACHABLE, icmp.PROTOCOL, now)
    return DONE


@part
def on_ipv6(s, memory, at, ip, header_end, payload_length, reason, now):
    """An IPv6 packet at `ip` of the frame at `at`."""
    p = s["parsed"]
    if header_end - ip < ipv6.HEADER_BYTES or memory[ip] >> 4 != 6:
        count(s, counters.BAD_IP)
        return_payload(s)
        return DONE
    total = ipv6.HEADER_BYTES + get16(memory, ip + 4)
    p["remote_high"] = get64(memory, ip + 8)
    p["remote_address"] = get64(memory, ip + 16)
    p["local_high"] = get64(memory, ip + 24)
    p["local_address"] = get64(memory, ip + 32)
    to_us = is_local(s, p["local_high"], p["local_address"]) and memory[at] & 1 == 0
    if not to_us and p["local_high"] >> 56 & 0xFF != 0xFF:
        count(s, counters.NOT_OURS)
        return_payload(s)
        return DONE
    unspecified = p["remote_high"] == 0 and p["remote_address"] == 0
    no_host = p["remote_high"] == 0 or not is_host(p["remote_high"], p["remote_address"])
    end = min(ip + total, header_end)
    protocol, after = ipv6.find_payload(memory, ip, end)
    # only who looks for an address of its own may have none yet
    if (no_host and not (unspecified and protocol == ipv6.ICMP)) or is_local(
        s, p["remote_high"], p["remote_address"]
    ):
        count(s, counters.BAD_IP)
        return_payload(s)
        return DONE
    whole = ip + total <= header_end
    if protocol == ipv6.FRAGMENT and to_us:
        place = get16(memory, after + 2) if after + 8 <= end else NONE
        if place < 0 or (place & 0xFFF9 and not whole):
            count(s, counters.BAD_IP)
            return_payload(s)
            return DONE
        following = get8(memory, after)
        if place & 0xFFF9:
            return_payload(s)
            return fragment(
                s, at, ip, after + 8, ip + total - after - 8, get32(memory, after + 4), following,
                place & 0xFFF8, place & 1,
            )  # fmt: skip
        # RFC 6946: a fragment that is the whole packet has nothing to wait for
        protocol, after = ipv6.pass_over(memory, following, NONE, after + 8, end)
    if protocol == ipv6.TCP and to_us:
        return on_tcp(
            s, memory, at, ip, after - ip, total, header_end, payload_length, reason, now
        )  # fmt: skip
    if protocol == ipv6.UDP and to_us:
        verdict = on_udp(
            s, memory, at, ip, after - ip, total, header_end, payload_length, reason, now
        )  # fmt: skip
        if verdict == _NOBODY:
            there = min(total, header_end - ip)
            icmp6.send_error(s, memory, at, ip, there, icmp6.UNREACHABLE, icmp6.PORT, 0, now)
            return DONE
        return verdict
    return_payload(s)
    if protocol == ipv6.ICMP and whole:
        reassembled = reason == _FRAGMENT
        icmp6.on_packet(
            s, memory, at, ip, after, ip + total - after, to_us, reassembled, now
        )  # fmt: skip
        return DONE
    if protocol < 0:
        count(s, counters.BAD_IP)
        if protocol != ipv6.DROPPED and whole and to_us and not unspecified:
            code = icmp6.UNKNOWN_OPTION if protocol == ipv6.BAD_OPTION else icmp6.BAD_FIELD
            kind = icmp6.PARAMETER_PROBLEM
            icmp6.send_error(s, memory, at, ip, total, kind, code, after - ip, now)
        return DONE
    count(s, counters.OTHER_PROTOCOL)
    if whole and to_us and not unspecified and after == ip + ipv6.HEADER_BYTES:
        kind, code = icmp6.PARAMETER_PROBLEM, icmp6.NEXT_HEADER
        icmp6.send_error(s, memory, at, ip, total, kind, code, 6, now)
    return DONE


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
    `posted_left`, `reason`: as in the record. `now` in ns. Gives DONE, or FRAGMENT or MOVE: then
    nothing has come of the frame yet, and `whole` says what to do with it.
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
        return DONE
    p["mac"] = get48(memory, at + 6)
    kind = get16(memory, at + skip - 2)
    if kind == ethernet.IPV4:
        # a group address is nobody's: an answer to it would multiply
        if memory[at] & 1 or memory[at + 6] & 1:
            count(s, counters.NOT_OURS)
            return_payload(s)
            return DONE
        return on_ipv4(s, memory, at, at + skip, at + header_length, payload_length, reason, now)
    if kind == ethernet.IPV6 and memory[at + 6] & 1 == 0:
        return on_ipv6(s, memory, at, at + skip, at + header_length, payload_length, reason, now)
    return_payload(s)
    if kind == ethernet.ARP:
        arp.on_packet(s, memory, at + skip, header_length - skip, now)
    else:
        count(s, counters.NOT_IP)
    return DONE
