"""What flows between the blocks of the transmit path; see the picture in README.md."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from .. import abi
from ..interfaces import count_bits

__all__ = [
    "CELL_BITS", "BeatOfFrame", "CheckItem", "Finish", "FrameMeta", "HeaderBeat", "Job", "Piece",
    "Retirement", "Visit", "beats_bits", "beats_max", "queue_bits", "reference_shape",
]  # fmt: skip

CELL_BITS = 20
"""Bits of a count of cells within a visit: a ring of 4 MiB (2**18 cells) and a descriptor more."""

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


class Visit(data.StructLayout):
    """A queue is served from cell `position` on; `available` cells of its ring are filled."""

    def __init__(self, parameters):
        super().__init__(
            {"queue": queue_bits(parameters), "position": 32, "available": unsigned(CELL_BITS)}
        )


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


class Job(data.StructLayout):
    """A descriptor whose references were checked.

    `verdict` is a TxOutcome; but for SENT nothing of it is gathered. `header`: beats follow in the
    header FIFO. `consumer` is the transmit ring's consumer index behind it, published if `advance`.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": queue_bits(parameters),
                "verdict": 3,
                "header": 1,
                "references": 8,
                "l3_offset": 8,
                "l4_offset": 8,
                "ipv4_checksum": 1,
                "tcp_checksum": 1,
                "udp_checksum": 1,
                "consumer": 32,
                "advance": 1,
                "beats": beats_bits(parameters),
            }
        )


class CheckItem(data.StructLayout):
    """A reference to be checked, or (`has_reference` = 0) a descriptor without any.

    `finish` marks the last item of a descriptor; `job` and `header_length` are read there.
    `job.verdict` other than SENT refuses the descriptor whatever the check says, and `job.beats` is
    the room that was reserved in the frame buffer.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "reference": reference_shape,
                "has_reference": 1,
                "finish": 1,
                "header_length": 16,
                "job": Job(parameters),
            }
        )


class Piece(data.StructLayout):
    """A checked piece of payload: `length` bytes from bus address `address` on."""

    def __init__(self, parameters):
        super().__init__({"address": parameters.address_bits, "length": 16})


class BeatOfFrame(data.StructLayout):
    """A packed beat of a frame; lanes from `count` on are zero.

    `good` counts on the `last` beat: 0 drops the frame. The offsets and switches are those of the
    frame's job, on each beat.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "data": 8 * parameters.bus_bytes,
                "count": count_bits(parameters.bus_bytes),
                "last": 1,
                "good": 1,
                "l3_offset": 8,
                "l4_offset": 8,
                "ipv4_checksum": 1,
                "tcp_checksum": 1,
                "udp_checksum": 1,
            }
        )


class Retirement(data.StructLayout):
    """A descriptor is through: all of its reads were answered, or it was refused."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": queue_bits(parameters),
                "verdict": 3,
                "consumer": 32,
                "advance": 1,
                "beats": beats_bits(parameters),
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
                "l3_at": 9,
                "l3_checksum": 16,
                "l4": 1,
                "l4_at": 9,
                "l4_checksum": 16,
            }
        )
