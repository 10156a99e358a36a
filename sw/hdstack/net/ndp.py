"""Neighbour discovery (RFC 4861): questions for our addresses are answered, answers are learnt.

Only from the link itself (hop limit 255), and only about whom we asked or who asks for us. What a
router advertises is not taken: addresses and routes are configuration.
"""

from ..compile import part
from ..tcp import counters
from ..tcp.routes import is_host, is_local
from ..tcp.rows import count
from .bytesio import get8, get48, get64, put16, put32, put48
from .frames import begin_frame
from .ipv6 import HEADER_BYTES, ICMP, encode, message_checksum
from .neighbour import learn
from .waiting import neighbour_known

SOLICITATION = 135
ADVERTISEMENT = 136
SOURCE_OPTION = 1
TARGET_OPTION = 2
HOP_LIMIT = 255
MESSAGE_BYTES = 24
SOLICITED = 0x40000000
OVERRIDE = 0x20000000
ALL_NODES_HIGH = (0xFF02 - 0x10000) << 48
ALL_NODES_MAC = 0x333300000001


@part
def find_option(memory, at, end, wanted):
    """The MAC address in a link-layer address option, 0 where there is none; -1: malformed."""
    mac = 0
    while at + 8 <= end:
        size = 8 * get8(memory, at + 1)
        if size == 0 or at + size > end:
            return -1
        if get8(memory, at) == wanted and size == 8:
            mac = get48(memory, at + 2)
        at += size
    return mac


@part
def advertise(s, mac, remote_high, remote_address, high, address, solicited):
    """Tell who has `high`, `address`: we do."""
    length = MESSAGE_BYTES + 8
    slot = begin_frame(s, 14 + HEADER_BYTES + length)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put48(out, 0, mac)
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x86DD)
    encode(out, 14, length, ICMP, HOP_LIMIT, high, address, remote_high, remote_address)
    put16(out, 54, ADVERTISEMENT << 8)
    put16(out, 56, 0)
    put32(out, 58, OVERRIDE | (SOLICITED if solicited else 0))
    for step in range(16):
        out[62 + step] = out[22 + step]
    put16(out, 78, (TARGET_OPTION << 8) | 1)
    put48(out, 80, s["control"]["mac"])
    put16(out, 56, message_checksum(out, 14, 54, length, ICMP))
    count(s, counters.NDP_OUT)


@part
def on_solicitation(s, memory, at, message, end, now):
    """Somebody asks for an address; `at`: its frame."""
    high = get64(memory, message + 8)
    address = get64(memory, message + 16)
    if not is_local(s, high, address):
        return
    source_high = get64(memory, message - HEADER_BYTES + 8)
    source = get64(memory, message - HEADER_BYTES + 16)
    mac = find_option(memory, message + MESSAGE_BYTES, end, SOURCE_OPTION)
    if mac < 0 or mac >> 40 & 1:
        count(s, counters.BAD_NDP)
        return
    count(s, counters.NDP_IN)
    if source_high == 0:  # unspecified: it wants to have the address itself (RFC 4862)
        advertise(s, ALL_NODES_MAC, ALL_NODES_HIGH, 1, high, address, False)
        return
    if mac != 0 and learn(s, source_high, source, mac, True, now):
        neighbour_known(s, source_high, source, mac, now)
    advertise(
        s, mac if mac != 0 else get48(memory, at + 6), source_high, source, high, address, True
    )


@part
def on_advertisement(s, memory, message, end, now):
    """Somebody tells that it has an address."""
    high = get64(memory, message + 8)
    address = get64(memory, message + 16)
    mac = find_option(memory, message + MESSAGE_BYTES, end, TARGET_OPTION)
    if mac <= 0 or mac >> 40 & 1 or not is_host(high, address) or is_local(s, high, address):
        count(s, counters.BAD_NDP)
        return
    count(s, counters.NDP_IN)
    if learn(s, high, address, mac, False, now):
        neighbour_known(s, high, address, mac, now)
    else:
        count(s, counters.BAD_NDP)


@part
def on_message(s, memory, at, message, length, now):
    """A neighbour solicitation or advertisement of `length` bytes right behind its IPv6 header."""
    fresh = get8(memory, message - HEADER_BYTES + 7) == HOP_LIMIT and get8(memory, message + 1) == 0
    if not fresh or length < MESSAGE_BYTES:
        count(s, counters.BAD_NDP)
    elif get8(memory, message) == SOLICITATION:
        on_solicitation(s, memory, at, message, message + length, now)
    else:
        on_advertisement(s, memory, message, message + length, now)
