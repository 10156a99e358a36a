"""The arrays of registers: rings and modes of queues, post rings, regions.

Words that the settings engine carries out lie in one memory with what is pending beside it; modes
that take effect at once lie in another and go to their blocks as they are written.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib.memory import Memory

from .. import abi
from .decode import Decoder, fields_of
from .settings import CONTROL_QUEUES, MANAGEMENT_QUEUES, MANAGEMENT_REGIONS, SettingsEngine

__all__ = ["queue_modes", "settings_words"]

_C, _M = abi.CONTROL, abi.MANAGEMENT
_MODE, _MODERATION, _SHARE, _RATE = range(4)  # words of a queue's modes


def settings_words(m: Module, p, d: Decoder, engine: SettingsEngine, tx_stopped, asked, resetting):
    """Rings, post rings, regions, revokes.

    `asked`: bits of `off` (queues) and `revoke` (regions) that the command engine asks for.
    `resetting`: a reset is under way. Returns whether the addressed queue is live or about to be.
    """
    m.submodules.words = words = Memory(shape=32, depth=256, init=[])
    write, mine, theirs = words.write_port(), words.read_port(), words.read_port()
    m.d.comb += [theirs.addr.eq(engine.word_address), engine.word.eq(theirs.data)]

    address, data, is_write = d.address, d.data, d.access.is_write
    place = Signal(8)
    m.d.comb += [mine.addr.eq(place), write.addr.eq(place), write.data.eq(data)]
    in_memory = Signal()  # the address is one of the words
    m.d.comb += write.en.eq(d.writing & in_memory & ~d.refused)

    pending = {
        "queue": (engine.queue_pending, engine.queue_done),
        "off": (engine.off_pending, engine.off_done),
        "post": (engine.post_pending, engine.post_done),
        "region": (engine.region_pending, engine.region_done),
        "revoke": (engine.revoke_pending, engine.revoke_done),
    }
    requested = {
        name: Signal.like(bits, name=f"{name}_asked") for name, (bits, _) in pending.items()
    }
    for name, (bits, done) in pending.items():
        state = Signal.like(bits, name=f"{name}_state")
        m.d.sync += state.eq((state & ~done) | requested[name] | asked.get(name, 0))
        m.d.comb += bits.eq(state)

    queue, region = address[4:8], address[5:9]
    queue_known, region_known = queue < p.queues, region < p.regions
    queue_bit, region_bit = Signal(p.queues), Signal(p.regions)
    m.d.comb += [queue_bit.eq(1 << queue), region_bit.eq(1 << region)]
    queue_busy, queue_on = Signal(), Signal()
    m.d.comb += [
        queue_busy.eq(((engine.queue_pending | engine.off_pending) & queue_bit).any() | resetting),
        queue_on.eq((engine.queue_enabled & queue_bit).any()),
    ]
    post_busy = (engine.post_pending & queue_bit).any()
    posts_on = (engine.posts_enabled & queue_bit).any()
    region_busy = ((engine.region_pending | engine.revoke_pending) & region_bit).any()
    region_on = (engine.region_live & region_bit).any()
    word = Signal(4)  # word of the entry
    go = d.writing & ~d.refused

    with m.If((address[8:] == (abi.CONTROL_PAGE + 0x400) >> 8) & queue_known):
        m.d.comb += [
            d.known.eq(1), in_memory.eq(1), word.eq(address[2:4]),
            place.eq(CONTROL_QUEUES + 4 * queue + word), d.value.eq(mine.data),
        ]  # fmt: skip
        with m.If(word == 2):
            m.d.comb += [
                d.refused.eq(is_write & queue_busy),
                d.value.eq(Cat(queue_on, Const(0, 15), queue_busy,
                               (tx_stopped & queue_bit).any())),
            ]  # fmt: skip
            with m.If(go):
                m.d.comb += requested["queue"].eq(queue_bit)
        with m.Else():
            m.d.comb += d.refused.eq(is_write & (queue_busy | queue_on))
    with m.If(
        (address[8:] == (abi.MANAGEMENT_PAGE + 0x800) >> 8) & (address[3] == 0) & queue_known
    ):
        m.d.comb += [
            d.known.eq(1), in_memory.eq(1), word.eq(address[2:4]),
            place.eq(MANAGEMENT_QUEUES + 4 * queue + word), d.value.eq(mine.data),
        ]  # fmt: skip
        with m.If(word == 0):
            m.d.comb += [
                d.refused.eq(is_write & (post_busy | (posts_on & data[31]))),
                d.value.eq(Cat(mine.data[:30], post_busy, posts_on)),
            ]
            with m.If(go):
                m.d.comb += requested["post"].eq(queue_bit)
        with m.Else():
            m.d.comb += d.refused.eq(is_write & (post_busy | posts_on))
    with m.If(
        (address[9:] == (abi.MANAGEMENT_PAGE + 0x400) >> 9) & (address[2:5] < 5) & region_known
    ):
        m.d.comb += [
            d.known.eq(1), in_memory.eq(1), word.eq(address[2:5]),
            place.eq(MANAGEMENT_REGIONS + 8 * region + word), d.value.eq(mine.data),
            d.refused.eq(is_write & (region_busy | region_on)),
        ]  # fmt: skip
        with m.If(word == 4):
            m.d.comb += d.value.eq(Cat(mine.data[:30], region_on, region_busy))
            with m.If(go & data[30]):
                m.d.comb += requested["region"].eq(region_bit)
    with m.If(address == abi.MANAGEMENT_PAGE + _M.REVOKE.offset):
        m.d.comb += [d.known.eq(1), d.value.eq(engine.revoke_pending)]
        with m.If(d.writing):
            m.d.comb += requested["revoke"].eq(data)
    return queue_on | queue_busy


def queue_modes(m: Module, p, d: Decoder, locked, clear, modes, moderation, share):
    """QUEUE_MODE, IRQ_MODERATION, TX_SHARE, TX_RATE.

    `locked`: QUEUE_MODE of the addressed queue may not change now (R29). `clear` (valid, payload):
    all become zero, the strobes of queue `payload` in this cycle. `modes`: by field of QUEUE_MODE a
    signal with a bit for each queue. `moderation`, `share`: strobes of what was written.
    """
    m.submodules.modes = memory = Memory(shape=32, depth=4 * p.queues, init=[])
    write = memory.write_port()
    mine, with_share, with_rate = memory.read_port(), memory.read_port(), memory.read_port()
    written = Signal(4 * p.queues)  # words written since reset: the others are zero
    address, data = d.address, d.data
    word, queue = address[2:4], address[4:8]
    place = Cat(word, queue)
    hit = Signal()
    m.d.comb += [
        hit.eq((address[8:] == (abi.CONTROL_PAGE + 0x800) >> 8) & (queue < p.queues)),
        mine.addr.eq(place),
        with_share.addr.eq(Cat(Const(_SHARE, 2), queue)),
        with_rate.addr.eq(Cat(Const(_RATE, 2), queue)),
        write.addr.eq(place),
        write.data.eq(data),
        write.en.eq(hit & d.writing & ~d.refused),
    ]
    with m.If(hit):
        m.d.comb += [
            d.known.eq(1),
            d.value.eq(Mux(written.bit_select(place, 1), mine.data, 0)),
            d.refused.eq(d.access.is_write & (word == _MODE) & locked),
        ]
    with m.If(clear.valid):
        m.d.sync += written.eq(0)
    with m.Elif(write.en):
        m.d.sync += written.bit_select(place, 1).eq(1)

    fields = fields_of(_C.QUEUE_MODE, data)
    for name, bits in modes.items():
        with m.If(clear.valid):
            m.d.sync += bits.eq(0)
        with m.Elif(write.en & (word == _MODE)):
            m.d.sync += bits.bit_select(queue, 1).eq(fields[name])

    # Shares go out when both words can be read again: the address stands until the answer is taken.
    came = [Signal(name=f"share_written_{k}") for k in range(2)]
    m.d.sync += [came[0].eq(write.en & word[1]), came[1].eq(came[0])]
    both = Cat(
        Mux(written.bit_select(port.addr, 1), port.data, 0) for port in (with_share, with_rate)
    )
    limits = fields_of(_C.IRQ_MODERATION, data)
    with m.If(clear.valid):
        m.d.comb += [
            moderation.valid.eq(clear.payload < p.queues),
            moderation.payload.queue.eq(clear.payload),
            share.valid.eq(clear.payload < p.queues),
            share.payload.queue.eq(clear.payload),
        ]
    with m.Else():
        m.d.comb += [
            moderation.valid.eq(write.en & (word == _MODERATION)),
            moderation.payload.queue.eq(queue),
            moderation.payload.updates.eq(limits["updates"]),
            moderation.payload.cycles.eq(limits["cycles"]),
            share.valid.eq(came[1]),
            share.payload.queue.eq(queue),
            share.payload.quantum.eq(both[:16]),
            share.payload.burst.eq(both[16:32]),
            share.payload.rate.eq(both[32:]),
        ]
