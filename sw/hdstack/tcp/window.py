"""Receive window (R22): what is promised to peers stays within what an application has posted.

The card tells with each record how many buffers the queue has left; times the bytes that a buffer
has lately held (one-byte segments take a whole buffer each) this is the budget of the
application. A connection is offered up to half of what is not yet promised, and no more than a
small first promise and some times what it has received: so those that receive grow, and one that
only sends, or is idle, takes nothing from them. What was promised is never taken back. Buffers that
UDP sockets may still take are left out.
"""

from ..compile import part
from ..udp.tables import HELD_PER_ENDPOINT, HELD_PER_QUEUE
from .rows import set_starved
from .tables import QUEUES, REGIONS

WINDOW_MAX = 512 * 1024
WINDOW_SHIFT = 4
"""Scale (RFC 7323) of the windows that we send: up to 1 MiB."""
FIRST_SEGMENTS = 4
"""The promise of a connection that has not yet received, in segments."""
GROWTH = 8
"""Bytes by which it may grow for each that was received: a first segment makes room for more than
the ten of a first flight (RFC 6928)."""
POSTED_MAX = 255
"""The card's count saturates here."""


@part
def on_record(s, queue, posted_left):
    """A record of `queue` told how many buffers are left."""
    q = s["queues"][queue]
    q["posted"] = min(max(posted_left, 0), POSTED_MAX)
    q["saturated"] = 1 if posted_left >= POSTED_MAX else 0


@part
def on_payload(s, queue, payload):
    """A buffer holds `payload` bytes of TCP."""
    q = s["queues"][queue]
    q["average"] += (payload - q["average"]) // 16
    q["average"] = max(q["average"], 1)


@part
def on_posted(s, queue, buffers):
    """The application says that it posted so many buffers again (not trusted)."""
    q = s["queues"][queue]
    q["posted"] = min(q["posted"] + buffers, min(POSTED_MAX, q["postable"]))


@part
def on_consumed(s, queue, length):
    """The application says that it posted the buffers of `length` bytes again (not trusted)."""
    average = max(s["queues"][queue]["average"], 1)
    on_posted(s, queue, (min(max(length, 1), WINDOW_MAX) + average - 1) // average)


@part
def udp_allowance(s, queue):
    """Buffers that the UDP sockets of an application may hold."""
    most = min(s["udp"][queue]["endpoints"] * HELD_PER_ENDPOINT, HELD_PER_QUEUE)
    return min(most, s["queues"][queue]["postable"] // 2)


@part
def promisable(s, queue):
    """Posted buffers that UDP sockets of the application cannot take from under a promise."""
    reserved = max(udp_allowance(s, queue) - s["udp"][queue]["held"], 0)
    return max(s["queues"][queue]["posted"] - reserved, 0)


@part
def set_edge(s, c, edge):
    """The right edge that the peer was told is `edge`; it never moves left."""
    q = s["queues"][c["queue"]]
    c["rcv_adv"] = max(c["rcv_adv"], edge)
    promise = max(c["rcv_adv"] - c["rcv_nxt"], 0)
    q["promised"] += promise - c["promised"]
    c["promised"] = promise


@part
def drop_promise(s, index):
    """The connection receives no more."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    q["promised"] -= c["promised"]
    c["promised"] = 0
    set_starved(s, index, 0)


@part
def offered_edge(s, c):
    """The right edge that could be promised now (at least the one promised before)."""
    q = s["queues"][c["queue"]]
    mss = s["control"]["mss"]
    promise = max(c["rcv_adv"] - c["rcv_nxt"], 0)
    promised = q["promised"] - c["promised"] + promise
    buffers = promisable(s, c["queue"])
    spare = buffers * q["average"] - promised
    want = promise + max(spare, 0) // 2
    if spare < 8 * mss:
        want = promise + max(spare, 0)  # the last of it whole, or nobody gets a full segment
    want = min(want, FIRST_SEGMENTS * mss + GROWTH * c["received"])
    # one segment where there is a buffer for it, or tiny segments (and the probes of a closed
    # window are such) would keep it closed for ever; a saturated count means more than we know of
    if buffers * mss - promised >= mss or q["saturated"]:
        want = max(want, mss)
    want = min(want, WINDOW_MAX)
    # silly window (RFC 9293 section 3.8.6.2.2): by a segment, or by half of what there is, or not
    if want - promise < min(mss, want // 2):
        return c["rcv_nxt"] + promise
    return c["rcv_nxt"] + want


@part
def may_open(s, queue):
    """Whether a shut window of this application could open now."""
    q = s["queues"][queue]
    mss = s["control"]["mss"]
    spare = promisable(s, queue) * max(q["average"], mss) - q["promised"]
    return spare >= mss or q["saturated"] == 1


@part
def reset_queue(s, queue, posted):
    """A new application: it is believed to have posted `posted` buffers until a record tells."""
    q = s["queues"][queue]
    q["posted"] = min(posted, POSTED_MAX)
    q["saturated"] = 0
    q["average"] = s["control"]["mss"]


@part
def count_postable(s):
    """Buffers that each application can post at all, over its live regions."""
    for queue in range(QUEUES):
        s["queues"][queue]["postable"] = 0
    for region in range(REGIONS):
        row = s["regions"][region]
        if row["live"]:
            s["queues"][row["queue"]]["postable"] += row["postable"]
