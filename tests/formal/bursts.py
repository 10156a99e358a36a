"""Bursts: a request's bytes, each once, and no others (I2, I3)."""

from amaranth.hdl import Mux, Signal
from spec import Mutant, Property, Spec

from hdsnic.dma.bursts import BurstSplitter
from hdsnic.parameters import Parameters

_MODULE = "hdsnic.dma.bursts"


class BurstSplitterSpec(Spec):
    """Any requests, with and without a ring.

    Assumed of a request: at least a byte, its end within the addresses or, in a ring, no longer
    than the ring.
    """

    depth = 2
    properties = (
        Property(
            "I2 bursts lie inside their request",
            "Each burst begins where the last one ended, and ends no later than the request; in a "
            "ring all lie in its aligned block.",
            (
                Mutant(
                    "a burst is as long as its block",
                    _MODULE,
                    "length.eq(Mux(last, left, in_block))",
                    "length.eq(in_block)",
                ),
                Mutant(
                    "the next block is left out",
                    _MODULE,
                    "(now.request.address >> block_bits) + 1)",
                    "(now.request.address >> block_bits) + 2)",
                ),
                Mutant(
                    "a ring does not wrap",
                    _MODULE,
                    "following.eq(Cat(straight[:log2], now.request.address[log2:]))",
                    "following.eq(straight)",
                ),
            ),
            depth=6,
        ),
        Property(
            "I2 a burst's beats hold its bytes and no block's end",
            "A burst's beats are those that its bytes touch; it stays inside an aligned block of "
            "4 KiB.",
            (
                Mutant(
                    "a burst may cross a block", _MODULE, "last.eq(left <= in_block)", "last.eq(1)"
                ),
                Mutant(
                    "a beat is left out",
                    _MODULE,
                    "out.beats_less_one.eq((span - 1) >> lane_bits)",
                    "out.beats_less_one.eq((length - 1) >> lane_bits)",
                ),
            ),
            depth=6,
        ),
        Property(
            "I3 a request has one last burst, and all its bytes before",
            "`last` marks the burst that ends where the request ends; the next burst is another "
            "request's.",
            (
                Mutant(
                    "the last burst is marked late",
                    _MODULE,
                    "out.last.eq(last)",
                    "out.last.eq(last & (left != in_block))",
                ),
                Mutant(
                    "a request is taken before the last burst",
                    _MODULE,
                    "self.requests.ready.eq(~busy | (moving & last))",
                    "self.requests.ready.eq(~busy | moving)",
                ),
            ),
            depth=6,
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, address_bits=32)
        b = self.block(m, "bursts", BurstSplitter(p))
        self.free_ports(m, b)
        request = b.requests.payload.request
        log2 = request.wrap_log2
        end = Signal(40)
        m.d.comb += end.eq(request.address + request.length)
        size = Signal(24)
        m.d.comb += size.eq(1 << log2)
        self.assume(m, request.length != 0)
        self.assume(m, (log2 == 0) | ((log2 >= 12) & (log2 <= 22)))
        self.assume(m, Mux(log2 == 0, end <= 1 << p.address_bits, request.length <= size))

        # -- the request at work: where it began, and how far its bursts have come --
        busy, start, length, ring = Signal(), Signal(32), Signal(16), Signal(5)
        done = Signal(17)
        burst = b.bursts.payload
        taken = b.bursts.valid & b.bursts.ready
        with m.If(taken):
            m.d.sync += done.eq(done + burst.length)
            with m.If(burst.last):
                m.d.sync += busy.eq(0)
        with m.If(b.requests.valid & b.requests.ready):
            m.d.sync += [
                busy.eq(1), start.eq(request.address), length.eq(request.length), ring.eq(log2),
                done.eq(0),
            ]  # fmt: skip
        mask = Signal(32)
        m.d.comb += mask.eq(Mux(ring == 0, (1 << 32) - 1, (1 << ring) - 1))
        at = Signal(32)  # the next byte of the request
        m.d.comb += at.eq((start & ~mask) | ((start + done)[:32] & mask))
        self.prove(
            m,
            self.properties[0].name,
            b.bursts.valid.implies(
                busy & (burst.address == at) & (done + burst.length <= length) & (burst.length != 0)
            ),
        )
        first_lane = burst.address[:3]
        self.prove(
            m,
            self.properties[1].name,
            b.bursts.valid.implies(
                (burst.address[:12] + burst.length <= 4096)
                & (burst.beats_less_one == (first_lane + burst.length - 1) >> 3)
            ),
        )
        self.prove(
            m,
            self.properties[2].name,
            b.bursts.valid.implies(
                (burst.last == (done + burst.length == length)) & (burst.first == (done == 0))
            )
            & (b.requests.ready & busy).implies(taken & burst.last)
            & (b.bursts.valid == busy),
        )

        v = self.view(b)
        self.helper(m, v.busy == busy)
        self.helper(
            m,
            busy.implies(
                (v.left + done == length)
                & (v.left != 0)
                & (v.now.request.address == at)
                & (v.first == (done == 0))
                & (v.now.request.wrap_log2 == ring)
            ),
        )
        self.helper(m, (ring == 0) | ((ring >= 12) & (ring <= 22)))
        self.helper(m, (busy & (ring == 0)).implies(start + length <= 1 << 32))
        self.helper(m, (busy & (ring != 0)).implies(length <= (1 << ring)))
        # Bursts after the first begin at a block.
        self.helper(m, (busy & (done != 0)).implies(at[:11] == 0))
