"""Posted buffers that wait: each stays until it is claimed or discarded, and leaves once (I4)."""

from amaranth.hdl import Array, Cat, Mux, Signal
from spec import Mutant, Property, Spec, as_value, count_ones

from hdsnic.parameters import Parameters
from hdsnic.rx.handles import HandleQueues

_MODULE = "hdsnic.rx.handles"


class HandleQueuesSpec(Spec):
    """Follows an arbitrary handle of an arbitrary queue by its place in the row.

    Assumed, as proven of the neighbours: a handle is pushed only while it is not inside (states),
    into room that was reserved. Pops and replaces are of a handle that was found, no deeper than
    the row, and not together with a push where that would be refused (placer). Under `hold` and
    `quiet` nothing is pushed, popped or released until `hold` falls.
    """

    depth = 2
    properties = (
        Property(
            "I4 a posted handle is shown at its place",
            "The first handle of a queue, and the one behind `depth`, are the ones that lie there; "
            "so what a claim sees is what its pop takes away.",
            (
                Mutant(
                    "a push goes to the first place",
                    _MODULE,
                    "(head[pushed] + ready[pushed])[:slot_bits]",
                    "(head[pushed])[:slot_bits]",
                ),
                Mutant(
                    "the handle behind is the first one again",
                    _MODULE,
                    "slot.eq(head[queue] + behind)",
                    "slot.eq(head[queue])",
                ),
                Mutant(
                    "a popped first handle is shown again",
                    _MODULE,
                    "first_write.en.eq(fetched | self.pop)",
                    "first_write.en.eq(fetched)",
                ),
                Mutant(
                    "a replaced first handle is lost",
                    _MODULE,
                    "            m.d.comb += [\n"
                    "                write.addr.eq(Cat((head[self.queue] + self.depth)",
                    "            m.d.comb += [\n"
                    "                write.addr.eq(Cat((head[self.queue] + self.depth + 1)",
                ),
            ),
            depth=16,
        ),
        Property(
            "I4 a posted handle is discarded once at most",
            "The walk discards a handle only if it is inside.",
            (
                Mutant(
                    "a discarded handle stays in the row",
                    _MODULE,
                    "leaving.eq(Mux(self.pop, behind, self.replace | drop))",
                    "leaving.eq(Mux(self.pop, behind, self.replace))",
                ),
                Mutant(
                    "a handle is kept and discarded",
                    _MODULE,
                    "self.discard.valid.eq(goes), rotate.eq(~goes)",
                    "self.discard.valid.eq(goes), rotate.eq(1)",
                ),
            ),
            depth=20,
        ),
        Property(
            "I4 no posted handle is lost",
            "As many handles are `ready` as were pushed and have not left.",
            (
                Mutant(
                    "a walk drops what stays",
                    _MODULE,
                    "drop.eq(goes)",
                    "drop.eq(1)",
                ),
                Mutant(
                    "room is not kept for reads under way",
                    _MODULE,
                    "held[q] <= p.post_prefetch - chunk_cells(p)",
                    "ready[q] <= p.post_prefetch - chunk_cells(p)",
                ),
            ),
            depth=24,
        ),
        Property(
            "I6 a region's handles are gone when it is swept",
            "When the sweep of a region is asked for after a purge, no handle of it is inside.",
            (
                Mutant(
                    "the last queue is not walked",
                    _MODULE,
                    "m.If(walked == queues - 1)",
                    "m.If(walked == queues - 2)",
                ),
                Mutant(
                    "handles of the purged region stay",
                    _MODULE,
                    "goes.eq(flush_now | (self.purging & (read.data.at.region == region)))",
                    "goes.eq(flush_now)",
                ),
            ),
            depth=20,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, postable_max=16, post_prefetch=4, chain_max=3,
            address_bits=32,
        )  # fmt: skip
        h = self.block(m, "handles", HandleQueues(p))
        self.free_ports(m, h)
        v = self.view(h)
        most = p.post_prefetch
        queue = self.constant(m, 1, "queue")
        handle = self.constant(m, len(as_value(h.handle)), "followed")

        # -- what the neighbours keep --
        gone = Mux(h.pop, h.depth + 1, h.replace)
        ready = Array(Signal(3, name=f"spec_ready_{k}") for k in range(2))
        dropped = h.discard.valid & h.discard.ready
        walked = h.discard.payload.queue
        for k in range(2):
            pushes = h.push.valid & (h.push.payload.queue == k)
            leave = Mux(h.queue == k, gone, 0) + (dropped & (walked == k))
            m.d.sync += ready[k].eq(ready[k] + pushes - leave)
            here = (h.queue == k) & (h.pop | h.replace)
            self.assume(m, here.implies(h.depth < ready[k]))
            # Places that were reserved and not pushed to.
            owed = Signal(3, name=f"owed_{k}")
            asked = h.reserve.valid & (h.reserve.payload.queue == k)
            released = h.release.valid & (h.release.payload == k)
            m.d.sync += owed.eq(owed + Mux(asked, h.reserve.payload.count, 0) - pushes - released)
            self.assume(m, (pushes | released).implies(owed != 0) & ~(pushes & released))
            self.assume(m, asked.implies(h.roomy[k] & (h.reserve.payload.count == 1)))
            self.helper(m, v.ready[k] == ready[k])
            self.helper(m, v.held[k] == (ready[k] + owed)[:3])
            self.helper(m, ready[k] + owed <= most)
        self.assume(m, ~(h.pop & h.replace) & ~(h.replace & h.push.valid))
        self.assume(m, (h.pop | h.replace).implies(h.wanted & h.found))
        self.assume(m, h.replace.implies(h.depth != 0))
        self.assume(m, h.depth < p.chain_max)
        # `another` tells of the cycle before, of the same queue and depth.
        before = Signal(1 + len(h.queue) + len(h.depth))
        now = Cat(h.wanted, h.queue, h.depth)
        taken = Signal()
        m.d.sync += [before.eq(now), taken.eq(h.pop | h.replace)]
        found_before = Signal()
        m.d.sync += found_before.eq(h.found)
        steady = (before == now) & ~taken & found_before
        self.assume(m, (h.pop | h.replace).implies(steady))
        settled = Signal()  # all have stood still since `hold` rose
        m.d.sync += settled.eq(h.hold & (settled | h.quiet))
        moves = h.push.valid | h.pop | h.replace | h.release.valid
        self.assume(m, (h.hold & (settled | h.quiet)).implies(~moves))

        # -- the place of the followed handle --
        inside = Signal()
        place = Signal(range(most))
        comes = (
            h.push.valid & (h.push.payload.queue == queue)
            & (as_value(h.push.payload.handle) == handle)
        )  # fmt: skip
        self.assume(m, comes.implies(~inside))
        ours = (h.queue == queue) & (h.pop | h.replace)
        walk = v.walking & (v.walked == queue)
        rotates = walk & v.rotate
        drops = dropped & (walked == queue)
        out = (
            (ours & h.pop & (place <= h.depth))
            | (ours & h.replace & (place == h.depth))
            | (drops & (place == 0))
        )
        with m.If(comes):
            m.d.sync += [inside.eq(1), place.eq(ready[queue] - Mux(ours, gone, drops))]
        with m.Elif(inside):
            m.d.sync += inside.eq(~out)
            with m.If(ours & h.pop):
                m.d.sync += place.eq(place - h.depth - 1)
            with m.If(ours & h.replace):
                m.d.sync += place.eq(Mux(place == 0, h.depth - 1, place - 1))
            with m.If(rotates):
                m.d.sync += place.eq(Mux(place == 0, ready[queue] - 1, place - 1))
            with m.If(drops):
                m.d.sync += place.eq(place - 1)

        # -- the properties --
        asked_place, asked_queue, looked = Signal(3), Signal(), Signal()
        m.d.sync += [
            asked_place.eq(h.depth + 1),
            asked_queue.eq(h.queue == queue),
            looked.eq(h.wanted & h.found & ~h.hold),
        ]
        first = as_value(h.handle) == handle
        behind = as_value(h.following) == handle
        sees = (h.queue == queue) & h.found
        looks = looked & asked_queue & h.another & ~taken
        self.prove(
            m,
            self.properties[0].name,
            sees.implies(first == (inside & (place == 0)))
            & (found_before & (before[1] == h.queue) & ~taken & ~settled).implies(h.found)
            & looks.implies(behind == (inside & (place == asked_place))),
        )
        discards = dropped & (walked == queue) & (as_value(h.discard.payload.handle) == handle)
        self.prove(m, self.properties[1].name, discards.implies(inside & (place == 0)))
        self.prove(
            m,
            self.properties[2].name,
            ((h.queue == queue) & ~v.walking).implies(h.ready == ready[queue])
            & inside.implies(place < ready[queue])
            & (ready[queue] <= most),
        )
        self.assume(m, h.purge.payload < p.regions)
        purged = Signal(8)
        with m.If(h.purge.valid & h.purge.ready):
            m.d.sync += purged.eq(h.purge.payload)
        region = h.handle.shape()(handle).at.region
        self.prove(
            m,
            self.properties[3].name,
            (h.sweep.valid & inside).implies(region != h.sweep.payload)
            & h.sweep.valid.implies(h.sweep.payload == purged[:1]),
        )

        # -- helpers --
        rows = Array(as_value(r) for r in self.rows(v.memory))
        base = Mux(queue, most, 0)
        head = v.head[queue]
        self.helper(
            m,
            inside.implies((rows[base + ((head + place)[:2])] == handle) & (place < ready[queue])),
        )
        copies = []
        for k in range(most):
            there = ((k - head)[:2]) < ready[queue]
            copies.append(there & (rows[base + k] == handle))
        self.helper(m, count_ones(copies) == inside)
        firsts = Array(as_value(r) for r in self.rows(v.firsts))
        kept = v.kept.bit_select(queue, 1)
        self.helper(m, kept.implies((ready[queue] != 0) & (firsts[queue] == rows[base + head])))
        # The walk: nobody else moves, and the handles not yet looked at are the first ones.
        fsm = v.fsm
        self.helper(m, fsm.state < len(fsm.encoding))
        states = ("queue", "peek", "handle", "settled", "next")
        in_queue, peek, at_handle, after, done = (fsm.ongoing(name) for name in states)
        walking = in_queue | peek | at_handle | after | done
        sweep = fsm.ongoing("sweep")
        self.helper(m, (walking | sweep).implies(settled & ~v.kept.any()))
        self.helper(m, (~fsm.ongoing("idle")).implies(~v.fetched))
        self.helper(m, peek.implies(v.left == ready[v.walked]))
        self.helper(m, (peek | at_handle).implies(v.left != 0))
        self.helper(m, (at_handle | after).implies(v.left <= ready[v.walked]))
        shown = rows[Mux(v.walked, most, 0) + v.head[v.walked]]
        self.helper(m, at_handle.implies(as_value(v.read.data) == shown))
        purged_now = h.purging & (v.region == region)
        self.helper(m, purged < p.regions)
        self.helper(m, h.purging.implies((v.region == purged) & ~fsm.ongoing("idle")))
        leaves = inside & purged_now
        self.helper(
            m,
            (leaves & (peek | at_handle | after) & (v.walked == queue)).implies(place < v.left),
        )
        self.helper(m, (leaves & done).implies(v.walked < queue))
        self.helper(m, (leaves & walking).implies(v.walked <= queue))
        self.helper(m, ~(leaves & sweep))
        # The first handle that was fetched, and the one behind.
        fetched_row = rows[Mux(v.fetched_queue, most, 0) + v.head[v.fetched_queue]]
        self.helper(
            m,
            v.fetched.implies(
                (as_value(v.read.data) == fetched_row)
                & (ready[v.fetched_queue] != 0)
                & ~(before[0] & found_before)
            ),
        )
        behind_row = rows[base + ((head + asked_place)[:2])]
        fine = looked & asked_queue & ~taken
        self.helper(m, (fine & h.another).implies(ready[queue] > asked_place))
        self.helper(m, (fine & h.another).implies(as_value(v.read.data) == behind_row))
