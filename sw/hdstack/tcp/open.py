"""How connections begin: listeners, SYN in, SYN out, ESTABLISHED."""

import numpy as np

from ..compile import part
from . import acks, congestion, counters, states
from .close import finish
from .events import CloseReason, EventKind, OpenFlag
from .rows import (
    connection_event,
    count,
    find_connection,
    first_row,
    low32,
    set_pending,
    take_connection,
)
from .sequence import initial_sequence, keyed_hash, stamp_offset
from .tables import CONNECTIONS, CONNECTIONS_PER_QUEUE, LISTENERS, MILLISECOND, NONE
from .timers import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE,
    KEEPALIVE_INTERVAL,
    RTO_AFTER_LOST_SYN,
    arm_keepalive,
    measure,
    start_timing,
    stop_retransmit,
)
from .window import WINDOW_SHIFT

ACCEPTED = int(EventKind.ACCEPTED)
CONNECTED = int(EventKind.CONNECTED)
NORMAL = int(CloseReason.NORMAL)
NODELAY = int(OpenFlag.NODELAY)
KEEPALIVE = int(OpenFlag.KEEPALIVE)

MSS_DEFAULT = 536
"""Of a peer that names none (RFC 9293 section 3.7.1)."""
MSS_LEAST = 64
"""Below this a peer would make us send headers only."""
HALF_OPEN_MAX = CONNECTIONS_PER_QUEUE // 2
PORTS_TRIED = 64
STAMP_BYTES = 12
"""A time stamp with its padding, in every segment."""


@part
def find_listener(s, port):
    """Row of the listener of `port`, in whatever state, or -1."""
    for index in range(LISTENERS):
        row = s["listeners"][index]
        if row["state"] != states.LISTENER_FREE and row["port"] == port:
            return index
    return NONE


@part
def recycle_time_wait(s, queue):
    """End the connection of `queue` that is longest in TIME-WAIT, to have its row."""
    oldest = -1
    first = first_row(queue)
    for index in range(first, first + CONNECTIONS_PER_QUEUE):
        c = s["connections"][index]
        if c["state"] == states.TIME_WAIT and (
            oldest < 0 or c["state_at"] < s["connections"][oldest]["state_at"]
        ):
            oldest = index
    if oldest >= 0:
        finish(s, oldest, NORMAL, 0)


@part
def new_connection(s, queue, remote_address, remote_port, local_port, floor, now):
    """A row with its numbers set, or -1. `floor`: the first number where it is given, else -1."""
    if s["queues"][queue]["free_connection"] < 0:
        recycle_time_wait(s, queue)
    index = take_connection(s, queue, remote_address, remote_port, local_port)
    if index < 0:
        return index
    c = s["connections"][index]
    if floor >= 0:
        iss = low32(floor)
    else:
        iss = initial_sequence(s, remote_address, (remote_port << 16) | local_port, now)
    # unwrapped numbers begin above zero, so that a little below is never negative
    iss += 1 << 32
    c["iss"] = iss
    c["snd_una"] = iss
    c["snd_nxt"] = iss
    c["snd_max"] = iss
    c["snd_end"] = iss + 1
    c["snd_wnd"] = 0
    c["snd_wl1"] = 0
    c["snd_wl2"] = 0
    c["max_wnd"] = 0
    c["snd_shift"] = 0
    c["rcv_shift"] = 0
    c["rcv_nxt"] = 0
    c["rcv_adv"] = 0
    c["mss"] = s["control"]["mss"]
    c["keep_idle"] = KEEPALIVE_IDLE
    c["keep_every"] = KEEPALIVE_INTERVAL
    c["keep_count"] = KEEPALIVE_COUNT
    c["keep_sent"] = now
    c["algorithm"] = s["control"]["congestion"]
    c["ts_offset"] = stamp_offset(s, remote_address, (remote_port << 16) | local_port)
    c["ts_recent"] = 0
    c["ts_recent_at"] = now
    c["last_ack"] = 0
    c["high_rxt"] = iss
    c["rescue_rxt"] = iss
    c["progress_at"] = now
    c["heard_at"] = now
    c["sent_at"] = now
    start_timing(c)
    congestion.begin(c, False)
    return index


@part
def set_flags(c, flags):
    """What the application wants its connections to begin with."""
    c["nodelay"] = 1 if flags & NODELAY else 0
    c["keep_on"] = 1 if flags & KEEPALIVE else 0


