"""What applications ask of the TCP core and what it tells them: the rows of the event rings.

Both travel in rings of shared memory between the stack and one application (`hdstack.service`),
32 bytes a row. Every number that an application wrote is checked by the core before it is used.
"""

from enum import IntEnum, IntFlag, unique

import numpy as np

__all__ = [
    "EVENT", "IPV6", "NO_LINGER", "REQUEST", "SUM_GIVEN", "CloseFlag", "CloseReason", "EventKind",
    "Family", "OpenFlag", "Option", "RequestKind",
]  # fmt: skip


@unique
class RequestKind(IntEnum):
    """Application to stack. `socket` is a number of the application's choosing, below its limit."""

    LISTEN = 1
    """Listen on local port `port`; answered by LISTENING or FAILED with the same `socket`.
    `length`: backlog, 0 for the most; `offset`: OpenFlag of the connections to come."""
    CONNECT = 2
    """Connect to `address`:`port`; answered by CONNECTED or FAILED with the same `socket`.
    `offset`: OpenFlag."""
    SEND = 3
    """Append `length` bytes at `offset` of region `region` to the stream of `connection`."""
    SHUTDOWN = 4
    """No more SEND follows on `connection`: send FIN after the last byte."""
    ABORT = 5
    """Reset `connection` and forget it."""
    CONSUMED = 6
    """`length` more bytes of `connection` were read, their buffers posted again."""
    UNLISTEN = 7
    """Stop the listener `connection`."""
    CLOSE = 8
    """As SHUTDOWN, and nothing more is read: data that still comes is answered by RST, once all
    that was sent is acknowledged. `length`: ms within which it must be, or the connection is
    reset; 0 resets at once; NO_LINGER waits as long as TCP does. `offset`: CloseFlag."""
    OPTION = 9
    """Set Option `port` of `connection` to `length`; answered by OPTION."""
    BIND = 10
    """Open UDP socket `socket` at local `port`, 0: one of the application's range; answered by
    BOUND or FAILED. `region` is a Family, the address is as in CONNECT, all 0: any. `offset` 1:
    nothing is delivered before PEER."""
    PEER = 11
    """UDP socket `connection` talks to one peer, whose address is as in CONNECTED; answered by
    BOUND or FAILED with `socket`."""
    TO = 12
    """Where the SEND_TO of `connection` that follow are to go; the address as in CONNECTED."""
    SEND_TO = 13
    """Send `length` bytes at `offset` of region `region` as one datagram of UDP socket
    `connection`; answered by SENT with the same `socket`. `spare`: 0, or SUM_GIVEN and the one's
    complement sum (RFC 1071) of the bytes, which more than the path MTU needs."""
    TAKEN = 14
    """`length` more datagrams or their buffers of UDP socket `connection` were given back, `offset`
    of them buffers that were posted again."""
    UNBIND = 15
    """Close UDP socket `connection`; answered by UNBOUND after the last SENT."""
    URGENT = 16
    """The stream of `connection` is urgent up to `length` bytes, more than 0, after those sent so
    far; they follow (RFC 9293 section 3.9.1.2)."""


@unique
class EventKind(IntEnum):
    """Stack to application."""

    LISTENING = 1
    """The listener of `socket` is `connection`."""
    CONNECTED = 2
    """The connection of `socket` is `connection`; `address`:`port` is the peer."""
    ACCEPTED = 3
    """`connection` is new, from the listener of `socket`; `address`:`port` is the peer."""
    FAILED = 4
    """LISTEN or CONNECT of `socket` failed; `reason` is a CloseReason."""
    READABLE = 5
    """The next `length` bytes of `connection` are at `offset` of region `region`."""
    FINISHED = 6
    """The peer has sent its last byte (FIN)."""
    RELEASED = 7
    """The oldest SEND of `connection` is acknowledged and free of DMA (R24)."""
    CLOSED = 8
    """`connection` is over, its number may be used again; `reason` is a CloseReason."""
    RETURNED = 9
    """The buffer (element) at `offset` of `region` carries nothing and may be posted again."""
    OPTION = 10
    """Answer to OPTION: option `port` of `connection` is `length`, or `reason` is not NORMAL and
    nothing changed."""
    PROBLEM = 11
    """The peer of `connection` does not answer (R1 of RFC 1122), or a router says why; `reason` is
    a CloseReason. The connection goes on. Told once until bytes are acknowledged again."""
    URGENT = 12
    """The peer's urgent data ends `length` bytes after what READABLE told so far (RFC 9293 section
    3.8.5)."""
    BOUND = 13
    """The UDP socket of `socket` is `connection`, at `port` and an address as in CONNECTED."""
    DATAGRAM = 14
    """A datagram came to UDP socket `connection`; its source is as in CONNECTED. `reason` events of
    kind PIECE follow, none where it has no bytes."""
    PIECE = 15
    """The next `length` bytes of the datagram are at `offset` of region `region`."""
    SENT = 16
    """SEND_TO of `connection` with this `socket` is over and free of DMA; `reason` is not NORMAL
    where the datagram did not leave."""
    SOCKET_ERROR = 17
    """The peer of UDP socket `connection`, or a router, reports `reason` by ICMP."""
    UNBOUND = 18
    """UDP socket `connection` is closed, its number may be used again."""


