"""Rows taken and given back: counters, events, connections and their hash, sends, pieces.

The lowest layer: knows the tables, nothing of the protocol.
"""

import numpy as np

from ..compile import part
from . import counters, states
from .events import IPV6, EventKind
from .sequence import MASK, address_key, keyed_hash
from .tables import (
    BUCKETS,
    CONNECTIONS_PER_QUEUE,
    EVENTS_MARGIN,
    EVENTS_PER_QUEUE,
    HOPS,
    INDEX_BITS,
    NEVER,
    NONE,
    REGIONS,
    SACK_BLOCKS,
    SEGMENTS_MARGIN,
    SEGMENTS_PER_QUEUE,
)

RETURNED = int(EventKind.RETURNED)


@part
def count(s, counter):
    s["counters"][counter] += 1


@part
def event_room(s, queue):
    """Events that `queue` can still take."""
    q = s["queues"][queue]
    return EVENTS_PER_QUEUE - (q["events_head"] - q["events_tail"])


@part
def segment_room(s, queue):
    """Segments that `queue` can still take."""
    q = s["queues"][queue]
    return SEGMENTS_PER_QUEUE - (q["segments_head"] - q["segments_tail"])


@part
def has_room(s, queue):
    """Whether every output of one more record or request of `queue` finds room."""
    return event_room(s, queue) >= EVENTS_MARGIN and segment_room(s, queue) >= SEGMENTS_MARGIN


@part
def emit_event(s, queue, kind, socket, connection, address, port, region, reason, offset, length):
    """Append an event for the application of `queue`; the caller made sure of room."""
    q = s["queues"][queue]
    if q["live"] == 0:
        return
    at = q["events_head"] % EVENTS_PER_QUEUE
    q["events_head"] += 1
    entry = s["events"][queue, at]
    entry["queue"] = queue
    row = entry["row"]
    row["kind"] = kind
    row["port"] = port
    row["socket"] = socket
    row["connection"] = connection
    row["address"] = address
    row["region"] = region
    row["reason"] = reason
    row["offset"] = offset
    row["length"] = length
    row["spare"] = 0


@part
def number(c, index):
    """What applications call the connection at row `index`: no row's number comes back soon."""
    return index | ((c["reuse"] << INDEX_BITS) & MASK)


@part
def connection_event(s, c, index, kind, region, reason, offset, length):
    """An event about the connection of row `index`, to its application."""
    emit_event(
        s, c["queue"], kind, c["socket"], number(c, index), low32(c["remote_address"]),
        c["remote_port"], region, reason, offset, length,
    )  # fmt: skip


@part
def address_event(s, queue, kind, socket, connection, high, address, port, reason):
    """An event with an address of either family."""
    if high == 0 or s["queues"][queue]["live"] == 0:
        emit_event(s, queue, kind, socket, connection, low32(address), port, 0, reason, 0, 0)
        return
    at = s["queues"][queue]["events_head"] % EVENTS_PER_QUEUE
    emit_event(
        s, queue, kind, socket, connection, low32(address), port, IPV6, reason,
        low32(address >> 32), low32(high),
    )  # fmt: skip
    s["events"][queue, at]["row"]["spare"] = low32(high >> 32)


@part
def announce(s, c, index, kind):
    """The connection begins for its application: CONNECTED or ACCEPTED, with the peer's address."""
    address_event(
        s, c["queue"], kind, c["socket"], number(c, index), c["remote_high"], c["remote_address"],
        c["remote_port"], 0,
    )  # fmt: skip


@part
def return_buffer(s, region, offset):
    """Give a payload buffer that carries nothing back to the application that posted it (R21)."""
    if region < 0 or region >= REGIONS:
        return
    row = s["regions"][region]
    if row["live"] == 0:
        count(s, counters.LOST_BUFFERS)
        return
    # a buffer of another queue than that whose record is in hand: its room was not checked
    if event_room(s, row["queue"]) <= 0:
        count(s, counters.LOST_BUFFERS)
        return
    emit_event(s, row["queue"], RETURNED, 0, 0, 0, 0, region, 0, offset, 0)