@part
def learn_options(s, c, now):
    """The options of the peer's SYN; what both sides have is used from now on."""
    p = s["parsed"]
    control = s["control"]
    mss = p["mss"] if p["mss"] > 0 else MSS_DEFAULT
    c["mss"] = min(max(mss, MSS_LEAST), s["control"]["mss"])
    if p["shift"] >= 0:
        c["snd_shift"] = min(p["shift"], 14)
        c["rcv_shift"] = WINDOW_SHIFT
    else:
        c["snd_shift"] = 0
        c["rcv_shift"] = 0
    c["sack_ok"] = 1 if p["sack_ok"] and control["sack"] else 0
    if p["ts"] and control["timestamps"]:
        c["ts_ok"] = 1
        c["ts_recent"] = p["tsval"]
        c["ts_recent_at"] = now
        c["mss"] -= STAMP_BYTES
    c["mac"] = p["mac"]
    c["snd_wnd"] = p["window"]  # never scaled in a SYN
    c["max_wnd"] = p["window"]


@part
def establish(s, index, now):
    """The peer acknowledged our SYN."""
    c = s["connections"][index]
    if c["listener"] >= 0 and c["state"] == states.SYN_RECEIVED:
        s["queues"][c["queue"]]["half_open"] -= 1
        s["listeners"][c["listener"]]["half_open"] -= 1
    c["state"] = states.ESTABLISHED
    lost_syn = c["retries"] > 0
    if c["timing_seq"] >= 0:
        measure(c, max(now - c["timing_at"], MILLISECOND // 100))
    elif lost_syn:
        c["rto"] = RTO_AFTER_LOST_SYN
    c["timing_seq"] = NONE
    c["backoff"] = 0
    c["retries"] = 0
    congestion.begin(c, lost_syn)
    acks.begin(s, c)
    c["progress_at"] = now
    c["heard_at"] = now
    c["snd_nxt"] = c["snd_max"]
    stop_retransmit(s, index)
    if c["keep_on"]:
        arm_keepalive(s, index, now)
    c["announced"] = 1
    count(s, counters.CONNECTIONS_OPENED)
    if c["listener"] >= 0:
        connection_event(s, c, index, ACCEPTED, 0, 0, 0, 0)
    else:
        connection_event(s, c, index, CONNECTED, 0, 0, 0, 0)


@part
def choose_port(s, queue, remote_address, remote_port):
    """RFC 6056 algorithm 3: a port of the application's range, by secret and counter; or -1."""
    q = s["queues"][queue]
    first = q["port_first"]
    size = q["port_last"] - first + 1
    if size <= 0:
        return np.int64(NONE)
    start = keyed_hash(s, remote_address, remote_port, queue + 1) + q["port_next"]
    for step in range(min(size, PORTS_TRIED)):
        port = first + (start + step) % size
        if find_listener(s, port) < 0 and find_connection(s, remote_address, remote_port, port) < 0:
            q["port_next"] += step + 1
            return port
    q["port_next"] += PORTS_TRIED
    return np.int64(NONE)


@part
def next_hop(s, address):
    """The neighbour that leads to `address`, or 0 where there is none."""
    control = s["control"]
    mask = 0xFFFFFFFF ^ (0xFFFFFFFF >> control["prefix"])
    own = control["address"]
    if address == own or address == 0 or address >> 28 >= 14 or address >> 24 == 127:
        return np.int64(0)
    if (address & mask) == (own & mask):
        last = address | mask
        if control["prefix"] < 31 and (last == 0xFFFFFFFF or (address & ~mask) == 0):
            return np.int64(0)  # the network's broadcast, or the network itself
        return np.int64(address)
    return control["gateway"]


@part
def neighbour_known(s, address, mac, now):
    """Connections that waited for the MAC address of neighbour `address` go on."""
    if s["control"]["waiting_neighbour"] == 0:
        return
    for index in range(CONNECTIONS):
        c = s["connections"][index]
        if (
            c["state"] == states.SYN_SENT
            and c["mac_known"] == 0
            and next_hop(s, c["remote_address"]) == address
        ):
            c["mac"] = mac
            c["mac_known"] = 1
            c["retries"] = 0
            c["progress_at"] = now
            s["control"]["waiting_neighbour"] -= 1
            set_pending(s, index)
