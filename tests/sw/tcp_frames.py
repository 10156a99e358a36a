"""Frames of TCP segments by hand, independent of the stack's own code."""

import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def inet_sum(data: bytes) -> int:
    """Folded one's complement sum, independent of the stack's own."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass
class Segment:
    """A TCP segment as seen on the wire."""

    source: int
    destination: int
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int = 0
    shift: int = -1
    sack_ok: bool = False
    ts: tuple | None = None
    """(TSval, TSecr)"""
    sacks: tuple = ()
    """Blocks (start, end), the first byte and that after the last one."""
    kinds: tuple = ()
    """Option numbers in the order in which they came."""

    def __repr__(self):
        names = "".join(
            n for n, bit in zip("FSRPA", (1, 2, 4, 8, 16), strict=True) if self.flags & bit
        )
        return f"<{names} seq={self.seq} ack={self.ack} win={self.window} {len(self.payload)}B>"


def build(segment: Segment, mac_to: bytes, mac_from: bytes) -> bytes:
    """The frame of a segment, with right checksums."""
    options = b""
    if segment.mss:
        options += struct.pack(">BBH", 2, 4, segment.mss)
    if segment.shift >= 0:
        options += struct.pack(">BBBB", 1, 3, 3, segment.shift)
    if segment.sack_ok:
        options += b"\x01\x01\x04\x02"
    if segment.ts is not None:
        stamp = (number & 0xFFFFFFFF for number in segment.ts)
        options += struct.pack(">BBBBII", 1, 1, 8, 10, *stamp)
    if segment.sacks:
        options += struct.pack(">BBBB", 1, 1, 5, 2 + 8 * len(segment.sacks))
        for edges in segment.sacks:
            options += struct.pack(">II", *(edge & 0xFFFFFFFF for edge in edges))
    size = 20 + len(options)
    tcp = struct.pack(
        ">HHIIBBHHH", segment.sport, segment.dport, segment.seq & 0xFFFFFFFF,
        segment.ack & 0xFFFFFFFF, size << 2, segment.flags, segment.window, 0, 0,
    ) + options + segment.payload  # fmt: skip
    pseudo = struct.pack(">IIBBH", segment.source, segment.destination, 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack(">H", inet_sum(pseudo + tcp) ^ 0xFFFF) + tcp[18:]
    ip = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, segment.source, segment.destination
    )
    ip = ip[:10] + struct.pack(">H", inet_sum(ip) ^ 0xFFFF) + ip[12:]
    return mac_to + mac_from + b"\x08\x00" + ip + tcp


OPTION_SIZES = {2: 4, 3: 3, 4: 2, 8: 10}


def find_tcp(frame: bytes) -> tuple[int, int, bytes] | None:
    """Where the TCP header of a frame begins, where the packet ends, and its addresses; through
    those extension headers that the card knows (R1). None where there is no such segment."""
    if frame[12:14] == b"\x08\x00":
        if frame[23] != 6 or frame[20] & 0x3F or frame[21]:
            return None
        assert inet_sum(frame[14:34]) == 0xFFFF, "IPv4 checksum"
        return 34, 14 + struct.unpack_from(">H", frame, 16)[0], frame[26:34]
    if frame[12:14] != b"\x86\xdd":
        return None
    kind, at, end = frame[20], 54, 54 + struct.unpack_from(">H", frame, 18)[0]
    while kind in (0, 43, 60):
        kind, at = frame[at], at + 8 * (frame[at + 1] + 1)
    return (at, end, frame[22:54]) if kind == 6 else None


def dissect(frame: bytes) -> Segment | None:
    """The TCP segment in a frame; asserts that lengths and checksums are right."""
    found = find_tcp(frame)
    if found is None:
        return None
    start, end, addresses = found
    half = len(addresses) // 2
    source, destination = (int.from_bytes(a, "big") for a in (addresses[:half], addresses[half:]))
    tcp = frame[start:end]
    assert len(tcp) == end - start
    assert inet_sum(addresses + struct.pack(">HH", 6, len(tcp)) + tcp) == 0xFFFF, "TCP checksum"
    sport, dport, seq, ack, offset, flags, window = struct.unpack_from(">HHIIBBH", tcp)
    size = offset >> 4 << 2
    found = Segment(source, destination, sport, dport, seq, ack, flags, window, tcp[size:])
    options = tcp[20:size]
    while options:
        found.kinds += (options[0],)
        if options[0] == 1:
            options = options[1:]
            continue
        if len(options) < 2 or not 2 <= options[1] <= len(options):
            break  # the rest is no list of options
        if OPTION_SIZES.get(options[0], options[1]) != options[1]:
            options = options[options[1] :]
            continue
        if options[0] == 2:
            found.mss = struct.unpack_from(">H", options, 2)[0]
        elif options[0] == 3:
            found.shift = options[2]
        elif options[0] == 4:
            found.sack_ok = True
        elif options[0] == 8:
            found.ts = struct.unpack_from(">II", options, 2)
        elif options[0] == 5 and options[1] % 8 == 2:
            edges = struct.unpack_from(f">{(options[1] - 2) // 4}I", options, 2)
            found.sacks = tuple(zip(edges[::2], edges[1::2], strict=True))
        options = options[options[1] :]
    return found


def asks_for(frame: bytes, address: int) -> bool:
    """Whether the frame is an ARP question for `address`."""
    return frame[12:14] + frame[20:22] + frame[38:42] == b"\x08\x06\0\x01" + struct.pack(
        ">I", address
    )
