"""The neighbour table: MAC addresses of hosts on the link, by ARP (RFC 826).

Bounded, and closed to strangers: an entry is made only by a question of ours, or by a host that
asks for our own address. Addresses are integers, first byte highest.
"""

import numpy as np

from ..compile import part
from ..tcp import counters
from ..tcp.emit import take_segment
from ..tcp.rows import count, segment_room
from ..tcp.tables import ARP_PACKET, NEIGHBOURS, NONE, SECOND

FREE = 0
ASKED = 1
KNOWN = 2

LIFETIME = 600 * SECOND
"""An entry older than this is asked for again before use."""
ASK_EVERY = SECOND
"""RFC 1122 section 2.3.2.1: at most one question a second for an address."""

REQUEST = 1
REPLY = 2
STACK_QUEUE = 0
"""Queue whose transmit ring carries what belongs to no application."""


@part
def send_arp(s, operation, mac, address):
    """An ARP packet to `mac` (0: broadcast) about the host with `address`."""
    if segment_room(s, STACK_QUEUE) <= 0:
        return
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = ARP_PACKET
    row["connection"] = NONE
    row["mac"] = mac
    row["remote_address"] = address
    row["flags"] = operation
    count(s, counters.ARP_OUT)


@part
def find(s, address):
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] != FREE and row["address"] == address:
            return np.int64(at)
    return np.int64(NONE)


@part
def take(s, address, now):
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
    row["address"] = address
    row["mac"] = 0
    row["updated"] = now
    row["asked"] = now - ASK_EVERY
    return best


@part
def resolve(s, address, now):
    """The MAC address of the neighbour with `address`; -1 where it was asked for instead."""
    at = find(s, address)
    if at < 0:
        at = take(s, address, now)
    row = s["neighbours"][at]
    known = row["state"] == KNOWN
    if known and now - row["updated"] < LIFETIME:
        return row["mac"]
    if now - row["asked"] >= ASK_EVERY:
        row["asked"] = now
        send_arp(s, REQUEST, 0, address)
    if known and now - row["updated"] < 2 * LIFETIME:
        return row["mac"]  # probably still right; the answer renews it
    return np.int64(NONE)


@part
def learn(s, address, mac, asks_us, now):
    """A host told its MAC address; True if that was of use."""
    at = find(s, address)
    if at < 0:
        if not asks_us:
            return False
        at = take(s, address, now)
    row = s["neighbours"][at]
    row["state"] = KNOWN
    row["mac"] = mac
    row["updated"] = now
    return True
