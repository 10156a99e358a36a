"""Settings: nothing changes under an access that is on its way, and a revoke ends all (I6, R29)."""

from amaranth.hdl import Signal
from spec import Mutant, Property, Spec

from hdsnic.csr.settings import SettingsEngine
from hdsnic.parameters import Parameters

_MODULE = "hdsnic.csr.settings"


class _Engine:
    """The engine under any settings at any time, and any words in the settings memory.

    Nothing is assumed of `idle`; that blocks which are idle under `pause` stay so is proven of
    them.
    """

    def settings_engine(self, m):
        """Parameters, the engine, and by name which pending bits have waited since a cycle ago."""
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, address_bits=32, postable_max=64, listeners=1,
            range_listeners=1, local_addresses=1, exact_ways=1, exact_rows=16,
        )  # fmt: skip
        e = self.block(m, "engine", SettingsEngine(p))
        for name in (
            "queue_pending", "post_pending", "region_pending", "revoke_pending", "word",
            "header_base", "header_pages", "index_page", "idle", "element_busy", "off_pending",
            "reset_pending", "clear_ready",
        ):  # fmt: skip
            port = getattr(e, name)
            m.d.comb += port.eq(self.free(len(port), name))
        m.d.comb += e.element_clear.ready.eq(self.free(1, "clear_ready"))

        # Pending bits stay until they are done.
        asked = {}
        for name in ("queue", "off", "post", "region", "revoke", "reset"):
            bits = getattr(e, f"{name}_pending")
            waiting = Signal(len(bits), name=f"{name}_waiting")
            m.d.sync += waiting.eq(bits & ~getattr(e, f"{name}_done"))
            self.assume(m, (waiting & ~bits) == 0)
            asked[name] = waiting
        fsm, number = self.view(e).fsm, self.view(e).number
        self.helper(m, fsm.state < len(fsm.encoding))
        after_queues = [fsm.ongoing(n) for n in ("idle", "clear tables", "clear next")]
        self.helper(m, (number < 2) | after_queues[0] | after_queues[1] | after_queues[2])
        return p, e, asked


