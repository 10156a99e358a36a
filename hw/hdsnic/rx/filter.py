"""Destination-MAC filter: which frames on the wire are for this card at all.

Runs beside the L2 stage of the parser; `verify` drops what it does not pass.
"""

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MacFilter", "MacMatch"]

MAC_BYTES = 6


class MacMatch(data.StructLayout):
    """Result for a frame: `equal` has a bit for each halfword of the own address that matched.

    `open` is 1 for group addresses (broadcast, multicast), and for every frame in promiscuous mode.
    """

    def __init__(self):
        super().__init__({"equal": MAC_BYTES // 2, "open": 1})


class MacFilter(wiring.Component):
    """Compares the destination address with the card's, a halfword at a time.

    Latency one cycle; a frame a cycle; no back-pressure. `match` is right until the next frame.

    Interface attributes
    --------------------
    valid, data: the first beat of a frame; all six bytes are in it at any width.
    mac_address: first byte in bits 7:0.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "valid": In(1),
                "data": In(8 * bus_bytes),
                "mac_address": In(48),
                "promiscuous": In(1),
                "match": Out(MacMatch()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        with m.If(self.valid):
            for n in range(MAC_BYTES // 2):
                bits = slice(16 * n, 16 * n + 16)
                m.d.sync += self.match.equal[n].eq(self.data[bits] == self.mac_address[bits])
            # IEEE 802.3: the lowest bit of the first byte marks a group address
            m.d.sync += self.match.open.eq(self.data[0] | self.promiscuous)
        return m
