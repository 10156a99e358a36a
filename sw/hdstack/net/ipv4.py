"""IPv4 header (RFC 791). The card has verified length and checksum of what comes in."""

from ..compile import part
from .bytesio import get16, put8, put16, put32

HEADER_BYTES = 20
ICMP = 1
TCP = 6
UDP = 17
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000


@part
def header_length(memory, at, length):
    """Bytes of the header at `at`, of which `length` bytes are there; 0 if that cannot be."""
    if length < HEADER_BYTES or memory[at] >> 4 != 4:
        return 0
    size = (memory[at] & 15) * 4
    if size < HEADER_BYTES or size > length or get16(memory, at + 2) < size:
        return 0
    return size


@part
def encode(memory, at, source, destination, protocol, payload, hops, traffic_class):
    """Write a header for `payload` bytes; the checksum field is 0."""
    put16(memory, at, 0x4500 | traffic_class)
    put16(memory, at + 2, HEADER_BYTES + payload)
    put16(memory, at + 4, 0)  # RFC 6864: an atomic datagram needs no identification
    put16(memory, at + 6, DONT_FRAGMENT)
    put8(memory, at + 8, hops)
    put8(memory, at + 9, protocol)
    put16(memory, at + 10, 0)
    put32(memory, at + 12, source)
    put32(memory, at + 16, destination)


@part
def mark_fragment(memory, at, identification, offset, more):
    """Make the packet of a written header a fragment: `offset` bytes from the beginning."""
    put16(memory, at + 4, identification)
    put16(memory, at + 6, (MORE_FRAGMENTS if more else 0) | offset >> 3)
