"""Numbers: sequence numbers, time stamps, the keyed hash, initial numbers, token buckets."""

from ..compile import part
from .tables import MILLISECOND, SECOND

MASK = 0xFFFFFFFF


@part
def unwrap(seq, near):
    """The 64-bit number with the low 32 bits of `seq` that is closest to `near`."""
    return near + ((seq - near + 0x80000000) & MASK) - 0x80000000


@part
def _rotate(x, n):
    return ((x << n) | (x >> (32 - n))) & MASK


@part
def keyed_hash(s, a, b, c):
    """32-bit HalfSipHash-2-4 of three 32-bit words, keyed with 64 bits of the secret."""
    secret = s["control"]["secret"]
    v0 = secret[0]
    v1 = secret[1]
    v2 = secret[0] ^ 0x6C796765
    v3 = secret[1] ^ 0x74656462
    for step in range(8):
        word = 0
        if step < 3:
            word = a if step == 0 else (b if step == 1 else c)
        elif step == 3:
            word = 12 << 24
        else:
            if step == 4:
                v2 ^= 0xFF
        rounds = 2 if step < 4 else 1
        v3 ^= word
        for _ in range(rounds):
            v0 = (v0 + v1) & MASK
            v1 = _rotate(v1, 5) ^ v0
            v0 = _rotate(v0, 16)
            v2 = (v2 + v3) & MASK
            v3 = _rotate(v3, 8) ^ v2
            v0 = (v0 + v3) & MASK
            v3 = _rotate(v3, 7) ^ v0
            v2 = (v2 + v1) & MASK
            v1 = _rotate(v1, 13) ^ v2
            v2 = _rotate(v2, 16)
        v0 ^= word
    return v1 ^ v3


@part
def address_key(s, high, address):
    """32 bits that stand for an address in keyed hashes; nobody outside can make two collide."""
    if high == 0:
        return address
    first = keyed_hash(s, (high >> 32) & MASK, high & MASK, (address >> 32) & MASK)
    return keyed_hash(s, first, address & MASK, 6)


@part
def initial_sequence(s, remote_address, ports, now):
    """RFC 6528: a clock of 4 us, plus a secret function of the connection's addresses."""
    secret = s["control"]["secret"]
    return (now // 4000 + keyed_hash(s, remote_address ^ secret[2], ports, secret[3])) & MASK


@part
def stamp_offset(s, remote_address, ports):
    """Where the time stamps of a connection begin: secret, and the same for its next incarnation,
    so that they go on (RFC 7323 section 5.4, RFC 6191)."""
    secret = s["control"]["secret"]
    return keyed_hash(s, remote_address ^ secret[3], ports, secret[2])


@part
def stamp_at(offset, now):
    return (now // MILLISECOND + offset) & MASK


@part
def time_stamp(c, now):
    """TSval of a connection: milliseconds from a secret beginning (RFC 7323 section 5.4)."""
    return stamp_at(c["ts_offset"], now)


@part
def later(a, b):
    """How far the 32-bit number `a` is after `b`; negative where it is before."""
    return ((a - b + 0x80000000) & MASK) - 0x80000000


@part
def refill(tokens, filled, now, rate, burst):
    """Tokens of a bucket at `now`: `rate` a second, at most `burst`; in billionths of a token."""
    elapsed = min(max(now - filled, 0), 10 * SECOND)
    return min(tokens + elapsed * rate, burst * SECOND)
