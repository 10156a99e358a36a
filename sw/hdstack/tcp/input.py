"""A segment arrives: RFC 9293 section 3.10.7, with the checks of RFC 5961.

`on_segment` finds the segment in `s["parsed"]`, where `hdstack.net.input` left it. Its payload, if
the card wrote one, is at `offset` of `region` (-1: none, or whole in header memory, from where
nothing can be delivered). Every payload buffer leaves by exactly one of READABLE, RETURNED, or a
piece kept out of order.
"""

from ..compile import part
from ..net.neighbour import confirm, suspect
from . import acks, congestion, counters, recovery, scoreboard, states
from .close import CLOSING_UNREAD, NORMAL, enter_time_wait, finish, release, reset_unread
from .data import retransmit_first
from .emit import ACK, FIN, RST, SYN, challenge, emit_ack, reset_stranger
from .events import CloseReason, EventKind
from .listen import find_or_open
from .open import establish, learn_options
from .output import output
from .path import forget as forget_path
from .reassembly import cut_after, deliver, keep, note_twice
from .rows import (
    connection_event,
    count,
    event_room,
    has_room,
    return_payload,
    set_pending,
)
from .sequence import later, time_stamp, unwrap
from .tables import EVENTS_RESERVE, MILLISECOND, NEVER, NONE, SECOND
from .timers import (
    FIN_WAIT_2,
    TIME_WAIT,
    arm_retransmit,
    measure,
    measure_stamp,
    stop_retransmit,
    update_deadline,
)
from .urgent import on_urgent
from .window import WINDOW_MAX, set_edge

FINISHED = int(EventKind.FINISHED)
REFUSED = int(CloseReason.REFUSED)
RESET = int(CloseReason.RESET)

TS_RECENT_VALID = 24 * 86400 * SECOND
"""A connection idle for longer cannot compare the peer's time stamps (RFC 7323 section 5.5)."""


@part
def set_peer_window(s, c, seq, ack):
    """RFC 9293: take the window of this segment unless an older one comes late. 1 if it changed."""
    p = s["parsed"]
    window = p["window"] << (0 if p["flags"] & SYN else c["snd_shift"])
    if c["snd_wl1"] < seq or (c["snd_wl1"] == seq and c["snd_wl2"] <= ack):
        changed = 1 if window != c["snd_wnd"] else 0
        c["snd_wnd"] = window
        c["snd_wl1"] = seq
        c["snd_wl2"] = ack
        c["max_wnd"] = max(c["max_wnd"], window)
        return changed
    return 0


@part
def in_syn_sent(s, index, now):
    """RFC 9293 section 3.10.7.3."""
    c = s["connections"][index]
    p = s["parsed"]
    flags = p["flags"]
    ack = unwrap(p["ack"], c["snd_max"])
    return_payload(s)
    if flags & ACK and (ack <= c["iss"] or ack > c["snd_max"]):
        count(s, counters.BAD_ACK)
        reset_stranger(s, now)
        return
    if flags & RST:
        if flags & ACK:
            count(s, counters.RESETS_IN)
            finish(s, index, REFUSED, 0)
        return
    if flags & SYN == 0:
        return
    c["irs"] = p["seq"]
    c["rcv_nxt"] = p["seq"] + 1
    c["rcv_adv"] = c["rcv_nxt"] + c["promised"]
    learn_options(s, c, now)
    if flags & ACK:
        c["snd_una"] = ack
        establish(s, index, now)
        set_peer_window(s, c, p["seq"], ack)
        emit_ack(s, index)
        output(s, index, now)
    else:
        # both sides opened at once (figure 8): answer by SYN-ACK
        c["state"] = states.SYN_RECEIVED
        c["snd_nxt"] = c["iss"]
        output(s, index, now)


@part
def acceptable(c, seq, length):
    """Whether the segment touches the window (RFC 9293 section 3.4); edges are for probes."""
    if length == 0:
        return seq >= c["rcv_nxt"] and seq <= max(c["rcv_adv"], c["rcv_nxt"])
    return seq + length > c["rcv_nxt"] and seq <= max(c["rcv_adv"], c["rcv_nxt"])


