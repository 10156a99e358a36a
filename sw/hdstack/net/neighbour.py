"""The neighbour table: MAC addresses of hosts on the link, by ARP (RFC 826) and NDP (RFC 4861).

Bounded, and closed to strangers: an entry is made only by a question of ours, or by a host that
asks for our own address. Addresses are integers, first byte highest.

Whether a neighbour is still there is asked as RFC 4861 section 7.3 has it, for both families: an
entry that nothing confirmed for 30 s is used for another 5 s (DELAY), then asked three times by
unicast (PROBE), then looked for as if it were new (ASKED), then forgotten. Acknowledgements that
TCP receives confirm it. A connection keeps its MAC address whatever is claimed, until it has
reason to doubt: its time-outs ask (`suspect`), and take what the table then says.
"""

import numpy as np

from ..compile import part
from ..tcp import counters
from ..tcp.emit import take_segment
from ..tcp.events import CloseReason
from ..tcp.routes import choose_local, matches, next_hop
from ..tcp.rows import count, segment_room
from ..tcp.tables import ARP_PACKET, NEIGHBOURS, NEVER, NONE, SECOND
from .frames import STACK_QUEUE
from .ndp_messages import SOLICITED_MAC, send_solicitation

FREE = 0
ASKED = 1
KNOWN = 2
"""REACHABLE while `confirmed` is young, else STALE."""
DELAY = 3
PROBE = 4

UNREACHABLE = int(CloseReason.UNREACHABLE)

REACHABLE_TIME = 30 * SECOND
DELAY_TIME = 5 * SECOND
ASK_EVERY = SECOND
"""RFC 1122 section 2.3.2.1: at most one question a second for an address (RetransTimer)."""
TRIES = 3
"""MAX_UNICAST_SOLICIT and MAX_MULTICAST_SOLICIT (RFC 4861 section 10)."""

ASKS = 0
"""How `learn` hears of a MAC address: its owner asks for ours, tells it, or answers."""
TELLS = 1
ANSWERS = 2

REQUEST = 1
REPLY = 2


@part
def own_on_link(s, address):
    """Our address in the network of an IPv4 neighbour."""
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        if row["high"] == 0 and matches(0, address, 0, row["address"], row["bits"]):
            return row["address"]
    return s["control"]["address"]


@part
def send_arp(s, operation, mac, address, own):
    """An ARP packet to `mac` (0: broadcast), the host with `address`, from our address `own`."""
    if segment_room(s, STACK_QUEUE) <= 0:
        return
    row = take_segment(s, STACK_QUEUE)
    row["kind"] = ARP_PACKET
    row["connection"] = NONE
    row["mac"] = mac
    row["address"] = own
    row["remote_address"] = address
    row["flags"] = operation
    count(s, counters.ARP_OUT)


@part
def ask(s, row, now):
    """Ask for the MAC address of a neighbour: itself where it is probed, else everybody."""
    row["asked"] = now
    high = row["high"]
    address = row["address"]
    mac = row["mac"] if row["state"] == PROBE else 0
    if high == 0:
        send_arp(s, REQUEST, mac, address, own_on_link(s, address))
        return
    p = s["parsed"]
    kept_high = p["local_high"]
    kept = p["local_address"]
    choose_local(s, high, address)
    own_high = p["local_high"]
    own = p["local_address"]
    p["local_high"] = kept_high
    p["local_address"] = kept
    group = mac == 0
    to = SOLICITED_MAC | (address & 0xFFFFFF) if group else mac
    send_solicitation(s, to, group, own_high, own, high, address)


@part
def find(s, high, address):
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] != FREE and row["address"] == address and row["high"] == high:
            return np.int64(at)
    return np.int64(NONE)


@part
def take(s, high, address, now):
    """A row for `address`: a free one, or the one that was touched longest ago."""
    best = np.int64(0)
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] == FREE:
            best = np.int64(at)
            break
        if max(row["updated"], row["asked"]) < max(
            s["neighbours"][best]["updated"], s["neighbours"][best]["asked"]
        ):
            best = np.int64(at)
    row = s["neighbours"][best]
    row["state"] = ASKED
    row["high"] = high
    row["address"] = address
    row["mac"] = 0
    row["updated"] = now
    row["asked"] = now - ASK_EVERY
    row["confirmed"] = now - REACHABLE_TIME
    row["tries"] = 0
    row["at"] = NEVER
    return best


@part
def wake_at(s, row, at):
    """`expire_neighbours` is to look at the row at `at`."""
    control = s["control"]
    row["at"] = at
    control["neighbour_at"] = min(control["neighbour_at"], at)
    control["next_deadline"] = min(control["next_deadline"], at)


@part
def use(s, row, now):
    """Something is about to be sent to the neighbour."""
    if row["state"] == KNOWN and now - row["confirmed"] >= REACHABLE_TIME:
        row["state"] = DELAY
        row["updated"] = now
        wake_at(s, row, now + DELAY_TIME)


