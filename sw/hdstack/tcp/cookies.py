"""SYN cookies (RFC 4987 section 3.6): half-open connections that are kept in the number we answer.

When a listener's half-open connections are at their limit, a SYN is answered without keeping
anything. The initial number is a keyed tag of the addresses, the peer's number and a counter of
64 s, with the peer's MSS among eight; window scale and SACK go into the low bits of our time
stamp, where the peer has that option, and are given up where not. An ACK is believed only while
cookies are being sent, and for two steps of the counter.
"""

from ..compile import part
from . import counters, states
from .emit import ACK, RST, SYN, answer_segment
from .open import find_listener, learn_options, new_connection, set_flags
from .rows import count, has_room, low32, own_mss, ports_of
from .sequence import MASK, address_key, keyed_hash, stamp_at, stamp_offset
from .tables import NONE, SECOND
from .window import WINDOW_SHIFT, set_edge

STEP = 64 * SECOND
STEPS = 2
MSS_VALUES = (64, 256, 536, 1024, 1220, 1300, 1440, 1460)
TAG = 0xFFFFFF
NO_SHIFT = 15
PERMITTED = 16
OPTION_BITS = 63


@part
def tags(s, step):
    """Two keyed numbers: one of the ends, one of the ends and the counter."""
    p = s["parsed"]
    key = address_key(s, p["remote_high"], p["remote_address"])
    ports = ports_of(p)
    secret = s["control"]["secret"]
    whole = keyed_hash(s, key ^ secret[3], ports ^ secret[2], 1)
    return whole, keyed_hash(s, key ^ secret[2], ports ^ secret[3], 2 + low32(step))


@part
def mss_index(mss):
    """The largest value that is not above `mss`."""
    found = 0
    for at in range(len(MSS_VALUES)):
        if MSS_VALUES[at] <= mss:
            found = at
    return found


@part
def answer(s, listener, queue, now):
    """SYN-ACK for the parsed SYN, nothing kept; the caller made sure of room."""
    p = s["parsed"]
    control = s["control"]
    step = now // STEP
    whole, dated = tags(s, step)
    mss = mss_index(p["mss"] if p["mss"] > 0 else 536)
    row = answer_segment(s, queue)
    row["flags"] = SYN | ACK
    row["seq"] = (whole + p["seq"] + ((step & 0xFF) << 24) + ((dated + mss) & TAG)) & MASK
    row["ack"] = low32(p["seq"] + 1)
    row["window"] = control["mss"]
    row["mss"] = own_mss(s, p["remote_high"])
    if p["ts"] and control["timestamps"]:
        row["sack_ok"] = 1 if p["sack_ok"] and control["sack"] else 0
        key = address_key(s, p["remote_high"], p["remote_address"])
        bits = NO_SHIFT
        if p["shift"] >= 0:
            bits = min(p["shift"], 14)
            row["shift"] = WINDOW_SHIFT
        bits |= PERMITTED if row["sack_ok"] else 0
        stamp = stamp_at(stamp_offset(s, key, ports_of(p)), now)
        marked = (stamp & ~OPTION_BITS) | bits
        row["ts"] = 1
        row["tsval"] = low32(marked - (OPTION_BITS + 1 if marked > stamp else 0))
        row["tsecr"] = p["tsval"]
    listener["cookie_at"] = now
    count(s, counters.COOKIES_SENT)
    count(s, counters.SEGMENTS_OUT)


@part
def read(s, now):
    """Index of the MSS in the cookie that the parsed ACK brings back; -1 if it is none of ours."""
    p = s["parsed"]
    step = now // STEP
    whole, _ = tags(s, step)
    rest = (p["ack"] - 1 - whole - (p["seq"] - 1)) & MASK
    age = (step - (rest >> 24)) & 0xFF
    if age >= STEPS:
        return NONE
    _, dated = tags(s, step - age)
    mss = ((rest & TAG) - dated) & TAG
    return mss if mss < len(MSS_VALUES) else NONE


@part
def baker(s, now):
    """The listener of the parsed ACK if it sends cookies these days, or -1."""
    at = find_listener(s, s["parsed"]["local_port"])
    if at < 0 or s["listeners"][at]["state"] != states.LISTENER_LISTENING:
        return NONE
    sent_at = s["listeners"][at]["cookie_at"]
    return NONE if sent_at == 0 or now - sent_at > STEPS * STEP else at


@part
def awaited(s, now):
    """Queue of the listener whose cookie the parsed segment brings back, or -1."""
    if s["parsed"]["flags"] & (SYN | ACK | RST) != ACK:
        return NONE
    at = baker(s, now)
    return NONE if at < 0 or read(s, now) < 0 else s["listeners"][at]["queue"]


@part
def accept(s, now):
    """The parsed ACK may answer a cookie: row of the new connection (SYN-RECEIVED), or -1."""
    p = s["parsed"]
    at = baker(s, now)
    if at < 0:
        return NONE
    listener = s["listeners"][at]
    mss = read(s, now)
    if mss < 0:
        count(s, counters.COOKIES_WRONG)
        return NONE
    queue = listener["queue"]
    if not has_room(s, queue):
        return NONE
    index = new_connection(s, queue, low32(p["ack"] - 1), now)
    if index < 0:
        count(s, counters.SYN_DROPPED)
        return index
    c = s["connections"][index]
    c["listener"] = at
    c["socket"] = listener["socket"]
    listener["connections"] += 1
    listener["half_open"] += 1
    s["queues"][queue]["half_open"] += 1
    set_flags(c, listener["flags"])
    p["mss"] = MSS_VALUES[mss]
    p["sack_ok"] = 0
    p["shift"] = NONE
    if p["ts"]:
        bits = p["tsecr"] & OPTION_BITS
        p["sack_ok"] = 1 if bits & PERMITTED else 0
        if bits & 15 != NO_SHIFT:
            p["shift"] = bits & 15
    learn_options(s, c, now)
    c["mac_known"] = 1
    c["irs"] = p["seq"] - 1
    c["rcv_nxt"] = p["seq"]
    c["rcv_adv"] = p["seq"]
    set_edge(s, c, p["seq"] + s["control"]["mss"])
    c["last_ack"] = p["seq"]
    c["snd_nxt"] = c["iss"] + 1
    c["snd_max"] = c["snd_nxt"]
    c["state"] = states.SYN_RECEIVED
    count(s, counters.COOKIES_TAKEN)
    return index
