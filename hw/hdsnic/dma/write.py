"""The write side of a memory port: requests of several blocks in, AXI4 bursts out, in order.

All bursts carry one ID, so acknowledgements come in the order of requests; that order is what the
commit rule (I3) counts on.
"""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..interfaces import WriteBeat, WriteClient, WriteRequest
from .arbiter import RoundRobin
from .bursts import BurstSplitter

__all__ = ["WritePort"]


class WritePort(wiring.Component):
    """Gives each of `clients` blocks the write side of an AXI4 master.

    A client's request is served whole before another's. Two cycles from a request to its AW; data
    follow at one beat a cycle with no bubble between requests, as long as the memory takes them and
    at most `outstanding` bursts are unacknowledged. Back-pressure of the memory reaches the
    clients; an error response is reported with the `done` of its request and changes nothing else.

    Ports
    -----
    clients: the blocks. axi_*: AW, W and B channels by their AXI names. idle: nothing is waiting or
    moving (acknowledgements may be). bytes_valid, bytes_count: for the port's byte counter.
    """

    def __init__(self, parameters, clients):
        self.parameters = parameters
        self.count = clients
        p = parameters
        super().__init__(
            {
                "clients": In(WriteClient(p)).array(clients),
                "awaddr": Out(p.address_bits),
                "awlen": Out(8),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(8 * p.bus_bytes),
                "wstrb": Out(p.bus_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "idle": Out(1),
                "bytes_valid": Out(1),
                "bytes_count": Out(16),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters

        m.submodules.arbiter = arbiter = RoundRobin(WriteRequest(p), self.count)
        m.submodules.splitter = splitter = BurstSplitter(
            p, tag_bits=arbiter.output.payload.tag.shape().width
        )
        for client, turn in zip(self.clients, arbiter.inputs, strict=True):
            m.d.comb += [
                turn.payload.eq(client.request.payload),
                turn.valid.eq(client.request.valid),
                client.request.ready.eq(turn.ready),
            ]
        m.d.comb += [
            splitter.requests.payload.eq(arbiter.output.payload),
            splitter.requests.valid.eq(arbiter.output.valid),
            arbiter.output.ready.eq(splitter.requests.ready),
        ]

        # A burst waits in three queues: for the AW channel, the W channel and its acknowledgement.
        burst = splitter.bursts.payload
        address_shape = StructLayout({"address": p.address_bits, "beats_less_one": 8})
        data_shape = StructLayout({"beats_less_one": 8, "tag": burst.tag.shape()})
        answer_shape = StructLayout({"tag": burst.tag.shape(), "last": 1})
        m.submodules.addresses = addresses = SyncFIFO(width=address_shape.size, depth=4)
        m.submodules.data = data = SyncFIFO(width=data_shape.size, depth=4)
        m.submodules.answers = answers = SyncFIFO(width=answer_shape.size, depth=p.outstanding)
        room = addresses.w_rdy & data.w_rdy & answers.w_rdy
        push = Signal()
        m.d.comb += [
            splitter.bursts.ready.eq(room),
            push.eq(splitter.bursts.valid & room),
            addresses.w_en.eq(push),
            addresses.w_data.eq(Cat(burst.address, burst.beats_less_one)),
            data.w_en.eq(push),
            data.w_data.eq(Cat(burst.beats_less_one, burst.tag)),
            answers.w_en.eq(push),
            answers.w_data.eq(Cat(burst.tag, burst.last)),
            self.bytes_valid.eq(push),
            self.bytes_count.eq(burst.length),
        ]

        aw = address_shape(addresses.r_data)
        m.d.comb += [
            self.awaddr.eq(aw.address),
            self.awlen.eq(aw.beats_less_one),
            self.awvalid.eq(addresses.r_rdy),
            addresses.r_en.eq(self.awready),
        ]

        turn = data_shape(data.r_data)
        beat = Signal(8)
        client_beats = Array(c.beats.payload for c in self.clients)
        client_valid = Array(c.beats.valid for c in self.clients)
        source = WriteBeat(p.bus_bytes)(client_beats[turn.tag])
        m.d.comb += [
            self.wdata.eq(source.data),
            self.wstrb.eq(source.strobe),
            self.wlast.eq(beat == turn.beats_less_one),
            self.wvalid.eq(data.r_rdy & client_valid[turn.tag]),
            data.r_en.eq(self.wvalid & self.wready & self.wlast),
        ]
        for k, client in enumerate(self.clients):
            m.d.comb += client.beats.ready.eq(data.r_rdy & self.wready & (turn.tag == k))
        with m.If(self.wvalid & self.wready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(self.wlast):
                m.d.sync += beat.eq(0)

        answer = answer_shape(answers.r_data)
        failed = Signal()  # an earlier burst of this request met an error
        m.d.comb += [
            self.bready.eq(1),
            answers.r_en.eq(self.bvalid),
            self.error.eq(self.bvalid & self.bresp[1]),
        ]
        with m.If(self.bvalid):
            m.d.sync += failed.eq((failed | self.bresp[1]) & ~answer.last)
        for k, client in enumerate(self.clients):
            m.d.comb += [
                client.done.eq(self.bvalid & answers.r_rdy & answer.last & (answer.tag == k)),
                client.error.eq(failed | self.bresp[1]),
            ]

        m.d.comb += self.idle.eq(~arbiter.output.valid & ~splitter.bursts.valid & ~data.r_rdy)
        return m
