"""The end of a connection: sends released, rows given back, RST, CLOSED.

A row passes through three steps, each of which may have to wait: its RST is out, no transmit of
its payload is in flight (R24), its application has been told.
"""

from ..compile import part
from . import counters, states
from .emit import emit_reset
from .events import CloseReason, EventKind
from .rows import (
    append_old,
    connection_event,
    count,
    event_room,
    give_connection,
    give_piece,
    give_send,
    remove_old,
    return_buffer,
    segment_room,
    set_pending,
    set_waiting,
    unhash,
)
from .scoreboard import forget
from .tables import EVENTS_RESERVE, NEVER, NONE
from .timers import TIME_WAIT, update_deadline
from .window import drop_promise

FAILED = int(EventKind.FAILED)
RELEASED = int(EventKind.RELEASED)
CLOSED = int(EventKind.CLOSED)
NORMAL = int(CloseReason.NORMAL)

CLOSING_UNREAD = 2
"""`closing` of a connection whose application left data unread; 1: it closed."""


@part
def is_free(s, queue, row):
    """No transmit of this send is waiting or in the transmit ring (R24)."""
    return row["untaken"] == 0 and row["last_tx"] <= s["queues"][queue]["tx_done"]


@part
def pop_send(s, c):
    """Give back the oldest send."""
    index = c["send_head"]
    row = s["sends"][index]
    c["send_head"] = row["next"]
    if c["send_cursor"] == index:
        c["send_cursor"] = row["next"]
    if c["send_head"] < 0:
        c["send_tail"] = NONE
    c["sends"] -= 1
    give_send(s, c["queue"], index)


@part
def release(s, index):
    """Hand back sends that are acknowledged and free of DMA, oldest first, as there is room."""
    c = s["connections"][index]
    queue = c["queue"]
    waiting = 0
    while c["send_head"] >= 0:
        row = s["sends"][c["send_head"]]
        if row["seq"] + row["length"] > c["snd_una"]:
            break
        if not is_free(s, queue, row):
            waiting = 1
            break
        if event_room(s, queue) <= EVENTS_RESERVE:
            set_pending(s, index)
            break
        pop_send(s, c)
        if c["attached"]:
            connection_event(s, c, index, RELEASED, 0, 0, 0, 0)
    set_waiting(s, index, waiting)
    if c["closed_due"] and c["send_head"] < 0 and c["attached"]:
        if event_room(s, queue) > 0:
            connection_event(s, c, index, CLOSED, 0, NORMAL, 0, 0)
            c["attached"] = 0
            c["closed_due"] = 0
        else:
            set_pending(s, index)


@part
def return_pieces(s, index):
    """Give back every buffer that is kept out of order."""
    c = s["connections"][index]
    while c["piece_head"] >= 0:
        at = c["piece_head"]
        piece = s["pieces"][at]
        c["piece_head"] = piece["next"]
        return_buffer(s, piece["region"], piece["offset"])
        give_piece(s, c["queue"], at)
    c["pieces"] = 0


@part
def settle(s, index):
    """Go on with the end of a DEAD connection as far as room and transmits in flight allow."""
    c = s["connections"][index]
    queue = c["queue"]
    if c["rst_due"]:
        if segment_room(s, queue) <= 0:
            set_pending(s, index)
            return
        emit_reset(s, index)
        c["rst_due"] = 0
    while c["send_head"] >= 0:
        if not is_free(s, queue, s["sends"][c["send_head"]]):
            set_waiting(s, index, 1)
            return
        pop_send(s, c)
    set_waiting(s, index, 0)
    if c["attached"] and c["announced"]:
        if event_room(s, queue) <= 0:
            set_pending(s, index)
            return
        connection_event(s, c, index, CLOSED, 0, c["reason"], 0, 0)
    elif c["attached"] and c["listener"] < 0:
        if event_room(s, queue) <= 0:
            set_pending(s, index)
            return
        connection_event(s, c, index, FAILED, 0, c["reason"], 0, 0)
    c["attached"] = 0
    if c["pending"] == 0:  # else its entry in the list of pending work gives it back
        count(s, counters.CONNECTIONS_CLOSED)
        give_connection(s, index)


@part
def finish(s, index, reason, reset):
    """The connection is over, for `reason`; `reset`: the peer is to get an RST.

    Its ends may be used anew at once; the row is free when `settle` is through.
    """
    c = s["connections"][index]
    if c["state"] == states.DEAD or c["state"] == states.FREE:
        return
    if c["state"] == states.SYN_RECEIVED and c["listener"] >= 0:
        s["queues"][c["queue"]]["half_open"] -= 1
        s["listeners"][c["listener"]]["half_open"] -= 1
    if c["mac_known"] == 0 and c["state"] == states.SYN_SENT:
        s["control"]["waiting_neighbour"] -= 1
    unhash(s, index)
    if c["listener"] >= 0:
        listener = s["listeners"][c["listener"]]
        listener["connections"] -= 1
        if listener["state"] == states.LISTENER_CLOSING and listener["connections"] == 0:
            listener["state"] = states.LISTENER_FREE
            s["control"]["listeners_version"] += 1
    if c["state"] == states.TIME_WAIT:
        remove_old(s, index)
    c["state"] = states.DEAD
    c["reason"] = reason
    c["rst_due"] = reset
    c["retransmit_at"] = NEVER
    c["ack_at"] = NEVER
    c["state_at"] = NEVER
    c["keep_at"] = NEVER
    update_deadline(s, index)
    return_pieces(s, index)
    forget(s, c)
    drop_promise(s, index)
    settle(s, index)


@part
def reset_unread(s, index):
    """RFC 9293 section 3.6.1: data is lost since the application closed, so the peer is told by
    RST; not before it has acknowledged all of ours. True if that is done."""
    c = s["connections"][index]
    state = c["state"]
    if c["closing"] < CLOSING_UNREAD or c["snd_una"] < c["snd_end"] or state == states.TIME_WAIT:
        return False
    finish(s, index, NORMAL, 1)
    return True


@part
def enter_time_wait(s, index, now):
    """Both directions are over (R33: nothing of the application is held from here on)."""
    c = s["connections"][index]
    c["state"] = states.TIME_WAIT
    append_old(s, index)
    c["retransmit_at"] = NEVER
    c["ack_at"] = NEVER
    c["keep_at"] = NEVER
    c["state_at"] = now + TIME_WAIT
    update_deadline(s, index)
    return_pieces(s, index)
    drop_promise(s, index)
    if c["attached"]:
        c["closed_due"] = 1
    release(s, index)
