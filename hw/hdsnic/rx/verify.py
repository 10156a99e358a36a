"""Verification: decides of every frame whether it is whole, for us and undamaged (I5, R4, R5).

Second in the receive path, behind the parser. Nothing of a frame is committed to the frame buffer
before this verdict, which comes with the frame's last beat. `steer` works in the meantime.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import SteeredFrame, Strobe, count_bits
from .checksum import ChecksumUnit, checksum_latency
from .delay import DelayLine
from .parse import ETHERNET_BYTES, IPV6_BYTES, UDP_BYTES, Facts
from .stage import located

__all__ = [
    "CANDIDATE_CYCLES", "HEADER_BYTES_MAX", "VERDICT_CYCLES", "Candidate", "Steered",
    "VerifiedBeat", "Verify",
]  # fmt: skip

TCP_BYTES = 20
IPV4_BYTES = 20
HEADER_BYTES_MAX = 256  # of a record at least (R3)
# IANA protocol numbers
IPV6_FRAGMENT = 44
IPV6_EXTENSIONS = (0, 135, 139, 140, 253, 254)
"""Extension headers that end the chain: a hop-by-hop header behind another header (RFC 8200 4.1),
mobility, HIP, Shim6, experiments."""
TUNNELS = (4, 41, 47, 50, 51, 97, 115, 137)
"""IPv4, IPv6, GRE, ESP, AH, Ethernet, L2TP and MPLS within IP."""

CANDIDATE_CYCLES = 2  # from the parser's last beat
VERDICT_CYCLES = 8


class Verdict(data.StructLayout):
    """The verdict but for the checksums, and which of them it depends on.

    `keep`: else it is dropped for its reason. `content`: a drop would be for what the frame holds.
    """

    def __init__(self):
        super().__init__({"keep": 1, "content": 1, "on_ipv4": 1, "on_l4": 1, "l4_missing": 1})


class Candidate(data.StructLayout):
    """A frame before it is steered.

    `reason` is an RxOutcome; frames that are `tcp` or `udp` (SPLIT, HEADER_ONLY, SYN_PAYLOAD) are
    subject to the local addresses and rules. `header_length` and `payload_length` are of those.
    """

    def __init__(self, parameters):
        length = count_bits(parameters.frame_bytes_max)
        super().__init__(
            {
                "length": unsigned(length),
                "header_length": unsigned(9),
                "payload_length": unsigned(length),
                "vlan_tags": unsigned(2),
                "ipv6": unsigned(1),
                "tcp": unsigned(1),
                "udp": unsigned(1),
                "reason": unsigned(5),
                "checksum_good": unsigned(1),
                "verdict": Verdict(),
            }
        )


class Steered(data.StructLayout):
    """A frame as it is steered; `udp_payload`: to be split only if its queue splits UDP."""

    def __init__(self, parameters):
        super().__init__(
            {"frame": SteeredFrame(parameters), "udp_payload": 1, "verdict": Verdict()}
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
                "udp_payload": unsigned(1),
                "frame": SteeredFrame(parameters),
            }
        )


class Verify(wiring.Component):
    """Gives each frame its verdict; the order of the checks is that of the layers.

    MAC's mark, oversize, runt, receive switch, MAC filter; then, each only if the one before is
    good: VLAN tags, IP header with the chain of extension headers, IPv4 checksum, fragment,
    extension, tunnel, headers beyond the window, TCP or UDP header, headers too long, L4 checksum.
    A UDP header that is cut, or whose length contradicts the IP length, is a RUNT. Frames that no
    rule can be for are kept with their reason; UDP over IPv4 may go without a checksum (RFC 768),
    UDP over IPv6 may not (RFC 8200 8.1).

    With `deliver_malformed` (R13) frames that are for us and would be dropped for what they hold
    are kept as MALFORMED, whole, for queue 0; `tag` is the RxOutcome.

    Latency VERDICT_CYCLES at every width; a beat a cycle, frames back to back; no back-pressure.

    Interface attributes
    --------------------
    i: beats with the facts of the parser. receive: 0 drops every frame. deliver_malformed: see
    above. Both are sampled as the frame's verdict is made.
    candidate: each frame, CANDIDATE_CYCLES after its last beat. steered: the same as `steer` makes
    it, in the cycle before the verdict.
    o: the same beats, with the verdict on the last one.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "i": In(Strobe(located(parameters.bus_bytes, Facts()))),
                "receive": In(1),
                "deliver_malformed": In(1),
                "candidate": Out(Strobe(Candidate(parameters))),
                "steered": In(Strobe(Steered(parameters))),
                "o": Out(Strobe(VerifiedBeat(parameters))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        beat = self.i.payload.beat

        m.submodules.checksum = checksum = ChecksumUnit(p.bus_bytes, p.frame_bytes_max)
        m.d.comb += [checksum.i.valid.eq(self.i.valid), checksum.i.payload.eq(self.i.payload)]
        good = Cat(checksum.ipv4_good, checksum.l4_good)
        for n in range(VERDICT_CYCLES - 1 - checksum_latency(p.bus_bytes)):
            before, good = good, Signal(2, name=f"good_{n}")
            m.d.sync += good.eq(before)

        carried = data.StructLayout(
            {"data": 8 * p.bus_bytes, "count": count_bits(p.bus_bytes), "last": 1}
        )
        m.submodules.beats = beats = DelayLine(carried, VERDICT_CYCLES - 1)
        m.d.comb += [
            beats.i.valid.eq(self.i.valid),
            beats.i.payload.data.eq(beat.data),
            beats.i.payload.count.eq(beat.count),
            beats.i.payload.last.eq(beat.last),
        ]
        self.judge(m)

        steered, out = self.steered.payload, self.o.payload
        verdict = steered.verdict
        rx = abi.RxOutcome
        dropped, fault = Signal(), Signal(len(out.frame.reason))
        with m.If(verdict.on_ipv4 & ~good[0]):
            m.d.comb += [dropped.eq(1), fault.eq(rx.IP_CHECKSUM)]
        with m.Elif(verdict.on_l4 & (~good[1] | verdict.l4_missing)):
            m.d.comb += [dropped.eq(1), fault.eq(rx.L4_CHECKSUM)]
        with m.Else():
            m.d.comb += [dropped.eq(~verdict.keep), fault.eq(steered.frame.reason)]

        m.d.sync += self.o.valid.eq(beats.o.valid)
        with m.If(beats.o.valid):
            m.d.sync += [
                out.data.eq(beats.o.payload.data),
                out.count.eq(beats.o.payload.count),
                out.last.eq(beats.o.payload.last),
            ]
        with m.If(self.steered.valid):
            m.d.sync += [
                out.keep.eq(~dropped | (verdict.content & self.deliver_malformed)),
                out.frame.eq(steered.frame),
                out.frame.reason.eq(fault),
                out.udp_payload.eq(steered.udp_payload),
            ]
            with m.If(dropped & self.deliver_malformed):
                m.d.sync += [
                    out.frame.header_length.eq(steered.frame.length),
                    out.frame.payload_length.eq(0),
                    out.frame.queue.eq(0),
                    out.frame.hash.eq(0),
                    out.frame.tag.eq(fault),
                    out.frame.checksum_good.eq(0),
                    out.udp_payload.eq(0),
                ]
                with m.If(verdict.content):
                    m.d.sync += out.frame.reason.eq(rx.MALFORMED)
        return m

    def judge(self, m):
        """All checks but the checksums' results, in two cycles: compare, then decide."""
        p = self.p
        beat, facts = self.i.payload.beat, self.i.payload.facts
        transport = facts.transport
        offsets, chain = transport.offsets, transport.chain
        network = offsets.network
        ipv6 = network.ipv6

        def one_of(values):
            return Cat(chain.kind == value for value in values).any()

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
            "ip_wrong": Mux(ipv6, network.version != 6, (network.version != 4) | (network.ihl < 5)),
            # a chain that is unfinished within the window has come to the end of the frame
            "ip_beyond": (offsets.ip_end > beat.length) | (chain.unfinished & ~facts.far),
            "ip_short": transport.short,
            "fragment": network.fragment | (ipv6 & (chain.kind == IPV6_FRAGMENT)),
            "extension": ipv6 & (one_of(IPV6_EXTENSIONS) | chain.segments_left),
            "tunnel": one_of(TUNNELS),
            "far": facts.far,
            "tcp": transport.ports.tcp,
            "tcp_wrong": (transport.body < TCP_BYTES)
            | (transport.data_offset < TCP_BYTES // 4)
            | facts.overrun,
            "udp": transport.ports.udp,
            "udp_wrong": (transport.body < UDP_BYTES)
            | (transport.udp_length < UDP_BYTES)
            | (transport.udp_length > transport.body),
            "unchecked": transport.udp_unchecked,
            "long": facts.header_end > HEADER_BYTES_MAX,
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
            ]

        verdict = Signal(Verdict())
        outcome = Signal(len(frame.reason))
        tcp, udp = Signal(), Signal()
        rx = abi.RxOutcome
        m.d.comb += verdict.content.eq(1)
        with m.If(is_["bad"]):
            m.d.comb += [outcome.eq(rx.BAD_FCS), verdict.content.eq(0)]
        with m.Elif(is_["oversize"]):
            m.d.comb += [outcome.eq(rx.OVERSIZE), verdict.content.eq(0)]
        with m.Elif(is_["runt"]):
            m.d.comb += [outcome.eq(rx.RUNT), verdict.content.eq(0)]
        with m.Elif(~self.receive):
            m.d.comb += [outcome.eq(rx.DISABLED), verdict.content.eq(0)]
        with m.Elif(is_["foreign"]):
            m.d.comb += [outcome.eq(rx.MAC_FILTER), verdict.content.eq(0)]
        with m.Elif(is_["tags_cut"]):
            m.d.comb += outcome.eq(rx.RUNT)
        with m.Elif(~is_["is_ip"]):
            m.d.comb += outcome.eq(rx.NOT_IP)
        with m.Elif(is_["ip_cut"]):
            m.d.comb += outcome.eq(rx.RUNT)
        with m.Elif(is_["ip_wrong"] | is_["ip_beyond"] | is_["ip_short"]):
            m.d.comb += outcome.eq(rx.IP_HEADER)
        with m.Else():
            m.d.comb += verdict.on_ipv4.eq(~frame.ipv6)
            with m.If(is_["fragment"]):
                m.d.comb += outcome.eq(rx.FRAGMENT)
            with m.Elif(is_["extension"]):
                m.d.comb += outcome.eq(rx.EXTENSION)
            with m.Elif(is_["tunnel"]):
                m.d.comb += outcome.eq(rx.TUNNEL)
            with m.Elif(is_["far"]):
                m.d.comb += outcome.eq(rx.LONG_HEADER)
            with m.Elif(is_["tcp"] & is_["tcp_wrong"]):
                m.d.comb += outcome.eq(rx.TCP_HEADER)
            with m.Elif(is_["udp"] & is_["udp_wrong"]):
                m.d.comb += outcome.eq(rx.RUNT)
            with m.Elif(is_["tcp"] | is_["udp"]):
                m.d.comb += [
                    verdict.on_l4.eq(is_["tcp"] | frame.ipv6 | ~is_["unchecked"]),
                    verdict.l4_missing.eq(is_["udp"] & is_["unchecked"]),
                    tcp.eq(is_["tcp"] & ~is_["long"]),
                    udp.eq(is_["udp"] & ~is_["long"]),
                ]
                with m.If(is_["long"]):
                    m.d.comb += outcome.eq(rx.LONG_HEADER)
                with m.Elif(~is_["has_payload"]):
                    m.d.comb += outcome.eq(rx.HEADER_ONLY)
                with m.Elif(is_["tcp"] & is_["syn"]):
                    m.d.comb += outcome.eq(rx.SYN_PAYLOAD)
                with m.Else():
                    m.d.comb += outcome.eq(rx.SPLIT)
            with m.Else():
                m.d.comb += outcome.eq(rx.NOT_TCP)
        m.d.comb += verdict.keep.eq(outcome < abi.RX_RECORDS)
        candidate = self.candidate.payload
        m.d.sync += self.candidate.valid.eq(compared)
        with m.If(compared):
            m.d.sync += [
                candidate.eq(frame),
                candidate.reason.eq(outcome),
                candidate.tcp.eq(tcp),
                candidate.udp.eq(udp),
                candidate.checksum_good.eq(verdict.on_l4),  # a wrong one is dropped
                candidate.verdict.eq(verdict),
            ]
