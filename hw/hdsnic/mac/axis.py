"""AXI4-Stream of a MAC to and from `FrameBeat`s.

Receive: the MAC has checked and stripped the FCS and marks a bad frame by `tuser` on its last beat
(R5). Transmit: whole frames without FCS; the MAC pads them to 60 bytes and appends the FCS.
Source: ARM IHI 0051, AMBA AXI-Stream Protocol Specification.
"""

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat

__all__ = ["AXIStream", "FrameFromMAC", "FrameToMAC"]


class AXIStream(wiring.Signature):
    """An AXI4-Stream with `tkeep`, `tlast` and one bit of `tuser`, from the source's side."""

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "tdata": Out(8 * bus_bytes),
                "tkeep": Out(bus_bytes),
                "tvalid": Out(1),
                "tready": In(1),
                "tlast": Out(1),
                "tuser": Out(1),
            }
        )


class FrameFromMAC(wiring.Component):
    """Counts the kept bytes of the last beat. No latency.

    A last beat that keeps no byte counts as one byte and as an error, as does one whose kept bytes
    are not contiguous from byte 0: no frame has such a beat.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "axis": In(AXIStream(bus_bytes)),
                "beats": Out(stream.Signature(FrameBeat(bus_bytes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axis, beat = self.axis, self.beats.payload
        m.d.comb += [
            beat.data.eq(axis.tdata),
            beat.last.eq(axis.tlast),
            beat.count.eq(1),
            beat.error.eq(axis.tlast),
            self.beats.valid.eq(axis.tvalid),
            axis.tready.eq(self.beats.ready),
        ]
        with m.Switch(axis.tkeep):
            for count in range(1, self.bus_bytes + 1):
                with m.Case((1 << count) - 1):
                    m.d.comb += [beat.count.eq(count), beat.error.eq(axis.tlast & axis.tuser)]
        with m.If(~axis.tlast):
            m.d.comb += beat.count.eq(self.bus_bytes)
        return m


class FrameToMAC(wiring.Component):
    """Makes `tkeep` from the count of the last beat. No latency."""

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "beats": In(stream.Signature(FrameBeat(bus_bytes))),
                "axis": Out(AXIStream(bus_bytes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axis, beat = self.axis, self.beats.payload
        all_bytes = (1 << self.bus_bytes) - 1
        m.d.comb += [
            axis.tdata.eq(beat.data),
            axis.tkeep.eq(Mux(beat.last, ~(all_bytes << beat.count), all_bytes)),
            axis.tlast.eq(beat.last),
            axis.tuser.eq(beat.last & beat.error),
            axis.tvalid.eq(self.beats.valid),
            self.beats.ready.eq(axis.tready),
        ]
        return m
