"""Post fetcher: reads post rings, and lets through the handles of buffers that may be written.

The application's side of placement: doorbells in, checked handles out to the `HandleQueues`.
Nothing that an application writes is trusted: a doorbell may not pass the ring, a ring is read only
inside a live region of the queue's owner, and each cell is checked against the region that it names
(R23, I2).
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, POST_CELL, PostOutcome
from ..interfaces import Doorbell, Fault, PostRingStore, ReadClient, RegionLookup, Strobe
from .handles import Element, QueuedHandle, Reservation, chunk_cells
from .storage import IndexTable, StreamFifo, queue_bits

__all__ = ["CountedPost", "PostFetcher"]

PAGE_CELLS_LOG2 = 9  # cells of 8 bytes in 4 KiB
_LOG2_PAGES_MAX = 7
_READS = 32
"""Reads in flight, of all queues together."""
_FAULTS = 4
"""Refused cells that wait to be reported; what is more is counted only."""

assert POST_CELL.bytes == 8 and CELL_BYTES == 16


class CountedPost(data.StructLayout):
    """A PostOutcome of a cell (or doorbell) of a queue."""

    def __init__(self, parameters):
        super().__init__({"queue": queue_bits(parameters), "outcome": 3})


class PostFetcher(wiring.Component):
    """Serves the post rings in turn, one read of up to `post_prefetch` / 4 cells (at most 64) a
    turn.

    A turn takes four cycles up to the read's request; up to 32 reads are in flight. Cells are
    checked at one a cycle, less one for each turn, four cycles each, and then pushed or released;
    room for them was reserved, so a slow consumer of handles only stops new reads. A queue has its
    turn while cells wait below its doorbell and `roomy` says that a whole read has room.

    Errors: a doorbell beyond the ring, or backwards, is ignored (`bad_doorbell`). A ring whose
    region is not live, not the owner's, not readable, too small, or of another generation than at
    its first read is read no more until it is stored anew (one BAD_REGION or BAD_OWNER). Each cell
    gives one outcome on `outcomes`; one that was refused, or where the reading of a ring ended, is
    reported on `faults`, too, unless four reports wait already.

    Ports
    -----
    post_ring_store, post_producer, region, posts, pause: see `Egress`. hold: no cell is begun.
    push, reserve, release, roomy, flushing: of `HandleQueues`. mark, marked_before: of
    `ElementStates`. queue -> owner, unread: of the placer's queue, the owner and the cells between
    doorbell and last read (at most 255), in the same cycle. index_queue -> consumer: cells
    processed. moved: a queue's consumer has moved. quiet: no cell under check. idle: no read out
    either.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        self.chunk = chunk_cells(parameters)
        p = parameters
        bits = queue_bits(p)
        super().__init__(
            {
                "post_ring_store": In(Strobe(PostRingStore(p))),
                "post_producer": In(Strobe(Doorbell(p))),
                "region": Out(RegionLookup(p)),
                "posts": Out(ReadClient(p)),
                "pause": In(1),
                "hold": In(1),
                "roomy": In(1 << bits),
                "flushing": In(1 << bits),
                "push": Out(Strobe(QueuedHandle(p))),
                "reserve": Out(Strobe(Reservation(p))),
                "release": Out(Strobe(bits)),
                "mark": Out(stream.Signature(Element(p))),
                "marked_before": In(1),
                "outcomes": Out(stream.Signature(CountedPost(p))),
                "faults": Out(stream.Signature(Fault(p))),
                "bad_doorbell": Out(Strobe(bits)),
                "queue": In(bits),
                "owner": Out(8),
                "unread": Out(8),
                "index_queue": In(bits),
                "consumer": Out(32),
                "moved": Out(Strobe(bits)),
                "quiet": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = queue_bits(p)
        queues = 1 << bits

        # -- tables -------------------------------------------------------------------------------
        ring_shape = data.StructLayout({"region": 8, "offset": 20, "log2_pages": 3})
        m.submodules.rings = rings = Memory(shape=ring_shape, depth=queues, init=[])
        m.submodules.owners = owners = Memory(shape=8, depth=queues, init=[])
        m.submodules.generations = generations = Memory(shape=8, depth=queues, init=[])
        m.submodules.producer = producer = IndexTable(bits, 3)  # by turn, doorbell, placer
        m.submodules.issued = issued = IndexTable(bits, 2)  # by turn, placer
        m.submodules.consumer = consumer = IndexTable(bits, 3)  # by cell, doorbell, index update
        enabled = Signal(queues)
        known = Signal(queues)  # the ring's region has been seen live; its generation is stored
        active = Signal(queues)  # cells may wait below the doorbell

        store = self.post_ring_store
        ring_write, owner_write = rings.write_port(), owners.write_port()
        m.d.comb += [
            ring_write.en.eq(store.valid),
            ring_write.addr.eq(store.payload.queue),
            ring_write.data.region.eq(store.payload.region),
            ring_write.data.offset.eq(store.payload.offset),
            ring_write.data.log2_pages.eq(store.payload.log2_pages),
            owner_write.en.eq(store.valid),
            owner_write.addr.eq(store.payload.queue),
            owner_write.data.eq(store.payload.owner),
        ]
        for table in (producer, issued, consumer):
            m.d.comb += [table.clear.eq(store.valid), table.clear_queue.eq(store.payload.queue)]
        ring_of_turn, ring_of_doorbell = (rings.read_port(domain="comb") for _ in range(2))
        owner_of_turn, owner_of_cell, owner_of_placer = (
            owners.read_port(domain="comb") for _ in range(3)
        )
        generation_write = generations.write_port()
        generation_of_turn = generations.read_port(domain="comb")

        unread = Signal(32)
        m.d.comb += [
            owner_of_placer.addr.eq(self.queue),
            self.owner.eq(owner_of_placer.data),
            producer.queue[2].eq(self.queue),
            issued.queue[1].eq(self.queue),
            unread.eq(producer.value[2] - issued.value[1]),
            self.unread.eq(Mux(unread[8:].any(), 255, unread)),
            consumer.queue[2].eq(self.index_queue),
            self.consumer.eq(consumer.value[2]),
        ]

        # -- doorbells ----------------------------------------------------------------------------
        rung = Signal()
        bell = Signal(Doorbell(p))
        ahead, advance, beyond = Signal(32), Signal(32), Signal()
        accepted = Signal()
        m.d.sync += [rung.eq(self.post_producer.valid), bell.eq(self.post_producer.payload)]
        m.d.comb += [
            producer.queue[1].eq(bell.queue),
            consumer.queue[1].eq(bell.queue),
            ring_of_doorbell.addr.eq(bell.queue),
            ahead.eq(bell.index - consumer.value[1]),
            advance.eq(bell.index - producer.value[1]),
            beyond.eq(ahead > (1 << PAGE_CELLS_LOG2) << ring_of_doorbell.data.log2_pages),
            accepted.eq(rung & enabled.bit_select(bell.queue, 1) & ~beyond & ~advance[31]),
            producer.write.eq(accepted),
            producer.write_queue.eq(bell.queue),
            producer.write_value.eq(bell.index),
            self.bad_doorbell.valid.eq(rung & ~accepted),
            self.bad_doorbell.payload.eq(bell.queue),
        ]

        # -- turns: one queue's read --------------------------------------------------------------
        turn = Signal(bits)
        last_turn = Signal(bits)
        candidates = Signal(queues)
        m.submodules.reads = reads = StreamFifo(bits, _READS)
        m.d.comb += [
            candidates.eq(
                Mux(
                    self.pause | ~reads.input.ready,
                    0,
                    active & enabled & self.roomy & ~self.flushing,
                )
            ),
            ring_of_turn.addr.eq(turn),
            owner_of_turn.addr.eq(turn),
            generation_of_turn.addr.eq(turn),
            generation_write.addr.eq(turn),
            producer.queue[0].eq(turn),
            issued.queue[0].eq(turn),
        ]
        chunk_bits = self.chunk.bit_length() - 1
        waiting = Signal(32)
        to_edge = Signal(chunk_bits + 1)  # cells to the next chunk, so that no read meets the end
        count = Signal(chunk_bits + 1)
        more = Signal()
        index = Signal(32)
        start = Signal(33)  # byte offset of the read in its region
        end_page = Signal(21)
        mask = Signal(PAGE_CELLS_LOG2 + _LOG2_PAGES_MAX)
        m.d.comb += [
            waiting.eq(producer.value[0] - issued.value[0]),
            to_edge.eq(self.chunk - issued.value[0][:chunk_bits]),
            mask.eq(((1 << PAGE_CELLS_LOG2) << ring_of_turn.data.log2_pages) - 1),
        ]
        row = self.region.row
        owner_good, region_good = Signal(), Signal()
        lookup = Signal()
        address = Signal(p.address_bits)
        activate, deactivate, refuse = Signal(), Signal(), Signal()
        flowing = Signal()  # the stages of the cell check move
        refusable = Signal()

        with m.FSM() as fsm:
            with m.State("pick"), m.If(candidates.any()):
                for q in reversed(range(queues)):
                    with m.If(candidates[q]):
                        m.d.sync += turn.eq(q)
                for q in reversed(range(queues)):
                    with m.If(candidates[q] & (q > last_turn)):
                        m.d.sync += turn.eq(q)
                m.next = "ring"
            with m.State("ring"):
                m.d.sync += [
                    last_turn.eq(turn),
                    index.eq(issued.value[0]),
                    count.eq(Mux(waiting < to_edge, waiting, to_edge)),
                    more.eq(waiting > to_edge),
                    start.eq((ring_of_turn.data.offset << 12) + ((issued.value[0] & mask) << 3)),
                    end_page.eq(ring_of_turn.data.offset + (1 << ring_of_turn.data.log2_pages)),
                ]
                with m.If(waiting == 0):
                    m.d.comb += deactivate.eq(1)
                    m.next = "pick"
                with m.Elif(flowing):
                    m.d.comb += [lookup.eq(1), deactivate.eq(1)]
                    m.next = "check"
            with m.State("check"):
                generation = generation_of_turn.data
                pages = (row.elements << row.log2_element_bytes)[12:]
                m.d.sync += [
                    owner_good.eq(
                        ~row.live | ((row.owner == owner_of_turn.data) & (row.owner != 0))
                    ),
                    region_good.eq(
                        row.live
                        & row.nic_read
                        & (end_page <= pages)
                        & (~known.bit_select(turn, 1) | (generation == row.generation))
                    ),
                    address.eq(row.base + start),
                ]
                m.d.comb += [
                    generation_write.en.eq(row.live & ~known.bit_select(turn, 1)),
                    generation_write.data.eq(row.generation),
                ]
                with m.If(row.live):
                    m.d.sync += known.bit_select(turn, 1).eq(1)
                m.next = "read"
            with m.State("read"):
                m.d.comb += self.posts.request.valid.eq(owner_good & region_good)
                with m.If(~(owner_good & region_good)):
                    m.d.comb += refuse.eq(refusable)
                    with m.If(refusable):
                        m.d.sync += enabled.bit_select(turn, 1).eq(0)
                        m.next = "pick"
                with m.Elif(self.posts.request.ready):
                    m.d.comb += [
                        self.reserve.valid.eq(1),
                        reads.input.valid.eq(1),
                        issued.write.eq(1),
                        activate.eq(more),
                    ]
                    m.next = "pick"
        m.d.comb += [
            self.posts.request.payload.address.eq(address),
            self.posts.request.payload.length.eq(count << 3),
            self.reserve.payload.queue.eq(turn),
            self.reserve.payload.count.eq(count),
            reads.input.payload.eq(turn),
            issued.write_queue.eq(turn),
            issued.write_value.eq(index + count),
        ]
        set_now = Mux(accepted, 1 << bell.queue, 0) | (activate << turn)
        m.d.sync += active.eq((active & ~(deactivate << turn)[:queues]) | set_now[:queues])
        # A store comes last: it overrides whatever a doorbell or a turn did in the same cycle.
        with m.If(store.valid):
            m.d.sync += [
                enabled.bit_select(store.payload.queue, 1).eq(store.payload.enable),
                known.bit_select(store.payload.queue, 1).eq(0),
                active.bit_select(store.payload.queue, 1).eq(0),
            ]

        self._check_cells(
            m, reads, owner_of_cell, consumer, turn, index, lookup, ring_of_turn.data.region,
            flowing, refuse, refusable, owner_good,
        )  # fmt: skip
        m.d.comb += self.idle.eq(
            fsm.ongoing("pick") & reads.empty & self.quiet & ~rung & ~self.outcomes.valid
        )
        return m

    def _check_cells(
        self, m, reads, owners, consumer, turn, index, lookup, ring_region,
        flowing, refuse, refusable, owner_good,
    ):  # fmt: skip
        """Cells of the answers through four stages: cell, row, mark, outcome."""
        p = self.parameters
        stage_shape = data.StructLayout(
            {
                "valid": 1,
                "queue": queue_bits(p),
                "element": 24,
                "region": 8,
                "generation": 8,
                "failed": 1,
                "last": 1,
                "outcome": 3,
            }
        )
        cell, looked, marking, settled = (
            Signal(stage_shape, name=name) for name in ("cell", "looked", "marking", "settled")
        )

        # Answers hold several cells a beat; each is taken in turn.
        beats = self.posts.beats
        cells = p.bus_bytes // 8
        cell_shape = POST_CELL.as_amaranth()
        lane = Signal(range(cells + 1))
        inside = Signal()  # `lane` is valid: the beat's first cell was taken
        now = Signal(range(cells + 1))
        last_lane = Signal()
        take, cell_moves = Signal(), Signal()
        m.submodules.counted = counted = StreamFifo(CountedPost(p), 8)
        m.d.comb += [
            now.eq(Mux(inside, lane, beats.payload.begin >> 3)),
            last_lane.eq(((now + 1) << 3) >= beats.payload.end),
            # Every cell under check has its place in `counted`, so the last stage never waits.
            take.eq(
                beats.valid
                & reads.output.valid
                & ~self.hold
                & (counted.level <= 3)
                & (~cell.valid | cell_moves)
            ),
            beats.ready.eq(take & last_lane),
            reads.output.ready.eq(take & last_lane & beats.payload.last),
            cell_moves.eq(cell.valid & flowing & ~lookup),
        ]
        with m.If(take):
            m.d.sync += [lane.eq(now + 1), inside.eq(~last_lane)]
        raw = Signal(cell_shape)
        m.d.comb += raw.eq(beats.payload.data.word_select(now, 64))
        with m.If(~cell.valid | cell_moves):
            m.d.sync += [
                cell.valid.eq(take),
                cell.queue.eq(reads.output.payload),
                cell.element.eq(raw.element),
                cell.region.eq(raw.region),
                cell.generation.eq(raw.generation),
                cell.failed.eq(beats.payload.error),
                cell.last.eq(last_lane & beats.payload.last),
            ]

        # The row of `looked.region` arrives; a turn borrows the lookup while the stages move.
        row = self.region.row
        m.d.comb += self.region.index.eq(
            Mux(lookup, ring_region, Mux(flowing, cell.region, looked.region))
        )
        verdict = Signal(PostOutcome)
        m.d.comb += owners.addr.eq(looked.queue)
        with m.If(looked.failed):
            m.d.comb += verdict.eq(PostOutcome.PORT_ERROR)
        with m.Elif(~row.live | (row.generation != looked.generation) | ~row.nic_write):
            m.d.comb += verdict.eq(PostOutcome.BAD_REGION)
        with m.Elif((row.owner != owners.data) | (row.owner == 0)):
            m.d.comb += verdict.eq(PostOutcome.BAD_OWNER)
        with m.Elif((looked.element >= row.postable) | (looked.element >= p.postable_max)):
            m.d.comb += verdict.eq(PostOutcome.BAD_ELEMENT)
        with m.Else():
            m.d.comb += verdict.eq(PostOutcome.ACCEPTED)

        good = marking.valid & (marking.outcome == PostOutcome.ACCEPTED)
        m.d.comb += [
            self.mark.valid.eq(good),
            self.mark.payload.element.eq(marking.element),
            self.mark.payload.region.eq(marking.region),
            flowing.eq(~good | self.mark.ready),
        ]
        m.d.sync += [settled.eq(marking), settled.valid.eq(marking.valid & flowing)]
        with m.If(flowing):
            m.d.sync += [
                looked.eq(cell),
                looked.valid.eq(cell_moves),
                marking.eq(looked),
                marking.outcome.eq(verdict),
            ]

        fresh = (settled.outcome == PostOutcome.ACCEPTED) & ~self.marked_before
        double = (settled.outcome == PostOutcome.ACCEPTED) & self.marked_before
        push = self.push.payload
        m.d.comb += [
            self.push.valid.eq(settled.valid & fresh),
            push.queue.eq(settled.queue),
            push.handle.at.element.eq(settled.element),
            push.handle.at.region.eq(settled.region),
            push.handle.generation.eq(settled.generation),
            self.release.valid.eq(settled.valid & ~fresh),
            self.release.payload.eq(settled.queue),
            consumer.queue[0].eq(settled.queue),
            consumer.write.eq(settled.valid),
            consumer.write_queue.eq(settled.queue),
            consumer.write_value.eq(consumer.value[0] + 1),
            self.moved.valid.eq(settled.valid & settled.last),
            self.moved.payload.eq(settled.queue),
            refusable.eq(~settled.valid & counted.input.ready),
            counted.input.valid.eq(settled.valid | refuse),
            counted.input.payload.queue.eq(Mux(settled.valid, settled.queue, turn)),
            self.quiet.eq(~Cat(cell.valid, looked.valid, marking.valid, settled.valid).any()),
        ]
        with m.If(settled.valid):
            m.d.comb += counted.input.payload.outcome.eq(
                Mux(double, PostOutcome.DOUBLE_POST, settled.outcome)
            )
        with m.Else():
            m.d.comb += counted.input.payload.outcome.eq(
                Mux(owner_good, PostOutcome.BAD_REGION, PostOutcome.BAD_OWNER)
            )
        m.submodules.faults = faults = StreamFifo(Fault(p), _FAULTS)
        wiring.connect(m, faults.output, wiring.flipped(self.faults))
        m.d.comb += [
            faults.input.valid.eq((settled.valid & ~fresh) | refuse),
            faults.input.payload.queue.eq(counted.input.payload.queue),
            faults.input.payload.index.eq(Mux(settled.valid, consumer.value[0], index)),
            faults.input.payload.status.eq(counted.input.payload.outcome),
        ]
        m.d.comb += [
            self.outcomes.payload.eq(counted.output.payload),
            self.outcomes.valid.eq(counted.output.valid),
            counted.output.ready.eq(self.outcomes.ready),
        ]
        return m
