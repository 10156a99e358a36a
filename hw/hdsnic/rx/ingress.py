"""Ingress: from the MAC to verified, steered frames in the frame buffer.

The first half of the receive path: parser, verification, steering, frame buffer. `egress` takes
the frames and their beats from here. The wire never waits: what has no place is dropped, counted.
"""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import (
    AddressStore,
    ExactStore,
    FrameBeat,
    ListenerStore,
    RssKeyStore,
    RssTableStore,
    SteeredFrame,
    Strobe,
)
from .admit import Admission
from .buffer import Announcer, FrameBuffer
from .delay import DelayLine
from .parse import PARSER_CYCLES, Parser
from .steer import Steer
from .verify import VERDICT_CYCLES, Verify

__all__ = ["LOOKUP_CYCLES", "Ingress"]

LOOKUP_CYCLES = Parser.ADDRESSES_AHEAD + VERDICT_CYCLES + 1
"""From a store to the first pulse of `looked_up` whose frame surely sees what was stored."""


class Ingress(wiring.Component):
    """Receives frames; announces each good one with all that was decided about it.

    Every frame from the MAC is either announced on `frames` or reported on `outcome`, once.

    Latency from the last beat at `mac`: 16 cycles to `frames`, 17 to the first of `beats`, at every
    width. Throughput: a beat a cycle, frames back to back, at the input and at the output. With
    `frames` or `beats` not taken the frame buffer fills; then frames are dropped as OVERFLOW, and
    those in the buffer stay whole. Above `watermark`, frames for a queue that holds more than
    `share` are announced as FAIR_SHARE with their last beat only, so that passing them over takes
    a cycle; with the buffer seven eighths full, or a quarter of its frames of that kind, they are
    dropped here, as FAIR_SHARE, too (I7).

    Interface attributes
    --------------------
    mac: frames from the MAC; `ready` is always 1.
    receive: 0 drops every frame as DISABLED. deliver_malformed: frames that are dropped for what
    they hold go whole to queue 0 as MALFORMED, their RxOutcome in `tag` (R13). Both are sampled as
    a frame's verdict is made.
    promiscuous, mac_address: of the destination-MAC filter; first byte in bits 7:0.
    udp_split: a bit for each queue: UDP is split for it; else it goes whole to queue 0.
    cycles: the clock of SteeredFrame's `time_stamp`.
    watermark, share: in 64 bytes of the frame buffer; a watermark of 0 switches fairness off.
    address_store, listener_store, exact_store, rss_key_store, rss_table_store: writes into the
    tables of `steer`; a frame sees each before or after a store, whole. Stores of exact rules are
    lost while `exact_busy`, behind a reset.
    frames, beats: frames that are kept, in order, and their beats.
    looked_up: pulse for each frame of `frames`. A frame whose pulse comes LOOKUP_CYCLES or more
    after a store sees what was stored.
    outcome: RxOutcome of a frame dropped here.
    frame_done, frame_bytes: pulse and length (up to 65,535) for each frame from the MAC.
    """

    def __init__(self, parameters):
        self.p = parameters
        p = parameters
        super().__init__(
            {
                "mac": In(stream.Signature(FrameBeat(p.bus_bytes))),
                "receive": In(1),
                "promiscuous": In(1),
                "mac_address": In(48),
                "deliver_malformed": In(1),
                "udp_split": In(p.queues),
                "cycles": In(64),
                "watermark": In(16),
                "share": In(16),
                "address_store": In(Strobe(AddressStore(p))),
                "listener_store": In(Strobe(ListenerStore(p))),
                "exact_store": In(Strobe(ExactStore(p))),
                "rss_key_store": In(Strobe(RssKeyStore(p))),
                "rss_table_store": In(Strobe(RssTableStore(p))),
                "exact_busy": Out(1),
                "frames": Out(stream.Signature(SteeredFrame(p))),
                "beats": Out(stream.Signature(FrameBeat(p.bus_bytes))),
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
        m.submodules.steer = steer = Steer(p)
        m.submodules.buffer = buffer = FrameBuffer(p)
        m.submodules.admission = admission = Admission(p)
        m.submodules.announcer = announcer = Announcer(p)
        m.submodules.stamps = stamps = DelayLine(64, PARSER_CYCLES + VERDICT_CYCLES - 1)
        connect, flipped = wiring.connect, wiring.flipped
        connect(m, flipped(self.mac), parser.mac)
        connect(m, parser.o, verify.i)
        connect(m, parser.addresses, steer.addresses)
        connect(m, parser.ports, steer.ports)
        connect(m, verify.candidate, steer.candidate)
        connect(m, steer.o, verify.steered)
        connect(m, verify.o, buffer.i)
        connect(m, buffer.beats, flipped(self.beats))
        connect(m, announcer.o, flipped(self.frames))
        for name in ("address", "listener", "exact", "rss_key", "rss_table"):
            connect(m, flipped(getattr(self, f"{name}_store")), getattr(steer, f"{name}_store"))

        m.d.comb += [
            parser.mac_address.eq(self.mac_address),
            parser.promiscuous.eq(self.promiscuous),
            verify.receive.eq(self.receive),
            verify.deliver_malformed.eq(self.deliver_malformed),
            self.exact_busy.eq(steer.exact_busy),
            self.frame_done.eq(parser.frame_done),
            self.frame_bytes.eq(parser.frame_bytes),
            stamps.i.valid.eq(self.mac.valid & self.mac.payload.last),
            stamps.i.payload.eq(self.cycles),
            steer.time_stamp.eq(stamps.o.payload),
            admission.udp_split.eq(self.udp_split),
            admission.watermark.eq(self.watermark),
            admission.share.eq(self.share),
            admission.verified.eq(verify.o.payload),
            admission.used.eq(buffer.used),
            admission.kept.eq(buffer.kept),
            admission.rows.eq(buffer.rows),
            admission.left.eq(buffer.left),
            buffer.over.eq(admission.over),
            buffer.announced.eq(self.frames.valid & self.frames.ready),
            buffer.passed.eq(self.frames.payload.reason == abi.RxOutcome.FAIR_SHARE),
            announcer.i.valid.eq(buffer.kept),
            announcer.i.payload.eq(admission.frame),
            self.looked_up.eq(buffer.kept),
        ]

        verdict = verify.o.payload
        dropped = verify.o.valid & verdict.last & ~verdict.keep
        m.d.sync += self.outcome.valid.eq(dropped | buffer.overflow | buffer.refused)
        with m.If(dropped):
            m.d.sync += self.outcome.payload.eq(verdict.frame.reason)
        with m.Elif(buffer.overflow):
            m.d.sync += self.outcome.payload.eq(abi.RxOutcome.OVERFLOW)
        with m.Elif(buffer.refused):
            m.d.sync += self.outcome.payload.eq(abi.RxOutcome.FAIR_SHARE)
        return m
