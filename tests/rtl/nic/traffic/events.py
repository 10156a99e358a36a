"""Processes of a case: frames in, descriptors out, posts, returns, changes in mid-traffic."""

from dataclasses import replace

import cocotb
from random_frames import SIZES, random_frame
from rtl.nic.traffic import setup
from rtl.nic.traffic.history import NEVER
from rtl.nic.traffic.memory import now
from scapy.layers.inet import GRE, IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from setting import OWN_IPV4, OWN_MAC

from hdsnic import abi

_C, _M, _PAGE = abi.CONTROL, abi.MANAGEMENT, abi.MANAGEMENT_PAGE
ETHER = {"dst": OWN_MAC.hex(":"), "src": "02:68:64:73:00:01"}


# -- frames ----------------------------------------------------------------------------------------


def draw_frame(rng, serial, large):
    """(bytes, bad FCS): mostly what applications get, and all that the wire may bring."""
    kind = rng.random()
    if kind < 0.03:
        data = rng.randbytes(rng.choice((1, 5, 13)))
    elif kind < 0.06:
        data = bytes(Ether(**ETHER) / ARP(pdst=OWN_IPV4)).ljust(56, b"\0") + serial.to_bytes(
            4, "big"
        )
    elif kind < 0.09:
        inner = IP(src="10.1.1.1", id=serial) / TCP() / Raw(rng.randbytes(40))
        outer = IP(src="10.77.0.1", dst=OWN_IPV4, id=serial)
        data = bytes(Ether(**ETHER) / outer / (GRE() / inner if rng.random() < 0.5 else inner))
    elif kind < 0.12:
        data = bytes(Ether(dst="02:00:00:00:00:99", src=ETHER["src"])) + rng.randbytes(60)
    elif kind < 0.13:
        data = OWN_MAC + rng.randbytes(9_020)  # too long
    elif kind < 0.55:  # a good segment, for certain
        size = rng.choice((1, 64, 255, 256, 700, 1448, *large))
        ports = {"sport": rng.randrange(40000, 40012), "dport": rng.choice((80, 81, 83))}
        segment = TCP(**ports, seq=serial, flags=rng.choice(("A", "PA", "FA")))
        ip = IP(src="10.77.0.1", dst=OWN_IPV4, id=serial)
        data = bytes(Ether(**ETHER) / ip / segment / Raw(rng.randbytes(size))).ljust(60, b"\0")
    else:
        sizes = (*SIZES, 1200, *large)
        data = random_frame(rng, payload=rng.randbytes, sizes=sizes, serial=serial)
    return data, rng.random() < 0.03


async def frames(case, count):
    """Frames come, alone and in trains."""
    rng = case.random("frames")
    large = rng.choice(((), (), (2900, 5000, 8900)))
    gap = rng.choice((0, 60, 400))
    for serial in range(count):
        await case.send(*draw_frame(rng, serial, large))
        if gap and rng.random() < 0.4:
            await case.until(lambda: case.host.wire_in.empty(), "the wire")
            await case.pause(rng, 1, gap)
        if case.host.wire_in.count() > 8:
            await case.until(lambda: case.host.wire_in.count() < 4, "the wire")


# -- the stack and the applications ----------------------------------------------------------------


async def returns(case, done):
    """The stack hands cells back, late now and then; some of its doorbells are nonsense."""
    rng = case.random("returns")
    lazy = rng.choice((50, 300, 1500))
    chance = rng.choice((0.6, 0.6, 0.02))  # a stack that hands nothing back fills its rings
    while not done():
        await case.pause(rng, 10, lazy)
        for queue in case.queues:
            if rng.random() < chance:
                await give_back(case, queue, rng)
    for queue in case.queues:
        await give_back(case, queue, None)


