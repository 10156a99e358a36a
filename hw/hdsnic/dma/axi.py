"""AXI4 and AXI4-Lite as `amaranth.lib.wiring` signatures, with ARM's flat names.

Source: ARM IHI 0022, AMBA AXI and ACE Protocol Specification, chapters A2 and B1.
"""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AXI4", "RESPONSE_OKAY", "RESPONSE_SLVERR", "AXI4Lite", "connect_master"]

RESPONSE_OKAY = 0b00
RESPONSE_SLVERR = 0b10


class AXI4(wiring.Signature):
    """A full AXI4 interface, from the master's side."""

    def __init__(self, *, address_bits, bus_bytes, id_bits):
        def address_channel(prefix):
            return {
                f"{prefix}id": Out(id_bits),
                f"{prefix}addr": Out(address_bits),
                f"{prefix}len": Out(8),
                f"{prefix}size": Out(3),
                f"{prefix}burst": Out(2),
                f"{prefix}lock": Out(1),
                f"{prefix}cache": Out(4),
                f"{prefix}prot": Out(3),
                f"{prefix}qos": Out(4),
                f"{prefix}valid": Out(1),
                f"{prefix}ready": In(1),
            }

        super().__init__(
            address_channel("aw")
            | {
                "wdata": Out(8 * bus_bytes),
                "wstrb": Out(bus_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(id_bits),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
            | address_channel("ar")
            | {
                "rid": In(id_bits),
                "rdata": In(8 * bus_bytes),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class AXI4Lite(wiring.Signature):
    """A 32-bit AXI4-Lite interface, from the master's side."""

    def __init__(self, *, address_bits):
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def connect_master(m, axi, write=None, read=None):
    """A WritePort and a ReadPort make an AXI4 master: incrementing bursts of whole beats.

    A side that is None is left idle.
    """
    size = (len(axi.wstrb) - 1).bit_length()
    normal, data_access = 0b0011, 0b010  # cacheable and bufferable; unprivileged, non-secure
    for channel, port in (("aw", write), ("ar", read)):
        if port is None:
            continue

        def wire(name, channel=channel, interface=axi):
            return getattr(interface, channel + name)

        m.d.comb += [
            wire("size").eq(size),
            wire("burst").eq(1),
            wire("cache").eq(normal),
            wire("prot").eq(data_access),
            wire("addr").eq(wire("addr", interface=port)),
            wire("len").eq(wire("len", interface=port)),
            wire("valid").eq(wire("valid", interface=port)),
            wire("ready", interface=port).eq(wire("ready")),
        ]
    if write is not None:
        m.d.comb += [
            axi.wdata.eq(write.wdata),
            axi.wstrb.eq(write.wstrb),
            axi.wlast.eq(write.wlast),
            axi.wvalid.eq(write.wvalid),
            write.wready.eq(axi.wready),
            write.bresp.eq(axi.bresp),
            write.bvalid.eq(axi.bvalid),
            axi.bready.eq(write.bready),
        ]
    if read is not None:
        m.d.comb += [
            axi.arid.eq(read.arid),
            read.rid.eq(axi.rid),
            read.rdata.eq(axi.rdata),
            read.rresp.eq(axi.rresp),
            read.rvalid.eq(axi.rvalid),
            axi.rready.eq(read.rready),
        ]
