"""Egress: from steered frames to records and payload in memory, and to the indices that show them.

The second half of the receive path. Frames come verified and steered; here each gets its place, is
split in one pass, written through both memory ports, and committed:

    frames -> Placer -> requests, Splitter -> RecordWriter -> header port -+
                 ^                         -> PayloadAligner -> payload port +-> Commit -> index
    post rings -> PostFetcher -> HandleQueues

Of the design's invariants I1 (Splitter), I2 (Placer), I3 (Commit) and I4 (ElementStates) hold here.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..abi import CELL_BYTES, CHAINED_BUFFER, RECORD, RX_RECORDS, PostOutcome
from ..interfaces import (
    Doorbell,
    Fault,
    FrameBeat,
    IndexUpdate,
    PostRingStore,
    QueueStore,
    ReadClient,
    RegionLookup,
    SteeredFrame,
    Strobe,
    WriteClient,
    WriteRequest,
)  # fmt: skip
from .commit import Commit, CountedFrame
from .handles import ElementStates, HandleQueues
from .place import Placer
from .post import CountedPost, PostFetcher
from .record import RecordJob, RecordWriter
from .split import ChainCutter, PayloadAligner, SplitJob, Splitter
from .storage import StreamFifo

__all__ = ["Egress"]

_JOBS = 4
"""Frames that may be placed before the first of them is split."""
_BEATS = 4
"""Beats of slack between the splitter and each realigner: covers the record's fixed part."""
_BUFFERS = 16
"""Buffers of placed frames that wait for their requests: the longest chain has room, or its first
buffers would wait for its record, and its record for its last buffers."""


