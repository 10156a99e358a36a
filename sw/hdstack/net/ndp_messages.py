"""Neighbour discovery messages (RFC 4861 sections 4.3 and 4.4) as they are sent."""

from ..compile import part
from ..tcp import counters
from ..tcp.rows import count
from . import ipv6
from .bytesio import put16, put32, put48, put64
from .frames import begin_frame

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
SOLICITED_HIGH = (0xFF02 - 0x10000) << 48
SOLICITED_LOW = 0x1FF000000
SOLICITED_MAC = 0x3333FF000000
"""ff02::1:ff00:0, and the MAC address of that group."""


@part
def send_solicitation(s, mac, group, own_high, own, high, address):
    """A neighbour solicitation for `high`, `address` to `mac`, from our address, or from none (0)
    by whom looks for duplicates; `group`: to those with its last 24 bits, not to itself."""
    length = MESSAGE_BYTES + (8 if own_high != 0 else 0)
    slot = begin_frame(s, 54 + length)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put48(out, 0, mac)
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x86DD)
    to_high = SOLICITED_HIGH if group else high
    to = SOLICITED_LOW | (address & 0xFFFFFF) if group else address
    ipv6.encode(out, 14, length, ipv6.ICMP, HOP_LIMIT, 0, own_high, own, to_high, to)
    put16(out, 54, SOLICITATION << 8)
    put16(out, 56, 0)
    put32(out, 58, 0)
    put64(out, 62, high)
    put64(out, 70, address)
    if own_high != 0:
        put16(out, 78, (SOURCE_OPTION << 8) | 1)
        put48(out, 80, s["control"]["mac"])
    put16(out, 56, ipv6.message_checksum(out, 14, 54, length, ipv6.ICMP))
    count(s, counters.NDP_OUT)


@part
def advertise(s, mac, remote_high, remote_address, high, address, solicited):
    """Tell who has `high`, `address`: we do."""
    length = MESSAGE_BYTES + 8
    slot = begin_frame(s, 54 + length)
    if slot < 0:
        return
    out = s["frames"][slot]["bytes"]
    put48(out, 0, mac)
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x86DD)
    ipv6.encode(
        out, 14, length, ipv6.ICMP, HOP_LIMIT, 0, high, address, remote_high, remote_address
    )
    put16(out, 54, ADVERTISEMENT << 8)
    put16(out, 56, 0)
    put32(out, 58, OVERRIDE | (SOLICITED if solicited else 0))
    for step in range(16):
        out[62 + step] = out[22 + step]
    put16(out, 78, (TARGET_OPTION << 8) | 1)
    put48(out, 80, s["control"]["mac"])
    put16(out, 56, ipv6.message_checksum(out, 14, 54, length, ipv6.ICMP))
    count(s, counters.NDP_OUT)
