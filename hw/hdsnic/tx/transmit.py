"""Transmit: from doorbells of transmit rings to frames for the MAC.

The top of the transmit path; the blocks are wired here, and here is the account of what may be
under way, so that a pause ends.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import (
    Doorbell,
    Fault,
    FrameBeat,
    IndexUpdate,
    PostRingStore,
    QueueStore,
    ReadClient,
    RegionLookup,
    Strobe,
    TxShareStore,
    count_bits,
)
from .buffer import FrameBuffer
from .check import ReferenceCheck
from .checksum import Checksum
from .gather import Gather
from .layouts import PAYLOAD_BITS, Close, HeaderBeat, Job, Visit, queue_bits
from .parser import DescriptorParser
from .scheduler import Scheduler
from .segment import SegmentEdit
from .shares import Shares
from .tag import TagInsert

__all__ = ["Transmit"]

_JOBS = 256
"""Descriptors under way: at 2 cycles each, 200 cycles of latency and the pipeline take 120."""

_HEADER_BEATS_MIN, _HEADER_BYTES_MIN = 256, 4096
"""Inline headers that wait for their turn: a beat of each job, and 40 of 54 bytes at 8 bytes."""

_FAULTS = 16
"""Faults that wait to be taken."""

_PATIENCE = 1024
"""Cycles without a beat to the MAC after which a pause is not kept waiting for it any longer."""


class Transmit(wiring.Component):
    """Serves the transmit rings: fetches descriptors, checks them, gathers frames, adds checksums.

    Queues are served while `transmit` is 1, by deficit round robin over bytes and within their rate
    limits (`share_store`, see Shares). Every descriptor has one `outcome`, in their order; with it
    `index` publishes the queue's consumer index, since by then all reads of the descriptor were
    answered. One with `tso` is cut into segments, one with `vlan` gets a tag; both leave as frames.

    A refused descriptor makes no payload access and no frame, and its queue goes on, but after
    OVERRUN and PORT_ERROR, and where `stop_on_refusal` has the queue's bit set: these set the
    queue's bit of `stopped`, no further descriptor of it is begun until its ring is stored anew,
    and those that had been begun before go on to their ends. After OVERRUN, or a port error in the
    fixed part, the tag or the references (the length cannot be trusted), the consumer index stays
    in front of the descriptor. `tx_fault` tells each outcome but SENT with the descriptor's cell;
    16 wait, further ones are lost.

    A frame is begun only when the frame buffer has room for the largest one, so a MAC that stalls
    holds up what was begun behind it. With `pause` no descriptor is begun, what was fetched ahead
    is discarded (and fetched again later), and `idle` follows once all reads were answered and all
    descriptors retired: the payload under way is at most a descriptor and the frame buffer's size.
    While `mac_stalled` is 1, and during a pause from the time on when a frame lacked room and the
    MAC took nothing for 1,024 cycles, to its next beat, frames are dropped instead of sent; each
    gives a `frame_discarded`. One that was cut ends with a beat marked as an error.

    Stores of rings come only while paused and idle. Doorbells and shares may come at any time.

    Throughput: a beat a cycle; a frame of 60 bytes from an 80-byte descriptor takes 10 cycles at 8
    bytes a beat and 2 at 64, whether its payload stands in the descriptor or in one reference. Up
    to 256 descriptors, while less than the frame buffer's size of payload is under way, hide 200
    cycles of latency of both ports.

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
                "share_store": In(Strobe(TxShareStore(p))),
                "stop_on_refusal": In(p.queues),
                "region": Out(RegionLookup(p)),
                "descriptors": Out(ReadClient(p)),
                "payload": Out(ReadClient(p)),
                "mac": Out(stream.Signature(FrameBeat(p.bus_bytes))),
                "mac_stalled": In(1),
                "index": Out(Strobe(IndexUpdate(p))),
                "outcome": Out(Strobe(outcome)),
                "tx_fault": Out(stream.Signature(Fault(p))),
                "stopped": Out(p.queues),
                "frame_done": Out(1),
                "frame_bytes": Out(16),
                "frame_discarded": Out(1),
                "pause": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.scheduler = scheduler = Scheduler(p)
        m.submodules.shares = shares = Shares(p)
        m.submodules.parser = parser = DescriptorParser(p)
        m.submodules.tag = tag = TagInsert(p)
        m.submodules.check = check = ReferenceCheck(p)
        m.submodules.gather = gather = Gather(p)
        m.submodules.segment = segment = SegmentEdit(p)
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
            scheduler.ready.eq(shares.ready),
            scheduler.nearly.eq(shares.nearly),
            shares.active.eq(scheduler.active),
            shares.queue.eq(parser.visit.payload.queue),
            self.stopped.eq(scheduler.stopped),
            parser.hold.eq(hold),
            parser.leave.eq(shares.spent),
            parser.available.eq(scheduler.available),
            parser.stopped.eq(scheduler.stopped),
        ]
        wiring.connect(m, wiring.flipped(self.tx_ring_store), scheduler.store)
        wiring.connect(m, wiring.flipped(self.tx_producer), scheduler.doorbell)
        wiring.connect(m, wiring.flipped(self.share_store), shares.store)
        wiring.connect(m, parser.begun, shares.begun)
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
            join("closes", SyncFIFO(width=Close().size, depth=depth), scheduler.close, parser.close)
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
        wiring.connect(m, parser.header, tag.header)
        header_depth = max(_HEADER_BEATS_MIN, _HEADER_BYTES_MIN // p.bus_bytes)
        m.d.comb += tag.tagged.ready.eq(
            join(
                "headers",
                SyncFIFOBuffered(width=HeaderBeat(p.bus_bytes).size, depth=header_depth),
                tag.tagged,
                gather.header,
            )
        )
        join("jobs", SyncFIFOBuffered(width=Job(p).size, depth=_JOBS), check.jobs, gather.jobs)
        wiring.connect(m, wiring.flipped(self.payload.beats), gather.payload)
        m.d.comb += [
            gather.room.eq(buffer.room),
            self.frame_done.eq(buffer.frame_done),
            self.frame_bytes.eq(buffer.frame_bytes),
            self.frame_discarded.eq(buffer.frame_discarded),
        ]
        wiring.connect(m, gather.beats, segment.beats)
        wiring.connect(m, segment.edited, checksum.beats, buffer.beats)
        wiring.connect(m, checksum.meta, buffer.meta)
        wiring.connect(m, buffer.mac, wiring.flipped(self.mac))

        # -- a pause does not wait for a MAC that takes nothing --
        waited = Signal(range(_PATIENCE + 1))
        moved = Signal()
        m.d.comb += [
            moved.eq(self.mac.valid & self.mac.ready),
            buffer.discard.eq(self.mac_stalled | (waited == _PATIENCE)),
        ]
        with m.If(~hold | moved):
            m.d.sync += waited.eq(0)
        with m.Elif((waited != _PATIENCE) & (gather.starved | (waited != 0))):
            m.d.sync += waited.eq(waited + 1)

        # -- retirement --
        retired = gather.retire.payload
        outcome = abi.TxOutcome
        failed = Signal()
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
            failed.eq(gather.retire.valid & (retired.verdict != outcome.SENT)),
            scheduler.stop[1].valid.eq(
                failed
                & (
                    (retired.verdict == outcome.PORT_ERROR)
                    | self.stop_on_refusal.bit_select(retired.queue, 1)
                )
            ),
            scheduler.stop[1].payload.eq(retired.queue),
        ]
        m.submodules.faults = faults = SyncFIFOBuffered(width=Fault(p).size, depth=_FAULTS)
        fault = Signal(Fault(p))
        m.d.comb += [
            fault.queue.eq(retired.queue),
            fault.index.eq(retired.position),
            fault.status.eq(retired.verdict),
            faults.w_data.eq(fault),
            faults.w_en.eq(failed),
            self.tx_fault.payload.eq(faults.r_data),
            self.tx_fault.valid.eq(faults.r_rdy),
            faults.r_en.eq(self.tx_fault.ready),
        ]

        # -- the account: descriptors under way, and payload that is to be gathered for them --
        begun = Signal()  # a descriptor's last item
        under_way = Signal(count_bits(_JOBS))
        under_way_bytes = Signal(PAYLOAD_BITS + 1)
        m.d.comb += [
            begun.eq(parser.items.valid & parser.items.payload.finish),
            parser.room.eq(
                (under_way < _JOBS) & (under_way_bytes < p.tx_buffer_bytes) & check.room
            ),
        ]
        m.d.sync += [
            under_way.eq(under_way + begun - gather.retire.valid),
            under_way_bytes.eq(
                under_way_bytes
                + Mux(parser.begun.valid, parser.items.payload.job.payload_length, 0)
                - gather.done_bytes
            ),
        ]
        reads = Signal()  # descriptors are being fetched or parsed
        m.d.comb += [
            reads.eq(~scheduler.quiet | ~parser.quiet),
            self.idle.eq(hold & ~reads & (under_way == 0)),
        ]
        return m
