"""Transmit: from doorbells of transmit rings to frames for the MAC.

The top of the transmit path; the blocks are wired here, and here is the account of what may be
under way, so that nothing behind the parser ever has to wait for room.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import (
    Doorbell,
    FrameBeat,
    IndexUpdate,
    PostRingStore,
    QueueStore,
    ReadClient,
    RegionLookup,
    Strobe,
    count_bits,
)
from .buffer import FRAMES, FrameBuffer
from .check import ReferenceCheck
from .checksum import Checksum
from .gather import Gather
from .layouts import CELL_BITS, HeaderBeat, Job, Visit, beats_max, queue_bits
from .parser import DescriptorParser
from .scheduler import Scheduler

__all__ = ["Transmit"]

_HEADER_FIFO_BYTES = 4096
"""Inline headers that wait for their turn: 64 beats at 64 bytes, 512 at 8."""


class Transmit(wiring.Component):
    """Serves the transmit rings: fetches descriptors, checks them, gathers frames, adds checksums.

    Queues are served in turn while `transmit` is 1. Every descriptor has one `outcome`, in their
    order; with it `index` publishes the queue's consumer index, since by then all reads of
    the descriptor were answered. A refused descriptor makes no payload access and no frame, and its
    queue goes on, but after OVERRUN and PORT_ERROR: these set the queue's bit of `stopped`, no
    further descriptor of it is begun until its ring is stored anew, and those that had been begun
    before go on to their ends. After OVERRUN, or a port error in the fixed part or the references
    (the length cannot be trusted), the consumer index stays in front of the descriptor.

    With `pause` no descriptor is begun, what was fetched ahead is discarded (and fetched again
    later), and `idle` follows once all reads were answered and all descriptors retired, whatever
    the MAC does: a descriptor is begun only when the frame buffer has room for the largest frame.
    Stores come only while paused and idle. Doorbells may come at any time.

    Throughput: a beat a cycle; a frame of 60 bytes from an 80-byte descriptor takes 10 cycles at 8
    bytes a beat and 2 at 64. Up to 128 descriptors and the frame buffer's size of payload are
    under way, which hides the latency of both ports.

    Parameters: see `Parameters`; all of its bus widths.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        outcome = StructLayout({"queue": queue_bits(p), "outcome": 3})
        super().__init__(
            {
                "transmit": In(1),
                "tx_ring_store": In(Strobe(QueueStore(p))),
                "owner_store": In(Strobe(PostRingStore(p))),
                "tx_producer": In(Strobe(Doorbell(p))),
                "region": Out(RegionLookup(p)),
                "descriptors": Out(ReadClient(p)),
                "payload": Out(ReadClient(p)),
                "mac": Out(stream.Signature(FrameBeat(p.bus_bytes))),
                "index": Out(Strobe(IndexUpdate(p))),
                "outcome": Out(Strobe(outcome)),
                "stopped": Out(p.queues),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
                "pause": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.scheduler = scheduler = Scheduler(p)
        m.submodules.parser = parser = DescriptorParser(p)
        m.submodules.check = check = ReferenceCheck(p)
        m.submodules.gather = gather = Gather(p)
        m.submodules.checksum = checksum = Checksum(p)
        m.submodules.buffer = buffer = FrameBuffer(p)

        def join(name, fifo, source, sink):
            m.submodules[name] = fifo
            m.d.comb += [
                fifo.w_data.eq(source.payload),
                fifo.w_en.eq(source.valid),
                sink.payload.eq(fifo.r_data),
                sink.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(sink.ready),
            ]
            return fifo.w_rdy

        # -- descriptors --
        hold = Signal()
        m.d.comb += [
            hold.eq(self.pause | ~self.transmit),
            scheduler.hold.eq(hold),
            scheduler.abort.eq(parser.abort),
            self.stopped.eq(scheduler.stopped),
            parser.hold.eq(hold),
            parser.stopped.eq(scheduler.stopped),
        ]
        wiring.connect(m, wiring.flipped(self.tx_ring_store), scheduler.store)
        wiring.connect(m, wiring.flipped(self.tx_producer), scheduler.doorbell)
        wiring.connect(m, parser.claim, scheduler.claim)
        wiring.connect(m, parser.finish, scheduler.finish)
        wiring.connect(m, parser.stop, scheduler.stop[0])
        wiring.connect(m, scheduler.request, wiring.flipped(self.descriptors.request))
        wiring.connect(m, wiring.flipped(self.descriptors.beats), parser.beats)
        # A queue has one visit at most; and a close must be seen the cycle after it was made.
        depth = p.queues
        m.d.comb += scheduler.visit.ready.eq(
            join(
                "visits", SyncFIFO(width=Visit(p).size, depth=depth), scheduler.visit, parser.visit
            )
        )
        m.d.comb += scheduler.close.ready.eq(
            join("closes", SyncFIFO(width=CELL_BITS, depth=depth), scheduler.close, parser.close)
        )

        # -- references --
        m.d.comb += [
            self.region.index.eq(check.region.index),
            check.region.row.eq(self.region.row),
            self.payload.request.valid.eq(check.pieces.valid),
            self.payload.request.payload.address.eq(check.pieces.payload.address),
            self.payload.request.payload.length.eq(check.pieces.payload.length),
            check.pieces.ready.eq(self.payload.request.ready),
        ]

        wiring.connect(m, parser.items, check.items)
        wiring.connect(m, wiring.flipped(self.owner_store), check.owner_store)

        # -- frames --
        header_depth = _HEADER_FIFO_BYTES // p.bus_bytes
        m.d.comb += parser.header.ready.eq(
            join(
                "headers",
                SyncFIFOBuffered(width=HeaderBeat(p.bus_bytes).size, depth=header_depth),
                parser.header,
                gather.header,
            )
        )
        join("jobs", SyncFIFOBuffered(width=Job(p).size, depth=FRAMES), check.jobs, gather.jobs)
        wiring.connect(m, wiring.flipped(self.payload.beats), gather.payload)
        m.d.comb += [
            self.frame_done.eq(buffer.frame_done),
            self.frame_bytes.eq(buffer.frame_bytes),
        ]
        wiring.connect(m, gather.beats, checksum.beats, buffer.beats)
        wiring.connect(m, checksum.meta, buffer.meta)
        wiring.connect(m, buffer.mac, wiring.flipped(self.mac))

        # -- retirement --
        retired = gather.retire.payload
        outcome = abi.TxOutcome
        m.d.comb += [
            self.outcome.valid.eq(gather.retire.valid),
            self.outcome.payload.queue.eq(retired.queue),
            self.outcome.payload.outcome.eq(retired.verdict),
            self.index.valid.eq(gather.retire.valid & retired.advance),
            self.index.payload.queue.eq(retired.queue),
            self.index.payload.low.eq(retired.consumer),
            scheduler.consumed.valid.eq(self.index.valid),
            scheduler.consumed.payload.queue.eq(retired.queue),
            scheduler.consumed.payload.index.eq(retired.consumer),
            scheduler.stop[1].valid.eq(
                gather.retire.valid & (retired.verdict == outcome.PORT_ERROR)
            ),
            scheduler.stop[1].payload.eq(retired.queue),
        ]

        # -- the account: beats of the frame buffer, places for frames, descriptors under way --
        beats = p.tx_buffer_bytes // p.bus_bytes
        free = Signal(range(beats + 1), init=beats)
        places = Signal(range(FRAMES + 1), init=FRAMES)
        under_way = Signal(count_bits(FRAMES))
        begun = Signal()
        dropped = Signal()
        lost = Signal(range(beats_max(p) + 1))
        m.d.comb += [
            begun.eq(parser.items.valid & parser.items.payload.finish),
            dropped.eq(gather.retire.valid & (retired.verdict != outcome.SENT)),
            # A descriptor refused by the check has its room back already.
            lost.eq(Mux(dropped & gather.beats.valid, retired.beats, 0)),
            parser.room.eq((free >= beats_max(p)) & (places != 0) & check.room),
        ]
        m.d.sync += [
            free.eq(
                free
                - Mux(parser.reserve.valid, parser.reserve.payload, 0)
                + check.refund
                + lost
                + buffer.left
            ),
            places.eq(places - begun + dropped + buffer.frame_left),
            under_way.eq(under_way + begun - gather.retire.valid),
        ]
        reads = Signal()  # descriptors are being fetched or parsed
        m.d.comb += [
            reads.eq(~scheduler.quiet | ~parser.quiet),
            self.idle.eq(hold & ~reads & (under_way == 0)),
        ]
        return m
