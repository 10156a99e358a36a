"""Identification of packets that leave in fragments, for both families."""

from ..compile import part
from ..tcp.sequence import MASK, address_key, keyed_hash

SALT = 0x66726167


@part
def next_identification(s, high, address):
    """RFC 7739 section 5.3: a counter that begins elsewhere for each destination."""
    control = s["control"]
    control["identification"] += 1
    begin = keyed_hash(s, address_key(s, high, address), SALT, 0)
    return (begin + control["identification"]) & MASK
