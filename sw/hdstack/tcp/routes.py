"""Where a packet goes first, and which address of ours it comes from."""

import numpy as np

from ..compile import part
from .sequence import MASK
from .tables import NONE

OURS = 0
"""`state` of an address that nobody else has."""

LINK_LOCAL = 0xFE80 - 0x10000
"""The first 16 bits of fe80::/64, as a signed number."""


@part
def is_link_local(high):
    """An IPv6 address that is good on this link only (fe80::/10)."""
    return high >> 54 == LINK_LOCAL >> 6


@part
def matches(high, address, row_high, row_address, bits):
    """Whether the first `bits` of two addresses of one family are the same."""
    if bits == 0:
        return True
    if high == 0:
        return (address ^ row_address) >> (32 - bits) == 0
    if bits <= 64:
        return (high ^ row_high) >> (64 - bits) == 0
    return high == row_high and (address ^ row_address) >> (128 - bits) == 0


@part
def is_local(s, high, address):
    """Whether the address is one of ours."""
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        if row["address"] == address and row["high"] == high and row["state"] == OURS:
            return True
    return False


@part
def find_local(s, high, address):
    """Row of an address that is ours, or will be if nobody else has it; or -1."""
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        if row["address"] == address and row["high"] == high:
            return np.int64(at)
    return np.int64(NONE)


@part
def is_host(high, address):
    """Whether a single host can have the address: not unspecified, loopback or a group."""
    if high == 0:
        return address > 0xFFFFFF and address >> 28 < 14 and address >> 24 != 127
    return high >> 56 & 0xFF != 0xFF


@part
def find_route(s, high, address):
    """The route with the longest prefix, or -1."""
    best = np.int64(NONE)
    for at in range(s["control"]["routes"]):
        row = s["routes"][at]
        family = row["high"] if row["bits"] > 0 else row["hop_high"]
        if (
            (family == 0) == (high == 0)
            and matches(high, address, row["high"], row["address"], row["bits"])
            and (best < 0 or row["bits"] > s["routes"][best]["bits"])
        ):
            best = np.int64(at)
    return best


@part
def is_broadcast(address, bits):
    """The network itself, or all of its hosts (IPv4)."""
    hosts = MASK >> bits
    return bits < 31 and (address & hosts == hosts or address & hosts == 0)


@part
def next_hop(s, high, address):
    """The neighbour that leads to the address: (high, address), or (0, 0) where there is none."""
    none = np.int64(0)
    if not is_host(high, address) or is_local(s, high, address):
        return none, none
    at = find_route(s, high, address)
    if at < 0:
        return none, none
    row = s["routes"][at]
    if row["hop"] != 0 or row["hop_high"] != 0:
        return row["hop_high"], row["hop"]
    if high == 0 and is_broadcast(address, row["bits"]):
        return none, none
    return high, address


@part
def choose_local(s, high, address):
    """Put the address of ours from which to reach another one into `s["parsed"]`; False: none.

    On the link one of the same network, else the first that is not bound to the link (a short form
    of RFC 6724).
    """
    p = s["parsed"]
    found = NONE
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        if (row["high"] == 0) != (high == 0):
            continue
        if matches(high, address, row["high"], row["address"], row["bits"]):
            found = at
            break
        if found < 0 and not is_link_local(row["high"]):
            found = at
    if found < 0:
        return False
    p["local_high"] = s["locals"][found]["high"]
    p["local_address"] = s["locals"][found]["address"]
    return True