async def give_back(case, queue, rng):
    """Ring the consumer doorbells of a queue."""
    host, page = case.host, abi.stack_doorbell_page(queue)
    bells = abi.STACK_DOORBELL
    ring = case.departures.rings[queue]
    if rng and rng.random() < 0.1:  # beyond what was ever written: ignored
        beyond = host.rx_consumer[queue] + host.ring_bytes[queue] // 16 + rng.randrange(1, 1 << 20)
        await host.doorbell(page, bells.RX_CONSUMER, beyond)
        if case.departures.rings[queue] is not ring:
            return
    index = host.rx_consumer[queue]
    if case.consumers[queue] != index:
        case.consumers[queue] = index
        await host.doorbell(page, bells.RX_CONSUMER, index)
        if case.departures.rings[queue] is not ring:
            return
        case.arrivals.returned[queue].append((now() + 30, index))
    index = host.completion_consumer[queue]
    if case.completion_consumers[queue] != index:
        case.completion_consumers[queue] = index
        await host.doorbell(page, bells.COMPLETION_CONSUMER, index)


async def application(case, queue, done):
    """Posts buffers of its own, sometimes too few, and misbehaves."""
    rng = case.random(f"application {queue}")
    hunger = rng.choice((80, 300, 1200))
    malice = rng.choice((0, 0.1, 0.4))
    while not done():
        ring = case.posts.rings.get(queue)
        mine = [r for r in case.live_regions() if r.owner == case.owners[queue]]
        if ring and mine:
            if rng.random() < malice:
                await case.posts.misbehave(queue, rng)
            else:
                region = rng.choice(mine)
                free = sorted(case.posts.free[region])
                some = rng.sample(free, rng.randrange(len(free) + 1))
                case.posts.free[region] -= set(some)
                if some:
                    await case.posts.post(
                        queue, [(region.number, region.generation, e) for e in some]
                    )
        await case.pause(rng, 10, hunger)


async def descriptors(case, count):
    """The stack sends on queues of all."""
    rng = case.random("descriptors")
    gap = rng.choice((20, 150, 500))
    for _ in range(count):
        await case.departures.send(rng.choice(list(case.queues)), rng)
        await case.pause(rng, 1, gap)


# -- back-pressure ---------------------------------------------------------------------------------


async def pressure(case, done):
    """Channels are paused and freed at random; the wire in has gaps, but never waits."""
    rng, host = case.random("pressure"), case.host
    strength = rng.choice((0.0, 0.1, 0.35, 0.6))
    channels = [host.wire_in, host.wire_out]
    for ram in (host.header, host.payload):
        channels += [ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel]
        channels += [ram.read_if.ar_channel, ram.read_if.r_channel]
    while strength and not done():
        channel = rng.choice(channels)
        channel.pause = rng.random() < strength
        await case.pause(rng, 1, 12)
        if rng.random() < 0.3:
            channel.pause = False
    for channel in channels:
        channel.pause = False


# -- changes ---------------------------------------------------------------------------------------


async def change_listener(case, rng):
    old = case.settings.state
    listener = setup.draw_listener(rng, rng.randrange(10))
    if rng.random() < 0.3 and old.listeners:  # away with one, but for those that all have
        spare = [rule for rule in old.listeners if rule.index < 8] or [listener]
        listener = replace(rng.choice(spare), valid=False)
    others = tuple(rule for rule in old.listeners if rule.index != listener.index)
    case.settings.begin(replace(old, listeners=(*others, listener)), now())
    await setup.store_listener(case, listener)
    case.settings.done(now())
    if rng.random() < 0.7:
        await setup.fence(case)
        case.settings.fenced(now())


