"""What flows between the blocks of the transmit path; see the picture in README.md."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from .. import abi
from ..interfaces import count_bits

__all__ = [
    "CELL_BITS", "OFFSET_BITS", "PAYLOAD_BITS", "TAG_BYTES", "BeatOfFrame", "Begun", "CheckItem",
    "Close", "Finish", "FrameMeta", "HeaderBeat", "Job", "Piece", "Retirement", "TaggedHeader",
    "Visit", "beats_bits", "beats_max", "length_bits", "queue_bits", "reference_shape",
]  # fmt: skip

CELL_BITS = 20
"""Bits of a count of cells within a visit: twice a ring of 4 MiB (2**18 cells) and more."""

OFFSET_BITS = 9
"""Bits of a byte offset in a header: 8 of the descriptor, and a tag or a checksum field more."""

PAYLOAD_BITS = 24
"""Bits of the sum of a descriptor's references: 255 of 65,535 bytes."""

TAG_BYTES = 4
"""An 802.1Q tag."""

reference_shape = abi.REFERENCE.as_amaranth()


def queue_bits(parameters) -> int:
    """Bits of a queue's number; at least 1."""
    return max(1, (parameters.queues - 1).bit_length())


def beats_max(parameters) -> int:
    """Beats of the largest frame."""
    return -(-parameters.frame_bytes_max // parameters.bus_bytes)


def beats_bits(parameters) -> int:
    """Bits of a count of beats of one frame."""
    return count_bits(beats_max(parameters))


def length_bits(parameters) -> int:
    """Bits of the length of a frame."""
    return count_bits(parameters.frame_bytes_max)


class Visit(data.StructLayout):
    """A queue is served from cell `position` on."""

    def __init__(self, parameters):
        super().__init__({"queue": queue_bits(parameters), "position": 32})


class Close(data.StructLayout):
    """The reads of a visit ended at cell `issued`; `available` cells of its ring were filled."""

    def __init__(self):
        super().__init__({"issued": unsigned(CELL_BITS), "available": unsigned(CELL_BITS)})


class Finish(data.StructLayout):
    """The end of a visit: the queue goes on at `position`, and wants at least `need` cells then."""

    def __init__(self, parameters):
        super().__init__({"queue": queue_bits(parameters), "position": 32, "need": CELL_BITS})


class HeaderBeat(data.StructLayout):
    """Inline header bytes, from lane 0 on: `count` of them, all lanes but on the last beat."""

    def __init__(self, bus_bytes):
        super().__init__(
            {"data": 8 * bus_bytes, "count": count_bits(bus_bytes), "last": 1, "error": 1}
        )


class TaggedHeader(data.StructLayout):
    """Inline header bytes, and on each beat the VLAN tag that is to stand in them, if `vlan`."""

    def __init__(self, bus_bytes):
        super().__init__({"beat": HeaderBeat(bus_bytes), "vlan": 1, "tci": 16})


class Begun(data.StructLayout):
    """`bytes` of a queue's ring share were given to a descriptor."""

    def __init__(self, parameters):
        super().__init__({"queue": queue_bits(parameters), "bytes": PAYLOAD_BITS})


class Job(data.StructLayout):
    """A descriptor whose references were checked.

    `verdict` is a TxOutcome; but for SENT nothing of it is gathered. `header`: beats follow in the
    header FIFO. Lengths and offsets count a VLAN tag. Of the payload the first frame takes
    `segment` bytes, and `later` bytes are left then; the check fills these in. `position` is the
    descriptor's cell, `consumer` the transmit ring's consumer index behind it, published if
    `advance`.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": queue_bits(parameters),
                "verdict": 3,
                "header": 1,
                "header_length": length_bits(parameters),
                "payload_length": PAYLOAD_BITS,
                "segment": length_bits(parameters),
                "later": PAYLOAD_BITS,
                "l3_offset": OFFSET_BITS,
                "l4_offset": OFFSET_BITS,
                "ipv4_checksum": 1,
                "tcp_checksum": 1,
                "udp_checksum": 1,
                "tso": 1,
                "mss": length_bits(parameters),
                "position": 32,
                "consumer": 32,
                "advance": 1,
            }
        )


class CheckItem(data.StructLayout):
    """A reference to be checked, or (`has_reference` = 0) a descriptor without any.

    `finish` marks the last item of a descriptor; all of `job` but `queue` is read there.
    `job.verdict` other than SENT refuses the descriptor whatever the check says.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "reference": reference_shape,
                "has_reference": 1,
                "finish": 1,
                "job": Job(parameters),
            }
        )


class Piece(data.StructLayout):
    """A checked piece of payload: `length` bytes from bus address `address` on."""

    def __init__(self, parameters):
        super().__init__({"address": parameters.address_bits, "length": 16})


class BeatOfFrame(data.StructLayout):
    """A packed beat of a frame; lanes from `count` on are zero.

    `good` counts on the `last` beat: 0 drops the frame. What follows it is the same on each beat of
    a frame: offsets and switches of its job, and of a segment its `length` (of the frame) and
    whether it is the `opening` or the `closing` one of its descriptor. `extra` is added to the TCP
    sum (in the order of memory).
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "data": 8 * parameters.bus_bytes,
                "count": count_bits(parameters.bus_bytes),
                "last": 1,
                "good": 1,
                "l3_offset": OFFSET_BITS,
                "l4_offset": OFFSET_BITS,
                "ipv4_checksum": 1,
                "tcp_checksum": 1,
                "udp_checksum": 1,
                "tso": 1,
                "mss": length_bits(parameters),
                "opening": 1,
                "closing": 1,
                "length": length_bits(parameters),
                "extra": 16,
            }
        )


class Retirement(data.StructLayout):
    """A descriptor is through: all of its reads were answered, or it was refused."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": queue_bits(parameters),
                "verdict": 3,
                "position": 32,
                "consumer": 32,
                "advance": 1,
            }
        )


class FrameMeta(data.StructLayout):
    """A whole frame in the buffer: its size and the checksums to be inserted (`*_at`: byte offset).

    `count` is the number of bytes in the last beat; checksums are in the order of memory (first
    byte in bits 7:0).
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "last_beat": beats_bits(parameters),
                "count": count_bits(parameters.bus_bytes),
                "l3": 1,
                "l3_at": OFFSET_BITS,
                "l3_checksum": 16,
                "l4": 1,
                "l4_at": OFFSET_BITS,
                "l4_checksum": 16,
            }
        )
