"""Commit: a record shows only after its writes, and a buffer finishes once (I3, I4)."""

from amaranth.hdl import Mux, Signal
from spec import Mutant, Property, Spec, as_value, count_ones

from hdsnic.abi import RX_RECORDS
from hdsnic.interfaces import count_bits
from hdsnic.parameters import Parameters
from hdsnic.rx.commit import Commit, CommitEntry

_MODULE = "hdsnic.rx.commit"
_DEPTH = 4


class CommitSpec(Spec):
    """Follows an arbitrary record by its queue and producer index, and an arbitrary element.

    Assumed: a claimed frame has a record, and the entries of a chain come in a row.
    Acknowledgements come for requests that were made before, none more. Indices of one queue do not
    come twice (they count up; the ring is cleared in between). An element is not in flight twice.
    All of it is proven of the neighbours, or stands in docs/verification.md.
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
                    "payload.output.ready.eq(pop & both & ~entry.more)",
                    "payload.output.ready.eq(pop & both & ~entry.more & entry.queue)",
                ),
                Mutant(
                    "a chain waits for its first buffer alone",
                    _MODULE,
                    "payload.input.valid.eq(self.payload_done & ends.output.payload)",
                    "payload.input.valid.eq(self.payload_done)",
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
                    "an error in a chain's first buffer is forgotten",
                    _MODULE,
                    "payload.input.payload.eq(self.payload_error | chain_failed)",
                    "payload.input.payload.eq(self.payload_error)",
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
        v = self.view(commit)
        shape = CommitEntry(p)
        entry = commit.entries.payload
        pushed = Signal()
        m.d.comb += [
            pushed.eq(self.free(1, "entry_valid") & commit.entries.ready & commit.ends.ready),
            entry.eq(self.free(shape.size, "entry")),
            commit.entries.valid.eq(pushed),
            commit.ends.valid.eq(pushed & entry.claimed),
            commit.ends.payload.eq(~entry.more),
            commit.header_done.eq(self.free(1, "header_done")),
            commit.header_error.eq(self.free(1, "header_error")),
            commit.payload_done.eq(self.free(1, "payload_done")),
            commit.payload_error.eq(self.free(1, "payload_error")),
            commit.rx_ring_store.valid.eq(self.free(1, "store")),
            commit.rx_ring_store.payload.queue.eq(self.free(1, "store_queue")),
            commit.enabled.eq(self.free(2, "enabled")),
            commit.flushed.ready.eq(self.free(1, "flushed_ready")),
            commit.faults.ready.eq(self.free(1, "faults_ready")),
            commit.moved.valid.eq(self.free(1, "moved")),
            commit.moved.payload.eq(self.free(1, "moved_queue")),
            commit.consumer.eq(self.free(32, "consumer")),
        ]

        def is_written(word):
            return word.outcome < RX_RECORDS

        def is_claimed(word):
            return is_written(word) & word.claimed

        # The entries of a chain come in a row.
        opened = Signal()  # a chain has begun, and its last entry is still to come
        last = Signal(shape)
        self.assume(m, entry.claimed.implies(is_written(entry)) & entry.more.implies(entry.claimed))
        self.assume(
            m,
            (pushed & opened).implies(
                entry.claimed
                & (entry.outcome == last.outcome)
                & (entry.queue == last.queue)
                & (entry.producer == last.producer)
            ),
        )
        with m.If(pushed):
            m.d.sync += [opened.eq(entry.more), last.eq(entry)]
        self.helper(m, opened.implies(is_claimed(last) & last.more))

        # The record that is followed: its last entry makes it visible.
        queue = self.constant(m, 1, "queue")
        producer = self.constant(m, 32, "producer")
        self.assume(m, producer != 0)  # of an empty ring

        def is_followed(word):
            return is_written(word) & (word.queue == queue) & (word.producer == producer)

        contents = self.fifo(m, self.view(v.entries).fifo)
        entries = [(valid, shape(word)) for valid, word in contents]
        met = Signal()  # its last entry has come
        waits = Signal()  # and is inside
        claimed = Signal()
        place = Signal(range(_DEPTH + 1))  # entries before it
        begin = pushed & is_followed(entry) & ~entry.more
        self.assume(m, ~(pushed & is_followed(entry) & met))
        level = v.entries.level
        with m.If(begin):
            m.d.sync += [
                met.eq(1), waits.eq(1), claimed.eq(entry.claimed), place.eq(level - v.pop),
            ]  # fmt: skip
        with m.Elif(waits & v.pop):
            m.d.sync += place.eq(place - 1)
            with m.If(place == 0):
                m.d.sync += waits.eq(0)
        self.helper(m, waits.implies(met & (place < level)))
        self.helper(m, (opened & is_followed(last)).implies(~met))
        for k, (valid, word) in enumerate(entries):
            here = waits & (place == k)
            self.helper(
                m,
                here.implies(valid & is_followed(word) & (word.claimed == claimed) & ~word.more),
            )
            self.helper(m, (valid & is_followed(word) & ~word.more).implies(here))
            self.helper(m, (valid & word.claimed).implies(is_written(word)))
            self.helper(m, (valid & word.more).implies(word.claimed))

        # A chain lies in a row; the youngest entry tells whether one is open.
        self.helper(m, (level == 0).implies(~opened))
        for k, (valid, word) in enumerate(entries):
            youngest = valid & (level == k + 1)
            self.helper(m, youngest.implies(word.more == opened))
            self.helper(m, (youngest & opened).implies(as_value(word) == as_value(last)))
            if k:
                before = entries[k - 1][1]
                same = (
                    word.claimed
                    & (word.outcome == before.outcome)
                    & (word.queue == before.queue)
                    & (word.producer == before.producer)
                )
                self.helper(m, (valid & before.more).implies(same))

        def frames(kind, until=None):
            """Last entries of frames of a kind inside, up to the place `until`."""
            return count_ones(
                valid & kind(word) & ~word.more & (1 if until is None else until >= k)
                for k, (valid, word) in enumerate(entries)
            )

        # Each port owes acknowledgements; the record waits for `needed` of them.
        of_chains = [end for _, end in self.fifo(m, self.view(v.ends).fifo)]
        done_of_all, failed_of_all = [], []
        for name, asked, kind in (
            ("header", pushed & is_written(entry) & ~opened, is_written),
            ("payload", pushed & entry.claimed, is_claimed),
        ):
            done, error = getattr(commit, f"{name}_done"), getattr(commit, f"{name}_error")
            tokens = getattr(v, name)
            owed = Signal(count_bits(_DEPTH + 1), name=f"{name}_owed")
            needed = Signal.like(owed, name=f"{name}_needed")
            self.assume(m, done.implies(owed != 0))
            m.d.sync += owed.eq(owed + asked - done)
            with m.If(begin & (entry.claimed if name == "payload" else 1)):
                m.d.sync += needed.eq(owed + asked - done)
            with m.Elif(done & (needed != 0)):
                m.d.sync += needed.eq(needed - 1)
            done_of_all.append(needed == 0)

            inside, until, coming = Signal(4), Signal(4), Signal(4)
            m.d.comb += [inside.eq(frames(kind)), until.eq(frames(kind, place))]
            of_it = waits & (claimed if name == "payload" else 1)
            if name == "header":
                self.helper(m, inside + opened == owed + tokens.level)
                m.d.comb += coming.eq(needed)
                self.helper(m, (needed != 0).implies(needed + opened <= owed))
            else:
                ends = [end & (owed > k) for k, end in enumerate(of_chains)]
                self.helper(m, owed == v.ends.level)
                self.helper(m, inside == count_ones(ends) + tokens.level)
                m.d.comb += coming.eq(count_ones(end & (needed > k) for k, end in enumerate(ends)))
                for k, end in enumerate(ends):
                    self.helper(m, (needed == k + 1).implies(end))
                self.helper(m, needed <= owed)
                # Whatever is owed beyond the last end is of the chain that is open.
                for k, end in enumerate(ends):
                    self.helper(m, (opened & (owed == k + 1)).implies(~end))
                    self.helper(m, (~opened & (owed == k + 1)).implies(end))
            self.helper(m, (needed != 0).implies(of_it & (until == tokens.level + coming)))
            self.helper(m, (of_it & (needed == 0)).implies(until <= tokens.level))

            # A write of it is followed to its acknowledgement: was that an error?
            mine = asked & is_followed(entry)
            watched = Signal(name=f"{name}_watched")
            to_come = Signal.like(owed, name=f"{name}_to_come")
            failed = Signal(name=f"{name}_failed")
            with m.If(mine & ~watched & self.free(1, f"{name}_watch")):
                m.d.sync += [watched.eq(1), to_come.eq(owed + 1 - done)]
            with m.Elif(done & (to_come != 0)):
                m.d.sync += to_come.eq(to_come - 1)
                with m.If(to_come == 1):
                    m.d.sync += failed.eq(error)
            failed_of_all.append(failed)
            begun = met | (opened & is_followed(last))
            self.helper(m, watched.implies(begun) & (to_come != 0).implies(watched))
            self.helper(m, failed.implies(watched & (to_come == 0)))
            self.helper(m, (to_come <= owed) & met.implies(to_come <= needed))
            words = self.fifo(m, self.view(tokens).fifo)
            arrived = failed & of_it & (needed == 0)
            for k, (_, word) in enumerate(words):
                self.helper(m, (arrived & (until == k + 1)).implies(word))
            if name == "payload":
                self.helper(m, (watched & met).implies(claimed))
                pending = failed & (~met | (needed != 0))
                self.helper(m, pending.implies(v.chain_failed))
                open_end = Mux(met, needed, owed)
                for k, end in enumerate(of_chains):
                    between = (to_come <= k + 1) & (k + Mux(met, 1, 0) < open_end) & watched
                    self.helper(m, (between & (~met | (needed != 0))).implies(~end))
            else:
                # Its token comes before the frame's last entry, or while that is inside.
                early = opened & is_followed(last)
                for k, (_, word) in enumerate(words):
                    at = (tokens.level == k + 1) & (owed == 0)
                    self.helper(m, (failed & early & at).implies(word))
                self.helper(m, (failed & early).implies((owed == 0) & (tokens.level != 0)))
                self.helper(m, (early & watched).implies(to_come == owed))
                self.helper(m, (met & watched).implies(to_come == needed))

        index = commit.index
        shown = index.valid & (index.payload.queue == queue) & (index.payload.low == producer)
        done = met & done_of_all[0] & done_of_all[1]
        self.helper(m, (waits | ~claimed | ~met) | done)
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
        flown = pushed & entry.claimed & (entry.element.as_value() == element)
        finished = commit.finish.valid & (commit.finish.payload.as_value() == element)
        self.assume(m, flown.implies(~flies))
        m.d.sync += flies.eq((flies | flown) & ~finished)
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
