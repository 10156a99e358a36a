"""Big-endian numbers in byte arrays (u8, C-contiguous), as int64, and the Internet checksum."""

import numpy as np

from ..compile import part


@part
def get8(memory, at):
    return np.int64(memory[at])


@part
def get16(memory, at):
    return (np.int64(memory[at]) << 8) | np.int64(memory[at + 1])


@part
def get32(memory, at):
    return (get16(memory, at) << 16) | get16(memory, at + 2)


@part
def get48(memory, at):
    return (get16(memory, at) << 32) | get32(memory, at + 2)


@part
def get64(memory, at):
    """As a signed number: half an IPv6 address."""
    return (get32(memory, at) << 32) | get32(memory, at + 4)


@part
def put8(memory, at, value):
    memory[at] = value & 0xFF


@part
def put16(memory, at, value):
    memory[at] = (value >> 8) & 0xFF
    memory[at + 1] = value & 0xFF


@part
def put32(memory, at, value):
    put16(memory, at, value >> 16)
    put16(memory, at + 2, value)


@part
def put48(memory, at, value):
    put16(memory, at, value >> 32)
    put32(memory, at + 2, value)


@part
def put64(memory, at, value):
    put32(memory, at, value >> 32)
    put32(memory, at + 4, value)


@part
def fold(total):
    """The 16-bit one's complement sum of a sum of 16-bit words."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@part
def add_bytes(total, memory, at, length, odd):
    """`total` and the sum of `length` bytes as 16-bit words; `odd` 1: the first is a low byte."""
    for step in range(length):
        total += np.int64(memory[at + step]) << (0 if (step + odd) & 1 else 8)
    return total


@part
def checksum(memory, at, length):
    """Internet checksum (RFC 1071) of `length` bytes; 0 where they hold a right one."""
    total = np.int64(0)
    for step in range(length // 2):
        total += get16(memory, at + 2 * step)
    if length & 1:
        total += get8(memory, at + length - 1) << 8
    return fold(total) ^ 0xFFFF
