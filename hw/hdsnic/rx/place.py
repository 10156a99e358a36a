"""Placer: decides for each frame where its header and its payload go, or why it is dropped.

Between the steered frames of the ingress and the splitter. Here, and nowhere else, a receive ring's
space is reserved and a posted buffer is claimed. Space comes first (R12), so a claimed buffer
always has a record; and the claim looks at the region again, since between prefetch and claim it
may have been revoked (I2).
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, RECORD, RX_RECORDS, RxOutcome
from ..interfaces import Doorbell, QueueStore, RegionLookup, SteeredFrame, Strobe
from .handles import Handle, QueuedHandle
from .storage import IndexTable, queue_bits

__all__ = ["PlacedFrame", "Placer"]

_RING_LOG2_MAX = 22
_CELL_LOG2 = CELL_BYTES.bit_length() - 1
_CELLS_BITS = _RING_LOG2_MAX - _CELL_LOG2 + 1

assert RECORD.bytes % CELL_BYTES == 0


class PlacedFrame(data.StructLayout):
    """A frame and what was decided.

    `outcome` is an RxOutcome; from RX_RECORDS on the frame is dropped and the rest has no meaning.
    `record` is the bus address of the record, `producer` the receive ring's index after it. With
    `claimed`, the payload goes to `handle`, an element of 1 << `log2_element_bytes` bytes of the
    region at `region_base`. `left`: buffers that the queue has left, at most 255.
    """

    def __init__(self, parameters):
        p = parameters
        super().__init__(
            {
                "frame": SteeredFrame(p),
                "outcome": 5,
                "claimed": 1,
                "record": p.address_bits,
                "wrap_log2": 5,
                "producer": 32,
                "handle": Handle(p),
                "region_base": p.address_bits,
                "log2_element_bytes": 4,
                "left": 8,
            }
        )


class Placer(wiring.Component):
    """A frame takes 2 cycles, with a claim 3, and 3 more for each stale handle that it meets.

    Decisions come out one cycle later; the next frame is begun while they wait. With `pause` or
    `hold` no frame is begun.

    Drops, in this order: DISABLED (no ring, or `failed`), NO_RING_SPACE, NO_BUFFER (or BAD_REGION,
    if there were only stale handles), PAYLOAD_TOO_LARGE (the buffer stays ready). A stale handle
    leaves by `discard`; of live region, generation, owner and permission all must be as at the
    post.

    A consumer doorbell beyond what was written is ignored.

    Ports
    -----
    frames, rx_ring_store, rx_consumer, claim_region, pause: see `Egress`. failed: queues that met a
    write error. queue, handle, ready, held, pop: of `HandleQueues`. owner, unread: of the same
    queue, from `PostFetcher`. enabled: queues with a ring. quiet: between two frames and nothing on
    `placed`.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        bits = queue_bits(p)
        count = range(p.post_prefetch + 1)
        super().__init__(
            {
                "frames": In(stream.Signature(SteeredFrame(p))),
                "placed": Out(stream.Signature(PlacedFrame(p))),
                "rx_ring_store": In(Strobe(QueueStore(p))),
                "rx_consumer": In(Strobe(Doorbell(p))),
                "claim_region": Out(RegionLookup(p)),
                "pause": In(1),
                "hold": In(1),
                "failed": In(1 << bits),
                "enabled": Out(1 << bits),
                "queue": Out(bits),
                "handle": In(Handle(p)),
                "ready": In(count),
                "held": In(count),
                "pop": Out(1),
                "owner": In(8),
                "unread": In(8),
                "discard": Out(stream.Signature(QueuedHandle(p))),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = queue_bits(p)
        queues = 1 << bits

        ring_shape = data.StructLayout({"base": p.address_bits, "log2_bytes": 5})
        m.submodules.rings = rings = Memory(shape=ring_shape, depth=queues, init=[])
        m.submodules.reserved = reserved = IndexTable(bits, 2)  # by frame, doorbell
        m.submodules.consumer = consumer = IndexTable(bits, 2)  # by frame, doorbell
        store = self.rx_ring_store
        ring_write, ring = rings.write_port(), rings.read_port(domain="comb")
        m.d.comb += [
            ring_write.en.eq(store.valid),
            ring_write.addr.eq(store.payload.queue),
            ring_write.data.base.eq(store.payload.base),
            ring_write.data.log2_bytes.eq(store.payload.log2_bytes),
        ]
        for table in (reserved, consumer):
            m.d.comb += [table.clear.eq(store.valid), table.clear_queue.eq(store.payload.queue)]
        with m.If(store.valid):
            m.d.sync += self.enabled.bit_select(store.payload.queue, 1).eq(store.payload.enable)

        # Consumer doorbells: forward, and no further than what was reserved.
        rung = Signal()
        bell = Signal(Doorbell(p))
        written, handed_back = Signal(32), Signal(32)
        m.d.sync += [rung.eq(self.rx_consumer.valid), bell.eq(self.rx_consumer.payload)]
        m.d.comb += [
            reserved.queue[1].eq(bell.queue),
            consumer.queue[1].eq(bell.queue),
            written.eq(reserved.value[1] - consumer.value[1]),
            handed_back.eq(bell.index - consumer.value[1]),
            consumer.write.eq(rung & (handed_back <= written)),
            consumer.write_queue.eq(bell.queue),
            consumer.write_value.eq(bell.index),
        ]

        frame = self.frames.payload
        m.d.comb += [
            self.queue.eq(frame.queue),
            ring.addr.eq(frame.queue),
            reserved.queue[0].eq(frame.queue),
            consumer.queue[0].eq(frame.queue),
        ]

        # What the first cycle of a frame reads.
        enabled = Signal()
        producer = Signal(32)
        used = Signal(_CELLS_BITS)
        needed = Signal(_CELLS_BITS)
        cells = Signal(_CELLS_BITS)  # of the ring: a power of two
        base = Signal(p.address_bits)
        log2_bytes = Signal(5)
        found = Signal()
        unread = Signal(8)
        stale_before = Signal()  # this frame has met a stale handle

        row = self.claim_region.row
        handle = self.handle
        space, fresh, fits, wants = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.claim_region.index.eq(handle.at.region),
            space.eq(used + needed <= cells),
            wants.eq(frame.reason == RxOutcome.SPLIT),
            fresh.eq(
                row.live
                & row.nic_write
                & (row.generation == handle.generation)
                & (row.owner == self.owner)
                & (row.owner != 0)
                & (handle.at.element < row.postable)
            ),
            fits.eq(frame.payload_length <= (1 << row.log2_element_bytes)),
            self.discard.payload.handle.eq(handle),
            self.discard.payload.queue.eq(frame.queue),
        ]

        free = ~self.placed.valid | self.placed.ready
        out = self.placed.payload
        left = Signal(10)
        claim, decided = Signal(), Signal()
        outcome = Signal(RxOutcome)
        m.d.comb += [
            left.eq(unread + self.held - claim),
            reserved.write_queue.eq(frame.queue),
            reserved.write_value.eq(producer + needed),
        ]
        with m.FSM() as fsm:
            with m.State("frame"):
                m.d.sync += [
                    enabled.eq((self.enabled & ~self.failed).bit_select(frame.queue, 1)),
                    producer.eq(reserved.value[0]),
                    used.eq(reserved.value[0] - consumer.value[0]),
                    needed.eq((frame.header_length + RECORD.bytes + CELL_BYTES - 1) >> _CELL_LOG2),
                    cells.eq((1 << ring.data.log2_bytes) >> _CELL_LOG2),
                    base.eq(ring.data.base),
                    log2_bytes.eq(ring.data.log2_bytes),
                    found.eq(self.ready != 0),
                    unread.eq(self.unread),
                ]
                with m.If(self.frames.valid & ~self.pause & ~self.hold):
                    m.next = "decision"
                    with m.If(wants):
                        m.next = "region"
            with m.State("region"):  # the handle is there; its region's row comes next
                m.next = "decision"
            with m.State("decision"):
                with m.If(~enabled):
                    m.d.comb += [outcome.eq(RxOutcome.DISABLED), decided.eq(1)]
                with m.Elif(~space):
                    m.d.comb += [outcome.eq(RxOutcome.NO_RING_SPACE), decided.eq(1)]
                with m.Elif(~wants):
                    m.d.comb += [outcome.eq(frame.reason), decided.eq(1)]
                with m.Elif(~found):
                    m.d.comb += [
                        outcome.eq(Mux(stale_before, RxOutcome.BAD_REGION, RxOutcome.NO_BUFFER)),
                        decided.eq(1),
                    ]
                with m.Elif(~fresh):
                    m.d.comb += self.discard.valid.eq(1)
                    with m.If(self.discard.ready):
                        m.d.comb += self.pop.eq(1)
                        m.d.sync += stale_before.eq(1)
                        m.next = "frame"
                with m.Elif(~fits):
                    m.d.comb += [outcome.eq(RxOutcome.PAYLOAD_TOO_LARGE), decided.eq(1)]
                with m.Else():
                    m.d.comb += [outcome.eq(RxOutcome.SPLIT), decided.eq(1), claim.eq(1)]
                with m.If(decided & free):
                    m.d.comb += [
                        self.frames.ready.eq(1),
                        self.pop.eq(claim),
                        reserved.write.eq(outcome < RX_RECORDS),
                    ]
                    m.d.sync += [
                        stale_before.eq(0),
                        out.frame.eq(frame),
                        out.outcome.eq(outcome),
                        out.claimed.eq(claim),
                        out.record.eq(base | ((producer & (cells - 1)) << _CELL_LOG2)),
                        out.wrap_log2.eq(log2_bytes),
                        out.producer.eq(producer + needed),
                        out.handle.eq(handle),
                        out.region_base.eq(row.base),
                        out.log2_element_bytes.eq(row.log2_element_bytes),
                        out.left.eq(Mux(left[8:].any(), 255, left)),
                    ]
                    m.next = "frame"
        with m.If(free):
            m.d.sync += self.placed.valid.eq(decided)
        m.d.comb += self.quiet.eq(fsm.ongoing("frame") & ~self.placed.valid)
        return m