@part
def answers_simultaneous_open(c, p, seq, ack):
    """The peer's SYN-ACK after both sides sent SYN (RFC 9293 figure 8): its SYN came before."""
    return (
        c["state"] == states.SYN_RECEIVED
        and p["flags"] & (SYN | ACK) == SYN | ACK
        and seq == c["irs"]
        and c["snd_una"] < ack
        and ack <= c["snd_max"]
    )


@part
def is_old(s, c, now):
    """PAWS (RFC 7323 section 5.3 R1): the parsed segment's time stamp was overtaken long ago."""
    p = s["parsed"]
    return (
        c["ts_ok"] == 1
        and later(p["tsval"], c["ts_recent"]) < 0
        and now - c["ts_recent_at"] < TS_RECENT_VALID
    )


@part
def set_recent_stamp(s, c, now):
    """RFC 7323 section 4.3 (3): the segment began at or before what was acknowledged last."""
    p = s["parsed"]
    if later(p["tsval"], c["ts_recent"]) >= 0 or now - c["ts_recent_at"] >= TS_RECENT_VALID:
        c["ts_recent"] = p["tsval"]
        c["ts_recent_at"] = now


@part
def reset_reason(c):
    """What an RST of the peer means to the application."""
    state = c["state"]
    if state == states.SYN_RECEIVED:
        return REFUSED
    # RFC 9293 section 3.10.7.4: no error where all went both ways, and only our FIN is open
    if (state == states.CLOSING or state == states.LAST_ACK) and c["snd_una"] >= c["snd_end"]:
        return NORMAL
    return RESET


@part
def on_reset(s, index, seq, now):
    """RFC 5961 section 3.2: only the number expected next resets; another in the window is
    challenged."""
    c = s["connections"][index]
    if seq < c["rcv_nxt"] or seq > max(c["rcv_adv"], c["rcv_nxt"]):
        return
    if seq != c["rcv_nxt"]:
        challenge(s, index, now)
    elif c["state"] != states.TIME_WAIT:  # RFC 1337: TIME-WAIT is not assassinated
        count(s, counters.RESETS_IN)
        finish(s, index, reset_reason(c), 0)


@part
def on_new_ack(s, index, ack, now):
    """`ack` covers bytes that were not acknowledged before."""
    c = s["connections"][index]
    p = s["parsed"]
    acked = ack - c["snd_una"]
    flight = c["snd_max"] - c["snd_una"]
    c["snd_una"] = ack
    c["progress_at"] = now
    c["retries"] = 0
    if c["snd_nxt"] < ack:
        c["snd_nxt"] = ack
    if c["timing_seq"] < 0:
        if c["ts_ok"] and p["tsecr"] != 0:
            measure_stamp(c, p["tsecr"], now)
    elif ack >= c["timing_seq"]:
        measure(c, now - c["timing_at"])
        c["timing_seq"] = NONE
    c["soft_error"] = 0
    c["told_problem"] = 0
    confirm(s, c, now)
    if c["ssthresh"] == congestion.CWND_MAX and c["ts_ok"] and p["tsecr"] != 0:
        congestion.on_round_trip(c, max(later(time_stamp(c, now), p["tsecr"]), 0) * MILLISECOND)
    forget_path(c, now)
    scoreboard.advance(s, c)
    again = recovery.on_new_ack(s, index, acked, flight, now)
    if ack == c["snd_max"]:
        if c["persist"]:
            c["persist"] = 0
            c["backoff"] = 0
        stop_retransmit(s, index)
    else:
        arm_retransmit(s, index, now)
    if again:
        retransmit_first(s, index)


@part
def is_plausible(c, ack):
    """Whether the peer can acknowledge that (RFC 5961 section 5.2)."""
    return ack <= c["snd_max"] and ack >= c["snd_una"] - c["max_wnd"]