@unique
class CloseReason(IntEnum):
    """Why a connection or a request ended."""

    NORMAL = 0
    REFUSED = 1
    RESET = 2
    TIMED_OUT = 3
    ABORTED = 4
    ADDRESS_IN_USE = 5
    NO_RESOURCES = 6
    INVALID_REQUEST = 7
    STACK_GONE = 8
    UNREACHABLE = 9
    UNSUPPORTED = 10
    TOO_LARGE = 11
    NOT_LOCAL = 12


NO_LINGER = 0xFFFFFFFF
SUM_GIVEN = 0x10000
IPV6 = 6
"""`region` of CONNECT, CONNECTED and ACCEPTED where the address is of IPv6. Its four words, the
last one first, are `address`, `offset` (in CONNECT: `connection`), `length` and `spare`."""


class CloseFlag(IntFlag):
    """What an application says when it closes; where it lies it harms its own connection."""

    UNREAD = 1
    """It leaves data unread: the peer is told by RST (RFC 9293 section 3.6.1)."""


@unique
class Family(IntEnum):
    """Addresses that a UDP socket takes."""

    IPV4 = 0
    BOTH = 1
    IPV6 = 6


class OpenFlag(IntFlag):
    """What connections begin with."""

    NODELAY = 1
    KEEPALIVE = 2


@unique
class Option(IntEnum):
    """Options of a connection, and what values they take."""

    NODELAY = 1
    """0 or 1: small segments do not wait (TCP_NODELAY)."""
    KEEPALIVE = 2
    """0 or 1: an idle peer is asked whether it lives (SO_KEEPALIVE)."""
    KEEPALIVE_IDLE = 3
    """Seconds of silence before the first probe, 1 to 32767."""
    KEEPALIVE_INTERVAL = 4
    """Seconds between probes, 1 to 32767."""
    KEEPALIVE_COUNT = 5
    """Probes without answer that end the connection, 1 to 127."""
    USER_TIMEOUT = 6
    """Milliseconds without progress that end the connection; 0: RFC 1122's 100 s (RFC 5482)."""
    QUICKACK = 7
    """1: the next segments are acknowledged at once; 0: ACKs wait for an answer."""
    CONGESTION = 8
    """0: NewReno, 1: CUBIC."""
    HOPS = 9
    """1 to 255: TTL or hop limit of what is sent (IP_TTL, IPV6_UNICAST_HOPS)."""
    TRAFFIC_CLASS = 10
    """0 to 255: TOS or traffic class of what is sent; its two ECN bits stay zero (IP_TOS,
    IPV6_TCLASS)."""


REQUEST = np.dtype(
    [
        ("kind", "<u2"),
        ("port", "<u2"),
        ("socket", "<u4"),
        ("connection", "<u4"),
        ("address", "<u4"),  # IPv4, host byte order
        ("region", "<u2"),
        ("generation", "<u2"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("spare", "<u4"),
    ]
)

EVENT = np.dtype(
    [
        ("kind", "<u2"),
        ("port", "<u2"),
        ("socket", "<u4"),
        ("connection", "<u4"),
        ("address", "<u4"),  # IPv4, host byte order
        ("region", "<u2"),
        ("reason", "<u2"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("spare", "<u4"),
    ]
)

assert REQUEST.itemsize == EVENT.itemsize == 32
