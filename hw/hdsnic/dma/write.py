"""The write side of a memory port: requests of several blocks in, AXI4 bursts out, in order.

All bursts carry one ID, so acknowledgements come in the order of requests; that order is what the
commit rule (I3) counts on.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..interfaces import WriteBeat, WriteClient, WriteRequest
from ..patience import Patience
from .arbiter import RoundRobin
from .bursts import BurstSplitter
from .queue import PassingQueue

__all__ = ["WritePort"]

_AHEAD = 4
"""Bursts whose address or data may wait for the memory."""


class WritePort(wiring.Component):
    """Gives each of `clients` blocks the write side of an AXI4 master.

    A client's request is served whole before another's. One cycle from a request to its AW and to
    its first W; a request of one burst a cycle, a beat of data a cycle, no bubble between requests,
    as long as the memory takes them and at most `outstanding` bursts are unacknowledged.
    Back-pressure of the memory reaches the clients; an error response is reported with the `done`
    of its request and changes nothing else.

    A memory that owes something (AW or W to be taken, a response) and does nothing for `timeout`
    cycles has failed. From then on no burst is begun; what AXI forbids to withdraw (an offered AW,
    the data of an offered burst) stays offered, the data without strobes. Answers that still come
    are taken and end no request. The clients' requests and beats are taken at once, and each
    request ends with `error`, one burst a cycle, those from before too, in their order. `restart`
    puts a failed port in use again, if meanwhile the memory has taken and answered all that it
    owed: or a late answer would be taken for another's.

    Ports
    -----
    clients: the blocks. aw*, w*, b*: AXI channels. timeout: cycles; 0: never. failed: see above.
    restart: pulse, while no client has anything under way.
    idle: nothing is waiting or moving (acknowledgements may be). error: an error response came.
    bytes_valid, bytes_count: for the port's byte counter.
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
                "timeout": In(32),
                "restart": In(1),
                "failed": Out(1),
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
        tag_bits = arbiter.output.payload.tag.shape().width
        m.submodules.splitter = splitter = BurstSplitter(p, tag_bits=tag_bits)
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
        m.submodules.addresses = addresses = PassingQueue(
            StructLayout({"address": p.address_bits, "beats_less_one": 8}), _AHEAD
        )
        m.submodules.data = data = PassingQueue(
            StructLayout({"beats_less_one": 8, "tag": tag_bits}), _AHEAD
        )
        m.submodules.answers = answers = SyncFIFO(width=tag_bits + 1, depth=p.outstanding)
        push, begun = Signal(), Signal()
        room = answers.w_rdy & (self.failed | (addresses.input.ready & data.input.ready))
        m.d.comb += [
            push.eq(splitter.bursts.valid & room),
            splitter.bursts.ready.eq(room),
            begun.eq(push & ~self.failed),
            addresses.input.valid.eq(begun),
            addresses.input.payload.address.eq(burst.address),
            addresses.input.payload.beats_less_one.eq(burst.beats_less_one),
            data.input.valid.eq(begun),
            data.input.payload.beats_less_one.eq(burst.beats_less_one),
            data.input.payload.tag.eq(burst.tag),
            answers.w_en.eq(push),
            answers.w_data.eq(Cat(burst.last, burst.tag)),
            self.bytes_valid.eq(begun),
            self.bytes_count.eq(burst.length),
        ]

        # Data are not offered before their address is, so after a failure it is known which bursts
        # must still be given to their end: those that are `open`.
        expired = Signal()
        address = addresses.output
        seen = Signal()  # the address on offer was on offer before
        withheld = Signal()  # it was when the memory failed
        opened, closed = Signal(), Signal()
        open_before = Signal(range(_AHEAD + 2))
        is_open = Signal()
        m.d.comb += [
            self.awaddr.eq(address.payload.address),
            self.awlen.eq(address.payload.beats_less_one),
            self.awvalid.eq(Mux(self.failed, withheld, address.valid)),
            address.ready.eq(self.awready | (self.failed & ~withheld)),
            opened.eq(address.valid & ~seen & ~self.failed),
            closed.eq(self.wvalid & self.wready & self.wlast),
            is_open.eq((open_before != 0) | opened),
        ]
        m.d.sync += [
            seen.eq(self.awvalid & ~self.awready),
            withheld.eq((expired | self.failed) & self.awvalid & ~self.awready),
            open_before.eq(open_before + opened - closed),
        ]

        turn = data.output.payload
        beat = Signal(8)
        client_beats = Array(c.beats.payload for c in self.clients)
        client_valid = Array(c.beats.valid for c in self.clients)
        source = WriteBeat(p.bus_bytes)(client_beats[turn.tag])
        held = Signal()  # the beat on offer when the memory failed
        held_beat = Signal(StructLayout({"data": 8 * p.bus_bytes, "strobe": p.bus_bytes}))
        m.d.comb += [
            self.wdata.eq(Mux(self.failed, held_beat.data, source.data)),
            self.wstrb.eq(Mux(self.failed, Mux(held, held_beat.strobe, 0), source.strobe)),
            self.wlast.eq(beat == turn.beats_less_one),
            self.wvalid.eq(is_open & (self.failed | client_valid[turn.tag])),
            data.output.ready.eq(closed | (self.failed & (open_before == 0))),
        ]
        for k, client in enumerate(self.clients):
            m.d.comb += client.beats.ready.eq(
                self.failed | (is_open & self.wready & (turn.tag == k))
            )
        with m.If(self.wvalid & self.wready):
            m.d.sync += [beat.eq(Mux(self.wlast, 0, beat + 1)), held.eq(0)]
        with m.If(expired):
            m.d.sync += [
                self.failed.eq(1),
                held.eq(self.wvalid),
                held_beat.data.eq(source.data),
                held_beat.strobe.eq(source.strobe),
            ]

        # A response counts only for a burst whose data have all been taken.
        owed = Signal(range(p.outstanding + 1))
        answered, taken, settled = Signal(), Signal(), Signal()
        bad = Signal()
        spoilt = Signal()  # an earlier burst of this request met an error
        last, tag = answers.r_data[0], answers.r_data[1:]
        m.d.comb += [
            self.bready.eq(1),
            answered.eq(self.bvalid & (owed != 0)),
            bad.eq(self.failed | self.bresp[1]),
            taken.eq(Mux(self.failed, answers.r_rdy, answered)),
            answers.r_en.eq(taken),
            self.error.eq(answered & self.bresp[1] & ~self.failed),
            settled.eq(
                ~(withheld | address.valid | data.output.valid | answers.r_rdy)
                & (open_before == 0)
                & (owed == 0)
            ),
        ]
        m.d.sync += owed.eq(owed + closed - answered)
        with m.If(self.restart & settled):
            m.d.sync += self.failed.eq(0)
        with m.If(taken):
            m.d.sync += spoilt.eq((spoilt | bad) & ~last)
        for k, client in enumerate(self.clients):
            m.d.comb += [
                client.done.eq(taken & last & (tag == k)),
                client.error.eq(spoilt | bad),
            ]

        m.submodules.patience = patience = Patience()
        m.d.comb += [
            patience.timeout.eq(self.timeout),
            patience.waiting.eq(~self.failed & (self.awvalid | self.wvalid | (owed != 0))),
            patience.progress.eq(
                (self.awvalid & self.awready) | (self.wvalid & self.wready) | answered
            ),
            expired.eq(patience.expired),
            self.idle.eq(
                self.failed | (~arbiter.output.valid & ~splitter.bursts.valid & ~data.output.valid)
            ),
        ]
        return m