@part
def on_ack(s, index, seq, ack, now):
    """The ACK field of an acceptable segment; False if the segment is to be dropped."""
    c = s["connections"][index]
    p = s["parsed"]
    if not is_plausible(c, ack):
        count(s, counters.BAD_ACK)
        challenge(s, index, now)
        return False
    if ack < c["snd_una"]:
        # it was overtaken; what it reports holds all the same (RFC 6675 section 4)
        if c["sack_ok"] and p["sacks"] > 0 and c["snd_max"] > c["snd_una"]:
            recovery.on_reports(s, index, recovery.take_reports(s, c), False, now)
        return True
    changed = set_peer_window(s, c, seq, ack)
    duplicate = ack == c["snd_una"]
    if not duplicate:
        on_new_ack(s, index, ack, now)
    if c["sack_ok"]:
        if p["sacks"] > 0:
            recovery.on_reports(s, index, recovery.take_reports(s, c), duplicate, now)
    elif (
        duplicate
        and changed == 0
        and p["length"] == 0
        and p["flags"] & FIN == 0
        and c["snd_max"] > ack
        and c["persist"] == 0
    ):
        recovery.on_duplicate_ack(s, index, now)
    if c["state"] == states.DEAD or c["state"] == states.FREE:
        return False
    if c["persist"] and changed and c["snd_wnd"] > 0:
        # the window opened: whatever the probe carried goes again unless it was acknowledged
        c["persist"] = 0
        c["snd_nxt"] = c["snd_una"]
        c["backoff"] = 0
        stop_retransmit(s, index)
    if c["closing"] == CLOSING_UNREAD and reset_unread(s, index):
        return False
    fin_acked = c["fin"] and c["snd_una"] > c["snd_end"]
    if fin_acked:
        if c["state"] == states.FIN_WAIT_1:
            c["state"] = states.FIN_WAIT_2
            if c["closing"]:
                c["state_at"] = now + FIN_WAIT_2
                update_deadline(s, index)
        elif c["state"] == states.CLOSING:
            enter_time_wait(s, index, now)
        elif c["state"] == states.LAST_ACK:
            finish_last_ack(s, index)
            return False
    release(s, index)
    return True


@part
def finish_last_ack(s, index):
    """Our FIN is acknowledged after theirs: over, once the application has its sends back."""
    c = s["connections"][index]
    release(s, index)
    if c["send_head"] >= 0:
        # RELEASED of each comes first; `resume` ends the connection after the last
        c["state_at"] = NEVER
        c["closed_due"] = 1
        return
    finish(s, index, NORMAL, 0)


@part
def finish_stream(s, index, now):
    """The peer's FIN is next in order: no byte follows."""
    c = s["connections"][index]
    if c["fin_told"] or c["rcv_fin"] < 0 or c["rcv_nxt"] != c["rcv_fin"]:
        return
    if event_room(s, c["queue"]) <= EVENTS_RESERVE:
        set_pending(s, index)
        return
    c["rcv_nxt"] += 1
    c["fin_told"] = 1
    c["rcv_adv"] = c["rcv_nxt"]  # nothing more is promised, since nothing more comes
    set_edge(s, c, c["rcv_adv"])
    acks.urgent(c)
    if c["attached"]:
        connection_event(s, c, index, FINISHED, 0, 0, 0, 0)
    if c["state"] == states.ESTABLISHED:
        c["state"] = states.CLOSE_WAIT
    elif c["state"] == states.FIN_WAIT_1:
        c["state"] = states.CLOSING
    elif c["state"] == states.FIN_WAIT_2:
        emit_ack(s, index)
        enter_time_wait(s, index, now)


