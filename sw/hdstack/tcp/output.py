"""What a connection sends: SYN, data within both windows, FIN, retransmissions.

A partial segment waits for what Nagle's algorithm and silly window avoidance say; TCP_NODELAY
leaves only the latter.
"""

from ..compile import part
from ..net.neighbour import touch
from . import acks, congestion, counters, recovery, spurious, states
from .close import finish
from .data import emit_data, payload_max
from .emit import ACK, FIN, SYN, begin_segment, emit_ack
from .events import CloseReason
from .rows import count, segment_room, set_pending
from .scoreboard import FAR, sacked_below, unreported
from .tables import NEVER, NONE, SEGMENTS_RESERVE
from .timers import arm_retransmit, timeout
from .window import offered_edge

INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)


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
        spurious.sent_again(c, min(length, c["snd_max"] - seq))
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
def send_window(s, c):
    """The right edge, by congestion and by the peer's window, up to which may be sent now."""
    window = c["cwnd"]
    if c["sack_ok"]:
        # what the peer has is not on the path any more
        window += sacked_below(s, c, c["snd_nxt"])
    elif c["recovery"] == 0 and c["snd_nxt"] == c["snd_max"]:
        window += min(c["dup_acks"], 2) * c["mss"]  # limited transmit: new data (RFC 3042)
    return c["snd_una"] + min(window, c["snd_wnd"])


@part
def waits_for_more(c, seq, length, most, fin):
    """Nagle's algorithm (RFC 9293 section 3.7.4) in Minshall's form, as Linux has it: a small new
    segment waits while another small one is not acknowledged. Not with TCP_NODELAY, nor for FIN,
    nor what is urgent."""
    return (
        c["nodelay"] == 0
        and fin == 0
        and length < most
        and seq >= c["snd_max"]
        and c["snd_sml"] > c["snd_una"]
        and c["snd_up"] <= seq
    )


@part
def send_next(s, index, edge, now):
    """One segment from snd_nxt on, up to `edge`; True if one was sent, and another may follow."""
    c = s["connections"][index]
    following = FAR
    if c["snd_nxt"] < c["snd_max"] and c["ranges_head"] >= 0:
        seq, following = unreported(s, c, c["snd_nxt"])
        c["snd_nxt"] = seq
    seq = c["snd_nxt"]
    most = payload_max(c)
    left = c["snd_end"] - seq
    length = max(min(min(left, following - seq), edge - seq), 0)
    if length > most:
        # full segments only; what remains is looked at by itself. The card would repeat an urgent
        # pointer in each segment that it cuts
        segments = min(length, s["control"]["tso_bytes"]) // most if c["snd_up"] <= seq else 1
        length = max(segments, 1) * most
    fin = 1 if c["fin"] and left >= 0 and length == left else 0
    # silly window avoidance (RFC 9293 section 3.8.6.2.1)
    whole = length >= most or length == left or 2 * length >= c["max_wnd"]
    if waits_for_more(c, seq, length, most, fin):
        return False
    if (length > 0 and (whole or seq < c["snd_max"])) or fin:
        if segment_room(s, c["queue"]) <= SEGMENTS_RESERVE:
            set_pending(s, index)
            return False
        flags = ACK | (FIN if fin else 0)
        taken = 0
        if length > 0:
            taken = emit_data(s, index, seq, length, flags)
            if taken < 0:
                finish(s, index, INVALID_REQUEST, 1)
                return False
            if taken < length:
                fin = 0
        else:
            begin_segment(s, index, seq, flags)
        if taken > 0:
            acks.on_data_sent(c, now)
            if taken % most:
                c["snd_sml"] = seq + taken
        sent(s, index, seq, taken, fin, now)
        return True
    if left > 0 and seq == c["snd_una"] and c["retransmit_at"] == NEVER:
        # the peer's window keeps us from sending anything: probe it
        c["persist"] = 1
        c["backoff"] = 0
        c["heard_at"] = max(c["heard_at"], now)
        arm_retransmit(s, index, now)
    return False


@part
def recover(s, index, now):
    """Sending in a recovery with SACK: lost segments, new ones, then what else may be missing."""
    c = s["connections"][index]
    while recovery.send_holes(s, index, 0):
        if not send_next(s, index, c["snd_una"] + c["snd_wnd"], now):
            if c["state"] != states.DEAD and c["pending"] == 0:
                recovery.send_holes(s, index, 1)
            return


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
            if c["unacked"] > 0 or c["send_cursor"] >= 0:
                touch(s, c, now)
        if c["recovery"] and c["sack_ok"]:
            recover(s, index, now)
        else:
            while send_next(s, index, send_window(s, c), now):
                pass
        if c["state"] == states.DEAD or c["state"] == states.FREE:
            return
    if c["unacked"] >= 2:
        emit_ack(s, index)


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
