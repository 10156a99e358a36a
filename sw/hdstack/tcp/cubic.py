"""CUBIC (RFC 9438) in integers: windows in bytes, time in ms, remainders carried along.

The window follows C (t - K)^3 + W_max since the last loss, C = 0.4 segments/s^3, and never stays
below what NewReno with the same decrease would have.
"""

from ..compile import part
from .tables import MILLISECOND

AGE_MAX = 1_000_000
"""Milliseconds from the plateau, at most: products stay within 63 bits."""
CUBE_MAX = 1_700_000
"""Its cube is just below 2^63."""


@part
def begin(c):
    """No loss yet: no epoch, no W_max."""
    c["epoch"] = 0
    c["cubic_k"] = 0
    c["w_max"] = 0
    c["w_est"] = 0
    c["w_rest"] = 0
    c["cwnd_prior"] = 0


@part
def cube_root(value):
    """The largest integer whose cube is at most `value`."""
    low = 0
    high = CUBE_MAX
    while low < high:
        middle = (low + high + 1) // 2
        if middle * middle * middle <= value:
            low = middle
        else:
            high = middle - 1
    return low


@part
def threshold(c, flight):
    """ssthresh: 0.7 of the flight (section 4.6). Remembers W_max, with fast convergence (4.7)."""
    cwnd = c["cwnd"]
    c["cwnd_prior"] = cwnd
    c["w_max"] = cwnd * 17 // 20 if cwnd < c["w_max"] else cwnd
    c["epoch"] = 0
    return flight * 7 // 10


@part
def start_epoch(c, now):
    """Congestion avoidance begins; K in ms (section 4.2, figure 2)."""
    cwnd = c["cwnd"]
    c["epoch"] = now
    c["w_est"] = cwnd
    c["w_rest"] = 0
    c["acked_bytes"] = 0
    if cwnd < c["w_max"]:
        # seconds: cbrt(segments / 0.4); in ms that times 1000
        c["cubic_k"] = cube_root((c["w_max"] - cwnd) * 2_500_000_000 // c["mss"])
    else:
        c["w_max"] = cwnd
        c["cubic_k"] = 0


@part
def window_at(c, age):
    """W_cubic `age` ms after the epoch began."""
    distance = min(max(age - c["cubic_k"], -AGE_MAX), AGE_MAX)
    cube = distance * distance // 1000 * distance // 1000  # 10^-3 s^3
    return c["w_max"] + cube * c["mss"] * 4 // 10_000


@part
def avoid(c, acked, now):
    """Sections 4.3 to 4.5 for `acked` new bytes."""
    if c["epoch"] == 0:
        start_epoch(c, now)
    cwnd = c["cwnd"]
    mss = c["mss"]
    # what NewReno with a decrease of 0.7 would have: alpha is 9/17 until the loss is made good
    grown = acked * mss + c["w_rest"]
    if c["w_est"] < c["cwnd_prior"]:
        grown = acked * mss * 9 // 17 + c["w_rest"]
    c["w_est"] += grown // cwnd
    c["w_rest"] = grown % cwnd
    age = (now - c["epoch"]) // MILLISECOND
    if window_at(c, age) < c["w_est"]:
        c["cwnd"] = max(cwnd, c["w_est"])
        return
    target = window_at(c, age + c["srtt"] // MILLISECOND)
    target = min(max(target, cwnd), cwnd + cwnd // 2)
    credit = (target - cwnd) * acked + c["acked_bytes"]
    c["cwnd"] = cwnd + credit // cwnd
    c["acked_bytes"] = credit % cwnd
