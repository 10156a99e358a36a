"""What applications ask of UDP. Every number comes from an untrusted hand and is checked here.

The worst that an application can do is to lose datagrams and sockets of its own: it names sockets
by number, and one of another application is refused; payload must lie in a live region of its own;
what it says it gave back is capped by what it holds.
"""

import numpy as np

from ..compile import part
from ..tcp import counters
from ..tcp.data import region_serves
from ..tcp.events import IPV6, CloseReason, EventKind, Family, RequestKind
from ..tcp.requests import fail, join_words, open_windows
from ..tcp.routes import choose_local, is_local, next_hop
from ..tcp.rows import address_event, count, emit_event
from ..tcp.sequence import keyed_hash
from ..tcp.tables import QUEUES, REGIONS
from ..tcp.window import on_posted
from .output import advance, send
from .rows import (
    close_endpoint,
    find_own,
    is_any,
    number,
    port_owner,
    take_datagram,
    takes_family,
)
from .tables import BOUND, CLOSING, ENDPOINTS_PER_QUEUE, FREE, PENDING

BIND = int(RequestKind.BIND)
PEER = int(RequestKind.PEER)
TO = int(RequestKind.TO)
SEND_TO = int(RequestKind.SEND_TO)
TAKEN = int(RequestKind.TAKEN)
UNBIND = int(RequestKind.UNBIND)
EVENT_BOUND = int(EventKind.BOUND)
EVENT_SENT = int(EventKind.SENT)
IPV4 = int(Family.IPV4)
BOTH = int(Family.BOTH)
ADDRESS_IN_USE = int(CloseReason.ADDRESS_IN_USE)
NO_RESOURCES = int(CloseReason.NO_RESOURCES)
INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)
UNREACHABLE = int(CloseReason.UNREACHABLE)
NOT_LOCAL = int(CloseReason.NOT_LOCAL)


@part
def overlaps(e, family, high, address):
    """Whether a socket takes an address that one of `family` at the local address would take."""
    if e["family"] != family and e["family"] != BOTH and family != BOTH:
        return False
    if is_any(e) or (high == 0 and address == 0):
        return True
    return e["local_high"] == high and e["local_address"] == address


@part
def is_taken(s, queue, family, high, address, port):
    """Whether a port is another application's, or has a socket for such an address."""
    owner = port_owner(s, port)
    if owner >= 0 and owner != queue:
        return True
    for other in range(QUEUES):
        q = s["queues"][other]
        if other != queue and q["live"] and q["port_first"] <= port and port <= q["port_last"]:
            return True
    first = queue * ENDPOINTS_PER_QUEUE
    for at in range(first, first + ENDPOINTS_PER_QUEUE):
        e = s["endpoints"][at]
        open_now = e["state"] != FREE and e["state"] != CLOSING
        if open_now and e["local_port"] == port and overlaps(e, family, high, address):
            return True
    return False


@part
def choose_port(s, queue):
    """RFC 6056 algorithm 1: a port of the application's range at random, then upwards; 0: none."""
    q = s["queues"][queue]
    u = s["udp"][queue]
    size = q["port_last"] - q["port_first"] + 1
    if size <= 0:
        return np.int64(0)
    u["port_next"] += 1
    start = keyed_hash(s, s["control"]["secret"][3], u["port_next"], queue + 1)
    for step in range(min(size, 2 * ENDPOINTS_PER_QUEUE)):
        port = q["port_first"] + (start + step) % size
        if port_owner(s, port) < 0:
            return port
    return np.int64(0)


@part
def request_bind(s, queue, socket, family, high, address, port, silent):
    known = family in (IPV4, IPV6, BOTH)
    named = high != 0 or address != 0
    if not known or (named and (family == BOTH or (family == IPV6) != (high != 0))):
        fail(s, queue, socket, INVALID_REQUEST)
        return
    if named and not is_local(s, high, address):
        fail(s, queue, socket, NOT_LOCAL)
        return
    if port == 0:
        port = choose_port(s, queue)
    elif is_taken(s, queue, family, high, address, port):
        fail(s, queue, socket, ADDRESS_IN_USE)
        return
    free = -1
    first = queue * ENDPOINTS_PER_QUEUE
    for at in range(first, first + ENDPOINTS_PER_QUEUE):
        if free < 0 and s["endpoints"][at]["state"] == FREE:
            free = at
    if free < 0 or port == 0:
        fail(s, queue, socket, NO_RESOURCES)
        return
    e = s["endpoints"][free]
    e["state"] = PENDING
    e["reuse"] += 1
    e["queue"] = queue
    e["socket"] = socket
    e["family"] = family
    e["local_high"] = high
    e["local_address"] = address
    e["local_port"] = port
    e["connected"] = 0
    e["silent"] = 1 if silent else 0
    e["to_port"] = 0
    e["held"] = 0
    e["sends"] = 0
    e["may_fail"] = 0
    s["udp"][queue]["endpoints"] += 1
    s["control"]["listeners_version"] += 1


@part
def tell_bound(s, at):
    """Tell the application of its socket, and where it is."""
    e = s["endpoints"][at]
    address_event(
        s, e["queue"], EVENT_BOUND, e["socket"], number(s, at), e["local_high"],
        e["local_address"], e["local_port"], 0,
    )  # fmt: skip


