"""Retransmissions that prove to have been for nothing, and the reduction that came with them.

Found in two ways: the first new acknowledgement echoes a time stamp from before the retransmission
(Eifel, RFC 3522), or the peer reports by D-SACK that all that was sent again came twice (RFC 2883
section 5, RFC 3708). Answered as RFC 4015 says: window and threshold are given back, and after a
time-out new data follows instead of old, with a time-out that fits the delay.
"""

from ..compile import part
from . import congestion, counters
from .rows import count
from .sequence import later, time_stamp
from .tables import MILLISECOND
from .timers import RTO_MAX, remeasure

NONE = 0
LOSS = 1
TIMEOUT = 2
LATE = 4
"""Beside one of them: the first acknowledgement is over, only D-SACK can tell now."""


@part
def begin(c, kind, now):
    """A reduction comes, by LOSS or TIMEOUT, for what is outstanding; before any of it."""
    congestion.save(c, c["snd_max"] - c["snd_una"])
    c["undo"] = kind
    c["undo_stamp"] = time_stamp(c, now)
    c["undo_start"] = c["snd_una"]
    c["undo_end"] = c["snd_max"]
    c["undo_bytes"] = 0


@part
def sent_again(c, length):
    """`length` bytes went once more."""
    if c["undo"]:
        c["undo_bytes"] += length


@part
def undo(s, c, acked):
    """It was for nothing."""
    count(s, counters.REDUCTIONS_UNDONE)
    congestion.undo(c, c["snd_max"] - c["snd_una"], acked)
    if c["undo"] & TIMEOUT:
        c["recover"] = c["snd_una"]  # losses of this flight can be found again
        c["snd_nxt"] = c["snd_max"]
    c["undo"] = NONE
    c["recovery"] = 0
    c["dup_acks"] = 0
    c["high_rxt"] = c["snd_una"]


@part
def on_new_ack(s, c, acked, now):
    """The first ACK of new data since the retransmission; True if that was for nothing."""
    p = s["parsed"]
    first = c["undo"] & LATE == 0 and c["ts_ok"] and p["tsecr"] != 0
    taken = later(time_stamp(c, now), p["tsecr"]) * MILLISECOND
    if not first or later(p["tsecr"], c["undo_stamp"]) >= 0 or taken > RTO_MAX:
        c["undo"] |= LATE
        return False
    if c["undo"] & TIMEOUT:
        remeasure(c, taken)
    undo(s, c, acked)
    return True


@part
def on_duplicate_report(s, c, start, end):
    """A D-SACK: the peer got `start` to `end` twice. Not believed beyond what was sent again."""
    if c["undo"] == NONE or start < c["undo_start"] or end > c["undo_end"]:
        return
    c["undo_bytes"] -= end - start
    if c["undo_bytes"] == 0 and c["snd_una"] >= c["undo_end"]:
        undo(s, c, 0)