@part
def return_payload(s):
    """The buffers of the parsed packet, if it has any, carry nothing."""
    p = s["parsed"]
    return_buffer(s, p["region"], p["offset"])
    for step in range(p["chained"]):
        return_buffer(s, p["chain"][step]["region"], p["chain"][step]["offset"])


@part
def own_mss(s, high):
    """Largest payload and TCP options of a segment on the link, to a peer of this family."""
    return s["control"]["mss"] - (0 if high == 0 else 20)


@part
def ports_of(p):
    return (p["remote_port"] << 16) | p["local_port"]


@part
def bucket_of(s):
    p = s["parsed"]
    key = address_key(s, p["remote_high"], p["remote_address"])
    return keyed_hash(s, key, ports_of(p), 0) % BUCKETS


@part
def find_connection(s):
    """Row of the connection with the ends in `s["parsed"]`, or -1."""
    p = s["parsed"]
    at = s["buckets"][bucket_of(s)]
    while at >= 0:
        c = s["connections"][at]
        if (
            c["remote_address"] == p["remote_address"]
            and c["remote_port"] == p["remote_port"]
            and c["local_port"] == p["local_port"]
            and c["local_address"] == p["local_address"]
            and c["remote_high"] == p["remote_high"]
            and c["local_high"] == p["local_high"]
        ):
            return at
        at = c["hash_next"]
    return np.int64(NONE)


@part
def take_connection(s, queue):
    """A row for a new connection of `queue` with the ends in `s["parsed"]`, in the hash, its fields
    zero; or -1."""
    p = s["parsed"]
    q = s["queues"][queue]
    index = q["free_connection"]
    if index < 0:
        return index
    c = s["connections"][index]
    q["free_connection"] = c["hash_next"]
    q["connections"] += 1
    bucket = bucket_of(s)
    c["hash_next"] = s["buckets"][bucket]
    c["bucket"] = bucket
    s["buckets"][bucket] = index
    c["reuse"] += 1
    c["queue"] = queue
    c["listener"] = NONE
    c["socket"] = 0
    c["local_high"] = p["local_high"]
    c["local_address"] = p["local_address"]
    c["local_port"] = p["local_port"]
    c["remote_high"] = p["remote_high"]
    c["remote_address"] = p["remote_address"]
    c["remote_port"] = p["remote_port"]
    c["mac"] = 0
    c["mac_known"] = 0
    c["hop"] = NONE
    c["announced"] = 0
    c["attached"] = 1
    c["reason"] = 0
    c["rst_due"] = 0
    c["fin_told"] = 0
    c["closed_due"] = 0
    c["fin"] = 0
    c["send_head"] = NONE
    c["send_tail"] = NONE
    c["send_cursor"] = NONE
    c["sends"] = 0
    c["rcv_fin"] = NONE
    c["snd_up"] = NONE
    c["snd_up_due"] = 0
    c["rcv_up"] = NONE
    c["piece_head"] = NONE
    c["pieces"] = 0
    c["ranges_head"] = NONE
    c["ranges"] = 0
    c["sacked_bytes"] = 0
    c["sack_ok"] = 0
    c["ts_ok"] = 0
    c["quick"] = 0
    c["hops"] = HOPS
    c["traffic_class"] = 0
    c["told_problem"] = 0
    c["undo"] = 0
    c["option_bytes"] = 0
    c["path_at"] = 0
    c["path_until"] = NEVER
    c["soft_error"] = 0
    c["challenge_tokens"] = 0
    c["challenge_filled"] = 0
    c["keep_on"] = 0
    c["keep_tries"] = 0
    c["keep_at"] = NEVER
    c["user_timeout"] = 0
    c["closing"] = 0
    c["pingpong"] = 0
    c["data_at"] = 0
    c["nodelay"] = 0
    c["snd_sml"] = 0
    c["dsack_start"] = 0
    c["dsack_end"] = 0
    for at in range(SACK_BLOCKS):
        c["sack_recent"][at] = NONE
    c["unacked"] = 0
    c["promised"] = 0
    c["starved"] = 0
    c["received"] = 0
    c["retransmit_at"] = NEVER
    c["ack_at"] = NEVER
    c["state_at"] = NEVER
    c["waiting"] = 0
    c["persist"] = 0
    s["deadlines"][index] = NEVER
    return index