class Egress(wiring.Component):
    """Places, splits, writes and commits frames; serves the post rings.

    Throughput: one beat a cycle, and per frame at least 2 cycles, 3 for each further buffer, and as
    many as its record has beats. Latency from `frames` to the first beat of the header: 3 cycles,
    of the payload: 4; from the last acknowledgement to `index`: 2. When a port or the commit queue
    is slow, beats wait in the frame buffer; a queue without buffers or ring space loses its own
    frames and delays nobody.

    Ports
    -----
    frames, beats: from `Ingress`, or `Injector`.
    time_stamps: a bit for each queue: its records begin with a time stamp.
    rx_ring_store, post_ring_store: a queue's receive ring, and owner and post ring; only while
    paused and idle. Handles left from before are discarded at once.
    rx_consumer, post_producer: doorbells; nonsense is ignored.
    post_region, claim_region: into the region table.
    header, payload: writes; posts: reads of post cells on the payload port.
    index: receive half of the index slots, one update for each record at least.
    outcome: one for each frame, in their order; `completed` with it.
    post_outcome: one for each cell that was read (ACCEPTED or refused), one more (FLUSHED) for an
    accepted one that will never hold payload, one for each bad doorbell. So accepted posts are
    buffers of records, FLUSHED, or still held.
    rx_fault: a voided record, and where its queue's ring stopped. post_fault: a refused cell, or
    where a post ring was given up. Both are lost while nobody takes them; see `outcome` and
    `post_outcome` for the count.
    element_clear: a region is about to go live: its old handles are discarded, then its element
    states swept; `element_busy` until that is done. Frames wait for the first part only.
    pause, idle: with `pause` no frame and no read is begun; `idle` once nothing is under way.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        super().__init__(
            {
                "time_stamps": In(p.queues),
                "frames": In(stream.Signature(SteeredFrame(p))),
                "beats": In(stream.Signature(FrameBeat(p.bus_bytes))),
                "rx_ring_store": In(Strobe(QueueStore(p))),
                "post_ring_store": In(Strobe(PostRingStore(p))),
                "rx_consumer": In(Strobe(Doorbell(p))),
                "post_producer": In(Strobe(Doorbell(p))),
                "post_region": Out(RegionLookup(p)),
                "claim_region": Out(RegionLookup(p)),
                "header": Out(WriteClient(p)),
                "payload": Out(WriteClient(p)),
                "posts": Out(ReadClient(p)),
                "index": Out(Strobe(IndexUpdate(p))),
                "outcome": Out(Strobe(CountedFrame(p))),
                "post_outcome": Out(Strobe(CountedPost(p))),
                "rx_fault": Out(stream.Signature(Fault(p))),
                "post_fault": Out(stream.Signature(Fault(p))),
                "completed": Out(1),
                "element_clear": In(stream.Signature(8)),
                "element_busy": Out(1),
                "pause": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.states = states = ElementStates(p)
        m.submodules.handles = handles = HandleQueues(p)
        m.submodules.fetcher = fetcher = PostFetcher(p)
        m.submodules.placer = placer = Placer(p)
        m.submodules.jobs = jobs = StreamFifo(SplitJob(p), _JOBS)
        m.submodules.splitter = splitter = Splitter(p)
        m.submodules.header_beats = header_beats = StreamFifo(8 * p.bus_bytes, _BEATS, through=True)
        m.submodules.payload_beats = payload_beats = StreamFifo(
            splitter.payload.payload.shape(), _BEATS, through=True
        )
        m.submodules.records = records = StreamFifo(RecordJob(p), _JOBS)
        m.submodules.writer = writer = RecordWriter(p)
        m.submodules.words = words = StreamFifo(64, _BUFFERS)
        m.submodules.aligner = aligner = PayloadAligner(p)
        m.submodules.cutter = cutter = ChainCutter(p)
        m.submodules.lengths = lengths = StreamFifo(cutter.lengths.payload.shape(), _BUFFERS)
        m.submodules.header_requests = header_requests = StreamFifo(WriteRequest(p), _JOBS)
        m.submodules.payload_requests = payload_requests = StreamFifo(WriteRequest(p), _BUFFERS)
        m.submodules.commit = commit = Commit(p)

        connect, flipped = wiring.connect, wiring.flipped
        # Set-up, doorbells, tables and memory go straight to the blocks that own them.
        connect(m, flipped(self.frames), placer.frames)
        connect(m, flipped(self.rx_consumer), placer.rx_consumer)
        connect(m, flipped(self.post_producer), fetcher.post_producer)
        connect(m, flipped(self.post_ring_store), fetcher.post_ring_store)
        connect(m, fetcher.region, flipped(self.post_region))
        connect(m, placer.claim_region, flipped(self.claim_region))
        connect(m, fetcher.posts, flipped(self.posts))
        connect(m, flipped(self.element_clear), handles.purge)
        for block in (placer, commit):
            m.d.comb += [
                block.rx_ring_store.valid.eq(self.rx_ring_store.valid),
                block.rx_ring_store.payload.eq(self.rx_ring_store.payload),
            ]

        # Posted buffers.
        connect(m, fetcher.push, handles.push)
        connect(m, fetcher.reserve, handles.reserve)
        connect(m, fetcher.release, handles.release)
        connect(m, fetcher.mark, states.mark)
        connect(m, handles.sweep, states.sweep)
        connect(m, commit.finish, states.finish)
        connect(m, fetcher.moved, commit.moved)
        m.d.comb += [
            fetcher.marked_before.eq(states.marked_before),
            fetcher.roomy.eq(handles.roomy),
            fetcher.flushing.eq(handles.flushing),
            fetcher.pause.eq(self.pause),
            fetcher.hold.eq(handles.hold),
            fetcher.queue.eq(placer.queue),
            fetcher.index_queue.eq(commit.index_queue),
            commit.consumer.eq(fetcher.consumer),
            commit.enabled.eq(placer.enabled),
            handles.flush.valid.eq(self.post_ring_store.valid),
            handles.flush.payload.eq(self.post_ring_store.payload.queue),
            handles.wanted.eq(placer.wanted),
            handles.queue.eq(placer.queue),
            handles.depth.eq(placer.depth),
            handles.pop.eq(placer.pop),
            handles.replace.eq(placer.replace),
            # Also no frame in flight: its buffer's state is cleared when it commits.
            handles.quiet.eq(fetcher.quiet & placer.quiet & commit.empty),
            placer.handle.eq(handles.handle),
            placer.found.eq(handles.found),
            placer.following.eq(handles.following),
            placer.another.eq(handles.another),
            placer.pushing.eq(fetcher.push.valid),
            placer.time_stamps.eq(self.time_stamps),
            placer.ready.eq(handles.ready),
            placer.held.eq(handles.held),
            placer.owner.eq(fetcher.owner),
            placer.unread.eq(fetcher.unread),
            placer.failed.eq(commit.failed),
            placer.pause.eq(self.pause),
            placer.hold.eq(handles.hold),
            self.element_busy.eq(handles.purging | states.busy),
        ]
        self._count_posts(m, fetcher, commit, placer, handles, states)
        payload_sinks = (payload_requests, lengths, words)
        self._dispatch(m, placer, jobs, records, header_requests, payload_sinks, commit)
        self._describe(m, placer, records)

        # Split and write.
        connect(m, jobs.output, splitter.jobs)
        connect(m, flipped(self.beats), splitter.beats)
        connect(m, splitter.header, header_beats.input)
        connect(m, splitter.payload, payload_beats.input)
        connect(m, header_beats.output, writer.header)
        connect(m, payload_beats.output, aligner.input)
        connect(m, records.output, writer.jobs)
        connect(m, writer.output, flipped(self.header.beats))
        connect(m, words.output, writer.words)
        connect(m, aligner.output, cutter.input)
        connect(m, lengths.output, cutter.lengths)
        connect(m, cutter.output, flipped(self.payload.beats))
        connect(m, header_requests.output, flipped(self.header.request))
        connect(m, payload_requests.output, flipped(self.payload.request))

        # Commit.
        connect(m, commit.index, flipped(self.index))
        connect(m, commit.outcome, flipped(self.outcome))
        connect(m, commit.faults, flipped(self.rx_fault))
        connect(m, fetcher.faults, flipped(self.post_fault))
        still = Signal()
        m.d.comb += [
            commit.header_done.eq(self.header.done),
            commit.header_error.eq(self.header.error),
            commit.payload_done.eq(self.payload.done),
            commit.payload_error.eq(self.payload.error),
            self.completed.eq(self.outcome.valid),
            still.eq(placer.quiet & splitter.idle & ~handles.hold),
            self.idle.eq(still & commit.settled & commit.empty & fetcher.idle),
        ]
        return m

    def _count_posts(self, m, fetcher, commit, placer, handles, states):
        """All post outcomes through one strobe; discards also clear their element's state."""
        discard = Signal.like(placer.discard.payload)
        discarding = Signal()
        m.d.comb += [
            # The walk discards only while the placer holds still.
            discarding.eq(placer.discard.valid | handles.discard.valid),
            discard.eq(Mux(handles.discard.valid, handles.discard.payload, placer.discard.payload)),
            states.discard.payload.eq(discard.handle.at),
        ]
        valid = Signal()
        post = Signal(CountedPost(self.parameters))
        with m.If(fetcher.bad_doorbell.valid):
            m.d.comb += [
                valid.eq(1),
                post.queue.eq(fetcher.bad_doorbell.payload),
                post.outcome.eq(PostOutcome.BAD_DOORBELL),
            ]
        with m.Elif(commit.flushed.valid):
            m.d.comb += [
                valid.eq(1), commit.flushed.ready.eq(1), post.eq(commit.flushed.payload)
            ]  # fmt: skip
        with m.Elif(discarding):
            m.d.comb += [
                states.discard.valid.eq(1),
                valid.eq(states.discard.ready),
                placer.discard.ready.eq(states.discard.ready),
                handles.discard.ready.eq(states.discard.ready),
                post.queue.eq(discard.queue),
                post.outcome.eq(PostOutcome.FLUSHED),
            ]
        with m.Else():
            m.d.comb += [
                valid.eq(fetcher.outcomes.valid),
                fetcher.outcomes.ready.eq(1),
                post.eq(fetcher.outcomes.payload),
            ]
        m.d.sync += [self.post_outcome.valid.eq(valid), self.post_outcome.payload.eq(post)]

    def _dispatch(self, m, placer, jobs, records, header_requests, payload_sinks, commit):
        """A placed frame, or buffer, to all that work on it, at once, when all have room."""
        p = self.parameters
        lane_bits = p.bus_bytes.bit_length() - 1
        placed = placer.placed.payload
        frame = placed.frame
        written, go = Signal(), Signal()
        sinks = (jobs, records, header_requests, *payload_sinks)
        readies = [sink.input.ready for sink in sinks]
        m.d.comb += [
            written.eq(placed.outcome < RX_RECORDS),
            go.eq(
                placer.placed.valid & Cat(readies).all() & commit.entries.ready & commit.ends.ready
            ),
            placer.placed.ready.eq(go),
            jobs.input.valid.eq(go & placed.first),
            records.input.valid.eq(go & written & placed.first),
            header_requests.input.valid.eq(go & written & placed.first),
            commit.entries.valid.eq(go),
            commit.ends.valid.eq(go & placed.claimed),
            commit.ends.payload.eq(~placed.more),
        ]
        requests, lengths, words = payload_sinks
        m.d.comb += [
            requests.input.valid.eq(go & placed.claimed),
            lengths.input.valid.eq(go & placed.claimed),
            words.input.valid.eq(go & placed.claimed & ~placed.first),
        ]

        job = jobs.input.payload
        with m.If(written):
            m.d.comb += job.header_beats.eq((frame.header_length + p.bus_bytes - 1) >> lane_bits)
        with m.If(placed.claimed):
            m.d.comb += [
                job.payload_first.eq(frame.header_length >> lane_bits),
                job.payload_end.eq(
                    (frame.header_length + frame.payload_length + p.bus_bytes - 1) >> lane_bits
                ),
                job.payload_length.eq(frame.payload_length),
                job.shift.eq(frame.header_length[:lane_bits]),
            ]

        header, payload = header_requests.input.payload, requests.input.payload
        entry = commit.entries.payload
        word = words.input.payload
        chained = CHAINED_BUFFER.as_amaranth()(word)
        m.d.comb += [
            header.address.eq(placed.record),
            header.length.eq(RECORD.bytes + (placed.extensions << 3) + frame.header_length),
            header.wrap_log2.eq(placed.wrap_log2),
            payload.address.eq(placed.address),
            payload.length.eq(placed.length),
            lengths.input.payload.eq((placed.length + p.bus_bytes - 1) >> lane_bits),
            chained.element.eq(placed.at.element),
            chained.region.eq(placed.at.region),
            chained.length.eq(placed.length),
            entry.queue.eq(frame.queue),
            entry.outcome.eq(placed.outcome),
            entry.producer.eq(placed.producer),
            entry.claimed.eq(placed.claimed),
            entry.more.eq(placed.more),
            entry.element.eq(placed.at),
        ]

    def _describe(self, m, placer, records):
        """The record of a placed frame."""
        p = self.parameters
        lane_bits = p.bus_bytes.bit_length() - 1
        placed = placer.placed.payload
        frame = placed.frame
        record = records.input.payload
        in_beat = Signal(range(max(2, p.bus_bytes)))  # byte of the beat at which the record begins
        m.d.comb += [
            in_beat.eq(placed.record[:lane_bits] & ~(CELL_BYTES - 1)),
            record.cell.eq(in_beat // CELL_BYTES),
            record.end.eq(in_beat + RECORD.bytes + (placed.extensions << 3) + frame.header_length),
            record.stamped.eq(placed.time_stamp),
            record.time_stamp.eq(frame.time_stamp),
            record.chained.eq(placed.extensions - placed.time_stamp),
        ]
        claimed = placed.claimed
        fields = {
            "header_length": frame.header_length,
            "payload_length": Mux(claimed, frame.payload_length, 0),
            "extensions": placed.extensions,
            "element": Mux(claimed, placed.at.element, 0),
            "region": Mux(claimed, placed.at.region, 0),
            "hash": frame.hash,
            "tag": frame.tag,
            "reason": placed.outcome,
            "vlan_tags": frame.vlan_tags,
            "ipv6": frame.ipv6,
            "checksum_good": frame.checksum_good,
            "time_stamp": placed.time_stamp,
            "posted_left": placed.left,
        }
        # One assignment of all bits: constant parts of their own never wake a Verilog process.
        packed = []
        for name, width in RECORD.widths.items():
            part = Signal(width, name=f"record_{name}")
            if name in fields:
                m.d.comb += part.eq(fields[name])
            packed.append(part if name in fields else Const(0, width))
        m.d.comb += record.fields.as_value().eq(Cat(*packed))
