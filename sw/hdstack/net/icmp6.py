"""ICMPv6 (RFC 4443): echo is answered, errors go to TCP and UDP, neighbour discovery to
`ndp`. Shares the rate limit of ICMP."""

from ..compile import part
from ..tcp import counters, path
from ..tcp.rows import count
from ..tcp.tables import FRAME_BYTES, HOPS
from ..udp import input as udp
from . import ipv6, ndp, ndp_messages, tcp_header
from .bytesio import get8, get16, get32, get48, get64, put8, put16, put32, put48
from .frames import begin_answer
from .large import send_large

UNREACHABLE = 1
TOO_BIG = 2
TIME_EXCEEDED = 3
PARAMETER_PROBLEM = 4
ECHO_REQUEST = 128
ECHO_REPLY = 129
PORT = 4
REASSEMBLY = 1
BAD_FIELD = 0
NEXT_HEADER = 1
UNKNOWN_OPTION = 2
CHAIN = 3
QUOTED_MAX = 1280 - 40 - 8
"""An error must fit into the least MTU (RFC 4443 section 2.4)."""


@part
def end_answer(s, slot, memory, at, ip, length):
    """Headers and checksum of an answer of `length` bytes to the packet at `ip` of frame `at`."""
    out = s["frames"][slot]["bytes"]
    put48(out, 0, get48(memory, at + 6))
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x86DD)
    ipv6.encode(
        out, 14, length, ipv6.ICMP, HOPS, 0, get64(memory, ip + 24), get64(memory, ip + 32),
        get64(memory, ip + 8), get64(memory, ip + 16),
    )  # fmt: skip
    put16(out, 56, 0)
    put16(out, 56, ipv6.message_checksum(out, 14, 54, length, ipv6.ICMP))


@part
def on_echo(s, memory, at, ip, message, length, now):
    """Answer an echo request of `length` bytes; one larger than a frame is made into its answer in
    place."""
    if 54 + length > FRAME_BYTES or 40 + length > s["control"]["mss"] + 40:
        put8(memory, message, ECHO_REPLY)
        put16(memory, message + 2, 0)
        put16(
            memory, message + 2, ipv6.message_checksum(memory, ip, message, length, ipv6.ICMP)
        )  # the pseudo-header's sum is the same with its addresses exchanged
        send_large(s, memory, at, ip, message, length, now)
        return
    slot = begin_answer(s, 54 + length, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    for step in range(length):
        out[54 + step] = memory[message + step]
    put16(out, 54, ECHO_REPLY << 8)
    end_answer(s, slot, memory, at, ip, length)
    count(s, counters.ECHO_REPLIES)


@part
def is_query(kind):
    """Not an error, which no error may answer (RFC 4443 section 2.4)."""
    return kind & 128 != 0


@part
def send_error(s, memory, at, ip, total, kind, code, pointer, now):
    """The packet of `total` bytes at `ip` found nobody: say so, quoting it."""
    quoted = min(total, QUOTED_MAX)
    slot = begin_answer(s, 62 + quoted, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put16(out, 54, (kind << 8) | code)
    put32(out, 58, pointer)
    for step in range(quoted):
        out[62 + step] = memory[ip + step]
    end_answer(s, slot, memory, at, ip, 8 + quoted)
    count(s, counters.UNREACHABLES_OUT)


@part
def on_error(s, memory, message, length, now):
    """An error that quotes a packet: TCP is told if it is a segment of ours in flight, UDP if it
    may be a datagram of ours."""
    kind = get8(memory, message)
    code = get8(memory, message + 1)
    quoted = message + 8
    if length < 8 + ipv6.HEADER_BYTES + 8 or get8(memory, quoted) >> 4 != 6:
        count(s, counters.BAD_ICMP)
        return
    protocol, tcp = ipv6.find_payload(memory, quoted, message + length - 8)
    if protocol != ipv6.TCP and protocol != ipv6.UDP:
        count(s, counters.ERRORS_IGNORED)
        return
    p = s["parsed"]
    p["local_high"] = get64(memory, quoted + 8)
    p["local_address"] = get64(memory, quoted + 16)
    p["remote_high"] = get64(memory, quoted + 24)
    p["remote_address"] = get64(memory, quoted + 32)
    tcp_header.quote(p, memory, tcp)
    if protocol == ipv6.UDP:
        size = ipv6.HEADER_BYTES + get16(memory, quoted + 4)
        refused = kind == UNREACHABLE and code == PORT
        udp.on_error(s, kind == TOO_BIG, get32(memory, message + 4), size, refused, now)
        return
    index = path.quoted_connection(s, p["seq"])
    if index < 0:
        count(s, counters.ERRORS_IGNORED)
    elif kind == TOO_BIG:
        size = ipv6.HEADER_BYTES + get16(memory, quoted + 4)
        path.on_too_big(s, index, get32(memory, message + 4), size, now)
    elif kind == UNREACHABLE:
        path.on_unreachable(s, index, code == PORT, code == PORT)
    else:
        hard = kind == PARAMETER_PROBLEM and code == NEXT_HEADER
        path.on_unreachable(s, index, hard, False)


@part
def on_packet(s, memory, at, ip, message, length, to_us, reassembled, now):
    """An ICMPv6 message of `length` bytes; `to_us`: not to a group; `reassembled`: of fragments."""
    if length < 8 or ipv6.message_checksum(memory, ip, message, length, ipv6.ICMP) != 0:
        count(s, counters.BAD_ICMP)
        return
    kind = get8(memory, message)
    if kind in (ndp_messages.SOLICITATION, ndp_messages.ADVERTISEMENT):
        # RFC 6980: neighbour discovery is never fragmented
        if message == ip + ipv6.HEADER_BYTES and not reassembled:
            ndp.on_message(s, memory, at, message, length, now)
        else:
            count(s, counters.BAD_NDP)
    elif not to_us:
        count(s, counters.OTHER_PROTOCOL)
    elif kind == ECHO_REQUEST and get8(memory, message + 1) == 0:
        on_echo(s, memory, at, ip, message, length, now)
    elif kind in (UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM):
        on_error(s, memory, message, length, now)
    else:
        count(s, counters.OTHER_PROTOCOL)
