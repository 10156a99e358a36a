"""Internet checksums (RFC 1071) of the IPv4 header and of the TCP or UDP segment, as beats pass.

Part of `verify`. Both sums are of whole halfwords of the frame: all headers start at even offsets,
so the ranges to be summed are cut out by byte masks and need no shifting. The pseudo header's
addresses stand in the IP header and are summed in place; protocol and length are added at the end.
The mask, the adder tree and the accumulator are registered one by one.
"""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import Strobe, count_bits
from .parse import Facts
from .stage import lane, located

__all__ = ["ChecksumUnit", "HalfwordSum", "checksum_latency"]

_TREE_FAN_IN = 4  # halfwords that a level of the adder tree adds in one cycle


def _tree_levels(bus_bytes):
    levels, terms = 0, bus_bytes // 2
    while terms > 1:
        levels, terms = levels + 1, -(-terms // _TREE_FAN_IN)
    return levels


def _pairwise(terms):
    """Sum of `terms`, as shallow as can be."""
    while len(terms) > 1:
        terms = [sum(terms[n + 1 : n + 2], terms[n]) for n in range(0, len(terms), 2)]
    return terms[0]


def checksum_latency(bus_bytes):
    """Cycles from a frame's last beat at `ChecksumUnit.i` to its results."""
    bounds, mask, accumulate, fold = 1, 1, 1, 1
    return bounds + mask + _tree_levels(bus_bytes) + accumulate + fold


class HalfwordSum(wiring.Component):
    """Sum of all halfwords (network byte order) of a frame's masked beats.

    Latency: an adder tree of a level for each factor of 4, and the accumulator; a beat a cycle.
    `total` is right in the cycle in which `done` is 1. It holds `halfwords_max` halfwords; the sum
    of more wraps.

    Interface attributes
    --------------------
    i: masked bytes; `first` and `last` beat of the frame.
    """

    def __init__(self, bus_bytes, halfwords_max):
        self.bus_bytes = bus_bytes
        self.total_bits = count_bits(halfwords_max * 0xFFFF)
        layout = data.StructLayout({"data": 8 * bus_bytes, "first": 1, "last": 1})
        super().__init__(
            {"i": In(Strobe(layout)), "done": Out(1), "total": Out(self.total_bits)},
        )

    def elaborate(self, platform):
        m = Module()
        terms = [lane(self.i.payload.data, at) for at in range(0, self.bus_bytes, 2)]
        valid, first, last = self.i.valid, self.i.payload.first, self.i.payload.last
        level, most = 0, 0xFFFF
        while len(terms) > 1:
            groups = [terms[n : n + _TREE_FAN_IN] for n in range(0, len(terms), _TREE_FAN_IN)]
            most *= max(len(group) for group in groups)
            sums = [Signal(range(most + 1), name=f"sum_{level}_{n}") for n in range(len(groups))]
            after = [Signal(name=f"{name}_{level}") for name in ("valid", "first", "last")]
            m.d.sync += after[0].eq(valid)
            with m.If(valid):
                m.d.sync += [after[1].eq(first), after[2].eq(last)]
                m.d.sync += [s.eq(_pairwise(g)) for s, g in zip(sums, groups, strict=True)]
            terms, (valid, first, last) = sums, after
            level += 1
        m.d.sync += self.done.eq(valid & last)
        with m.If(valid):
            m.d.sync += self.total.eq(Mux(first, 0, self.total) + terms[0])
        return m


class ChecksumUnit(wiring.Component):
    """Checks the IPv4 header checksum and the TCP or UDP checksum of every frame.

    Latency `checksum_latency` cycles; a beat a cycle, frames back to back; no back-pressure. The
    results are right in the cycle in which `done` is 1. They mean something only for frames that
    have these headers whole, which the caller knows.

    Interface attributes
    --------------------
    i: beats with the facts of the parser.
    done: results of a frame. ipv4_good, l4_good: the sum is all ones.
    """

    def __init__(self, bus_bytes, frame_bytes_max):
        self.bus_bytes = bus_bytes
        self.halfwords_max = frame_bytes_max // 2 + 1
        super().__init__(
            {
                "i": In(Strobe(located(bus_bytes, Facts()))),
                "done": Out(1),
                "ipv4_good": Out(1),
                "l4_good": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat, facts = self.i.payload.beat, self.i.payload.facts
        network = facts.transport.offsets.network

        # Bounds: where a bound lies against this beat. `near` does for bounds within the headers.
        bounded = Signal()
        m.d.sync += bounded.eq(self.i.valid)
        held = Signal(data.StructLayout({"data": 8 * self.bus_bytes, "first": 1, "last": 1}))
        with m.If(self.i.valid):
            m.d.sync += [
                held.data.eq(beat.data),
                held.first.eq(beat.first),
                held.last.eq(beat.last),
            ]
        source = Signal(6)  # first and end of the addresses in the IP header
        source_end = Signal(6)
        m.d.comb += [
            source.eq(facts.l3 + Mux(network.ipv6, 8, 12)),
            source_end.eq(facts.l3 + Mux(network.ipv6, 40, 20)),
        ]
        below = {
            name: self.below(m, name, bound, index)
            for name, bound, index in (
                ("l3", facts.l3, beat.near),
                ("source", source, beat.near),
                ("source_end", source_end, beat.near),
                ("l4", facts.l4, beat.near),
                ("l4_end", facts.l4_end, beat.index),
            )
        }

        # Mask: from bounds to bytes.
        header = ~below["l3"] & below["l4"]
        segment = (~below["source"] & below["source_end"]) | (~below["l4"] & below["l4_end"])
        m.submodules.ipv4 = ipv4 = HalfwordSum(self.bus_bytes, 30)  # 60 bytes at most
        m.submodules.l4 = l4 = HalfwordSum(self.bus_bytes, self.halfwords_max)
        for unit, mask in ((ipv4, header), (l4, segment)):
            masked = Signal(unit.i.payload.shape(), name="masked")
            valid = Signal(name="masked_valid")
            m.d.sync += valid.eq(bounded)
            with m.If(bounded):
                m.d.sync += [
                    masked.data.eq(held.data & Cat(bit.replicate(8) for bit in mask)),
                    masked.first.eq(held.first),
                    masked.last.eq(held.last),
                ]
            m.d.comb += [unit.i.payload.eq(masked), unit.i.valid.eq(valid)]

        # Pseudo header: protocol and length (RFC 9293 3.1, RFC 768, RFC 8200 8.1). It is known with
        # the last beat and follows it through the tree and the accumulator.
        pseudo = Signal(17)
        m.d.comb += pseudo.eq(facts.transport.chain.kind + facts.l4_length)
        for n in range(checksum_latency(self.bus_bytes) - 1):
            later = Signal(17, name=f"pseudo_{n}")
            m.d.sync += later.eq(pseudo)
            pseudo = later

        # One fold, and no second one: a frame's total is a multiple of 65,535 if its checksum is
        # right (RFC 1071), and not zero, as the IP version or the protocol is not.
        ipv4_once, l4_once = Signal(17), Signal(18)
        m.d.sync += self.done.eq(l4.done)
        with m.If(l4.done):
            m.d.sync += [
                ipv4_once.eq(ipv4.total[:16] + ipv4.total[16:]),
                l4_once.eq(l4.total[:16] + l4.total[16:] + pseudo),
            ]
        for once, good in ((ipv4_once, self.ipv4_good), (l4_once, self.l4_good)):
            multiples = range(0xFFFF, 1 << len(once), 0xFFFF)
            m.d.comb += good.eq(reduce(or_, [once == multiple for multiple in multiples]))
        return m

    def below(self, m, name, bound, index):
        """A bit for each byte lane: is it below byte `bound` of the frame? One cycle later."""
        lane_bits = count_bits(self.bus_bytes - 1)
        beat = bound[lane_bits:] if len(bound) > lane_bits else Const(0, 1)
        before, within = Signal(name=f"{name}_before"), Signal(name=f"{name}_within")
        above = Signal(lane_bits + 1, name=f"{name}_above")  # lanes that are not below the bound
        with m.If(self.i.valid):
            m.d.sync += [
                before.eq(index < beat if len(bound) > lane_bits else 0),
                within.eq(index == beat),
                above.eq(self.bus_bytes - bound[:lane_bits]),
            ]
        lanes = Signal(self.bus_bytes, name=f"{name}_lanes")
        every = Const((1 << self.bus_bytes) - 1, self.bus_bytes)
        m.d.comb += lanes.eq(Mux(before, every, Mux(within, every >> above, 0)))
        return lanes
