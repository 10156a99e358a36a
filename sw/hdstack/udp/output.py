"""Datagrams out: addresses, a neighbour that has to be asked, fragments, and when each is over.

A datagram passes through one of three lists of its queue: those that wait for a neighbour, those
that wait for room, those in flight (R24: told when the card has read the last byte).
"""

import numpy as np

from ..compile import part
from ..net.bytesio import fold
from ..net.identification import next_identification
from ..net.ipv6 import FRAGMENT_BYTES, half_sum
from ..net.neighbour import resolve
from ..tcp import counters
from ..tcp.data import region_serves
from ..tcp.emit import take_segment
from ..tcp.events import CloseReason, EventKind
from ..tcp.path import HEADERS, known_mtu
from ..tcp.routes import choose_local, next_hop
from ..tcp.rows import count, emit_event, event_room, has_room, segment_room
from ..tcp.tables import (
    EVENTS_RESERVE,
    NEVER,
    NONE,
    QUEUES,
    SECOND,
    SEGMENTS_RESERVE,
    UDP_DATAGRAM,
)
from .rows import (
    append_flight,
    append_pending,
    append_waiting,
    close_endpoint,
    end_endpoint,
    give_datagram,
    is_any,
    number,
    remove_waiting,
)
from .tables import (
    CLOSING,
    DATAGRAMS_PER_QUEUE,
    ENDPOINTS_PER_QUEUE,
    FREE,
    IPV4_MOST,
    IPV6_MOST,
    WAITING_PER_QUEUE,
)

SENT = int(EventKind.SENT)
NORMAL = int(CloseReason.NORMAL)
NO_RESOURCES = int(CloseReason.NO_RESOURCES)
INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)
UNREACHABLE = int(CloseReason.UNREACHABLE)
TOO_LARGE = int(CloseReason.TOO_LARGE)

HEADER_BYTES = 8
NEIGHBOUR_TRIES = 3
NEIGHBOUR_RETRY = SECOND


@part
def whole_checksum(d, given):
    """Checksum (RFC 768) of a datagram whose payload has the one's complement sum `given`."""
    total = given + 17 + 2 * (HEADER_BYTES + d["length"]) + d["local_port"] + d["remote_port"]
    total += half_sum(d["high"]) + half_sum(d["address"])
    total += half_sum(d["remote_high"]) + half_sum(d["remote_address"])
    found = fold(total) ^ 0xFFFF
    return found if found != 0 else 0xFFFF


@part
def cut(s, d, given, now):
    """Set how the datagram leaves: in one piece, or in fragments with `given` (SUM_GIVEN and the
    sum of its payload). False where that is impossible."""
    ipv4 = d["remote_high"] == 0
    if d["length"] > (IPV4_MOST if ipv4 else IPV6_MOST):
        return False
    room = known_mtu(s, d["remote_high"], d["remote_address"], now)
    room -= HEADERS // 2 if ipv4 else HEADERS
    d["most"] = 0
    if HEADER_BYTES + d["length"] <= room:
        return True
    if given == 0:
        return False
    d["most"] = (room if ipv4 else room - FRAGMENT_BYTES) & ~7
    d["checksum"] = whole_checksum(d, given & 0xFFFF)
    d["identification"] = next_identification(s, d["remote_high"], d["remote_address"])
    return True


@part
def send(s, queue, at, given, now):
    """A new datagram, its row filled but for addresses of our side: on its way, or given up."""
    d = s["datagrams"][at]
    e = s["endpoints"][d["endpoint"]]
    p = s["parsed"]
    hop_high, hop = next_hop(s, d["remote_high"], d["remote_address"])
    found = (hop != 0 or hop_high != 0) and choose_local(s, d["remote_high"], d["remote_address"])
    if not found:
        append_flight(s, queue, at, UNREACHABLE)
        return
    d["high"] = p["local_high"] if is_any(e) else e["local_high"]
    d["address"] = p["local_address"] if is_any(e) else e["local_address"]
    if not cut(s, d, given, now):
        append_flight(s, queue, at, TOO_LARGE)
        return
    d["hop_high"] = hop_high
    d["hop"] = hop
    d["mac"] = resolve(s, hop_high, hop, now)
    if d["mac"] >= 0:
        append_pending(s, queue, at)
        return
    u = s["udp"][queue]
    if u["waiting"] >= WAITING_PER_QUEUE:
        oldest = u["waiting_head"]
        remove_waiting(s, queue, oldest, np.int64(NONE))
        count(s, counters.NEIGHBOUR_FULL)
        append_flight(s, queue, oldest, NO_RESOURCES)
    d["tries"] = 0
    d["deadline"] = now + NEIGHBOUR_RETRY
    s["control"]["udp_deadline"] = min(s["control"]["udp_deadline"], d["deadline"])
    append_waiting(s, queue, at)


@part
def emit_frame(s, queue, at):
    """The next frame of a datagram, whole or a fragment; the caller made sure of room."""
    d = s["datagrams"][at]
    row = take_segment(s, queue)
    row["kind"] = UDP_DATAGRAM
    row["connection"] = NONE
    row["datagram"] = at
    row["mac"] = d["mac"]
    row["high"] = d["high"]
    row["address"] = d["address"]
    row["remote_high"] = d["remote_high"]
    row["remote_address"] = d["remote_address"]
    row["local_port"] = d["local_port"]
    row["remote_port"] = d["remote_port"]
    row["total"] = d["length"]
    row["fragment"] = NONE
    row["more"] = 0
    whole = HEADER_BYTES + d["length"]
    start = d["sent"]
    end = whole
    if d["most"] > 0:
        end = min(start + d["most"], whole)
        row["fragment"] = start
        row["more"] = 1 if end < whole else 0
        row["identification"] = d["identification"]
        row["checksum"] = d["checksum"]
        count(s, counters.FRAGMENTS_OUT)
    skip = max(start - HEADER_BYTES, 0)
    payload = end - HEADER_BYTES - skip
    row["payload"] = payload
    if payload > 0:
        ref = row["ref"][0]
        ref["send"] = NONE
        ref["region"] = d["region"]
        ref["generation"] = d["generation"]
        ref["offset"] = d["offset"] + skip
        ref["length"] = payload
        row["references"] = 1
    d["sent"] = end
    d["untaken"] += 1


