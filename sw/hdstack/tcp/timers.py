"""Deadlines of connections, and the retransmission time-out (RFC 6298).

Each connection has four deadlines: `retransmit_at` (or, with a closed window, the next probe),
`ack_at` (a delayed ACK), `state_at` (TIME-WAIT, FIN-WAIT-2 after a close, linger) and `keep_at`.
Their minimum stands in the compact array `s["deadlines"]`, a lower bound of 64 rows in
`s["blocks"]`, one of all in `next_deadline`. So a burst with nothing due costs one comparison, and
one with something due looks at the blocks only.
"""

from ..compile import part
from .sequence import later, time_stamp
from .sizes import BLOCK
from .tables import MILLISECOND, NEVER, NONE, SECOND

RTO_INITIAL = SECOND
RTO_AFTER_LOST_SYN = 3 * SECOND
"""RFC 6298 section 5.7."""
RTO_MIN = 200 * MILLISECOND
"""RFC 6298 asks for 1 s; 200 ms, as the common kernels have it, is above every delayed ACK here."""
RTO_MAX = 60 * SECOND
CLOCK_GRANULARITY = MILLISECOND
KEEPALIVE_IDLE = 7200
KEEPALIVE_INTERVAL = 75
KEEPALIVE_COUNT = 9
"""Seconds, seconds, probes: the customary ones (RFC 9293 section 3.8.4: at least two hours)."""
FIN_WAIT_2 = 60 * SECOND
"""How long the peer's FIN is waited for after a close (not after a shutdown)."""
TIME_WAIT = 60 * SECOND
"""Twice a maximum segment lifetime of 30 s."""
R1_RETRIES = 3
"""R1 of RFC 1122 section 4.2.3.5: as many retransmissions ask for another way to the peer."""
GIVE_UP = 100 * SECOND
GIVE_UP_RETRIES = 9
"""R2 of RFC 1122 (at least 100 s): no progress for so long, after so many tries, ends it."""
SYN_GIVE_UP = 180 * SECOND
"""R2 for SYN (RFC 1122 section 4.2.3.5: at least 3 minutes)."""
SYN_RECEIVED_RETRIES = 5


@part
def update_deadline(s, index):
    """After a change of any of the four deadlines."""
    c = s["connections"][index]
    first = min(min(c["retransmit_at"], c["ack_at"]), min(c["state_at"], c["keep_at"]))
    s["deadlines"][index] = first
    if first < s["blocks"][index // BLOCK]:
        s["blocks"][index // BLOCK] = first
    if first < s["control"]["next_deadline"]:
        s["control"]["next_deadline"] = first


@part
def start_timing(c):
    """A new connection: no measurement yet."""
    c["srtt"] = 0
    c["rttvar"] = 0
    c["rto"] = RTO_INITIAL
    c["backoff"] = 0
    c["timing_seq"] = NONE
    c["timing_at"] = 0
    c["retries"] = 0


@part
def measure(c, sample):
    """RFC 6298 section 2: a round trip took `sample` ns. Ends the backoff (Karn)."""
    sample = max(sample, 1)
    if c["srtt"] == 0:
        c["srtt"] = sample
        c["rttvar"] = sample // 2
    else:
        c["rttvar"] += (abs(c["srtt"] - sample) - c["rttvar"]) // 4
        c["srtt"] += (sample - c["srtt"]) // 8
    rto = c["srtt"] + max(CLOCK_GRANULARITY, 4 * c["rttvar"])
    c["rto"] = min(max(rto, RTO_MIN), RTO_MAX)
    c["backoff"] = 0


@part
def remeasure(c, sample):
    """RFC 4015 section 3.3: a time-out was spurious, the path takes as long as `sample` ns."""
    c["srtt"] = max(c["srtt"], sample)
    c["rttvar"] = max(c["rttvar"], sample // 2)
    rto = c["srtt"] + max(CLOCK_GRANULARITY, 4 * c["rttvar"])
    c["rto"] = min(max(rto, RTO_MIN), RTO_MAX)


@part
def measure_stamp(c, echo, now):
    """A round trip by the peer's echo of our time stamp (RFC 7323 section 4.1), for what was sent
    more than once; ms, so that a measurement of the connection's own is better where there is one.
    """
    taken = later(time_stamp(c, now), echo)
    if taken >= 0 and taken * MILLISECOND <= RTO_MAX:
        measure(c, max(taken * MILLISECOND, MILLISECOND // 2))


@part
def arm_keepalive(s, index, now):
    """Ask the peer whether it lives after a time without a word from it."""
    c = s["connections"][index]
    c["keep_at"] = max(c["heard_at"] + c["keep_idle"] * SECOND, now)
    update_deadline(s, index)


@part
def timeout(c):
    """The time-out in force, with backoff, in ns."""
    return min(c["rto"] << min(c["backoff"], 16), RTO_MAX)


@part
def arm_retransmit(s, index, now):
    """Start the timer anew."""
    c = s["connections"][index]
    at = now + timeout(c)
    if c["user_timeout"] > 0:
        # RFC 5482: the connection ends when that is over, not at the time-out after it
        since = c["heard_at"] if c["persist"] else c["progress_at"]
        at = min(at, max(since + c["user_timeout"], now))
    c["retransmit_at"] = at
    update_deadline(s, index)


@part
def stop_retransmit(s, index):
    c = s["connections"][index]
    c["retransmit_at"] = NEVER
    update_deadline(s, index)
