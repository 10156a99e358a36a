"""Payload in header memory, moved to the application that owns it by the card's PLACE.

A hold in state MOVING is a whole frame in the area: one that landed on queue 0, or a datagram made
of fragments (a large one stays where it was made). Its payload goes in pieces of at most a buffer,
each by a PLACE command of its own, and each comes back as a record of the owner's queue, without
headers: these stand in the hold, and `on_placed` hands both on, as of a frame that the card has
split. So TCP knows of no byte before it is in a buffer. A piece that finds no buffer makes no
record; it is lost as on the wire.

The commands themselves are written by the driver (`hdstack.service.placement`): `next_place`, then
`place_answered`. The cookie of a command tells hold, use of the hold, and piece; a record of an
earlier use carries nothing.
"""

from ..compile import entry, part
from ..tcp import counters
from ..tcp.emit import FIN, PSH, URG
from ..tcp.rows import count, return_payload
from ..tcp.tables import (
    DATAGRAMS,
    HOLDS,
    MILLISECOND,
    MOVE_BYTES,
    NEVER,
    NONE,
    OWN_MOVES,
    QUEUES,
    REGIONS,
    SECOND,
)
from ..tcp.window import on_record
from . import ipv4
from .bytesio import get8, get16, get32, put8, put16, put32
from .fragments import FREE, MOVING, data_at

__all__ = ["drop_queue", "next_place", "place_answered"]

COOKIE = 1 << 31
"""Set in cookies of these commands alone; then come 9 bits of hold, 14 of use, 8 of piece."""
HOLD_SHIFT = 22
USE_SHIFT = 8
USES = 1 << (HOLD_SHIFT - USE_SHIFT)
PIECES_MOST = 1 << USE_SHIFT
assert HOLDS <= 1 << (31 - HOLD_SHIFT)
LARGE_MOST = QUEUES
"""Of the holds for datagrams, those that are moved at a time, one of each application; the others
are for fragments."""
assert 2 * LARGE_MOST <= DATAGRAMS
PATIENCE = 5 * SECOND
"""How long a command may go without an answer."""
GRACE = 250 * MILLISECOND
"""How long a record may come after the answer to its command."""


@part
def piece_bytes(s, queue, protocol, length):
    """Most payload of one command: a buffer of any region that `queue` may post; 0: it has none. A
    datagram of UDP goes whole, in a chain of buffers if need be."""
    least = 0
    for at in range(REGIONS):
        row = s["regions"][at]
        if row["live"] and row["queue"] == queue and (least == 0 or row["element_bytes"] < least):
            least = row["element_bytes"]
    most = s["control"]["place_bytes"]
    if protocol != ipv4.TCP:
        return length if least > 0 and length <= most else 0
    return min(least, most)


@part
def choose(s, queue):
    """A free hold for a frame that is to be moved to `queue`, or -1: it has its share."""
    free = NONE
    own = 0
    for k in range(DATAGRAMS, HOLDS):
        row = s["holds"][k]
        if row["state"] == FREE:
            free = k
        elif row["queue"] == queue:
            own += 1
    return free if own < OWN_MOVES else NONE


@part
def may_stay(s, queue):
    """Whether a large datagram may be moved to `queue` from where it was made."""
    every = 0
    for k in range(DATAGRAMS):
        row = s["holds"][k]
        if row["state"] == MOVING:
            every += 1
            if row["queue"] == queue:
                return False
    return every < LARGE_MOST


@part
def begin(s, area, memory, at, k, now):
    """Begin to move the payload that `whole` tells of, of the frame at `at`: a datagram in hold
    `k`, or (-1) a frame of a receive ring.

    Gives the hold that is moved: `k` for a large datagram, else a copy; -1, counted: it is lost.
    """
    w = s["whole"]
    size = w["header"] + w["length"]
    most = piece_bytes(s, w["queue"], w["protocol"], w["length"])
    copied = size <= MOVE_BYTES
    if most == 0 or (k < 0 and not copied):
        k = NONE
    elif copied:
        k = choose(s, w["queue"])
    elif not may_stay(s, w["queue"]):
        k = NONE
    if k < 0:
        count(s, counters.PLACE_NO_ROOM)
        return k
    row = s["holds"][k]
    if copied:
        row["start"] = data_at(k)
        for step in range(size):
            area[row["start"] + step] = memory[at + step]
        s["counters"][counters.COPIED_BYTES] += size
    row["state"] = MOVING
    row["use"] = (row["use"] + 1) % USES
    row["queue"] = w["queue"]
    row["since"] = now
    row["due"] = now + PATIENCE
    row["protocol"] = w["protocol"]
    row["ip"] = w["ip"]
    row["transport"] = w["transport"]
    row["header"] = w["header"]
    row["length"] = w["length"]
    row["piece_bytes"] = most
    row["pieces"] = (w["length"] + most - 1) // most
    row["sent"] = 0
    row["answered"] = 0
    row["arrived"] = 0
    if row["protocol"] == ipv4.TCP:
        tcp = row["start"] + row["transport"]
        row["seq"] = get32(area, tcp + 4)
        row["flags"] = get8(area, tcp + 13)
        row["urgent"] = get16(area, tcp + 18)
    control = s["control"]
    control["moving"] += 1
    control["holds_due"] = min(control["holds_due"], row["due"])
    return k