class SettingsSpec(_Engine, Spec):
    """Stillness, revokes, and the rows of regions."""

    depth = 3
    properties = (
        Property(
            "I6 a revoke waits until all stand still",
            "A revoke, each store of a ring or an owner, and the end of a reset come with `pause`, "
            "after two cycles in a row in which all blocks were idle under `pause`.",
            (
                Mutant(
                    "a revoke does not wait",
                    _MODULE,
                    "still = self.idle",
                    "still = Const(1)",
                ),
                Mutant(
                    "a revoke waits for one idle cycle",
                    _MODULE,
                    'm.next = f"settle {name}"',
                    'm.next = {"to revoke": "revoke", "for queue": "load queue", '
                    '"for posts": "load posts", "to reset": "all queues off"}[name]',
                ),
                Mutant(
                    "a ring is stored without a pause",
                    _MODULE,
                    'running = ("idle",',
                    'running = ("idle", "store queue", "store posts",',
                ),
            ),
        ),
        Property(
            "I6 an acknowledged revoke leaves a dead row",
            "A revoke is acknowledged as its region's row is written not live; until the next "
            "registration is done the region is not live in the table.",
            (
                Mutant(
                    "a revoke is acknowledged but not written",
                    _MODULE,
                    "self.region_write.eq(1),\n"
                    "                    self.region_index.eq(number),\n"
                    "                    self.revoke_done",
                    "self.region_index.eq(number),\n                    self.revoke_done",
                ),
                Mutant(
                    "a revoke writes the row that was checked last",
                    _MODULE,
                    "m.d.sync += self.region_row.eq(0)",
                    "pass",
                ),
                Mutant(
                    "a revoke writes another region's row",
                    _MODULE,
                    "self.region_index.eq(number),\n                    self.revoke_done",
                    "self.region_index.eq(number + 1),\n                    self.revoke_done",
                ),
            ),
            depth=24,
        ),
        Property(
            "I2 a live row lies inside the bus's addresses",
            "A row that is written live is page-aligned, its elements end within `address_bits`, "
            "no more elements can be posted than there are, or than have state bits, and it has an "
            "owner.",
            (
                Mutant(
                    "more elements may be posted than there are",
                    _MODULE,
                    "            postable <= elements,\n",
                    "",
                ),
                Mutant(
                    "a region may reach beyond the last address",
                    _MODULE,
                    "            end[: p.address_bits + 24] <= (1 << p.address_bits),\n",
                    "",
                ),
                Mutant(
                    "an element may be of any size",
                    _MODULE,
                    "(log2 >= 8) & (log2 <= 14)",
                    "1",
                ),
                Mutant(
                    "a refused row is written all the same",
                    _MODULE,
                    'self.region_done.eq(1 << number)]\n                    m.next = "idle"',
                    "self.region_done.eq(1 << number)]",
                ),
                Mutant(
                    "element states beyond the card's are posted",
                    _MODULE,
                    "            postable <= p.postable_max,\n",
                    "",
                ),
                Mutant("a region has no owner", _MODULE, 'state["owner"] != 0', "1"),
            ),
            depth=16,
        ),
        Property(
            "I4 a region goes live with its elements swept",
            "A live row is written only when the clearing of its elements, asked for after the "
            "last revoke, has ended.",
            (
                Mutant(
                    "a region goes live under the sweep",
                    _MODULE,
                    'm.State("sweep"), m.If(~self.element_busy)',
                    'm.State("sweep")',
                ),
                Mutant(
                    "the elements of another region are cleared",
                    _MODULE,
                    "self.element_clear.payload.eq(number)",
                    "self.element_clear.payload.eq(number + 1)",
                ),
            ),
            depth=16,
        ),
    )

    def build(self, m):
        p, e, _ = self.settings_engine(m)

        fsm, number = self.view(e).fsm, self.view(e).number

        # -- stillness --
        still = e.pause & e.idle
        before, before_that = Signal(), Signal()
        m.d.sync += [before.eq(still), before_that.eq(before)]
        revoked = e.revoke_done.any()
        stored = (
            e.rx_ring_store.valid
            | e.tx_ring_store.valid
            | e.completion_ring_store.valid
            | e.post_ring_store.valid
        )
        # Words are loaded between the stillness and a store; `pause` holds from one to the other.
        settled = Signal()
        m.d.sync += settled.eq((before & still) | (settled & e.pause))
        self.prove(
            m,
            self.properties[0].name,
            revoked.implies(e.pause & before & before_that)
            & (stored | e.reset_done).implies(e.pause & settled),
        )
        after = [
            fsm.ongoing(name)
            for name in (
                "revoke", "load queue", "store queue", "load posts", "store posts",
                "all queues off", "clear tables", "clear next",
            )
        ]  # fmt: skip
        self.helper(m, sum(after[1:], start=after[0]).any().implies(settled))
        for name in ("to revoke", "to reset", "for queue", "for posts"):
            self.helper(m, fsm.ongoing(f"settle {name}").implies(before))

        # -- the row of an arbitrary region --
        region = self.constant(m, 1, "region")
        ours = e.region_write & (e.region_index == region)
        row = e.region_row
        live = Signal()
        revoke_done, region_done = (s.bit_select(region, 1) for s in (e.revoke_done, e.region_done))
        with m.If(ours):
            m.d.sync += live.eq(row.live)
        registered = Signal()  # since the last revoke a registration was done
        m.d.sync += registered.eq((registered & ~revoke_done) | region_done)
        self.prove(
            m,
            self.properties[1].name,
            revoke_done.implies(ours & ~row.live) & (live.implies(registered)),
        )
        self.helper(m, (e.region_live.bit_select(region, 1)) == live)
        quiet = [fsm.ongoing(n) for n in ("check region", "clear elements", "sweep")]
        self.helper(m, (quiet[1] | quiet[2]) | (row.as_value() == 0) | fsm.ongoing("idle"))

        # -- soundness --
        limit = 1 << p.address_bits
        end = Signal(64)
        m.d.comb += end.eq(row.base + (row.elements << row.log2_element_bytes))
        sound = (
            (row.base[:12] == 0)
            & (end <= limit)
            & (row.log2_element_bytes >= 8)
            & (row.log2_element_bytes <= 14)
            & (row.elements != 0)
            & (row.postable <= row.elements)
            & (row.postable <= p.postable_max)
            & (row.owner != 0)
        )
        self.prove(m, self.properties[2].name, (e.region_write & row.live).implies(sound))
        self.helper(m, (quiet[1] | quiet[2]).implies(sound & row.live))

        # -- swept --
        cleared = Signal()
        taken = e.element_clear.valid & e.element_clear.ready & (e.element_clear.payload == region)
        with m.If(taken):
            m.d.sync += cleared.eq(1)
        with m.Elif(revoke_done | ours):
            m.d.sync += cleared.eq(0)
        self.prove(
            m,
            self.properties[3].name,
            (ours & row.live).implies(cleared & ~e.element_busy),
        )
        self.helper(m, (quiet[2] & (number == region)).implies(cleared))