@part
def on_payload(s, index, seq, now):
    """Data and FIN of an acceptable segment."""
    c = s["connections"][index]
    p = s["parsed"]
    length = p["length"]
    offset = p["offset"]
    state = c["state"]
    receives = (
        state == states.ESTABLISHED or state == states.FIN_WAIT_1 or state == states.FIN_WAIT_2
    )
    if c["rcv_fin"] >= 0 and seq + length > c["rcv_fin"]:
        # nothing follows a FIN; what is before it may still fill a hole
        length = c["rcv_fin"] - seq
    if not receives or length < 0:
        if p["length"] > 0:
            count(s, counters.AFTER_CLOSE)
        return_payload(s)
        if p["length"] > 0 or p["flags"] & FIN:
            emit_ack(s, index)
        return
    if c["closing"] and length > 0:
        # RFC 9293 section 3.6.1: nobody reads it any more, so the peer is told that it is lost
        count(s, counters.CLOSED_DATA)
        return_payload(s)
        c["closing"] = CLOSING_UNREAD
        reset_unread(s, index)
        return
    expected = c["rcv_nxt"]
    had_pieces = c["pieces"]
    end = seq + length
    if seq < expected and length > 0:
        cut = min(expected - seq, length)
        note_twice(c, seq, seq + cut)
        seq += cut
        offset += cut
        length -= cut
    whole = True
    if end > c["rcv_adv"]:
        whole = end <= expected
        if length > 0:
            count(s, counters.BEYOND_WINDOW)
            length = max(c["rcv_adv"] - seq, 0)
    if length > 0:
        if seq > c["rcv_nxt"]:
            count(s, counters.OUT_OF_ORDER)
        c["received"] = min(c["received"] + length, WINDOW_MAX)
        keep(s, index, seq, length, p["region"], offset)
        deliver(s, index)
    else:
        if p["length"] > 0 and whole:
            count(s, counters.DUPLICATES)
        return_payload(s)
    if p["flags"] & FIN and whole and c["rcv_fin"] < 0 and end >= expected:
        c["rcv_fin"] = end
        cut_after(s, index, end)
    set_edge(s, c, c["rcv_adv"])
    in_order = c["rcv_nxt"] > expected
    if p["length"] > 0 or p["flags"] & FIN:
        twice = c["dsack_end"] > c["dsack_start"]
        if in_order:
            acks.on_data(s, index, p["length"], now)
        if not in_order or had_pieces or c["pieces"] or twice:
            acks.urgent(c)  # RFC 5681 section 4.2: a hole, a duplicate, a filled hole
    finish_stream(s, index, now)


@part
def resume(s, index, now):
    """Everything that a connection can go on with: after a segment, and when room has come."""
    c = s["connections"][index]
    if c["state"] < states.ESTABLISHED or c["state"] == states.DEAD:
        output(s, index, now)
        return
    expected = c["rcv_nxt"]
    deliver(s, index)
    if c["rcv_nxt"] > expected:
        set_edge(s, c, c["rcv_adv"])
        acks.urgent(c)
    finish_stream(s, index, now)
    release(s, index)
    if c["state"] == states.LAST_ACK and c["snd_una"] > c["snd_end"]:
        if c["send_head"] < 0:
            finish(s, index, NORMAL, 0)
        return
    output(s, index, now)


