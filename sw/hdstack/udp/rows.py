"""Sockets and datagrams: rows taken and given back, lists, whose a datagram is."""

import numpy as np

from ..compile import part
from ..tcp.events import EventKind, Family
from ..tcp.rows import emit_event
from ..tcp.sequence import MASK
from ..tcp.tables import ENDPOINTS, NONE
from .tables import BOUND, CLOSING, ENDPOINT_BITS, ENDPOINTS_PER_QUEUE, FREE

UNBOUND = int(EventKind.UNBOUND)
IPV4 = int(Family.IPV4)
BOTH = int(Family.BOTH)


@part
def number(s, at):
    """What the application calls the socket at row `at`: no row's number comes back soon."""
    return at | ((s["endpoints"][at]["reuse"] << ENDPOINT_BITS) & MASK)


@part
def find_own(s, queue, connection):
    """Row of the open socket that the application of `queue` calls `connection`, or -1."""
    at = connection & ((1 << ENDPOINT_BITS) - 1)
    if at >= ENDPOINTS:
        return np.int64(NONE)
    e = s["endpoints"][at]
    if e["queue"] != queue or e["state"] != BOUND or number(s, at) != connection:
        return np.int64(NONE)
    return np.int64(at)


@part
def takes_family(e, high):
    """Whether the socket is for addresses of this family."""
    return e["family"] == BOTH or (e["family"] == IPV4) == (high == 0)


@part
def is_any(e):
    """Whether the socket takes what comes to any of our addresses."""
    return e["local_address"] == 0 and e["local_high"] == 0


@part
def is_for(e, p):
    """Whether the parsed datagram is for the socket."""
    if e["state"] != BOUND or e["local_port"] != p["local_port"] or e["silent"]:
        return False
    if not takes_family(e, p["local_high"]):
        return False
    if not is_any(e) and (
        e["local_address"] != p["local_address"] or e["local_high"] != p["local_high"]
    ):
        return False
    return e["connected"] == 0 or (
        e["remote_address"] == p["remote_address"]
        and e["remote_high"] == p["remote_high"]
        and e["remote_port"] == p["remote_port"]
    )


@part
def find_in(s, first, rows):
    p = s["parsed"]
    for at in range(first, first + rows):
        if is_for(s["endpoints"][at], p):
            return np.int64(at)
    return np.int64(NONE)


@part
def find_endpoint(s):
    """Row of the socket that the parsed datagram is for, or -1: first among those of the queue
    that the card chose."""
    at = np.int64(NONE)
    if s["parsed"]["queue"] > 0:
        at = find_in(s, s["parsed"]["queue"] * ENDPOINTS_PER_QUEUE, ENDPOINTS_PER_QUEUE)
    if at < 0:
        at = find_in(s, 0, ENDPOINTS)
    return at


@part
def port_owner(s, port):
    """Queue of the application that has bound a port, or is about to; -1: nobody."""
    for at in range(ENDPOINTS):
        e = s["endpoints"][at]
        if e["local_port"] == port and e["state"] != FREE and e["state"] != CLOSING:
            return e["queue"]
    return np.int64(NONE)


@part
def end_endpoint(s, at):
    """The row is free again: no datagram of it is on its way."""
    e = s["endpoints"][at]
    emit_event(s, e["queue"], UNBOUND, e["socket"], number(s, at), 0, 0, 0, 0, 0, 0)
    e["state"] = FREE


@part
def close_endpoint(s, at):
    """The socket takes nothing any more, its port is free; what it sent goes on."""
    e = s["endpoints"][at]
    u = s["udp"][e["queue"]]
    u["endpoints"] -= 1
    u["held"] -= e["held"]
    e["held"] = 0
    s["control"]["listeners_version"] += 1
    e["state"] = CLOSING
    if e["sends"] == 0:
        end_endpoint(s, at)


@part
def take_datagram(s, queue):
    """A row for a datagram of `queue`, or -1."""
    u = s["udp"][queue]
    at = u["free_datagram"]
    if at >= 0:
        u["free_datagram"] = s["datagrams"][at]["next"]
    return at


@part
def give_datagram(s, queue, at):
    u = s["udp"][queue]
    s["datagrams"][at]["next"] = u["free_datagram"]
    u["free_datagram"] = at


@part
def append_waiting(s, queue, at):
    """Behind those that wait for a neighbour."""
    u = s["udp"][queue]
    s["datagrams"][at]["next"] = NONE
    if u["waiting_head"] < 0:
        u["waiting_head"] = at
    else:
        s["datagrams"][u["waiting_tail"]]["next"] = at
    u["waiting_tail"] = at
    u["waiting"] += 1
    s["control"]["udp_waiting"] += 1


@part
def remove_waiting(s, queue, at, before):
    """It waits no more; `before` is the row in front of it, -1: none."""
    u = s["udp"][queue]
    following = s["datagrams"][at]["next"]
    if before < 0:
        u["waiting_head"] = following
    else:
        s["datagrams"][before]["next"] = following
    if following < 0:
        u["waiting_tail"] = before
    u["waiting"] -= 1
    s["control"]["udp_waiting"] -= 1


@part
def append_pending(s, queue, at):
    """Behind those that wait for room."""
    u = s["udp"][queue]
    s["datagrams"][at]["next"] = NONE
    if u["pending_head"] < 0:
        u["pending_head"] = at
    else:
        s["datagrams"][u["pending_tail"]]["next"] = at
    u["pending_tail"] = at


@part
def append_flight(s, queue, at, reason):
    """Handed out, or given up for a `reason`: told in this order, when DMA is through."""
    u = s["udp"][queue]
    s["datagrams"][at]["reason"] = reason
    s["datagrams"][at]["next"] = NONE
    if u["flight_head"] < 0:
        u["flight_head"] = at
    else:
        s["datagrams"][u["flight_tail"]]["next"] = at
    u["flight_tail"] = at
