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

__all__ = ["Element", "ElementStates", "Handle", "HandleQueues", "QueuedHandle"]


def _region_bits(parameters):
    return max(1, (parameters.regions - 1).bit_length())


def _element_bits(parameters):
    return (parameters.postable_max - 1).bit_length()


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


class ElementStates(wiring.Component):
    """One bit for each postable element: posted, or in flight.

    A read-modify-write pipeline over block RAM, one operation a cycle; `finish` comes first, then
    `discard`, `mark`, and the sweep, so only the first is always taken. What one operation writes
    the next one sees.

    Ports
    -----
    mark: sets a bit; `marked_before` says in the following cycle whether it was set already.
    finish, discard: clear a bit. sweep: clears all bits of a region, in as many cycles as it has
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
        m.submodules.memory = memory = Memory(
            shape=word, depth=1 << (line_bits + _region_bits(p)), init=[]
        )
        write = memory.write_port()
        read = memory.read_port(transparent_for=(write,))

        region = Signal(_region_bits(p))
        line = Signal(range(lines + 1))
        sweeping = Signal()
        m.d.comb += [self.busy.eq(sweeping), self.sweep.ready.eq(~sweeping)]
        with m.If(self.sweep.valid & ~sweeping):
            m.d.sync += [sweeping.eq(1), region.eq(self.sweep.payload), line.eq(0)]

        chosen = Signal(Element(p))
        clear, mark, sweep = Signal(), Signal(), Signal()
        m.d.comb += chosen.eq(self.mark.payload)
        with m.If(self.finish.valid):
            m.d.comb += [clear.eq(1), chosen.eq(self.finish.payload)]
        with m.Elif(self.discard.valid):
            m.d.comb += [clear.eq(1), chosen.eq(self.discard.payload), self.discard.ready.eq(1)]
        with m.Elif(self.mark.valid):
            m.d.comb += [mark.eq(1), self.mark.ready.eq(1)]
        with m.Elif(sweeping):
            m.d.comb += [
                sweep.eq(1),
                chosen.region.eq(region),
                chosen.element.eq(line << lane_bits),
            ]
            m.d.sync += line.eq(line + 1)
            with m.If(line == lines - 1):
                m.d.sync += sweeping.eq(0)

        address = Cat((chosen.element >> lane_bits)[:line_bits], chosen.region)
        m.d.comb += read.addr.eq(address)

        clear_now, mark_now, sweep_now = Signal(), Signal(), Signal()
        lane = Signal(lane_bits)
        at = Signal.like(read.addr)
        m.d.sync += [
            clear_now.eq(clear),
            mark_now.eq(mark),
            sweep_now.eq(sweep),
            lane.eq(chosen.element[:lane_bits]),
            at.eq(address),
        ]
        bit = Signal(word)
        m.d.comb += [
            bit.eq(1 << lane),
            self.marked_before.eq((read.data & bit).any()),
            write.addr.eq(at),
            write.en.eq(clear_now | mark_now | sweep_now),
        ]
        with m.If(mark_now):
            m.d.comb += write.data.eq(read.data | bit)
        with m.Elif(clear_now):
            m.d.comb += write.data.eq(read.data & ~bit)
        return m


class HandleQueues(wiring.Component):
    """For each queue up to `post_prefetch` handles that are ready to be claimed, in one memory.

    One push and one pop a cycle. The head of `queue` is on `handle` one cycle after `queue`; it
    stays there as long as neither changes. Pops of an empty queue must not be made.

    Room is taken by `reserve` before cells are read, so a push always has room.

    A queue's ring that is stored anew (`flush`) and a region that is registered anew (`purge`)
    first lose their handles here: `hold` asks the placer and the fetcher to stand still; once all
    is `quiet`, each queue concerned is walked once, two cycles a handle; handles that go leave by
    `discard`, the others keep their order. After a purge the region's element states are swept.

    Ports
    -----
    push, reserve {queue, count}, release (a cell that was refused), queue, handle, pop: as above.
    ready: handles ready in `queue`. held: with those reserved. roomy: queues with room for `chunk`.
    flush, flushing, purge, purging, sweep, hold, quiet, discard: as above.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        bits = queue_bits(p)
        # Small reads keep most of the handles for the time that the next read takes.
        self.chunk = min(p.post_prefetch // 4, 16)
        count = range(p.post_prefetch + 1)
        super().__init__(
            {
                "push": In(Strobe(QueuedHandle(p))),
                "reserve": In(Strobe(data.StructLayout({"queue": bits, "count": 5}))),
                "release": In(Strobe(bits)),
                "queue": In(bits),
                "handle": Out(Handle(p)),
                "pop": In(1),
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
        write, read = memory.write_port(), memory.read_port()

        head = Array(Signal(slot_bits, name=f"head_{q}") for q in range(queues))
        ready = Array(Signal(slot_bits + 1, name=f"ready_{q}") for q in range(queues))
        held = Array(Signal(slot_bits + 1, name=f"held_{q}") for q in range(queues))

        walking = Signal()
        walked = Signal(bits)
        rotate, drop = Signal(), Signal()
        queue = Signal(bits)
        m.d.comb += [
            queue.eq(Mux(walking, walked, self.queue)),
            read.addr.eq(Cat(head[queue], queue)),
            self.handle.eq(read.data),
            self.ready.eq(ready[queue]),
            self.held.eq(held[queue]),
        ]

        pushed = Signal(bits)
        m.d.comb += [
            pushed.eq(Mux(rotate, walked, self.push.payload.queue)),
            write.en.eq(self.push.valid | rotate),
            write.addr.eq(Cat((head[pushed] + ready[pushed])[:slot_bits], pushed)),
            write.data.eq(Mux(rotate, read.data, self.push.payload.handle)),
        ]
        for q in range(queues):
            push = self.push.valid & (self.push.payload.queue == q)
            pop = (self.pop | drop) & (queue == q)
            reserved = self.reserve.valid & (self.reserve.payload.queue == q)
            released = self.release.valid & (self.release.payload == q)
            m.d.sync += [
                head[q].eq(head[q] + (pop | (rotate & (queue == q)))),
                ready[q].eq(ready[q] + push - pop),
                held[q].eq(held[q] + Mux(reserved, self.reserve.payload.count, 0) - released - pop),
            ]
            m.d.comb += self.roomy[q].eq(held[q] <= p.post_prefetch - self.chunk)

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
                m.d.sync += walked.eq(0)
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