class RingsSpec(_Engine, Spec):
    """Rings of queues: where they lie, and that they come together."""

    depth = 1
    properties = (
        Property(
            "R29 a queue's rings lie inside the header memory",
            "A receive, transmit or completion ring that is stored enabled has 4 KiB to 4 MiB, is "
            "aligned to its size, and lies inside the header memory, as the queue's index slot "
            "does.",
            (
                Mutant(
                    "a completion ring may lie anywhere",
                    _MODULE,
                    'sound = sound | (ring["log2_bytes"] == 0)',
                    "sound = 1",
                ),
                Mutant(
                    "a ring may end beyond the header memory",
                    _MODULE,
                    '        ring["base"] + pages <= header_pages,\n',
                    "",
                ),
                Mutant(
                    "a ring need not be aligned",
                    _MODULE,
                    '        (ring["base"] & (pages - 1)[:24]) == 0,\n',
                    "",
                ),
                Mutant(
                    "the header memory need not begin on a page",
                    _MODULE,
                    "        header_base[:12] == 0,\n",
                    "",
                ),
                Mutant("a ring may have any size", _MODULE, "        pages != 0,\n", ""),
                Mutant(
                    "index slots may lie beyond the header memory",
                    _MODULE,
                    "checks = [self.index_page < self.header_pages]",
                    "checks = []",
                ),
                Mutant(
                    "a refused queue is enabled",
                    _MODULE,
                    "enable = wanted & good",
                    "enable = wanted",
                ),
            ),
            depth=16,
        ),
        Property(
            "R29 a queue's rings are stored together",
            "The three rings of a queue are stored in one cycle; receive and transmit are enabled "
            "together, a completion ring only with them; and the registers see the queue as "
            "enabled exactly if they are.",
            (
                Mutant(
                    "a completion ring stays when its queue is switched off",
                    _MODULE,
                    "store.payload.enable.eq(enable & there)",
                    "store.payload.enable.eq(enable if there is 1 else there)",
                ),
                Mutant(
                    "another queue's registers are locked",
                    _MODULE,
                    "(self.queue_enabled & ~(1 << number)[: p.queues]) | (enable << number)",
                    "(self.queue_enabled & ~(1 << number)[: p.queues]) | (enable << (number + 1))",
                ),
            ),
            depth=16,
        ),
    )

    def build(self, m):
        p, e, _ = self.settings_engine(m)
        stores = (e.rx_ring_store, e.tx_ring_store, e.completion_ring_store)
        inside = []
        for k, store in enumerate(stores):
            ring = store.payload
            # In pages, and by size: the solver likes small sums and constant masks better.
            pages, at = Signal(11, name=f"pages_{k}"), Signal(p.address_bits - 12, name=f"at_{k}")
            aligned = Signal(name=f"aligned_{k}")
            m.d.comb += at.eq(ring.base[12:] - e.header_base[12:])
            for log2 in range(12, 23):
                with m.If(ring.log2_bytes == log2):
                    m.d.comb += [pages.eq(1 << (log2 - 12)), aligned.eq(ring.base[:log2] == 0)]
            good = (
                aligned
                & (e.header_base[:12] == 0)
                & (at + pages <= e.header_pages)
                & (e.index_page < e.header_pages)
            )
            inside.append((store.valid & ring.enable).implies(good))
        self.prove(m, self.properties[0].name, inside[0] & inside[1] & inside[2])

        queue = self.constant(m, 1, "queue")
        rx, tx, completion = (store.payload for store in stores)
        on = Signal()  # as the blocks were told
        with m.If(stores[0].valid & (rx.queue == queue)):
            m.d.sync += on.eq(rx.enable)
        together = (
            (stores[1].valid == stores[0].valid)
            & (stores[2].valid == stores[0].valid)
            & stores[0].valid.implies(
                (tx.queue == rx.queue)
                & (completion.queue == rx.queue)
                & (tx.enable == rx.enable)
                & completion.enable.implies(rx.enable)
            )
        )
        self.prove(
            m,
            self.properties[1].name,
            together & (e.queue_enabled.bit_select(queue, 1) == on),
        )


