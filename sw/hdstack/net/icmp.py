"""ICMP (RFC 792): echo is answered, errors go to TCP and UDP, what nobody here takes is answered by
"unreachable" (RFC 1122 section 3.2.2.1). Whatever is sent is limited in rate."""

from ..compile import part
from ..tcp import counters, path
from ..tcp.rows import count
from ..tcp.tables import FRAME_BYTES, HOPS
from ..udp import input as udp
from . import ipv4, tcp_header
from .bytesio import checksum, get16, get32, get48, put8, put16, put48
from .frames import begin_answer
from .large import send_large

ECHO_REPLY = 0
UNREACHABLE = 3
SOURCE_QUENCH = 4
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
REASSEMBLY = 1
PROTOCOL = 2
PORT = 3
TOO_BIG = 4
QUOTED_MAX = 548
"""With its headers an error has at most 576 bytes (RFC 1812 section 4.3.2.3)."""


@part
def end_answer(s, slot, memory, at, ip, length):
    """Headers and checksum of an answer of `length` bytes to the packet at `ip` of frame `at`."""
    out = s["frames"][slot]["bytes"]
    put48(out, 0, get48(memory, at + 6))
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x0800)
    ipv4.encode(out, 14, get32(memory, ip + 16), get32(memory, ip + 12), ipv4.ICMP, length, HOPS, 0)
    put16(out, 24, checksum(out, 14, ipv4.HEADER_BYTES))
    put16(out, 36, 0)
    put16(out, 36, checksum(out, 34, length))


@part
def on_echo(s, memory, at, ip, message, length, now):
    """Answer an echo request of `length` bytes; one larger than a frame is made into its answer in
    place."""
    if 34 + length > FRAME_BYTES or 20 + length > s["control"]["mss"] + 40:
        put8(memory, message, ECHO_REPLY)
        put16(memory, message + 2, 0)
        put16(memory, message + 2, checksum(memory, message, length))
        send_large(s, memory, at, ip, message, length, now)
        return
    slot = begin_answer(s, 34 + length, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    for step in range(length):
        out[34 + step] = memory[message + step]
    out[34] = ECHO_REPLY
    end_answer(s, slot, memory, at, ip, length)
    count(s, counters.ECHO_REPLIES)


@part
def is_query(kind):
    """Not a message about another one, which no error may answer (RFC 1122 section 3.2.2)."""
    return kind not in (UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM)


@part
def send_error(s, memory, at, ip, total, kind, code, now):
    """The packet of `total` bytes at `ip` came to nothing: say so, quoting it."""
    quoted = min(total, QUOTED_MAX)
    slot = begin_answer(s, 42 + quoted, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put16(out, 34, (kind << 8) | code)
    put16(out, 38, 0)
    put16(out, 40, 0)
    for step in range(quoted):
        out[42 + step] = memory[ip + step]
    end_answer(s, slot, memory, at, ip, 8 + quoted)
    count(s, counters.UNREACHABLES_OUT)


@part
def on_error(s, memory, message, length, now):
    """An error that quotes a packet: TCP is told if it is a segment of ours in flight, UDP if it
    may be a datagram of ours."""
    kind = memory[message]
    code = memory[message + 1]
    quoted = message + 8
    header = ipv4.header_length(memory, quoted, length - 8)
    if header == 0 or length < 8 + header + 8:
        count(s, counters.BAD_ICMP)
        return
    size = get16(memory, quoted + 2)
    protocol = memory[quoted + 9]
    known = protocol == ipv4.TCP or protocol == ipv4.UDP
    if not known or get16(memory, quoted + 6) & 0x1FFF:
        count(s, counters.ERRORS_IGNORED)
        return
    p = s["parsed"]
    p["local_high"] = 0
    p["local_address"] = get32(memory, quoted + 12)
    p["remote_high"] = 0
    p["remote_address"] = get32(memory, quoted + 16)
    tcp_header.quote(p, memory, quoted + header)
    if protocol == ipv4.UDP:
        too_big = kind == UNREACHABLE and code == TOO_BIG
        refused = kind == UNREACHABLE and code in (PROTOCOL, PORT)
        udp.on_error(s, too_big, get16(memory, message + 6), size, refused, now)
        return
    index = path.quoted_connection(s, p["seq"])
    if index < 0:
        count(s, counters.ERRORS_IGNORED)
    elif kind == UNREACHABLE and code == TOO_BIG:
        path.on_too_big(s, index, get16(memory, message + 6), size, now)
    elif kind == UNREACHABLE:
        path.on_unreachable(s, index, code in (PROTOCOL, PORT), code == PORT)
    else:
        path.on_unreachable(s, index, False, False)


@part
def on_packet(s, memory, at, ip, header, total, now):
    """An ICMP message in the frame at `at`: IP header at `ip`, `header` bytes, `total` with it."""
    length = total - header
    message = ip + header
    if length < 8 or checksum(memory, message, length) != 0:
        count(s, counters.BAD_ICMP)
        return
    kind = memory[message]
    if kind == ECHO_REQUEST and memory[message + 1] == 0:
        on_echo(s, memory, at, ip, message, length, now)
    elif kind in (UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM):
        on_error(s, memory, message, length, now)
    else:
        count(s, counters.OTHER_PROTOCOL)
