"""Whose a local port is: for what reaches the stack past the steering rules."""

import numpy as np

from ..compile import entry
from ..tcp.open import find_listener
from ..tcp.routes import is_local
from ..tcp.tables import NONE, QUEUES
from ..udp.rows import port_owner
from .ipv4 import TCP, UDP


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