@part
def resolve(s, high, address, now):
    """The MAC address of the neighbour with `address`; -1 where it was asked for instead."""
    at = find(s, high, address)
    if at < 0:
        at = take(s, high, address, now)
    row = s["neighbours"][at]
    if row["state"] >= KNOWN:
        use(s, row, now)
        return row["mac"]
    if now - row["asked"] >= ASK_EVERY:
        ask(s, row, now)
    return np.int64(NONE)


@part
def learn(s, high, address, mac, how, now):
    """A host told its MAC address, in one of three ways; True if that was of use."""
    at = find(s, high, address)
    if at < 0:
        if how != ASKS:
            return False
        at = take(s, high, address, now)
    row = s["neighbours"][at]
    state = row["state"]
    row["updated"] = now
    answered = how == ANSWERS and state in (ASKED, PROBE)
    if state >= KNOWN and row["mac"] == mac and not answered:
        return True
    row["state"] = KNOWN
    row["mac"] = mac
    row["at"] = NEVER
    row["confirmed"] = now if answered else now - REACHABLE_TIME
    return True


@part
def doubt(s, high, address, now):
    """Another MAC address was told, though not to override (RFC 4861 section 7.2.5)."""
    at = find(s, high, address)
    if at >= 0 and s["neighbours"][at]["state"] == KNOWN:
        s["neighbours"][at]["confirmed"] = now - REACHABLE_TIME


@part
def mac_of(s, high, address):
    """The MAC address that is known of a neighbour, or 0."""
    at = find(s, high, address)
    if at < 0 or s["neighbours"][at]["state"] < KNOWN:
        return np.int64(0)
    return s["neighbours"][at]["mac"]


@part
def expire_neighbour(s, row, now):
    """The time of a row has come: ask again, or give up a step (RFC 4861 section 7.3.3)."""
    row["at"] = NEVER
    state = row["state"]
    if state == KNOWN:
        return
    if state == DELAY:
        if row["confirmed"] >= row["updated"]:
            row["state"] = KNOWN
            return
        row["state"] = PROBE
        row["tries"] = 0
    elif state == PROBE and row["confirmed"] >= row["asked"]:
        row["state"] = KNOWN
        return
    if row["tries"] >= TRIES:
        if row["state"] == ASKED:
            row["state"] = FREE
            return
        row["state"] = ASKED
        row["mac"] = 0
        row["tries"] = 0
    row["tries"] += 1
    ask(s, row, now)
    wake_at(s, row, now + ASK_EVERY)


@part
def expire_neighbours(s, now):
    """Handle what is due; the time at which to come again."""
    control = s["control"]
    if now < control["neighbour_at"]:
        return control["neighbour_at"]
    control["neighbour_at"] = NEVER
    for at in range(NEIGHBOURS):
        row = s["neighbours"][at]
        if row["state"] == FREE:
            continue
        if row["at"] <= now:
            expire_neighbour(s, row, now)
        control["neighbour_at"] = min(control["neighbour_at"], row["at"])
    return control["neighbour_at"]


@part
def hop_of(s, c, now):
    """Row of the neighbour that leads to the connection's peer, or -1."""
    hop_high, hop = next_hop(s, c["remote_high"], c["remote_address"])
    if hop_high == 0 and hop == 0:
        return np.int64(NONE)
    at = find(s, hop_high, hop)
    if at < 0:
        at = take(s, hop_high, hop, now)
        s["neighbours"][at]["state"] = KNOWN
        s["neighbours"][at]["mac"] = c["mac"]
    c["hop"] = at
    return at


@part
def touch(s, c, now):
    """The connection sends after a pause."""
    at = c["hop"]
    if at < 0 or s["neighbours"][at]["mac"] != c["mac"]:
        at = hop_of(s, c, now)
    if at >= 0:
        use(s, s["neighbours"][at], now)


@part
def confirm(s, c, now):
    """The peer acknowledged what was sent by way of its neighbour (RFC 4861 section 7.3.1)."""
    at = c["hop"]
    if at >= 0:
        row = s["neighbours"][at]
        if row["mac"] == c["mac"]:
            row["confirmed"] = now


@part
def suspect(s, c, now):
    """The peer does not answer: another way to it if there is one, else its neighbour is asked."""
    at = hop_of(s, c, now)
    if at < 0:
        return
    row = s["neighbours"][at]
    if row["state"] == ASKED:
        c["soft_error"] = UNREACHABLE
    elif row["mac"] != c["mac"]:
        c["mac"] = row["mac"]
    elif row["state"] != PROBE and now - max(row["asked"], row["confirmed"]) >= ASK_EVERY:
        row["state"] = PROBE
        row["tries"] = 1
        ask(s, row, now)
        wake_at(s, row, now + ASK_EVERY)
