"""NewReno's window (RFC 5681): a segment more each round trip, half of the flight after a loss."""

from ..compile import part


@part
def avoid(c, acked):
    """Congestion avoidance, by bytes (RFC 3465)."""
    c["acked_bytes"] += acked
    if c["acked_bytes"] >= c["cwnd"]:
        c["acked_bytes"] -= c["cwnd"]
        c["cwnd"] += c["mss"]


@part
def threshold(flight):
    """ssthresh after a loss (equation 4)."""
    return flight // 2
