"""Datagrams in: to the socket that they are for, by reference, or back to whoever posted (R21).

`on_datagram` finds the ends in `s["parsed"]`, and there, too, where the card put the payload: at
`offset` of `region` (-1: nowhere), and in the buffers of `chain`.
"""

from ..compile import part
from ..tcp import counters, path
from ..tcp.events import CloseReason, EventKind
from ..tcp.rows import address_event, count, emit_event, has_room, return_payload
from ..tcp.window import udp_allowance
from .rows import find_endpoint, number
from .tables import HELD_PER_ENDPOINT

DATAGRAM = int(EventKind.DATAGRAM)
PIECE = int(EventKind.PIECE)
REFUSED = int(CloseReason.REFUSED)
UNREACHABLE = int(CloseReason.UNREACHABLE)
SOCKET_ERROR = int(EventKind.SOCKET_ERROR)


@part
def deliver(s, index):
    """DATAGRAM, and PIECE for each of its buffers."""
    e = s["endpoints"][index]
    p = s["parsed"]
    queue = e["queue"]
    buffers = 1 + p["chained"] if p["length"] > 0 else 0
    e["held"] += max(buffers, 1)
    s["udp"][queue]["held"] += max(buffers, 1)
    own = number(s, index)
    address_event(
        s, queue, DATAGRAM, e["socket"], own, p["remote_high"], p["remote_address"],
        p["remote_port"], buffers,
    )  # fmt: skip
    if buffers == 0:
        return
    first = p["length"]
    for step in range(p["chained"]):
        first -= p["chain"][step]["length"]
    emit_event(s, queue, PIECE, e["socket"], own, 0, 0, p["region"], 0, p["offset"], first)
    for step in range(p["chained"]):
        more = p["chain"][step]
        emit_event(
            s, queue, PIECE, e["socket"], own, 0, 0, more["region"], 0, more["offset"],
            more["length"],
        )  # fmt: skip


@part
def on_datagram(s):
    """The datagram in `s["parsed"]`, its checksum verified by the card. False where nobody takes
    such a one (the sender may be told)."""
    p = s["parsed"]
    index = find_endpoint(s)
    if index < 0:
        count(s, counters.NO_SOCKET)
        return_payload(s)
        return False
    e = s["endpoints"][index]
    queue = e["queue"]
    if queue != p["queue"] and not has_room(s, queue):
        count(s, counters.NOT_READY)
    elif p["length"] > 0 and p["region"] < 0:
        count(s, counters.WHOLE_DATAGRAMS)
    elif p["length"] > 0 and s["regions"][p["region"]]["queue"] != queue:
        count(s, counters.FOREIGN_PAYLOAD)
    else:
        more = 1 + p["chained"] if p["length"] > 0 else 1
        held = s["udp"][queue]["held"]
        if e["held"] + more <= HELD_PER_ENDPOINT and held + more <= udp_allowance(s, queue):
            count(s, counters.DATAGRAMS_IN)
            deliver(s, index)
            return True
        count(s, counters.DATAGRAMS_REFUSED)
    return_payload(s)
    return True


@part
def take_mtu(s, e, mtu, size, now):
    """A packet of `size` bytes was larger than the `mtu` of a link: believed if the socket sends
    there. False where it is not."""
    p = s["parsed"]
    mtu = path.believed_mtu(p["remote_high"], mtu, size)
    known = path.known_mtu(s, p["remote_high"], p["remote_address"], now)
    sends_there = (
        e["to_address"] == p["remote_address"]
        and e["to_high"] == p["remote_high"]
        and e["to_port"] == p["remote_port"]
    )
    if not sends_there or size <= mtu or mtu >= known:
        return False
    count(s, counters.PATH_MTU)
    path.remember(s, p["remote_high"], p["remote_address"], mtu, now)
    return True


@part
def tell_error(s, index, refused):
    """A connected socket hears of an ICMP error. False where it is not connected."""
    e = s["endpoints"][index]
    if e["connected"] == 0:
        return False
    reason = REFUSED if refused else UNREACHABLE
    own = number(s, index)
    emit_event(s, e["queue"], SOCKET_ERROR, e["socket"], own, 0, 0, 0, reason, 0, 0)
    count(s, counters.ERRORS_SOFT)
    return True


@part
def on_error(s, too_big, mtu, size, refused, now):
    """An ICMP error that quotes a datagram of `size` bytes, whose ends are in `s["parsed"]`.

    Anybody can send one, so it takes a socket with these ends that has sent something since the
    last error. `too_big`: a link of the path takes `mtu` bytes, 0: untold. Any other is told to a
    connected socket, as CloseReason REFUSED or UNREACHABLE.
    """
    s["parsed"]["queue"] = 0
    index = find_endpoint(s)
    if index >= 0:
        e = s["endpoints"][index]
        if e["may_fail"] and has_room(s, e["queue"]):
            taken = take_mtu(s, e, mtu, size, now) if too_big else tell_error(s, index, refused)
            if taken:
                e["may_fail"] = 0
                return
    count(s, counters.ERRORS_IGNORED)
