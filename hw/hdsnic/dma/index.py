"""Index write-back: the newest indices of a queue, written into its slot in header memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import IndexUpdate, Strobe, WriteClient

__all__ = ["IndexWriter"]

_UPDATES_MAX = 16
"""So many updates of a half make a write-back overdue; before that it waits for an idle port."""
_HALF_BYTES = 8


class IndexWriter(wiring.Component):
    """Coalesces updates of the index slots and writes them when the port is idle.

    An update of each half is taken every cycle. One that meets an idle port leaves a cycle later;
    else it is written, together with those that it overtook, as soon as `port_idle` is 1, and at
    the latest when 16 updates of its half wait or a user asks to catch up, a queue at a time, in
    turn. A write takes both halves of a slot if both have changed: 8 bytes, or 16.

    `rx_written` and `tx_written` give the queue once the memory has acknowledged the half: only
    then may software be interrupted. They say nothing of a write that met an error.

    Parameters
    ----------
    users: how many may ask to catch up at a time.

    Ports
    -----
    rx_update, tx_update: of the receive half of a slot (bytes 0 to 7), and of the transmit half.
    base: bus address of the slots. port_idle: of `write`'s port. idle: all updates are written and
    acknowledged.
    catch_up: a pulse, of each user. behind: from the next cycle, until all `rx_update`s up to the
    pulse are written and acknowledged.
    """

    def __init__(self, parameters, users=1):
        self.parameters, self.users = parameters, users
        p = parameters
        self._queue_bits = max(1, (p.queues - 1).bit_length())
        super().__init__(
            {
                "rx_update": In(Strobe(IndexUpdate(p))),
                "tx_update": In(Strobe(IndexUpdate(p))),
                "base": In(p.address_bits),
                "port_idle": In(1),
                "write": Out(WriteClient(p)),
                "rx_written": Out(Strobe(self._queue_bits)),
                "tx_written": Out(Strobe(self._queue_bits)),
                "idle": Out(1),
                "catch_up": In(1).array(users),
                "behind": Out(1).array(users),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = self._queue_bits
        updates = (self.rx_update, self.tx_update)
        halves = range(len(updates))
        dirty = [Signal(p.queues, name=f"dirty_{half}") for half in halves]
        still_dirty = [Signal(p.queues, name=f"still_dirty_{half}") for half in halves]
        waiting = [Signal(range(_UPDATES_MAX + 1), name=f"waiting_{half}") for half in halves]

        # Round robin over what waits; only when nothing does, an update goes straight through.
        waits = Signal(p.queues)
        last = Signal(bits)
        chosen = Signal(bits)
        m.d.comb += waits.eq(dirty[0] | dirty[1])
        with m.If(~waits.any()):
            m.d.comb += chosen.eq(
                Mux(
                    self.rx_update.valid, self.rx_update.payload.queue, self.tx_update.payload.queue
                )
            )
        for later in (0, 1):
            for k in reversed(range(p.queues)):
                with m.If(waits[k] & ((k > last) if later else 1)):
                    m.d.comb += chosen.eq(k)

        m.submodules.queues = queues = SyncFIFO(width=bits + 2, depth=p.outstanding)
        request, beats = self.write.request, self.write.beats
        start, overdue, something = Signal(), Signal(), Signal()
        unwritten = [Signal(p.queues, name=f"unwritten_{k}") for k in range(self.users)]
        m.d.comb += [
            overdue.eq(
                Cat(count == _UPDATES_MAX for count in waiting).any() | Cat(unwritten).any()
            ),
            something.eq(waits.any() | self.rx_update.valid | self.tx_update.valid),
            start.eq(
                something
                & ~request.valid
                & ~beats.valid
                & (self.port_idle | overdue)
                & queues.w_rdy
            ),
        ]

        words, changed = [], []
        for half in halves:
            update = updates[half]
            newest = Memory(shape=64, depth=p.queues, init=[])
            m.submodules[f"newest_{half}"] = newest
            write, read = newest.write_port(), newest.read_port(domain="comb")
            fresh, word = Signal(name=f"fresh_{half}"), Signal(64, name=f"word_{half}")
            with_it = Signal(name=f"changed_{half}")
            value = Cat(update.payload.low, update.payload.high)
            m.d.comb += [
                write.addr.eq(update.payload.queue),
                write.data.eq(value),
                write.en.eq(update.valid),
                read.addr.eq(chosen),
                fresh.eq(update.valid & (update.payload.queue == chosen)),
                word.eq(Mux(fresh, value, read.data)),
                with_it.eq(dirty[half].bit_select(chosen, 1) | fresh),
            ]
            cleared = Mux(start, 1 << chosen, 0)
            marked = Mux(update.valid, 1 << update.payload.queue, 0)
            m.d.comb += still_dirty[half].eq((dirty[half] | marked) & ~cleared)
            m.d.sync += dirty[half].eq(still_dirty[half])
            with m.If(start & with_it):
                m.d.sync += waiting[half].eq(0)
            with m.Elif(update.valid & (waiting[half] != _UPDATES_MAX)):
                m.d.sync += waiting[half].eq(waiting[half] + 1)
            words.append(word)
            changed.append(with_it)

        m.d.comb += [queues.w_en.eq(start), queues.w_data.eq(Cat(chosen, *changed))]
        self._send(m, start, chosen, last, words, changed)

        outstanding = Signal(range(p.outstanding + 1))
        m.d.comb += outstanding.eq(queues.level + start - self.write.done)
        for k, left in enumerate(unwritten):
            # Writes are acknowledged in order: as many as there are behind the last that counts.
            unacknowledged = Signal.like(outstanding, name=f"unacknowledged_{k}")
            m.d.comb += self.behind[k].eq(left.any() | (unacknowledged != 0))
            with m.If(self.catch_up[k]):
                m.d.sync += [left.eq(still_dirty[0]), unacknowledged.eq(outstanding)]
            with m.Else():
                m.d.sync += left.eq(left & ~Mux(start, 1 << chosen, 0))
                with m.If(start & left.bit_select(chosen, 1)):
                    m.d.sync += unacknowledged.eq(outstanding)
                with m.Elif(self.write.done & (unacknowledged != 0)):
                    m.d.sync += unacknowledged.eq(unacknowledged - 1)

        m.d.comb += [
            queues.r_en.eq(self.write.done),
            self.idle.eq(~something & (queues.level == 0)),
        ]
        for half, written in enumerate((self.rx_written, self.tx_written)):
            m.d.comb += [
                written.valid.eq(
                    self.write.done & ~self.write.error & queues.r_data.bit_select(bits + half, 1)
                ),
                written.payload.eq(queues.r_data[:bits]),
            ]
        return m

    def _send(self, m, start, chosen, last, words, changed):
        """The request and its beats: one, but for both halves on a bus of 8 bytes."""
        p = self.parameters
        request, beats = self.write.request, self.write.beats
        two_beats = p.bus_bytes == _HALF_BYTES
        second = Signal(64)
        both = changed[0] & changed[1]
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(beats.valid & beats.ready):
            m.d.sync += beats.valid.eq(~beats.payload.last)
            if two_beats:
                m.d.sync += [beats.payload.data.eq(second), beats.payload.last.eq(1)]
        with m.If(start):
            m.d.sync += [
                last.eq(chosen),
                request.valid.eq(1),
                request.payload.address.eq(
                    self.base + chosen * abi.INDEX_SLOT_BYTES + Mux(changed[0], 0, _HALF_BYTES)
                ),
                request.payload.length.eq(_HALF_BYTES << both),
                request.payload.wrap_log2.eq(0),
                beats.valid.eq(1),
            ]
            if two_beats:
                m.d.sync += [
                    beats.payload.data.eq(Mux(changed[0], words[0], words[1])),
                    second.eq(words[1]),
                    beats.payload.strobe.eq(0xFF),
                    beats.payload.last.eq(~both),
                ]
            else:
                m.d.sync += [
                    beats.payload.data.eq(Cat(words)),
                    beats.payload.strobe.eq(Cat(c.replicate(_HALF_BYTES) for c in changed)),
                    beats.payload.last.eq(1),
                ]
