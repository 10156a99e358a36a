"""Congestion control as the rest of TCP sees it. Windows in bytes, times in ns.

Six events, the same for every algorithm: `begin`, `on_ack`, `on_loss`, `on_recovered`,
`on_timeout`, `on_idle`. Slow start, the restart after a pause and the reaction to a time-out are
here; an algorithm gives two functions, chosen by `c["algorithm"]`: how the window grows in
congestion avoidance, and what becomes the threshold at a loss. An algorithm that paces or needs
delivery rates (BBR) adds fields to the row and its branch to the events. What counts as lost is
not decided here, but in `recovery`.
"""

from ..compile import part
from . import cubic, hystart, newreno
from .tables import CUBIC

INITIAL_SEGMENTS = 10
"""RFC 6928."""
CWND_MAX = 1 << 30


@part
def initial_window(mss):
    """RFC 6928 section 2."""
    return min(INITIAL_SEGMENTS * mss, max(2 * mss, 14600))


@part
def begin(c, lost_syn):
    """The connection is established; after a lost SYN the window is one segment (RFC 5681)."""
    c["cwnd"] = c["mss"] if lost_syn else initial_window(c["mss"])
    c["ssthresh"] = CWND_MAX
    c["acked_bytes"] = 0
    c["dup_acks"] = 0
    c["recovery"] = 0
    c["recover"] = c["iss"]
    c["undo"] = 0
    hystart.begin(c)
    cubic.begin(c)


@part
def on_round_trip(c, rtt):
    """An ACK told its round trip, in ns: is the first slow start to go on (RFC 9406)?"""
    if c["ssthresh"] == CWND_MAX and hystart.on_sample(c, rtt):
        c["ssthresh"] = c["cwnd"]


@part
def on_ack(c, acked, flight, now):
    """`acked` new bytes of `flight` outstanding, outside of recovery."""
    mss = c["mss"]
    cwnd = c["cwnd"]
    if cwnd < c["ssthresh"]:
        # a window that was not used says nothing about the path (RFC 7661 section 4.3)
        if cwnd < 2 * flight:
            # RFC 3465: L = 2, so that delayed ACKs do not slow the start, and 1 after a time-out
            most = mss if c["snd_una"] <= c["recover"] else 2 * mss
            more = min(acked, most)
            if c["css"] and c["ssthresh"] == CWND_MAX:
                more //= hystart.CSS_GROWTH_DIVISOR
            c["cwnd"] = min(cwnd + more, CWND_MAX - 1)
    elif flight + mss > cwnd:
        if c["algorithm"] == CUBIC:
            cubic.avoid(c, acked, now)
        else:
            newreno.avoid(c, acked)
        c["cwnd"] = min(c["cwnd"], CWND_MAX)


@part
def threshold(c, flight):
    """Set ssthresh after a loss with `flight` bytes outstanding."""
    if c["algorithm"] == CUBIC:
        target = cubic.threshold(c, flight)
    else:
        target = newreno.threshold(flight)
    c["ssthresh"] = max(target, 2 * c["mss"])
    c["acked_bytes"] = 0


@part
def save(c, flight):
    """What a reduction takes away, to be given back if it proves to be for nothing."""
    c["undo_cwnd"] = c["cwnd"]
    c["undo_pipe"] = max(flight, c["ssthresh"])
    c["undo_w_max"] = c["w_max"]
    c["undo_cwnd_prior"] = c["cwnd_prior"]
    c["undo_epoch"] = c["epoch"]
    c["undo_k"] = c["cubic_k"]


@part
def undo(c, flight, acked):
    """The reduction since `save` was for nothing (RFC 4015 section 3.2 step 7, RFC 9438 section
    4.9): the threshold is as high as the flight then was; the window follows without a burst."""
    window = flight + min(acked, initial_window(c["mss"]))
    c["cwnd"] = max(c["cwnd"], min(c["undo_cwnd"], window))
    c["ssthresh"] = max(c["ssthresh"], c["undo_pipe"])
    c["w_max"] = c["undo_w_max"]
    c["cwnd_prior"] = c["undo_cwnd_prior"]
    c["epoch"] = c["undo_epoch"]
    c["cubic_k"] = c["undo_k"]


@part
def on_loss(c, flight):
    """A loss was found while ACKs come: the window falls once for the losses of a flight."""
    threshold(c, flight)
    c["cwnd"] = c["ssthresh"]


@part
def on_recovered(c, flight):
    """All that was outstanding at the loss is acknowledged (RFC 6582 section 3.2 step 3)."""
    mss = c["mss"]
    c["cwnd"] = min(c["ssthresh"], max(flight, mss) + mss)


@part
def on_timeout(c, flight, first):
    """The retransmission timer fired; `first`: not for a segment that timed out before."""
    if first:
        threshold(c, flight)
    c["cwnd"] = c["mss"]
    c["acked_bytes"] = 0


@part
def on_idle(c):
    """Nothing was sent for longer than the time-out (RFC 5681 section 4.1)."""
    c["cwnd"] = min(c["cwnd"], initial_window(c["mss"]))
    c["epoch"] = 0  # the pause is no time in which the cubic grew (RFC 9438 section 5.8)


@part
def choose(c, algorithm):
    """Another algorithm from now on; the window and the threshold stay."""
    c["algorithm"] = algorithm
    c["acked_bytes"] = 0
    cubic.begin(c)
