"""Segments that carry payload: references into the application's pools, nothing copied.

A segment's payload is up to MAX_REFERENCES references, walked from the connection's list of sends.
"""

from ..compile import part
from . import counters, spurious
from .close import finish
from .emit import ACK, FIN, PSH, begin_segment, sack_bytes
from .events import CloseReason
from .rows import count, segment_room
from .scoreboard import unreported
from .tables import MAX_REFERENCES, NONE

INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)


@part
def region_serves(s, queue, region, generation):
    """Whether `region` is live, of this generation, and the application of `queue` owns it."""
    row = s["regions"][region]
    return row["live"] == 1 and row["generation"] == generation and row["queue"] == queue


@part
def payload_max(c):
    """Bytes that fit into a segment beside the options that it will carry."""
    return c["mss"] - sack_bytes(c)


@part
def emit_data(s, index, seq, length, flags):
    """A segment with up to `length` bytes from `seq`; gives the bytes taken, or -1 if a region of
    them is gone. Fewer than `length` where they are scattered over too many references; FIN is
    then left out. PSH stands where an application's send ends. More than a segment takes is cut by
    the card."""
    c = s["connections"][index]
    queue = c["queue"]
    at = c["send_cursor"]
    if at < 0 or s["sends"][at]["seq"] > seq:
        at = c["send_head"]
    while at >= 0 and s["sends"][at]["seq"] + s["sends"][at]["length"] <= seq:
        at = s["sends"][at]["next"]
    most = payload_max(c)  # before the segment takes the reports that are due
    row = begin_segment(s, index, seq, flags)
    flags = row["flags"]
    first = at
    taken = 0
    used = 0
    while at >= 0 and taken < length and used < MAX_REFERENCES:
        send = s["sends"][at]
        if not region_serves(s, queue, send["region"], send["generation"]):
            break
        skip = seq + taken - send["seq"]
        part_length = min(send["length"] - skip, length - taken)
        ref = row["ref"][used]
        ref["send"] = at
        ref["region"] = send["region"]
        ref["generation"] = send["generation"]
        ref["offset"] = send["offset"] + skip
        ref["length"] = part_length
        send["untaken"] += 1
        used += 1
        taken += part_length
        if skip + part_length == send["length"]:
            row["flags"] = flags | PSH
        else:
            row["flags"] = flags
        at = send["next"]
    row["references"] = used
    row["payload"] = taken
    if taken > most:
        row["cut"] = most
    if taken < length:
        row["flags"] &= ~FIN
        if used == 0:
            s["queues"][queue]["segments_head"] -= 1
            return -1
    if first >= 0:
        c["send_cursor"] = first
    return taken


@part
def retransmit(s, index, seq, end):
    """Bytes from `seq` to at most `end` once more, in one segment, FIN with them where it was
    sent; snd_nxt stays. Gives where the segment ended; -1: no room, or the connection is over."""
    c = s["connections"][index]
    if segment_room(s, c["queue"]) <= 0:
        return NONE
    left = c["snd_end"] - seq
    length = min(min(left, end - seq), payload_max(c))
    fin_sent = c["snd_max"] > c["snd_end"]
    if length <= 0:
        if not fin_sent or left != 0:
            return NONE
        begin_segment(s, index, seq, ACK | FIN)
        count(s, counters.RETRANSMITS)
        return seq + 1
    fin = 1 if fin_sent and length == left else 0
    taken = emit_data(s, index, seq, length, ACK | (FIN if fin else 0))
    if taken < 0:
        finish(s, index, INVALID_REQUEST, 1)
        return NONE
    count(s, counters.RETRANSMITS)
    spurious.sent_again(c, taken)
    c["timing_seq"] = NONE
    return seq + taken + (fin if taken == length else 0)


@part
def retransmit_first(s, index):
    """The first segment that is not acknowledged, once more."""
    c = s["connections"][index]
    seq, end = unreported(s, c, c["snd_una"])
    return retransmit(s, index, seq, end)


@part
def probe(s, index, now):
    """The persist timer fired: a byte beyond the window, or what fits in a small one."""
    c = s["connections"][index]
    if segment_room(s, c["queue"]) <= 0:
        return
    seq = c["snd_una"]
    left = c["snd_end"] - seq
    if left <= 0:
        return
    length = min(left, min(max(c["snd_wnd"], 1), payload_max(c)))
    count(s, counters.ZERO_WINDOW_PROBES)
    taken = emit_data(s, index, seq, length, ACK)
    if taken < 0:
        finish(s, index, INVALID_REQUEST, 1)
        return
    c["snd_nxt"] = seq + taken
    c["snd_max"] = max(c["snd_max"], c["snd_nxt"])
    c["timing_seq"] = NONE
