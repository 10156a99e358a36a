"""Frames of the benchmark, made by scapy, and the descriptors that describe them."""

from dataclasses import dataclass

from bench.card import MAC, PORT
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from hdsnic import abi

__all__ = ["HEADER_BYTES", "Segment", "descriptor", "received", "segments", "template"]

PEER = "02:00:00:00:00:01"
LOCAL = ":".join(f"{byte:02x}" for byte in MAC)
HEADER_BYTES = 54
_L3, _L4 = 14, 34
_TCP_CHECKSUM = _L4 + 16
_IP_CHECKSUM = _L3 + 10
VARIETY = 61
"""Different frames of a size; a prime, so that their order meets no power of two of a ring."""


def _payload(k: int, length: int) -> bytes:
    return bytes((7 * k + 13 * i + (i >> 8)) & 0xFF for i in range(length))


def received(length: int, queue: int) -> list[bytes]:
    """Different frames of `length` bytes for the queue-th queue: each is split after 54 bytes."""
    out = []
    for k in range(VARIETY):
        head = Ether(src=PEER, dst=LOCAL) / IP(src="10.77.0.1", dst="10.77.0.2", id=k)
        head /= TCP(sport=5000 + k, dport=PORT + queue, seq=1000 * k, ack=k, flags="A")
        out.append(bytes(head / _payload(k, length - HEADER_BYTES)))
    return out


@dataclass(frozen=True)
class Segment:
    """A segment to be sent: its header with open checksums, its payload, its frame."""

    header: bytes
    payload: bytes
    frame: bytes


def _folded(data: bytes) -> int:
    total = sum(int.from_bytes(data[k : k + 2], "big") for k in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _opened(frame: bytes, with_length: bool) -> bytes:
    """The header as the driver writes it: IP checksum zero, TCP checksum the pseudo-header sum."""
    header = bytearray(frame[:HEADER_BYTES])
    pseudo = frame[_L3 + 12 : _L3 + 20] + b"\0\x06"
    if with_length:
        pseudo += (len(frame) - _L4).to_bytes(2, "big")
    header[_IP_CHECKSUM : _IP_CHECKSUM + 2] = b"\0\0"
    header[_TCP_CHECKSUM : _TCP_CHECKSUM + 2] = _folded(pseudo).to_bytes(2, "big")
    return bytes(header)


def segments(length: int) -> list[Segment]:
    """Different segments whose frames have `length` bytes."""
    out = []
    for k in range(VARIETY):
        head = Ether(src=LOCAL, dst=PEER) / IP(src="10.77.0.2", dst="10.77.0.1", id=k)
        head /= TCP(sport=PORT, dport=5000 + k, seq=77 * k, ack=k, flags="A")
        payload = _payload(k, length - HEADER_BYTES)
        frame = bytes(head / payload)
        out.append(Segment(_opened(frame, True), payload, frame))
    return out


def template(length: int, mss: int, k: int) -> tuple[bytes, bytes, list[bytes]]:
    """Header template and payload of `length` bytes to be segmented, and the frames that leave."""
    payload = _payload(k, length)
    frames = []
    for number, at in enumerate(range(0, length, mss)):
        last = at + mss >= length
        head = Ether(src=LOCAL, dst=PEER) / IP(src="10.77.0.2", dst="10.77.0.1", id=100 + number)
        head /= TCP(sport=PORT, dport=5000 + k, seq=9000 + at, ack=k, flags="PA" if last else "A")
        frames.append(bytes(head / payload[at : at + mss]))
    # The template's flags are those of the last segment.
    head = bytearray(frames[0])
    head[_L4 + 13] = frames[-1][_L4 + 13]
    return _opened(bytes(head), False), payload, frames


def descriptor(header: bytes, references: list[dict], **fields) -> bytes:
    """A descriptor with both checksums inserted, padded to whole cells."""
    first = {f"ref_{k}": v for k, v in references[0].items()}
    data = abi.DESCRIPTOR.pack(
        header_length=len(header), references=len(references), l3_offset=_L3, l4_offset=_L4,
        ipv4_checksum=1, tcp_checksum=1, **first, **fields,
    )  # fmt: skip
    data += b"".join(abi.REFERENCE.pack(**r) for r in references[1:]) + header
    return data.ljust(abi.descriptor_cells(len(header), len(references)) * abi.CELL_BYTES, b"\0")
