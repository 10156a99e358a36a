"""Rows of `frames`: whole frames of the stack's own (ICMP, NDP), written here byte by byte."""

from ..compile import part
from ..tcp import counters
from ..tcp.emit import take_segment
from ..tcp.rows import count, segment_room
from ..tcp.sequence import refill
from ..tcp.tables import (
    FRAME_BYTES,
    FRAMES,
    NONE,
    SECOND,
    SEGMENTS_RESERVE,
    WHOLE_FRAME,
)

STACK_QUEUE = 0
"""Queue whose transmit ring carries what belongs to no application."""
PER_SECOND = 1000
BURST = 100
"""Answers to strangers: frames a second, and at once."""


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


@part
def may_answer(s, frames, now):
    """Whether so many frames of an answer may go and find room; counted if not."""
    control = s["control"]
    tokens = refill(control["echo_tokens"], control["echo_filled"], now, PER_SECOND, BURST)
    control["echo_filled"] = now
    control["echo_tokens"] = tokens
    room = frames <= FRAMES and tokens >= frames * SECOND
    room = room and (frames == 1 or segment_room(s, STACK_QUEUE) >= frames + SEGMENTS_RESERVE)
    for step in range(min(frames, FRAMES)):
        row = s["frames"][(control["frame_next"] + step) % FRAMES]
        room = room and row["length"] == 0
    if not room:
        count(s, counters.ICMP_WITHHELD)
    return room


@part
def begin_answer(s, size, now):
    """A row of `frames` for `size` bytes; -1, counted, where the rate limit or room forbids it."""
    if not may_answer(s, 1, now):
        return NONE
    slot = begin_frame(s, size)
    if slot < 0:
        count(s, counters.ICMP_WITHHELD)
        return slot
    s["control"]["echo_tokens"] -= SECOND
    return slot
