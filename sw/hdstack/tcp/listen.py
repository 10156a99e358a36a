"""Which connection a segment is for; a SYN for none opens one, or takes the place of TIME-WAIT."""

from ..compile import part
from . import cookies, counters, states
from .close import NORMAL, finish
from .emit import ACK, RST, SYN, reset_stranger
from .open import HALF_OPEN_MAX, find_listener, learn_options, new_connection, set_flags
from .output import output
from .rows import count, find_connection, has_room
from .sequence import later, unwrap


@part
def listens(s, port):
    """Whether somebody listens at `port`."""
    at = find_listener(s, port)
    return at >= 0 and s["listeners"][at]["state"] == states.LISTENER_LISTENING


@part
def passive_open(s, floor, now):
    """A SYN for no connection: to its listener, or RST."""
    p = s["parsed"]
    at = find_listener(s, p["local_port"])
    if not listens(s, p["local_port"]):
        count(s, counters.NO_LISTENER)
        reset_stranger(s, now)
        return
    listener = s["listeners"][at]
    queue = listener["queue"]
    q = s["queues"][queue]
    if not has_room(s, queue):
        count(s, counters.SYN_DROPPED)
        return
    if q["half_open"] >= HALF_OPEN_MAX or listener["half_open"] >= listener["backlog"]:
        cookies.answer(s, listener, queue, now)
        return
    index = new_connection(s, queue, floor, now)
    if index < 0:
        count(s, counters.SYN_DROPPED)
        return
    c = s["connections"][index]
    c["listener"] = at
    c["socket"] = listener["socket"]
    listener["connections"] += 1
    listener["half_open"] += 1
    q["half_open"] += 1
    set_flags(c, listener["flags"])
    learn_options(s, c, now)
    c["mac_known"] = 1
    c["irs"] = p["seq"]
    c["rcv_nxt"] = p["seq"] + 1
    c["rcv_adv"] = c["rcv_nxt"]
    c["state"] = states.SYN_RECEIVED
    output(s, index, now)


@part
def may_reopen(s, c):
    """Whether the parsed SYN may end TIME-WAIT: it cannot be an old duplicate (RFC 6191, RFC 1122
    section 4.2.2.13)."""
    p = s["parsed"]
    higher = unwrap(p["seq"], c["rcv_nxt"]) > c["rcv_nxt"]
    if p["ts"] == 0:
        return higher
    if c["ts_ok"] == 0:
        return True
    step = later(p["tsval"], c["ts_recent"])
    return step > 0 or (step == 0 and higher)


@part
def answers_cookie(s, c, now):
    """Whether the parsed ACK is none of the half-open connection, but brings back a cookie: another
    SYN of these ends came between, of the same peer or forged. The cookie proves who came first."""
    ack = unwrap(s["parsed"]["ack"], c["snd_max"])
    return (ack <= c["snd_una"] or ack > c["snd_max"]) and cookies.awaited(s, now) >= 0


@part
def find_or_open(s, now):
    """Row of the parsed segment's connection, or -1 after a SYN or a stranger was answered."""
    p = s["parsed"]
    index = find_connection(s)
    begins = p["flags"] & (SYN | ACK | RST) == SYN
    floor = -1
    if index >= 0:
        c = s["connections"][index]
        if begins and c["state"] == states.TIME_WAIT and may_reopen(s, c):
            # our numbers go on above the old ones
            floor = c["snd_max"] + 128000
        elif not (c["state"] == states.SYN_RECEIVED and answers_cookie(s, c, now)):
            return index
        finish(s, index, NORMAL, 0)
    if begins:
        passive_open(s, floor, now)
        return -1
    if p["flags"] & (SYN | ACK | RST) == ACK:
        index = cookies.accept(s, now)
        if index >= 0:
            return index
    if p["flags"] & (SYN | ACK | RST) == 0 and listens(s, p["local_port"]):
        count(s, counters.BAD_SEGMENT)  # RFC 9293 section 3.10.7.2: LISTEN drops it
        return -1
    reset_stranger(s, now)
    return -1