@part
def flush(s, queue):
    """Hand out what waits for room, in order."""
    u = s["udp"][queue]
    while u["pending_head"] >= 0:
        at = u["pending_head"]
        d = s["datagrams"][at]
        reason = NORMAL
        if d["length"] > 0 and not region_serves(s, queue, d["region"], d["generation"]):
            reason = INVALID_REQUEST
        while reason == NORMAL and d["sent"] < HEADER_BYTES + d["length"]:
            if segment_room(s, queue) <= SEGMENTS_RESERVE:
                return
            emit_frame(s, queue, at)
        u["pending_head"] = d["next"]
        if reason == NORMAL:
            count(s, counters.DATAGRAMS_OUT)
        append_flight(s, queue, at, reason)


@part
def settle(s, queue):
    """Tell of the datagrams that are over, in order, as there is room."""
    u = s["udp"][queue]
    done = s["queues"][queue]["tx_done"]
    while u["flight_head"] >= 0:
        at = u["flight_head"]
        d = s["datagrams"][at]
        if d["untaken"] > 0 or d["last_tx"] > done or event_room(s, queue) <= EVENTS_RESERVE:
            return
        u["flight_head"] = d["next"]
        e = s["endpoints"][d["endpoint"]]
        emit_event(
            s, queue, SENT, d["cookie"], number(s, d["endpoint"]), 0, 0, 0, d["reason"], 0, 0
        )
        give_datagram(s, queue, at)
        e["sends"] -= 1
        if e["state"] == CLOSING and e["sends"] == 0:
            end_endpoint(s, d["endpoint"])


@part
def advance(s, queue):
    """All that can go on: after a request, a transmit, or when room has come."""
    flush(s, queue)
    settle(s, queue)


@part
def on_queued(s, row, position):
    """A frame of a datagram is in the transmit ring, before `position`."""
    d = s["datagrams"][row["datagram"]]
    d["untaken"] -= 1
    d["last_tx"] = position


@part
def neighbour_known(s, high, address, mac):
    """Datagrams that waited for the MAC address of a neighbour go on by the next `advance`."""
    if s["control"]["udp_waiting"] == 0:
        return
    for queue in range(QUEUES):
        before = np.int64(NONE)
        at = s["udp"][queue]["waiting_head"]
        while at >= 0:
            d = s["datagrams"][at]
            following = d["next"]
            if d["hop"] == address and d["hop_high"] == high:
                remove_waiting(s, queue, at, before)
                d["mac"] = mac
                append_pending(s, queue, at)
            else:
                before = at
            at = following


@part
def ask_again(s, queue, now):
    """The neighbours that datagrams of `queue` have waited long for; when to look again."""
    following = np.int64(NEVER)
    before = np.int64(NONE)
    at = s["udp"][queue]["waiting_head"]
    while at >= 0:
        d = s["datagrams"][at]
        later = d["next"]
        mac = np.int64(NONE)
        if d["deadline"] <= now:
            d["tries"] += 1
            d["deadline"] = now + NEIGHBOUR_RETRY
            if d["tries"] < NEIGHBOUR_TRIES:
                mac = resolve(s, d["hop_high"], d["hop"], now)
        if d["tries"] >= NEIGHBOUR_TRIES:
            remove_waiting(s, queue, at, before)
            count(s, counters.NEIGHBOUR_SILENT)
            append_flight(s, queue, at, UNREACHABLE)
        elif mac >= 0:
            remove_waiting(s, queue, at, before)
            d["mac"] = mac
            append_pending(s, queue, at)
        else:
            following = min(following, d["deadline"])
            before = at
        at = later
    return following


@part
def expire(s, now):
    """Ask again for neighbours, or give up; puts down when to come again."""
    if now < s["control"]["udp_deadline"]:
        return
    following = np.int64(NEVER)
    for queue in range(QUEUES):
        if s["udp"][queue]["waiting_head"] < 0:
            continue
        if has_room(s, queue):
            following = min(following, ask_again(s, queue, now))
            advance(s, queue)
        else:
            following = min(following, now + SECOND)
    s["control"]["udp_deadline"] = following


@part
def drop_owner(s, queue):
    """The application is gone: its sockets are closed, what is not in flight will not leave."""
    first = queue * ENDPOINTS_PER_QUEUE
    for at in range(first, first + ENDPOINTS_PER_QUEUE):
        state = s["endpoints"][at]["state"]
        if state != FREE and state != CLOSING:
            close_endpoint(s, at)
    u = s["udp"][queue]
    while u["waiting_head"] >= 0:
        at = u["waiting_head"]
        remove_waiting(s, queue, at, np.int64(NONE))
        append_flight(s, queue, at, UNREACHABLE)
    while u["pending_head"] >= 0:
        at = u["pending_head"]
        u["pending_head"] = s["datagrams"][at]["next"]
        append_flight(s, queue, at, UNREACHABLE)
    settle(s, queue)


@part
def on_attach_tx(s, queue):
    """The transmit ring begins anew: nothing in the old one is in flight."""
    first = queue * DATAGRAMS_PER_QUEUE
    for at in range(first, first + DATAGRAMS_PER_QUEUE):
        s["datagrams"][at]["last_tx"] = 0
    settle(s, queue)
