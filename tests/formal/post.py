"""Posts: nothing is accepted, nor read, but what the queue's application may give (I2, I4, R23)."""

from amaranth.hdl import Array, Mux, Signal
from spec import Mutant, Property, Spec, as_value

from hdsnic.csr.regions import RegionTable
from hdsnic.interfaces import RegionRow
from hdsnic.parameters import Parameters
from hdsnic.rx.post import PostFetcher

_MODULE = "hdsnic.rx.post"


class PostFetcherSpec(Spec):
    """The fetcher before the real region table, with any doorbells and any cells.

    Assumed, as the settings do it: a live row, a queue's owner and its ring change only under
    `pause` after an idle cycle; a live row ends within the addresses. A queue that is roomy stays
    so until its next reservation.
    """

    depth = 2
    properties = (
        Property(
            "I2 a post is accepted of a live region of its owner",
            "A handle is pushed only if its element lies below `postable` in a region that is "
            "live, of the cell's generation, owned by the queue's owner, with NIC_WRITE.",
            (
                Mutant(
                    "a dead region or an old generation is accepted",
                    _MODULE,
                    "~row.live | (row.generation != looked.generation) | ~row.nic_write",
                    "~row.nic_write",
                ),
                Mutant(
                    "NIC_WRITE is not asked for",
                    _MODULE,
                    "(row.generation != looked.generation) | ~row.nic_write",
                    "(row.generation != looked.generation)",
                ),
                Mutant(
                    "another owner's element is accepted",
                    _MODULE,
                    "m.Elif((row.owner != owners.data) | (row.owner == 0))",
                    "m.Elif(row.owner == 0)",
                ),
                Mutant(
                    "an element that holds no payload is accepted",
                    _MODULE,
                    "(looked.element >= row.postable) | ",
                    "",
                ),
                Mutant(
                    "a turn takes the row of a cell",
                    _MODULE,
                    "cell_moves.eq(cell.valid & flowing & ~lookup)",
                    "cell_moves.eq(cell.valid & flowing)",
                ),
            ),
            depth=14,
        ),
        Property(
            "I4 a cell that was marked is pushed once, a double post never",
            "A handle is pushed exactly in the cycle after its mark, if it was not marked before.",
            (
                Mutant(
                    "a double post is pushed",
                    _MODULE,
                    "(settled.outcome == PostOutcome.ACCEPTED) & ~self.marked_before",
                    "(settled.outcome == PostOutcome.ACCEPTED)",
                ),
                Mutant(
                    "a mark that waits is pushed",
                    _MODULE,
                    "settled.valid.eq(marking.valid & flowing)",
                    "settled.valid.eq(marking.valid)",
                ),
            ),
            depth=14,
        ),
        Property(
            "I2 a post ring is read inside its owner's region",
            "A read of post cells lies inside a live region of the queue's owner, with NIC_READ.",
            (
                Mutant("a ring beyond its region is read", _MODULE, "& (end_page <= pages)", ""),
                Mutant(
                    "another owner's ring is read",
                    _MODULE,
                    "(row.owner == owner_of_turn.data) & (row.owner != 0)",
                    "(row.owner != 0)",
                ),
                Mutant(
                    "NIC_READ is not asked for",
                    _MODULE,
                    "                        & row.nic_read\n",
                    "",
                ),
            ),
            depth=14,
        ),
        Property(
            "I6 a fetcher that stands still asks for nothing",
            "From an idle cycle to the end of the pause nothing is read, marked or pushed. Under "
            "`hold` a quiet one marks, pushes and releases nothing.",
            (
                Mutant(
                    "a turn begins under pause",
                    _MODULE,
                    "self.pause | ~reads.input.ready",
                    "~reads.input.ready",
                ),
                Mutant(
                    "idle while reads are out",
                    _MODULE,
                    'fsm.ongoing("pick") & reads.empty',
                    'fsm.ongoing("pick")',
                ),
                Mutant("a cell is begun under hold", _MODULE, "& ~self.hold\n", "\n"),
            ),
            depth=14,
        ),
        Property(
            "I4 room is reserved before cells are read",
            "A reservation comes with its read, for a queue that is roomy, of one read's size.",
            (
                Mutant(
                    "a queue without room is read",
                    _MODULE,
                    "active & enabled & self.roomy & ~self.flushing",
                    "active & enabled & ~self.flushing",
                ),
                Mutant(
                    "a read is reserved before it is taken",
                    _MODULE,
                    "m.Elif(self.posts.request.ready)",
                    "m.Elif(1)",
                ),
            ),
            depth=12,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, postable_max=16, post_prefetch=4, chain_max=3,
            address_bits=32, outstanding=2,
        )  # fmt: skip
        f = self.block(m, "fetcher", PostFetcher(p))
        table = self.block(m, "table", RegionTable(p, 1))
        reader = table.readers[0]
        self.free_ports(m, f)
        m.d.comb += [
            reader.index.eq(f.region.index),
            table.write.eq(self.free(1, "write")),
            table.write_index.eq(self.free(8, "write_index")),
            table.write_row.eq(self.free(len(as_value(table.write_row)), "write_row")),
        ]
        self.assume(m, as_value(f.region.row) == as_value(reader.row))
        v = self.view(f)
        fsm = v.fsm
        # From an idle cycle to the end of the pause; a doorbell that comes then is only noted.
        frozen = Signal()
        still = f.pause & (f.idle | frozen)
        m.d.sync += frozen.eq(still)
        store = f.post_ring_store
        self.assume(m, store.valid.implies(still))

        # -- the row of an arbitrary region --
        region = self.constant(m, 1, "region")
        row = Signal(RegionRow(p))
        written = table.write & (table.write_index == region)
        with m.If(written):
            m.d.sync += row.eq(table.write_row)
        self.assume(m, (written & row.live).implies(still))
        self.assume(m, table.write.implies(table.write_index < p.regions))

        def sound(row):
            end = Signal(48)
            m.d.comb += end.eq(row.base + (row.elements << row.log2_element_bytes))
            return (
                (end <= 1 << p.address_bits)
                & (row.log2_element_bytes >= 8)
                & (row.log2_element_bytes <= 14)
            )

        self.assume(m, (table.write & table.write_row.live).implies(sound(table.write_row)))
        owners = Array(Signal(8, name=f"owner_{k}") for k in range(2))
        with m.If(store.valid):
            m.d.sync += owners[store.payload.queue].eq(store.payload.owner)

        # -- accepted posts --
        push = f.push.payload
        handle = push.handle

        def permits(element, generation, queue):
            return (
                row.live
                & row.nic_write
                & (row.generation == generation)
                & (row.owner == owners[queue])
                & (row.owner != 0)
                & (element < row.postable)
                & (element < p.postable_max)
            )

        self.prove(
            m,
            self.properties[0].name,
            (f.push.valid & (handle.at.region == region)).implies(
                permits(handle.at.element, handle.generation, push.queue)
            ),
        )
        marked, at = Signal(), Signal.like(as_value(f.mark.payload))
        m.d.sync += [marked.eq(f.mark.valid & f.mark.ready), at.eq(as_value(f.mark.payload))]
        self.prove(
            m,
            self.properties[1].name,
            (f.push.valid == (marked & ~f.marked_before))
            & f.push.valid.implies(as_value(handle.at) == at)
            & ~(f.push.valid & f.release.valid),
        )

        # -- reads of rings --
        request = f.posts.request
        ring = v.ring_of_turn.data
        begin, end, limit = Signal(48), Signal(48), Signal(48)
        m.d.comb += [
            begin.eq(request.payload.address),
            end.eq(begin + request.payload.length),
            limit.eq(row.base + (row.elements << row.log2_element_bytes)),
        ]
        self.prove(
            m,
            self.properties[2].name,
            (request.valid & (ring.region == region)).implies(
                row.live
                & row.nic_read
                & (row.owner == owners[v.turn])
                & (row.owner != 0)
                & (begin >= row.base)
                & (end <= limit)
            )
            & request.valid.implies(ring.region < p.regions),
        )

        # -- stillness --
        was_held = Signal()
        m.d.sync += was_held.eq(f.hold & f.quiet)
        nothing = ~(f.push.valid | f.mark.valid | f.release.valid)
        self.prove(
            m,
            self.properties[3].name,
            still.implies(nothing & ~request.valid & ~f.reserve.valid)
            & was_held.implies(f.quiet)
            & f.quiet.implies(nothing),
        )
        standing = fsm.ongoing("pick") & (v.reads.level == 0) & f.quiet
        self.helper(m, frozen.implies(standing))

        # -- room --
        roomy = Signal(2)
        taken = Mux(f.reserve.valid, 1 << f.reserve.payload.queue, 0)[:2]
        m.d.sync += roomy.eq(f.roomy & ~taken)
        self.assume(m, (roomy & ~f.roomy) == 0)
        self.prove(
            m,
            self.properties[4].name,
            (f.reserve.valid == (request.valid & request.ready))
            & f.reserve.valid.implies(
                f.roomy.bit_select(f.reserve.payload.queue, 1)
                & (f.reserve.payload.count == 1)
                & (request.payload.length == 8)
            ),
        )

        # -- helpers --
        stored_rows = Array(as_value(r) for r in self.rows(self.view(table).rows))
        self.helper(m, stored_rows[region] == as_value(row))
        self.helper(m, row.live.implies(sound(row)))
        for k in range(2):
            self.helper(m, self.rows(v.owners)[k] == owners[k])
        self.helper(m, fsm.state < len(fsm.encoding))
        asked = Signal(8)
        m.d.sync += asked.eq(reader.index)
        shown = reader.row.live & (asked == region)
        self.helper(m, shown.implies(as_value(reader.row) == as_value(row)))
        self.helper(m, reader.row.live.implies(asked < p.regions))
        # The stages of the check.
        self.helper(m, (v.looked.valid & v.flowing).implies(asked == v.looked.region))
        for stage in (v.marking, v.settled):
            accepted = stage.valid & (stage.outcome == 0) & (stage.region == region)
            self.helper(m, accepted.implies(permits(stage.element, stage.generation, stage.queue)))
            sane = (stage.region < p.regions) & (stage.element < p.postable_max)
            self.helper(m, (stage.valid & (stage.outcome == 0)).implies(sane))
        good = v.settled.valid & (v.settled.outcome == 0)
        self.helper(m, good == marked)
        self.helper(m, good.implies((at[:4] == v.settled.element) & (at[4:] == v.settled.region)))
        # The turn.
        turning = ~fsm.ongoing("pick")
        self.helper(m, fsm.ongoing("check").implies(asked == ring.region))
        checked = fsm.ongoing("read") & v.owner_good & v.region_good
        start = Signal(48)
        m.d.comb += start.eq(row.base + v.start)
        last_page = Signal(24)
        m.d.comb += last_page.eq((v.start + (v.count << 3) - 1) >> 12)
        fits = v.end_page <= (row.elements << row.log2_element_bytes) >> 12
        self.helper(
            m,
            (checked & (ring.region == region)).implies(
                row.live
                & row.nic_read
                & (row.owner == owners[v.turn])
                & (row.owner != 0)
                & fits
                & (v.address == start)
            ),
        )
        self.helper(m, checked.implies(ring.region < p.regions))
        loaded = fsm.ongoing("check") | fsm.ongoing("read")
        self.helper(m, loaded.implies((last_page < v.end_page) & (v.count == 1)))
        self.helper(m, turning.implies(f.roomy.bit_select(v.turn, 1)))
