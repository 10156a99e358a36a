"""Settings that take effect only while the card holds still: rings, post rings, regions, revokes.

The register block (`control`) stores the words and marks what is pending; the engine here pauses
receive and transmit, waits until nothing is in flight, checks the words and hands them to the
blocks. So no block ever sees a setting change under an access that is on its way (I6, R29).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import PostRingStore, QueueStore, RegionRow, Strobe
from .decode import fields_of

__all__ = [
    "CONTROL_QUEUES", "MANAGEMENT_QUEUES", "MANAGEMENT_REGIONS", "SettingsEngine", "ring_checks",
]  # fmt: skip

CONTROL_QUEUES, MANAGEMENT_QUEUES, MANAGEMENT_REGIONS = 0, 64, 128
"""Where the three arrays of words begin in the settings memory: 4, 4 and 8 words an entry."""


def ring_checks(m, name, ring, header_base, header_pages):
    """Whether a ring (fields `base`, `log2_bytes`) has a size, is aligned to it, and lies inside
    the header memory: bits that must all be 1."""
    pages = Signal(11, name=f"{name}_pages")
    for log2 in range(12, 23):
        with m.If(ring["log2_bytes"] == log2):
            m.d.comb += pages.eq(1 << (log2 - 12))
    return [
        pages != 0,
        ring["base"] + pages <= header_pages,
        (ring["base"] & (pages - 1)[:24]) == 0,
        header_base[:12] == 0,
        (header_base[12:36] & (pages - 1)[:24]) == 0,
    ]


class SettingsEngine(wiring.Component):
    """Carries out pending settings one by one.

    Ports
    -----
    queue_pending, off_pending, post_pending, region_pending, revoke_pending: bits set by the
    register block (`off`: switch the queue off, whatever its word says); the engine answers with a
    bit of `*_done` for a cycle. queue_enabled, posts_enabled,
    region_live: what is in force; the register block locks by them. refused: a setting was not
    carried out, since it is beyond the memory or the limits; what it concerns stays disabled.
    word_address/word: read port of the settings memory (one cycle).
    reset_pending: switch all queues off, then clear steering: `clearing`, with `clear_index` for
    each place of the largest table, a place whenever `clear_ready` is 1; `reset_done` in the last
    cycle, still paused. Regions, owners and post rings stay.
    pause, idle: no block begins anything while `pause` is 1; `idle` says that all hold still and
    that all indices were written back.
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        self.clear_places = max(
            p.queues, p.listeners, p.local_addresses, p.exact_ways * p.exact_rows
        )
        super().__init__(
            {
                "queue_pending": In(p.queues),
                "off_pending": In(p.queues),
                "post_pending": In(p.queues),
                "region_pending": In(p.regions),
                "revoke_pending": In(p.regions),
                "queue_done": Out(p.queues),
                "off_done": Out(p.queues),
                "post_done": Out(p.queues),
                "region_done": Out(p.regions),
                "revoke_done": Out(p.regions),
                "queue_enabled": Out(p.queues),
                "posts_enabled": Out(p.queues),
                "region_live": Out(p.regions),
                "refused": Out(1),
                "word_address": Out(8),
                "word": In(32),
                "header_base": In(p.address_bits),
                "header_pages": In(32),
                "index_page": In(32),
                "pause": Out(1),
                "idle": In(1),
                "reset_pending": In(1),
                "reset_done": Out(1),
                "clearing": Out(1),
                "clear_index": Out(range(self.clear_places)),
                "clear_ready": In(1),
                "rx_ring_store": Out(Strobe(QueueStore(p))),
                "tx_ring_store": Out(Strobe(QueueStore(p))),
                "completion_ring_store": Out(Strobe(QueueStore(p))),
                "post_ring_store": Out(Strobe(PostRingStore(p))),
                "element_clear": Out(stream.Signature(8)),
                "element_busy": In(1),
                "region_write": Out(1),
                "region_index": Out(8),
                "region_row": Out(RegionRow(p)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        number = Signal(8)  # of the queue or region at work
        words = [Signal(32, name=f"word_{k}") for k in range(5)]
        step = Signal(range(len(words) + 1))
        held = Signal()  # word of step - 1 arrives in this cycle

        def first_of(bits):
            """`number` becomes the lowest set bit."""
            for k in reversed(range(len(bits))):
                with m.If(bits[k]):
                    m.d.sync += number.eq(k)

        def load(base, count):
            """Read `count` words from `base` on into `words`; true in the last cycle of it."""
            m.d.comb += self.word_address.eq(base + step)
            m.d.sync += [step.eq(step + 1), held.eq(1)]
            for k in range(count):
                with m.If(held & (step == k + 1)):
                    m.d.sync += words[k].eq(self.word)
            finished = held & (step == count)
            with m.If(finished):
                m.d.sync += [step.eq(0), held.eq(0)]
            return finished

        still = self.idle
        switch_off = Signal()  # the queue at work, whatever its word says
        storing, switch_off_now = Signal(), Signal()
        place = Signal(range(self.clear_places + 1))
        m.d.comb += self.clear_index.eq(place)
        with m.FSM() as fsm:
            # A region that comes to life disturbs nobody, so that needs no pause.
            running = ("idle", "load region", "check region", "clear elements", "sweep")
            m.d.comb += self.pause.eq(~Cat(*(fsm.ongoing(name) for name in running)).any())
            with m.State("idle"):
                m.d.sync += switch_off.eq(0)
                with m.If(self.revoke_pending.any()):
                    first_of(self.revoke_pending)
                    m.next = "pause to revoke"
                with m.Elif(self.reset_pending):
                    m.d.sync += number.eq(0)
                    m.next = "pause to reset"
                with m.Elif(self.off_pending.any()):
                    first_of(self.off_pending)
                    m.d.sync += switch_off.eq(1)
                    m.next = "pause for queue"
                with m.Elif(self.queue_pending.any()):
                    first_of(self.queue_pending)
                    m.next = "pause for queue"
                with m.Elif(self.post_pending.any()):
                    first_of(self.post_pending)
                    m.next = "pause for posts"
                with m.Elif(self.region_pending.any()):
                    first_of(self.region_pending)
                    m.next = "load region"

            # Two cycles with both idle: a block that began as `pause` rose has then shown it.
            for name in ("to revoke", "to reset", "for queue", "for posts"):
                with m.State(f"pause {name}"), m.If(still):
                    m.next = f"settle {name}"
            with m.State("settle to revoke"):
                m.next = "pause to revoke"
                with m.If(still):
                    m.next = "revoke"
            with m.State("settle to reset"):
                m.next = "pause to reset"
                with m.If(still):
                    m.next = "all queues off"
            with m.State("settle for queue"):
                m.next = "pause for queue"
                with m.If(still):
                    m.next = "load queue"
            with m.State("settle for posts"):
                m.next = "pause for posts"
                with m.If(still):
                    m.next = "load posts"

            with m.State("revoke"):
                m.d.comb += [
                    self.region_write.eq(1),
                    self.region_index.eq(number),
                    self.revoke_done.eq(1 << number),
                ]
                m.d.sync += self.region_live.eq(self.region_live & ~(1 << number)[: p.regions])
                m.next = "idle"

            with m.State("load queue"), m.If(load(CONTROL_QUEUES + 4 * number, 4)):
                m.next = "store queue"
            with m.State("store queue"):
                m.d.comb += [
                    storing.eq(1),
                    self.queue_done.eq(Mux(switch_off, 0, 1 << number)),
                    self.off_done.eq(Mux(switch_off, 1 << number, 0)),
                ]
                m.next = "idle"

            with m.State("all queues off"):
                m.d.comb += [storing.eq(1), switch_off_now.eq(1)]
                m.d.sync += number.eq(number + 1)
                with m.If(number == p.queues - 1):
                    m.d.sync += place.eq(0)
                    m.next = "clear tables"
            with m.State("clear tables"):
                m.d.comb += self.clearing.eq(self.clear_ready)
                with m.If(self.clear_ready):
                    m.d.sync += place.eq(place + 1)
                    m.next = "clear next"
            with m.State("clear next"):  # a table that is busy with the last one has shown it
                m.next = "clear tables"
                with m.If(place == self.clear_places):
                    m.d.comb += self.reset_done.eq(1)
                    m.next = "idle"

            with m.State("load posts"), m.If(load(MANAGEMENT_QUEUES + 4 * number, 2)):
                m.next = "store posts"
            with m.State("store posts"):
                owner = fields_of(abi.MANAGEMENT.QUEUE_OWNER, words[0])
                ring = fields_of(abi.MANAGEMENT.POST_RING, words[1])
                fits = ring["log2_pages"] <= 7
                enable = owner["posts"][0] & fits
                store = self.post_ring_store
                m.d.comb += [
                    store.valid.eq(1),
                    store.payload.queue.eq(number),
                    store.payload.enable.eq(enable),
                    store.payload.owner.eq(owner["owner"]),
                    store.payload.region.eq(ring["region"]),
                    store.payload.offset.eq(ring["offset"]),
                    store.payload.log2_pages.eq(ring["log2_pages"]),
                    self.refused.eq(owner["posts"][0] & ~fits),
                    self.post_done.eq(1 << number),
                ]
                m.d.sync += self.posts_enabled.eq(
                    (self.posts_enabled & ~(1 << number)[: p.queues]) | (enable << number)
                )
                m.next = "idle"

            with m.State("load region"), m.If(load(MANAGEMENT_REGIONS + 8 * number, 5)):
                m.next = "check region"
            with m.State("check region"):
                row, good = self._region_row(words)
                m.d.sync += self.region_row.eq(row)
                m.next = "clear elements"
                with m.If(~good):
                    m.d.comb += [self.refused.eq(1), self.region_done.eq(1 << number)]
                    m.next = "idle"
            with m.State("clear elements"):
                m.d.comb += [self.element_clear.valid.eq(1), self.element_clear.payload.eq(number)]
                with m.If(self.element_clear.ready):
                    m.next = "sweep"
            with m.State("sweep"), m.If(~self.element_busy):
                m.d.comb += [
                    self.region_write.eq(1),
                    self.region_index.eq(number),
                    self.region_done.eq(1 << number),
                ]
                m.d.sync += self.region_live.eq(self.region_live | (1 << number)[: p.regions])
                m.next = "idle"
        # A row that is written by a revoke is all zero: not live.
        with m.If(fsm.ongoing("idle")):
            m.d.sync += self.region_row.eq(0)
        self._store_queue(m, number, words, storing, switch_off | switch_off_now)
        return m

    def _store_queue(self, m, number, words, storing, off):
        """The rings of a queue, if they lie inside the header memory; none with `off`."""
        p = self.parameters
        register = abi.CONTROL
        wanted = fields_of(register.QUEUE_SWITCH, words[2])["enable"][0] & ~off
        good = Signal()
        checks = [self.index_page < self.header_pages]
        rings = []
        for name, ring_register, word in (
            ("rx", register.RX_RING, words[0]),
            ("tx", register.TX_RING, words[1]),
            ("completion", register.COMPLETION_RING, words[3]),
        ):
            ring = fields_of(ring_register, word)
            sound = Cat(*ring_checks(m, name, ring, self.header_base, self.header_pages)).all()
            if name == "completion":  # a queue may have none
                sound = sound | (ring["log2_bytes"] == 0)
            checks.append(sound)
            rings.append(ring)
        m.d.comb += good.eq(Cat(*checks).all())
        enable = wanted & good
        for ring, store, there in zip(
            rings,
            (self.rx_ring_store, self.tx_ring_store, self.completion_ring_store),
            (1, 1, rings[2]["log2_bytes"] != 0),
            strict=True,
        ):
            m.d.comb += [
                store.valid.eq(storing),
                store.payload.queue.eq(number),
                store.payload.enable.eq(enable & there),
                store.payload.base.eq(self.header_base + (ring["base"] << 12)),
                store.payload.log2_bytes.eq(Mux(good & there, ring["log2_bytes"], 12)),
            ]
        with m.If(storing & wanted & ~good):
            m.d.comb += self.refused.eq(1)
        with m.If(storing):
            m.d.sync += self.queue_enabled.eq(
                (self.queue_enabled & ~(1 << number)[: p.queues]) | (enable << number)
            )

    def _region_row(self, words):
        """The row that five words describe, and whether it is sound."""
        p = self.parameters
        base = Cat(words[0], words[1])
        shape = fields_of(abi.MANAGEMENT.REGION_SHAPE, words[2])
        state = fields_of(abi.MANAGEMENT.REGION_STATE, words[4])
        postable = words[3]
        elements, log2 = shape["elements"], shape["log2_element_bytes"]
        end = base[: p.address_bits] + (elements << log2[:4])
        good = Cat(
            base[:12] == 0,
            base[p.address_bits :] == 0 if p.address_bits < 64 else 1,
            end[: p.address_bits + 24] <= (1 << p.address_bits),
            (log2 >= 8) & (log2 <= 14),
            elements != 0,
            postable <= elements,
            postable <= p.postable_max,
            state["owner"] != 0,
        ).all()
        row = RegionRow(p)
        values = {
            "live": 1,
            "base": base[: p.address_bits],
            "elements": elements,
            "postable": postable[:24],
            "log2_element_bytes": log2[:4],
            "owner": state["owner"],
            "generation": state["generation"],
            "nic_write": state["nic_write"],
            "nic_read": state["nic_read"],
        }
        packed = []
        for name, field in row:
            value = Value.cast(values[name])
            width = field.width
            packed.append(Cat(value, Const(0, width))[:width])
        return Cat(*packed), good
