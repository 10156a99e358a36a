"""HyStart++ (RFC 9406): slow start ends before the queue on the path overflows.

In the first slow start of a connection with time stamps. Where the shortest round trip of a round
is longer than that of the round before, the window grows at a quarter of the pace, and after five
such rounds slow start is over; unless the round trip shrinks again.
"""

from ..compile import part
from .tables import MILLISECOND

N_RTT_SAMPLE = 8
MIN_RTT_THRESH = 4 * MILLISECOND
MAX_RTT_THRESH = 16 * MILLISECOND
MIN_RTT_DIVISOR = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5
INFINITE = 1 << 60


@part
def begin(c):
    """The connection is established: the first round."""
    c["round_end"] = 0
    c["round_rtt"] = INFINITE
    c["last_rtt"] = INFINITE
    c["rtt_samples"] = 0
    c["css"] = 0
    c["css_rtt"] = INFINITE
    c["css_rounds"] = 0


@part
def on_sample(c, rtt):
    """An ACK in the first slow start, with its round trip in ns. True if slow start is over."""
    if c["snd_una"] > c["round_end"]:
        c["round_end"] = c["snd_max"]
        c["last_rtt"] = c["round_rtt"]
        c["round_rtt"] = INFINITE
        c["rtt_samples"] = 0
        if c["css"]:
            c["css_rounds"] += 1
            if c["css_rounds"] >= CSS_ROUNDS:
                return True
    c["round_rtt"] = min(c["round_rtt"], rtt)
    c["rtt_samples"] += 1
    if c["rtt_samples"] < N_RTT_SAMPLE or c["last_rtt"] == INFINITE:
        return False
    if c["css"]:
        if c["round_rtt"] < c["css_rtt"]:
            c["css"] = 0  # it was no queue that grew
            c["css_rtt"] = INFINITE
        return False
    step = min(max(c["last_rtt"] // MIN_RTT_DIVISOR, MIN_RTT_THRESH), MAX_RTT_THRESH)
    if c["round_rtt"] >= c["last_rtt"] + step:
        c["css"] = 1
        c["css_rtt"] = c["round_rtt"]
        c["css_rounds"] = 0
    return False
