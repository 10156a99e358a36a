"""Commit: makes records visible, in order, once both ports have acknowledged all their writes (I3).

The end of the receive path. Two memory ports give no order between them; each gives one within
itself. So the oldest frame is complete when the header port, and with a payload the payload port
too, has reported its oldest request done. Only then does the receive ring's producer index move.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..abi import RX_RECORDS, PostOutcome, RxOutcome
from ..interfaces import Fault, IndexUpdate, QueueStore, Strobe
from .handles import Element
from .post import CountedPost
from .storage import IndexTable, StreamFifo, queue_bits

__all__ = ["Commit", "CommitEntry", "CountedFrame"]

_FAULTS = 4
"""Voided records that wait to be reported; what is more is counted only."""


class CountedFrame(data.StructLayout):
    """A frame's RxOutcome, and the queue that it was for."""

    def __init__(self, parameters):
        super().__init__({"queue": queue_bits(parameters), "outcome": 5})


class CommitEntry(data.StructLayout):
    """A frame on its way: an outcome from RX_RECORDS on was dropped, and has no writes.

    A chain makes an entry for each buffer, with `more` but in the last.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": queue_bits(parameters),
                "outcome": 5,
                "producer": 32,
                "claimed": 1,
                "more": 1,
                "element": Element(parameters),
            }
        )


class Commit(wiring.Component):
    """One frame (or buffer of a chain) a cycle; `index` two cycles after the last acknowledgement.

    Holds `depth` frames; behind them the placer waits. Drops pass in their turn, so outcomes come
    in the order of frames. All buffers of a chain are finished, each once, when all of its writes
    are acknowledged, and before its record shows.

    A write error voids the record: PORT_ERROR, its queue counts as `failed` until its ring is
    stored anew, its later records are void too (DISABLED), and claimed buffers leave as FLUSHED.
    Nothing after the failed record becomes visible. Where the ring stopped is reported on `faults`,
    unless four reports wait already.

    Ports
    -----
    entries: frames whose requests have been made. ends: for each request on the payload port, 1 if
    it is its frame's last. header_done, header_error, payload_done, payload_error: of the
    `WriteClient`s. finish: an element's buffer is complete. flushed: post outcomes. outcome: one
    for each frame. index: see `Egress`; for queues that are `enabled`.
    index_queue -> consumer, moved: of `PostFetcher`. A move of a queue that is not enabled waits
    until it is. empty: no frame is on its way. settled: no move of
    a queue that is on waits.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        bits = queue_bits(p)
        self.depth = max(16, 2 * p.outstanding)
        super().__init__(
            {
                "entries": In(stream.Signature(CommitEntry(p))),
                "ends": In(stream.Signature(1)),
                "header_done": In(1),
                "header_error": In(1),
                "payload_done": In(1),
                "payload_error": In(1),
                "rx_ring_store": In(Strobe(QueueStore(p))),
                "enabled": In(1 << bits),
                "failed": Out(1 << bits),
                "finish": Out(Strobe(Element(p))),
                "flushed": Out(stream.Signature(CountedPost(p))),
                "outcome": Out(Strobe(CountedFrame(p))),
                "faults": Out(stream.Signature(Fault(p))),
                "moved": In(Strobe(bits)),
                "index_queue": Out(bits),
                "consumer": In(32),
                "index": Out(Strobe(IndexUpdate(p))),
                "empty": Out(1),
                "settled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = queue_bits(p)
        m.submodules.entries = entries = StreamFifo(CommitEntry(p), self.depth, block=True)
        m.submodules.header = header = StreamFifo(1, self.depth)
        m.submodules.payload = payload = StreamFifo(1, self.depth)
        m.submodules.ends = ends = StreamFifo(1, self.depth)
        wiring.connect(m, wiring.flipped(self.ends), ends.input)
        chain_failed = Signal()  # an earlier buffer of this frame met an error
        m.d.comb += [
            entries.input.payload.eq(self.entries.payload),
            entries.input.valid.eq(self.entries.valid),
            self.entries.ready.eq(entries.input.ready),
            # As deep as the entries: there is always room.
            header.input.valid.eq(self.header_done),
            header.input.payload.eq(self.header_error),
            payload.input.valid.eq(self.payload_done & ends.output.payload),
            payload.input.payload.eq(self.payload_error | chain_failed),
            ends.output.ready.eq(self.payload_done),
        ]
        with m.If(self.payload_done):
            m.d.sync += chain_failed.eq(payload.input.payload & ~ends.output.payload)

        entry = entries.output.payload
        written, both = Signal(), Signal()
        acknowledged, error, void, pop = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            written.eq(entry.outcome < RX_RECORDS),
            both.eq(written & entry.claimed),
            acknowledged.eq(
                entries.output.valid
                & (~written | header.output.valid)
                & (~both | payload.output.valid)
            ),
            error.eq((written & header.output.payload) | (both & payload.output.payload)),
            void.eq(written & (error | self.failed.bit_select(entry.queue, 1))),
            self.flushed.valid.eq(acknowledged & void & both),
            self.flushed.payload.queue.eq(entry.queue),
            self.flushed.payload.outcome.eq(PostOutcome.FLUSHED),
            pop.eq(acknowledged & (~(void & both) | self.flushed.ready)),
            entries.output.ready.eq(pop),
            header.output.ready.eq(pop & written & ~entry.more),
            payload.output.ready.eq(pop & both & ~entry.more),
            self.finish.valid.eq(pop & both),
            self.finish.payload.eq(entry.element),
        ]
        m.d.sync += [
            self.outcome.valid.eq(pop & ~entry.more),
            self.outcome.payload.queue.eq(entry.queue),
            self.outcome.payload.outcome.eq(
                Mux(void, Mux(error, RxOutcome.PORT_ERROR, RxOutcome.DISABLED), entry.outcome)
            ),
        ]
        with m.If(pop & error):
            m.d.sync += self.failed.bit_select(entry.queue, 1).eq(1)
        store = self.rx_ring_store
        with m.If(store.valid):
            m.d.sync += self.failed.bit_select(store.payload.queue, 1).eq(0)

        # A record's update carries the post consumer along; what moved without one is found by a
        # scan.
        m.submodules.producer = producer = IndexTable(bits, 2)
        visible = Signal()
        moved = Signal(1 << bits)
        scan = Signal(bits)
        told = Signal(1 << bits)
        update, enabled = Signal(), Signal()
        moved_now = Mux(self.moved.valid, 1 << self.moved.payload, 0)
        m.d.comb += [
            visible.eq(pop & written & ~void & ~entry.more),
            producer.clear.eq(store.valid),
            producer.clear_queue.eq(store.payload.queue),
            producer.write.eq(visible),
            producer.write_queue.eq(entry.queue),
            producer.write_value.eq(entry.producer),
            self.index_queue.eq(Mux(visible, entry.queue, scan)),
            producer.queue[0].eq(self.index_queue),
            update.eq(visible | moved.bit_select(scan, 1)),
            enabled.eq(self.enabled.bit_select(self.index_queue, 1)),
            told.eq((update & enabled) << self.index_queue),
        ]
        # A move in this very cycle shows in `consumer` in the next one, so it outlives `told`.
        m.d.sync += moved.eq((moved & ~told) | moved_now[: 1 << bits])
        with m.If(~visible):
            m.d.sync += scan.eq(scan + 1)
        m.d.sync += [
            self.index.valid.eq(update & enabled),
            self.index.payload.queue.eq(self.index_queue),
            self.index.payload.low.eq(Mux(visible, entry.producer, producer.value[0])),
            self.index.payload.high.eq(self.consumer),
        ]
        m.d.comb += [
            self.empty.eq(entries.empty & ~self.outcome.valid),
            self.settled.eq(~(moved & self.enabled).any() & ~self.index.valid),
        ]

        m.submodules.faults = faults = StreamFifo(Fault(p), _FAULTS)
        wiring.connect(m, faults.output, wiring.flipped(self.faults))
        m.d.comb += [
            producer.queue[1].eq(entry.queue),
            faults.input.valid.eq(pop & error & ~entry.more),
            faults.input.payload.queue.eq(entry.queue),
            faults.input.payload.index.eq(producer.value[1]),
            faults.input.payload.status.eq(RxOutcome.PORT_ERROR),
        ]
        return m
