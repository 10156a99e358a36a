"""What happens when a deadline passes."""

from ..compile import part
from ..net.neighbour import resolve, suspect
from . import acks, counters, recovery, states
from .close import NORMAL, finish
from .data import probe
from .emit import ACK, begin_segment, emit_ack
from .events import CloseReason
from .output import output
from .path import tell_problem
from .routes import next_hop
from .rows import count, segment_room
from .tables import NEVER, NONE, SECOND
from .timers import (
    GIVE_UP,
    GIVE_UP_RETRIES,
    R1_RETRIES,
    SYN_GIVE_UP,
    SYN_RECEIVED_RETRIES,
    arm_retransmit,
    stop_retransmit,
    update_deadline,
)

UNREACHABLE = int(CloseReason.UNREACHABLE)
TIMED_OUT = int(CloseReason.TIMED_OUT)
NEIGHBOUR_TRIES = 3


@part
def give_up(s, index, reason, reset):
    """End it without an answer of the peer; what a router said on the way names the reason."""
    count(s, counters.TIMED_OUT)
    soft = s["connections"][index]["soft_error"]
    if soft > 0:
        reason = soft
    finish(s, index, reason, reset)


@part
def is_hopeless(c, since, now):
    """Whether no progress since `since` ends the connection (RFC 1122 R2, RFC 5482)."""
    if c["user_timeout"] > 0:
        return now - since >= c["user_timeout"]
    return now - since >= GIVE_UP and c["retries"] >= GIVE_UP_RETRIES


@part
def on_r1(s, index, now):
    """R1 of RFC 1122 section 4.2.3.5: so many tries without an answer. The application is told, and
    the neighbour is asked whether it still is there."""
    c = s["connections"][index]
    suspect(s, c, now)
    tell_problem(s, index, c["soft_error"] if c["soft_error"] > 0 else TIMED_OUT)


@part
def expire_syn(s, index, now):
    """No answer to a SYN, a SYN-ACK, or to the question for the neighbour's address."""
    c = s["connections"][index]
    c["retries"] += 1
    if c["mac_known"] == 0:
        if c["retries"] >= NEIGHBOUR_TRIES:
            give_up(s, index, UNREACHABLE, 0)
            return
        hop_high, hop = next_hop(s, c["remote_high"], c["remote_address"])
        resolve(s, hop_high, hop, now)
        c["retransmit_at"] = now + SECOND
        update_deadline(s, index)
        return
    if c["state"] == states.SYN_RECEIVED and c["retries"] > SYN_RECEIVED_RETRIES:
        give_up(s, index, TIMED_OUT, 0)
        return
    if now - c["progress_at"] >= SYN_GIVE_UP:
        give_up(s, index, TIMED_OUT, 0)
        return
    count(s, counters.TIMEOUTS)
    if c["state"] == states.SYN_SENT:  # who sent a SYN may be forged: no question for his sake
        suspect(s, c, now)
    c["backoff"] += 1
    c["timing_seq"] = NONE
    c["snd_nxt"] = c["iss"]
    arm_retransmit(s, index, now)
    output(s, index, now)


@part
def expire_retransmit(s, index, now):
    """RFC 6298 section 5.4 to 5.7, and the persist timer (RFC 9293 section 3.8.6.1)."""
    c = s["connections"][index]
    if c["persist"]:
        if is_hopeless(c, c["heard_at"], now):
            give_up(s, index, TIMED_OUT, 1)
            return
        if c["retries"] >= R1_RETRIES:
            on_r1(s, index, now)
        c["retries"] += 1
        c["backoff"] += 1
        arm_retransmit(s, index, now)
        probe(s, index, now)
        return
    if c["snd_una"] == c["snd_max"]:
        stop_retransmit(s, index)
        return
    if is_hopeless(c, c["progress_at"], now):
        give_up(s, index, TIMED_OUT, 1)
        return
    count(s, counters.TIMEOUTS)
    recovery.on_timeout(s, c, c["retries"] == 0, now)
    c["retries"] += 1
    c["backoff"] += 1
    c["timing_seq"] = NONE
    if c["retries"] >= R1_RETRIES:
        on_r1(s, index, now)
    stop_retransmit(s, index)
    output(s, index, now)


@part
def expire_keepalive(s, index, now):
    """RFC 9293 section 3.8.4: a probe below the window, which a living peer acknowledges."""
    c = s["connections"][index]
    c["keep_at"] = NEVER
    if c["keep_on"] == 0 or c["state"] < states.ESTABLISHED or c["state"] >= states.TIME_WAIT:
        update_deadline(s, index)
        return
    if c["heard_at"] >= c["keep_sent"]:
        c["keep_tries"] = 0
    idle = c["keep_idle"] * SECOND
    if c["snd_una"] < c["snd_max"] or c["persist"]:
        c["keep_at"] = now + idle  # retransmissions and probes of the window find it out
    elif c["keep_tries"] == 0 and now - c["heard_at"] < idle:
        c["keep_at"] = c["heard_at"] + idle
    elif c["keep_tries"] >= c["keep_count"]:
        give_up(s, index, TIMED_OUT, 1)
        return
    else:
        if c["keep_tries"] > 0:
            suspect(s, c, now)
        c["keep_tries"] += 1
        c["keep_sent"] = now
        c["keep_at"] = now + c["keep_every"] * SECOND
        count(s, counters.KEEPALIVE_PROBES)
        if segment_room(s, c["queue"]) > 0:
            begin_segment(s, index, c["snd_una"] - 1, ACK)
    update_deadline(s, index)


@part
def expire_state(s, index):
    """TIME-WAIT, or the wait for the peer's FIN, is over; or the time to linger."""
    c = s["connections"][index]
    if c["state"] == states.TIME_WAIT or c["state"] == states.FIN_WAIT_2:
        finish(s, index, NORMAL, 0)
    else:
        give_up(s, index, TIMED_OUT, 1)


@part
def expire(s, index, now):
    """Handle each deadline of the connection that has passed."""
    c = s["connections"][index]
    if c["state_at"] <= now:
        expire_state(s, index)
        return
    if c["keep_at"] <= now:
        expire_keepalive(s, index, now)
        if c["state"] == states.DEAD or c["state"] == states.FREE:
            return
    if c["ack_at"] <= now:
        c["ack_at"] = NEVER
        update_deadline(s, index)
        acks.on_delayed(c)
        emit_ack(s, index)
    if c["retransmit_at"] <= now:
        if c["state"] < states.ESTABLISHED:
            expire_syn(s, index, now)
        else:
            expire_retransmit(s, index, now)
