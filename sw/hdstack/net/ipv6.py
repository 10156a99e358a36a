"""IPv6 header and what may stand behind it before TCP or ICMPv6 (RFC 8200)."""

from ..compile import part
from ..tcp.tables import NONE
from .bytesio import checksum, fold, get8, get64, put8, put16, put32, put64

HEADER_BYTES = 40
HOP_BY_HOP = 0
TCP = 6
UDP = 17
ROUTING = 43
FRAGMENT = 44
ICMP = 58
DESTINATION = 60
HOP_LIMIT = 64
FRAGMENT_BYTES = 8
EXTENSIONS_MAX = 32
"""More do not fit into the 256 bytes of header that the card splits off."""


@part
def pass_over(memory, protocol, at, end):
    """Behind the extension headers from `at` on: (protocol, where it begins); (-1, -1) where that
    cannot be."""
    for _ in range(EXTENSIONS_MAX):
        if protocol != HOP_BY_HOP and protocol != ROUTING and protocol != DESTINATION:
            return protocol, at
        if at + 8 > end:
            return NONE, NONE
        protocol = get8(memory, at)
        at += 8 * (get8(memory, at + 1) + 1)
        if at > end:
            return NONE, NONE
    return NONE, NONE


@part
def find_payload(memory, ip, end):
    """Behind the extension headers of a packet: (protocol, where it begins); (-1, -1) where that
    cannot be."""
    return pass_over(memory, get8(memory, ip + 6), ip + HEADER_BYTES, end)


@part
def find_next_header(memory, ip, protocol):
    """Where the field is that says that `protocol` follows; the caller knows that there is one."""
    field = ip + 6
    at = ip + HEADER_BYTES
    for _ in range(EXTENSIONS_MAX):
        if get8(memory, field) == protocol:
            break
        field = at
        at += 8 * (get8(memory, at + 1) + 1)
    return field


@part
def encode(memory, at, payload, protocol, hop_limit, high, address, remote_high, remote_address):
    """Write a header for `payload` bytes of `protocol`."""
    put32(memory, at, 6 << 28)
    put16(memory, at + 4, payload)
    put8(memory, at + 6, protocol)
    put8(memory, at + 7, hop_limit)
    put64(memory, at + 8, high)
    put64(memory, at + 16, address)
    put64(memory, at + 24, remote_high)
    put64(memory, at + 32, remote_address)


@part
def encode_fragment(memory, at, protocol, identification, offset, more):
    """Write a fragment header (RFC 8200 section 4.5): `offset` bytes from the beginning."""
    put16(memory, at, protocol << 8)
    put16(memory, at + 2, offset | (1 if more else 0))
    put32(memory, at + 4, identification)


@part
def half_sum(half):
    """The sum of the four 16-bit words of half an address."""
    return (
        ((half >> 48) & 0xFFFF) + ((half >> 32) & 0xFFFF) + ((half >> 16) & 0xFFFF)
        + (half & 0xFFFF)
    )  # fmt: skip


@part
def message_checksum(memory, ip, at, length, protocol):
    """Checksum of `length` bytes at `at` with the pseudo-header of the IPv6 header at `ip`; 0 where
    they hold a right one."""
    total = (checksum(memory, at, length) ^ 0xFFFF) + length + protocol
    for word in range(4):
        total += half_sum(get64(memory, ip + 8 + 8 * word))
    return fold(total) ^ 0xFFFF