@part
def on_segment(s, now):
    """The segment in `s["parsed"]`, its checksum verified by the card, at `now` (ns)."""
    p = s["parsed"]
    flags = p["flags"]
    index = find_or_open(s, now)
    if index < 0:
        return_payload(s)
        return
    c = s["connections"][index]
    if c["queue"] != p["queue"] and not has_room(s, c["queue"]):
        count(s, counters.NOT_READY)
        return_payload(s)
        return
    if p["length"] > 0 and flags & SYN == 0:
        if p["region"] < 0:
            count(s, counters.WHOLE_PAYLOAD)
            return
        if s["regions"][p["region"]]["queue"] != c["queue"]:
            count(s, counters.FOREIGN_PAYLOAD)
            return_payload(s)
            return
    if c["state"] == states.SYN_SENT:
        in_syn_sent(s, index, now)
        return
    seq = unwrap(p["seq"], c["rcv_nxt"])
    ack = unwrap(p["ack"], c["snd_max"])
    span = p["length"] + (1 if flags & FIN else 0) + (1 if flags & SYN else 0)
    if flags & RST:
        return_payload(s)
        on_reset(s, index, seq, now)
        return
    if c["ts_ok"] and p["ts"] == 0 and flags & SYN == 0:
        count(s, counters.NO_TIMESTAMP)
        return_payload(s)
        return
    if p["ts"] and is_old(s, c, now):
        count(s, counters.OLD_TIMESTAMP)
        refuse(s, index, seq, now)
        return
    if answers_simultaneous_open(c, p, seq, ack):
        return_payload(s)
        c["snd_una"] = ack
        establish(s, index, now)
        set_peer_window(s, c, seq + 1, ack)
        emit_ack(s, index)
        output(s, index, now)
        return
    if not acceptable(c, seq, span):
        late = seq == c["rcv_nxt"] - 1 and span <= 1
        if late and not take_late_ack(s, index, seq, ack, now):
            return_payload(s)
            return
        refuse(s, index, seq, now)
        return
    if flags & SYN or flags & ACK == 0:
        return_payload(s)
        if flags & SYN:
            challenge(s, index, now)  # RFC 5961 section 4.2
        return
    # a forged stamp of the future, once taken, would make all that the peer sends old
    if c["ts_ok"] and p["ts"] and seq <= c["last_ack"] and is_plausible(c, ack):
        set_recent_stamp(s, c, now)
    c["heard_at"] = now
    if c["persist"]:
        c["retries"] = 0
    if c["state"] == states.SYN_RECEIVED:
        if ack <= c["snd_una"] or ack > c["snd_max"]:
            count(s, counters.BAD_ACK)
            return_payload(s)
            reset_stranger(s, now)
            return
        c["snd_una"] = ack
        c["snd_wl1"] = seq - 1
        establish(s, index, now)
    if not on_ack(s, index, seq, ack, now):
        return_payload(s)
        return
    on_urgent(s, index, seq)
    on_payload(s, index, seq, now)
    if c["state"] != states.DEAD and c["state"] != states.FREE:
        resume(s, index, now)


@part
def take_late_ack(s, index, seq, ack, now):
    """What is new in the ACK field of a segment that begins one below what is expected; False if
    that ended the connection.

    Such are all that a peer can send whose FIN, or probe, came beyond a closed window without its
    knowledge. Two of the kind would refuse each other for ever (RFC 9293 section 3.10.7.4: "special
    allowance").
    """
    c = s["connections"][index]
    p = s["parsed"]
    state = c["state"]
    new = ack > c["snd_una"] and ack <= c["snd_max"]
    if p["flags"] & (SYN | ACK) != ACK or state < states.ESTABLISHED or not new:
        return True
    if not on_ack(s, index, seq, ack, now):
        return False
    output(s, index, now)
    return c["state"] != states.DEAD and c["state"] != states.FREE


@part
def refuse(s, index, seq, now):
    """A segment outside of the window: answered by an ACK, not otherwise used."""
    c = s["connections"][index]
    p = s["parsed"]
    return_payload(s)
    if p["flags"] & SYN and c["state"] == states.SYN_RECEIVED and seq == c["irs"]:
        c["snd_nxt"] = c["iss"]  # our SYN-ACK was lost
        if c["retries"] < 3:
            c["retries"] += 1
            output(s, index, now)
        return
    if p["length"] > 0 and seq < c["rcv_nxt"]:
        note_twice(c, seq, min(seq + p["length"], c["rcv_nxt"]))
    if seq > c["rcv_nxt"]:
        count(s, counters.BEYOND_WINDOW)
    else:
        count(s, counters.DUPLICATES)
    if c["state"] == states.TIME_WAIT and p["flags"] & FIN:
        c["state_at"] = now + TIME_WAIT
        update_deadline(s, index)
    if p["length"] > 0 or p["flags"] & FIN:
        if seq < c["rcv_nxt"] and c["mac_known"]:
            suspect(s, c, now)  # what acknowledged it may have gone to the wrong neighbour
        emit_ack(s, index)
    else:
        challenge(s, index, now)
