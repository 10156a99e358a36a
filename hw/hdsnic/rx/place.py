"""Placer: decides for each frame where its header and its payload go, or why it is dropped.

Between the steered frames of the ingress and the splitter. Here, and nowhere else, a receive ring's
space is reserved and posted buffers are claimed. Space comes first (R12), so a claimed buffer
always has a record; and the claim looks at the region again, since between prefetch and claim it
may have been revoked (I2). A payload that is larger than a buffer takes a chain, or none (R9).
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, RECORD, RX_RECORDS, RxOutcome
from ..interfaces import Doorbell, QueueStore, RegionLookup, SteeredFrame, Strobe, count_bits
from .handles import Element, Handle, QueuedHandle
from .storage import IndexTable, queue_bits

__all__ = ["PlacedFrame", "Placer"]

_RING_LOG2_MAX = 22
_CELL_LOG2 = CELL_BYTES.bit_length() - 1
_CELLS_BITS = _RING_LOG2_MAX - _CELL_LOG2 + 1

assert RECORD.bytes % CELL_BYTES == 0


class PlacedFrame(data.StructLayout):
    """A frame and what was decided; one for each buffer of a chain, the `first` of them and so on.

    `outcome` is an RxOutcome; from RX_RECORDS on the frame is dropped and the rest has no meaning.
    `record` is the bus address of the record, `producer` the receive ring's index after it,
    `extensions` its words after the fixed part; the first is a time stamp if `time_stamp`. With
    `claimed`, `length` bytes of payload go to the element `at`, which lies at `address`; `more`:
    the payload goes on in the next buffer. `left`: buffers that the queue has left, at most 255.
    """

    def __init__(self, parameters):
        p = parameters
        super().__init__(
            {
                "frame": SteeredFrame(p),
                "outcome": 5,
                "first": 1,
                "more": 1,
                "claimed": 1,
                "record": p.address_bits,
                "wrap_log2": 5,
                "producer": 32,
                "extensions": 4,
                "time_stamp": 1,
                "at": Element(p),
                "address": p.address_bits,
                "length": count_bits(p.frame_bytes_max),
                "left": 8,
            }
        )


class Placer(wiring.Component):
    """A frame takes 2 cycles; 3 for each buffer after the first, up to `chain_max`; 2 to 4 for each
    stale handle that it meets.

    Decisions come out in a frame's second cycle, those of a chain when all of it is claimed. With
    `pause` or `hold` no frame is begun; one that was begun ends as if neither were there.

    A frame of which the ingress has said that it is dropped passes with its outcome. Drops made
    here, in this order: DISABLED (no ring, or `failed`), NO_RING_SPACE, NO_BUFFER (or BAD_REGION,
    if there were only stale handles), PAYLOAD_TOO_LARGE. Of a chain all buffers are claimed, or,
    with any of these, none; each is checked as the first one is, and they may be of several
    regions. A stale handle leaves by `discard`; of live region, generation, owner and permission
    all must be as at the post.

    A consumer doorbell beyond what was written is ignored.

    Ports
    -----
    frames, rx_ring_store, rx_consumer, claim_region, time_stamps, pause: see `Egress`. failed:
    queues that met a write error. queue, wanted, handle, found, depth, following, another, pop,
    replace, ready, held: of `HandleQueues`; pushing: a handle is pushed. owner, unread: of the same
    queue, from `PostFetcher`. enabled: queues with a ring. quiet: between two frames.
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
                "time_stamps": In(1 << bits),
                "pause": In(1),
                "hold": In(1),
                "failed": In(1 << bits),
                "enabled": Out(1 << bits),
                "wanted": Out(1),
                "queue": Out(bits),
                "handle": In(Handle(p)),
                "found": In(1),
                "depth": Out(range(p.chain_max)),
                "following": In(Handle(p)),
                "another": In(1),
                "pop": Out(1),
                "replace": Out(1),
                "pushing": In(1),
                "ready": In(count),
                "held": In(count),
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
        wants = Signal()
        m.d.comb += [
            wants.eq((frame.reason == RxOutcome.SPLIT) | (frame.reason == RxOutcome.PLACED)),
            self.wanted.eq(self.frames.valid),
            self.queue.eq(frame.queue),
            ring.addr.eq(frame.queue),
            reserved.queue[0].eq(frame.queue),
            consumer.queue[0].eq(frame.queue),
        ]

        # What the first cycle of a frame reads.
        enabled = Signal()
        producer = Signal(32)
        used = Signal(_CELLS_BITS)
        cells = Signal(_CELLS_BITS)  # of the ring: a power of two
        base = Signal(p.address_bits)
        log2_bytes = Signal(5)
        stamped = Signal()
        found = Signal()
        unread = Signal(8)
        stale_before = Signal()  # this frame has met a stale handle
        # What each further buffer of a chain changes.
        handle = Signal(Handle(p))
        depth = self.depth
        needed = Signal(_CELLS_BITS)
        remaining = Signal.like(frame.payload_length)

        row = self.claim_region.row
        space, fresh, fits = Signal(), Signal(), Signal()
        length = Signal.like(remaining)
        m.d.comb += [
            space.eq(used + needed <= cells),
            fresh.eq(
                row.live
                & row.nic_write
                & (row.generation == handle.generation)
                & (row.owner == self.owner)
                & (row.owner != 0)
                & (handle.at.element < row.postable)
            ),
            fits.eq(remaining <= (1 << row.log2_element_bytes)),
            length.eq(Mux(fits, remaining, 1 << row.log2_element_bytes)),
            # Also while a decision waits; only a frame's first cycle looks at its first handle.
            self.claim_region.index.eq(handle.at.region),
            self.discard.payload.handle.eq(handle),
            self.discard.payload.queue.eq(frame.queue),
        ]

        # A chain is put together here before any of it is handed on.
        buffer_shape = data.StructLayout(
            {"at": Element(p), "address": p.address_bits, "length": length.shape()}
        )
        m.submodules.chain = chain = Memory(shape=buffer_shape, depth=p.chain_max, init=[])
        chain_write, chain_read = chain.write_port(), chain.read_port(domain="comb")
        sent = Signal(range(p.chain_max))
        buffer = Signal(buffer_shape)
        m.d.comb += [
            buffer.at.eq(handle.at),
            buffer.address.eq(row.base + (handle.at.element << row.log2_element_bytes)),
            buffer.length.eq(length),
            chain_write.addr.eq(depth),
            chain_write.data.eq(buffer),
            chain_read.addr.eq(sent),
        ]

        out = self.placed.payload
        left = Signal(range(256 + p.post_prefetch))
        outcome = Signal(RxOutcome)
        extensions = Signal(4)
        m.d.comb += [
            extensions.eq(stamped + depth),
            left.eq(unread + self.held - Mux(out.claimed, depth + 1, 0)),
            reserved.write_queue.eq(frame.queue),
            reserved.write_value.eq(producer + needed),
            out.frame.eq(frame),
            out.outcome.eq(outcome),
            out.record.eq(base | ((producer & (cells - 1)) << _CELL_LOG2)),
            out.wrap_log2.eq(log2_bytes),
            out.producer.eq(producer + needed),
            out.extensions.eq(extensions),
            out.time_stamp.eq(stamped),
            out.left.eq(Mux(left[8:].any(), 255, left)),
            out.first.eq(1),
        ]

        def cells_of(words):
            """Cells of the record with so many words of extension."""
            size = frame.header_length + RECORD.bytes + (words << 3)
            return (size + CELL_BYTES - 1) >> _CELL_LOG2

        def finish():
            """The frame's last decision is taken."""
            m.d.comb += [self.frames.ready.eq(1), reserved.write.eq(outcome < RX_RECORDS)]
            m.d.sync += [depth.eq(0), stale_before.eq(0)]
            m.next = "frame"

        decided = Signal()
        with m.FSM() as fsm:
            with m.State("frame"):
                m.d.comb += self.claim_region.index.eq(self.handle.at.region)
                m.d.sync += [
                    enabled.eq((self.enabled & ~self.failed).bit_select(frame.queue, 1)),
                    producer.eq(reserved.value[0]),
                    used.eq(reserved.value[0] - consumer.value[0]),
                    needed.eq(cells_of(self.time_stamps.bit_select(frame.queue, 1))),
                    stamped.eq(self.time_stamps.bit_select(frame.queue, 1)),
                    cells.eq((1 << ring.data.log2_bytes) >> _CELL_LOG2),
                    base.eq(ring.data.base),
                    log2_bytes.eq(ring.data.log2_bytes),
                    found.eq(self.found),
                    unread.eq(self.unread),
                    handle.eq(self.handle),
                    remaining.eq(frame.payload_length),
                    sent.eq(0),
                ]
                # Handles that are there show their first within 2 cycles.
                with m.If(
                    self.frames.valid
                    & ~self.pause
                    & ~self.hold
                    & (~wants | self.found | (self.ready == 0))
                ):
                    m.next = "decision"
            with m.State("next"):
                m.d.sync += needed.eq(cells_of(extensions))
                m.next = "decision"
            with m.State("decision"):
                m.d.comb += chain_write.en.eq(1)
                with m.If(frame.reason >= RX_RECORDS):
                    m.d.comb += [outcome.eq(frame.reason), decided.eq(1)]
                with m.Elif(~enabled):
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
                    # In mid-chain the first handle takes the place of this one.
                    m.d.comb += self.discard.valid.eq((depth == 0) | ~self.pushing)
                    with m.If(self.discard.valid & self.discard.ready):
                        m.d.comb += [self.pop.eq(depth == 0), self.replace.eq(depth != 0)]
                        m.d.sync += [stale_before.eq(1), depth.eq(0)]
                        m.next = "frame"
                with m.Elif(fits):
                    m.d.comb += outcome.eq(frame.reason)
                    with m.If(depth == 0):
                        m.d.comb += [decided.eq(1), out.claimed.eq(1)]
                    with m.Else():
                        m.next = "chain"
                with m.Elif(depth == p.chain_max - 1):
                    m.d.comb += [outcome.eq(RxOutcome.PAYLOAD_TOO_LARGE), decided.eq(1)]
                with m.Elif(~self.another):
                    m.d.comb += [outcome.eq(RxOutcome.NO_BUFFER), decided.eq(1)]
                with m.Else():
                    m.d.sync += [
                        depth.eq(depth + 1),
                        handle.eq(self.following),
                        remaining.eq(remaining - length),
                    ]
                    m.next = "next"
                m.d.comb += [
                    self.placed.valid.eq(decided),
                    out.at.eq(handle.at),
                    out.address.eq(buffer.address),
                    out.length.eq(length),
                ]
                with m.If(decided & self.placed.ready):
                    m.d.comb += self.pop.eq(out.claimed)
                    finish()
            with m.State("chain"):
                m.d.comb += [
                    self.placed.valid.eq(1),
                    outcome.eq(frame.reason),
                    out.claimed.eq(1),
                    out.first.eq(sent == 0),
                    out.more.eq(sent != depth),
                    out.at.eq(chain_read.data.at),
                    out.address.eq(chain_read.data.address),
                    out.length.eq(chain_read.data.length),
                ]
                with m.If(self.placed.ready):
                    m.d.sync += sent.eq(sent + 1)
                    with m.If(~out.more):
                        m.d.comb += self.pop.eq(1)
                        finish()
        m.d.comb += self.quiet.eq(fsm.ongoing("frame"))
        return m
