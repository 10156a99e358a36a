"""Posted buffers: the state of each element, and the queues of those that are ready to be claimed.

Between the post fetcher, which adds handles that it has checked, and the placer, which claims them.
An element is posted from the moment its state is marked until its record commits or its handle is
discarded; the states are what refuses a double post (R23) and makes a buffer complete once (I4).
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe
from .storage import queue_bits

__all__ = [
    "Element", "ElementStates", "Handle", "HandleQueues", "QueuedHandle", "Reservation",
    "chunk_cells",
]  # fmt: skip


def _region_bits(parameters):
    return max(1, (parameters.regions - 1).bit_length())


def _element_bits(parameters):
    return (parameters.postable_max - 1).bit_length()


def chunk_cells(parameters):
    """Most cells that are read at a time: so few that three quarters of the handles last."""
    return min(parameters.post_prefetch // 4, 64)


class Element(data.StructLayout):
    """An element of a region, within the limits that were checked."""

    def __init__(self, parameters):
        super().__init__({"element": _element_bits(parameters), "region": _region_bits(parameters)})


class Handle(data.StructLayout):
    """A posted buffer: an element, and the generation of its region when it was posted."""

    def __init__(self, parameters):
        super().__init__({"at": Element(parameters), "generation": 8})


class QueuedHandle(data.StructLayout):
    """A handle and the queue that it was posted to."""

    def __init__(self, parameters):
        super().__init__({"handle": Handle(parameters), "queue": queue_bits(parameters)})


class Reservation(data.StructLayout):
    """Room for the handles of a read of `count` cells of a post ring."""

    def __init__(self, parameters):
        super().__init__(
            {"queue": queue_bits(parameters), "count": range(chunk_cells(parameters) + 1)}
        )


class ElementStates(wiring.Component):
    """Two bits for each postable element; it is posted, or in flight, while they differ.

    One is written by marks alone, the other by `finish` and `discard` alone, each in a
    read-modify-write pipeline of its own over block RAM. So a mark and a clear are taken in every
    cycle; `finish` comes before `discard`, and the sweep takes cycles that both pipelines have
    free. What one operation writes the next one sees. An element that is marked and cleared in the
    same cycle was marked before, and ends clear; one that is not marked is not to be cleared.

    Ports
    -----
    mark: marks an element; `marked_before` says in the following cycle whether it was so already.
    finish, discard: clear an element. sweep: clears all of a region, in as many cycles as it has
    words of 32 elements; `busy` meanwhile. Contents are undefined after power-up and reset: a
    region is swept before it goes live.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        super().__init__(
            {
                "mark": In(stream.Signature(Element(parameters))),
                "marked_before": Out(1),
                "finish": In(Strobe(Element(parameters))),
                "discard": In(stream.Signature(Element(parameters))),
                "sweep": In(stream.Signature(_region_bits(parameters))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        word = min(32, p.postable_max)
        lane_bits = (word - 1).bit_length()
        line_bits = max(1, _element_bits(p) - lane_bits)
        lines = max(1, p.postable_max // word)
        depth = 1 << (line_bits + _region_bits(p))
        m.submodules.marks = marks = Memory(shape=word, depth=depth, init=[])
        m.submodules.clears = clears = Memory(shape=word, depth=depth, init=[])
        marks_write, clears_write = marks.write_port(), clears.write_port()

        region = Signal(_region_bits(p))
        line = Signal(range(lines + 1))
        sweeping = Signal()
        m.d.comb += [self.busy.eq(sweeping), self.sweep.ready.eq(~sweeping)]
        with m.If(self.sweep.valid & ~sweeping):
            m.d.sync += [sweeping.eq(1), region.eq(self.sweep.payload), line.eq(0)]

        clearing = Signal(Element(p))
        clear, mark, sweep = Signal(), Signal(), Signal()
        m.d.comb += [
            mark.eq(self.mark.valid),
            self.mark.ready.eq(1),
            self.discard.ready.eq(~self.finish.valid),
            clear.eq(self.finish.valid | self.discard.valid),
            clearing.eq(Mux(self.finish.valid, self.finish.payload, self.discard.payload)),
            sweep.eq(sweeping & ~mark & ~clear),
        ]
        with m.If(sweep):
            m.d.sync += line.eq(line + 1)
            with m.If(line == lines - 1):
                m.d.sync += sweeping.eq(0)
        swept = Cat(line[:line_bits], region)

        def pipeline(active, element, write, other_write, name):
            """Reads both words of `element`; in the next cycle `write` is offered its address.

            Gives the words of that next cycle (own, other), the element's bit, and `active`.
            """
            address = Signal.like(write.addr, name=f"{name}_address")
            m.d.comb += address.eq(
                Mux(sweep, swept, Cat((element.element >> lane_bits)[:line_bits], element.region))
            )
            words = []
            for memory, port in ((write.memory, write), (other_write.memory, other_write)):
                read = memory.read_port(transparent_for=(port,))
                m.d.comb += read.addr.eq(address)
                words.append(read.data)
            now, at = Signal(name=f"{name}_now"), Signal.like(address, name=f"{name}_at")
            lane, bit = Signal(lane_bits, name=f"{name}_lane"), Signal(word, name=f"{name}_bit")
            m.d.sync += [now.eq(active), at.eq(address), lane.eq(element.element[:lane_bits])]
            m.d.comb += [bit.eq(1 << lane), write.addr.eq(at)]
            return *words, bit, now

        mark_own, mark_other, mark_bit, mark_now = pipeline(
            mark, self.mark.payload, marks_write, clears_write, "mark"
        )
        clear_own, clear_other, clear_bit, clear_now = pipeline(
            clear, clearing, clears_write, marks_write, "clear"
        )
        sweep_now = Signal()
        m.d.sync += sweep_now.eq(sweep)
        m.d.comb += [
            self.marked_before.eq(((mark_own ^ mark_other) & mark_bit).any()),
            marks_write.en.eq(mark_now | sweep_now),
            clears_write.en.eq(clear_now | sweep_now),
        ]
        with m.If(~sweep_now):
            m.d.comb += [
                marks_write.data.eq((mark_own & ~mark_bit) | (~mark_other & mark_bit)),
                clears_write.data.eq((clear_own & ~clear_bit) | (clear_other & clear_bit)),
            ]
        return m


class HandleQueues(wiring.Component):
    """For each queue up to `post_prefetch` handles that are ready to be claimed, in one memory.

    One push a cycle, and a claim every second cycle: the first handle of each queue is kept out of
    the memory (`handle`, in the same cycle), the one behind it is read meanwhile. A queue that was
    empty shows its first handle 2 cycles after the push, or later while others are looked at:
    `found` tells.

    A claim of several handles walks `depth` from 0 on; `following` is the handle behind the one at
    `depth`, a cycle later, if `another`. `pop` takes all up to `depth` away. `replace` takes one
    away: that at `depth` (above 0) leaves its place to the first; not beside a push.

    Room is taken by `reserve` before cells are read, so a push always has room.

    A queue's ring that is stored anew (`flush`) and a region that is registered anew (`purge`)
    first lose their handles here: `hold` asks the placer and the fetcher to stand still; once all
    is `quiet`, each queue concerned is walked once, two cycles a handle; handles that go leave by
    `discard`, the others keep their order. After a purge the region's element states are swept.

    Ports
    -----
    push, reserve, release (a cell that was refused): as above. wanted: the placer looks at `queue`.
    handle, found, depth, following, another, pop, replace: as above. ready: handles in `queue`.
    held: with those reserved. roomy: queues with room for a read.
    flush, flushing, purge, purging, sweep, hold, quiet, discard: as above.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        bits = queue_bits(p)
        count = range(p.post_prefetch + 1)
        super().__init__(
            {
                "push": In(Strobe(QueuedHandle(p))),
                "reserve": In(Strobe(Reservation(p))),
                "release": In(Strobe(bits)),
                "wanted": In(1),
                "queue": In(bits),
                "handle": Out(Handle(p)),
                "found": Out(1),
                "depth": In(range(p.chain_max)),
                "following": Out(Handle(p)),
                "another": Out(1),
                "pop": In(1),
                "replace": In(1),
                "ready": Out(count),
                "held": Out(count),
                "roomy": Out(1 << bits),
                "flush": In(Strobe(bits)),
                "flushing": Out(1 << bits),
                "purge": In(stream.Signature(8)),
                "purging": Out(1),
                "sweep": Out(stream.Signature(_region_bits(p))),
                "hold": Out(1),
                "quiet": In(1),
                "discard": Out(stream.Signature(QueuedHandle(p))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = queue_bits(p)
        queues = 1 << bits
        slot_bits = p.post_prefetch.bit_length() - 1
        m.submodules.memory = memory = Memory(
            shape=Handle(p), depth=queues * p.post_prefetch, init=[]
        )
        m.submodules.firsts = firsts = Memory(shape=Handle(p), depth=queues, init=[])
        write, read = memory.write_port(), memory.read_port()
        first_write, first_read = firsts.write_port(), firsts.read_port(domain="comb")

        head = Array(Signal(slot_bits, name=f"head_{q}") for q in range(queues))
        ready = Array(Signal(slot_bits + 1, name=f"ready_{q}") for q in range(queues))
        held = Array(Signal(slot_bits + 1, name=f"held_{q}") for q in range(queues))
        kept = Signal(queues)  # the queue's first handle is in `firsts`, too

        walking = Signal()
        walked = Signal(bits)
        rotate, drop = Signal(), Signal()
        scan = Signal(bits)  # looks for queues whose first handle is to be fetched
        queue = Signal(bits)
        slot = Signal(slot_bits)
        fetched, fetched_queue = Signal(), Signal(bits)
        behind = Signal(range(p.chain_max + 1))
        m.d.sync += scan.eq(scan + 1)
        m.d.comb += [
            queue.eq(Mux(walking, walked, Mux(self.wanted, self.queue, scan))),
            behind.eq(self.depth + 1),
            slot.eq(head[queue]),
            read.addr.eq(Cat(slot, queue)),
            first_read.addr.eq(self.queue),
            self.handle.eq(first_read.data),
            self.found.eq(kept.bit_select(self.queue, 1)),
            self.following.eq(read.data),
            self.ready.eq(ready[self.queue]),
            self.held.eq(held[self.queue]),
        ]
        with m.If(~walking & kept.bit_select(queue, 1)):
            m.d.comb += slot.eq(head[queue] + behind)
        m.d.sync += [
            self.another.eq(ready[queue] > behind),
            fetched.eq(~self.hold & ~kept.bit_select(queue, 1) & (ready[queue] != 0)),
            fetched_queue.eq(queue),
        ]
        m.d.comb += [
            first_write.en.eq(fetched | self.pop),
            first_write.addr.eq(Mux(fetched, fetched_queue, self.queue)),
            first_write.data.eq(read.data),
        ]
        # A queue without a first handle is neither popped nor replaced in.
        with m.If(fetched):
            m.d.sync += kept.bit_select(fetched_queue, 1).eq(1)
        with m.Elif(self.pop | self.replace):
            m.d.sync += kept.bit_select(self.queue, 1).eq(self.pop & self.another)

        pushed = Signal(bits)
        m.d.comb += [
            pushed.eq(Mux(rotate, walked, self.push.payload.queue)),
            write.en.eq(self.push.valid | rotate | self.replace),
            write.addr.eq(Cat((head[pushed] + ready[pushed])[:slot_bits], pushed)),
            write.data.eq(Mux(rotate, read.data, self.push.payload.handle)),
        ]
        with m.If(self.replace):
            m.d.comb += [
                write.addr.eq(Cat((head[self.queue] + self.depth)[:slot_bits], self.queue)),
                write.data.eq(self.handle),
            ]
        leaving = Signal.like(behind)
        m.d.comb += leaving.eq(Mux(self.pop, behind, self.replace | drop))
        left_queue = Signal(bits)
        m.d.comb += left_queue.eq(Mux(walking, walked, self.queue))
        for q in range(queues):
            push = self.push.valid & (self.push.payload.queue == q)
            gone = Mux(left_queue == q, leaving, 0)
            reserved = self.reserve.valid & (self.reserve.payload.queue == q)
            released = self.release.valid & (self.release.payload == q)
            m.d.sync += [
                head[q].eq(head[q] + gone + (rotate & (walked == q))),
                ready[q].eq(ready[q] + push - gone),
                held[q].eq(
                    held[q] + Mux(reserved, self.reserve.payload.count, 0) - released - gone
                ),
            ]
            m.d.comb += self.roomy[q].eq(held[q] <= p.post_prefetch - chunk_cells(p))

        # The walk.
        region = Signal(8)
        left = Signal(slot_bits + 1)
        goes = Signal()
        flush_now = Signal()  # latched, since a ring may be stored while its queue is walked
        flushing = Signal(queues)
        flush_done = Signal(queues)
        flush_new = Mux(self.flush.valid, 1 << self.flush.payload, 0)
        m.d.sync += flushing.eq((flushing & ~flush_done) | flush_new[:queues])
        m.d.comb += [
            self.flushing.eq(flushing),
            goes.eq(flush_now | (self.purging & (read.data.at.region == region))),
            self.discard.payload.handle.eq(read.data),
            self.discard.payload.queue.eq(walked),
            self.sweep.payload.eq(region),
        ]
        with m.FSM() as fsm:
            m.d.comb += self.hold.eq(
                flushing.any() | self.purge.valid | ~fsm.ongoing("idle")  # to the end of the walk
            )
            with m.State("idle"):
                with m.If(self.purge.valid):
                    m.d.comb += self.purge.ready.eq(1)
                    m.d.sync += [self.purging.eq(1), region.eq(self.purge.payload)]
                    m.next = "settle"
                with m.Elif(flushing.any()):
                    m.next = "settle"
            with m.State("settle"), m.If(self.quiet):
                m.d.sync += [walked.eq(0), kept.eq(0)]  # heads are about to move
                m.next = "queue"
            with m.State("queue"):
                m.d.comb += walking.eq(1)
                m.d.sync += [left.eq(ready[walked]), flush_now.eq(flushing.bit_select(walked, 1))]
                m.next = "next"
                with m.If((flushing.bit_select(walked, 1) | self.purging) & (ready[walked] != 0)):
                    m.next = "peek"
            with m.State("peek"):
                m.d.comb += walking.eq(1)
                m.next = "handle"
            with m.State("handle"):
                m.d.comb += [walking.eq(1), self.discard.valid.eq(goes), rotate.eq(~goes)]
                with m.If(~goes | self.discard.ready):
                    m.d.comb += drop.eq(goes)
                    m.d.sync += left.eq(left - 1)
                    m.next = "settled"
            with m.State("settled"):  # the head has moved
                m.d.comb += walking.eq(1)
                m.next = "handle"
                with m.If(left == 0):
                    m.next = "next"
            with m.State("next"):
                m.d.comb += [walking.eq(1), flush_done.eq(flush_now << walked)]
                m.d.sync += walked.eq(walked + 1)
                m.next = "queue"
                with m.If(walked == queues - 1):
                    m.next = "sweep"
            with m.State("sweep"):
                m.d.comb += self.sweep.valid.eq(self.purging)
                with m.If(~self.purging | self.sweep.ready):
                    m.d.sync += self.purging.eq(0)
                    m.next = "idle"
        return m