@part
def unhash(s, index):
    """Take the connection out of the hash: its ends may be used anew."""
    c = s["connections"][index]
    bucket = c["bucket"]
    if bucket < 0:
        return
    at = s["buckets"][bucket]
    if at == index:
        s["buckets"][bucket] = c["hash_next"]
    else:
        while at >= 0:
            before = s["connections"][at]
            at = before["hash_next"]
            if at == index:
                before["hash_next"] = c["hash_next"]
                at = np.int64(NONE)
    c["bucket"] = NONE


@part
def give_connection(s, index):
    """The row is free again. Its lists are empty and it is not in the hash."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    c["state"] = states.FREE
    c["hash_next"] = q["free_connection"]
    q["free_connection"] = index
    q["connections"] -= 1
    s["deadlines"][index] = NEVER


@part
def take_send(s, queue):
    """A row for a reference that an application sends, or -1."""
    q = s["queues"][queue]
    index = q["free_send"]
    if index >= 0:
        q["free_send"] = s["sends"][index]["next"]
    return index


@part
def give_send(s, queue, index):
    q = s["queues"][queue]
    s["sends"][index]["next"] = q["free_send"]
    q["free_send"] = index


@part
def take_piece(s, queue):
    """A row for a piece of payload that came out of order, or -1."""
    q = s["queues"][queue]
    index = q["free_piece"]
    if index >= 0:
        q["free_piece"] = s["pieces"][index]["next"]
    return index


@part
def give_piece(s, queue, index):
    q = s["queues"][queue]
    s["pieces"][index]["next"] = q["free_piece"]
    q["free_piece"] = index


@part
def take_range(s, queue):
    """A row for a range that the peer reports as received, or -1."""
    q = s["queues"][queue]
    index = q["free_range"]
    if index >= 0:
        q["free_range"] = s["ranges"][index]["next"]
    return index


@part
def give_range(s, queue, index):
    q = s["queues"][queue]
    s["ranges"][index]["next"] = q["free_range"]
    q["free_range"] = index


@part
def set_pending(s, index):
    """Remember that the connection has work left for which there was no room."""
    c = s["connections"][index]
    if c["pending"]:
        return
    q = s["queues"][c["queue"]]
    c["pending"] = 1
    c["pending_next"] = NONE
    if q["pending_head"] < 0:
        q["pending_head"] = index
    else:
        s["connections"][q["pending_tail"]]["pending_next"] = index
    q["pending_tail"] = index


@part
def set_waiting(s, index, waiting):
    """Whether `on_transmitted` has to look at the connection."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    q["waiting"] += waiting - c["waiting"]
    c["waiting"] = waiting
    if waiting and c["waiting_listed"] == 0:
        c["waiting_listed"] = 1
        c["waiting_next"] = q["waiting_head"]
        q["waiting_head"] = index


@part
def set_starved(s, index, starved):
    """Whether the connection's window is shut for want of posted buffers."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    q["starved"] += starved - c["starved"]
    c["starved"] = starved
    if starved and c["starved_listed"] == 0:
        c["starved_listed"] = 1
        c["starved_next"] = q["starved_head"]
        q["starved_head"] = index


@part
def append_old(s, index):
    """The connection goes to TIME-WAIT: behind those that have been there longer."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    c["old_before"] = q["old_tail"]
    c["old_next"] = NONE
    if q["old_tail"] < 0:
        q["old_head"] = index
    else:
        s["connections"][q["old_tail"]]["old_next"] = index
    q["old_tail"] = index


@part
def remove_old(s, index):
    """The connection leaves TIME-WAIT."""
    c = s["connections"][index]
    q = s["queues"][c["queue"]]
    if c["old_before"] < 0:
        q["old_head"] = c["old_next"]
    else:
        s["connections"][c["old_before"]]["old_next"] = c["old_next"]
    if c["old_next"] < 0:
        q["old_tail"] = c["old_before"]
    else:
        s["connections"][c["old_next"]]["old_before"] = c["old_before"]


@part
def first_row(queue):
    """First connection row of `queue`; it has CONNECTIONS_PER_QUEUE of them."""
    return queue * CONNECTIONS_PER_QUEUE


@part
def low32(value):
    return value & MASK
