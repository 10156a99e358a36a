"""What the burst loop keeps about each queue: one structured row, like the tables of TCP.

Also the layout of a channel, the memory that the stack shares with one application: a page of
indices, then the ring of requests, then the ring of events.
"""

from enum import IntFlag

import numpy as np

from hdsnic import abi

from ..memory import PAGE
from ..tcp.events import EVENT, REQUEST

__all__ = [
    "CHANNEL_BYTES",
    "CHANNEL_WORDS",
    "EVENTS_AT",
    "EVENT_CONSUMER",
    "EVENT_PRODUCER",
    "EVENT_ROWS",
    "NEED_SPACE",
    "NEED_WAKE_APPLICATION",
    "NEED_WAKE_STACK",
    "NO_POOLS",
    "PORTS",
    "REQUESTS_AT",
    "REQUEST_CONSUMER",
    "REQUEST_PRODUCER",
    "REQUEST_ROWS",
    "ROW_BYTES",
    "SERVICE",
    "Range",
    "Work",
    "port_range",
]  # fmt: skip

# Words of the channel's page 0, a cache line each.
REQUEST_PRODUCER = 0
REQUEST_CONSUMER = 16
EVENT_PRODUCER = 32
EVENT_CONSUMER = 48
NEED_WAKE_STACK = 64
NEED_WAKE_APPLICATION = 80
NEED_SPACE = 96
"""Set by an application that waits for room in the ring of requests."""

ROW_BYTES = REQUEST.itemsize
REQUEST_ROWS = 1024
EVENT_ROWS = 2048
REQUESTS_AT = PAGE
EVENTS_AT = REQUESTS_AT + REQUEST_ROWS * ROW_BYTES
CHANNEL_BYTES = EVENTS_AT + EVENT_ROWS * EVENT.itemsize
CHANNEL_WORDS = CHANNEL_BYTES // 4
assert CHANNEL_BYTES % PAGE == 0

PORTS = 1024
"""Ephemeral ports of an application."""
_FIRST_EPHEMERAL = 65536 - PORTS * abi.QUEUES_MAX


def port_range(queue: int) -> tuple[int, int]:
    """First and last ephemeral port of the application that has `queue` (49152 and above)."""
    first = _FIRST_EPHEMERAL + queue * PORTS
    return first, first + PORTS - 1


class Range:
    """State of an application's ephemeral port range."""

    NONE, WANTED, READY, REFUSED = range(4)


class Work(IntFlag):
    """What a burst reports."""

    DONE = 1
    """Something was done: come again without sleeping."""
    WAKE_DEVICE = 2
    WAKE_APPLICATIONS = 4
    """The queues are in `wakes`, bit by bit."""
    CONTROL = 8
    """A port range is wanted or an application broke the protocol: look at the rows."""
    DEVICE_SEEN = 16
    """The card wrote an index since the last burst."""
    IDLE = 64
    """Nothing was done for a while (of `bursts` alone)."""
    PLACE = 32
    """Payload waits to be moved, or for the answer of a PLACE."""


_NAMES = (
    "live attached fault range rx_consumer rx_told tx_producer tx_told tx_consumer"
    " request_consumer event_producer notify records requests events segments paused"
)
_QUEUE = np.dtype([(name, "<i8") for name in _NAMES.split()])

NO_POOLS = np.zeros(1, np.uint8)
"""For `burst`, where the card makes the checksums."""

SERVICE = np.dtype(
    [
        ("deadline", "<i8"),
        ("wakes", "<i8"),
        ("bursts", "<i8"),
        ("ring_bytes", "<i8"),
        ("checksums", "<i8"),  # 1: the card inserts them
        ("queues", _QUEUE, (abi.QUEUES_MAX,)),
        ("request", REQUEST),
    ],
    align=True,
)