@part
def end(s, k):
    """The hold is free: nothing more comes of it."""
    s["holds"][k]["state"] = FREE
    s["control"]["moving"] -= 1


@part
def hold_of(s, cookie):
    """The hold whose use the cookie names, if that lasts; else -1."""
    k = (cookie & (COOKIE - 1)) >> HOLD_SHIFT
    if cookie & COOKIE == 0 or k >= HOLDS or s["holds"][k]["state"] != MOVING:
        return NONE
    return k if s["holds"][k]["use"] == (cookie >> USE_SHIFT) & (USES - 1) else NONE


@part
def piece_of(row, piece):
    """Bytes in a piece."""
    return min(row["piece_bytes"], row["length"] - piece * row["piece_bytes"])


@entry
def next_place(s):
    """Fill `s["place"]` with the next command to send, of the hold that waits longest; False where
    there is none. The command counts as sent."""
    best = NONE
    if s["control"]["moving"] > 0:
        for k in range(HOLDS):
            row = s["holds"][k]
            waits = row["state"] == MOVING and row["sent"] < row["pieces"]
            if waits and (best < 0 or row["since"] < s["holds"][best]["since"]):
                best = k
    if best < 0:
        return False
    row = s["holds"][best]
    place = s["place"]
    piece = row["sent"]
    place["cookie"] = COOKIE | best << HOLD_SHIFT | row["use"] << USE_SHIFT | piece
    place["queue"] = row["queue"]
    place["offset"] = row["start"] + row["header"] + piece * row["piece_bytes"]
    place["length"] = piece_of(row, piece)
    row["sent"] += 1
    return True


@entry
def place_answered(s, cookie, refused, now):
    """The card has carried out the command with this cookie, or refused it."""
    if refused:
        count(s, counters.PLACE_REFUSED)
    k = hold_of(s, cookie)
    if k < 0:
        return
    row = s["holds"][k]
    row["answered"] += 1
    if refused:
        row["arrived"] += 1  # no record comes of it
    if row["answered"] == row["pieces"]:
        if row["arrived"] == row["pieces"]:
            end(s, k)
            return
        row["due"] = now + GRACE
        s["control"]["holds_due"] = min(s["control"]["holds_due"], row["due"])
    else:
        row["due"] = now + PATIENCE


@entry
def drop_queue(s, queue):
    """Nothing more is moved to `queue`."""
    for k in range(HOLDS):
        row = s["holds"][k]
        if row["state"] == MOVING and row["queue"] == queue:
            end(s, k)


@part
def shape_headers(s, area, k, piece):
    """Make the headers in the hold those of a piece of a TCP segment."""
    row = s["holds"][k]
    ip = row["start"] + row["ip"]
    tcp = row["start"] + row["transport"]
    length = row["header"] - row["ip"] + piece_of(row, piece)
    before = piece * row["piece_bytes"]
    put32(area, tcp + 4, row["seq"] + before)
    flags = row["flags"]
    if piece < row["pieces"] - 1:
        flags &= ~(FIN | PSH)
    if row["urgent"] <= before:
        flags &= ~URG
    put8(area, tcp + 13, flags)
    put16(area, tcp + 18, max(row["urgent"] - before, 0))
    if get8(area, ip) >> 4 == 4:
        put16(area, ip + 2, length)
    else:
        put16(area, ip + 4, length - 40)


@part
def on_placed(s, area, queue, cookie, payload, region, offset, left):
    """A PLACED record of `queue`, with `payload` bytes: the hold whose headers go with them, as
    they are now in the area; -1, counted, if nobody waits for it."""
    k = hold_of(s, cookie)
    piece = cookie & (PIECES_MOST - 1)
    if k >= 0:
        row = s["holds"][k]
        if queue != row["queue"] or piece >= row["sent"] or payload != piece_of(row, piece):
            k = NONE
    if k < 0:
        count(s, counters.PLACE_LATE)
        on_record(s, queue, left)
        p = s["parsed"]
        p["region"] = region
        p["offset"] = offset
        return_payload(s)
        return k
    count(s, counters.PLACED)
    row = s["holds"][k]
    row["arrived"] += 1
    if row["pieces"] > 1:
        shape_headers(s, area, k, piece)
    return k


@part
def settle(s, k):
    """A record of the hold was handled: the hold is over if it was the last one."""
    row = s["holds"][k]
    if row["arrived"] == row["pieces"] and row["answered"] == row["pieces"]:
        end(s, k)


@part
def expire(s, now):
    """Give up what got no answer, or no buffer; the next deadline among what is moved."""
    following = NEVER
    if s["control"]["moving"] == 0:
        return following
    for k in range(HOLDS):
        row = s["holds"][k]
        if row["state"] != MOVING:
            continue
        if row["due"] > now:
            following = min(following, row["due"])
        elif row["answered"] == row["pieces"]:
            s["counters"][counters.PLACE_DROPPED] += row["pieces"] - row["arrived"]
            end(s, k)
        else:
            s["counters"][counters.PLACE_LOST] += row["pieces"] - row["answered"]
            end(s, k)
    return following
