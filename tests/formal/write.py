"""The write port: `done` is the memory's word, once a request and in order (I3)."""

from amaranth.hdl import Array, Signal
from spec import Mutant, Property, Spec, count_ones

from hdsnic.dma.write import WritePort
from hdsnic.parameters import Parameters

_MODULE = "hdsnic.dma.write"
_OUTSTANDING = 4


class WritePortSpec(Spec):
    """Two clients with any requests and beats, and a memory that does anything at any time.

    Of the memory nothing is assumed: it may answer early, late, wrong or never. `restart` comes
    only while no client has anything under way.
    """

    depth = 2
    properties = (
        Property(
            "I3 done comes once for each request",
            "A client's `done` comes for a request that was made and has not ended; requests that "
            "are under way are those cut or waiting for an answer.",
            (
                Mutant(
                    "each burst ends its request",
                    _MODULE,
                    "client.done.eq(taken & last & (tag == k))",
                    "client.done.eq(taken & (tag == k))",
                ),
                Mutant(
                    "the other client is told",
                    _MODULE,
                    "client.done.eq(taken & last & (tag == k))",
                    "client.done.eq(taken & last & (tag != k))",
                ),
            ),
            depth=12,
        ),
        Property(
            "I3 a good done is an acknowledgement of written data",
            "`done` without `error` comes only with a good response of a port that has not failed, "
            "after the last beat of that burst, and no other burst of the request was answered by "
            "an error.",
            (
                Mutant(
                    "an answer before the data counts",
                    _MODULE,
                    "answered.eq(self.bvalid & (owed != 0))",
                    "answered.eq(self.bvalid)",
                ),
                Mutant(
                    "an earlier burst's error is forgotten",
                    _MODULE,
                    "spoilt.eq((spoilt | bad) & ~last)",
                    "spoilt.eq(bad & last)",
                ),
                Mutant(
                    "a failed port acknowledges",
                    _MODULE,
                    "bad.eq(self.failed | self.bresp[1])",
                    "bad.eq(self.bresp[1])",
                ),
                Mutant(
                    "a port is restarted that still owes",
                    _MODULE,
                    "                & (owed == 0)\n",
                    "",
                ),
            ),
            depth=16,
        ),
        Property(
            "I6 a failed port writes nothing more",
            "Once the port has failed, an address is on offer only if it was before, and of the "
            "data only the beat that was has strobes.",
            (
                Mutant(
                    "data go on after the failure",
                    _MODULE,
                    "Mux(held, held_beat.strobe, 0)",
                    "held_beat.strobe",
                ),
                Mutant(
                    "addresses go on after the failure",
                    _MODULE,
                    "Mux(self.failed, withheld, address.valid)",
                    "address.valid",
                ),
            ),
            depth=16,
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, address_bits=32, outstanding=_OUTSTANDING)
        port = self.block(m, "port", WritePort(p, 2))
        self.free_ports(m, port)
        v = self.view(port)
        splitter = self.view(v.splitter)
        answers = [(there, word[0], word[1]) for there, word in self.fifo(m, v.answers)]

        # -- requests under way, of either client --
        client = self.constant(m, 1, "client")
        done = Array(c.done for c in port.clients)[client]
        error = Array(c.error for c in port.clients)[client]
        made = Array(c.request.valid & c.request.ready for c in port.clients)[client]
        count = Signal(4)
        m.d.sync += count.eq(count + made - done)
        waiting = count_ones(there & last & (tag == client) for there, last, tag in answers)
        cut = splitter.busy & (splitter.now.tag == client)
        self.prove(
            m,
            self.properties[0].name,
            done.implies(count != 0)
            & (count == waiting + cut)
            & ~(port.clients[0].done & port.clients[1].done),
        )

        counts = [Signal(4, name=f"count_{k}") for k in range(2)]
        for of_client, c in zip(counts, port.clients, strict=True):
            asks = c.request.valid & c.request.ready
            m.d.sync += of_client.eq(of_client + asks - c.done)
            self.assume(m, port.restart.implies((of_client == 0) & ~c.request.valid))
        self.helper(m, count == Array(counts)[client])
        for k in range(2):
            under_way = count_ones(there & last & (tag == k) for there, last, tag in answers)
            self.helper(m, counts[k] == under_way + (splitter.busy & (splitter.now.tag == k)))

        # -- data that were given whole, and not answered --
        owed = Signal(4)
        closes = port.wvalid & port.wready & port.wlast
        answered = port.bvalid & port.bready & (owed != 0)
        m.d.sync += owed.eq(owed + closes - answered)

        # -- the bursts of an arbitrary request of the client --
        met, cutting = Signal(), Signal()  # it was made; more bursts of it come
        ahead, inside = Signal(4), Signal(4)  # answers before it, and of it
        spoilt = Signal()
        begin = made & self.free(1, "pick") & ~met
        push = v.push
        its_push = push & cutting
        popped = v.taken
        its_pop = popped & (inside != 0) & (ahead == 0)
        burst = v.splitter.bursts.payload
        level = v.answers.level
        m.d.sync += inside.eq(inside + its_push - its_pop)
        with m.If(begin):
            m.d.sync += [met.eq(1), cutting.eq(1)]
            m.d.sync += ahead.eq(level + push - popped)
        with m.Else():
            with m.If(popped & (ahead != 0)):
                m.d.sync += ahead.eq(ahead - 1)
            with m.If(its_push & burst.last):
                m.d.sync += cutting.eq(0)
        with m.If(its_pop & (~answered | port.bresp[1] | port.failed)):
            m.d.sync += spoilt.eq(1)
        good = done & ~error
        self.prove(
            m,
            self.properties[1].name,
            good.implies(answered & ~port.bresp[1] & ~port.failed)
            & (good & its_pop).implies(~spoilt)
            & (~port.failed).implies(owed <= level),
        )

        # -- after a failure --
        offered, beat_offered = Signal(), Signal()
        m.d.sync += [
            offered.eq(port.awvalid & ~port.awready),
            beat_offered.eq(port.wvalid & ~port.wready),
        ]
        self.prove(
            m,
            self.properties[2].name,
            port.failed.implies(
                (port.awvalid == offered) & (port.wvalid & ~beat_offered).implies(port.wstrb == 0)
            ),
        )

        # -- helpers --
        self.helper(m, owed == v.owed)
        addresses, data = (self.view(q).held for q in (v.addresses, v.data))
        for queue in (addresses, data):
            self.fifo(m, queue)
        self.helper(m, level <= _OUTSTANDING)
        fine = ~port.failed
        self.helper(m, fine.implies(data.level + owed == level))
        self.helper(m, fine.implies(data.level + v.seen == v.open_before + addresses.level))
        self.helper(m, fine.implies((v.seen == 0) | (addresses.level != 0)))
        self.helper(m, v.seen == offered)
        self.helper(m, fine.implies(~v.withheld))
        self.helper(m, port.failed.implies(v.withheld == offered))
        self.helper(m, (port.failed & v.held).implies(beat_offered))
        self.helper(m, v.open_before <= data.level)
        self.helper(m, v.open_before + owed <= _OUTSTANDING)
        # The followed request.
        self.helper(m, (cutting | (inside != 0)).implies(met))
        self.helper(m, cutting.implies(cut) & spoilt.implies(met))
        self.helper(m, (ahead + inside <= level) & cutting.implies(ahead + inside == level))
        for k, (there, last, tag) in enumerate(answers):
            of_it = there & (ahead <= k) & (k < ahead + inside)
            ends = (k == ahead + inside - 1) & ~cutting
            self.helper(m, of_it.implies((tag == client) & (last == ends)))
        # Its first answer has come, and its last has not.
        halfway = (inside != 0) | cutting
        self.helper(m, (spoilt & halfway).implies(v.spoilt & (ahead == 0)))
