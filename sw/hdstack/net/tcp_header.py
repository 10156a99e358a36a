"""TCP header (RFC 9293 section 3.1) between bytes and rows: MSS and window scale are known."""

from ..compile import part
from ..tcp.emit import FIN, RST, SYN
from ..tcp.tables import NONE
from .bytesio import fold, get8, get16, get32, put8, put16, put32

HEADER_BYTES = 20
END = 0
NO_OPERATION = 1
MSS = 2
WINDOW_SCALE = 3


@part
def parse(s, memory, at, room):
    """Fill `s["parsed"]` from the header at `at`, `room` bytes of which are there.

    Gives the header's length in bytes, or 0 where lengths or flags are impossible.
    """
    if room < HEADER_BYTES:
        return 0
    size = (get8(memory, at + 12) >> 4) * 4
    if size < HEADER_BYTES or size > room:
        return 0
    p = s["parsed"]
    p["remote_port"] = get16(memory, at)
    p["local_port"] = get16(memory, at + 2)
    p["seq"] = get32(memory, at + 4)
    p["ack"] = get32(memory, at + 8)
    flags = get8(memory, at + 13)
    p["flags"] = flags
    p["window"] = get16(memory, at + 14)
    p["mss"] = 0
    p["shift"] = NONE
    if p["remote_port"] == 0 or p["local_port"] == 0:
        return 0
    if flags & SYN and flags & (FIN | RST):
        return 0
    if flags & SYN:
        parse_options(p, memory, at + HEADER_BYTES, at + size)
    return size


@part
def parse_options(p, memory, at, end):
    """MSS and window scale of a SYN; an option of impossible length ends the list."""
    while at < end:
        kind = get8(memory, at)
        if kind == END:
            return
        if kind == NO_OPERATION:
            at += 1
            continue
        if at + 1 >= end:
            return
        size = get8(memory, at + 1)
        if size < 2 or at + size > end:
            return
        if kind == MSS and size == 4:
            p["mss"] = get16(memory, at + 2)
        elif kind == WINDOW_SCALE and size == 3:
            p["shift"] = get8(memory, at + 2)
        at += size


@part
def encode(row, memory, at):
    """Write the header of a TCP_SEGMENT row; gives its length.

    The checksum field holds the folded sum of the pseudo-header, which the card completes.
    """
    size = HEADER_BYTES
    if row["mss"] > 0:
        put16(memory, at + size, (MSS << 8) | 4)
        put16(memory, at + size + 2, row["mss"])
        size += 4
    if row["shift"] >= 0:
        put8(memory, at + size, NO_OPERATION)
        put16(memory, at + size + 1, (WINDOW_SCALE << 8) | 3)
        put8(memory, at + size + 3, row["shift"])
        size += 4
    put16(memory, at, row["local_port"])
    put16(memory, at + 2, row["remote_port"])
    put32(memory, at + 4, row["seq"])
    put32(memory, at + 8, row["ack"])
    put8(memory, at + 12, size << 2)
    put8(memory, at + 13, row["flags"])
    put16(memory, at + 14, row["window"])
    source = row["address"]
    destination = row["remote_address"]
    total = (source >> 16) + (source & 0xFFFF) + (destination >> 16) + (destination & 0xFFFF)
    put16(memory, at + 16, fold(total + 6 + size + row["payload"]))
    put16(memory, at + 18, 0)
    return size
