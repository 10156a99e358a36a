"""The TCP core as its caller sees it: records, requests and time in, segments and events out.

One burst of the stack process, for each queue:

1. `ready`, then `hdstack.net.input.on_frame` for a record or `on_request` for a request;
2. `on_transmitted` with the card's index, `on_timers` once, `on_output` for what had no room;
3. `next_segment` / `segment_queued` and `next_event` / `event_taken` until empty or no room.

Outputs wait in rings of bounded size, one pair for each queue. A queue whose rings are full is not
`ready`; nothing is lost, and no other queue notices. All times in ns of the caller's clock.
"""

import numpy as np

from ..compile import entry, part
from ..net.duplicates import expire_locals, probe_locals
from ..net.neighbour import expire_neighbours
from ..udp import output as udp
from ..udp import requests as udp_requests
from . import states
from .close import NORMAL, finish, release, settle
from .events import CloseReason, RequestKind
from .expiry import expire
from .input import resume
from .requests import NO_RESOURCES, fail, handle_request, listening, stop_listener
from .rows import first_row, has_room
from .sequence import MASK
from .sizes import BLOCK
from .tables import (
    BLOCKS,
    CONNECTIONS_PER_QUEUE,
    EVENTS_PER_QUEUE,
    LISTENERS,
    MILLISECOND,
    NEVER,
    NONE,
    REGIONS,
    SEGMENTS_PER_QUEUE,
    SENDS_PER_QUEUE,
    UDP_DATAGRAM,
)
from .window import count_postable, reset_queue

__all__ = [
    "clear_region", "drop_owner", "endpoint_ready", "event_taken", "listener_ready", "next_event",
    "next_segment", "on_attach_tx", "on_output", "on_request", "on_timers", "on_transmitted",
    "probe_addresses", "ready", "segment_queued", "set_queue", "set_region",
]  # fmt: skip

RESET = int(CloseReason.RESET)
BIND = int(RequestKind.BIND)
UNBIND = int(RequestKind.UNBIND)


@entry
def ready(s, queue):
    """Whether one more record or request of `queue` may be handed in."""
    return has_room(s, queue)


@entry
def on_request(s, queue, row, now):
    """A REQUEST record of the application of `queue`, copied out of shared memory."""
    s["control"]["now"] = now
    request = s["request"]
    request["kind"] = row["kind"]
    request["port"] = row["port"]
    request["socket"] = row["socket"]
    request["connection"] = row["connection"]
    request["address"] = row["address"]
    request["region"] = row["region"]
    request["generation"] = row["generation"]
    request["offset"] = row["offset"]
    request["length"] = row["length"]
    request["spare"] = row["spare"]
    if request["kind"] >= BIND and request["kind"] <= UNBIND:
        udp_requests.handle_request(s, queue, now)
    else:
        handle_request(s, queue, now)


@part
def expire_block(s, block, now):
    """Handle what is due in a block of rows; a lower bound of what remains."""
    following = np.int64(NEVER)
    first = block * BLOCK
    queue = first // CONNECTIONS_PER_QUEUE
    for index in range(first, first + BLOCK):
        at = s["deadlines"][index]
        if at <= now:
            if has_room(s, queue):
                expire(s, index, now)
                at = s["deadlines"][index]
            else:
                at = now + MILLISECOND
        following = min(following, at)
    return following


@part
def expire_connections(s, now):
    """Handle the deadlines of TCP; gives the next one."""
    if now < s["control"]["next_deadline"]:
        return s["control"]["next_deadline"]
    following = np.int64(NEVER)
    for block in range(BLOCKS):
        if s["blocks"][block] <= now:
            s["blocks"][block] = expire_block(s, block, now)
        following = min(following, s["blocks"][block])
    # last, since connections that time out ask for their neighbours
    following = min(following, min(expire_neighbours(s, now), expire_locals(s, now)))
    s["control"]["next_deadline"] = following
    return following


@entry
def probe_addresses(s, now):
    """Begin to ask whether others have our addresses; none is used until `on_timers` is through."""
    probe_locals(s, now)


@entry
def on_timers(s, now):
    """Handle what is due; gives the time at which to call again at the latest (NEVER: none)."""
    s["control"]["now"] = now
    udp.expire(s, now)
    return min(expire_connections(s, now), s["control"]["udp_deadline"])


@entry
def on_output(s, queue, now):
    """Go on with connections and datagrams that waited for room; True if connections still wait."""
    s["control"]["now"] = now
    udp.advance(s, queue)
    q = s["queues"][queue]
    last = q["pending_tail"]
    while q["pending_head"] >= 0:
        if not has_room(s, queue):
            return True
        index = q["pending_head"]
        c = s["connections"][index]
        q["pending_head"] = c["pending_next"]
        if q["pending_head"] < 0:
            q["pending_tail"] = NONE
        c["pending"] = 0
        if c["state"] == states.DEAD:
            settle(s, index)
        elif c["state"] != states.FREE:
            resume(s, index, now)
        if index == last:
            break
    return q["pending_head"] >= 0


