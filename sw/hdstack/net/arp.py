"""ARP for IPv4 over Ethernet (RFC 826): answers for our address, learns who was asked for."""

from ..compile import part
from ..tcp import counters
from ..tcp.routes import find_local, is_local
from ..tcp.rows import count
from .bytesio import get16, get32, get48, put8, put16, put32, put48
from .duplicates import conflict
from .ethernet import ARP, BROADCAST, encode
from .neighbour import ANSWERS, ASKS, REPLY, REQUEST, learn, send_arp
from .waiting import neighbour_known

BYTES = 28


@part
def on_packet(s, memory, at, length, now):
    """An ARP packet of `length` bytes at `at`."""
    if (
        length < BYTES
        or get16(memory, at) != 1
        or get16(memory, at + 2) != 0x0800
        or get16(memory, at + 4) != 0x0604
    ):
        count(s, counters.BAD_ARP)
        return
    operation = get16(memory, at + 6)
    mac = get48(memory, at + 8)
    address = get32(memory, at + 14)
    target = get32(memory, at + 24)
    claimed = find_local(s, 0, address)
    if claimed >= 0:  # RFC 5227 sections 2.1.1 and 2.4: another host has it, or means to
        conflict(s, claimed, mac, True, now)
    elif address == 0 and operation == REQUEST and find_local(s, 0, target) >= 0:
        conflict(s, find_local(s, 0, target), mac, False, now)
    if not is_local(s, 0, target):
        return
    # a group address is nobody's; our own is a forgery, or a conflict
    if mac >> 40 & 1 or mac == 0 or claimed >= 0:
        count(s, counters.BAD_ARP)
        return
    count(s, counters.ARP_IN)
    asks_us = operation == REQUEST
    if address != 0:  # 0: a probe (RFC 5227), answered and not learned
        if learn(s, 0, address, mac, ASKS if asks_us else ANSWERS, now):
            neighbour_known(s, 0, address, mac, now)
        elif operation == REPLY:
            count(s, counters.BAD_ARP)
    if asks_us:
        send_arp(s, REPLY, mac, address, target)


@part
def encode_packet(s, row, memory, at):
    """The frame of an ARP_PACKET row; gives its length."""
    control = s["control"]
    destination = row["mac"] if row["mac"] != 0 else BROADCAST
    encode(memory, at, destination, control["mac"], ARP)
    put16(memory, at + 14, 1)
    put16(memory, at + 16, 0x0800)
    put8(memory, at + 18, 6)
    put8(memory, at + 19, 4)
    put16(memory, at + 20, row["flags"])
    put48(memory, at + 22, control["mac"])
    put32(memory, at + 28, row["address"])
    put48(memory, at + 32, row["mac"])
    put32(memory, at + 38, row["remote_address"])
    return 42
