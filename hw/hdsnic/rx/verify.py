"""Verification: decides of every frame whether it is whole, for us and undamaged (I5, R4, R5).

Second in the receive path, behind the parser. Nothing of a frame is committed to the frame buffer
before this verdict, which comes with the frame's last beat.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import Strobe, count_bits
from .checksum import ChecksumUnit, checksum_latency
from .delay import DelayLine
from .parse import ETHERNET_BYTES, Facts, located

__all__ = ["Candidate", "VerifiedBeat", "Verify"]

TCP_BYTES = 20
UDP_BYTES = 8
IPV4_BYTES = 20
IPV6_BYTES = 40
IPV6_FRAGMENT = 44
# IANA's list of IPv6 extension headers, without the fragment header
IPV6_EXTENSIONS = (0, 43, 50, 51, 60, 135, 139, 140, 253, 254)
HEADER_BYTES_MAX = 14 + 8 + 60 + 60  # R3; so LONG_HEADER cannot come about without extensions
assert HEADER_BYTES_MAX <= 256


class Candidate(data.StructLayout):
    """A frame that is kept, before it is steered.

    `reason` is an RxOutcome; SPLIT, HEADER_ONLY and SYN_PAYLOAD (`tcp` is set then) are subject to
    the local addresses and rules. `header_length` and `payload_length` are those of TCP frames.
    """

    def __init__(self, parameters):
        length = count_bits(parameters.frame_bytes_max)
        super().__init__(
            {
                "length": unsigned(length),
                "header_length": unsigned(8),
                "payload_length": unsigned(length),
                "vlan_tags": unsigned(2),
                "ipv6": unsigned(1),
                "tcp": unsigned(1),
                "port": unsigned(16),
                "destination": unsigned(128),
                "reason": unsigned(5),
                "checksum_good": unsigned(1),
            }
        )


class VerifiedBeat(data.StructLayout):
    """A beat with, if `last`, the verdict on its frame: `keep`, or drop for `frame.reason`."""

    def __init__(self, parameters):
        super().__init__(
            {
                "data": unsigned(8 * parameters.bus_bytes),
                "count": unsigned(count_bits(parameters.bus_bytes)),
                "last": unsigned(1),
                "keep": unsigned(1),
                "frame": Candidate(parameters),
            }
        )


class Judgement(data.StructLayout):
    """The verdict but for the checksums, and which of them it depends on."""

    def __init__(self, parameters):
        super().__init__(
            {"frame": Candidate(parameters), "keep": 1, "on_ipv4": 1, "on_l4": 1, "l4_missing": 1}
        )


class Verify(wiring.Component):
    """Gives each frame its verdict; the order of the checks is that of the layers.

    MAC's mark, oversize, runt, receive switch, MAC filter; then, each only if the one before is
    good: VLAN tags, IP header, IPv4 checksum, fragment and extension, TCP or UDP header, L4
    checksum. A UDP header that is cut, or whose length contradicts the IP length, is a RUNT. Frames
    of other protocols, fragments and extension headers are kept with their reason; UDP over IPv4
    may go without a checksum (RFC 768), UDP over IPv6 may not (RFC 8200 8.1).

    Latency `checksum_latency` + 1 cycles (8 at 64 bits, 10 at 512); a beat a cycle, frames back to
    back; no back-pressure.

    Interface attributes
    --------------------
    i: beats with the facts of the parser. receive: 0 drops every frame.
    o: the same beats, with the verdict on the last one.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "i": In(Strobe(located(parameters.bus_bytes, Facts()))),
                "receive": In(1),
                "o": Out(Strobe(VerifiedBeat(parameters))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        latency = checksum_latency(p.bus_bytes)
        beat = self.i.payload.beat

        m.submodules.checksum = checksum = ChecksumUnit(p.bus_bytes, p.frame_bytes_max)
        m.d.comb += [checksum.i.valid.eq(self.i.valid), checksum.i.payload.eq(self.i.payload)]

        carried = data.StructLayout(
            {"data": 8 * p.bus_bytes, "count": count_bits(p.bus_bytes), "last": 1}
        )
        m.submodules.beats = beats = DelayLine(carried, latency)
        m.d.comb += [
            beats.i.valid.eq(self.i.valid),
            beats.i.payload.data.eq(beat.data),
            beats.i.payload.count.eq(beat.count),
            beats.i.payload.last.eq(beat.last),
        ]

        judged, judgement = self.judge(m)
        m.submodules.judgements = judgements = DelayLine(Judgement(p), latency - 2)
        m.d.comb += [judgements.i.valid.eq(judged), judgements.i.payload.eq(judgement)]

        verdict, out = judgements.o.payload, self.o.payload
        m.d.sync += self.o.valid.eq(beats.o.valid)
        with m.If(beats.o.valid):
            m.d.sync += [
                out.data.eq(beats.o.payload.data),
                out.count.eq(beats.o.payload.count),
                out.last.eq(beats.o.payload.last),
                out.keep.eq(verdict.keep),
                out.frame.eq(verdict.frame),
            ]
            with m.If(verdict.on_ipv4 & ~checksum.ipv4_good):
                m.d.sync += [out.keep.eq(0), out.frame.reason.eq(abi.RxOutcome.IP_CHECKSUM)]
            with m.Elif(verdict.on_l4 & (~checksum.l4_good | verdict.l4_missing)):
                m.d.sync += [out.keep.eq(0), out.frame.reason.eq(abi.RxOutcome.L4_CHECKSUM)]
        return m

    def judge(self, m):
        """All checks but the checksums' results, in two cycles: compare, then decide."""
        p = self.p
        beat, facts = self.i.payload.beat, self.i.payload.facts
        transport = facts.transport
        offsets = transport.offsets
        network = offsets.network
        ipv6 = network.ipv6

        def one_of(values):
            return Cat(network.protocol == value for value in values).any()

        compared = Signal()
        m.d.sync += compared.eq(self.i.valid & beat.last)
        checks = {
            "bad": beat.bad,
            "oversize": beat.length > p.frame_bytes_max,
            "runt": beat.length < ETHERNET_BYTES,
            "foreign": ~(network.mac.equal.all() | network.mac.open),
            "tags_cut": beat.length < facts.l3,
            "is_ip": network.ipv4 | ipv6,
            "ip_cut": beat.length < facts.l3 + Mux(ipv6, IPV6_BYTES, IPV4_BYTES),
            "ip_wrong": Mux(
                ipv6,
                network.version != 6,
                (network.version != 4) | (network.ihl < 5) | offsets.short,
            ),
            "ip_beyond": offsets.ip_end > beat.length,
            "fragment": network.fragment | (ipv6 & (network.protocol == IPV6_FRAGMENT)),
            "extension": ipv6 & one_of(IPV6_EXTENSIONS),
            "tcp": offsets.tcp,
            "tcp_wrong": (offsets.body < TCP_BYTES)
            | (transport.data_offset < TCP_BYTES // 4)
            | facts.overrun,
            "udp": offsets.udp,
            "udp_wrong": (offsets.body < UDP_BYTES)
            | (transport.udp_length < UDP_BYTES)
            | (transport.udp_length > offsets.body),
            "unchecked": transport.udp_unchecked,
            "has_payload": facts.payload != 0,
            "syn": transport.syn,
        }
        is_ = {name: Signal(name=f"check_{name}") for name in checks}
        frame = Signal(Candidate(p))
        with m.If(self.i.valid & beat.last):
            m.d.sync += [is_[name].eq(value) for name, value in checks.items()]
            m.d.sync += [
                frame.length.eq(beat.length),
                frame.header_length.eq(facts.header_end),
                frame.payload_length.eq(facts.payload),
                frame.vlan_tags.eq(network.vlan_tags),
                frame.ipv6.eq(ipv6),
                frame.port.eq(transport.port),
                frame.destination.eq(network.destination),
            ]

        judged = Signal()
        judgement = Signal(Judgement(p))
        outcome = Signal(len(frame.reason))
        tcp, on_ipv4, on_l4, l4_missing = Signal(), Signal(), Signal(), Signal()
        rx = abi.RxOutcome
        with m.If(is_["bad"]):
            m.d.comb += outcome.eq(rx.BAD_FCS)
        with m.Elif(is_["oversize"]):
            m.d.comb += outcome.eq(rx.OVERSIZE)
        with m.Elif(is_["runt"]):
            m.d.comb += outcome.eq(rx.RUNT)
        with m.Elif(~self.receive):
            m.d.comb += outcome.eq(rx.DISABLED)
        with m.Elif(is_["foreign"]):
            m.d.comb += outcome.eq(rx.MAC_FILTER)
        with m.Elif(is_["tags_cut"]):
            m.d.comb += outcome.eq(rx.RUNT)
        with m.Elif(~is_["is_ip"]):
            m.d.comb += outcome.eq(rx.NOT_IP)
        with m.Elif(is_["ip_cut"]):
            m.d.comb += outcome.eq(rx.RUNT)
        with m.Elif(is_["ip_wrong"] | is_["ip_beyond"]):
            m.d.comb += outcome.eq(rx.IP_HEADER)
        with m.Else():
            m.d.comb += on_ipv4.eq(~frame.ipv6)
            with m.If(is_["fragment"]):
                m.d.comb += outcome.eq(rx.FRAGMENT)
            with m.Elif(is_["extension"]):
                m.d.comb += outcome.eq(rx.EXTENSION)
            with m.Elif(is_["tcp"] & is_["tcp_wrong"]):
                m.d.comb += outcome.eq(rx.TCP_HEADER)
            with m.Elif(is_["tcp"]):
                m.d.comb += [tcp.eq(1), on_l4.eq(1)]
                with m.If(~is_["has_payload"]):
                    m.d.comb += outcome.eq(rx.HEADER_ONLY)
                with m.Elif(is_["syn"]):
                    m.d.comb += outcome.eq(rx.SYN_PAYLOAD)
                with m.Else():
                    m.d.comb += outcome.eq(rx.SPLIT)
            with m.Elif(is_["udp"] & is_["udp_wrong"]):
                m.d.comb += outcome.eq(rx.RUNT)
            with m.Else():
                m.d.comb += [
                    outcome.eq(rx.NOT_TCP),
                    on_l4.eq(is_["udp"] & (frame.ipv6 | ~is_["unchecked"])),
                    l4_missing.eq(is_["unchecked"]),
                ]
        m.d.sync += judged.eq(compared)
        with m.If(compared):
            m.d.sync += [
                judgement.frame.eq(frame),
                judgement.frame.reason.eq(outcome),
                judgement.frame.tcp.eq(tcp),
                judgement.frame.checksum_good.eq(on_l4),  # a wrong one is dropped
                judgement.keep.eq(outcome < abi.RX_RECORDS),
                judgement.on_ipv4.eq(on_ipv4),
                judgement.on_l4.eq(on_l4),
                judgement.l4_missing.eq(l4_missing),
            ]
        return judged, judgement
