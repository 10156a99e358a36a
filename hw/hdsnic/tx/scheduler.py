"""Scheduler: which queue is served next, and the reads of its descriptors.

First block of the transmit path: doorbells in, visits and descriptor reads out.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import Doorbell, QueueStore, ReadClient, Strobe
from .layouts import CELL_BITS, Close, Finish, Visit, queue_bits

__all__ = ["CHUNK_CELLS", "VISIT_CELLS_MAX", "Scheduler", "quota_cells"]

CHUNK_CELLS = 64
"""Cells of a read of descriptors (1 KiB). Reads end on multiples of it, so only the first beat of a
visit can begin, and only its last beat end, in the middle."""

VISIT_CELLS_MAX = 1 << 18
"""Cells after which a visit is ended in any case: a ring of 4 MiB, so that no count overflows."""


def quota_cells(parameters) -> int:
    """Cells after which a queue makes way for others that wait: long enough to hide the latency of
    the next visit's reads, and not more to discard where its share is used up before.

    256 cycles of the port's rate, or of the parser's, which is lower on a wide bus: a descriptor of
    80 bytes takes it two cycles.
    """
    return min(256 * parameters.bus_bytes, 128 * 80) // abi.CELL_BYTES


_CELL_SHIFT = abi.CELL_BYTES.bit_length() - 1


class Scheduler(wiring.Component):
    """Serves those queues in turn that are `ready` (see Shares), by visits: contiguous reads of one
    queue's descriptors. Where no such queue waits, one that is `nearly` is visited: its credit may
    come while its descriptors are on their way.

    A visit is announced on `visit` and goes on to the producer index, which may move on meanwhile
    (`available`, in cells from the visit's start), waiting for it as long as no other queue has
    work. It is ended where another queue waits and the quota is used up, where `hold` is 1 (pause),
    where the parser gives up (`abort`), or where the cells that are filled end within a beat. Its
    length in cells, and `available`, are then put on `close`. The parser makes sure by `claim`
    (cells from the visit's start) that the descriptor which it has begun is read to its end. It
    tells by `finish` where the queue goes on. A queue has at most one visit under way, so `visit`
    and `close` need room for as many entries as there are queues. `active` are the queues with a
    visit, or perhaps work for one.

    A doorbell takes two cycles; one beyond the ring, or behind the one before it, is ignored. From
    a doorbell to the first read: four cycles. A visit costs four cycles and two more for each
    further read. Back-pressure of `request` delays the visit, nothing else.

    Parameters: `queues`, `bus_bytes`, `address_bits`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        queue = unsigned(queue_bits(p))
        index = data.StructLayout({"queue": queue, "index": 32})
        super().__init__(
            {
                "hold": In(1),
                "store": In(Strobe(QueueStore(p))),
                "doorbell": In(Strobe(Doorbell(p))),
                "consumed": In(Strobe(index)),
                "stop": In(Strobe(queue)).array(2),
                "request": ReadClient(p).members["request"],
                "visit": Out(stream.Signature(Visit(p))),
                "available": Out(CELL_BITS),
                "close": Out(stream.Signature(Close())),
                "claim": In(Strobe(unsigned(CELL_BITS))),
                "abort": In(1),
                "ready": In(p.queues),
                "nearly": In(p.queues),
                "active": Out(p.queues),
                "finish": In(Strobe(Finish(p))),
                "stopped": Out(p.queues),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        depth = max(2, p.queues)

        # -- tables, a row for each queue --
        ring_shape = data.StructLayout({"base": p.address_bits, "log2_bytes": 5})
        m.submodules.rings = rings = Memory(shape=ring_shape, depth=depth, init=[])
        m.submodules.producers = producers = Memory(shape=unsigned(32), depth=depth, init=[])
        m.submodules.consumers = consumers = Memory(shape=unsigned(32), depth=depth, init=[])
        place_shape = data.StructLayout({"position": 32, "need": CELL_BITS})
        m.submodules.places = places = Memory(shape=place_shape, depth=depth, init=[])
        enabled = Signal(p.queues)
        rung = Signal(p.queues)  # a doorbell came since the ring was stored; else producer is 0
        pending = Signal(p.queues)
        busy = Signal(p.queues)  # a visit is under way
        unserved = Signal(p.queues)  # its last visit left cells unread: it waits even while busy

        ring_write = rings.write_port()
        producer_write = producers.write_port()
        consumer_write = consumers.write_port()
        place_write = places.write_port()

        store = self.store.payload
        m.d.comb += [
            ring_write.en.eq(self.store.valid),
            ring_write.addr.eq(store.queue),
            ring_write.data.base.eq(store.base),
            ring_write.data.log2_bytes.eq(store.log2_bytes),
            # Stores come while nothing is under way, so these two writers never meet.
            consumer_write.en.eq(self.store.valid | self.consumed.valid),
            consumer_write.addr.eq(Mux(self.store.valid, store.queue, self.consumed.payload.queue)),
            consumer_write.data.eq(Mux(self.store.valid, 0, self.consumed.payload.index)),
            place_write.en.eq(self.store.valid | self.finish.valid),
            place_write.addr.eq(Mux(self.store.valid, store.queue, self.finish.payload.queue)),
        ]
        with m.If(~self.store.valid):
            m.d.comb += [
                place_write.data.position.eq(self.finish.payload.position),
                place_write.data.need.eq(self.finish.payload.need),
            ]

        # -- visits --
        last = Signal(queue_bits(p))
        eligible = Signal(p.queues)
        choice = Signal(queue_bits(p))
        waiting = Signal(p.queues)
        wanting = Signal(p.queues)
        credited = Signal(p.queues)
        working = enabled & ~self.stopped
        m.d.comb += [
            wanting.eq(pending & ~busy & working),
            credited.eq(wanting & self.ready),
            eligible.eq(Mux(credited.any(), credited, wanting & self.nearly)),
            waiting.eq((wanting | (unserved & working)) & self.nearly),
            self.active.eq((pending | busy) & working),
        ]
        with m.Switch(last):
            for k in range(p.queues):
                with m.Case(k):
                    for distance in reversed(range(1, p.queues + 1)):
                        with m.If(eligible[(k + distance) % p.queues]):
                            m.d.comb += choice.eq((k + distance) % p.queues)

        queue = Signal(queue_bits(p))
        ring_read = rings.read_port()
        producer_read = producers.read_port(transparent_for=(producer_write,))
        place_read = places.read_port(transparent_for=(place_write,))
        picking = Signal()
        m.d.comb += [port.addr.eq(choice) for port in (ring_read, place_read)]
        m.d.comb += producer_read.addr.eq(Mux(picking, choice, queue))

        start = Signal(32)
        position = Signal(32)
        base = Signal(p.address_bits)
        log2_bytes = Signal(5)
        offset_mask = Signal(32)
        available = Signal(CELL_BITS)
        issued = Signal(CELL_BITS)
        quota = Signal(CELL_BITS)
        claimed = Signal(CELL_BITS)
        rest = Signal(CELL_BITS)
        to_boundary = Signal(range(CHUNK_CELLS + 1))
        beat_cells = max(p.bus_bytes // abi.CELL_BYTES, 1)
        tail = Signal(range(beat_cells))  # filled cells of a beat that is not filled yet
        whole = Signal(CELL_BITS)  # cells before those
        within = Signal()  # the reads ended within a beat
        chunk = Signal(range(CHUNK_CELLS + 1))
        request = self.request.payload
        m.d.comb += [
            rest.eq(available - issued),
            to_boundary.eq(CHUNK_CELLS - (position % CHUNK_CELLS)),
            tail.eq(position + rest),
            # The end of what is filled is read for itself, since a visit may go on only from there.
            whole.eq(Mux(rest > tail, rest - tail, rest)),
            chunk.eq(Mux(whole < to_boundary, whole, to_boundary)),
            within.eq((position & (beat_cells - 1)) != 0),
            request.address.eq(base + ((position << _CELL_SHIFT) & offset_mask)),
            request.length.eq(chunk << _CELL_SHIFT),
            request.wrap_log2.eq(log2_bytes),
            self.available.eq(available),
            self.close.payload.issued.eq(issued),
            self.close.payload.available.eq(available),
        ]
        with m.If(self.claim.valid):
            m.d.sync += claimed.eq(self.claim.payload)

        visit = self.visit.payload
        producer = Signal(32)
        distance = Signal(32)
        m.d.comb += [
            producer.eq(Mux(rung.bit_select(queue, 1), producer_read.data, 0)),
            distance.eq(producer - place_read.data.position),
            visit.queue.eq(queue),
            visit.position.eq(place_read.data.position),
        ]

        least = quota_cells(p)
        with m.FSM():
            with m.State("PICK"):
                m.d.comb += [self.quiet.eq(1), picking.eq(1)]
                with m.If(eligible.any() & ~self.hold):
                    m.d.comb += self.quiet.eq(0)
                    m.d.sync += [
                        queue.eq(choice),
                        last.eq(choice),
                        pending.bit_select(choice, 1).eq(0),
                        busy.bit_select(choice, 1).eq(1),
                        unserved.bit_select(choice, 1).eq(0),
                    ]
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.sync += [
                    start.eq(place_read.data.position),
                    position.eq(place_read.data.position),
                    base.eq(ring_read.data.base),
                    log2_bytes.eq(ring_read.data.log2_bytes),
                    offset_mask.eq((1 << ring_read.data.log2_bytes) - 1),
                    available.eq(distance),
                    issued.eq(0),
                    claimed.eq(0),
                    quota.eq(Mux(place_read.data.need > least, place_read.data.need, least)),
                ]
                with m.If(distance == 0):
                    m.d.sync += busy.bit_select(queue, 1).eq(0)
                    m.next = "PICK"
                with m.Else():
                    m.d.comb += self.visit.valid.eq(1)
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.d.sync += [issued.eq(issued + chunk), position.eq(position + chunk)]
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                # On to the newest producer index; reads that ended within a beat are closed here.
                with m.If(issued < VISIT_CELLS_MAX):
                    m.d.sync += available.eq(producer - start)
                leave = Signal()
                ended = Signal()  # no cell is left, and none may come
                m.d.comb += [
                    leave.eq(self.hold | self.abort | (waiting.any() & (issued >= quota))),
                    ended.eq((rest == 0) & (within | wanting.any() | (issued >= VISIT_CELLS_MAX))),
                ]
                # A claim in this very cycle goes first: the parser has not seen a close.
                with m.If(ended | (leave & ~self.claim.valid & (issued >= claimed))):
                    m.d.comb += self.close.valid.eq(1)
                    m.d.sync += unserved.bit_select(queue, 1).eq(rest != 0)
                    m.next = "PICK"
                with m.Elif(rest != 0):
                    m.next = "READ"

        with m.If(self.finish.valid):
            m.d.sync += [
                busy.bit_select(self.finish.payload.queue, 1).eq(0),
                pending.bit_select(self.finish.payload.queue, 1).eq(1),
            ]
        for stop in self.stop:
            with m.If(stop.valid):
                m.d.sync += self.stopped.bit_select(stop.payload, 1).eq(1)

        # -- doorbells: the tables are read in one cycle, the index is judged in the next --
        limit_read = rings.read_port(transparent_for=(ring_write,))
        former_read = producers.read_port(transparent_for=(producer_write,))
        consumer_read = consumers.read_port(transparent_for=(consumer_write,))
        bell = Signal(Doorbell(p))
        bell_valid = Signal()
        m.d.sync += [bell_valid.eq(self.doorbell.valid), bell.eq(self.doorbell.payload)]
        m.d.comb += [
            port.addr.eq(self.doorbell.payload.queue)
            for port in (limit_read, former_read, consumer_read)
        ]
        former = Signal(32)
        advance = Signal(32)
        filled = Signal(32)
        accept = Signal()
        # Both are steps forward, so an index that went backwards is a huge advance.
        m.d.comb += [
            former.eq(Mux(rung.bit_select(bell.queue, 1), former_read.data, 0)),
            advance.eq(bell.index - former),
            filled.eq(former - consumer_read.data),
            accept.eq(
                bell_valid
                & enabled.bit_select(bell.queue, 1)
                & ((advance + filled) <= ((1 << limit_read.data.log2_bytes) >> _CELL_SHIFT))
                & ~(self.store.valid & (store.queue == bell.queue))
            ),
            producer_write.en.eq(accept),
            producer_write.addr.eq(bell.queue),
            producer_write.data.eq(bell.index),
        ]
        if p.queues < 1 << queue_bits(p):
            with m.If(bell.queue >= p.queues):
                m.d.comb += producer_write.en.eq(0)
        with m.If(producer_write.en):
            m.d.sync += [
                rung.bit_select(bell.queue, 1).eq(1),
                pending.bit_select(bell.queue, 1).eq(1),
            ]

        with m.If(self.store.valid):
            m.d.sync += [
                enabled.bit_select(store.queue, 1).eq(store.enable),
                Cat(
                    table.bit_select(store.queue, 1)
                    for table in (rung, pending, unserved, self.stopped)
                ).eq(0),
            ]
        return m
