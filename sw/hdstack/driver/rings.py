"""Records read and descriptors written in place, in numba's subset.

`rings` is header memory's array of rings as bytes (each ring twice in a row), `words` the same
memory as int64. Where a field stands comes from `hdsnic.abi`; fields are taken from 64-bit words
that are read once.
"""

from hdsnic import abi

from ..compile import part

__all__ = [
    "CELL", "NO_CHECKSUM", "TCP_CHECKSUM", "UDP_CHECKSUM", "put_descriptor", "put_reference",
    "receive_base", "transmit_base",
]  # fmt: skip

CELL = abi.CELL_BYTES


def _place(layout, name):
    """(number of the 64-bit word, shift, mask) of a field."""
    at, bits = layout.offsets[name], layout.widths[name]
    if at // 64 != (at + bits - 1) // 64:
        raise ValueError(f"{layout.name}.{name} crosses a 64-bit word")
    return at // 64, at % 64, (1 << bits) - 1


HEADER_LENGTH = _place(abi.RECORD, "header_length")
PAYLOAD_LENGTH = _place(abi.RECORD, "payload_length")
EXTENSIONS = _place(abi.RECORD, "extensions")
ELEMENT = _place(abi.RECORD, "element")
REGION = _place(abi.RECORD, "region")
HASH = _place(abi.RECORD, "hash")
REASON = _place(abi.RECORD, "reason")
TIME_STAMP = _place(abi.RECORD, "time_stamp")
POSTED_LEFT = _place(abi.RECORD, "posted_left")

_D_REFERENCES = abi.DESCRIPTOR.offsets["references"]
_D_L3, _D_L4 = abi.DESCRIPTOR.offsets["l3_offset"], abi.DESCRIPTOR.offsets["l4_offset"]
_D_IPV4_CHECKSUM = 1 << abi.DESCRIPTOR.offsets["ipv4_checksum"]
NO_CHECKSUM = 0
TCP_CHECKSUM = 1 << abi.DESCRIPTOR.offsets["tcp_checksum"]
UDP_CHECKSUM = 1 << abi.DESCRIPTOR.offsets["udp_checksum"]
_D_TSO, _D_MSS = 1 << abi.DESCRIPTOR.offsets["tso"], abi.DESCRIPTOR.offsets["mss"]
_R_LENGTH = abi.REFERENCE.offsets["length"]
_R_REGION = abi.REFERENCE.offsets["region"]
_R_GENERATION = abi.REFERENCE.offsets["generation"]
assert abi.DESCRIPTOR.offsets["header_length"] == 0 and abi.DESCRIPTOR.bytes == CELL
assert [abi.DESCRIPTOR.offsets["ref_" + n] - 64 for n in ("offset", "length", "region")] == [
    abi.REFERENCE.offsets[n] for n in ("offset", "length", "region")
]


@part
def receive_base(queue, ring_bytes):
    """Byte of `rings` where the receive ring of `queue` begins."""
    return 4 * queue * ring_bytes


@part
def transmit_base(queue, ring_bytes):
    """Byte of `rings` where the transmit ring of `queue` begins."""
    return (4 * queue + 2) * ring_bytes


@part
def put_descriptor(words, at, header_length, references, l3_offset, l4_offset, ipv4, l4_sum, cut):
    """The fixed part of a descriptor at byte `at` of `words`; its first reference is zero. `ipv4`,
    `l4_sum` (UDP_CHECKSUM or another): the checksums that the card inserts; `cut`: segments of so
    many bytes, 0: none (TSO)."""
    word = header_length | references << _D_REFERENCES | l3_offset << _D_L3 | l4_offset << _D_L4
    if ipv4:
        word |= _D_IPV4_CHECKSUM
    word |= l4_sum
    if cut > 0:
        word |= _D_TSO | cut << _D_MSS
    words[at >> 3] = word
    words[(at >> 3) + 1] = 0


@part
def put_reference(words, at, k, region, generation, offset, length):
    """Reference `k` of the descriptor at byte `at`: the first stands in the fixed part."""
    words[(at >> 3) + 1 + k] = (
        offset | length << _R_LENGTH | region << _R_REGION | generation << _R_GENERATION
    )
