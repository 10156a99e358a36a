"""Payload in: in order straight to the application, out of order kept as references (R21).

Pieces are a list in order of sequence, without overlap; nothing is ever copied. A segment that
overlaps what is there is trimmed by offset and length. A buffer that ends up carrying nothing
goes back by a RETURNED event.
"""

from ..compile import part
from . import counters
from .events import EventKind
from .rows import (
    connection_event,
    count,
    event_room,
    give_piece,
    return_buffer,
    set_pending,
    take_piece,
)
from .tables import EVENTS_RESERVE, NONE, PIECES_PER_CONNECTION, SACK_BLOCKS

READABLE = int(EventKind.READABLE)

BUFFERS_RESERVE = 2
"""Posted buffers that out-of-order payload leaves alone; beyond it goes back, and comes again."""


@part
def deliver(s, index):
    """Tell the application of every piece that is now in order, as there is room.

    Pieces that find no room stay where they are; the peer has no ACK for them yet.
    """
    c = s["connections"][index]
    while c["piece_head"] >= 0:
        at = c["piece_head"]
        piece = s["pieces"][at]
        if piece["seq"] != c["rcv_nxt"]:
            break
        if event_room(s, c["queue"]) <= EVENTS_RESERVE:
            set_pending(s, index)
            break
        connection_event(
            s, c, index, READABLE, piece["region"], 0, piece["offset"], piece["length"]
        )
        c["rcv_nxt"] += piece["length"]
        c["piece_head"] = piece["next"]
        c["pieces"] -= 1
        give_piece(s, c["queue"], at)


@part
def block_of(s, c, seq):
    """The block without a hole around byte `seq`: (start, end); (-1, -1) if it is not kept."""
    start = NONE
    end = NONE
    at = c["piece_head"]
    while at >= 0:
        piece = s["pieces"][at]
        if piece["seq"] != end:
            if end > seq:
                break
            start = piece["seq"]
        end = piece["seq"] + piece["length"]
        at = piece["next"]
    if start <= seq and seq < end:
        return start, end
    return NONE, NONE


@part
def note_recent(s, c, seq):
    """The block of byte `seq` is to be reported first (RFC 2018 section 4)."""
    start, end = block_of(s, c, seq)
    carried = seq
    for slot in range(SACK_BLOCKS):
        other = c["sack_recent"][slot]
        c["sack_recent"][slot] = carried
        if start <= other and other < end:
            return
        carried = other


@part
def note_twice(c, start, end):
    """Bytes `start` to `end` came that were here already: to be reported once (RFC 2883)."""
    if c["sack_ok"]:
        c["dsack_start"] = start
        c["dsack_end"] = end


@part
def keep(s, index, seq, length, region, offset):
    """Take `length` > 0 bytes at `seq` >= rcv_nxt, inside the window; 1 if anything was new."""
    c = s["connections"][index]
    queue = c["queue"]
    before = -1
    at = c["piece_head"]
    while at >= 0:
        piece = s["pieces"][at]
        if piece["seq"] + piece["length"] > seq:
            break
        before = at
        at = piece["next"]
    # `at` is the first piece that ends after `seq`
    start = offset
    if at >= 0 and s["pieces"][at]["seq"] <= seq:
        cut = s["pieces"][at]["seq"] + s["pieces"][at]["length"] - seq
        note_twice(c, seq, seq + min(cut, length))
        if cut >= length:
            count(s, counters.DUPLICATES)
            return_buffer(s, region, start)
            note_recent(s, c, seq)
            return 0
        seq += cut
        offset += cut
        length -= cut
        before = at
        at = s["pieces"][at]["next"]
    # pieces that the new one covers wholly carry nothing any more; the next one trims its tail
    while at >= 0:
        piece = s["pieces"][at]
        if piece["seq"] + piece["length"] > seq + length:
            break
        following = piece["next"]
        count(s, counters.DUPLICATES)
        note_twice(c, piece["seq"], piece["seq"] + piece["length"])
        return_buffer(s, piece["region"], piece["offset"])
        give_piece(s, queue, at)
        c["pieces"] -= 1
        at = following
        if before < 0:
            c["piece_head"] = at
        else:
            s["pieces"][before]["next"] = at
    if at >= 0 and s["pieces"][at]["seq"] < seq + length:
        note_twice(c, s["pieces"][at]["seq"], seq + length)
        length = s["pieces"][at]["seq"] - seq
        if length <= 0:
            count(s, counters.DUPLICATES)
            return_buffer(s, region, start)
            return 0
    # in order: needs no row, so a peer that leaves holes cannot starve other connections
    if seq == c["rcv_nxt"] and event_room(s, queue) > EVENTS_RESERVE:
        connection_event(s, c, index, READABLE, region, 0, offset, length)
        c["rcv_nxt"] += length
        return 1
    # pieces must not take the last buffers, or none is left for the one that fills the hole
    if c["pieces"] >= PIECES_PER_CONNECTION or s["queues"][queue]["posted"] < BUFFERS_RESERVE:
        count(s, counters.NO_PIECE)
        return_buffer(s, region, start)
        return 0
    new = take_piece(s, queue)
    if new < 0:
        count(s, counters.NO_PIECE)
        return_buffer(s, region, start)
        return 0
    row = s["pieces"][new]
    row["seq"] = seq
    row["length"] = length
    row["region"] = region
    row["offset"] = offset
    row["next"] = at
    if before < 0:
        c["piece_head"] = new
    else:
        s["pieces"][before]["next"] = new
    c["pieces"] += 1
    note_recent(s, c, seq)
    return 1


@part
def cut_after(s, index, end):
    """Give back pieces from `end` on: the peer's stream ends there."""
    c = s["connections"][index]
    before = -1
    at = c["piece_head"]
    while at >= 0:
        piece = s["pieces"][at]
        following = piece["next"]
        if piece["seq"] + piece["length"] <= end:
            before = at
        elif piece["seq"] < end:
            piece["length"] = end - piece["seq"]
            before = at
        else:
            return_buffer(s, piece["region"], piece["offset"])
            give_piece(s, c["queue"], at)
            c["pieces"] -= 1
            if before < 0:
                c["piece_head"] = following
            else:
                s["pieces"][before]["next"] = following
        at = following
    if c["piece_head"] < 0:
        c["piece_head"] = NONE
