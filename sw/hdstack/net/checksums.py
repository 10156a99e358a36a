"""Checksums made by the stack: for cards, or tests, without checksum insertion.

The one place where the stack reads payload. It reads through read-only mappings and copies nothing;
the counter `payload_read_bytes` says how much it read.
"""

from ..compile import part
from ..tcp import counters
from ..tcp.data import region_serves
from ..tcp.tables import UDP_DATAGRAM
from .bytesio import add_bytes, checksum, fold, put16

__all__ = ["POOL_STRIDE", "put_checksums"]

POOL_STRIDE = 1 << 32
"""Distance of two regions in the array of pools; as on the card's payload port."""
_L3, _IPV4_BYTES, _IPV4_SUM, _TCP_SUM, _UDP_SUM = 14, 20, 10, 16, 6


@part
def put_checksums(s, queue, index, rings, at, header, pools):
    """Complete the headers of TCP segment or UDP datagram `index`, `header` bytes of `rings` from
    `at`. Fragments have the datagram's checksum already.

    A reference that no longer serves is left out: the card refuses the descriptor.
    """
    row = s["segments"][queue, index]
    l4 = _L3 + 40
    if row["remote_high"] == 0:
        l4 = _L3 + _IPV4_BYTES
        put16(rings, at + _L3 + _IPV4_SUM, checksum(rings, at + _L3, _IPV4_BYTES))
    udp = row["kind"] == UDP_DATAGRAM
    if udp and row["fragment"] >= 0:
        return
    total = add_bytes(0, rings, at + l4, header - l4, 0)  # the field holds the pseudo-header's sum
    odd = 0
    for k in range(row["references"]):
        piece = row["ref"][k]
        region, offset, length = piece["region"], piece["offset"], piece["length"]
        if not region_serves(s, queue, region, piece["generation"]):
            continue
        if offset < 0 or length < 0 or offset + length > s["regions"][region]["bytes"]:
            continue
        total = add_bytes(total, pools, region * POOL_STRIDE + offset, length, odd)
        odd ^= length & 1
        s["counters"][counters.PAYLOAD_READ_BYTES] += length
    result = fold(total) ^ 0xFFFF
    if udp and result == 0:
        result = 0xFFFF  # RFC 768: zero says that there is none
    put16(rings, at + l4 + (_UDP_SUM if udp else _TCP_SUM), result)
