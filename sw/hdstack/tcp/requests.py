"""What applications ask for. Every number comes from an untrusted hand and is checked here.

The worst that an application can do with a request is to end its own connections: it names them
by number, and a number of another application is refused; payload must lie in a live region of
its own; what it says it consumed is capped by what it can have posted.
"""

import numpy as np

from ..compile import part
from ..net.neighbour import resolve
from . import counters, states
from .close import CLOSING_UNREAD, finish, reset_unread
from .data import region_serves
from .events import IPV6, NO_LINGER, CloseFlag, CloseReason, EventKind, RequestKind
from .open import (
    HALF_OPEN_MAX,
    choose_port,
    find_listener,
    new_connection,
    set_flags,
)
from .options import set_option
from .output import advertise, output
from .routes import choose_local, next_hop
from .rows import count, emit_event, has_room, number, set_starved, take_send
from .tables import (
    CONNECTIONS,
    INDEX_BITS,
    LISTENERS,
    MILLISECOND,
    NONE,
    QUEUES,
    REGIONS,
    SECOND,
)
from .timers import FIN_WAIT_2, update_deadline
from .urgent import mark_urgent, tell_peer
from .window import may_open, on_consumed

LISTEN = int(RequestKind.LISTEN)
CONNECT = int(RequestKind.CONNECT)
SEND = int(RequestKind.SEND)
SHUTDOWN = int(RequestKind.SHUTDOWN)
ABORT = int(RequestKind.ABORT)
CONSUMED = int(RequestKind.CONSUMED)
CLOSE = int(RequestKind.CLOSE)
OPTION = int(RequestKind.OPTION)
URGENT = int(RequestKind.URGENT)
UNLISTEN = int(RequestKind.UNLISTEN)
LISTENING = int(EventKind.LISTENING)
FAILED = int(EventKind.FAILED)
ADDRESS_IN_USE = int(CloseReason.ADDRESS_IN_USE)
NO_RESOURCES = int(CloseReason.NO_RESOURCES)
INVALID_REQUEST = int(CloseReason.INVALID_REQUEST)
UNREACHABLE = int(CloseReason.UNREACHABLE)
ABORTED = int(CloseReason.ABORTED)
UNREAD = int(CloseFlag.UNREAD)

LISTENERS_PER_QUEUE = LISTENERS // 4
NEIGHBOUR_RETRY = SECOND


@part
def fail(s, queue, socket, reason):
    """Answer LISTEN or CONNECT of `socket` by FAILED."""
    if reason == INVALID_REQUEST:
        count(s, counters.BAD_REQUEST)
    emit_event(s, queue, FAILED, socket, 0, 0, 0, 0, reason, 0, 0)


@part
def listening(s, at):
    """Tell the application that its listener works."""
    row = s["listeners"][at]
    emit_event(s, row["queue"], LISTENING, row["socket"], at, 0, row["port"], 0, 0, 0, 0)


@part
def request_listen(s, queue, socket, port, backlog, flags):
    if port == 0:
        fail(s, queue, socket, INVALID_REQUEST)
        return
    at = find_listener(s, port)
    if at >= 0:
        row = s["listeners"][at]
        if row["state"] == states.LISTENER_CLOSING and row["queue"] == queue:
            row["state"] = states.LISTENER_LISTENING  # the rule is still in the device
            row["socket"] = socket
            row["backlog"] = min(backlog, HALF_OPEN_MAX) if backlog > 0 else HALF_OPEN_MAX
            row["flags"] = flags
            listening(s, at)
        else:
            fail(s, queue, socket, ADDRESS_IN_USE)
        return
    for other in range(QUEUES):
        q = s["queues"][other]
        if other != queue and q["live"] and q["port_first"] <= port and port <= q["port_last"]:
            fail(s, queue, socket, ADDRESS_IN_USE)
            return
    free = -1
    used = 0
    for at in range(LISTENERS):
        row = s["listeners"][at]
        if row["state"] == states.LISTENER_FREE:
            free = at if free < 0 else free
        elif row["queue"] == queue:
            used += 1
    if free < 0 or used >= LISTENERS_PER_QUEUE:
        fail(s, queue, socket, NO_RESOURCES)
        return
    row = s["listeners"][free]
    row["state"] = states.LISTENER_PENDING
    row["queue"] = queue
    row["port"] = port
    row["socket"] = socket
    row["connections"] = 0
    row["half_open"] = 0
    row["cookie_at"] = 0
    row["backlog"] = min(backlog, HALF_OPEN_MAX) if backlog > 0 else HALF_OPEN_MAX
    row["flags"] = flags
    s["control"]["listeners_version"] += 1


