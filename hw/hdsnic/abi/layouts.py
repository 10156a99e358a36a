"""What lies in memory: records, descriptors, post cells, index slots.

All rings count in cells: 16 bytes in receive and transmit rings, 8 bytes in post rings. Indices
are free-running 32-bit cell counts.
"""

from enum import IntEnum

from .layout import Field, Layout

__all__ = [
    "CELL_BYTES", "CHAINED_BUFFER", "COMMAND", "COMMAND_RANGE", "COMPLETION", "DESCRIPTOR",
    "EXACT_RULE", "INDEX_SLOT", "INDEX_SLOT_BYTES", "POST_CELL", "RECORD", "REFERENCE",
    "RING_BYTES_MIN", "TIME_STAMP", "VLAN_TAG", "CommandKind", "CompletionKind",
    "descriptor_cells", "record_cells",
]  # fmt: skip

CELL_BYTES = 16
"""Bytes in a cell of a receive or transmit ring; records and descriptors start on cells."""

RING_BYTES_MIN = 4096
"""Rings are a power of two of at least this, and aligned to it, so that the splitter at 4 KiB
boundaries also does the wrap."""

RECORD = Layout(
    "record",
    "Fixed part of a record in a receive ring. `extensions` words of 8 bytes follow: the time stamp"
    " if `time_stamp` is set, then a chained buffer for each buffer after the first; then come the"
    " header bytes. The next record starts on the next cell.",
    (
        Field("header_length", 14, "bytes of header in this record (the whole frame if unsplit)"),
        Field("payload_length", 14, "bytes of payload written to the buffers; 0 if none"),
        Field("extensions", 4, "8-byte words between this part and the header"),
        Field("element", 24, "element of the region that took the payload, or its first part"),
        Field("region", 8, "region that took the payload, or its first part"),
        Field(
            "hash",
            32,
            "receive-side scaling hash, 0 where none was computed; of a PLACED record: the cookie"
            " of its command",
        ),
        Field(
            "tag",
            12,
            "rule that matched: below LISTENERS a listener rule, from 1024 on 1024 + the slot of an"
            " exact rule, modulo 4096; of a MALFORMED record: the RxOutcome for which it would have"
            " been dropped",
        ),
        Field("reason", 5, "RxOutcome of the frame (below 16)"),
        Field("vlan_tags", 2, "VLAN tags in the header (0 to 2)"),
        Field("ipv6", 1, "IP version 6; meaningless where reason is NOT_IP"),
        Field("checksum_good", 1, "IP and TCP or UDP checksums were verified"),
        Field("time_stamp", 1, "the first extension is a time stamp"),
        Field("spare", 2, "zero"),
        Field("posted_left", 8, "ready buffers left in the queue, saturating at 255"),
    ),
)

TIME_STAMP = Layout(
    "time_stamp",
    "Extension of a record: when the last beat of the frame came from the MAC.",
    (Field("cycles", 64, "cycle count, as CYCLES tells it"),),
)

CHAINED_BUFFER = Layout(
    "chained_buffer",
    "Extension of a record: a buffer after the first. All but the last of a chain are full; the"
    " first holds what the others do not (R9).",
    (
        Field("element", 24, "element of the region"),
        Field("region", 8, "region"),
        Field("length", 16, "bytes of payload in this buffer"),
        Field("spare", 16, "zero"),
    ),
)

