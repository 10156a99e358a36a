"""What a case begins with, by its seed: regions, queues, rings, rules; and how they change."""

from dataclasses import replace

from frame_oracle import packed
from random_frames import PORTS, SOURCES
from rtl.nic.host import HEADER_BYTES
from rtl.nic.traffic.history import History, Region
from rtl.nic.traffic.memory import now
from rtl.nic.traffic.posts import Ring
from setting import OWN_IPV4, OWN_IPV6, OWN_MAC, Exact, Listener, Setting
from toeplitz import toeplitz

from hdsnic import abi
from hdsnic.abi import CommandKind

REGION_BYTES = 0x10000
STOCK_AT, STOCK_BYTES = 0x8000, 0x5000
RINGS_AT = 0xE000
DRAIN_PORT = 900
"""Port of queue 0's rule that nothing changes; that of queue q is so much higher."""
REMOTE = {4: packed("10.77.0.1"), 6: packed("fd00:77::1")}
LOCAL = {4: packed(OWN_IPV4), 6: packed(OWN_IPV6)}
_C, _M, _PAGE = abi.CONTROL, abi.MANAGEMENT, abi.MANAGEMENT_PAGE


# -- regions and post rings ------------------------------------------------------------------------


def draw_region(case, rng, number, base, owner, generation):
    """A registration, of any size of elements; its stock are random bytes."""
    element_bytes = rng.choice((256, 512, 1024, 2048, 2048, 4096))
    most = min(32, STOCK_AT // element_bytes)
    region = Region(
        number, base, element_bytes, REGION_BYTES // element_bytes,
        rng.choice((most, rng.randrange(4, most + 1))), generation, owner,
        nic_write=1, nic_read=1, stock_at=STOCK_AT, stock=rng.randbytes(STOCK_BYTES),
    )  # fmt: skip
    case.host.payload.write(base + STOCK_AT, region.stock)
    return region


async def register(case, region):
    """Bring a registration to life."""
    history = case.regions.setdefault(region.number, History(None))
    history.begin(region, now())
    case.posts.free[region] = set(range(region.postable))
    await case.host.add_region(
        region.number, region.base, owner=region.owner, element_bytes=region.element_bytes,
        elements=region.elements, postable=region.postable, generation=region.generation,
        nic_write=region.nic_write, nic_read=region.nic_read,
    )  # fmt: skip
    history.done(now())


async def revoke(case, number, by_command):
    """Revoke a region; from the acknowledgement on nothing may touch it (I6)."""
    history = case.regions[number]
    history.begin(None, now())
    if by_command:
        await case.commands.run(CommandKind.REVOKE, offset=1 << number)
    else:
        await case.host.revoke(number)
    history.done(now())


async def give_up_ring(case, queue):
    """Switch the posts of a queue off; what it held is flushed."""
    ring = case.posts.rings[queue]
    if ring is None:
        return
    ring.unasked = now()
    await _owner(case, queue, posts=0)
    ring.gone = now()
    case.posts.rings[queue] = None
    for cell in case.posts.cells:
        region = case.regions[ring.region.number].state if cell.ring is ring else None
        if region and cell.buffer[:2] == (region.number, region.generation):
            held = [c for c in case.posts.by_buffer[cell.buffer] if c.ring.gone > now()]
            if cell.element < region.postable and not held:
                case.posts.free[region].add(cell.element)
                written = region.writes.pop(cell.element, None)
                assert not written or case.errors.any, (
                    f"element {cell.element} of region {region.number} was written for no record"
                )


async def store_ring(case, queue, region, page):
    """Store a post ring and switch posts on."""
    offset = RINGS_AT + page * 4096
    word = _M.POST_RING.pack(offset=offset // 4096, region=region.number, log2_pages=0)
    assert await case.host.write(_M.POST_RING, word, queue, _PAGE)
    begun = now()
    await _owner(case, queue, posts=1)
    case.posts.ring_begins(Ring(queue, region, offset, begun))


async def _owner(case, queue, posts):
    register = _M.QUEUE_OWNER
    word = register.pack(owner=case.owners[queue], posts=posts)
    assert await case.host.write(register, word, queue, _PAGE)

    async def done():
        return not register.unpack(await case.host.read(register, queue, _PAGE))["busy"]

    await case.until(done, f"the owner of queue {queue}")


# -- queues ----------------------------------------------------------------------------------------


async def queue_off(case, queue, by_command):
    """Switch a queue off; then its indices are final."""
    history = case.queues[queue]
    history.begin(False, now())
    if by_command:
        await case.commands.run(CommandKind.QUEUE_RESET, queue=queue)
    else:
        await case.host.switch_queue(queue, 0)
    history.done(now())
    case.departures.ring_ends(queue)


async def queue_on(case, queue, rng):
    """Switch a queue on with rings of any size, its indices and its index slot at zero."""
    host, log2_bytes = case.host, rng.choice((12, 12, 14))
    host.ring_bytes[queue] = 1 << log2_bytes
    for register, base in ((_C.RX_RING, host.rx_ring(queue)), (_C.TX_RING, host.tx_ring(queue))):
        word = register.pack(base=base // 4096, log2_bytes=log2_bytes)
        assert await host.write(register, word, queue)
    word = _C.COMPLETION_RING.pack(base=host.completion_ring(queue) // 4096, log2_bytes=12)
    assert await host.write(_C.COMPLETION_RING, word, queue)
    mode = _C.QUEUE_MODE.pack(
        udp_split=case.settings.state.udp_split >> queue & 1, time_stamps=rng.random() < 0.3
    )
    assert await host.write(_C.QUEUE_MODE, mode, queue)
    host.header.write(queue * abi.INDEX_SLOT_BYTES, bytes(abi.INDEX_SLOT.bytes))
    host.rx_consumer[queue] = host.completion_consumer[queue] = 0
    case.consumers[queue] = case.completion_consumers[queue] = 0
    case.arrivals.ring_begins(queue)
    if queue in case.queues:
        case.queues[queue].begin(True, now())
    else:
        case.queues[queue] = History(False)
        case.queues[queue].begin(True, now())
    asked = now()
    await host.switch_queue(queue, 1)
    case.queues[queue].done(now())
    case.departures.ring_begins(queue)  # a doorbell before that is ignored
    case.errors.healed(queue, asked)


# -- steering --------------------------------------------------------------------------------------


def draw_listener(rng, index):
    """A listener rule of any kind; `rss` only where the case has a context."""
    ranged = index < 8 and rng.random() < 0.5
    first = rng.choice((80, 81, 82, 83))
    return Listener(
        index, first, rng.randrange(4), last=first + rng.randrange(3) if ranged else 0,
        address=rng.choice((None, None, None, 0, 1)), udp=rng.random() < 0.35,
    )  # fmt: skip


def draw_exact(rng, queue=None):
    """An exact rule for one of the flows that frames are of."""
    version = rng.choice((4, 6))
    return Exact(
        REMOTE[version], rng.choice(SOURCES), LOCAL[version], rng.choice(PORTS),
        rng.randrange(4) if queue is None else queue, way=rng.randrange(4),
        udp=rng.random() < 0.25,
    )  # fmt: skip


async def store_listener(case, listener):
    """Store a listener rule, without a fence."""
    host = case.host
    last = max(listener.first, listener.last)
    await host.write(_C.LISTENER_PORTS, _C.LISTENER_PORTS.pack(first=listener.first, last=last))
    address = listener.address
    word = _C.LISTENER_STORE.pack(
        index=listener.index, valid=listener.valid, udp=listener.udp, any_address=address is None,
        rss=listener.rss, address=address or 0, queue=listener.queue,
    )  # fmt: skip
    assert await host.write(_C.LISTENER_STORE, word)


async def store_exact(case, rule, *, valid=1):
    """A RULE command, to its completion."""
    fields = abi.EXACT_RULE.pack(
        slot=rule.slot(case.parameters), valid=valid, ipv6=len(rule.remote) == 16, udp=rule.udp,
        rss=rule.rss, queue=rule.queue, remote_port=rule.remote_port, local_port=rule.local_port,
        remote=int.from_bytes(rule.remote, "little"), local=int.from_bytes(rule.local, "little"),
    )  # fmt: skip
    await case.commands.run(CommandKind.RULE, fields)


async def fence(case):
    """A fence by its register."""
    await case.host.write(_C.FENCE, 1)

    async def fenced():
        return not await case.host.read(_C.FENCE)

    await case.until(fenced, "the fence")


async def store_switches(case, setting):
    word = _C.SWITCHES.pack(
        receive=setting.receive, transmit=1, deliver_malformed=setting.deliver_malformed
    )
    await case.host.write(_C.SWITCHES, word)


async def _store_rss(case, rng, queues):
    """Context 3: a key, and table entries for the flows of port 82; the others say queue 0."""
    host, key = case.host, rng.randbytes(40)
    for k in range(10):
        await host.write(_C.RSS_KEY_WORD, int.from_bytes(key[4 * k : 4 * k + 4], "little"), k)
    await host.write(_C.RSS_KEY_STORE, _C.RSS_KEY_STORE.pack(context=3))
    table = [0] * abi.RSS_ENTRIES
    for version in (4, 6):
        for source in SOURCES:
            flow = REMOTE[version] + LOCAL[version]
            flow += source.to_bytes(2, "big") + (82).to_bytes(2, "big")
            table[toeplitz(key, flow) % abi.RSS_ENTRIES] = rng.choice(queues)
    for entry, queue in enumerate(table):
        if queue:
            word = _C.RSS_TABLE_STORE.pack(context=3, entry=entry, queue=queue)
            await host.write(_C.RSS_TABLE_STORE, word)
    return {3: (key, tuple(table))}


# -- all of it -------------------------------------------------------------------------------------


async def set_up(case):
    """The whole set-up of a case."""
    host, rng = case.host, case.random("set-up")
    assert await host.write(_M.HEADER_PAGES, HEADER_BYTES // 4096, page=_PAGE)
    await host.write(_C.INDEX_BASE, 0)
    case.owners = {0: 0, 1: 1, 2: 2, 3: rng.choice((1, 2, 3))}
    bases = [REGION_BYTES * k for k in range(12)]
    rng.shuffle(bases)
    numbers = rng.sample(range(12), 6)
    for owner in sorted(set(case.owners.values()) - {0}):
        for _ in range(rng.choice((1, 2))):
            region = draw_region(case, rng, numbers.pop(), bases.pop(), owner, rng.randrange(200))
            await register(case, region)
    setting = Setting(udp_split=rng.getrandbits(4), listeners=(), exact=())
    rss = await _store_rss(case, rng, [1, 2, 3]) if rng.random() < 0.35 else {}
    # The first rules of all split TCP to each application, so that no case is without.
    listeners = [
        Listener(10, 80, 1), Listener(11, 81, 2), Listener(12, 83, 3),
        Listener(13, 80, 1, udp=True),
        *(Listener(20 + queue, DRAIN_PORT + queue, queue) for queue in (1, 2, 3)),
        *(draw_listener(rng, index) for index in rng.sample(range(8), 2)),
    ]  # fmt: skip
    if rss:
        listeners.append(Listener(8, 82, 3, rss=True))
    for listener in listeners:
        await store_listener(case, listener)
    case.settings.spans[0].state = replace(setting, listeners=tuple(listeners), rss=rss)
    for queue in case.owners:
        await queue_on(case, queue, rng)
    for queue, owner in case.owners.items():
        if owner:
            mine = [r for r in case.live_regions() if r.owner == owner]
            await store_ring(case, queue, rng.choice(mine), 1 if queue == 3 else 0)
    await host.start_commands()
    case.commands.set_up(rng)
    for index, (version, address) in enumerate(LOCAL.items()):
        assert version in (4, 6)
        await host.add_address(index, address)
    await host.write(_C.MAC_LO, int.from_bytes(OWN_MAC[:4], "little"))
    await host.write(_C.MAC_HI, int.from_bytes(OWN_MAC[4:], "little"))
    await store_switches(case, case.settings.state)
