"""Ingress: from the MAC to verified, steered frames in the frame buffer.

The first half of the receive path: parser, verification, frame buffer, steering. `egress` takes
the frames and their beats from here. The wire never waits: what has no place is dropped, counted.
"""

from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import AddressStore, FrameBeat, ListenerStore, SteeredFrame, Strobe
from .buffer import FrameBuffer, buffer_frames
from .parse import Parser
from .steer import Steer
from .verify import Verify

__all__ = ["Ingress"]


class Ingress(wiring.Component):
    """Receives frames; announces each good one with all that was decided about it.

    Every frame from the MAC is either announced on `frames` or reported on `outcome`, once.

    Latency from the last beat at `mac`: 16 cycles at 8 bytes, 18 at 64, to the first of `beats`;
    22 and 24 to `frames`. Throughput: a beat a cycle, frames back to back, at the input and at the
    output. With `frames` or `beats` not taken the frame buffer fills; then frames are dropped as
    OVERFLOW, and those in the buffer stay whole.

    Interface attributes
    --------------------
    mac: frames from the MAC; `ready` is always 1.
    receive: 0 drops every frame as DISABLED; sampled as a frame's verdict is made.
    promiscuous, mac_address: of the destination-MAC filter; first byte in bits 7:0.
    address_store, listener_store: writes into the tables of `steer`.
    frames, beats: frames that are kept, in order, and their beats.
    looked_up: pulse for each frame of `frames`, not later than the tables are read for it: a frame
    whose pulse comes after a store sees what was stored.
    outcome: RxOutcome of a frame dropped here.
    frame_done, frame_bytes: pulse and length (up to 65,535) for each frame from the MAC.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "mac": In(stream.Signature(FrameBeat(parameters.bus_bytes))),
                "receive": In(1),
                "promiscuous": In(1),
                "mac_address": In(48),
                "address_store": In(Strobe(AddressStore(parameters))),
                "listener_store": In(Strobe(ListenerStore(parameters))),
                "frames": Out(stream.Signature(SteeredFrame(parameters))),
                "beats": Out(stream.Signature(FrameBeat(parameters.bus_bytes))),
                "looked_up": Out(1),
                "outcome": Out(Strobe(5)),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        m.submodules.parser = parser = Parser(p.bus_bytes)
        m.submodules.verify = verify = Verify(p)
        m.submodules.buffer = buffer = FrameBuffer(p)
        m.submodules.steer = steer = Steer(p)
        wiring.connect(m, wiring.flipped(self.mac), parser.mac)
        wiring.connect(m, parser.o, verify.i)
        wiring.connect(m, verify.o, buffer.i)
        wiring.connect(m, buffer.beats, wiring.flipped(self.beats))
        wiring.connect(m, wiring.flipped(self.address_store), steer.address_store)
        wiring.connect(m, wiring.flipped(self.listener_store), steer.listener_store)

        # One place more than frames that the buffer lets in: it is always writable.
        layout = SteeredFrame(p)
        m.submodules.announced = announced = fifo.SyncFIFOBuffered(
            width=layout.size, depth=buffer_frames(p) + 1
        )
        m.d.comb += [
            parser.mac_address.eq(self.mac_address),
            parser.promiscuous.eq(self.promiscuous),
            verify.receive.eq(self.receive),
            self.frame_done.eq(parser.frame_done),
            self.frame_bytes.eq(parser.frame_bytes),
            steer.i.valid.eq(buffer.kept),
            steer.i.payload.eq(verify.o.payload.frame),
            self.looked_up.eq(buffer.kept),
            announced.w_en.eq(steer.o.valid),
            announced.w_data.eq(steer.o.payload),
            self.frames.valid.eq(announced.r_rdy),
            self.frames.payload.eq(announced.r_data),
            announced.r_en.eq(self.frames.ready),
            buffer.announced.eq(self.frames.valid & self.frames.ready),
        ]

        verdict = verify.o.payload
        dropped = verify.o.valid & verdict.last & ~verdict.keep
        m.d.sync += self.outcome.valid.eq(dropped | buffer.overflow)
        with m.If(dropped):
            m.d.sync += self.outcome.payload.eq(verdict.frame.reason)
        with m.Elif(buffer.overflow):
            m.d.sync += self.outcome.payload.eq(abi.RxOutcome.OVERFLOW)
        return m
