"""Claims: a payload is placed only where its queue's application may have it written (I2, I6)."""

from amaranth.hdl import Array, Mux, Signal
from spec import Mutant, Property, Spec, as_value

from hdsnic.abi import RX_RECORDS
from hdsnic.csr.regions import RegionTable
from hdsnic.interfaces import RegionRow
from hdsnic.parameters import Parameters
from hdsnic.rx.place import Placer

_MODULE = "hdsnic.rx.place"


class PlacerSpec(Spec):
    """The placer before the real region table, with any frames and any handles.

    Assumed, as the settings do it: a live row and a queue's owner change only under `pause` and
    `quiet`. A frame to be split has payload. Frames are kept until they are taken. Of the handles
    only that those of the element that is followed carry one generation.
    """

    depth = 2
    properties = (
        Property(
            "I2 a claim is of a live region of the queue's owner",
            "A claimed buffer is an element below `postable` of a region that is live, of the "
            "handle's generation, owned by the queue's owner, with NIC_WRITE.",
            (
                Mutant(
                    "a dead region is claimed",
                    _MODULE,
                    "row.live\n                & row.nic_write",
                    "row.nic_write",
                ),
                Mutant(
                    "NIC_WRITE is not asked for",
                    _MODULE,
                    "row.live\n                & row.nic_write",
                    "row.live",
                ),
                Mutant(
                    "an old generation is claimed",
                    _MODULE,
                    "& (row.generation == handle.generation)",
                    "",
                ),
                Mutant(
                    "another owner's region is claimed", _MODULE, "& (row.owner == self.owner)", ""
                ),
                Mutant("a region without owner is claimed", _MODULE, "& (row.owner != 0)", ""),
                Mutant(
                    "an element that holds no payload is claimed",
                    _MODULE,
                    "& (handle.at.element < row.postable)",
                    "",
                ),
                Mutant(
                    "a chain's next handle is judged by the first one's row",
                    _MODULE,
                    "self.claim_region.index.eq(handle.at.region),\n            self.discard",
                    "self.claim_region.index.eq(self.handle.at.region),\n            self.discard",
                ),
            ),
            depth=12,
        ),
        Property(
            "I2 a payload write stays inside its element",
            "Address and length of a claimed buffer lie within the element that was claimed, and "
            "it holds at least a byte.",
            (
                Mutant(
                    "a payload longer than its buffer is claimed",
                    _MODULE,
                    "length.eq(Mux(fits, remaining, 1 << row.log2_element_bytes))",
                    "length.eq(remaining)",
                ),
                Mutant(
                    "a buffer takes more than it holds",
                    _MODULE,
                    "fits.eq(remaining <= (1 << row.log2_element_bytes))",
                    "fits.eq(1)",
                ),
                Mutant(
                    "elements are counted from the next one",
                    _MODULE,
                    "buffer.address.eq(row.base + (handle.at.element",
                    "buffer.address.eq(row.base + ((handle.at.element + 1)",
                ),
            ),
            depth=12,
        ),
        Property(
            "I2 a chain holds its payload, no more and no less",
            "The lengths of a frame's buffers add up to its payload, and all but the last are "
            "whole; so beats of one are never taken for another's.",
            (
                Mutant(
                    "the rest of a chain is counted from the payload",
                    _MODULE,
                    "remaining.eq(remaining - length)",
                    "remaining.eq(frame.payload_length - length)",
                ),
                Mutant(
                    "a chain's last buffer is left out",
                    _MODULE,
                    "out.more.eq(sent != depth)",
                    "out.more.eq(sent + 1 != depth)",
                ),
            ),
            depth=14,
        ),
        Property(
            "I6 a placer that stands still claims nothing",
            "Under `pause` or `hold` a quiet placer stays quiet: it takes no frame, claims and "
            "discards nothing.",
            (
                Mutant("a frame is begun under pause", _MODULE, "& ~self.pause\n", "\n"),
                Mutant("a frame is begun under hold", _MODULE, "& ~self.hold\n", "\n"),
                Mutant(
                    "quiet while a chain is handed on",
                    _MODULE,
                    'self.quiet.eq(fsm.ongoing("frame"))',
                    'self.quiet.eq(fsm.ongoing("frame") | fsm.ongoing("chain"))',
                ),
            ),
            depth=12,
        ),
        Property(
            "I4 a frame takes the handles that it was shown",
            "A frame that is placed with payload takes away as many handles as buffers go out, the "
            "ones that it was shown, in their order; one that is not takes none. A discard takes "
            "the one it names.",
            (
                Mutant(
                    "a chain is handed on and stays ready",
                    _MODULE,
                    "                    with m.If(~out.more):\n"
                    "                        m.d.comb += self.pop.eq(1)\n",
                    "                    with m.If(~out.more):\n",
                ),
                Mutant(
                    "a frame that is dropped takes a handle",
                    _MODULE,
                    "self.pop.eq(out.claimed)",
                    "self.pop.eq(found)",
                ),
                Mutant(
                    "a chain begins with its second buffer",
                    _MODULE,
                    "chain_read.addr.eq(sent)",
                    "chain_read.addr.eq(sent + 1)",
                ),
                Mutant(
                    "a handle that may not be used stays ready",
                    _MODULE,
                    "[self.pop.eq(depth == 0), self.replace",
                    "[self.replace",
                ),
            ),
            depth=12,
        ),
        Property(
            "R12 a record's space is reserved before a claim",
            "A record never reaches beyond the cells that software has handed back.",
            (
                Mutant(
                    "space is not looked at",
                    _MODULE,
                    "space.eq(used + needed <= cells)",
                    "space.eq(1)",
                ),
                Mutant(
                    "a consumer doorbell may pass the producer",
                    _MODULE,
                    "rung & (handed_back <= written)",
                    "rung",
                ),
            ),
            depth=10,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, postable_max=16, post_prefetch=4, chain_max=3,
            address_bits=32, frame_bytes_max=1514,
        )  # fmt: skip
        placer = self.block(m, "placer", Placer(p))
        table = self.block(m, "table", RegionTable(p, 1))
        reader = table.readers[0]
        m.d.comb += [
            reader.index.eq(placer.claim_region.index),
            placer.claim_region.row.eq(reader.row),
        ]
        frame = placer.frames.payload
        store, bell = placer.rx_ring_store, placer.rx_consumer
        for port, name in (
            (placer.frames.valid, "frame_valid"), (frame, "frame"), (store.valid, "store"),
            (store.payload, "store_payload"), (bell.valid, "bell"), (bell.payload, "bell_payload"),
            (placer.time_stamps, "time_stamps"), (placer.pause, "pause"), (placer.hold, "hold"),
            (placer.failed, "failed"), (placer.handle, "handle"), (placer.found, "found"),
            (placer.following, "following"), (placer.another, "another"),
            (placer.pushing, "pushing"), (placer.ready, "ready"), (placer.held, "held"),
            (placer.unread, "unread"), (placer.discard.ready, "discard_ready"),
            (placer.placed.ready, "placed_ready"), (table.write, "write"),
            (table.write_index, "write_index"), (table.write_row, "write_row"),
        ):  # fmt: skip
            m.d.comb += port.eq(self.free(len(as_value(port)), name))
        self.stream_holds(m, placer.frames)
        wants = self.view(placer).wants
        self.assume(m, wants.implies(frame.payload_length != 0))
        self.assume(m, frame.payload_length <= p.frame_bytes_max)
        self.assume(m, frame.header_length <= p.frame_bytes_max)

        # -- owners and the row of an arbitrary region --
        still = placer.pause & placer.quiet
        owners = Array(Signal(8, name=f"owner_{k}") for k in range(2))
        with m.If(still & self.free(1, "owner_store")):
            m.d.sync += owners[self.free(1, "owner_queue")].eq(self.free(8, "owner_given"))
        m.d.comb += placer.owner.eq(owners[placer.queue])

        region = self.constant(m, 1, "region")
        row = Signal(RegionRow(p))
        written = table.write & (table.write_index == region)
        with m.If(written):
            m.d.sync += row.eq(table.write_row)
        self.assume(m, (written & row.live).implies(still))
        self.assume(m, table.write.implies(table.write_index < p.regions))
        self.assume(m, store.valid.implies(still))
        self.assume(m, (table.write_row.log2_element_bytes >= 8))
        self.assume(m, (table.write_row.log2_element_bytes <= 14))

        # -- the handles of an arbitrary element of it --
        element = self.constant(m, 4, "element")
        generation = self.constant(m, 8, "generation")

        def followed(at):
            return (at.region == region) & (at.element == element)

        for handle in (placer.handle, placer.following):
            self.assume(m, followed(handle.at).implies(handle.generation == generation))

        placed = placer.placed.payload
        claimed = placer.placed.valid & placed.claimed

        def permits(queue):
            return (
                row.live
                & row.nic_write
                & (row.generation == generation)
                & (row.owner == owners[queue])
                & (row.owner != 0)
                & (element < row.postable)
            )

        ours = claimed & followed(placed.at)
        self.prove(m, self.properties[0].name, ours.implies(permits(frame.queue)))

        def lies_inside(address, length):
            start, end = Signal(48), Signal(48)
            size = Signal(48)
            m.d.comb += [
                start.eq((row.base + (element << row.log2_element_bytes))[:32]),
                size.eq(1 << row.log2_element_bytes),
                end.eq(length),
            ]
            return (address == start) & (end <= size) & (length != 0)

        self.prove(
            m, self.properties[1].name, ours.implies(lies_inside(placed.address, placed.length))
        )

        total, with_this = Signal(16), Signal(16)
        handed_on = placer.placed.valid & placer.placed.ready & placed.claimed
        m.d.comb += with_this.eq(total + placed.length)
        with m.If(placer.frames.ready):
            m.d.sync += total.eq(0)
        with m.Elif(handed_on):
            m.d.sync += total.eq(with_this)
        whole = placed.length == (1 << row.log2_element_bytes)
        self.prove(
            m,
            self.properties[2].name,
            (handed_on & ~placed.more).implies(with_this == frame.payload_length)
            & (ours & placed.more).implies(whole),
        )

        # -- stillness --
        was_still = Signal()
        m.d.sync += was_still.eq((placer.pause | placer.hold) & placer.quiet)
        nothing = ~(
            placer.frames.ready | placer.pop | placer.replace | placer.discard.valid
            | placer.placed.valid
        )  # fmt: skip
        self.prove(
            m,
            self.properties[3].name,
            placer.quiet.implies(nothing) & (was_still).implies(placer.quiet),
        )

        # -- handles: those of the walk, and how many were handed on --
        shown = [Signal(placer.handle.shape(), name=f"shown_{k}") for k in range(p.chain_max)]
        depth_before, steady = Signal.like(placer.depth), Signal()
        gone = Signal(range(p.chain_max + 1))  # buffers handed on, of the frame at hand
        deeper = placer.depth == depth_before + 1
        v = self.view(placer)
        with m.If(placer.quiet):
            m.d.sync += shown[0].eq(placer.handle)
        following = Signal.like(as_value(placer.following))
        m.d.sync += following.eq(as_value(placer.following))
        for k in range(1, p.chain_max):
            with m.If(deeper & (placer.depth == k)):
                m.d.sync += shown[k].eq(following)
        known = [
            Mux(deeper & (placer.depth == k), following, as_value(shown[k])) if k else
            as_value(shown[k])
            for k in range(p.chain_max)
        ]  # fmt: skip
        handed = placer.placed.valid & placer.placed.ready & placed.claimed
        discarded = placer.discard.valid & placer.discard.ready
        here = Signal.like(following)
        m.d.comb += here.eq(Array(known)[placer.depth])
        ats = Array(v.handle.shape()(word).at.as_value() for word in known)
        with m.If(placer.frames.ready | discarded):
            m.d.sync += gone.eq(0)
        with m.Elif(handed):
            m.d.sync += gone.eq(gone + 1)
        ends = handed & ~placed.more
        was_queue, was_busy, took = Signal.like(placer.queue), Signal(), Signal()
        was_quiet = Signal()
        m.d.sync += was_quiet.eq(placer.quiet & (placer.hold | placer.pause))
        m.d.sync += [
            depth_before.eq(placer.depth),
            was_queue.eq(placer.queue),
            was_busy.eq(placer.wanted),
            took.eq(placer.pop | placer.replace),
        ]
        was_found = Signal()
        m.d.sync += was_found.eq(placer.found)
        # A handle that was found stays, unless it is taken (proven in `handles.py`).
        self.assume(
            m,
            (was_found & (was_queue == placer.queue) & ~took & was_busy & ~was_quiet).implies(
                placer.found
            ),
        )
        m.d.comb += steady.eq(
            (placer.depth == depth_before) & was_busy & (was_queue == placer.queue)
        )
        self.prove(
            m,
            self.properties[4].name,
            handed.implies((placed.at.as_value() == ats[gone]) & (gone <= placer.depth))
            & ends.implies((gone == placer.depth) & placer.frames.ready & placer.pop)
            & discarded.implies((as_value(placer.discard.payload.handle) == here) & (gone == 0))
            & (placer.pop == (ends | (discarded & (placer.depth == 0))))
            & (placer.replace == (discarded & (placer.depth != 0)))
            & placer.frames.ready.implies(ends | (gone == 0))
            & (placer.pop | placer.replace).implies(placer.wanted & steady & ~took & was_found)
            & ((placer.depth != depth_before) & (placer.depth != 0)).implies(
                deeper & ~took & was_busy & (was_queue == placer.queue)
            ),
        )
        begun = ~v.fsm.ongoing("frame")
        chaining = v.fsm.ongoing("chain")
        self.helper(m, gone == Mux(chaining, v.sent, 0))
        self.helper(m, (begun & v.found & wants).implies(was_found & was_busy & ~took))
        self.helper(m, begun.implies(was_queue == placer.queue))
        self.helper(m, (chaining | (v.depth != 0)).implies(v.found))
        self.helper(m, (begun & ~deeper).implies(as_value(v.handle) == here))
        self.helper(m, (begun & deeper).implies(as_value(v.handle) == following))
        for k, entry in enumerate(self.rows(v.chain)):
            there = (v.depth > k) | (chaining & (v.depth == k))
            self.helper(m, (begun & there).implies(entry.at.as_value() == ats[k]))

        # -- space --
        queue = self.constant(m, 1, "queue")
        produced, consumed = Signal(32), Signal(32)
        cells = Signal(20)
        closes = placer.placed.valid & placer.placed.ready & (frame.queue == queue)
        rung, rung_index = Signal(), Signal(32)
        m.d.sync += [
            rung.eq(bell.valid & (bell.payload.queue == queue)),
            rung_index.eq(bell.payload.index),
        ]
        stored = store.valid & (store.payload.queue == queue)
        self.assume(
            m,
            stored.implies((store.payload.log2_bytes >= 12) & (store.payload.log2_bytes <= 22)),
        )
        with m.If(stored):
            m.d.sync += [
                produced.eq(0), consumed.eq(0), cells.eq(1 << (store.payload.log2_bytes - 4)[:5]),
            ]  # fmt: skip
        with m.Else():
            with m.If(closes & (placed.outcome < RX_RECORDS) & ~placed.more):
                m.d.sync += produced.eq(placed.producer)
            with m.If(rung & ((rung_index - consumed)[:32] <= (produced - consumed)[:32])):
                m.d.sync += consumed.eq(rung_index)
        self.prove(
            m,
            self.properties[5].name,
            (closes & (placed.outcome < RX_RECORDS)).implies(
                (placed.producer - consumed)[:32] <= cells
            )
            & ((produced - consumed)[:32] <= cells),
        )

        # -- helpers --
        stored_rows = Array(as_value(r) for r in self.rows(self.view(table).rows))
        self.helper(m, stored_rows[region] == as_value(row))
        self.helper(
            m, row.live.implies((row.log2_element_bytes >= 8) & (row.log2_element_bytes <= 14))
        )
        fsm = v.fsm
        self.helper(m, fsm.state < len(fsm.encoding))
        waiting = Signal()
        m.d.sync += waiting.eq(placer.frames.valid & ~placer.frames.ready)
        self.helper(m, begun.implies(waiting))
        deciding = fsm.ongoing("decision")
        self.helper(m, followed(v.handle.at).implies((v.handle.generation == generation) | ~begun))
        # The row that the table shows in a decision is that of the handle.
        asked = Signal(8)
        m.d.sync += asked.eq(reader.index)
        self.helper(m, deciding.implies(asked == v.handle.at.region))
        shown_live = reader.row.live & (asked == region)
        self.helper(m, shown_live.implies(as_value(reader.row) == as_value(row)))
        self.helper(m, v.depth < p.chain_max)
        self.helper(m, fsm.ongoing("frame").implies(v.depth == 0))
        self.helper(m, (fsm.ongoing("chain")).implies((v.sent <= v.depth) & (v.depth != 0)))
        self.helper(m, (begun & ~fsm.ongoing("chain")).implies(v.sent == 0))
        for k, entry in enumerate(self.rows(v.chain)):
            there = (v.depth > k) | (fsm.ongoing("chain") & (v.depth == k))
            self.helper(
                m,
                (begun & there & followed(entry.at)).implies(
                    permits(frame.queue) & lies_inside(entry.address, entry.length)
                ),
            )
        self.helper(m, (begun & ~fsm.ongoing("chain") & wants).implies(v.remaining != 0))
        # Lengths of the chain so far.
        before, sent = Signal(16), Signal(16)
        lengths = [entry.length for entry in self.rows(v.chain)]
        m.d.comb += [
            before.eq(sum((Mux(v.depth > k, n, 0) for k, n in enumerate(lengths)), start=0)),
            sent.eq(sum((Mux(v.sent > k, n, 0) for k, n in enumerate(lengths)), start=0)),
        ]
        of_chain = fsm.ongoing("chain")
        last = Array(lengths)[v.depth]
        self.helper(m, total == Mux(of_chain, sent, 0))
        self.helper(
            m, (begun & ~of_chain & wants).implies(before + v.remaining == frame.payload_length)
        )
        self.helper(m, of_chain.implies(before + last == frame.payload_length))
        for k, entry in enumerate(self.rows(v.chain)):
            inner = begun & (v.depth > k) & followed(entry.at)
            self.helper(m, inner.implies(entry.length == (1 << row.log2_element_bytes)))
        self.helper(m, (begun & (v.depth != 0)).implies(wants))
        # The tables of the ring.
        rings = Array(as_value(r) for r in self.rows(v.rings))
        ring = v.rings.shape(rings[queue])
        for block, mine in ((v.reserved, produced), (v.consumer, consumed)):
            inner = self.view(block)
            words = Array(self.rows(inner.memory))
            value = Mux(inner.zero.bit_select(queue, 1), 0, words[queue])
            self.helper(m, value == mine)
        stored_before = cells != 0
        self.helper(m, cells <= 1 << 18)
        self.helper(m, stored_before.implies(((1 << ring.log2_bytes) >> 4) == cells))
        self.helper(m, stored_before | ((produced == 0) & (consumed == 0)))
        self.helper(m, (v.rung & (v.bell.queue == queue)) == rung)
        self.helper(m, rung.implies(v.bell.index == rung_index))
        self.helper(m, ((produced - consumed)[:32] <= cells))
        mine = begun & (frame.queue == queue)
        self.helper(m, (mine & v.enabled).implies(stored_before))
        self.helper(m, placer.enabled.bit_select(queue, 1).implies(stored_before))
        self.helper(
            m, (mine & stored_before).implies((v.cells == cells) & (v.producer == produced))
        )
        self.helper(m, (mine & stored_before).implies(v.used >= (produced - consumed)[:19]))
        self.helper(m, (mine & stored_before).implies(v.used <= cells))
        self.helper(m, (mine & (v.depth != 0)).implies(v.enabled))
        self.helper(m, (v.needed <= 200) | ~begun)
        self.helper(m, (mine & fsm.ongoing("chain")).implies(v.space & v.enabled))
