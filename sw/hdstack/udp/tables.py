"""Rows of UDP: sockets, datagrams on their way out, and what each application has of both.

They are part of the one structured row `s` (`hdstack.tcp.tables`), divided by queue. A socket is
called endpoint here, since `socket` is the application's own number for it.
"""

import numpy as np

__all__ = ["DATAGRAM", "ENDPOINT", "UDP_QUEUE"]

ENDPOINTS_PER_QUEUE = 16
DATAGRAMS_PER_QUEUE = 256
"""Datagrams of an application that are on their way out."""
WAITING_PER_QUEUE = 16
"""Of these, that wait for the MAC address of a neighbour; the oldest makes room."""
HELD_PER_ENDPOINT = 96
HELD_PER_QUEUE = 192
"""Buffers that a socket, and all of an application, may hold (a datagram of no bytes counts as
one); an application never more than half of the buffers that it can post."""
ENDPOINT_BITS = 16

FREE = 0
PENDING = 1
"""The steering rule is not yet in the device; answered by `core.endpoint_ready`."""
BOUND = 2
CLOSING = 3
"""The port is free again; the row waits for its datagrams."""

IPV4_MOST = 65535 - 20 - 8
IPV6_MOST = 65535 - 8
"""Largest payload of a datagram."""


def _integers(text):
    return [(name, "<i8") for name in text.split()]


ENDPOINT = np.dtype(
    _integers(
        "state reuse queue socket family local_high local_address local_port connected silent"
        " remote_high remote_address remote_port to_high to_address to_port held sends may_fail"
    )
)
"""`family`: events.Family. `local_*` 0: any. `silent`: nothing is delivered before PEER.
`may_fail`: something was sent since the last error was told."""
DATAGRAM = np.dtype(
    _integers(
        "endpoint cookie region generation offset length checksum high address local_port"
        " remote_high remote_address remote_port hop_high hop mac tries deadline reason"
        " most identification sent untaken last_tx next"
    )
)
"""`most`: bytes of its IP payload in a fragment, 0: it leaves in one piece. `sent`: how many of
them are handed out. `untaken`, `last_tx`: as of a send of TCP (R24)."""
UDP_QUEUE = np.dtype(
    _integers(
        "free_datagram endpoints held port_next waiting waiting_head waiting_tail"
        " pending_head pending_tail flight_head flight_tail"
    )
)
"""Lists of datagrams: `waiting` for a neighbour, `pending` for room, in `flight` until they are
sent or given up, and told."""
