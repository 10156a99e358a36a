"""What a connection sends: SYN, data within both windows, FIN, retransmissions, probes.

A segment's payload is up to MAX_REFERENCES references into the application's pools, walked from
the connection's list of sends; nothing is copied. Nagle's algorithm is off: applications here say
what they want sent, and partial segments wait only for the peer's window.
"""

from ..compile import part
from . import congestion, counters, states
from .close import finish
from .emit import ACK, FIN, PSH, SYN, begin_segment, emit_ack
from .events import CloseReason
from .rows import count, segment_room, set_pending
from .tables import MAX_REFERENCES, NEVER, NONE, SEGMENTS_RESERVE
from .timers import arm_retransmit, timeout
from .window import offered_edge

INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)


@part
def region_serves(s, queue, region, generation):
    """Whether `region` is live, of this generation, and the application of `queue` owns it."""
    row = s["regions"][region]
    return row["live"] == 1 and row["generation"] == generation and row["queue"] == queue


@part
def emit_data(s, index, seq, length, flags):
    """A segment with up to `length` bytes from `seq`; gives the bytes taken, or -1 if a region of
    them is gone. Fewer than `length` where they are scattered over too many references; FIN and
    PSH are then left out."""
    c = s["connections"][index]
    queue = c["queue"]
    at = c["send_cursor"]
    if at < 0 or s["sends"][at]["seq"] > seq:
        at = c["send_head"]
    while at >= 0 and s["sends"][at]["seq"] + s["sends"][at]["length"] <= seq:
        at = s["sends"][at]["next"]
    row = begin_segment(s, index, seq, flags)
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
        at = send["next"]
    row["references"] = used
    row["payload"] = taken
    if taken < length:
        row["flags"] = flags & ~(FIN | PSH)
        if used == 0:
            s["queues"][queue]["segments_head"] -= 1
            return -1
    if first >= 0:
        c["send_cursor"] = first
    return taken


@part
def send_syn(s, index, now):
    """SYN or SYN-ACK."""
    c = s["connections"][index]
    if segment_room(s, c["queue"]) <= 0:
        set_pending(s, index)
        return
    flags = SYN if c["state"] == states.SYN_SENT else SYN | ACK
    begin_segment(s, index, c["iss"], flags)
    if c["retries"] == 0 and c["timing_seq"] < 0:
        c["timing_seq"] = c["iss"] + 1
        c["timing_at"] = now
    c["snd_nxt"] = c["iss"] + 1
    c["snd_max"] = c["snd_nxt"]
    arm_retransmit(s, index, now)


@part
def sent(s, index, seq, length, fin, now):
    """`length` bytes (and FIN) from `seq` = snd_nxt have been handed out."""
    c = s["connections"][index]
    end = seq + length + fin
    if seq >= c["snd_max"]:
        if c["timing_seq"] < 0:
            c["timing_seq"] = end
            c["timing_at"] = now
    else:
        count(s, counters.RETRANSMITS)
        c["timing_seq"] = NONE  # Karn: an ACK would not tell which one it is for
    c["snd_nxt"] = end
    c["snd_max"] = max(c["snd_max"], end)
    c["sent_at"] = now
    if fin:
        if c["state"] == states.ESTABLISHED:
            c["state"] = states.FIN_WAIT_1
        elif c["state"] == states.CLOSE_WAIT:
            c["state"] = states.LAST_ACK
    if c["retransmit_at"] == NEVER:
        if c["snd_una"] == seq and c["retries"] == 0:
            c["progress_at"] = now
        arm_retransmit(s, index, now)


@part
def sends_data(state):
    """States in which the stream to the peer is not yet wholly acknowledged."""
    return (
        state == states.ESTABLISHED
        or state == states.CLOSE_WAIT
        or state == states.FIN_WAIT_1
        or state == states.CLOSING
        or state == states.LAST_ACK
    )


