"""Ethernet II header, with up to two VLAN tags on the way in."""

import numpy as np

from ..compile import part
from .bytesio import get16, put16, put48

HEADER_BYTES = 14
BROADCAST = 0xFFFFFFFFFFFF
IPV4 = 0x0800
ARP = 0x0806
IPV6 = 0x86DD
VLAN = 0x8100
VLAN_SERVICE = 0x88A8


@part
def payload_at(memory, at, length):
    """Bytes before the payload: 14, 18 or 22; -1 where the frame is too short for them."""
    skip = np.int64(HEADER_BYTES)
    if length < skip:
        return np.int64(-1)
    for _ in range(2):
        kind = get16(memory, at + skip - 2)
        if kind != VLAN and kind != VLAN_SERVICE:
            break
        skip += 4
        if length < skip:
            return np.int64(-1)
    return skip


@part
def encode(memory, at, destination, source, kind):
    """Write a header without VLAN tag."""
    put48(memory, at, destination)
    put48(memory, at + 6, source)
    put16(memory, at + 12, kind)
