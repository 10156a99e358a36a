"""Dispatch of placed frames: what the neighbours' proofs assume of one another (I1, I2, I3, I6)."""

from amaranth.hdl import Cat, Mux
from spec import Mutant, Property, Spec, as_value, parts_of

from hdsnic.abi import RX_RECORDS
from hdsnic.parameters import Parameters
from hdsnic.rx import egress as module
from hdsnic.rx.egress import Egress

_MODULE = "hdsnic.rx.egress"


class DispatchSpec(Spec):
    """The wires between the blocks of the egress, whatever the blocks do."""

    depth = 1
    map_memories = False
    properties = (
        Property(
            "I1 a frame is split where its header ends",
            "The splitter's job says what `split.py` assumes: payload from the split offset on, as "
            "many bytes as were steered; nothing for a frame that was not claimed for.",
            (
                Mutant(
                    "the payload begins a lane early",
                    _MODULE,
                    "job.shift.eq(frame.header_length[:lane_bits])",
                    "job.shift.eq((frame.header_length - 1)[:lane_bits])",
                ),
                Mutant(
                    "a frame without a buffer is split",
                    _MODULE,
                    "m.If(placed.claimed):",
                    "m.If(1):",
                ),
            ),
            depth=2,
        ),
        Property(
            "I2 a payload request is what was claimed",
            "A request on the payload port has address and length of the claimed buffer, and never "
            "wraps; the cutter gets its beats.",
            (
                Mutant(
                    "the whole payload goes to the first buffer",
                    _MODULE,
                    "payload.length.eq(placed.length)",
                    "payload.length.eq(frame.payload_length)",
                ),
                Mutant(
                    "a frame without a buffer is written",
                    _MODULE,
                    "requests.input.valid.eq(go & placed.claimed)",
                    "requests.input.valid.eq(go & written)",
                ),
            ),
            depth=2,
        ),
        Property(
            "I3 each request is waited for",
            "With each placed frame or buffer go exactly one commit entry, a header request if its "
            "record begins, and a payload request if it is claimed, all of them or none.",
            (
                Mutant(
                    "a request is made that commit does not know",
                    _MODULE,
                    "commit.entries.valid.eq(go)",
                    "commit.entries.valid.eq(go & ~placed.more)",
                ),
                Mutant(
                    "a frame goes on without room in commit",
                    _MODULE,
                    "& commit.entries.ready & commit.ends.ready",
                    "& commit.ends.ready",
                ),
            ),
            depth=2,
        ),
        Property(
            "I6 idle egress stands still in all its blocks",
            "`idle` only while the placer is quiet, no post is fetched or checked, no frame waits "
            "for its commit, no index waits to be told, and no posts are discarded.",
            (
                Mutant(
                    "idle while posts are read",
                    _MODULE,
                    "commit.empty & fetcher.idle",
                    "commit.empty",
                ),
                Mutant(
                    "idle while writes are not acknowledged",
                    _MODULE,
                    "commit.settled & commit.empty & fetcher",
                    "commit.settled & fetcher",
                ),
                Mutant(
                    "idle while an index waits to be told",
                    _MODULE,
                    "still & commit.settled",
                    "still",
                ),
            ),
            depth=6,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, postable_max=16, post_prefetch=4, chain_max=3,
            address_bits=32, frame_bytes_max=1514, outstanding=2,
        )  # fmt: skip
        egress = Egress(p)
        with self.opaque(*parts_of(module)):
            self.block(m, "egress", egress)
        self.free_ports(m, egress)
        v = self.view(egress)
        stream = v.placer.placed
        placed, frame = stream.payload, stream.payload.frame
        goes = stream.valid & stream.ready
        written = placed.outcome < RX_RECORDS
        claimed = placed.claimed

        # As the ingress has verified, and the placer keeps.
        self.assume(m, frame.header_length + frame.payload_length <= p.frame_bytes_max)
        self.assume(m, placed.length <= p.frame_bytes_max)

        job = v.jobs.input.payload
        header, payload = frame.header_length, frame.payload_length
        self.prove(
            m,
            self.properties[0].name,
            (job.payload_first == Mux(claimed, header >> 3, 0))
            & (job.payload_end == Mux(claimed, (header + payload + 7) >> 3, 0))
            & (job.payload_length == Mux(claimed, payload, 0))
            & (job.shift == Mux(claimed, header[:3], 0))
            & (job.header_beats == Mux(written, (header + 7) >> 3, 0)),
        )
        request = v.payload_requests.input
        self.prove(
            m,
            self.properties[1].name,
            request.valid.implies(
                (request.payload.address == placed.address)
                & (request.payload.length == placed.length)
                & (request.payload.wrap_log2 == 0)
                & claimed
            )
            & (v.lengths.input.valid == request.valid)
            & (v.lengths.input.payload == (placed.length + 7) >> 3),
        )
        entries, ends = v.commit.entries, v.commit.ends
        entry = entries.payload
        expected = (
            (entries.valid, 1),
            (v.jobs.input.valid, placed.first),
            (v.records.input.valid, placed.first & written),
            (v.header_requests.input.valid, placed.first & written),
            (request.valid, claimed),
            (ends.valid, claimed),
        )
        sinks = (entries, v.jobs.input, v.records.input, v.header_requests.input, request, ends)
        self.prove(
            m,
            self.properties[2].name,
            Cat(valid == (goes & wanted) for valid, wanted in expected).all()
            & goes.implies(Cat(sink.ready for sink in sinks).all())
            & goes.implies(
                (entry.claimed == claimed)
                & (entry.outcome == placed.outcome)
                & (entry.queue == frame.queue)
                & (entry.producer == placed.producer)
                & (entry.more == placed.more)
                & (as_value(entry.element) == as_value(placed.at))
                & (ends.payload == ~placed.more)
            ),
        )
        self.prove(
            m,
            self.properties[3].name,
            egress.idle.implies(
                v.placer.quiet
                & v.fetcher.idle
                & v.commit.empty
                & v.commit.settled
                & ~v.handles.hold
            ),
        )
