"""Whose a packet or a local port is: for what reaches the stack past the steering rules."""

import numpy as np

from ..compile import entry, part
from ..tcp import cookies
from ..tcp.open import find_listener
from ..tcp.routes import is_local
from ..tcp.rows import find_connection
from ..tcp.tables import NONE, QUEUES
from ..udp.rows import find_endpoint, port_owner
from .ipv4 import TCP, UDP

__all__ = ["owner", "owner_of"]


@part
def owner_of(s, protocol, now):
    """Queue of the application whose is the packet of `protocol` with the ends in `s["parsed"]`;
    -1 where it is nobody's.

    TCP: that of the connection, or of the listener whose SYN cookie comes back. UDP: of the socket.
    """
    if protocol == UDP:
        at = find_endpoint(s)
        return s["endpoints"][at]["queue"] if at >= 0 else NONE
    index = find_connection(s)
    if index >= 0:
        return s["connections"][index]["queue"]
    return cookies.awaited(s, now)


@entry
def owner(s, protocol, local_high, local_address, local_port):
    """Queue of the application that owns a port of `protocol` (TCP or UDP) at an address of ours;
    -1: nobody. Ephemeral ports of TCP are their application's, whether in use or not."""
    if not is_local(s, local_high, local_address):
        return np.int64(NONE)
    if protocol == UDP:
        return port_owner(s, local_port)
    if protocol != TCP:
        return np.int64(NONE)
    at = find_listener(s, local_port)
    if at >= 0:
        return s["listeners"][at]["queue"]
    for queue in range(QUEUES):
        q = s["queues"][queue]
        if q["live"] and q["port_first"] <= local_port and local_port <= q["port_last"]:
            return np.int64(queue)
    return np.int64(NONE)
