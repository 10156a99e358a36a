"""TCP header (RFC 9293 section 3.1) between bytes and rows: options as Linux has them."""

from ..compile import part
from ..tcp.emit import ACK, FIN, RST, SYN
from ..tcp.tables import NONE, SACK_BLOCKS
from .bytesio import fold, get8, get16, get32, put8, put16, put32
from .ipv6 import half_sum

HEADER_BYTES = 20
END = 0
NO_OPERATION = 1
MSS = 2
WINDOW_SCALE = 3
SACK_PERMITTED = 4
SACK = 5
TIME_STAMP = 8
STAMP_WORD = (NO_OPERATION << 24) | (NO_OPERATION << 16) | (TIME_STAMP << 8) | 10
"""How nearly every segment's options begin."""


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
    p["urgent"] = get16(memory, at + 18)
    p["mss"] = 0
    p["shift"] = NONE
    p["sack_ok"] = 0
    p["ts"] = 0
    p["tsval"] = 0
    p["tsecr"] = 0
    p["sacks"] = 0
    if p["remote_port"] == 0 or p["local_port"] == 0:
        return 0
    if flags & SYN and flags & (FIN | RST):
        return 0
    if size == HEADER_BYTES + 12 and get32(memory, at + HEADER_BYTES) == STAMP_WORD:
        put_stamp(p, memory, at + HEADER_BYTES + 4)
    elif size > HEADER_BYTES:
        parse_options(p, memory, at + HEADER_BYTES, at + size)
    return size


@part
def quote(p, memory, at):
    """Ports and number of a segment of ours whose first 8 bytes are quoted at `at`."""
    p["local_port"] = get16(memory, at)
    p["remote_port"] = get16(memory, at + 2)
    p["seq"] = get32(memory, at + 4)


@part
def put_stamp(p, memory, at):
    """The two numbers of a time stamp option."""
    p["ts"] = 1
    p["tsval"] = get32(memory, at)
    p["tsecr"] = get32(memory, at + 4) if p["flags"] & ACK else 0


@part
def parse_options(p, memory, at, end):
    """Options one by one; one of impossible length ends the list, an unknown one is skipped."""
    opening = p["flags"] & SYN
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
        if kind == TIME_STAMP and size == 10:
            put_stamp(p, memory, at + 2)
        elif kind == SACK and size >= 10 and (size - 2) % 8 == 0:
            blocks = min((size - 2) // 8, SACK_BLOCKS)
            for step in range(2 * blocks):
                p["sack"][step] = get32(memory, at + 2 + 4 * step)
            p["sacks"] = blocks
        elif opening:
            if kind == MSS and size == 4:
                p["mss"] = get16(memory, at + 2)
            elif kind == WINDOW_SCALE and size == 3:
                p["shift"] = get8(memory, at + 2)
            elif kind == SACK_PERMITTED and size == 2:
                p["sack_ok"] = 1
        at += size


@part
def encode_options(row, memory, at):
    """Options in Linux's order: MSS, SACK permitted, time stamp, window scale, SACK blocks; each
    padded to words. Gives their length."""
    size = 0
    if row["mss"] > 0:
        put32(memory, at, (MSS << 24) | (4 << 16) | row["mss"])
        size += 4
    if row["ts"]:
        word = STAMP_WORD
        if row["sack_ok"]:
            word = (SACK_PERMITTED << 24) | (2 << 16) | (TIME_STAMP << 8) | 10
        put32(memory, at + size, word)
        put32(memory, at + size + 4, row["tsval"])
        put32(memory, at + size + 8, row["tsecr"])
        size += 12
    elif row["sack_ok"]:
        word = (NO_OPERATION << 24) | (NO_OPERATION << 16) | (SACK_PERMITTED << 8) | 2
        put32(memory, at + size, word)
        size += 4
    if row["shift"] >= 0:
        word = (NO_OPERATION << 24) | (WINDOW_SCALE << 16) | (3 << 8) | row["shift"]
        put32(memory, at + size, word)
        size += 4
    blocks = row["sacks"]
    if blocks > 0:
        word = (NO_OPERATION << 24) | (NO_OPERATION << 16) | (SACK << 8) | (2 + 8 * blocks)
        put32(memory, at + size, word)
        for step in range(2 * blocks):
            put32(memory, at + size + 4 + 4 * step, row["sack"][step])
        size += 4 + 8 * blocks
    return size


@part
def address_sum(row):
    """The sum of the 16-bit words of both addresses."""
    total = half_sum(row["address"]) + half_sum(row["remote_address"])
    if row["remote_high"] != 0:
        total += half_sum(row["high"]) + half_sum(row["remote_high"])
    return total


@part
def encode(row, memory, at):
    """Write the header of a TCP_SEGMENT row; gives its length.

    The checksum field holds the folded sum of the pseudo-header, which the card completes.
    """
    size = HEADER_BYTES + encode_options(row, memory, at + HEADER_BYTES)
    put16(memory, at, row["local_port"])
    put16(memory, at + 2, row["remote_port"])
    put32(memory, at + 4, row["seq"])
    put32(memory, at + 8, row["ack"])
    put8(memory, at + 12, size << 2)
    put8(memory, at + 13, row["flags"])
    put16(memory, at + 14, row["window"])
    length = size + row["payload"] if row["cut"] == 0 else 0  # the card adds that of each segment
    put16(memory, at + 16, fold(address_sum(row) + 6 + length))
    put16(memory, at + 18, row["urgent"])
    return size
