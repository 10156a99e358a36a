"""The card's wires: who is paused, who is idle, and whose words reach the region table (I6, I2)."""

from spec import Mutant, Property, Spec, as_value, parts_of

from hdsnic import nic
from hdsnic.csr import RegisterBlock, control
from hdsnic.nic import Nic
from hdsnic.parameters import Parameters

_MODULE = "hdsnic.nic"


class CardSpec(Spec):
    """The card with the register block, around blocks that do anything."""

    depth = 1
    map_memories = False
    properties = (
        Property(
            "I6 the card is idle when all of its blocks are",
            "What the settings see as idle is that of egress, transmit, completions and indices; "
            "and each of them is paused as the settings say.",
            (
                Mutant(
                    "transmit is not waited for",
                    _MODULE,
                    "egress.idle & transmit.idle",
                    "egress.idle",
                ),
                Mutant(
                    "transmit is not paused",
                    _MODULE,
                    "transmit.pause.eq(registers.pause)",
                    "transmit.pause.eq(0)",
                ),
            ),
            depth=2,
        ),
        Property(
            "I2 the region table is written by the settings alone",
            "Rows, owners and post rings reach the blocks as the settings engine gives them, both "
            "the same owner.",
            (
                Mutant(
                    "transmit does not hear of owners",
                    _MODULE,
                    "transmit.owner_store.valid.eq(registers.post_ring_store.valid)",
                    "transmit.owner_store.valid.eq(0)",
                ),
            ),
            depth=2,
        ),
    )

    def build(self, m):
        p = Parameters(
            bus_bytes=8, queues=2, regions=2, listeners=2, range_listeners=1, local_addresses=1,
            exact_ways=1, exact_rows=16, rss_contexts=1, postable_max=16, address_bits=32,
        )  # fmt: skip
        card = Nic(p)
        # Wires alone are the matter: whatever the blocks do, but the register block's own wiring.
        parts = parts_of(nic, RegisterBlock) | parts_of(control)
        with self.opaque(*parts):
            self.block(m, "card", card)
        self.free_ports(m, card)
        v = self.view(card)
        engine = self.view(v.registers).engine
        blocks = (v.egress, v.transmit, v.completions)
        idle = v.egress.idle & v.transmit.idle & v.completions.idle & v.index.idle
        paused = engine.pause
        for block in blocks:
            paused = paused & block.pause
        self.prove(
            m,
            self.properties[0].name,
            engine.idle.implies(idle) & engine.pause.implies(paused),
        )
        store = engine.post_ring_store
        self.prove(
            m,
            self.properties[1].name,
            (v.regions.write == engine.region_write)
            & (v.regions.write_index == engine.region_index)
            & (as_value(v.regions.write_row) == as_value(engine.region_row))
            & (v.egress.post_ring_store.valid == store.valid)
            & (v.transmit.owner_store.valid == store.valid)
            & (as_value(v.egress.post_ring_store.payload) == as_value(store.payload))
            & (as_value(v.transmit.owner_store.payload) == as_value(store.payload)),
        )
