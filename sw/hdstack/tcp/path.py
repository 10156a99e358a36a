"""What routers say about a path: ICMP errors about segments of ours (RFC 1122, 1191, 5927).

Anybody can send such a message, so one is believed only if it quotes a number that is in flight
(RFC 5927 section 4), and even then it never ends a connection that is synchronised: all that an
error does there is to name the reason if the connection is given up later. A smaller path MTU is
taken if the quoted packet was larger than it, not below a floor, and once a second at most; it is
forgotten after ten minutes (RFC 1191 section 6.3).
"""

from ..compile import part
from . import counters, states
from .close import finish
from .events import CloseReason, EventKind
from .output import output
from .rows import connection_event, count, find_connection, has_room, own_mss
from .sequence import unwrap
from .tables import NEVER, NONE, PATHS, SECOND

PROBLEM = int(EventKind.PROBLEM)
REFUSED = int(CloseReason.REFUSED)
UNREACHABLE = int(CloseReason.UNREACHABLE)

MTU_LEAST = 552
"""No smaller one is believed: it would make us send mostly headers."""
MTU_LEAST_IPV6 = 1280
HEADERS = 40
HEADERS_IPV6 = 60
LIFETIME = 600 * SECOND
AGAIN = SECOND
PLATEAUS = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 576)
"""Of RFC 1191 section 7: for routers that do not tell the MTU."""


@part
def headers(c):
    """Bytes of the IP and TCP headers without options."""
    return HEADERS if c["remote_high"] == 0 else HEADERS_IPV6


@part
def known_mtu(s, high, address, now):
    """Largest IP packet that the path to the address is known to take."""
    most = s["control"]["mss"] + HEADERS
    if s["control"]["paths"] == 0:
        return most
    for at in range(PATHS):
        row = s["paths"][at]
        if row["address"] == address and row["high"] == high and now < row["until"]:
            return min(most, row["mtu"])
    return most


@part
def known_mss(s, c, now):
    """Largest payload and TCP options that the path to the peer is known to take."""
    mtu = known_mtu(s, c["remote_high"], c["remote_address"], now)
    return min(own_mss(s, c["remote_high"]), mtu - headers(c))


@part
def remember(s, high, address, mtu, now):
    """The path to the address takes `mtu` bytes, for a while; the oldest entry makes room."""
    best = 0
    for at in range(PATHS):
        row = s["paths"][at]
        if row["address"] == address and row["high"] == high:
            best = at
            break
        if row["until"] < s["paths"][best]["until"]:
            best = at
    row = s["paths"][best]
    row["high"] = high
    row["address"] = address
    row["mtu"] = mtu
    row["until"] = now + LIFETIME
    s["control"]["paths"] = 1


@part
def forget(c, now):
    """The path may have grown: full segments again (RFC 1191 section 6.3)."""
    if now >= c["path_until"]:
        c["path_until"] = NEVER
        c["mss"] = c["mss_agreed"]


@part
def plateau_below(size):
    for at in range(len(PLATEAUS)):
        if PLATEAUS[at] < size:
            return PLATEAUS[at]
    return MTU_LEAST


@part
def believed_mtu(high, mtu, size):
    """What to take for the MTU that an error about a packet of `size` bytes names; 0: none."""
    if mtu == 0:
        mtu = plateau_below(size)
    # RFC 8201 section 4: every IPv6 link takes 1280 bytes
    return max(mtu, MTU_LEAST if high == 0 else MTU_LEAST_IPV6)


@part
def quoted_connection(s, seq):
    """Row of the connection that sent the quoted segment, whose ends are in `s["parsed"]`, if `seq`
    is in flight; else -1."""
    index = find_connection(s)
    if index < 0:
        return NONE
    c = s["connections"][index]
    seq = unwrap(seq, c["snd_max"])
    if seq < c["snd_una"] or seq >= c["snd_max"] or not has_room(s, c["queue"]):
        return NONE
    return index


@part
def tell_problem(s, index, reason):
    """Tell the application that its peer does not answer (RFC 9293 section 3.9.1.8), once until
    bytes are acknowledged again."""
    c = s["connections"][index]
    if c["attached"] and c["announced"] and c["told_problem"] == 0:
        c["told_problem"] = 1
        connection_event(s, c, index, PROBLEM, 0, reason, 0, 0)


@part
def on_unreachable(s, index, hard, refused):
    """The peer, or what it listens with, cannot be reached."""
    c = s["connections"][index]
    reason = REFUSED if refused else UNREACHABLE
    if hard and c["state"] < states.ESTABLISHED:
        count(s, counters.ERRORS_TAKEN)
        finish(s, index, reason, 0)
    else:
        count(s, counters.ERRORS_SOFT)
        c["soft_error"] = reason
        tell_problem(s, index, reason)


@part
def on_too_big(s, index, mtu, size, now):
    """A packet of `size` bytes was larger than the `mtu` of a link; 0: it did not tell."""
    c = s["connections"][index]
    mtu = believed_mtu(c["remote_high"], mtu, size)
    mss = mtu - headers(c) - c["option_bytes"]
    if size <= mtu or mss >= c["mss"] or now < c["path_at"] + AGAIN:
        count(s, counters.ERRORS_IGNORED)
        return
    count(s, counters.PATH_MTU)
    remember(s, c["remote_high"], c["remote_address"], mtu, now)
    c["path_at"] = now
    c["path_until"] = now + LIFETIME
    c["mss"] = mss
    if c["state"] < states.ESTABLISHED:
        return
    # what was too big goes again in smaller segments; the congestion window is not touched
    c["snd_nxt"] = c["snd_una"]
    c["recover"] = c["snd_max"]
    c["recovery"] = 0
    c["dup_acks"] = 0
    c["high_rxt"] = c["snd_una"]
    c["timing_seq"] = NONE
    output(s, index, now)
