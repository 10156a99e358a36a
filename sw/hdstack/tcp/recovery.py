"""What ACKs say about losses, and what is sent because of it.

With SACK: RFC 6675, over the ranges of `scoreboard`. Without: NewReno's recovery (RFC 6582). How
much the window falls is decided in `congestion`. RACK would add its own way of finding losses
beside `on_reports`, and keep the rest.
"""

from ..compile import part
from . import congestion, counters, scoreboard, spurious
from .data import retransmit, retransmit_first
from .rows import count, segment_room, set_pending
from .sequence import unwrap
from .tables import SEGMENTS_RESERVE
from .timers import arm_retransmit

DUPLICATE_THRESHOLD = scoreboard.DUPLICATE_THRESHOLD


@part
def take_reports(s, c):
    """The parsed segment's SACK blocks into the scoreboard; bytes that were not known before.

    A D-SACK (RFC 2883) tells of bytes that came twice; it is counted, is no loss, and may show that
    a retransmission was for nothing.
    """
    p = s["parsed"]
    fresh = 0
    una = c["snd_una"]
    ack = min(unwrap(p["ack"], una), una)
    for at in range(p["sacks"]):
        start = unwrap(p["sack"][2 * at], una)
        end = unwrap(p["sack"][2 * at + 1], una)
        if start >= end or end > c["snd_max"]:
            continue
        if at == 0 and (end <= ack or _inside_second(p, start, end, una)):
            count(s, counters.DUPLICATES_REPORTED)
            spurious.on_duplicate_report(s, c, start, end)
            continue
        if end > una:
            fresh += scoreboard.add(s, c, max(start, una), end)
    return fresh


@part
def _inside_second(p, start, end, near):
    """Whether the second block covers the first (RFC 2883 section 4.2)."""
    return (
        p["sacks"] > 1
        and unwrap(p["sack"][2], near) <= start
        and end <= unwrap(p["sack"][3], near)
    )  # fmt: skip


@part
def enter(s, index, now):
    """A loss was found: reduce, send its first segment again."""
    c = s["connections"][index]
    count(s, counters.FAST_RETRANSMITS)
    spurious.begin(c, spurious.LOSS, now)
    congestion.on_loss(c, c["snd_max"] - c["snd_una"])
    c["recover"] = c["snd_max"]
    c["recovery"] = 1
    arm_retransmit(s, index, now)
    if c["sack_ok"]:
        c["rescue_rxt"] = c["snd_una"]
    else:
        c["cwnd"] += DUPLICATE_THRESHOLD * c["mss"]
    c["high_rxt"] = max(retransmit_first(s, index), c["snd_una"])


@part
def on_reports(s, index, fresh, duplicate, now):
    """An ACK brought `fresh` bytes of SACK; `duplicate`: it moved nothing (RFC 6675 section 5)."""
    c = s["connections"][index]
    if fresh == 0:
        return
    if duplicate:
        count(s, counters.DUPLICATE_ACKS)
        c["dup_acks"] += 1
    if c["recovery"]:
        return
    c["high_rxt"] = c["snd_una"]
    lost = c["dup_acks"] >= DUPLICATE_THRESHOLD or scoreboard.first_is_lost(c)
    if lost and c["snd_una"] >= c["recover"]:
        enter(s, index, now)


@part
def on_duplicate_ack(s, index, now):
    """Without SACK: RFC 5681 section 3.2, RFC 6582."""
    c = s["connections"][index]
    count(s, counters.DUPLICATE_ACKS)
    c["dup_acks"] += 1
    if c["recovery"]:
        c["cwnd"] = min(c["cwnd"] + c["mss"], congestion.CWND_MAX)
    elif c["dup_acks"] == DUPLICATE_THRESHOLD and c["snd_una"] > c["recover"]:
        enter(s, index, now)


@part
def on_new_ack(s, index, acked, flight, now):
    """`acked` of `flight` bytes are acknowledged, snd_una stands after them. 1 if NewReno's next
    hole is to be sent at once."""
    c = s["connections"][index]
    if c["undo"] and spurious.on_new_ack(s, c, acked, now):
        return 0
    if c["recovery"] == 0:
        c["dup_acks"] = 0
        congestion.on_ack(c, acked, flight, now)
        return 0
    if c["snd_una"] >= c["recover"]:
        c["recovery"] = 0
        c["dup_acks"] = 0
        if c["sack_ok"] == 0:
            congestion.on_recovered(c, c["snd_max"] - c["snd_una"])
        return 0
    if c["sack_ok"]:
        return 0
    mss = c["mss"]
    c["cwnd"] = max(c["cwnd"] - acked, mss) + (mss if acked >= mss else 0)
    return 1


@part
def on_timeout(s, c, first, now):
    """The retransmission timer fired: go back to the first byte that was not acknowledged."""
    if first:
        spurious.begin(c, spurious.TIMEOUT, now)
    congestion.on_timeout(c, c["snd_max"] - c["snd_una"], first)
    c["recover"] = c["snd_max"]
    c["recovery"] = 0
    c["dup_acks"] = 0
    c["high_rxt"] = c["snd_una"]
    c["snd_nxt"] = c["snd_una"]
    # a report of the very first byte, or one that did not help, is not believed any more
    head = c["ranges_head"]
    if not first or (head >= 0 and s["ranges"][head]["start"] == c["snd_una"]):
        scoreboard.forget(s, c)


@part
def send_holes(s, index, rescue):
    """In recovery: retransmit while the pipe has room (RFC 6675 section 5, steps C.1 to C.4).

    `rescue` 0: only what counts as lost (NextSeg rule 1); 1: there is no new data to send, so
    what is between reports, too, and once the tail (rules 3 and 4). True if room is left.
    """
    c = s["connections"][index]
    while c["cwnd"] - scoreboard.pipe(s, c) >= c["mss"]:
        if segment_room(s, c["queue"]) <= SEGMENTS_RESERVE:
            set_pending(s, index)
            return False
        start, end = scoreboard.next_hole(s, c, rescue == 0)
        if start >= 0:
            sent_to = retransmit(s, index, start, end)
            if sent_to < 0:
                return False
            c["high_rxt"] = sent_to
            continue
        if rescue and c["rescue_rxt"] <= c["snd_una"]:
            start, end = scoreboard.highest_hole(s, c)
            if c["high_rxt"] < end:  # else it has just gone
                retransmit(s, index, max(start, end - c["mss"]), end)
                c["rescue_rxt"] = c["recover"]
                return False
        return True
    return False
