"""Commit: a record shows only after its writes, and a buffer finishes once (I3, I4)."""

from amaranth.hdl import Signal
from spec import Mutant, Property, Spec, count_ones

from hdsnic.abi import RX_RECORDS
from hdsnic.interfaces import count_bits
from hdsnic.parameters import Parameters
from hdsnic.rx.commit import Commit, CommitEntry

_MODULE = "hdsnic.rx.commit"
_DEPTH = 4


class CommitSpec(Spec):
    """Follows an arbitrary record by its queue and producer index, and an arbitrary element.

    Assumed: a claimed frame has a record. Acknowledgements come for requests that were made before,
    none more. Indices of one queue do not come twice (they count up; the ring is cleared in
    between). An element is not in flight twice. All of it is proven of the neighbours, or stands in
    docs/verification.md.
    """

    depth = 2
    properties = (
        Property(
            "I3 a record shows after both ports acknowledged",
            "An index update reaches a record's index only after all of its writes on the header "
            "port, and on the payload port if it has payload, were acknowledged.",
            (
                Mutant(
                    "the header port is not waited for",
                    _MODULE,
                    "& (~written | header.output.valid)",
                    "",
                ),
                Mutant(
                    "the payload port is not waited for",
                    _MODULE,
                    "& (~both | payload.output.valid)",
                    "",
                ),
                Mutant(
                    "an acknowledgement serves two records",
                    _MODULE,
                    "payload.output.ready.eq(pop & both)",
                    "payload.output.ready.eq(pop & both & entry.queue)",
                ),
            ),
            depth=14,
        ),
        Property(
            "I3 a record whose write failed never shows",
            "An index update does not reach a record with an error response on either port.",
            (
                Mutant(
                    "an error on the payload port is overlooked",
                    _MODULE,
                    " | (both & payload.output.payload)",
                    "",
                ),
                Mutant(
                    "an error voids nothing",
                    _MODULE,
                    "written & (error | self.failed",
                    "written & (self.failed",
                ),
            ),
            depth=14,
        ),
        Property(
            "I4 a buffer in flight finishes once",
            "`finish` comes only for an element that is in flight, once.",
            (
                Mutant(
                    "finish comes while the discard waits",
                    _MODULE,
                    "self.finish.valid.eq(pop & both)",
                    "self.finish.valid.eq(acknowledged & both)",
                ),
                Mutant(
                    "a frame without payload finishes an element",
                    _MODULE,
                    "self.finish.valid.eq(pop & both)",
                    "self.finish.valid.eq(pop & written)",
                ),
            ),
        ),
        Property(
            "I4 no buffer in flight is forgotten",
            "`empty` only when no element is in flight.",
            (
                Mutant(
                    "a void record keeps its element",
                    _MODULE,
                    "self.finish.valid.eq(pop & both)",
                    "self.finish.valid.eq(pop & both & ~void)",
                ),
            ),
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, postable_max=16, address_bits=32, outstanding=2
        )
        commit = Commit(p)
        commit.depth = _DEPTH
        self.block(m, "commit", commit)
        entry_bits = CommitEntry(p)
        m.d.comb += [
            commit.entries.valid.eq(self.free(1, "entry_valid")),
            commit.entries.payload.eq(self.free(entry_bits.size, "entry")),
            commit.header_done.eq(self.free(1, "header_done")),
            commit.header_error.eq(self.free(1, "header_error")),
            commit.payload_done.eq(self.free(1, "payload_done")),
            commit.payload_error.eq(self.free(1, "payload_error")),
            commit.rx_ring_store.valid.eq(self.free(1, "store")),
            commit.rx_ring_store.payload.queue.eq(self.free(1, "store_queue")),
            commit.enabled.eq(self.free(2, "enabled")),
            commit.flushed.ready.eq(self.free(1, "flushed_ready")),
            commit.moved.valid.eq(self.free(1, "moved")),
            commit.moved.payload.eq(self.free(1, "moved_queue")),
            commit.consumer.eq(self.free(32, "consumer")),
        ]
        entry = commit.entries.payload
        pushed = commit.entries.valid & commit.entries.ready

        def is_written(word):
            return word.outcome < RX_RECORDS

        def is_claimed(word):
            return is_written(word) & word.claimed

        self.assume(m, entry.claimed.implies(is_written(entry)))

        # The record that is followed.
        queue = self.constant(m, 1, "queue")
        producer = self.constant(m, 32, "producer")
        self.assume(m, producer != 0)  # of an empty ring

        def is_followed(word):
            return is_written(word) & (word.queue == queue) & (word.producer == producer)

        contents = self.fifo(m, self.view(self.view(commit).entries).fifo)
        entries = [(valid, entry_bits(word)) for valid, word in contents]
        begin = Signal()
        met = Signal()
        waits = Signal()  # it is inside
        claimed = Signal()
        place = Signal(range(_DEPTH + 1))  # entries before it
        popped = self.view(commit).pop
        m.d.comb += begin.eq(pushed & is_followed(entry))
        self.assume(m, ~(begin & met))
        level = self.view(commit).entries.level
        with m.If(begin):
            m.d.sync += [met.eq(1), waits.eq(1), claimed.eq(entry.claimed)]
            m.d.sync += place.eq(level - popped)
        with m.Elif(waits & popped):
            m.d.sync += place.eq(place - 1)
            with m.If(place == 0):
                m.d.sync += waits.eq(0)
        self.helper(m, waits.implies(met & (place < level)))
        for k, (valid, word) in enumerate(entries):
            here = waits & (place == k)
            self.helper(m, here.implies(valid & is_followed(word) & (word.claimed == claimed)))
            self.helper(m, (valid & is_followed(word)).implies(here))
            self.helper(m, (valid & word.claimed).implies(is_written(word)))

        # A port owes acknowledgements; the record waits for `needed` of them.
        done_of_all, failed_of_all = [], []
        for name, wants, is_wanted in (
            ("header", is_written(entry), is_written),
            ("payload", entry.claimed, is_claimed),
        ):
            done, error = getattr(commit, f"{name}_done"), getattr(commit, f"{name}_error")
            asked = pushed & wants
            owed = Signal(count_bits(_DEPTH), name=f"{name}_owed")
            needed = Signal.like(owed, name=f"{name}_needed")
            failed = Signal(name=f"{name}_failed")
            self.assume(m, done.implies(owed != 0))
            m.d.sync += owed.eq(owed + asked - done)
            with m.If(begin & wants):
                m.d.sync += needed.eq(owed + 1 - done)
            with m.Elif(done & (needed != 0)):
                m.d.sync += needed.eq(needed - 1)
                with m.If(needed == 1):
                    m.d.sync += failed.eq(error)
            done_of_all.append(needed == 0)
            failed_of_all.append(failed)

            answers = self.fifo(m, self.view(getattr(self.view(commit), name)).fifo)
            arrived = getattr(self.view(commit), name).level
            wanted = [valid & is_wanted(word) for valid, word in entries]
            inside, until = Signal(4), Signal(4)
            m.d.comb += [
                inside.eq(count_ones(wanted)),
                until.eq(count_ones(w & (place >= k) for k, w in enumerate(wanted))),
            ]
            self.helper(m, inside == owed + arrived)
            of_it = waits & (claimed if name == "payload" else 1)
            self.helper(m, (needed != 0).implies(of_it & (until == arrived + needed)))
            self.helper(m, (of_it & (needed == 0)).implies(until <= arrived))
            for k, (_, word) in enumerate(answers):
                self.helper(
                    m, (of_it & (needed == 0) & (until == k + 1)).implies(word == failed)
                )
            self.helper(m, of_it | (needed == 0))
            self.helper(m, met | ~failed)
            self.helper(m, (needed == 0) | ~failed)
            self.helper(m, ((name == "header") | claimed) | ~failed)

        index = commit.index
        shown = index.valid & (index.payload.queue == queue) & (index.payload.low == producer)
        done = met & done_of_all[0] & done_of_all[1]
        failed = failed_of_all[0] | failed_of_all[1]
        self.prove(m, self.properties[0].name, shown.implies(done))
        self.prove(m, self.properties[1].name, shown.implies(~failed))
        table = self.view(self.view(commit).producer)
        for k, word in enumerate(self.rows(table.memory)):
            stored = (queue == k) & (word == producer) & ~table.zero[k]
            self.helper(m, stored.implies(done & ~failed & ~waits))

        # The element that is followed.
        element = self.constant(m, len(entry.element.as_value()), "element")
        flies = Signal()
        begun = pushed & entry.claimed & (entry.element.as_value() == element)
        finished = commit.finish.valid & (commit.finish.payload.as_value() == element)
        self.assume(m, begun.implies(~flies))
        m.d.sync += flies.eq((flies | begun) & ~finished)
        self.prove(m, self.properties[2].name, finished.implies(flies))
        self.prove(m, self.properties[3].name, commit.empty.implies(~flies))
        copies = Signal(4)
        m.d.comb += copies.eq(
            count_ones(
                v & w.claimed & is_written(w) & (w.element.as_value() == element)
                for v, w in entries
            )
        )
        self.helper(m, copies == flies)
