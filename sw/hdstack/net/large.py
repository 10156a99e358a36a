"""Answers larger than the link's MTU: cut into fragments (RFC 791 section 3.2, RFC 8200 section
4.5)."""

from ..compile import part
from ..tcp import counters
from ..tcp.rows import count
from ..tcp.tables import FRAME_BYTES, HOPS, SECOND
from . import ipv4, ipv6
from .bytesio import checksum, get8, get32, get48, get64, put16, put48
from .frames import begin_frame, may_answer
from .identification import next_identification


@part
def send_large(s, memory, at, ip, message, length, now):
    """Send the answer of `length` bytes at `message`, its checksum in it, to the source of the
    packet at `ip` of frame `at`: echo of either family."""
    mtu = min(s["control"]["mss"] + 40, FRAME_BYTES - 14)
    ip6 = get8(memory, ip) >> 4 == 6
    headers = ipv6.HEADER_BYTES + ipv6.FRAGMENT_BYTES if ip6 else ipv4.HEADER_BYTES
    most = (mtu - headers) & ~7
    frames = (length + most - 1) // most
    if not may_answer(s, frames, now):
        return
    control = s["control"]
    if ip6:
        number = next_identification(s, get64(memory, ip + 8), get64(memory, ip + 16))
    else:
        number = next_identification(s, 0, get32(memory, ip + 12)) & 0xFFFF
    for step in range(frames):
        offset = step * most
        size = min(most, length - offset)
        more = offset + size < length
        slot = begin_frame(s, 14 + headers + size)
        if slot < 0:  # `may_answer` made sure of room
            return
        control["echo_tokens"] -= SECOND
        out = s["frames"][slot]["bytes"]
        put48(out, 0, get48(memory, at + 6))
        put48(out, 6, control["mac"])
        if ip6:
            put16(out, 12, 0x86DD)
            ipv6.encode(
                out, 14, 8 + size, ipv6.FRAGMENT, HOPS, 0, get64(memory, ip + 24),
                get64(memory, ip + 32), get64(memory, ip + 8), get64(memory, ip + 16),
            )  # fmt: skip
            ipv6.encode_fragment(out, 54, ipv6.ICMP, number, offset, more)
        else:
            put16(out, 12, 0x0800)
            ipv4.encode(
                out, 14, get32(memory, ip + 16), get32(memory, ip + 12), ipv4.ICMP, size, HOPS, 0
            )
            ipv4.mark_fragment(out, 14, number, offset, more)
            put16(out, 24, checksum(out, 14, ipv4.HEADER_BYTES))
        for k in range(size):
            out[14 + headers + k] = memory[message + offset + k]
    count(s, counters.ECHO_REPLIES)
