"""Those who wait for the MAC address of a neighbour: connections of TCP, datagrams of UDP."""

from ..compile import part
from ..tcp import open as tcp
from ..udp import output as udp


@part
def neighbour_known(s, high, address, mac, now):
    """A neighbour told its MAC address: whoever waits for it goes on."""
    tcp.neighbour_known(s, high, address, mac, now)
    udp.neighbour_known(s, high, address, mac)