@part
def stop_listener(s, at):
    """Accept no more; the rule goes with the last connection."""
    row = s["listeners"][at]
    if row["connections"] > 0:
        row["state"] = states.LISTENER_CLOSING
    else:
        row["state"] = states.LISTENER_FREE
    s["control"]["listeners_version"] += 1


@part
def request_connect(s, queue, socket, high, address, port, flags, now):
    if port == 0 or (high == 0 and address == 0):
        fail(s, queue, socket, INVALID_REQUEST)
        return
    p = s["parsed"]
    p["remote_high"] = high
    p["remote_address"] = address
    p["remote_port"] = port
    hop_high, hop = next_hop(s, high, address)
    if (hop == 0 and hop_high == 0) or not choose_local(s, high, address):
        fail(s, queue, socket, UNREACHABLE)
        return
    if not choose_port(s, queue):
        fail(s, queue, socket, NO_RESOURCES)
        return
    index = new_connection(s, queue, np.int64(NONE), now)
    if index < 0:
        fail(s, queue, socket, NO_RESOURCES)
        return
    c = s["connections"][index]
    c["socket"] = socket
    c["state"] = states.SYN_SENT
    set_flags(c, flags)
    mac = resolve(s, hop_high, hop, now)
    if mac >= 0:
        c["mac"] = mac
        c["mac_known"] = 1
        output(s, index, now)
    else:
        s["control"]["waiting_neighbour"] += 1
        c["retransmit_at"] = now + NEIGHBOUR_RETRY
        update_deadline(s, index)


@part
def join_words(upper, lower):
    """Half of an IPv6 address, as a signed number."""
    return ((upper ^ 0x80000000) - 0x80000000 << 32) | lower


@part
def find_own(s, queue, connection):
    """Row of the connection that the application of `queue` calls `connection`, or -1."""
    index = connection & ((1 << INDEX_BITS) - 1)
    if index >= CONNECTIONS:
        return np.int64(NONE)
    c = s["connections"][index]
    if (
        c["state"] == states.FREE
        or c["state"] == states.DEAD
        or c["queue"] != queue
        or c["attached"] == 0
        or number(c, index) != connection
    ):
        return np.int64(NONE)
    return np.int64(index)


@part
def end_badly(s, index, reason):
    """A request that cannot be met would tear a hole into the stream: the connection ends."""
    count(s, counters.BAD_REQUEST)
    finish(s, index, reason, 1 if s["connections"][index]["state"] != states.SYN_SENT else 0)


@part
def request_send(s, queue, index, region, generation, offset, length, now):
    c = s["connections"][index]
    state = c["state"]
    open_for_sending = state <= states.ESTABLISHED or state == states.CLOSE_WAIT
    if c["fin"] or not open_for_sending or length <= 0 or length > 0x7FFFFFFF:
        end_badly(s, index, INVALID_REQUEST)
        return
    if region >= REGIONS or not region_serves(s, queue, region, generation):
        end_badly(s, index, INVALID_REQUEST)
        return
    if offset + length > s["regions"][region]["bytes"]:
        end_badly(s, index, INVALID_REQUEST)
        return
    at = take_send(s, queue)
    if at < 0:
        end_badly(s, index, NO_RESOURCES)
        return
    row = s["sends"][at]
    row["seq"] = c["snd_end"]
    row["region"] = region
    row["generation"] = generation
    row["offset"] = offset
    row["length"] = length
    row["next"] = NONE
    row["last_tx"] = 0
    row["untaken"] = 0
    if c["send_tail"] < 0:
        c["send_head"] = at
    else:
        s["sends"][c["send_tail"]]["next"] = at
    c["send_tail"] = at
    c["sends"] += 1
    if c["send_cursor"] < 0:
        c["send_cursor"] = at
    c["snd_end"] += length
    output(s, index, now)
    tell_peer(s, index)


