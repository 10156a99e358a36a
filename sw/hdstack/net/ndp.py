"""Neighbour discovery (RFC 4861): questions for our addresses are answered, answers are learnt.

Only from the link itself (hop limit 255), and only about whom we asked or who asks for us. What a
router advertises is not taken: addresses and routes are configuration.
"""

from ..compile import part
from ..tcp import counters
from ..tcp.routes import find_local, is_host, is_local
from ..tcp.rows import count
from .bytesio import get8, get32, get48, get64
from .duplicates import conflict
from .ipv6 import HEADER_BYTES
from .ndp_messages import (
    ALL_NODES_HIGH,
    ALL_NODES_MAC,
    HOP_LIMIT,
    MESSAGE_BYTES,
    OVERRIDE,
    SOLICITATION,
    SOLICITED,
    SOURCE_OPTION,
    TARGET_OPTION,
    advertise,
)
from .neighbour import ANSWERS, ASKS, TELLS, doubt, learn, mac_of
from .waiting import neighbour_known


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
def on_solicitation(s, memory, at, message, end, now):
    """Somebody asks for an address; `at`: its frame."""
    high = get64(memory, message + 8)
    address = get64(memory, message + 16)
    if not is_local(s, high, address):
        own = find_local(s, high, address)
        if own >= 0 and get64(memory, message - HEADER_BYTES + 8) == 0:
            # RFC 4862 section 5.4.3: another host looks at the same time whether it is free
            conflict(s, own, get48(memory, at + 6), False, now)
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
    if mac != 0 and learn(s, source_high, source, mac, ASKS, now):
        neighbour_known(s, source_high, source, mac, now)
    advertise(
        s, mac if mac != 0 else get48(memory, at + 6), source_high, source, high, address, True
    )


@part
def on_advertisement(s, memory, at, message, end, now):
    """Somebody tells that it has an address (RFC 4861 section 7.2.5); `at`: its frame."""
    high = get64(memory, message + 8)
    address = get64(memory, message + 16)
    flags = get32(memory, message + 4)
    mac = find_option(memory, message + MESSAGE_BYTES, end, TARGET_OPTION)
    own = find_local(s, high, address)
    if own >= 0:
        conflict(s, own, get48(memory, at + 6), True, now)
    before = mac_of(s, high, address)
    if mac == 0 and flags & SOLICITED:
        mac = before  # an answer to a question by unicast may leave it out
    if mac <= 0 or mac >> 40 & 1 or not is_host(high, address) or own >= 0:
        count(s, counters.BAD_NDP)
        return
    count(s, counters.NDP_IN)
    if before != 0 and before != mac and flags & OVERRIDE == 0:
        doubt(s, high, address, now)
    elif learn(s, high, address, mac, ANSWERS if flags & SOLICITED else TELLS, now):
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
        on_advertisement(s, memory, at, message, message + length, now)