async def change_exact(case, rng):
    old = case.settings.state
    if old.exact and rng.random() < 0.5:
        rule = rng.choice(old.exact)
        others = tuple(r for r in old.exact if r is not rule)
        moved = replace(rule, way=(rule.way + 1) % 4)
        slots = [r.slot(case.parameters) for r in old.exact]
        if rng.random() < 0.5 and moved.slot(case.parameters) not in slots:
            # a move: the new slot is written before the old one is cleared
            case.settings.begin(replace(old, exact=(*others, moved)), now())
            await setup.store_exact(case, moved)
            await setup.store_exact(case, rule, valid=0)
        else:
            case.settings.begin(replace(old, exact=others), now())
            await setup.store_exact(case, rule, valid=0)
    else:
        rule = setup.draw_exact(rng)
        slots = [r.slot(case.parameters) for r in old.exact]
        flows = [(r.remote, r.remote_port, r.local_port, r.udp) for r in old.exact]
        flow = rule.remote, rule.remote_port, rule.local_port, rule.udp
        if rule.slot(case.parameters) in slots or flow in flows:
            return
        case.settings.begin(replace(old, exact=(*old.exact, rule)), now())
        await setup.store_exact(case, rule)
    case.settings.done(now())
    case.settings.fenced(now())


async def change_switches(case, rng):
    old = case.settings.state
    name = rng.choice(("deliver_malformed", "receive"))
    new = replace(old, **{name: not getattr(old, name)})
    for setting in (new, old):
        case.settings.begin(setting, now())
        await setup.store_switches(case, setting)
        case.settings.done(now())
        await case.pause(rng, 10, 600)


async def revoke_and_register(case, rng):
    """A region goes, and comes back as another registration of any shape."""
    regions = case.live_regions()
    if not regions:
        return
    old = rng.choice(regions)
    await setup.revoke(case, old.number, rng.random() < 0.5)
    for element, written in old.writes.items():
        hurt = case.errors.any
        assert hurt, f"writes to element {element} of a revoked region, for no record: {written}"
    await case.pause(rng, 1, 500)
    region = setup.draw_region(
        case, rng, old.number, old.base, old.owner, (old.generation + 1) % 256
    )
    await setup.register(case, region)
    for queue, ring in list(case.posts.rings.items()):
        if ring and ring.region is old:
            await setup.give_up_ring(case, queue)
            await setup.store_ring(case, queue, region, 1 if queue == 3 else 0)


async def reset_queue(case, rng, queue=None):
    """A queue is switched off and on, with another mode and size."""
    queue = rng.choice((1, 2, 3)) if queue is None else queue
    await setup.queue_off(case, queue, rng.random() < 0.5 and queue)
    await case.pause(rng, 1, 400)
    old = case.settings.state
    mode = replace(old, udp_split=old.udp_split ^ (rng.getrandbits(1) << queue))
    case.settings.begin(mode, now())
    await setup.queue_on(case, queue, rng)
    case.settings.done(now())


async def new_ring(case, rng):
    """A post ring is stored anew: what it held is flushed."""
    queue = rng.choice([q for q, owner in case.owners.items() if owner])
    mine = [r for r in case.live_regions() if r.owner == case.owners[queue]]
    if mine and case.posts.rings[queue]:
        await setup.give_up_ring(case, queue)
        await setup.store_ring(case, queue, rng.choice(mine), 1 if queue == 3 else 0)


async def locked_settings(case, rng):
    """Settings of what is live are refused, and change nothing (R29)."""
    region = rng.choice(case.live_regions())
    for register, index, page in (
        (_C.RX_RING, rng.choice(list(case.queues)), abi.CONTROL_PAGE),
        (_C.QUEUE_MODE, rng.choice(list(case.queues)), abi.CONTROL_PAGE),
        (_C.COMMAND_RING, 0, abi.CONTROL_PAGE),
        (_M.HEADER_PAGES, 0, _PAGE),
        (_M.REGION_SHAPE, region.number, _PAGE),
        (_M.REGION_BASE_LO, region.number, _PAGE),
        (_M.POST_RING, rng.choice([q for q, r in case.posts.rings.items() if r]), _PAGE),
    ):
        word = rng.getrandbits(32)
        while register is _C.COMMAND_RING and not register.unpack(word)["log2_bytes"]:
            word = rng.getrandbits(32)  # that one would switch it off
        accepted = await case.host.write(register, word, index, page)
        assert not accepted, f"{register.name} {index} was written while it is in use"


