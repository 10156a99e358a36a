"""Shares: which queues may send now, by deficit round robin and by rate limits (R20).

Beside scheduler and parser. The scheme is that of Shreedhar and Varghese (Efficient Fair Queuing
using Deficit Round Robin), with credit that a descriptor may overdraw, since its length is known
only once it was fetched; the limit is a token bucket.
"""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe, TxShareStore
from .layouts import PAYLOAD_BITS, Begun, queue_bits

__all__ = ["BURST_DEFAULT", "QUANTUM_DEFAULT", "SLACK_BEATS", "UNIT_BYTES", "Shares"]

UNIT_BYTES = 64
"""Unit of quanta and bursts."""

QUANTUM_DEFAULT, BURST_DEFAULT = 64, 256
"""What a quantum and a burst of 0 mean, in units."""

SLACK_BEATS = 256
"""Beats by which a visit may overdraw while the next queue's descriptors are being fetched: the
bandwidth-delay product of 200 cycles of latency. It is paid back out of later rounds."""

_FRACTION_BITS = 16
"""A rate counts bytes in 2**16 cycles."""


class Shares(wiring.Component):
    """Account of bytes by queue.

    Each queue has credit. A descriptor takes its bytes (header and payload) from it as it is begun.
    Whenever no `active` and unlimited queue has credit, all queues get their quantum; none that is
    not active, or is limited, has more than one. So over time the bytes of busy queues are as their
    quanta, up to a quantum, a descriptor and SLACK_BEATS, and a queue alone is never held back.

    A queue with a rate has tokens too: `rate` bytes come in 2**16 cycles, up to `burst` units.
    While it has none it is not `ready`.

    `ready`: credit and tokens are above 0. `nearly`: tokens are, and credit is overdrawn by less
    than SLACK_BEATS, or not at all; a visit may use up the rest of that. `spent`: the queue at hand
    has overdrawn its credit by SLACK_BEATS while another one is ready, or has no tokens.

    Credit is up to date in the cycle after `begun`, tokens a few cycles later; the store takes
    effect within 2 x `queues` + 4 cycles.

    Parameters: `queues`, `bus_bytes`, `tso_bytes_max`, `frame_bytes_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "store": In(Strobe(TxShareStore(p))),
                "begun": In(Strobe(Begun(p))),
                "active": In(p.queues),
                "queue": In(queue_bits(p)),
                "ready": Out(p.queues),
                "nearly": Out(p.queues),
                "spent": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        store, begun = self.store.payload, self.begun.payload
        slack = SLACK_BEATS * p.bus_bytes

        # -- credit --
        # The most that is owed: by a descriptor that was begun while there was slack.
        floor = -(slack + p.tso_bytes_max + p.frame_bytes_max)
        credit_shape = signed(PAYLOAD_BITS + 2)
        in_credit = Signal(p.queues)
        overdrawn = Signal(p.queues)
        limited = Signal(p.queues)
        refill = Signal()
        m.d.comb += refill.eq(
            (self.active & ~limited).any() & ~(self.active & ~limited & in_credit).any()
        )
        for k in range(p.queues):
            credit = Signal(credit_shape, name=f"credit_{k}", init=QUANTUM_DEFAULT * UNIT_BYTES)
            quantum = Signal(16, name=f"quantum_{k}", init=QUANTUM_DEFAULT)
            share = Signal(22, name=f"share_{k}")
            after = Signal(credit_shape, name=f"after_{k}")
            mine = self.begun.valid & (begun.queue == k)
            m.d.comb += [
                share.eq(quantum * UNIT_BYTES),
                in_credit[k].eq(credit > 0),
                overdrawn[k].eq(credit <= -slack),
                after.eq(credit - Mux(mine, begun.bytes, 0) + Mux(refill, share, 0)),
            ]
            with m.If((~self.active[k] | limited[k]) & (after > share)):
                m.d.sync += credit.eq(share)
            with m.Elif(after < floor):
                m.d.sync += credit.eq(floor)
            with m.Else():
                m.d.sync += credit.eq(after)
            with m.If(self.store.valid & (store.queue == k)):
                m.d.sync += quantum.eq(Mux(store.quantum == 0, QUANTUM_DEFAULT, store.quantum))

        others = Signal(p.queues)
        m.d.comb += [
            self.ready.eq(in_credit & ~limited),
            self.nearly.eq(~overdrawn & ~limited),
            others.eq(self.active & self.ready & ~(1 << self.queue)),
            self.spent.eq(
                limited.bit_select(self.queue, 1)
                | (overdrawn.bit_select(self.queue, 1) & others.any())
            ),
        ]

        # -- tokens: each queue has its turn in a round; between turns descriptors are charged --
        depth = 1 << queue_bits(p)
        round_bits = queue_bits(p) + 1
        limit_shape = data.StructLayout({"rate": unsigned(32), "burst": unsigned(16)})
        token_shape = signed(_FRACTION_BITS + PAYLOAD_BITS + 2)
        m.submodules.limits = limits = Memory(shape=limit_shape, depth=depth, init=[])
        m.submodules.tokens = tokens = Memory(
            shape=unsigned(token_shape.width), depth=depth, init=[]
        )
        limit_write, limit_read = limits.write_port(), limits.read_port()
        token_write = tokens.write_port()
        token_read = tokens.read_port(transparent_for=(token_write,))
        turn = Signal(round_bits)
        owing = Signal(Begun(p))  # a descriptor that is to be charged
        owed = Signal()
        at = Signal(queue_bits(p))
        m.d.comb += [
            limit_write.en.eq(self.store.valid),
            limit_write.addr.eq(store.queue),
            limit_write.data.rate.eq(store.rate),
            limit_write.data.burst.eq(Mux(store.burst == 0, BURST_DEFAULT, store.burst)),
            at.eq(Mux(turn[0], owing.queue, turn >> 1)),
            limit_read.addr.eq(at),
            token_read.addr.eq(at),
        ]
        m.d.sync += turn.eq(turn + 1)
        charge = Signal(PAYLOAD_BITS)
        charged = Signal(queue_bits(p))
        refilled = Signal()
        m.d.sync += [
            charge.eq(Mux(turn[0] & owed, owing.bytes, 0)),
            charged.eq(at),
            refilled.eq(~turn[0]),
        ]
        with m.If(self.begun.valid):
            m.d.sync += [owed.eq(1), owing.eq(begun)]
        with m.Elif(turn[0]):
            m.d.sync += owed.eq(0)

        all_tokens = (0xFFFF * UNIT_BYTES) << _FRACTION_BITS
        held = Signal(token_shape)
        fresh = Signal(signed(token_shape.width + 32 + round_bits))
        most = Signal(token_shape)
        unlimited = Signal()
        result = Signal(token_shape)
        income = Signal(32 + round_bits)
        m.d.comb += [
            held.eq(token_read.data),
            unlimited.eq(limit_read.data.rate == 0),
            income.eq(Mux(refilled, limit_read.data.rate << round_bits, 0)),
            most.eq((limit_read.data.burst * UNIT_BYTES) << _FRACTION_BITS),
            fresh.eq(held + income - (charge << _FRACTION_BITS)),
            # Without a limit there are tokens for any burst that may be set.
            result.eq(Mux(unlimited, all_tokens, Mux(fresh > most, most, fresh))),
            token_write.en.eq(1),
            token_write.addr.eq(charged),
            token_write.data.eq(result),
        ]
        m.d.sync += limited.bit_select(charged, 1).eq(~unlimited & (result <= 0))
        return m
