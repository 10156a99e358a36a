"""How connections begin: listeners, SYN in, SYN out, ESTABLISHED."""

from ..compile import part
from . import acks, congestion, counters, path, states
from .close import finish
from .events import CloseReason, EventKind, OpenFlag
from .routes import next_hop
from .rows import (
    announce,
    count,
    find_connection,
    low32,
    own_mss,
    ports_of,
    set_pending,
    take_connection,
)
from .sequence import address_key, initial_sequence, keyed_hash, stamp_offset
from .tables import CONNECTIONS, CONNECTIONS_PER_QUEUE, LISTENERS, MILLISECOND, NEVER, NONE
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
MSS_DEFAULT_IPV6 = 1220
MSS_LEAST = 64
"""Below this a peer would make us send headers only."""
HALF_OPEN_MAX = min(CONNECTIONS_PER_QUEUE // 2, 512)
"""Beyond it SYN are answered by cookies."""
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
    oldest = s["queues"][queue]["old_head"]
    if oldest >= 0:
        finish(s, oldest, NORMAL, 0)


@part
def new_connection(s, queue, floor, now):
    """A row for the ends in `s["parsed"]`, its numbers set, or -1. `floor`: the first number where
    it is given, else -1."""
    p = s["parsed"]
    if s["queues"][queue]["free_connection"] < 0:
        recycle_time_wait(s, queue)
    index = take_connection(s, queue)
    if index < 0:
        return index
    c = s["connections"][index]
    key = address_key(s, p["remote_high"], p["remote_address"])
    if floor >= 0:
        iss = low32(floor)
    else:
        iss = initial_sequence(s, key, ports_of(p), now)
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
    c["mss"] = own_mss(s, p["remote_high"])
    c["mss_agreed"] = c["mss"]
    c["keep_idle"] = KEEPALIVE_IDLE
    c["keep_every"] = KEEPALIVE_INTERVAL
    c["keep_count"] = KEEPALIVE_COUNT
    c["keep_sent"] = now
    c["algorithm"] = s["control"]["congestion"]
    c["ts_offset"] = stamp_offset(s, key, ports_of(p))
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
    mss = p["mss"]
    if mss == 0:
        mss = MSS_DEFAULT if c["remote_high"] == 0 else MSS_DEFAULT_IPV6
    c["option_bytes"] = STAMP_BYTES if p["ts"] and control["timestamps"] else 0
    mss = min(max(mss, MSS_LEAST), own_mss(s, c["remote_high"]))
    c["mss_agreed"] = mss - c["option_bytes"]
    c["mss"] = min(mss, path.known_mss(s, c, now)) - c["option_bytes"]
    if c["mss"] < c["mss_agreed"]:
        c["path_until"] = now + path.LIFETIME
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
        announce(s, c, index, ACCEPTED)
    else:
        announce(s, c, index, CONNECTED)


@part
def choose_port(s, queue):
    """RFC 6056 algorithm 3: a port of the application's range for the ends in `s["parsed"]`, by
    secret and counter; it is put there. False where none is free."""
    p = s["parsed"]
    q = s["queues"][queue]
    first = q["port_first"]
    size = q["port_last"] - first + 1
    if size <= 0:
        return False
    key = address_key(s, p["remote_high"], p["remote_address"])
    start = keyed_hash(s, key, p["remote_port"], queue + 1) + q["port_next"]
    for step in range(min(size, PORTS_TRIED)):
        p["local_port"] = first + (start + step) % size
        if find_listener(s, p["local_port"]) < 0 and find_connection(s) < 0:
            q["port_next"] += step + 1
            return True
    q["port_next"] += PORTS_TRIED
    return False


@part
def neighbour_known(s, high, address, mac, now):
    """Connections that waited for the MAC address of a neighbour go on."""
    if s["control"]["waiting_neighbour"] == 0:
        return
    for index in range(CONNECTIONS):
        if s["deadlines"][index] == NEVER:
            continue
        c = s["connections"][index]
        if c["state"] != states.SYN_SENT or c["mac_known"]:
            continue
        hop_high, hop = next_hop(s, c["remote_high"], c["remote_address"])
        if hop == address and hop_high == high:
            c["mac"] = mac
            c["mac_known"] = 1
            c["retries"] = 0
            c["progress_at"] = now
            s["control"]["waiting_neighbour"] -= 1
            set_pending(s, index)