class ResetSpec(_Engine, Spec):
    """A reset: every queue off, then every place of the tables cleared."""

    properties = (
        Property(
            "R28 tables are cleared by a reset with all queues off",
            "A reset clears a place of the tables, and ends, only after the rings of every queue "
            "were stored disabled in the same pause; it was asked for.",
            (
                Mutant(
                    "a reset stores the rings as they were",
                    _MODULE,
                    "[storing.eq(1), switch_off_now.eq(1)]",
                    "[storing.eq(1)]",
                ),
                Mutant(
                    "a reset leaves the last queue on",
                    _MODULE,
                    "with m.If(number == p.queues - 1):",
                    "with m.If(number == p.queues - 2):",
                ),
            ),
            depth=24,
        ),
        Property(
            "R28 a reset ends with every place of the tables cleared",
            "`reset_done` comes only after each place was cleared in the same pause, in a cycle in "
            "which the tables were ready.",
            (
                Mutant(
                    "a reset ends with the first place",
                    _MODULE,
                    "with m.If(place == self.clear_places):",
                    "with m.If(place != 0):",
                ),
                Mutant(
                    "a reset leaves out every other place",
                    _MODULE,
                    "place.eq(place + 1)",
                    "place.eq(place + 2)",
                ),
                Mutant(
                    "a place is taken for cleared by a busy table",
                    _MODULE,
                    "m.d.comb += self.clearing.eq(self.clear_ready)\n"
                    "                with m.If(self.clear_ready):",
                    "m.d.comb += self.clearing.eq(self.clear_ready)\n                with m.If(1):",
                ),
            ),
            depth=48,
        ),
    )

    def build(self, m):
        _, e, asked = self.settings_engine(m)
        waiting = asked["reset"]
        view = self.view(e)
        fsm, number, place = view.fsm, view.number, view.place
        queue = self.constant(m, 1, "reset_queue")
        one = self.constant(m, range(e.clear_places), "cleared_place")
        store = e.rx_ring_store
        ours = store.valid & (store.payload.queue == queue)
        off, cleared = Signal(), Signal()  # both in this pause
        with m.If(~e.pause | (ours & store.payload.enable)):
            m.d.sync += off.eq(0)
        with m.Elif(ours):
            m.d.sync += off.eq(1)
        with m.If(~e.pause):
            m.d.sync += cleared.eq(0)
        with m.Elif(e.clearing & e.clear_ready & (e.clear_index == one)):
            m.d.sync += cleared.eq(1)
        self.prove(
            m,
            self.properties[0].name,
            (e.clearing | e.reset_done).implies(off) & e.reset_done.implies(e.reset_pending),
        )
        self.prove(m, self.properties[1].name, e.reset_done.implies(cleared))

        switching, tables, between = (
            fsm.ongoing(name) for name in ("all queues off", "clear tables", "clear next")
        )
        paused = fsm.ongoing("pause to reset") | fsm.ongoing("settle to reset")
        self.helper(m, (paused | switching | tables | between).implies(waiting))
        self.helper(m, paused.implies(number == 0))
        self.helper(m, (switching & (number > queue)).implies(off))
        self.helper(m, (tables | between).implies(off & ((place > one).implies(cleared))))
        self.helper(m, tables.implies(place < e.clear_places))
        self.helper(m, between.implies(place <= e.clear_places))
