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

__all__ = ["CONTROL_QUEUES", "MANAGEMENT_QUEUES", "MANAGEMENT_REGIONS", "SettingsEngine"]

CONTROL_QUEUES, MANAGEMENT_QUEUES, MANAGEMENT_REGIONS = 0, 64, 128
"""Where the three arrays of words begin in the settings memory: 4, 4 and 8 words an entry."""


def _fields(register, word):
    """The fields of a register as slices of `word`."""
    out, at = {}, 0
    for f in register.fields:
        out[f.name] = word[at : at + f.bits]
        at += f.bits
    return out


class SettingsEngine(wiring.Component):
    """Carries out pending settings one by one.

    Ports
    -----
    queue_pending, post_pending, region_pending, revoke_pending: bits set by the register block;
    the engine answers with a bit of `*_done` for a cycle. queue_enabled, posts_enabled,
    region_live: what is in force; the register block locks by them. refused: a setting was not
    carried out, since it is beyond the memory or the limits; what it concerns stays disabled.
    word_address/word: read port of the settings memory (one cycle).
    """

    def __init__(self, parameters):
        self.parameters = parameters
        p = parameters
        super().__init__(
            {
                "queue_pending": In(p.queues),
                "post_pending": In(p.queues),
                "region_pending": In(p.regions),
                "revoke_pending": In(p.regions),
                "queue_done": Out(p.queues),
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
                "rx_idle": In(1),
                "tx_idle": In(1),
                "rx_ring_store": Out(Strobe(QueueStore(p))),
                "tx_ring_store": Out(Strobe(QueueStore(p))),
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

        still = self.rx_idle & self.tx_idle
        with m.FSM() as fsm:
            # A region that comes to life disturbs nobody, so that needs no pause.
            running = ("idle", "load region", "check region", "clear elements", "sweep")
            m.d.comb += self.pause.eq(~Cat(*(fsm.ongoing(name) for name in running)).any())
            with m.State("idle"):
                with m.If(self.revoke_pending.any()):
                    first_of(self.revoke_pending)
                    m.next = "pause to revoke"
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
            for name in ("to revoke", "for queue", "for posts"):
                with m.State(f"pause {name}"), m.If(still):
                    m.next = f"settle {name}"
            with m.State("settle to revoke"):
                m.next = "pause to revoke"
                with m.If(still):
                    m.next = "revoke"
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

            with m.State("load queue"), m.If(load(CONTROL_QUEUES + 4 * number, 3)):
                m.next = "store queue"
            with m.State("store queue"):
                self._store_queue(m, number, words)
                m.next = "idle"

            with m.State("load posts"), m.If(load(MANAGEMENT_QUEUES + 4 * number, 2)):
                m.next = "store posts"
            with m.State("store posts"):
                owner = _fields(abi.MANAGEMENT.QUEUE_OWNER, words[0])
                ring = _fields(abi.MANAGEMENT.POST_RING, words[1])
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
        return m

    def _store_queue(self, m, number, words):
        """Both rings of a queue, if they lie inside the header memory."""
        p = self.parameters
        wanted = _fields(abi.CONTROL.QUEUE_SWITCH, words[2])["enable"][0]
        good = Signal()
        checks = [self.index_page < self.header_pages]
        rings = []
        for name, register, word in (
            ("rx", abi.CONTROL.RX_RING, words[0]),
            ("tx", abi.CONTROL.TX_RING, words[1]),
        ):
            ring = _fields(register, word)
            pages = Signal(11, name=f"{name}_pages")
            for log2 in range(12, 23):
                with m.If(ring["log2_bytes"] == log2):
                    m.d.comb += pages.eq(1 << (log2 - 12))
            checks += [
                pages != 0,
                ring["base"] + pages <= self.header_pages,
                (ring["base"] & (pages - 1)[:24]) == 0,
                (self.header_base[12:36] & (pages - 1)[:24]) == 0,
            ]
            rings.append(ring)
        m.d.comb += good.eq(Cat(*checks).all())
        enable = wanted & good
        for ring, store in zip(rings, (self.rx_ring_store, self.tx_ring_store), strict=True):
            m.d.comb += [
                store.valid.eq(1),
                store.payload.queue.eq(number),
                store.payload.enable.eq(enable),
                store.payload.base.eq(self.header_base + (ring["base"] << 12)),
                store.payload.log2_bytes.eq(Mux(good, ring["log2_bytes"], 12)),
            ]
        m.d.comb += [self.refused.eq(wanted & ~good), self.queue_done.eq(1 << number)]
        m.d.sync += self.queue_enabled.eq(
            (self.queue_enabled & ~(1 << number)[: p.queues]) | (enable << number)
        )

    def _region_row(self, words):
        """The row that five words describe, and whether it is sound."""
        p = self.parameters
        base = Cat(words[0], words[1])
        shape = _fields(abi.MANAGEMENT.REGION_SHAPE, words[2])
        state = _fields(abi.MANAGEMENT.REGION_STATE, words[4])
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
