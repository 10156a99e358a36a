"""What lies in memory: records, descriptors, post cells, index slots.

All rings count in cells: 16 bytes in receive and transmit rings, 8 bytes in post rings. Indices
are free-running 32-bit cell counts.
"""

from .layout import Field, Layout

__all__ = [
    "CELL_BYTES", "DESCRIPTOR", "INDEX_SLOT", "INDEX_SLOT_BYTES", "POST_CELL", "RECORD",
    "REFERENCE", "RING_BYTES_MIN", "descriptor_cells", "record_cells",
]  # fmt: skip

CELL_BYTES = 16
"""Bytes in a cell of a receive or transmit ring; records and descriptors start on cells."""

RING_BYTES_MIN = 4096
"""Rings are a power of two of at least this, and aligned to it, so that the splitter at 4 KiB
boundaries also does the wrap."""

RECORD = Layout(
    "record",
    "Fixed part of a record in a receive ring. `extensions` words of 8 bytes follow, then the"
    " header bytes; the next record starts on the next cell.",
    (
        Field("header_length", 14, "bytes of header in this record (the whole frame if unsplit)"),
        Field("payload_length", 14, "bytes of payload written to the buffer; 0 if none"),
        Field("extensions", 4, "8-byte words between this part and the header"),
        Field("element", 24, "element of the region that took the payload"),
        Field("region", 8, "region that took the payload"),
        Field("hash", 32, "receive-side scaling hash; 0 where none was computed"),
        Field("tag", 12, "index of the steering rule that matched"),
        Field("reason", 5, "RxOutcome of the frame (below 16)"),
        Field("vlan_tags", 2, "VLAN tags in the header (0 to 2)"),
        Field("ipv6", 1, "IP version 6; meaningless where reason is NOT_IP"),
        Field("checksum_good", 1, "IP and TCP or UDP checksums were verified"),
        Field("spare", 3, "zero"),
        Field("posted_left", 8, "ready buffers left in the queue, saturating at 255"),
    ),
)

DESCRIPTOR = Layout(
    "descriptor",
    "Fixed part of a descriptor in a transmit ring; the first reference stands in it (ignored if"
    " `references` is 0). The second and later references follow, 8 bytes each, then the header"
    " bytes; the next descriptor starts on the next cell.",
    (
        Field("header_length", 16, "bytes of header inline"),
        Field("references", 8, "pieces of payload that follow the header in the frame"),
        Field("l3_offset", 8, "byte offset of the IP header in the frame"),
        Field("l4_offset", 8, "byte offset of the TCP or UDP header in the frame"),
        Field("ipv4_checksum", 1, "insert the IPv4 header checksum"),
        Field("tcp_checksum", 1, "insert the TCP checksum; its field holds the pseudo-header sum"),
        Field("udp_checksum", 1, "insert the UDP checksum; its field holds the pseudo-header sum"),
        Field("flags", 5, "zero; kept for segmentation and VLAN insertion"),
        Field("mss", 16, "zero; kept for segmentation"),
        Field("ref_offset", 32, "first reference: byte offset in the region"),
        Field("ref_length", 16, "first reference: bytes; 0 is refused"),
        Field("ref_region", 8, "first reference: region"),
        Field("ref_generation", 8, "first reference: generation of the region"),
    ),
)

REFERENCE = Layout(
    "reference",
    "A piece of payload in a transmit descriptor, after the first.",
    (
        Field("offset", 32, "byte offset in the region"),
        Field("length", 16, "bytes; 0 is refused"),
        Field("region", 8, "region"),
        Field("generation", 8, "generation of the region"),
    ),
)

POST_CELL = Layout(
    "post_cell",
    "A cell of a post ring: one buffer that is ready to be filled.",
    (
        Field("element", 24, "element of the region"),
        Field("region", 8, "region"),
        Field("generation", 8, "generation of the region"),
        Field("spare", 24, "ignored"),
    ),
)

INDEX_SLOT = Layout(
    "index_slot",
    "What the device writes back for a queue, in header memory at INDEX_BASE + queue x"
    " INDEX_SLOT_BYTES. The receive half and the transmit half are written separately.",
    (
        Field("rx_producer", 32, "receive ring: cells whose records are complete"),
        Field("post_consumer", 32, "post ring: cells that the device has read"),
        Field("tx_consumer", 32, "transmit ring: cells whose descriptors are free of DMA"),
        Field("completion_producer", 32, "completion ring: kept for commands; zero"),
    ),
)

INDEX_SLOT_BYTES = 64
"""Distance of index slots: a cache line each, so that queues do not share one."""


def record_cells(header_length: int, extensions: int = 0) -> int:
    """Cells that a record takes in its receive ring."""
    return (RECORD.bytes + 8 * extensions + header_length + CELL_BYTES - 1) // CELL_BYTES


def descriptor_cells(header_length: int, references: int) -> int:
    """Cells that a descriptor takes in its transmit ring."""
    more = 8 * max(references - 1, 0)
    return (DESCRIPTOR.bytes + more + header_length + CELL_BYTES - 1) // CELL_BYTES
