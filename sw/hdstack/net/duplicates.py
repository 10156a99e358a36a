"""Whether another host has an address of ours: asked before use, watched for afterwards.

RFC 5227 for IPv4: three ARP probes, then two announcements; RFC 4862 section 5.4 for IPv6: one
solicitation from no address. The times are a second in all for both, without the random delay at
the beginning, so that a stack is ready soon. An address that is taken is never used, and the stack
process says so and ends. A conflict later on is counted, and answered by an announcement at most
every ten seconds (RFC 5227 section 2.4 c); connections go on.
"""

from ..compile import part
from ..tcp import counters
from ..tcp.routes import OURS
from ..tcp.rows import count
from ..tcp.tables import MILLISECOND, NEVER, SECOND
from .ndp_messages import (
    ALL_NODES_HIGH,
    ALL_NODES_MAC,
    SOLICITED_MAC,
    advertise,
    send_solicitation,
)
from .neighbour import REQUEST, send_arp

TENTATIVE = 1
TAKEN = 2

PROBES = 3
PROBE_EVERY = 300 * MILLISECOND
LAST_WAIT = 400 * MILLISECOND
WAIT_IPV6 = SECOND
"""RetransTimer (RFC 4861 section 10)."""
ANNOUNCEMENTS = 2
ANNOUNCE_EVERY = 2 * SECOND
DEFEND_EVERY = 10 * SECOND


@part
def wake_at(s, row, at):
    control = s["control"]
    row["at"] = at
    control["locals_at"] = min(control["locals_at"], at)
    control["next_deadline"] = min(control["next_deadline"], at)


@part
def probe_locals(s, now):
    """None of our addresses is used until it is known that nobody has it."""
    for at in range(s["control"]["locals"]):
        row = s["locals"][at]
        row["state"] = TENTATIVE
        row["tries"] = 0
        wake_at(s, row, now)


@part
def tell(s, row):
    """The address is ours: everybody on the link may know."""
    if row["high"] == 0:
        send_arp(s, REQUEST, 0, row["address"], row["address"])
    else:
        high = row["high"]
        advertise(s, ALL_NODES_MAC, ALL_NODES_HIGH, 1, high, row["address"], False)


@part
def expire_local(s, row, now):
    """The time of an address has come: the next probe or announcement."""
    row["at"] = NEVER
    ipv4 = row["high"] == 0
    if row["state"] == TENTATIVE:
        probes = PROBES if ipv4 else 1
        if row["tries"] < probes:
            row["tries"] += 1
            if ipv4:
                send_arp(s, REQUEST, 0, row["address"], 0)
                wait = PROBE_EVERY if row["tries"] < probes else LAST_WAIT
            else:
                mac = SOLICITED_MAC | (row["address"] & 0xFFFFFF)
                send_solicitation(s, mac, True, 0, 0, row["high"], row["address"])
                wait = WAIT_IPV6
            wake_at(s, row, now + wait)
            return
        row["state"] = OURS
        row["tries"] = 0
    if row["state"] == OURS and row["tries"] < ANNOUNCEMENTS:
        row["tries"] += 1
        tell(s, row)
        wake_at(s, row, now + ANNOUNCE_EVERY)


@part
def expire_locals(s, now):
    """Handle what is due; the time at which to come again."""
    control = s["control"]
    if now < control["locals_at"]:
        return control["locals_at"]
    control["locals_at"] = NEVER
    for at in range(control["locals"]):
        row = s["locals"][at]
        if row["at"] <= now:
            expire_local(s, row, now)
        control["locals_at"] = min(control["locals_at"], row["at"])
    return control["locals_at"]


@part
def conflict(s, at, mac, claims, now):
    """The host with `mac` has the address of row `at`, or (`claims` False) wants to have it."""
    row = s["locals"][at]
    if mac == s["control"]["mac"]:
        return  # our own, come back
    if row["state"] == TENTATIVE:
        row["state"] = TAKEN
        row["mac"] = mac
        row["at"] = NEVER
        count(s, counters.ADDRESS_CONFLICTS)
    elif row["state"] == OURS and claims:
        count(s, counters.ADDRESS_CONFLICTS)
        row["mac"] = mac
        if now >= row["defend_at"]:
            row["defend_at"] = now + DEFEND_EVERY
            tell(s, row)
