"""Lengths: header and payload of a frame that is split lie inside the frame (R4, I1)."""

from amaranth.hdl import Cat, Mux, Signal
from spec import Mutant, Property, Spec, as_value

from hdsnic.abi import RxOutcome
from hdsnic.parameters import Parameters
from hdsnic.rx.parse import BoundStage, TransportStage
from hdsnic.rx.verify import Verify


class LengthsSpec(Spec):
    """The parser's last two stages and the verdict, behind any facts about the headers before.

    What `split.py` and `place.py` assume of a steered frame.
    """

    depth = 2
    properties = (
        Property(
            "I1 a frame is as long as its header and payload",
            "A candidate for split has at least a byte of payload, and its header and payload end "
            "no later than the frame.",
            (
                Mutant(
                    "an IP packet may be longer than its frame",
                    "hdsnic.rx.verify",
                    "(offsets.ip_end > beat.length) | (chain",
                    "(chain",
                ),
                Mutant(
                    "a TCP header may be longer than its packet",
                    "hdsnic.rx.verify",
                    "            | facts.overrun,\n",
                    "            ,\n",
                ),
                Mutant(
                    "a UDP length may be longer than its packet",
                    "hdsnic.rx.verify",
                    "            | (transport.udp_length > transport.body),\n",
                    "            ,\n",
                ),
                Mutant(
                    "a packet may end before its last IP header does",
                    "hdsnic.rx.verify",
                    ' | is_["ip_short"]',
                    "",
                ),
                Mutant(
                    "padding counts as payload",
                    "hdsnic.rx.parse",
                    "covered.eq(Mux(udp, known.udp_length, known.body))",
                    "covered.eq(Mux(udp, known.udp_length, beat.length))",
                ),
            ),
            depth=12,
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, queues=2, address_bits=32, frame_bytes_max=1514)
        transport = self.block(m, "transport", TransportStage(p.bus_bytes))
        bound = self.block(m, "bound", BoundStage(p.bus_bytes))
        verify = self.block(m, "verify", Verify(p))
        first = transport.i
        m.d.comb += [
            first.valid.eq(self.free(1, "valid")),
            first.payload.eq(self.free(len(as_value(first.payload)), "facts")),
            bound.i.valid.eq(transport.o.valid),
            bound.i.payload.eq(transport.o.payload),
            verify.i.valid.eq(bound.o.valid),
            verify.i.payload.eq(bound.o.payload),
            verify.receive.eq(self.free(1, "receive")),
            verify.deliver_malformed.eq(self.free(1, "deliver_malformed")),
            verify.steered.valid.eq(self.free(1, "steered")),
            verify.steered.payload.eq(
                self.free(len(as_value(verify.steered.payload)), "steered_frame")
            ),
        ]
        candidate = verify.candidate
        frame = candidate.payload
        split = candidate.valid & (frame.reason == RxOutcome.SPLIT)
        self.prove(
            m,
            self.properties[0].name,
            split.implies(
                (frame.payload_length != 0)
                & (frame.header_length + frame.payload_length <= frame.length)
                & (frame.length <= p.frame_bytes_max)
            ),
        )

        # Each stage holds what it was made from.
        def body_of(facts):
            body = Signal(18)
            m.d.comb += body.eq(facts.offsets.ip_end - Cat(0, 1, facts.chain.word))
            return body

        facts = transport.o.payload.facts
        body = body_of(facts)
        held = transport.o.valid
        self.helper(m, held.implies((facts.body == body[:16]) & (facts.short == body[17])))
        whole = bound.o.payload.facts
        known = whole.transport
        body = body_of(known)
        held = bound.o.valid
        self.helper(m, held.implies((known.body == body[:16]) & (known.short == body[17])))
        for stage in (transport, bound):
            ports = (facts if stage is transport else known).ports
            self.helper(m, stage.o.valid.implies(~(ports.tcp & ports.udp)))
        header = Mux(known.ports.udp, 8, known.data_offset << 2)
        covered = Mux(known.ports.udp, known.udp_length, known.body)
        payload, end = Signal(17), Signal(12)
        m.d.comb += [payload.eq(covered - header), end.eq(Cat(0, 1, known.chain.word) + header)]
        self.helper(
            m,
            held.implies(
                (whole.payload == payload[:16])
                & (whole.overrun == payload[16])
                & (whole.far | (whole.header_end == end))
            ),
        )
        v = self.view(verify)
        is_, mine = v.is_, v.frame
        tcp = is_["tcp"] & ~is_["tcp_wrong"]
        udp = ~is_["tcp"] & is_["udp"] & ~is_["udp_wrong"]
        passes = (tcp | udp) & ~(is_["ip_beyond"] | is_["ip_short"] | is_["far"] | is_["oversize"])
        self.helper(
            m,
            (v.compared & passes).implies(
                (mine.header_length + mine.payload_length <= mine.length)
                & (mine.length <= p.frame_bytes_max)
                & (is_["has_payload"] == (mine.payload_length != 0))
            ),
        )
