"""When an ACK is sent: at once, or delayed, as Linux decides it.

At once for whatever is out of the ordinary (`urgent`), for more than one full segment, and for the
first segments of a burst (quick ACKs), so that a peer in slow start is not held up. A connection
on which both sides talk in turns leaves the quick mode: its ACKs ride on the answers.
"""

from ..compile import part
from .tables import MILLISECOND, NEVER
from .timers import update_deadline

DELAYED_ACK = 40 * MILLISECOND
"""RFC 1122 allows 500 ms; what interactive peers expect is 40 ms."""
QUICK_MAX = 16
"""Segments acknowledged at once when data begins to come."""
SEGMENT_LEAST = 88
SEGMENT_FIRST = 536


@part
def begin(s, c):
    """The connection is established: the peer's segments are believed to be small."""
    c["rcv_mss"] = max(min(SEGMENT_FIRST, min(c["mss"], s["control"]["mss"])), SEGMENT_LEAST)


@part
def urgent(c):
    """The next ACK goes out with this segment's handling."""
    c["unacked"] = 2


@part
def on_data(s, index, length, now):
    """A segment with `length` bytes came in order; decides about its ACK."""
    c = s["connections"][index]
    if length >= c["rcv_mss"]:
        c["rcv_mss"] = min(length, s["control"]["mss"])
    if c["data_at"] == 0 or now - c["data_at"] > c["rto"]:
        c["quick"] = QUICK_MAX
    c["data_at"] = now
    if (c["quick"] > 0 and c["pingpong"] == 0) or c["rcv_nxt"] - c["last_ack"] > c["rcv_mss"]:
        urgent(c)
        return
    c["unacked"] = max(c["unacked"], 1)
    if c["ack_at"] == NEVER:
        c["ack_at"] = now + DELAYED_ACK
        update_deadline(s, index)


@part
def on_ack_sent(c):
    """A segment with an ACK goes out."""
    c["unacked"] = 0
    if c["quick"] > 0:
        c["quick"] -= 1


@part
def on_data_sent(c, now):
    """Data goes out: soon after data came, both sides talk in turns."""
    if now - c["data_at"] < DELAYED_ACK:
        c["pingpong"] = 1


@part
def on_delayed(c):
    """The delayed ACK had to go alone: they do not talk in turns after all."""
    c["pingpong"] = 0


@part
def set_quick(c, on):
    """What TCP_QUICKACK asks for."""
    c["quick"] = QUICK_MAX if on else 0
    c["pingpong"] = 0 if on else 1