DESCRIPTOR = Layout(
    "descriptor",
    "Fixed part of a descriptor in a transmit ring; the first reference stands in it (ignored if"
    " `references` is 0). Then follow, 8 bytes each: the VLAN tag if `vlan` is set, the second and"
    " later references; then the header bytes. The next descriptor starts on the next cell. With"
    " `tso` the header is a template for every segment: the checksum field of TCP holds the"
    " pseudo-header sum without the length.",
    (
        Field("header_length", 16, "bytes of header inline"),
        Field("references", 8, "pieces of payload that follow the header in the frame"),
        Field("l3_offset", 8, "byte offset of the IP header in the frame"),
        Field("l4_offset", 8, "byte offset of the TCP or UDP header in the frame"),
        Field("ipv4_checksum", 1, "insert the IPv4 header checksum"),
        Field("tcp_checksum", 1, "insert the TCP checksum; its field holds the pseudo-header sum"),
        Field("udp_checksum", 1, "insert the UDP checksum; its field holds the pseudo-header sum"),
        Field("tso", 1, "cut the payload into segments of `mss` bytes, with checksums"),
        Field("vlan", 1, "insert an 802.1Q tag after the MAC addresses"),
        Field("spare", 3, "zero"),
        Field("mss", 16, "with `tso`: bytes of payload in a segment, at least 64; else zero"),
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

VLAN_TAG = Layout(
    "vlan_tag",
    "Word of a transmit descriptor with `vlan`. Offsets count in the frame without this tag.",
    (Field("tci", 16, "priority, drop eligibility, VLAN number"), Field("spare", 48, "zero")),
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
        Field("completion_producer", 32, "completion ring: cells whose completions are whole"),
    ),
)


class CommandKind(IntEnum):
    """What a command asks for; the completion of every kind repeats its `cookie`."""

    PLACE = 1
    """Move ranges of header memory into buffers posted to `queue`; makes a PLACED record."""
    REVOKE = 2
    """Revoke the regions of the bit mask `offset`; completes when no access can follow (I6)."""
    RULE = 3
    """Store the exact rule that follows (EXACT_RULE); fenced as by FENCE, so it completes when no
    frame that was looked up before is on its way (R15)."""
    FENCE = 4
    """Completes when every frame looked up before it has completed, and the receive indices that
    show it are written (R15)."""
    QUEUE_RESET = 5
    """Switch `queue` off and drop what waits in it; completes when its indices are final."""


class CompletionKind(IntEnum):
    """What a completion tells."""

    COMMAND = 1
    """A command is done, or was refused: see `status`."""
    RECEIVE_FAULT = 2
    """A record was voided; `index` is where its receive ring stopped, `status` an RxOutcome."""
    TRANSMIT_FAULT = 3
    """A descriptor was refused or failed; `index` is its cell, `status` a TxOutcome."""
    POST_FAULT = 4
    """A cell of a post ring was refused; `index` is the cell, `status` a PostOutcome."""


COMMAND = Layout(
    "command",
    "Fixed part of a command in the command ring; a PLACE with more than one range has the others"
    " behind it (COMMAND_RANGE, 8 bytes each), a RULE its EXACT_RULE. The next command starts on"
    " the next cell.",
    (
        Field("kind", 8, "CommandKind"),
        Field("queue", 8, "queue that it concerns"),
        Field("ranges", 8, "PLACE: ranges, 1 to 16"),
        Field("spare", 8, "zero"),
        Field("cookie", 32, "comes back in the completion, and in the `hash` of a PLACED record"),
        Field("offset", 32, "PLACE: first range's byte in header memory; REVOKE: mask of regions"),
        Field("length", 16, "PLACE: bytes of the first range"),
        Field("spare_2", 16, "zero"),
    ),
)

COMMAND_RANGE = Layout(
    "command_range",
    "A range of header memory in a PLACE command, after the first.",
    (
        Field("offset", 32, "byte in header memory"),
        Field("length", 16, "bytes"),
        Field("spare", 16, "zero"),
    ),
)

EXACT_RULE = Layout(
    "exact_rule",
    "An exact rule: the 5-tuple of one flow, as its frames arrive, and where they go. The driver"
    " chooses the slot among those in which the hash of the tuple lets the device look.",
    (
        Field("slot", 16, "slot of the table"),
        Field("valid", 1, "0 clears the slot"),
        Field("ipv6", 1, "IP version 6"),
        Field("udp", 1, "1: UDP, 0: TCP"),
        Field("rss", 1, "1: `queue` is a context of receive-side scaling, which chooses the queue"),
        Field("spare", 4, "zero"),
        Field("queue", 8, "queue of matching frames, or context"),
        Field("remote_port", 16, "source port, a number"),
        Field("local_port", 16, "destination port, a number"),
        Field("remote", 128, "source address, first byte in bits 7:0; IPv4 takes the first four"),
        Field("local", 128, "destination address, likewise"),
        Field("spare_2", 64, "zero"),
    ),
)

COMPLETION = Layout(
    "completion",
    "A cell of a completion ring.",
    (
        Field("kind", 8, "CompletionKind"),
        Field("queue", 8, "queue that it concerns"),
        Field("status", 8, "outcome; of a COMMAND: 0 done, 1 refused, 2 lost by a port failure"),
        Field("spare", 8, "zero"),
        Field("cookie", 32, "of the command"),
        Field("index", 32, "ring index that it concerns"),
        Field("cycles", 32, "low half of the cycle count when it was written"),
    ),
)

INDEX_SLOT_BYTES = 64
"""Distance of index slots: a cache line each, so that queues do not share one."""


def record_cells(header_length: int, extensions: int = 0) -> int:
    """Cells that a record takes in its receive ring."""
    return (RECORD.bytes + 8 * extensions + header_length + CELL_BYTES - 1) // CELL_BYTES


def descriptor_cells(header_length: int, references: int, vlan: bool = False) -> int:
    """Cells that a descriptor takes in its transmit ring."""
    more = 8 * max(references - 1, 0) + 8 * vlan
    return (DESCRIPTOR.bytes + more + header_length + CELL_BYTES - 1) // CELL_BYTES
