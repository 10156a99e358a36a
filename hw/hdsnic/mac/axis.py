"""AXI4-Stream of a MAC to and from `FrameBeat`s.

Receive: the MAC has checked and stripped the FCS and marks a bad frame by `tuser` on its last beat
(R5). Transmit: whole frames without FCS; the MAC pads them to 60 bytes and appends the FCS.
Source: ARM IHI 0051, AMBA AXI-Stream Protocol Specification.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat
from ..patience import Patience

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
    """Counts the kept bytes of the last beat. No latency, no state: a frame may have any length.

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
    """Makes `tkeep` from the count of the last beat. No latency; a beat a cycle.

    A MAC that takes nothing of an offered beat for `timeout` cycles is `stalled`. From then on
    beats are discarded as they come, so nothing behind waits. The beat on offer stays, as
    AXI4-Stream demands. When the MAC takes it, a frame that had more of them is ended by one byte
    with `tlast` and `tuser`; then `stalled` clears before the next whole frame, which leaves as
    ever. Every frame that did not leave whole has a pulse of `flushed`.

    Ports
    -----
    timeout: cycles; 0: never. stalled: level. flushed: pulse for each frame lost, whole or in part.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "beats": In(stream.Signature(FrameBeat(bus_bytes))),
                "axis": Out(AXIStream(bus_bytes)),
                "timeout": In(32),
                "stalled": Out(1),
                "flushed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axis, beat = self.axis, self.beats.payload
        all_bytes = (1 << self.bus_bytes) - 1
        m.submodules.patience = patience = Patience()
        held = Signal(FrameBeat(self.bus_bytes))  # the beat on offer when the MAC stalled
        offered = Signal.like(held)
        inside = Signal()  # a frame's first beat was taken, its last not
        taken = Signal()
        m.d.comb += [
            taken.eq(self.beats.valid & self.beats.ready),
            patience.timeout.eq(self.timeout),
            patience.waiting.eq(axis.tvalid & ~self.stalled),
            patience.progress.eq(axis.tready),
            offered.eq(beat),
            axis.tdata.eq(offered.data),
            axis.tkeep.eq(Mux(offered.last, ~(all_bytes << offered.count), all_bytes)),
            axis.tlast.eq(offered.last),
            axis.tuser.eq(offered.last & offered.error),
        ]
        with m.If(taken):
            m.d.sync += inside.eq(~beat.last)

        with m.FSM() as fsm:
            with m.State("frames"):
                m.d.comb += [
                    axis.tvalid.eq(self.beats.valid),
                    self.beats.ready.eq(axis.tready | patience.expired),
                ]
                with m.If(patience.expired):
                    m.d.sync += held.eq(beat)
                    m.next = "stalled"
            with m.State("stalled"):
                m.d.comb += [offered.eq(held), axis.tvalid.eq(1), self.beats.ready.eq(1)]
                with m.If(axis.tready):
                    m.next = "rest"
                    with m.If(~held.last):
                        m.d.sync += [held.last.eq(1), held.count.eq(1), held.error.eq(1)]
                        m.next = "stalled"
            with m.State("rest"):  # of the frame that is being discarded
                m.d.comb += self.beats.ready.eq(inside)
                with m.If(~inside | beat.last & taken):
                    m.next = "frames"
        m.d.comb += self.stalled.eq(~fsm.ongoing("frames"))
        with m.If(self.stalled):
            m.d.comb += self.flushed.eq(taken & beat.last)
        return m