@part
def request_close(s, index, linger, flags, now):
    """FIN after the last byte; what comes from now on is answered by RST, and what already came
    and is left unread as well."""
    c = s["connections"][index]
    c["fin"] = 1
    c["closing"] = max(c["closing"], CLOSING_UNREAD if flags & UNREAD else 1)
    if reset_unread(s, index):
        return
    if c["state"] == states.FIN_WAIT_2:
        c["state_at"] = now + FIN_WAIT_2
    elif linger != NO_LINGER and c["state"] != states.TIME_WAIT:
        c["state_at"] = now + linger * MILLISECOND
    update_deadline(s, index)
    output(s, index, now)


@part
def request_consumed(s, queue, index, length):
    """The application read from its connection and posted the buffers again."""
    on_consumed(s, queue, length)
    advertise(s, index)
    open_windows(s, queue)


@part
def open_windows(s, queue):
    """Buffers were posted: windows that are shut for want of them may open."""
    q = s["queues"][queue]
    at = q["starved_head"]
    q["starved_head"] = NONE
    while at >= 0:
        c = s["connections"][at]
        following = c["starved_next"]
        c["starved_listed"] = 0
        if c["starved"]:
            if has_room(s, queue) and may_open(s, queue):
                advertise(s, at)
            set_starved(s, at, c["starved"])  # in the list again, if it still is
        at = following


@part
def handle_request(s, queue, now):
    """Carry out the request in `s["request"]`, from the application of `queue`."""
    row = s["request"]
    kind = np.int64(row["kind"])
    port = np.int64(row["port"])
    socket = np.int64(row["socket"])
    connection = np.int64(row["connection"])
    address = np.int64(row["address"])
    region = np.int64(row["region"])
    generation = np.int64(row["generation"])
    offset = np.int64(row["offset"])
    length = np.int64(row["length"])
    if s["queues"][queue]["live"] == 0:
        count(s, counters.BAD_REQUEST)
        return
    if kind == LISTEN:
        request_listen(s, queue, socket, port, length, offset)
    elif kind == CONNECT:
        high = np.int64(0)
        if region == IPV6:
            high = join_words(np.int64(row["spare"]), length)
            address = join_words(connection, address)
            if high == 0:
                port = np.int64(0)  # no host's address: refused
        request_connect(s, queue, socket, high, address, port, offset, now)
    elif kind == UNLISTEN:
        if connection >= LISTENERS:
            count(s, counters.BAD_REQUEST)
            return
        listener = s["listeners"][connection]
        state = listener["state"]
        if listener["queue"] == queue and (
            state == states.LISTENER_PENDING or state == states.LISTENER_LISTENING
        ):
            stop_listener(s, connection)
        else:
            count(s, counters.STALE_REQUEST)
    elif kind in (SEND, SHUTDOWN, ABORT, CONSUMED, CLOSE, OPTION, URGENT):
        index = find_own(s, queue, connection)
        if index < 0:
            count(s, counters.STALE_REQUEST)
            if kind == CONSUMED:
                on_consumed(s, queue, length)
            return
        c = s["connections"][index]
        if kind == SEND:
            request_send(s, queue, index, region, generation, offset, length, now)
        elif kind == SHUTDOWN:
            c["fin"] = 1
            output(s, index, now)
        elif kind == CLOSE and length > 0:
            request_close(s, index, length, offset, now)
        elif kind == URGENT:
            mark_urgent(s, index, length)
            output(s, index, now)
            tell_peer(s, index)
        elif kind == OPTION:
            set_option(s, index, port, length, now)
        elif kind in (ABORT, CLOSE):
            state = c["state"]
            reset = state != states.SYN_SENT and state != states.TIME_WAIT
            finish(s, index, ABORTED, 1 if reset else 0)
        else:
            request_consumed(s, queue, index, length)
    else:
        count(s, counters.BAD_REQUEST)
