"""The command engine: reads the command ring, carries out one command at a time, tells the end.

Everything in a command is read once and checked before it is used. What a command asks of others
(settings, fences, the exact-rule table) ends by itself, so the ring never hangs.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from .. import abi
from ..csr.control import CommandControl
from ..csr.steering import queue_limit
from ..interfaces import ExactStore, FrameBeat, ReadClient, SteeredFrame, Strobe
from .completion import CommandDone
from .place import RANGES_MAX, Placement
from .words import Words

__all__ = ["CommandEngine"]

_CELL_LOG2 = abi.CELL_BYTES.bit_length() - 1
_DONE, _REFUSED, _LOST = range(3)
assert abi.COMMAND.bytes == abi.CELL_BYTES and abi.EXACT_RULE.bytes % abi.CELL_BYTES == 0


class CommandEngine(wiring.Component):
    """Serves the command ring.

    One command is under way at a time: its completion is taken before the next is read. A command
    costs two reads of header memory at most, and what it asks for. One with a wrong field is
    refused and the ring goes on behind it; one that runs beyond the producer index is refused and
    the ring goes on at that index. After a read error the ring stops until it is set up anew.
    Beyond the ring a producer doorbell is ignored.

    Refused: an unknown kind; a field that the kind does not use and that is not zero; a queue,
    slot, context or region that the card does not have; a PLACE of no or more than 16 ranges, of an
    empty range, of one outside the header memory, of more bytes than a frame has; a QUEUE_RESET of
    queue 0, whose completion ring would have told of it.

    Ports
    -----
    control: the registers. read: header memory. exact_store, exact_busy: the table of exact rules;
    it is written only while it is not busy, and fenced only once it is not busy again.
    place_frames, place_beats: to the injector. completions: one for each command.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "control": In(CommandControl(p)),
                "read": Out(ReadClient(p)),
                "exact_store": Out(Strobe(ExactStore(p))),
                "exact_busy": In(1),
                "place_frames": Out(stream.Signature(SteeredFrame(p))),
                "place_beats": Out(stream.Signature(FrameBeat(p.bus_bytes))),
                "completions": Out(stream.Signature(CommandDone())),
                "cycles": In(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        control = self.control
        m.submodules.words = words = Words(p.bus_bytes)
        m.submodules.placement = placement = Placement(p)
        connect(m, placement.frames, flipped(self.place_frames))
        connect(m, placement.beats, flipped(self.place_beats))

        # -- the ring --
        base, log2_bytes = Signal(p.address_bits), Signal(5)
        producer, consumer = Signal(32), Signal(32)
        stopped = Signal()
        cells, ahead, rung = Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            rung.eq(control.producer.payload - consumer),
            cells.eq((1 << log2_bytes) >> _CELL_LOG2),
            ahead.eq(producer - consumer),
            control.consumer.eq(consumer),
        ]
        store = control.ring_store
        with m.If(store.valid):
            m.d.sync += [
                base.eq(store.payload.base), log2_bytes.eq(store.payload.log2_bytes),
                producer.eq(0), consumer.eq(0), stopped.eq(0),
            ]  # fmt: skip
        with m.Elif(control.producer.valid & (rung <= cells)):
            m.d.sync += producer.eq(control.producer.payload)

        # -- the command --
        fixed = Signal(abi.COMMAND.as_amaranth())
        rule = Signal(abi.EXACT_RULE.as_amaranth())
        m.submodules.ranges = ranges = Memory(
            shape=abi.COMMAND_RANGE.as_amaranth(), depth=RANGES_MAX, init=[]
        )
        range_write, range_read = ranges.write_port(), ranges.read_port(domain="comb")
        got = Signal(range(256))  # words of this read
        broken, status = Signal(), Signal(2)
        kind = abi.CommandKind
        is_place, is_rule = fixed.kind == kind.PLACE, fixed.kind == kind.RULE
        more = Signal(12)  # bytes behind the fixed part
        size = Signal(9)  # cells
        with m.If(is_rule):
            m.d.comb += more.eq(abi.EXACT_RULE.bytes)
        with m.Elif(is_place & (fixed.ranges != 0)):
            m.d.comb += more.eq((fixed.ranges - 1) << 3)
        m.d.comb += size.eq(1 + ((more + abi.CELL_BYTES - 1) >> _CELL_LOG2))

        request, word = self.read.request, words.words
        behind = Signal()  # the read is of what follows the fixed part
        reading = Signal()
        m.d.comb += [
            range_read.addr.eq(placement.range_index),
            placement.range.eq(range_read.data),
            placement.header_base.eq(control.header_base),
            placement.header_pages.eq(control.header_pages),
            placement.cycles.eq(self.cycles),
            word.ready.eq(1),
            words.beats.payload.eq(self.read.beats.payload),
            placement.read.beats.payload.eq(self.read.beats.payload),
            placement.read.request.ready.eq(request.ready & ~reading),
            request.payload.eq(placement.read.request.payload),
            request.valid.eq(placement.read.request.valid),
        ]
        with m.If(reading):
            m.d.comb += [
                words.beats.valid.eq(self.read.beats.valid),
                self.read.beats.ready.eq(words.beats.ready),
            ]
        with m.Else():
            m.d.comb += [
                placement.read.beats.valid.eq(self.read.beats.valid),
                self.read.beats.ready.eq(placement.read.beats.ready),
            ]
        at = Signal(32)
        m.d.comb += at.eq(consumer + behind)

        def ask(length):
            m.d.comb += [
                reading.eq(1),
                request.valid.eq(1),
                request.payload.address.eq(base | ((at & (cells - 1)) << _CELL_LOG2)),
                request.payload.length.eq(length),
                request.payload.wrap_log2.eq(log2_bytes),
            ]
            m.d.sync += [got.eq(0), broken.eq(0)]
            return request.ready

        def read_words():
            """True in the cycle of the last word."""
            m.d.comb += reading.eq(1)
            with m.If(word.valid):
                m.d.sync += [got.eq(got + 1), broken.eq(broken | word.payload.error)]
            return word.valid & word.payload.last

        failed = broken | word.payload.error
        mask = fixed.offset[: p.regions]
        begin_fence = Signal()
        m.d.comb += [
            control.fence.eq(begin_fence),
            placement.start.payload.ranges.eq(fixed.ranges),
            placement.start.payload.queue.eq(fixed.queue),
            placement.start.payload.cookie.eq(fixed.cookie),
        ]

        def complete(outcome):
            m.d.sync += status.eq(outcome)
            m.next = "complete"

        with m.FSM() as fsm:
            m.d.comb += control.busy.eq(~fsm.ongoing("idle"))
            with m.State("idle"):
                m.d.sync += behind.eq(0)
                with m.If(control.enable & ~stopped & (ahead != 0)):
                    m.next = "ask"
            with m.State("ask"), m.If(ask(abi.COMMAND.bytes)):
                m.next = "fixed"
            with m.State("fixed"):
                done = read_words()
                with m.If(word.valid):
                    m.d.sync += fixed.as_value().eq(Cat(fixed.as_value()[64:], word.payload.data))
                with m.If(done):
                    m.next = "size"
                    with m.If(failed):
                        m.d.sync += [fixed.eq(0), stopped.eq(1)]
                        complete(_LOST)
            with m.State("size"):
                m.d.comb += [
                    range_write.en.eq(1),
                    range_write.addr.eq(0),
                    range_write.data.offset.eq(fixed.offset),
                    range_write.data.length.eq(fixed.length),
                ]
                m.d.sync += behind.eq(1)
                with m.If(size > ahead):
                    m.d.sync += consumer.eq(producer)
                    complete(_REFUSED)
                with m.Elif(more == 0):
                    m.d.sync += consumer.eq(consumer + 1)
                    m.next = "judge"
                with m.Else():
                    m.next = "ask more"
            with m.State("ask more"), m.If(ask(more)):
                m.next = "more"
            with m.State("more"):
                done = read_words()
                with m.If(word.valid):
                    m.d.sync += rule.as_value().eq(Cat(rule.as_value()[64:], word.payload.data))
                m.d.comb += [
                    range_write.en.eq(word.valid & (got < RANGES_MAX - 1)),
                    range_write.addr.eq(got + 1),
                    range_write.data.eq(word.payload.data),
                ]
                with m.If(done):
                    m.d.sync += consumer.eq(consumer + size)
                    m.next = "judge"
                    with m.If(failed):
                        m.d.sync += stopped.eq(1)
                        complete(_LOST)

            with m.State("judge"):
                plain = (fixed.ranges == 0) & (fixed.length == 0)  # no PLACE
                good = Signal()
                common = Signal()
                m.d.comb += common.eq(
                    (fixed.spare == 0) & (fixed.spare_2 == 0) & (fixed.queue < p.queues)
                )
                complete(_REFUSED)
                with m.Switch(fixed.kind):
                    with m.Case(kind.PLACE):
                        m.d.comb += good.eq(
                            common & (fixed.ranges != 0) & (fixed.ranges <= RANGES_MAX)
                        )
                        with m.If(good):
                            m.d.comb += placement.start.valid.eq(1)
                            m.next = "place"
                    with m.Case(kind.REVOKE):
                        m.d.comb += good.eq(common & plain & (fixed.offset >> p.regions == 0))
                        with m.If(good):
                            m.d.comb += control.revoke.eq(mask)
                            m.next = "revoke"
                    with m.Case(kind.RULE):
                        m.d.comb += good.eq(
                            common & plain & (fixed.offset == 0)
                            & (rule.slot < p.exact_ways * p.exact_rows)
                            & (~rule.valid | (rule.queue < queue_limit(p, rule.rss)))
                            & (rule.spare == 0) & (rule.spare_2 == 0)
                        )  # fmt: skip
                        with m.If(good):
                            m.next = "rule"
                    with m.Case(kind.FENCE):
                        m.d.comb += good.eq(common & plain & (fixed.offset == 0))
                        with m.If(good):
                            m.d.comb += begin_fence.eq(1)
                            m.next = "fence"
                    with m.Case(kind.QUEUE_RESET):
                        m.d.comb += good.eq(
                            common & plain & (fixed.offset == 0) & (fixed.queue != 0)
                        )
                        with m.If(good):
                            m.d.comb += control.queue_off.eq(1 << fixed.queue)
                            m.next = "queue off"

            with m.State("place"), m.If(placement.done):
                m.d.sync += stopped.eq(stopped | placement.failed)
                complete(Mux(placement.failed, _LOST, Mux(placement.refused, _REFUSED, _DONE)))
            with m.State("revoke"), m.If((control.revoking & mask) == 0):
                complete(_DONE)
            with m.State("queue off"), m.If(
                ~control.switching.bit_select(fixed.queue, 1)
            ):  # fmt: skip
                complete(_DONE)
            with m.State("rule"), m.If(~self.exact_busy):
                m.d.comb += self.exact_store.valid.eq(1)
                m.next = "rule stored"
            with m.State("rule stored"):  # busy shows from here on
                m.next = "rule busy"
            with m.State("rule busy"), m.If(~self.exact_busy):
                m.d.comb += begin_fence.eq(1)
                m.next = "fence"
            with m.State("fence"), m.If(control.fenced):
                complete(_DONE)
            with m.State("complete"):
                m.d.comb += self.completions.valid.eq(1)
                with m.If(self.completions.ready):
                    m.next = "idle"

        target = self.exact_store.payload
        m.d.comb += [
            target[name].eq(rule[name])
            for name in (
                "slot", "valid", "ipv6", "udp", "rss", "queue", "remote_port", "local_port",
                "remote", "local",
            )
        ] + [
            self.completions.payload.queue.eq(fixed.queue),
            self.completions.payload.status.eq(status),
            self.completions.payload.cookie.eq(fixed.cookie),
            self.completions.payload.index.eq(consumer),
        ]  # fmt: skip
        return m
