"""The neighbour table: MAC addresses of hosts on the link, by ARP (RFC 826) and NDP (RFC 4861).

Bounded, and closed to strangers: an entry is made only by a question of ours, or by a host that
asks for our own address. Addresses are integers, first byte highest.
"""

import numpy as np

from ..compile import part
from ..tcp import counters
from ..tcp.emit import take_segment
from ..tcp.routes import choose_local, matches
from ..tcp.rows import count, segment_room
from ..tcp.tables import ARP_PACKET, NEIGHBOURS, NONE, SECOND
from . import ipv6
from .bytesio import put16, put32, put48, put64
from .frames import STACK_QUEUE, begin_frame

FREE = 0
ASKED = 1
KNOWN = 2

LIFETIME = 600 * SECOND
"""An entry older than this is asked for again before use."""
ASK_EVERY = SECOND
"""RFC 1122 section 2.3.2.1: at most one question a second for an address."""

SOLICITED_HIGH = (0xFF02 - 0x10000) << 48
SOLICITED_LOW = 0x1FF000000
SOLICITED_MAC = 0x3333FF000000
"""ff02::1:ff00:0, and the MAC address of that group."""

REQUEST = 1
REPLY = 2


@part
def own_on_link(s, address):
    """Our address in the network of an IPv4 neighbour."""
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        if row["high"] == 0 and matches(0, address, 0, row["address"], row["bits"]):
            return row["address"]
    return s["control"]["address"]


@part
def send_arp(s, operation, mac, address, own):
    """An ARP packet to `mac` (0: broadcast), the host with `address`, from our address `own`."""
    if segment_room(s, STACK_QUEUE) <= 0:
        return
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = ARP_PACKET
    row["connection"] = NONE
    row["mac"] = mac
    row["address"] = own
    row["remote_address"] = address
    row["flags"] = operation
    count(s, counters.ARP_OUT)


@part
def ask_neighbour(s, high, address):
    """A neighbour solicitation to the group of those with its last 24 bits (RFC 4861)."""
    length = 32
    slot = begin_frame(s, 54 + length)
    if slot < 0:
        return
    p = s["parsed"]
    kept_high = p["local_high"]
    kept = p["local_address"]
    choose_local(s, high, address)
    last = address & 0xFFFFFF
    out = s["frames"][slot]["bytes"]
    put48(out, 0, SOLICITED_MAC | last)
    put48(out, 6, s["control"]["mac"])
    put16(out, 12, 0x86DD)
    ipv6.encode(
        out, 14, length, ipv6.ICMP, 255, 0, p["local_high"], p["local_address"], SOLICITED_HIGH,
        SOLICITED_LOW | last,
    )  # fmt: skip
    p["local_high"] = kept_high
    p["local_address"] = kept
    put16(out, 54, 135 << 8)
    put16(out, 56, 0)
    put32(out, 58, 0)
    put64(out, 62, high)
    put64(out, 70, address)
    put16(out, 78, (1 << 8) | 1)
    put48(out, 80, s["control"]["mac"])
    put16(out, 56, ipv6.message_checksum(out, 14, 54, length, ipv6.ICMP))
    count(s, counters.NDP_OUT)


@part
def find(s, high, address):
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] != FREE and row["address"] == address and row["high"] == high:
            return np.int64(at)
    return np.int64(NONE)


@part
def take(s, high, address, now):
    """A row for `address`: a free one, or the one that was touched longest ago."""
    best = np.int64(0)
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] == FREE:
            best = np.int64(at)
            break
        if max(row["updated"], row["asked"]) < max(
            s["neighbours"][best]["updated"], s["neighbours"][best]["asked"]
        ):
            best = np.int64(at)
    row = s["neighbours"][best]
    row["state"] = ASKED
    row["high"] = high
    row["address"] = address
    row["mac"] = 0
    row["updated"] = now
    row["asked"] = now - ASK_EVERY
    return best


@part
def resolve(s, high, address, now):
    """The MAC address of the neighbour with `address`; -1 where it was asked for instead."""
    at = find(s, high, address)
    if at < 0:
        at = take(s, high, address, now)
    row = s["neighbours"][at]
    known = row["state"] == KNOWN
    if known and now - row["updated"] < LIFETIME:
        return row["mac"]
    if now - row["asked"] >= ASK_EVERY:
        row["asked"] = now
        if high == 0:
            send_arp(s, REQUEST, 0, address, own_on_link(s, address))
        else:
            ask_neighbour(s, high, address)
    if known and now - row["updated"] < 2 * LIFETIME:
        return row["mac"]  # probably still right; the answer renews it
    return np.int64(NONE)


@part
def learn(s, high, address, mac, asks_us, now):
    """A host told its MAC address; True if that was of use."""
    at = find(s, high, address)
    if at < 0:
        if not asks_us:
            return False
        at = take(s, high, address, now)
    row = s["neighbours"][at]
    row["state"] = KNOWN
    row["mac"] = mac
    row["updated"] = now
    return True