@part
def output(s, index, now):
    """Send what may be sent now. Where there is no room it goes on by `set_pending`."""
    c = s["connections"][index]
    if c["mac_known"] == 0 or c["state"] == states.FREE or c["state"] == states.DEAD:
        return
    if c["state"] == states.SYN_SENT or c["state"] == states.SYN_RECEIVED:
        if c["snd_nxt"] == c["iss"]:
            send_syn(s, index, now)
        return
    if sends_data(c["state"]):
        if c["snd_una"] == c["snd_max"] and now - c["sent_at"] > timeout(c):
            congestion.on_idle(c)
        going = True
        while going:
            going = False
            window = c["cwnd"]
            if c["recovery"] == 0:
                # limited transmit (RFC 3042)
                window += min(c["dup_acks"], 2) * c["mss"]
            seq = c["snd_nxt"]
            usable = c["snd_una"] + min(window, c["snd_wnd"]) - seq
            left = c["snd_end"] - seq
            length = max(min(left, min(usable, c["mss"])), 0)
            fin = 1 if c["fin"] and left >= 0 and length == left else 0
            # silly window avoidance (RFC 9293 section 3.8.6.2.1)
            whole = length == c["mss"] or length == left or 2 * length >= c["max_wnd"]
            if (length > 0 and (whole or seq < c["snd_max"])) or fin:
                if segment_room(s, c["queue"]) <= SEGMENTS_RESERVE:
                    set_pending(s, index)
                    break
                flags = ACK | (PSH if length == left and length > 0 else 0) | (FIN if fin else 0)
                taken = 0
                if length > 0:
                    taken = emit_data(s, index, seq, length, flags)
                    if taken < 0:
                        finish(s, index, INVALID_REQUEST, 1)
                        return
                    if taken < length:
                        fin = 0
                else:
                    begin_segment(s, index, seq, flags)
                sent(s, index, seq, taken, fin, now)
                going = True
            elif left > 0 and seq == c["snd_una"] and c["retransmit_at"] == NEVER:
                # the peer's window keeps us from sending anything: probe it
                c["persist"] = 1
                c["backoff"] = 0
                c["heard_at"] = max(c["heard_at"], now)
                arm_retransmit(s, index, now)
    if c["unacked"] >= 2:
        emit_ack(s, index)


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
    length = min(left, min(max(c["snd_wnd"], 1), c["mss"]))
    count(s, counters.ZERO_WINDOW_PROBES)
    taken = emit_data(s, index, seq, length, ACK)
    if taken < 0:
        finish(s, index, INVALID_REQUEST, 1)
        return
    c["snd_nxt"] = seq + taken
    c["snd_max"] = max(c["snd_max"], c["snd_nxt"])
    c["timing_seq"] = NONE


@part
def retransmit_first(s, index):
    """The first segment that is not acknowledged, once more; snd_nxt stays."""
    c = s["connections"][index]
    if segment_room(s, c["queue"]) <= 0:
        return
    seq = c["snd_una"]
    left = c["snd_end"] - seq
    length = min(left, c["mss"])
    fin_sent = c["snd_max"] > c["snd_end"]
    if length <= 0:
        if fin_sent and left == 0:
            begin_segment(s, index, seq, ACK | FIN)
            count(s, counters.RETRANSMITS)
        return
    flags = ACK | (FIN if fin_sent and length == left else 0)
    if emit_data(s, index, seq, length, flags) < 0:
        finish(s, index, INVALID_REQUEST, 1)
        return
    count(s, counters.RETRANSMITS)
    c["timing_seq"] = NONE


@part
def advertise(s, index):
    """Tell the peer of a window that could be twice as large now, or opens."""
    c = s["connections"][index]
    if not (c["state"] >= states.ESTABLISHED and c["state"] <= states.FIN_WAIT_2):
        return
    mss = s["control"]["mss"]
    window = c["rcv_adv"] - c["rcv_nxt"]
    grown = offered_edge(s, c) - c["rcv_adv"]
    if grown >= max(2 * mss, window) or (window < mss and grown >= mss):
        emit_ack(s, index)
