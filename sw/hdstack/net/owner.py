"""Which application a packet is for, by the same rules as the card's."""

from ..compile import part
from ..tcp import cookies
from ..tcp.rows import find_connection
from ..tcp.tables import NONE
from . import ipv4

__all__ = ["owner_of"]


@part
def owner_of(s, protocol, now):
    """Queue of the application whose is the packet of `protocol` with the ends in `s["parsed"]`;
    -1 where it is nobody's.

    TCP: that of the connection, or of the listener whose SYN cookie comes back.
    """
    if protocol != ipv4.TCP:
        return NONE
    index = find_connection(s)
    if index >= 0:
        return s["connections"][index]["queue"]
    return cookies.awaited(s, now)
