"""ICMP (RFC 792): echo is answered, errors about our segments go to TCP, what nobody here takes is
answered by "unreachable" (RFC 1122 section 3.2.2.1). Whatever is sent is limited in rate."""

from ..compile import part
from ..tcp import counters, path
from ..tcp.emit import take_segment
from ..tcp.rows import count, segment_room
from ..tcp.sequence import refill
from ..tcp.tables import FRAME_BYTES, FRAMES, NONE, SECOND, WHOLE_FRAME
from . import ipv4
from .bytesio import checksum, get16, get32, get48, put16, put48
from .neighbour import STACK_QUEUE

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12
PROTOCOL = 2
PORT = 3
TOO_BIG = 4
PER_SECOND = 1000
BURST = 100
QUOTED_MAX = 548
"""With its headers an error has at most 576 bytes (RFC 1812 section 4.3.2.3)."""


@part
def take_frame(s):
    """A free row of `frames`, or -1."""
    control = s["control"]
    at = control["frame_next"] % FRAMES
    if s["frames"][at]["length"] != 0:
        return NONE
    control["frame_next"] += 1
    return at


@part
def begin_answer(s, memory, at, size, now):
    """A row of `frames` for `size` bytes back to where the frame at `at` came from, its Ethernet
    header written; or -1, counted."""
    control = s["control"]
    tokens = refill(control["echo_tokens"], control["echo_filled"], now, PER_SECOND, BURST)
    control["echo_filled"] = now
    control["echo_tokens"] = tokens
    if tokens < SECOND or size > FRAME_BYTES or segment_room(s, STACK_QUEUE) <= 0:
        count(s, counters.ICMP_WITHHELD)
        return NONE
    slot = take_frame(s)
    if slot < 0:
        count(s, counters.ICMP_WITHHELD)
        return NONE
    control["echo_tokens"] = tokens - SECOND
    frame = s["frames"][slot]
    out = frame["bytes"]
    put48(out, 0, get48(memory, at + 6))
    put48(out, 6, control["mac"])
    put16(out, 12, 0x0800)
    frame["length"] = size
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = WHOLE_FRAME
    row["connection"] = NONE
    row["frame"] = slot
    return slot


@part
def end_answer(s, slot, destination, length):
    """The IPv4 header and the checksum of an ICMP message of `length` bytes at byte 34."""
    out = s["frames"][slot]["bytes"]
    ipv4.encode(out, 14, s["control"]["address"], destination, ipv4.ICMP, length)
    put16(out, 24, checksum(out, 14, ipv4.HEADER_BYTES))
    put16(out, 36, 0)
    put16(out, 36, checksum(out, 34, length))


@part
def on_echo(s, memory, at, message, length, source, now):
    """Answer an echo request of `length` bytes."""
    slot = begin_answer(s, memory, at, 14 + ipv4.HEADER_BYTES + length, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    for step in range(length):
        out[34 + step] = memory[message + step]
    out[34] = ECHO_REPLY
    end_answer(s, slot, source, length)
    count(s, counters.ECHO_REPLIES)


@part
def send_unreachable(s, memory, at, ip, header, total, source, code, now):
    """The packet at `ip` found nobody: say so, quoting it."""
    quoted = min(total, QUOTED_MAX)
    slot = begin_answer(s, memory, at, 14 + ipv4.HEADER_BYTES + 8 + quoted, now)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put16(out, 34, (UNREACHABLE << 8) | code)
    put16(out, 38, 0)
    put16(out, 40, 0)
    for step in range(quoted):
        out[42 + step] = memory[ip + step]
    end_answer(s, slot, source, 8 + quoted)
    count(s, counters.UNREACHABLES_OUT)


@part
def on_error(s, memory, message, length, now):
    """An error that quotes a packet: TCP is told if it is a segment of ours in flight."""
    kind = memory[message]
    code = memory[message + 1]
    quoted = message + 8
    header = ipv4.header_length(memory, quoted, length - 8)
    if header == 0 or length < 8 + header + 8:
        count(s, counters.BAD_ICMP)
        return
    size = get16(memory, quoted + 2)
    ours = get32(memory, quoted + 12) == s["control"]["address"]
    if not ours or memory[quoted + 9] != ipv4.TCP or get16(memory, quoted + 6) & 0x1FFF:
        count(s, counters.ERRORS_IGNORED)
        return
    tcp = quoted + header
    index = path.quoted_connection(
        s, get32(memory, quoted + 16), get16(memory, tcp + 2), get16(memory, tcp),
        get32(memory, tcp + 4),
    )  # fmt: skip
    if index < 0:
        count(s, counters.ERRORS_IGNORED)
    elif kind == UNREACHABLE and code == TOO_BIG:
        path.on_too_big(s, index, get16(memory, message + 6), size, now)
    elif kind == UNREACHABLE:
        path.on_unreachable(s, index, code in (PROTOCOL, PORT), code == PORT)
    else:
        path.on_unreachable(s, index, False, False)


@part
def on_packet(s, memory, at, ip, header, total, source, now):
    """An ICMP message in the frame at `at`: IP header at `ip`, `header` bytes, `total` with it."""
    length = total - header
    message = ip + header
    if length < 8 or checksum(memory, message, length) != 0:
        count(s, counters.BAD_ICMP)
        return
    kind = memory[message]
    if kind == ECHO_REQUEST and memory[message + 1] == 0:
        on_echo(s, memory, at, message, length, source, now)
    elif kind in (UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM):
        on_error(s, memory, message, length, now)
    else:
        count(s, counters.OTHER_PROTOCOL)