@entry
def on_transmitted(s, queue, tx_consumer):
    """The card has sent all descriptors before cell `tx_consumer` (32 bits) of the ring (R24)."""
    q = s["queues"][queue]
    q["tx_done"] += (tx_consumer - q["tx_done"]) & MASK
    udp.settle(s, queue)
    if q["waiting"] == 0:
        return
    index = q["waiting_head"]
    q["waiting_head"] = NONE
    while index >= 0:
        c = s["connections"][index]
        following = c["waiting_next"]
        c["waiting_listed"] = 0
        if c["waiting"]:
            if c["state"] == states.DEAD:
                settle(s, index)
            else:
                release(s, index)
                over = c["state"] == states.LAST_ACK and c["snd_una"] > c["snd_end"]
                if over and c["send_head"] < 0:
                    finish(s, index, NORMAL, 0)
        index = following


@entry
def next_event(s, queue):
    """Index of the oldest event of `queue` in `s["events"][queue]`, or -1."""
    q = s["queues"][queue]
    if q["events_tail"] == q["events_head"]:
        return np.int64(NONE)
    return q["events_tail"] % EVENTS_PER_QUEUE


@entry
def event_taken(s, queue):
    """The event of `next_event` was handed to the application."""
    s["queues"][queue]["events_tail"] += 1


@entry
def next_segment(s, queue):
    """Index of the oldest segment of `queue` in `s["segments"][queue]`, or -1."""
    q = s["queues"][queue]
    if q["segments_tail"] == q["segments_head"]:
        return np.int64(NONE)
    return q["segments_tail"] % SEGMENTS_PER_QUEUE


@entry
def segment_queued(s, queue, tx_producer):
    """The segment of `next_segment` is in the transmit ring, before cell `tx_producer`."""
    q = s["queues"][queue]
    row = s["segments"][queue, q["segments_tail"] % SEGMENTS_PER_QUEUE]
    position = q["tx_done"] + ((tx_producer - q["tx_done"]) & MASK)
    if row["kind"] == UDP_DATAGRAM:
        udp.on_queued(s, row, position)
    else:
        for at in range(row["references"]):
            send = s["sends"][row["ref"][at]["send"]]
            send["untaken"] -= 1
            send["last_tx"] = position
    if row["frame"] >= 0:
        s["frames"][row["frame"]]["length"] = 0
    q["segments_tail"] += 1


@entry
def set_queue(s, queue, port_first, port_last):
    """An application owns `queue`, and local ports from `port_first` to `port_last`."""
    q = s["queues"][queue]
    q["live"] = 1
    q["port_first"] = port_first
    q["port_last"] = port_last
    q["port_next"] = 0
    q["events_tail"] = q["events_head"]
    reset_queue(s, queue, 0)


@entry
def set_region(s, region, generation, queue, element_bytes, total_bytes, postable):
    """Region `region` is live: `total_bytes` of the application of `queue`."""
    row = s["regions"][region]
    row["live"] = 1
    row["generation"] = generation
    row["queue"] = queue
    row["element_bytes"] = element_bytes
    row["bytes"] = total_bytes
    row["postable"] = postable
    count_postable(s)
    q = s["queues"][queue]
    reset_queue(s, queue, max(q["posted"], q["postable"]))


@entry
def clear_region(s, region):
    """Region `region` was revoked; connections that still send from it end."""
    s["regions"][region]["live"] = 0
    count_postable(s)


@entry
def drop_owner(s, queue, now):
    """The application of `queue` is gone: its peers are reset, its listeners and regions go.

    Connections whose RST finds no room go on by `on_output`.
    """
    s["control"]["now"] = now
    q = s["queues"][queue]
    q["live"] = 0
    q["events_tail"] = q["events_head"]
    for region in range(REGIONS):
        if s["regions"][region]["queue"] == queue:
            s["regions"][region]["live"] = 0
    count_postable(s)
    for at in range(LISTENERS):
        listener = s["listeners"][at]
        if listener["state"] != states.LISTENER_FREE and listener["queue"] == queue:
            stop_listener(s, at)
    udp.drop_owner(s, queue)
    first = first_row(queue)
    for index in range(first, first + CONNECTIONS_PER_QUEUE):
        c = s["connections"][index]
        c["attached"] = 0
        if c["state"] == states.DEAD:
            settle(s, index)
        elif c["state"] == states.TIME_WAIT or c["state"] == states.SYN_SENT:
            finish(s, index, NORMAL, 0)
        elif c["state"] != states.FREE:
            finish(s, index, RESET, 1)


@entry
def on_attach_tx(s, queue):
    """The transmit ring of `queue` begins anew at index 0; nothing in the old one is in flight."""
    s["queues"][queue]["tx_done"] = 0
    first = queue * SENDS_PER_QUEUE
    for at in range(first, first + SENDS_PER_QUEUE):
        s["sends"][at]["last_tx"] = 0
    udp.on_attach_tx(s, queue)


@entry
def listener_ready(s, at, ok):
    """The steering rule of listener `at` is in the device (`ok` 1) or could not be stored (0)."""
    row = s["listeners"][at]
    if row["state"] != states.LISTENER_PENDING:
        return
    if ok:
        row["state"] = states.LISTENER_LISTENING
        listening(s, at)
    else:
        fail(s, row["queue"], row["socket"], NO_RESOURCES)
        stop_listener(s, at)


@entry
def endpoint_ready(s, at, ok):
    """The steering rule of UDP socket `at` is in the device (`ok` 1) or could not be stored (0)."""
    udp_requests.endpoint_ready(s, at, ok)
