"""ICMP echo (RFC 792): requests are answered, at a limited rate; all else is counted."""

from ..compile import part
from ..tcp import counters
from ..tcp.emit import take_segment
from ..tcp.rows import count, segment_room
from ..tcp.sequence import refill
from ..tcp.tables import FRAME_BYTES, FRAMES, NONE, SECOND, WHOLE_FRAME
from . import ipv4
from .bytesio import checksum, get48, put16, put48
from .neighbour import STACK_QUEUE

ECHO_REPLY = 0
ECHO_REQUEST = 8
PER_SECOND = 1000
BURST = 100


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
def on_packet(s, memory, at, ip, header, total, source, now):
    """An ICMP message in the frame at `at`: IP header at `ip`, `header` bytes, `total` with it."""
    length = total - header
    message = ip + header
    if length < 8 or checksum(memory, message, length) != 0:
        count(s, counters.BAD_ICMP)
        return
    if memory[message] != ECHO_REQUEST or memory[message + 1] != 0:
        count(s, counters.OTHER_PROTOCOL)
        return
    control = s["control"]
    tokens = refill(control["echo_tokens"], control["echo_filled"], now, PER_SECOND, BURST)
    control["echo_filled"] = now
    control["echo_tokens"] = tokens
    size = 14 + ipv4.HEADER_BYTES + length
    if tokens < SECOND or size > FRAME_BYTES or segment_room(s, STACK_QUEUE) <= 0:
        count(s, counters.ICMP_WITHHELD)
        return
    slot = take_frame(s)
    if slot < 0:
        count(s, counters.ICMP_WITHHELD)
        return
    control["echo_tokens"] = tokens - SECOND
    frame = s["frames"][slot]
    out = frame["bytes"]
    put48(out, 0, get48(memory, at + 6))
    put48(out, 6, control["mac"])
    put16(out, 12, 0x0800)
    ipv4.encode(out, 14, control["address"], source, ipv4.ICMP, length)
    put16(out, 24, checksum(out, 14, ipv4.HEADER_BYTES))
    for step in range(length):
        out[34 + step] = memory[message + step]
    out[34] = ECHO_REPLY
    put16(out, 36, 0)
    put16(out, 36, checksum(out, 34, length))
    frame["length"] = size
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = WHOLE_FRAME
    row["connection"] = NONE
    row["frame"] = slot
    count(s, counters.ECHO_REPLIES)