async def place(case, rng):
    await case.commands.place(rng.choice((0, 1, 1, 2, 2, 3)), rng)


async def refused_command(case, rng):
    await case.commands.refused(rng)


CHANGES = (
    change_listener, change_listener, change_exact, change_exact, change_exact, change_switches,
    revoke_and_register, revoke_and_register, reset_queue, new_ring, locked_settings,
    place, place, place, refused_command, refused_command,
)  # fmt: skip


async def changes(case, done):
    """Rules, regions, queues and commands, one change after the other."""
    rng = case.random("changes")
    gap = rng.choice((20, 100, 600))
    while not done():
        await rng.choice(CHANGES)(case, rng)
        await case.pause(rng, 1, gap)


async def errors(case, done):
    """Error responses, at most a few; queues that were hurt are set up anew by `heal`."""
    rng = case.random("errors")
    for _ in range(rng.randrange(1, 4)):
        await case.pause(rng, 100, 2000)
        if done():
            return
        case.errors.pending.add((rng.choice(("header", "payload")), rng.random() < 0.5))


async def heal(case):
    """What an error has stopped works again once it is set up anew."""
    rng = case.random("heal")
    await case.until(lambda: not case.commands.waiting, "all completions of commands")
    case.errors.pending.clear()
    for queue in sorted({queue for queue, _, until in case.errors.hurt if until == NEVER}):
        await reset_queue(case, rng, queue)
        if case.posts.rings.get(queue):
            await setup.give_up_ring(case, queue)
            region = rng.choice([r for r in case.live_regions() if r.owner == case.owners[queue]])
            await setup.store_ring(case, queue, region, 1 if queue == 3 else 0)


# -- all of it -------------------------------------------------------------------------------------


async def traffic(case):
    """Everything at once, until the frames and descriptors are through."""
    rng = case.random("traffic")
    ended = []

    def done():
        return len(ended) == 2

    async def ends(process):
        await process
        ended.append(process)

    with_errors = rng.random() < 0.25
    bounded = [
        cocotb.start_soon(ends(frames(case, rng.randrange(40, 90)))),
        cocotb.start_soon(ends(descriptors(case, rng.randrange(20, 50)))),
    ]
    others = [
        cocotb.start_soon(process)
        for process in (
            returns(case, done), pressure(case, done), changes(case, done),
            *(application(case, q, done) for q, owner in case.owners.items() if owner),
            *([errors(case, done)] if with_errors else ()),
        )
    ]  # fmt: skip
    for task in (*bounded, *others):
        await task
    case.raise_failure()
    await case.until(lambda: case.host.wire_in.idle(), "all frames on the wire")
    await heal(case)
    for queue in case.queues:
        stopped = await case.stopped(queue)
        if stopped:
            await reset_queue(case, rng, queue)
    await case.finish()
    await case.settle_posts()
    await drain(case)
    await case.finish()
    await case.settle()
    case.dut._log.info(case.summary())


async def drain(case):
    """What is still posted is still there: every buffer takes one more frame, and then there is
    none (I4)."""
    arrivals = case.arrivals
    behind = []
    for queue, held in case.posts.held.items():
        first = len(arrivals.frames)
        for k in range(held + 1):
            ip = IP(src="10.77.0.1", dst=OWN_IPV4, id=first + k)
            segment = TCP(dport=setup.DRAIN_PORT + queue, seq=first + k, flags="PA")
            await case.send(bytes(Ether(**ETHER) / ip / segment / b"!").ljust(60, b"\0"), False)
            if k % 12 == 11 or k == held:
                sent = arrivals.frames[first : first + min(k + 1, held)]
                await case.until(
                    lambda sent=sent: all(a.seen != NEVER for a in sent),
                    f"queue {queue} holds {held} posts; a record for each of so many frames",
                )
                await give_back(case, queue, None)
        behind.append(arrivals.frames[first + held])
    await case.quiet()
    for arrival in behind:
        assert arrival.seen == NEVER, f"{arrivals.describe(arrival)} took a buffer that is not held"
