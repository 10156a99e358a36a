"""Congestion control: NewReno (RFC 5681, RFC 6582), behind five functions.

Another algorithm takes these five names; they see only the connection's row. Windows in bytes.
"""

from ..compile import part

INITIAL_SEGMENTS = 10
"""RFC 6928."""
CWND_MAX = 1 << 30


@part
def begin(c, lost_syn):
    """The connection is established; after a lost SYN the window is one segment (RFC 5681)."""
    mss = c["mss"]
    c["cwnd"] = mss if lost_syn else min(INITIAL_SEGMENTS * mss, max(2 * mss, 14600))
    c["ssthresh"] = CWND_MAX
    c["acked_bytes"] = 0
    c["dup_acks"] = 0
    c["recovery"] = 0
    c["recover"] = c["iss"]


@part
def on_ack(c, acked):
    """`acked` new bytes, outside of recovery: slow start or congestion avoidance."""
    mss = c["mss"]
    if c["cwnd"] < c["ssthresh"]:
        # RFC 3465 with L = 2: delayed ACKs do not slow the start
        c["cwnd"] = min(c["cwnd"] + min(acked, 2 * mss), CWND_MAX)
    else:
        c["acked_bytes"] += acked
        if c["acked_bytes"] >= c["cwnd"]:
            c["acked_bytes"] -= c["cwnd"]
            c["cwnd"] = min(c["cwnd"] + mss, CWND_MAX)


@part
def on_loss(c, flight):
    """Three duplicate ACKs: enter recovery (RFC 6582 section 3.2 step 2)."""
    mss = c["mss"]
    c["ssthresh"] = max(flight // 2, 2 * mss)
    c["cwnd"] = c["ssthresh"] + 3 * mss
    c["recover"] = c["snd_max"]
    c["recovery"] = 1
    c["acked_bytes"] = 0


@part
def on_recovery_ack(c, acked, flight):
    """New data acknowledged in recovery; 1 if partial: the next hole is to be sent at once."""
    mss = c["mss"]
    if c["snd_una"] >= c["recover"]:
        c["cwnd"] = min(c["ssthresh"], max(flight, mss) + mss)
        c["recovery"] = 0
        return 0
    c["cwnd"] = max(c["cwnd"] - acked, mss) + (mss if acked >= mss else 0)
    return 1


@part
def on_timeout(c, flight, first):
    """The retransmission timer fired; `first`: not for a segment that timed out before."""
    mss = c["mss"]
    if first:
        c["ssthresh"] = max(flight // 2, 2 * mss)
    c["cwnd"] = mss
    c["recover"] = c["snd_max"]
    c["recovery"] = 0
    c["dup_acks"] = 0
    c["acked_bytes"] = 0


@part
def on_idle(c):
    """Nothing was sent for longer than the time-out (RFC 5681 section 4.1)."""
    mss = c["mss"]
    c["cwnd"] = min(c["cwnd"], min(INITIAL_SEGMENTS * mss, max(2 * mss, 14600)))
