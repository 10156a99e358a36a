"""What the software card knows of frames: lengths, checksums, split, hash, segmentation.

Written for tests, a frame at a time, from the same RFCs as the card and from nothing of it.
"""

import struct
from dataclasses import dataclass

import numpy as np

from hdsnic.abi import RxOutcome

TCP, UDP = 6, 17
_FRAGMENT6 = 44
_CWR, _PSH, _FIN, _SYN = 0x80, 0x08, 0x01, 0x02


def checksum(data: bytes) -> int:
    """The one's complement sum of RFC 1071, folded, not complemented."""
    if len(data) % 2:
        data += b"\0"
    total = int(np.frombuffer(data, ">u2").sum(dtype=np.uint64))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def toeplitz(key: bytes, data: bytes) -> int:
    """The hash of receive-side scaling, as NDIS defines it."""
    window, out = int.from_bytes(key, "big"), 0
    bits = 8 * len(key)
    for k in range(8 * len(data)):
        if data[k // 8] >> (7 - k % 8) & 1:
            out ^= window >> (bits - 32 - k) & 0xFFFFFFFF
    return out


@dataclass
class Parsed:
    """A frame: `drop` names why it is dropped; `reason` is why it may not be split, if anything."""

    whole: bytes
    drop: str = ""
    reason: RxOutcome | None = None
    ipv6: bool = False
    udp: bool = False
    split: int = 0
    flow: tuple[bytes, int, bytes, int] = (b"", 0, b"", 0)  # remote, port, local, port

    @property
    def payload(self) -> bytes:
        return self.whole[self.split :]


def parse(frame: bytes) -> Parsed:
    """Frames of IPv4 and IPv6 (without extension headers), untagged."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        l3, l4 = 14, 14 + (frame[14] & 15) * 4
        whole = frame[: 14 + int.from_bytes(frame[16:18], "big")]
        if checksum(whole[l3:l4]) != 0xFFFF:
            return Parsed(whole, drop="ip_checksum")
        protocol, addresses = whole[23], (whole[26:30], whole[30:34])
        fragment = int.from_bytes(whole[20:22], "big") & 0x3FFF
    elif kind == b"\x86\xdd":
        l4 = 54
        whole = frame[: 54 + int.from_bytes(frame[18:20], "big")]
        protocol, addresses = whole[20], (whole[22:38], whole[38:54])
        fragment = protocol == _FRAGMENT6
    else:
        return Parsed(frame, reason=RxOutcome.NOT_IP)
    parsed = Parsed(whole, ipv6=kind == b"\x86\xdd", udp=protocol == UDP)
    if fragment:
        parsed.reason = RxOutcome.FRAGMENT
        return parsed
    if protocol not in (TCP, UDP):
        parsed.reason = RxOutcome.NOT_TCP
        return parsed
    remote, local = addresses
    pseudo = remote + local + struct.pack(">II", len(whole) - l4, protocol)
    unsummed = parsed.udp and whole[l4 + 6 : l4 + 8] == b"\0\0"
    if not unsummed and checksum(pseudo + whole[l4:]) != 0xFFFF:
        parsed.drop = "l4_checksum"
        return parsed
    parsed.split = l4 + (8 if parsed.udp else (whole[l4 + 12] >> 4) * 4)
    ports = struct.unpack_from(">HH", whole, l4)
    parsed.flow = remote, ports[0], local, ports[1]
    if not parsed.udp and whole[l4 + 13] & _SYN and parsed.payload:
        parsed.reason = RxOutcome.SYN_PAYLOAD
    return parsed


def insert_checksums(frame: bytearray, l3: int, l4: int, ip: bool, l4_at: int | None):
    """Complete the sums of a frame; `l4_at`: where in the L4 header the field with the sum of the
    pseudo-header lies, None: leave it."""
    if l4_at is not None:
        total = 0xFFFF ^ checksum(bytes(frame[l4:]))
        if l4_at == 6 and total == 0:  # of UDP: zero says that there is none (RFC 768)
            total = 0xFFFF
        struct.pack_into(">H", frame, l4 + l4_at, total)
    if ip:
        struct.pack_into(">H", frame, l3 + 10, 0)
        struct.pack_into(">H", frame, l3 + 10, 0xFFFF ^ checksum(bytes(frame[l3:l4])))


def segments(header: bytes, payload: bytes, mss: int, l3: int, l4: int) -> list[bytearray]:
    """Frames of at most `mss` bytes of payload each, from the header of all of them."""
    out = []
    v6 = header[l3] >> 4 == 6
    pseudo = int.from_bytes(header[l4 + 16 : l4 + 18], "big")
    for at in range(0, max(len(payload), 1), mss):
        part = payload[at : at + mss]
        frame = bytearray(header + part)
        first, last = at == 0, at + mss >= len(payload)
        struct.pack_into(">I", frame, l4 + 4, (_u32(header, l4 + 4) + at) & 0xFFFFFFFF)
        frame[l4 + 13] &= ~((0 if first else _CWR) | (0 if last else _PSH | _FIN)) & 0xFF
        if v6:
            struct.pack_into(">H", frame, l3 + 4, len(frame) - l3 - 40)
        else:
            struct.pack_into(">H", frame, l3 + 2, len(frame) - l3)
            number = int.from_bytes(header[l3 + 4 : l3 + 6], "big") + at // mss
            struct.pack_into(">H", frame, l3 + 4, number & 0xFFFF)
        total = pseudo + len(frame) - l4
        struct.pack_into(">H", frame, l4 + 16, (total & 0xFFFF) + (total >> 16))
        insert_checksums(frame, l3, l4, not v6, 16)
        out.append(frame)
    return out


def _u32(data, at):
    return int.from_bytes(data[at : at + 4], "big")
