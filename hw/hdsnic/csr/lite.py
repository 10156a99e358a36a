"""AXI4-Lite to one register access at a time."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..dma.axi import RESPONSE_SLVERR, AXI4Lite

__all__ = ["LiteSlave", "RegisterAccess"]


class RegisterAccess(wiring.Signature):
    """A register access, from the side that asks: `start` with address and data for a cycle; the
    answer comes in the cycle with `done` (any later one): `read_data`, and `refused`."""

    def __init__(self, address_bits):
        super().__init__(
            {
                "start": Out(1),
                "is_write": Out(1),
                "address": Out(address_bits),
                "write_data": Out(32),
                "done": In(1),
                "read_data": In(32),
                "refused": In(1),
            }
        )


class LiteSlave(wiring.Component):
    """Takes AXI4-Lite reads and writes in turn; refused accesses and partial words answer SLVERR.

    About four cycles an access. Reads and writes that wait together take turns, so neither starves.
    """

    def __init__(self, address_bits):
        super().__init__(
            {
                "axil": In(AXI4Lite(address_bits=address_bits)),
                "access": Out(RegisterAccess(address_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axil, access = self.axil, self.access
        writes_next = Signal()
        partial = Signal()
        with m.FSM():
            with m.State("idle"):
                write_waits = axil.awvalid & axil.wvalid
                with m.If(write_waits & (writes_next | ~axil.arvalid)):
                    m.d.comb += [axil.awready.eq(1), axil.wready.eq(1)]
                    m.d.sync += [
                        access.is_write.eq(1),
                        access.address.eq(axil.awaddr),
                        access.write_data.eq(axil.wdata),
                        access.start.eq(axil.wstrb == 0xF),
                        partial.eq(axil.wstrb != 0xF),
                        writes_next.eq(0),
                    ]
                    m.next = "write"
                with m.Elif(axil.arvalid):
                    m.d.comb += axil.arready.eq(1)
                    m.d.sync += [
                        access.is_write.eq(0),
                        access.address.eq(axil.araddr),
                        access.start.eq(1),
                        writes_next.eq(1),
                    ]
                    m.next = "read"
            with m.State("write"):
                m.d.sync += access.start.eq(0)
                with m.If(access.done | partial):
                    m.d.sync += [
                        axil.bvalid.eq(1),
                        axil.bresp.eq(0),
                        partial.eq(0),
                    ]
                    with m.If(partial | access.refused):
                        m.d.sync += axil.bresp.eq(RESPONSE_SLVERR)
                    m.next = "write answer"
            with m.State("write answer"), m.If(axil.bready):
                m.d.sync += axil.bvalid.eq(0)
                m.next = "idle"
            with m.State("read"):
                m.d.sync += access.start.eq(0)
                with m.If(access.done):
                    m.d.sync += [
                        axil.rvalid.eq(1),
                        axil.rdata.eq(access.read_data),
                        axil.rresp.eq(0),
                    ]
                    with m.If(access.refused):
                        m.d.sync += axil.rresp.eq(RESPONSE_SLVERR)
                    m.next = "read answer"
            with m.State("read answer"), m.If(axil.rready):
                m.d.sync += axil.rvalid.eq(0)
                m.next = "idle"
        return m
