"""The read side of a memory port: requests of several blocks in, AXI4 bursts out, an ID each.

Room for an answer is set aside before its burst goes out, so the R channel never waits and a block
that does not take its beats holds up nobody else.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..interfaces import ReadBeat, ReadClient
from .arbiter import RoundRobin
from .bursts import BurstSplitter

__all__ = ["ReadPort"]

_BUFFER_BEATS = 256
"""Beats set aside for each block: the bandwidth-delay product of 200 cycles of latency."""
_BURST_BEATS = 64
"""Longest burst: a quarter of the room, so that four are in flight."""


class ReadPort(wiring.Component):
    """Gives each of `clients` blocks the read side of an AXI4 master; block k reads with ID k.

    Two cycles from a request to its AR, two from an R beat to the block's beat; one beat a cycle.
    An error response marks its beat (`error`) and changes nothing else. A beat with an ID that
    nobody uses is dropped.
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
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
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
        # The address channel is registered, since an address may not change once it is offered.
        with m.If(~self.arvalid | self.arready):
            m.d.sync += [
                self.arvalid.eq(arbiter.output.valid),
                self.arid.eq(arbiter.output.payload.tag),
                self.araddr.eq(arbiter.output.payload.burst.address),
                self.arlen.eq(arbiter.output.payload.burst.beats_less_one),
            ]
        m.d.comb += [
            arbiter.output.ready.eq(~self.arvalid | self.arready),
            self.rready.eq(1),
            self.bytes_valid.eq(arbiter.output.valid & arbiter.output.ready),
            self.bytes_count.eq(arbiter.output.payload.burst.length),
            self.error.eq(self.rvalid & self.rresp[1]),
        ]
        for k, (client, turn) in enumerate(zip(self.clients, arbiter.inputs, strict=True)):
            m.submodules[f"answer_{k}"] = answer = _Answer(p)
            m.d.comb += [
                answer.request.payload.eq(client.request.payload),
                answer.request.valid.eq(client.request.valid),
                client.request.ready.eq(answer.request.ready),
                turn.valid.eq(answer.burst_valid),
                turn.payload.address.eq(answer.burst_address),
                turn.payload.beats_less_one.eq(answer.burst_beats_less_one),
                turn.payload.length.eq(answer.burst_length),
                answer.burst_ready.eq(turn.ready),
                answer.data.eq(self.rdata),
                answer.last.eq(self.rlast),
                answer.failed.eq(self.rresp[1]),
                answer.arrives.eq(self.rvalid & (self.rid == k)),
                client.beats.payload.eq(answer.beats.payload),
                client.beats.valid.eq(answer.beats.valid),
                answer.beats.ready.eq(client.beats.ready),
            ]
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
                "arrives": In(1),
                "data": In(8 * p.bus_bytes),
                "last": In(1),
                "failed": In(1),
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

        label_shape = StructLayout(
            {"first": 1, "last": 1, "begin": burst.begin.shape(), "end": burst.end.shape()}
        )
        m.submodules.labels = labels = SyncFIFO(width=label_shape.size, depth=p.outstanding)
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
            labels.w_en.eq(self.burst_ready & self.burst_valid),
            labels.w_data.eq(Cat(burst.first, burst.last, burst.begin, burst.end)),
            taken.eq(Mux(labels.w_en, beats, 0)),
        ]
        m.d.sync += free.eq(free - taken + (buffer.r_rdy & buffer.r_en))

        # The first and last beat of a request carry its ragged ends; bursts between are whole.
        label = label_shape(labels.r_data)
        opening = Signal(init=1)  # next beat is the first of its burst
        beat = Signal(ReadBeat(p.bus_bytes))
        m.d.comb += [
            beat.data.eq(self.data),
            beat.begin.eq(Mux(label.first & opening, label.begin, 0)),
            beat.end.eq(Mux(label.last & self.last, label.end, Const(p.bus_bytes))),
            beat.last.eq(label.last & self.last),
            beat.error.eq(self.failed),
            buffer.w_data.eq(beat),
            buffer.w_en.eq(self.arrives & labels.r_rdy),
            labels.r_en.eq(self.arrives & self.last),
        ]
        with m.If(self.arrives):
            m.d.sync += opening.eq(self.last)

        m.d.comb += [
            self.beats.payload.eq(buffer.r_data),
            self.beats.valid.eq(buffer.r_rdy),
            buffer.r_en.eq(self.beats.ready),
        ]
        return m
