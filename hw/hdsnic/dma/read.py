"""The read side of a memory port: requests of several blocks in, AXI4 bursts out, an ID each.

Room for an answer is set aside before its burst goes out, so the R channel never waits and a block
that does not take its beats holds up nobody else.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..interfaces import ReadBeat, ReadClient
from ..patience import Patience
from .arbiter import RoundRobin
from .bursts import BurstSplitter

__all__ = ["ReadPort"]

_BUFFER_BEATS = 320
"""Beats set aside for each block: 200 cycles of latency, the port's own, and a burst. More would
only make the other blocks wait longer behind it."""
_BURST_BEATS = 64
"""Longest burst: what is left of the room over a round trip can still take one."""


class ReadPort(wiring.Component):
    """Gives each of `clients` blocks the read side of an AXI4 master; block k reads with ID k.

    Two cycles from a request to its AR, two from an R beat to the block's beat; a request of one
    burst a cycle, a beat a cycle, at most `outstanding` bursts of a block under way. An error
    response marks its beat (`error`) and changes nothing else. A beat that nobody waits for is
    dropped. Where a burst ends is counted, not read from RLAST.

    A memory that owes something (AR to be taken, a beat) and does nothing for `timeout` cycles has
    failed. From then on no AR is made (one on offer stays, as AXI demands), what still comes is
    dropped, and all requests, those from before too, are answered at once: each with all of its
    beats, a beat a cycle, marked `error`. `restart` puts a failed port in use again, if meanwhile
    the memory has given all the beats that it owed: or late ones would be taken for others.

    Ports
    -----
    clients: the blocks. ar*, r*: AXI channels. timeout: cycles; 0: never. failed: see above.
    restart: pulse, while no client has anything under way.
    error: an error response came. bytes_valid, bytes_count: for the port's byte counter.
    """

    def __init__(self, parameters, clients):
        self.parameters = parameters
        self.count = clients
        p = parameters
        super().__init__(
            {
                "clients": In(ReadClient(p)).array(clients),
                "arid": Out(p.id_bits),
                "araddr": Out(p.address_bits),
                "arlen": Out(8),
                "arvalid": Out(1),
                "arready": In(1),
                "rid": In(p.id_bits),
                "rdata": In(8 * p.bus_bytes),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
                "timeout": In(32),
                "restart": In(1),
                "failed": Out(1),
                "bytes_valid": Out(1),
                "bytes_count": Out(16),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        shape = StructLayout({"address": p.address_bits, "beats_less_one": 8, "length": 16})
        m.submodules.arbiter = arbiter = RoundRobin(shape, self.count, name="burst")
        m.submodules.patience = patience = Patience()
        turn = arbiter.output
        owed, arrived = [], []
        # The address channel is registered, since an address may not change once it is offered.
        with m.If(~self.arvalid | self.arready):
            m.d.sync += [
                self.arvalid.eq(turn.valid & ~self.failed & ~patience.expired),
                self.arid.eq(turn.payload.tag),
                self.araddr.eq(turn.payload.burst.address),
                self.arlen.eq(turn.payload.burst.beats_less_one),
            ]
        for k, (client, place) in enumerate(zip(self.clients, arbiter.inputs, strict=True)):
            m.submodules[f"answer_{k}"] = answer = _Answer(p)
            m.d.comb += [
                answer.request.payload.eq(client.request.payload),
                answer.request.valid.eq(client.request.valid),
                client.request.ready.eq(answer.request.ready),
                place.valid.eq(answer.burst_valid & ~self.failed),
                place.payload.address.eq(answer.burst_address),
                place.payload.beats_less_one.eq(answer.burst_beats_less_one),
                place.payload.length.eq(answer.burst_length),
                answer.burst_ready.eq(place.ready | self.failed),
                answer.data.eq(self.rdata),
                answer.error.eq(self.rresp[1] | self.failed),
                answer.arrives.eq((self.rvalid & (self.rid == k)) | self.failed),
                client.beats.payload.eq(answer.beats.payload),
                client.beats.valid.eq(answer.beats.valid),
                answer.beats.ready.eq(client.beats.ready),
            ]
            owed.append(answer.owed)
            arrived.append(answer.owed & answer.arrives)
        progress = Signal()
        m.d.comb += [
            turn.ready.eq(~self.arvalid | self.arready),
            self.rready.eq(1),
            self.bytes_valid.eq(turn.valid & turn.ready),
            self.bytes_count.eq(turn.payload.burst.length),
            self.error.eq(Cat(arrived).any() & self.rresp[1] & ~self.failed),
            progress.eq((self.arvalid & self.arready) | Cat(arrived).any()),
            patience.timeout.eq(self.timeout),
            patience.waiting.eq(~self.failed & (self.arvalid | Cat(owed).any())),
            patience.progress.eq(progress),
        ]
        # Beats that the memory owes, whoever still waits for them.
        debt = Signal(range(self.count * _BUFFER_BEATS + _BURST_BEATS + 1))
        asked = Signal(9)
        m.d.comb += asked.eq(Mux(self.arvalid & self.arready, self.arlen + 1, 0))
        m.d.sync += debt.eq(debt + asked - (self.rvalid & (debt != 0)))
        with m.If(self.restart & ~self.arvalid & (debt == 0) & ~Cat(owed).any()):
            m.d.sync += self.failed.eq(0)
        with m.If(patience.expired):
            m.d.sync += self.failed.eq(1)
        return m


class _Answer(wiring.Component):
    """One block's share of the port: cuts its requests, keeps room, labels what comes back."""

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        super().__init__(
            {
                "request": In(ReadClient(p).members["request"].signature),
                "beats": Out(stream.Signature(ReadBeat(p.bus_bytes))),
                "burst_valid": Out(1),
                "burst_ready": In(1),
                "burst_address": Out(p.address_bits),
                "burst_beats_less_one": Out(8),
                "burst_length": Out(16),
                "owed": Out(1),
                "arrives": In(1),
                "data": In(8 * p.bus_bytes),
                "error": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.splitter = splitter = BurstSplitter(p, beats_max=_BURST_BEATS)
        burst = splitter.bursts.payload
        m.d.comb += [
            splitter.requests.payload.request.eq(self.request.payload),
            splitter.requests.valid.eq(self.request.valid),
            self.request.ready.eq(splitter.requests.ready),
        ]

        # A label takes two cycles through its queue, as long as the fastest answer.
        label_shape = StructLayout(
            {
                "first": 1,
                "last": 1,
                "begin": burst.begin.shape(),
                "end": burst.end.shape(),
                "beats_less_one": (_BURST_BEATS - 1).bit_length(),
            }
        )
        new_label = Signal(label_shape)
        m.submodules.labels = labels = SyncFIFOBuffered(width=label_shape.size, depth=p.outstanding)
        m.submodules.buffer = buffer = SyncFIFOBuffered(
            width=ReadBeat(p.bus_bytes).size, depth=_BUFFER_BEATS
        )

        free = Signal(range(_BUFFER_BEATS + 1), init=_BUFFER_BEATS)
        beats = Signal(9)
        taken = Signal(9)
        m.d.comb += [
            beats.eq(burst.beats_less_one + 1),
            self.burst_valid.eq(splitter.bursts.valid & labels.w_rdy & (free >= beats)),
            self.burst_address.eq(burst.address),
            self.burst_beats_less_one.eq(burst.beats_less_one),
            self.burst_length.eq(burst.length),
            splitter.bursts.ready.eq(self.burst_ready & self.burst_valid),
            new_label.first.eq(burst.first),
            new_label.last.eq(burst.last),
            new_label.begin.eq(burst.begin),
            new_label.end.eq(burst.end),
            new_label.beats_less_one.eq(burst.beats_less_one),
            labels.w_en.eq(self.burst_ready & self.burst_valid),
            labels.w_data.eq(new_label),
            taken.eq(Mux(labels.w_en, beats, 0)),
        ]
        m.d.sync += free.eq(free - taken + (buffer.r_rdy & buffer.r_en))

        # The first and last beat of a request carry its ragged ends; bursts between are whole.
        label = label_shape(labels.r_data)
        done = Signal(label.beats_less_one.shape())  # beats of this burst that have come
        ends = Signal()
        beat = Signal(ReadBeat(p.bus_bytes))
        m.d.comb += [
            self.owed.eq(labels.r_rdy),
            ends.eq(done == label.beats_less_one),
            beat.data.eq(self.data),
            beat.begin.eq(Mux(label.first & (done == 0), label.begin, 0)),
            beat.end.eq(Mux(label.last & ends, label.end, Const(p.bus_bytes))),
            beat.last.eq(label.last & ends),
            beat.error.eq(self.error),
            buffer.w_data.eq(beat),
            buffer.w_en.eq(self.arrives & labels.r_rdy),
            labels.r_en.eq(self.arrives & ends),
        ]
        with m.If(buffer.w_en):
            m.d.sync += done.eq(Mux(ends, 0, done + 1))

        m.d.comb += [
            self.beats.payload.eq(buffer.r_data),
            self.beats.valid.eq(buffer.r_rdy),
            buffer.r_en.eq(self.beats.ready),
        ]
        return m
