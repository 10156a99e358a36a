"""Rows of `frames`: whole frames of the stack's own (ICMP, NDP), written here byte by byte."""

from ..compile import part
from ..tcp.emit import take_segment
from ..tcp.rows import segment_room
from ..tcp.tables import FRAME_BYTES, FRAMES, NONE, WHOLE_FRAME

STACK_QUEUE = 0
"""Queue whose transmit ring carries what belongs to no application."""


@part
def begin_frame(s, size):
    """A row for a frame of `size` bytes, already on its way; the caller fills it. -1: no room."""
    control = s["control"]
    slot = control["frame_next"] % FRAMES
    if size > FRAME_BYTES or segment_room(s, STACK_QUEUE) <= 0 or s["frames"][slot]["length"] != 0:
        return NONE
    control["frame_next"] += 1
    s["frames"][slot]["length"] = size
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = WHOLE_FRAME
    row["connection"] = NONE
    row["frame"] = slot
    return slot
