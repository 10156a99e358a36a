"""A record of a receive ring, whatever it holds: headers, a fragment, a whole frame, or what PLACE
has moved.

`area` is the stack's own part of header memory (`fragments`, `placing`); `memory` is where the
record lies.
"""

from hdsnic.abi import RxOutcome

from ..compile import entry, part
from ..tcp import counters
from ..tcp.rows import count
from ..tcp.tables import NEVER, NONE
from . import fragments, placing
from .input import DONE, FRAGMENT, MOVE, on_frame

__all__ = ["on_deadline", "on_receive"]

_FRAGMENT = int(RxOutcome.FRAGMENT)
_PLACED = int(RxOutcome.PLACED)


@part
def on_fragment(s, area, memory, at, left, now):
    """A fragment of the frame at `at`; with the last one the datagram is handled as a frame."""
    k = fragments.keep(s, area, memory, at, now)
    if k < 0:
        return
    row = s["holds"][k]
    start = row["start"]
    verdict = on_frame(s, 0, area, start, row["length"], 0, NONE, 0, left, _FRAGMENT, now)
    stays = NONE
    if verdict == MOVE:
        stays = placing.begin(s, area, area, start, k, now)
    elif verdict == FRAGMENT:  # fragments of a fragment
        count(s, counters.FRAGMENTS_BAD)
    if stays != k:
        row["state"] = fragments.FREE


@part
def on_moved(s, area, queue, cookie, payload, region, offset, left, now):
    """A record of bytes that PLACE has moved."""
    k = placing.on_placed(s, area, queue, cookie, payload, region, offset, left)
    if k < 0:
        return
    row = s["holds"][k]
    on_frame(
        s, queue, area, row["start"], row["header"], payload, region, offset, left, _PLACED, now
    )
    placing.settle(s, k)


@entry
def on_receive(
    s, area, queue, memory, at, header_length, payload_length, region, offset, posted_left, reason,
    cookie, now,
):  # fmt: skip
    """Handle one record of `queue`; `hdstack.tcp.core.ready` said that there is room.

    Parameters are those of `input.on_frame`; `cookie` is the record's `hash`.
    """
    if reason == _PLACED:
        on_moved(s, area, queue, cookie, payload_length, region, offset, posted_left, now)
        return
    verdict = on_frame(
        s, queue, memory, at, header_length, payload_length, region, offset, posted_left, reason,
        now,
    )  # fmt: skip
    if verdict == DONE:
        return
    if verdict == FRAGMENT:
        on_fragment(s, area, memory, at, posted_left, now)
    else:
        placing.begin(s, area, memory, at, NONE, now)


@entry
def on_deadline(s, area, now):
    """Give up datagrams whose time is over; when to call again at the latest (NEVER: none)."""
    control = s["control"]
    if now >= control["holds_due"]:
        control["holds_due"] = NEVER
        first = fragments.expire(s, area, now)
        control["holds_due"] = min(first, placing.expire(s, now))
    return control["holds_due"]
