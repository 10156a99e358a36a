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
PAD_1 = 0
MALFORMED = -2
DROPPED = -1
"""In place of a protocol: not for us to look into; the next two are told to the sender."""
BAD_FIELD = -3
BAD_OPTION = -4
FRAGMENT_BYTES = 8
EXTENSIONS_MAX = 32
"""More do not fit into the 256 bytes of header that the card splits off."""


@part
def find_unknown_option(memory, at, end):
    """Where in the options from `at` to `end` stands one that we do not know and that may not be
    skipped (RFC 8200 section 4.2); -1: nowhere, -2: they are malformed."""
    while at < end:
        kind = get8(memory, at)
        if kind == PAD_1:
            at += 1
            continue
        if at + 2 > end or at + 2 + get8(memory, at + 1) > end:
            return MALFORMED
        if kind >> 6 != 0:
            return at
        at += 2 + get8(memory, at + 1)
    return NONE


@part
def pass_over(memory, protocol, first, at, end):
    """Behind the extension headers from `at` on: (protocol, where it begins). Where that cannot be,
    or must not be looked for: (DROPPED, 0), or (BAD_FIELD or BAD_OPTION, place of what the sender
    is told). Hop-by-hop options may only stand at `first`."""
    for _ in range(EXTENSIONS_MAX):
        if protocol != HOP_BY_HOP and protocol != ROUTING and protocol != DESTINATION:
            return protocol, at
        if protocol == HOP_BY_HOP and at != first:
            return protocol, at  # it stands first or means nothing
        following = at + 8 * (get8(memory, at + 1) + 1) if at + 8 <= end else end + 1
        if following > end:
            return DROPPED, 0
        if protocol == ROUTING:
            if get8(memory, at + 3) != 0:  # segments left: we forward for nobody (RFC 5095)
                return BAD_FIELD, at + 2
        else:
            unknown = find_unknown_option(memory, at + 2, following)
            if unknown == MALFORMED or (unknown >= 0 and get8(memory, unknown) >> 6 == 1):
                return DROPPED, 0
            if unknown >= 0:
                return BAD_OPTION, unknown
        protocol = get8(memory, at)
        at = following
    return DROPPED, 0


@part
def find_payload(memory, ip, end):
    """Behind the extension headers of a packet: as `pass_over`."""
    first = ip + HEADER_BYTES
    return pass_over(memory, get8(memory, ip + 6), first, first, end)


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
def encode(
    memory, at, payload, protocol, hops, traffic_class, high, address, remote_high, remote_address
):
    """Write a header for `payload` bytes of `protocol`."""
    put32(memory, at, 6 << 28 | traffic_class << 20)
    put16(memory, at + 4, payload)
    put8(memory, at + 6, protocol)
    put8(memory, at + 7, hops)
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