@part
def endpoint_ready(s, at, ok):
    """The steering rule of the socket at row `at` is in the device, or could not be stored."""
    e = s["endpoints"][at]
    if e["state"] != PENDING:
        return
    if ok:
        e["state"] = BOUND
        tell_bound(s, at)
        return
    fail(s, e["queue"], e["socket"], NO_RESOURCES)
    s["udp"][e["queue"]]["endpoints"] -= 1
    e["state"] = FREE


@part
def request_peer(s, queue, at, high, address, port):
    e = s["endpoints"][at]
    socket = e["socket"]
    if port == 0 or (high == 0 and address == 0) or not takes_family(e, high):
        fail(s, queue, socket, INVALID_REQUEST)
        return
    hop_high, hop = next_hop(s, high, address)
    if (hop == 0 and hop_high == 0) or not choose_local(s, high, address):
        fail(s, queue, socket, UNREACHABLE)
        return
    if is_any(e):
        e["local_high"] = s["parsed"]["local_high"]
        e["local_address"] = s["parsed"]["local_address"]
    e["connected"] = 1
    e["silent"] = 0
    e["remote_high"] = high
    e["remote_address"] = address
    e["remote_port"] = port
    e["to_high"] = high
    e["to_address"] = address
    e["to_port"] = port
    tell_bound(s, at)


@part
def request_to(s, at, high, address, port):
    """Where the socket's datagrams go from now on; a wrong one is told with each of them."""
    e = s["endpoints"][at]
    if e["connected"]:
        count(s, counters.BAD_REQUEST)
        return
    e["to_high"] = high
    e["to_address"] = address
    e["to_port"] = port if takes_family(e, high) else 0


@part
def refuse(s, queue, at, cookie, reason):
    """A SEND_TO that comes to nothing."""
    if reason == INVALID_REQUEST:
        count(s, counters.BAD_REQUEST)
    emit_event(s, queue, EVENT_SENT, cookie, number(s, at), 0, 0, 0, reason, 0, 0)


@part
def request_send(s, queue, at, cookie, region, generation, offset, length, given, now):
    e = s["endpoints"][at]
    good = e["to_port"] != 0 and length <= 0xFFFF and (given == 0 or given >> 16 == 1)
    if good and length > 0:
        good = region < REGIONS and region_serves(s, queue, region, generation)
        good = good and offset + length <= s["regions"][region]["bytes"]
    if not good:
        refuse(s, queue, at, cookie, INVALID_REQUEST)
        return
    row = take_datagram(s, queue)
    if row < 0:
        refuse(s, queue, at, cookie, NO_RESOURCES)
        return
    e["sends"] += 1
    e["may_fail"] = 1
    d = s["datagrams"][row]
    d["endpoint"] = at
    d["cookie"] = cookie
    d["region"] = region
    d["generation"] = generation
    d["offset"] = offset
    d["length"] = length
    d["local_port"] = e["local_port"]
    d["remote_high"] = e["to_high"]
    d["remote_address"] = e["to_address"]
    d["remote_port"] = e["to_port"]
    d["sent"] = 0
    d["untaken"] = 0
    d["last_tx"] = 0
    send(s, queue, row, given, now)
    advance(s, queue)


@part
def request_taken(s, queue, at, units, buffers):
    """The application holds so many buffers less; of these it posted `buffers` again."""
    if at >= 0:
        e = s["endpoints"][at]
        units = min(units, e["held"])
        e["held"] -= units
        s["udp"][queue]["held"] -= units
    on_posted(s, queue, min(buffers, units))
    open_windows(s, queue)


@part
def handle_request(s, queue, now):
    """Carry out the request in `s["request"]`, from the application of `queue`."""
    row = s["request"]
    kind = np.int64(row["kind"])
    port = np.int64(row["port"])
    socket = np.int64(row["socket"])
    connection = np.int64(row["connection"])
    region = np.int64(row["region"])
    offset = np.int64(row["offset"])
    length = np.int64(row["length"])
    high = np.int64(0)
    address = np.int64(row["address"])
    if s["queues"][queue]["live"] == 0:
        count(s, counters.BAD_REQUEST)
        return
    if region == IPV6 and kind != SEND_TO and kind != TAKEN:
        # of BIND the second word is where CONNECT has it
        second = connection if kind == BIND else offset
        high = join_words(np.int64(row["spare"]), length)
        address = join_words(second, address)
    if kind == BIND:
        request_bind(s, queue, socket, region, high, address, port, offset)
        return
    at = find_own(s, queue, connection)
    if kind == TAKEN:
        request_taken(s, queue, at, length, offset)
    elif at < 0:
        count(s, counters.STALE_REQUEST)
    elif kind == PEER:
        request_peer(s, queue, at, high, address, port)
    elif kind == TO:
        request_to(s, at, high, address, port)
    elif kind == SEND_TO:
        generation = np.int64(row["generation"])
        given = np.int64(row["spare"])
        request_send(s, queue, at, socket, region, generation, offset, length, given, now)
    else:
        close_endpoint(s, at)
