"""UDP header (RFC 768) between bytes and rows."""

from ..compile import part
from ..tcp.tables import NONE
from .bytesio import fold, get16, put16
from .tcp_header import address_sum

HEADER_BYTES = 8
PROTOCOL = 17


@part
def parse(s, memory, at, room, most):
    """Put the ports of the header at `at`, `room` bytes of which are there, into `s["parsed"]`.

    Gives the payload's length in bytes, or -1 where that cannot be: `most` bytes of IP hold both.
    """
    if room < HEADER_BYTES:
        return NONE
    length = get16(memory, at + 4)
    if length < HEADER_BYTES or length > most:
        return NONE
    p = s["parsed"]
    p["remote_port"] = get16(memory, at)
    p["local_port"] = get16(memory, at + 2)
    return length - HEADER_BYTES


@part
def encode(row, memory, at):
    """Write the header of a UDP_DATAGRAM row.

    The checksum field holds the folded sum of the pseudo-header, which the card completes; of a
    fragment it is the checksum itself.
    """
    length = HEADER_BYTES + row["total"]
    put16(memory, at, row["local_port"])
    put16(memory, at + 2, row["remote_port"])
    put16(memory, at + 4, length)
    if row["fragment"] < 0:
        put16(memory, at + 6, fold(address_sum(row) + PROTOCOL + length))
    else:
        put16(memory, at + 6, row["checksum"])
