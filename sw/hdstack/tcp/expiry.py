"""What happens when a deadline passes."""

from ..compile import part
from ..net.neighbour import resolve
from . import counters, recovery, states
from .close import NORMAL, finish
from .data import probe
from .emit import emit_ack
from .events import CloseReason
from .open import next_hop
from .output import output
from .rows import count
from .tables import NEVER, NONE, SECOND
from .timers import (
    GIVE_UP,
    GIVE_UP_RETRIES,
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
    count(s, counters.TIMED_OUT)
    finish(s, index, reason, reset)


@part
def expire_syn(s, index, now):
    """No answer to a SYN, a SYN-ACK, or to the question for the neighbour's address."""
    c = s["connections"][index]
    c["retries"] += 1
    if c["mac_known"] == 0:
        if c["retries"] >= NEIGHBOUR_TRIES:
            give_up(s, index, UNREACHABLE, 0)
            return
        resolve(s, next_hop(s, c["remote_address"]), now)
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
        if now - c["heard_at"] >= GIVE_UP and c["retries"] >= GIVE_UP_RETRIES:
            give_up(s, index, TIMED_OUT, 1)
            return
        c["retries"] += 1
        c["backoff"] += 1
        arm_retransmit(s, index, now)
        probe(s, index, now)
        return
    if c["snd_una"] == c["snd_max"]:
        stop_retransmit(s, index)
        return
    if now - c["progress_at"] >= GIVE_UP and c["retries"] >= GIVE_UP_RETRIES:
        give_up(s, index, TIMED_OUT, 1)
        return
    count(s, counters.TIMEOUTS)
    recovery.on_timeout(s, c, c["retries"] == 0)
    c["retries"] += 1
    c["backoff"] += 1
    c["timing_seq"] = NONE
    stop_retransmit(s, index)
    output(s, index, now)


@part
def expire(s, index, now):
    """Handle each deadline of the connection that has passed."""
    c = s["connections"][index]
    if c["state_at"] <= now:
        finish(s, index, NORMAL, 0)
        return
    if c["ack_at"] <= now:
        c["ack_at"] = NEVER
        update_deadline(s, index)
        emit_ack(s, index)
    if c["retransmit_at"] <= now:
        if c["state"] < states.ESTABLISHED:
            expire_syn(s, index, now)
        else:
            expire_retransmit(s, index, now)
