"""Receive-side scaling: a Toeplitz hash of the flow chooses among the queues of an application.

Part of `steer` (R14). Every context has a key and an indirection table of its own. The hash is that
of the published verification suite: over source address, destination address, source port and
destination port in network order, for TCP and UDP over IPv4 and IPv6.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import RssKeyStore, RssTableStore, Strobe
from .parse import Addresses

__all__ = ["RssFlow", "RssUnit", "rss_steps"]

HASH_BITS = 32
CHUNK_BITS = 96  # addresses and ports of IPv4 are one, those of IPv6 three
CHUNKS = 3
MESSAGE_BITS = CHUNK_BITS * CHUNKS
KEY_BITS = 8 * abi.RSS_KEY_BYTES
assert KEY_BITS == MESSAGE_BITS + HASH_BITS


def rss_steps(bus_bytes):
    """Cycles over which a hash is spread: no more than the beats of a frame that has ports."""
    return {8: 3, 16: 3, 32: 2, 64: 1}[bus_bytes]


class RssFlow(data.StructLayout):
    """What is hashed, and the context."""

    def __init__(self, parameters):
        super().__init__(
            {
                "context": unsigned(max(1, (parameters.rss_contexts - 1).bit_length())),
                "addresses": Addresses(),
                "remote": 16,
                "local": 16,
            }
        )


class RssUnit(wiring.Component):
    """Hash and queue of a flow.

    Latency `rss_steps` + 2 cycles from `i` to `hash` and `queue`, which stay until the next; a flow
    every `rss_steps` cycles. Keys and tables keep what they hold over a reset.

    Interface attributes
    --------------------
    key_store, table_store: writes of a context. A flow sees each either before a store or after it.
    i: a flow. hash, queue: its hash, and the entry of the table that the hash's low bits name.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "key_store": In(Strobe(RssKeyStore(parameters))),
                "table_store": In(Strobe(RssTableStore(parameters))),
                "i": In(Strobe(RssFlow(parameters))),
                "hash": Out(HASH_BITS),
                "queue": Out(RssTableStore(parameters)["queue"].shape),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        steps = rss_steps(p.bus_bytes)
        width = CHUNK_BITS * -(-CHUNKS // steps)  # bits of a step

        m.submodules.keys = keys = memory.Memory(
            shape=unsigned(KEY_BITS),
            depth=p.rss_contexts,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        key_write, key_read = keys.write_port(), keys.read_port(domain="comb")
        flow = self.i.payload
        stored = self.key_store.payload
        m.d.comb += [
            key_write.en.eq(self.key_store.valid),
            key_write.addr.eq(stored.context),
            key_write.data.eq(_first_on_top(stored.key)),
            key_read.addr.eq(flow.context),
        ]

        # Key and message stand with their first bit on top, and move up by a step each cycle.
        key, message = Signal(KEY_BITS), Signal(MESSAGE_BITS)
        busy = Signal(steps)  # a bit for each step
        context = Signal.like(flow.context)
        m.d.sync += busy.eq(Cat(self.i.valid, busy))
        with m.If(self.i.valid):
            m.d.sync += [
                key.eq(key_read.data),
                message.eq(self.message(flow)),
                context.eq(flow.context),
            ]
        if steps > 1:
            with m.Elif(busy.any()):
                m.d.sync += [key.eq(key << width), message.eq(message << width)]

        total = Signal(HASH_BITS)
        with m.If(busy.any()):
            window = message[MESSAGE_BITS - width :]
            for n in range(HASH_BITS):  # bit n of the hash: the key from its bit 31 - n on
                top = KEY_BITS - (HASH_BITS - 1 - n)
                parity = (window & key[top - width : top]).xor()
                m.d.sync += total[n].eq(parity ^ (total[n] & ~busy[0]))

        m.submodules.tables = tables = memory.Memory(
            shape=unsigned(len(self.queue)),
            depth=p.rss_contexts * abi.RSS_ENTRIES,
            init=[],
            attrs={"ram_style": "block"},
        )
        table_write, table_read = tables.write_port(), tables.read_port()
        entry_bits = (abi.RSS_ENTRIES - 1).bit_length()
        done = Signal()
        of_total = Signal.like(context)
        m.d.sync += done.eq(busy[-1])
        with m.If(busy[-1]):
            m.d.sync += of_total.eq(context)
        with m.If(done):
            m.d.sync += self.hash.eq(total)
        m.d.comb += [
            table_write.en.eq(self.table_store.valid),
            table_write.addr.eq(
                Cat(self.table_store.payload.entry, self.table_store.payload.context)
            ),
            table_write.data.eq(self.table_store.payload.queue),
            table_read.en.eq(done),
            table_read.addr.eq(Cat(total[:entry_bits], of_total)),
            self.queue.eq(table_read.data),
        ]
        return m

    def message(self, flow):
        """The hashed bytes, the first on top; zero behind those of IPv4, which hash to nothing."""
        addresses, ports = flow.addresses, Cat(_swapped(flow.remote), _swapped(flow.local))
        ipv6 = Cat(addresses.source, addresses.destination, ports)
        ipv4 = Cat(addresses.source[:32], addresses.destination[:32], ports)
        return _first_on_top(Mux(addresses.ipv6, ipv6, ipv4))


def _swapped(halfword):
    return Cat(halfword[8:], halfword[:8])


def _first_on_top(value):
    """Bytes in the opposite order."""
    return Cat(value[at : at + 8] for at in reversed(range(0, len(value), 8)))
