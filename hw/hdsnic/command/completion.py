"""Completions: commands that are done, and what was refused or failed, told to the stack.

Each queue may have a completion ring in header memory. The index that shows a completion moves only
after its write was acknowledged, as with records (I3).
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import Doorbell, Fault, QueueStore, Strobe, WriteClient
from ..rx.storage import IndexTable, queue_bits

__all__ = ["CommandDone", "CompletionWriter"]

_FAULTS = 8
"""Faults of a kind that wait while a completion is written; more are lost."""

_CELL_LOG2 = abi.COMPLETION.bytes.bit_length() - 1
assert abi.COMPLETION.bytes == abi.CELL_BYTES


class CommandDone(StructLayout):
    """A command's end. `status`: 0 done, 1 refused, 2 lost by a read error."""

    def __init__(self):
        super().__init__({"queue": 8, "status": 8, "cookie": 32, "index": 32})


class CompletionWriter(wiring.Component):
    """Writes completions, one at a time: commands into the ring of queue 0, faults into the ring of
    their queue.

    A fault is always taken at once; up to 8 of a kind wait. Where its ring is full, or the queue
    has none, or too many wait, it is lost: `lost` is 1 for a cycle. A command waits for room in its
    ring while `command_waits`; without it, or without a ring, it is lost too. Nothing waits for a
    command that waits. A write error loses the completion. 5 cycles and the write port's latency
    each.

    Ports
    -----
    faults: of receive, posts and transmit. commands: from the command engine. ring_store: a queue's
    completion ring; only while paused and idle. consumer: doorbell; nonsense is ignored. pause,
    idle: with `pause` none is begun; `idle`: none is under way. cycles: for the time of each.
    index: the ring's index after a completion that was acknowledged; taken in any later cycle.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "faults": In(stream.Signature(Fault(p))).array(3),
                "commands": In(stream.Signature(CommandDone())),
                "command_waits": In(1),
                "ring_store": In(Strobe(QueueStore(p))),
                "consumer": In(Strobe(Doorbell(p))),
                "cycles": In(32),
                "write": Out(WriteClient(p)),
                "index": Out(stream.Signature(Doorbell(p))),
                "lost": Out(1),
                "pause": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        bits = queue_bits(p)
        ring_shape = StructLayout({"base": p.address_bits, "log2_bytes": 5})
        m.submodules.rings = rings = Memory(shape=ring_shape, depth=1 << bits, init=[])
        m.submodules.producer = producer = IndexTable(bits, 2)  # by completion, doorbell
        m.submodules.consumer = consumer = IndexTable(bits, 2)
        enabled = Signal(1 << bits)
        store = self.ring_store
        ring_write, ring = rings.write_port(), rings.read_port(domain="comb")
        m.d.comb += [
            ring_write.en.eq(store.valid),
            ring_write.addr.eq(store.payload.queue),
            ring_write.data.base.eq(store.payload.base),
            ring_write.data.log2_bytes.eq(store.payload.log2_bytes),
        ]
        for table in (producer, consumer):
            m.d.comb += [table.clear.eq(store.valid), table.clear_queue.eq(store.payload.queue)]
        with m.If(store.valid):
            m.d.sync += enabled.bit_select(store.payload.queue, 1).eq(store.payload.enable)

        # Consumer doorbells: forward, and no further than what was written.
        rung, bell = Signal(), Signal(Doorbell(p))
        written, handed_back = Signal(32), Signal(32)
        m.d.sync += [rung.eq(self.consumer.valid), bell.eq(self.consumer.payload)]
        m.d.comb += [
            producer.queue[1].eq(bell.queue),
            consumer.queue[1].eq(bell.queue),
            written.eq(producer.value[1] - consumer.value[1]),
            handed_back.eq(bell.index - consumer.value[1]),
            consumer.write.eq(rung & (handed_back <= written)),
            consumer.write_queue.eq(bell.queue),
            consumer.write_value.eq(bell.index),
        ]

        # -- choose, in turn --
        kinds = abi.CompletionKind
        names = (kinds.RECEIVE_FAULT, kinds.POST_FAULT, kinds.TRANSMIT_FAULT)
        waiting, overflow = [], []
        told = {n: abi.COMPLETION.widths[n] for n in ("kind", "queue", "status", "cookie", "index")}
        job_shape = StructLayout({"ring": bits, "command": 1, **told})
        stamp = Signal(32)
        job, chosen = Signal(job_shape), Signal(job_shape)
        take = Signal()
        turn = Signal(range(4))
        offers = Signal(4)
        for k, (kind, fault) in enumerate(zip(names, self.faults, strict=True)):
            m.submodules[f"fault_{k}"] = fifo = SyncFIFO(width=Fault(p).size, depth=_FAULTS)
            oldest = Fault(p)(fifo.r_data)
            m.d.comb += [
                fault.ready.eq(1),
                fifo.w_en.eq(fault.valid),
                fifo.w_data.eq(fault.payload),
                offers[k].eq(fifo.r_rdy),
                fifo.r_en.eq(take & (turn == k)),
            ]
            overflow.append(fault.valid & ~fifo.w_rdy)
            waiting.append(
                {"ring": oldest.queue, "kind": kind, "queue": oldest.queue,
                 "status": oldest.status, "index": oldest.index}
            )  # fmt: skip
        command = self.commands.payload
        waiting.append(
            {"command": 1, "kind": kinds.COMMAND, "queue": command.queue,
             "status": command.status, "cookie": command.cookie, "index": command.index}
        )  # fmt: skip
        m.d.comb += offers[3].eq(self.commands.valid)
        with m.Switch(turn):
            for k, fields in enumerate(waiting):
                with m.Case(k):
                    m.d.comb += [chosen[name].eq(value) for name, value in fields.items()]

        used, cells, there = Signal(32), Signal(32), Signal()
        m.d.comb += [
            ring.addr.eq(job.ring),
            producer.queue[0].eq(job.ring),
            consumer.queue[0].eq(job.ring),
            used.eq(producer.value[0] - consumer.value[0]),
            cells.eq((1 << ring.data.log2_bytes) >> _CELL_LOG2),
            there.eq(enabled.bit_select(job.ring, 1)),
        ]
        request, beats = self.write.request, self.write.beats
        at = Signal(p.address_bits)
        m.d.comb += at.eq(
            ring.data.base | ((producer.value[0] & (cells - 1)) << _CELL_LOG2)[: p.address_bits]
        )
        values = {name: job[name] for name in told} | {"cycles": stamp}
        completion = Cat(
            values.get(name, Const(0, width)) for name, width in abi.COMPLETION.widths.items()
        )
        given_up = Signal()
        with m.FSM() as fsm:
            m.d.comb += self.idle.eq(fsm.ongoing("idle"))
            with m.State("idle"):
                with m.If(~self.pause):
                    with m.If(offers.bit_select(turn, 1)):
                        m.d.sync += [job.eq(chosen), stamp.eq(self.cycles)]
                        m.d.comb += take.eq(turn != 3)
                        m.next = "room"
                    with m.Else():
                        m.d.sync += turn.eq(turn + 1)
            with m.State("room"):
                m.d.sync += turn.eq(turn + 1)
                m.next = "idle"
                with m.If(there & (used < cells)):
                    m.d.sync += [
                        request.valid.eq(1),
                        request.payload.address.eq(at),
                        request.payload.length.eq(abi.COMPLETION.bytes),
                        request.payload.wrap_log2.eq(0),
                    ]
                    m.d.comb += self.commands.ready.eq(job.command)
                    m.next = "write"
                with m.Elif(~(job.command & there & self.command_waits)):  # else it asks again
                    m.d.comb += [given_up.eq(1), self.commands.ready.eq(job.command)]
            with m.State("write"):
                with m.If(self.write.done):
                    m.next = "show"
                    with m.If(self.write.error):
                        m.d.comb += given_up.eq(1)
                        m.next = "idle"
            with m.State("show"):
                m.d.comb += self.index.valid.eq(1)
                with m.If(self.index.ready):
                    m.d.comb += producer.write.eq(1)
                    m.next = "idle"
        m.d.comb += [
            self.index.payload.queue.eq(job.ring),
            self.index.payload.index.eq(producer.value[0] + 1),
            producer.write_queue.eq(job.ring),
            producer.write_value.eq(producer.value[0] + 1),
            self.lost.eq(given_up | Cat(overflow).any()),
        ]
        with m.If(request.valid & request.ready):
            m.d.sync += request.valid.eq(0)

        # The beats of a cell: it is aligned to its size, so that on a wide bus it is one beat.
        lanes = max(1, abi.COMPLETION.bytes // p.bus_bytes)
        beat = Signal(range(max(2, lanes)))
        sending = Signal()
        with m.If(fsm.ongoing("room")):
            m.d.sync += [sending.eq(there & (used < cells)), beat.eq(0)]
        with m.Elif(sending & beats.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beats.payload.last):
                m.d.sync += sending.eq(0)
        m.d.comb += [beats.valid.eq(sending), beats.payload.last.eq(beat == lanes - 1)]
        if p.bus_bytes <= abi.COMPLETION.bytes:
            m.d.comb += [
                beats.payload.data.eq(completion.word_select(beat, 8 * p.bus_bytes)),
                beats.payload.strobe.eq((1 << p.bus_bytes) - 1),
            ]
        else:
            cell = request.payload.address[_CELL_LOG2 : p.bus_bytes.bit_length() - 1]
            mask = (1 << abi.COMPLETION.bytes) - 1
            with m.Switch(cell):
                for k in range(p.bus_bytes // abi.COMPLETION.bytes):
                    with m.Case(k):
                        m.d.comb += [
                            beats.payload.data.eq(completion << (128 * k)),
                            beats.payload.strobe.eq(mask << (abi.COMPLETION.bytes * k)),
                        ]
        return m
