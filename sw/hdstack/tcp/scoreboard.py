"""What the peer reports as received (RFC 2018) and what follows from it (RFC 6675 section 4).

A list of ranges in order, without overlap, never touching each other, all within what was sent
and not yet acknowledged. Bounded by connection and by queue: a report that finds no row is
forgotten, so that those bytes are sent again. Each function walks the list once.
"""

from ..compile import part
from .rows import give_range, take_range
from .tables import NONE, RANGES_PER_CONNECTION

DUPLICATE_THRESHOLD = 3
"""Reports beyond a byte after which it counts as lost (DupThresh)."""
FAR = 1 << 62


@part
def forget(s, c):
    """Drop every range: the peer may have thrown away what it reported (RFC 2018 section 8)."""
    while c["ranges_head"] >= 0:
        at = c["ranges_head"]
        c["ranges_head"] = s["ranges"][at]["next"]
        give_range(s, c["queue"], at)
    c["ranges"] = 0
    c["sacked_bytes"] = 0


@part
def advance(s, c):
    """Drop what the cumulative acknowledgement `snd_una` covers."""
    una = c["snd_una"]
    while c["ranges_head"] >= 0:
        at = c["ranges_head"]
        row = s["ranges"][at]
        if row["start"] >= una:
            return
        if row["end"] > una:
            c["sacked_bytes"] -= una - row["start"]
            row["start"] = una
            return
        c["sacked_bytes"] -= row["end"] - row["start"]
        c["ranges_head"] = row["next"]
        c["ranges"] -= 1
        give_range(s, c["queue"], at)


@part
def add(s, c, start, end):
    """The peer has `start` to `end`; gives how many of these bytes it had not reported before."""
    ranges = s["ranges"]
    before = -1
    at = c["ranges_head"]
    while at >= 0 and ranges[at]["end"] < start:
        before = at
        at = ranges[at]["next"]
    if at < 0 or ranges[at]["start"] > end:
        if c["ranges"] >= RANGES_PER_CONNECTION:
            return 0
        new = take_range(s, c["queue"])
        if new < 0:
            return 0
        row = ranges[new]
        row["start"] = start
        row["end"] = end
        row["next"] = at
        if before < 0:
            c["ranges_head"] = new
        else:
            ranges[before]["next"] = new
        c["ranges"] += 1
        c["sacked_bytes"] += end - start
        return end - start
    row = ranges[at]
    fresh = row["start"] - row["end"]
    row["start"] = min(row["start"], start)
    row["end"] = max(row["end"], end)
    following = row["next"]
    while following >= 0 and ranges[following]["start"] <= row["end"]:
        swallowed = ranges[following]
        fresh -= swallowed["end"] - swallowed["start"]
        row["end"] = max(row["end"], swallowed["end"])
        row["next"] = swallowed["next"]
        c["ranges"] -= 1
        give_range(s, c["queue"], following)
        following = row["next"]
    fresh += row["end"] - row["start"]
    c["sacked_bytes"] += fresh
    return fresh


@part
def _lost(c, ranges_above, bytes_above):
    """RFC 6675 IsLost, for a byte with so many ranges and bytes reported above it."""
    return (
        ranges_above >= DUPLICATE_THRESHOLD
        or bytes_above > (DUPLICATE_THRESHOLD - 1) * c["mss"]
    )  # fmt: skip


@part
def first_is_lost(c):
    """Whether the first byte not acknowledged counts as lost."""
    return _lost(c, c["ranges"], c["sacked_bytes"])


@part
def pipe(s, c):
    """RFC 6675 SetPipe: bytes believed to be on the path."""
    bytes_above = c["sacked_bytes"]
    ranges_above = c["ranges"]
    seq = c["snd_una"]
    total = 0
    at = c["ranges_head"]
    while at >= 0:
        row = s["ranges"][at]
        if not _lost(c, ranges_above, bytes_above):
            total += row["start"] - seq
        total += max(min(row["start"], c["high_rxt"]) - seq, 0)
        seq = row["end"]
        bytes_above -= row["end"] - row["start"]
        ranges_above -= 1
        at = row["next"]
    return total + c["snd_max"] - seq + max(min(c["snd_max"], c["high_rxt"]) - seq, 0)


@part
def next_hole(s, c, lost_only):
    """The first bytes above `high_rxt` and below the highest report that were not reported, and
    (with `lost_only`) count as lost: (start, end), or (-1, -1). RFC 6675 NextSeg, rules 1 and 3."""
    bytes_above = c["sacked_bytes"]
    ranges_above = c["ranges"]
    seq = c["snd_una"]
    at = c["ranges_head"]
    while at >= 0:
        row = s["ranges"][at]
        if lost_only and not _lost(c, ranges_above, bytes_above):
            break
        start = max(seq, c["high_rxt"])
        if start < row["start"]:
            return start, row["start"]
        seq = row["end"]
        bytes_above -= row["end"] - row["start"]
        ranges_above -= 1
        at = row["next"]
    return NONE, NONE


@part
def highest_hole(s, c):
    """The last bytes sent that were not reported: (start, end). Rule 4."""
    start = c["snd_una"]
    end = c["snd_max"]
    seq = start
    at = c["ranges_head"]
    while at >= 0:
        row = s["ranges"][at]
        if row["start"] > seq:
            start = seq
            end = row["start"]
        seq = row["end"]
        at = row["next"]
    if seq < c["snd_max"]:
        start = seq
        end = c["snd_max"]
    return start, end


@part
def sacked_below(s, c, seq):
    """Bytes reported below `seq`."""
    if seq >= c["snd_max"]:
        return c["sacked_bytes"]
    total = 0
    at = c["ranges_head"]
    while at >= 0 and s["ranges"][at]["start"] < seq:
        total += min(s["ranges"][at]["end"], seq) - s["ranges"][at]["start"]
        at = s["ranges"][at]["next"]
    return total


@part
def unreported(s, c, seq):
    """The first byte from `seq` on that was not reported, and where the next report begins."""
    at = c["ranges_head"]
    while at >= 0:
        row = s["ranges"][at]
        if seq < row["start"]:
            return seq, row["start"]
        seq = max(seq, row["end"])
        at = row["next"]
    return seq, FAR
