"""IPv6 extension headers: where the chain ends, and what stands there (RFC 8200 4).

A stage of the parser. Hop-by-hop options (directly behind the IPv6 header only), routing and
destination options are passed over, any number of them, at a beat a cycle: since headers are
chained, the way through a beat is found beforehand for every place in it at which the chain may
enter (`ChainExits`), and the stage itself only looks up the exit of the place where it does.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe, count_bits
from .stage import Stage

__all__ = ["CHAIN_WORD_BITS", "HOP_BY_HOP", "ChainExits", "ChainFacts", "ChainStage", "exit_cycles"]

HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS = 0, 43, 60  # IANA protocol numbers
CHAIN_WORD_BITS = 10  # the window has 64 words, and one header has up to 512
WINDOW_WORD_BITS = 6


class ChainExit(data.StructLayout):
    """The way from a header to the end of its beat, or of the chain if that comes first.

    `words`: from the header's start to where the chain goes on; `kind`: the header there, and
    whether the chain `goes` on over it. `left`: a routing header on the way, but for the first
    header, has segments left; `open`: one starts in the last word, and its count is in the next
    beat.
    """

    def __init__(self):
        super().__init__({"words": CHAIN_WORD_BITS, "kind": 8, "goes": 1, "left": 1, "open": 1})


def exit_cycles(bus_bytes):
    """Cycles from a beat to its exits: one for the single header, one for each doubling."""
    headers = max(1, bus_bytes // 8)  # that may start in a beat
    return 1 + count_bits(headers - 1)


class ChainExits(wiring.Component):
    """Exits of a beat for each word in which a header may start, as if all of them did.

    Latency `exit_cycles`; a beat a cycle. The ways of one header are combined to those of up to
    two, four and eight, since every header has at least 8 bytes.

    Interface attributes
    --------------------
    i: data of a beat. exits: one for each word; right until the next beat's are.
    """

    def __init__(self, bus_bytes):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "i": In(Strobe(8 * bus_bytes)),
                "exits": Out(data.ArrayLayout(ChainExit(), bus_bytes // 4)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = self.bus_bytes // 4
        valid = self.i.valid
        byte = [self.i.payload[8 * n : 8 * n + 8] for n in range(self.bus_bytes)]

        def row(name):
            return [Signal(ChainExit(), name=f"{name}_{n}") for n in range(words)]

        # A header starts in the upper half of its word: kind of the next, length in 8 bytes less
        # one; the count of segments left is the second byte of the word after.
        ways = row("single")
        with m.If(valid):
            for n, way in enumerate(ways):
                kind, length = byte[4 * n + 2], byte[4 * n + 3]
                routing = kind == ROUTING
                left = [routing & (length == (k - n) // 2 - 1) & byte[4 * k + 5].any()
                        for k in range(n + 2, words - 1, 2)]  # fmt: skip
                last = words - 1  # a header that starts there has its count in the next beat
                ends_open = last > n and (last - n) % 2 == 0
                m.d.sync += [
                    way.words.eq((length << 1) + 2),
                    way.kind.eq(kind),
                    way.goes.eq(routing | (kind == DESTINATION_OPTIONS)),
                    way.left.eq(reduce(or_, left, Const(0, 1))),
                    way.open.eq(routing & (length == (last - n) // 2 - 1) if ends_open else 0),
                ]
        for step in range(exit_cycles(self.bus_bytes) - 1):
            before, ways = ways, row(f"twice_{step}")
            earlier, valid = valid, Signal(name=f"valid_{step}")
            m.d.sync += valid.eq(earlier)
            with m.If(valid):
                for n, way in enumerate(ways):
                    one = before[n]
                    m.d.sync += way.eq(one)
                    for k in range(n + 2, words, 2):
                        two = before[k]
                        with m.If(one.goes & (one.words == k - n)):
                            m.d.sync += [
                                way.words.eq(two.words + (k - n)),
                                way.kind.eq(two.kind),
                                way.goes.eq(two.goes),
                                way.left.eq(one.left | two.left),
                                way.open.eq(one.open | two.open),
                            ]
        m.d.comb += [target.eq(way) for target, way in zip(self.exits, ways, strict=True)]
        return m


class ChainFacts(data.StructLayout):
    """Where the chain of headers behind the IP header has come to.

    `word`: the word in whose upper half the next header starts, `kind` that header. `unfinished`:
    it would be passed over, too. `segments_left`: a routing header says that this is not the last
    destination. Without extension headers: the IP header's own end and protocol.
    """

    def __init__(self):
        super().__init__({"word": CHAIN_WORD_BITS, "kind": 8, "unfinished": 1, "segments_left": 1})


class ChainStage(Stage):
    """Follows the chain: in each beat from where it enters to where it leaves.

    `exits`: of the beat at `i`. Facts out: those in (`offsets`), and `chain`.
    """

    def __init__(self, bus_bytes, offset_facts):
        words = bus_bytes // 4
        super().__init__(
            bus_bytes,
            offset_facts,
            data.StructLayout({"offsets": offset_facts, "chain": ChainFacts()}),
            exits=In(data.ArrayLayout(ChainExit(), words)),
        )

    def find(self, m, beat, known, facts):
        self.carry(m, (facts.offsets, known))
        lane_bits = count_bits(self.bus_bytes // 4 - 1)
        chain, done = facts.chain, Signal(ChainFacts())  # after this beat, after the ones before
        begun, awaited = Signal(), Signal()  # a header was passed; its segments left are to come
        with m.If(begun & ~beat.first):
            m.d.comb += done.eq(chain)
        with m.Else():
            m.d.comb += [
                done.word.eq(known.start_word),
                done.kind.eq(known.network.protocol),
                done.unfinished.eq(known.extended),
            ]
        words = self.bus_bytes // 4
        entry = done.word[:lane_bits]
        way = Signal(ChainExit())
        left = Signal()  # segments left of the header at the entry, if it has them in this beat
        later = [beat.data[32 * n + 40 : 32 * n + 48].any() for n in range(words - 1)] + [0]
        enters = Signal()
        m.d.comb += [
            way.eq(Array(self.exits)[entry]),
            left.eq((done.kind == ROUTING) & Array(later)[entry]),
            enters.eq(
                done.unfinished
                & (done.word[:CHAIN_WORD_BITS][lane_bits:] == beat.near)
                & (done.word[WINDOW_WORD_BITS:] == 0)
            ),
        ]
        with m.If(self.i.valid):
            m.d.sync += [
                begun.eq(enters | (begun & ~beat.first)),
                chain.word.eq(Mux(enters, done.word + way.words, done.word)),
                chain.kind.eq(Mux(enters, way.kind, done.kind)),
                chain.unfinished.eq(Mux(enters, way.goes, done.unfinished)),
                chain.segments_left.eq(
                    done.segments_left
                    | (enters & (left | way.left))
                    | (awaited & ~beat.first & beat.data[8:16].any())
                ),
                awaited.eq(enters & (way.open | ((done.kind == ROUTING) & (entry == words - 1)))),
            ]
