"""Registers of steering: local addresses, listener rules, receive-side scaling."""

from amaranth.hdl import Cat, Module, Mux, Signal

from .. import abi
from .decode import Decoder, fields_of

__all__ = ["queue_limit", "steering_registers"]

_C = abi.CONTROL


def steering_registers(m: Module, p, d: Decoder, clear, block):
    """Stores for the tables of ingress, on the strobes of `block`.

    `clear` (valid, payload) clears the place `payload` of the addresses, the listener rules and the
    exact rules (`block.exact_clear`), as far as each table goes.
    """
    words = d.words(_C.ADDRESS_WORD)
    entry = d.fields(_C.ADDRESS_STORE)
    stored = d.strobe(_C.ADDRESS_STORE, beyond=entry["index"] >= p.local_addresses)
    target = block.address_store
    with m.If(clear.valid):
        m.d.comb += [
            target.valid.eq(clear.payload < p.local_addresses),
            target.payload.index.eq(clear.payload),
        ]
    with m.Else():
        m.d.comb += [target.valid.eq(stored), target.payload.address.eq(Cat(*words))]
        m.d.comb += [target.payload[n].eq(entry[n]) for n in ("index", "valid", "ipv6")]

    ports = Signal(32)
    with m.If(d.strobe(_C.LISTENER_PORTS)):
        m.d.sync += ports.eq(d.data)
    port = fields_of(_C.LISTENER_PORTS, ports)
    rule = d.fields(_C.LISTENER_STORE)
    beyond = (
        (rule["index"] >= p.listeners)
        | (rule["valid"][0] & (rule["queue"] >= queue_limit(p, rule["rss"][0])))
        | (rule["address"] >= p.local_addresses)
    )
    stored = d.strobe(_C.LISTENER_STORE, beyond=beyond)
    target = block.listener_store
    with m.If(clear.valid):
        m.d.comb += [
            target.valid.eq(clear.payload < p.listeners),
            target.payload.index.eq(clear.payload),
        ]
    with m.Else():
        m.d.comb += target.valid.eq(stored)
        m.d.comb += [target.payload[name].eq(rule[name]) for name in rule]
        m.d.comb += [target.payload.first.eq(port["first"]), target.payload.last.eq(port["last"])]
    m.d.comb += [
        block.exact_clear.valid.eq(clear.valid & (clear.payload < p.exact_ways * p.exact_rows)),
        block.exact_clear.payload.slot.eq(clear.payload),
    ]

    key = d.words(_C.RSS_KEY_WORD)
    context = d.fields(_C.RSS_KEY_STORE)["context"]
    target = block.rss_key_store
    m.d.comb += [
        target.valid.eq(d.strobe(_C.RSS_KEY_STORE, beyond=context >= p.rss_contexts)),
        target.payload.context.eq(context),
        target.payload.key.eq(Cat(*key)),
    ]
    entry = d.fields(_C.RSS_TABLE_STORE)
    beyond = (
        (entry["context"] >= p.rss_contexts)
        | (entry["entry"] >= abi.RSS_ENTRIES)
        | (entry["queue"] >= p.queues)
    )
    target = block.rss_table_store
    m.d.comb += target.valid.eq(d.strobe(_C.RSS_TABLE_STORE, beyond=beyond))
    m.d.comb += [target.payload[name].eq(entry[name]) for name in entry]


def queue_limit(p, rss):
    """What `queue` of a rule must be below: with `rss` it is a context."""
    return Mux(rss, p.rss_contexts, p.queues)
