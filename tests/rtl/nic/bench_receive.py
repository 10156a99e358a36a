"""Receive: every frame of a mixed stream ends where it belongs, and nothing else is touched."""

import ipaddress

from cocotb.triggers import ClockCycles
from rtl.nic.host import HEADER_BYTES, PAYLOAD_BYTES, RING_BYTES, Host, whole_card_test
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome

MAC, ADDRESS = bytes.fromhex("026864730002"), bytes([10, 77, 0, 2])
ADDRESS6 = ipaddress.IPv6Address("fd00::2").packed
PEER = {"src": "02:00:00:00:00:01", "dst": "02:68:64:73:00:02"}
PORTS = {80: 1, 443: 2}


def tcp(port, payload, *, vlan=0, ip=None, flags="PA", options=()):
    frame = Ether(**PEER)
    for tag in range(vlan):
        frame /= Dot1Q(vlan=10 + tag)
    frame /= ip or IP(src="10.77.0.1", dst="10.77.0.2")
    return frame / TCP(sport=5000, dport=port, flags=flags, options=list(options)) / Raw(payload)


async def card(dut, *, pressure=False, post=True):
    """A card with queue 0 for the stack, queues 1 and 2 for two applications with a region each."""
    host = await Host.start(dut, pressure=pressure)
    await host.set_up(MAC, ADDRESS)
    await host.add_address(1, ADDRESS6)
    for queue in (1, 2):
        region = await host.add_region(queue, 0x10000 * queue, owner=queue)
        await host.own(queue, queue, region)
        if post:
            await host.post_elements(queue, region, range(region.postable))
    for index, (port, queue) in enumerate(PORTS.items()):
        await host.listen(index, queue, port)
    return host


def random_frame(rng):
    """A frame, and where it must go: (bytes, queue, outcome, header length, payload)."""
    port = rng.choice([80, 443])
    payload = rng.randbytes(rng.choice([1, 7, 64, 536, 1000, 1400]))
    kind = rng.randrange(10)
    vlan = rng.choice([0, 0, 1, 2])
    if kind < 4:
        options = [("Timestamp", (1, 2))] * rng.choice([0, 1])
        frame = tcp(port, payload, vlan=vlan, options=options)
    elif kind == 4:
        ip = IPv6(src="fd00::1", dst="fd00::2")
        frame = tcp(port, payload, ip=ip, vlan=vlan)
    elif kind == 5:
        frame = tcp(port, b"", flags="A")
        return bytes(frame).ljust(60, b"\0"), PORTS[port], RxOutcome.HEADER_ONLY, 54, b""
    elif kind == 6:
        frame = bytes(Ether(**PEER) / ARP(pdst="10.77.0.2")).ljust(60, b"\0")
        return frame, 0, RxOutcome.NOT_IP, len(frame), b""
    elif kind == 7:
        frame = bytes(Ether(**PEER) / IP(dst="10.77.0.2") / ICMP() / Raw(payload))
        frame = frame.ljust(60, b"\0")
        return frame, 0, RxOutcome.NOT_TCP, len(frame), b""
    elif kind == 8:
        frame = bytes(tcp(81, payload)).ljust(60, b"\0")
        return frame, 0, RxOutcome.NO_RULE, len(frame), b""
    else:
        frame = bytes(tcp(port, payload))
        bad = bytearray(frame)
        bad[-1] ^= 0x10
        return bytes(bad).ljust(60, b"\0"), None, RxOutcome.L4_CHECKSUM, 0, b""
    data = bytes(frame)
    return (
        data.ljust(60, b"\0"), PORTS[port], RxOutcome.SPLIT, len(data) - len(payload), payload,
    )  # fmt: skip


async def mixed_stream(dut, pressure):
    host = await card(dut, pressure=pressure)
    rng = host.random
    for _ in range(6):
        batch = [random_frame(rng) for _ in range(rng.randrange(4, 12))]
        before = bytes(host.payload.read(0, PAYLOAD_BYTES))
        for frame, *_ in batch:
            await host.send(frame)
        touched = set()
        for queue in (0, 1, 2):
            wanted = [f for f in batch if f[1] == queue]
            got = await host.wait_records(queue, len(wanted)) if wanted else []
            assert len(got) == len(wanted)
            for (fields, header, payload), (frame, _, outcome, length, data) in zip(
                got, wanted, strict=True
            ):
                assert RxOutcome(fields["reason"]) is outcome
                assert header == frame[:length]
                assert payload == data
                assert fields["payload_length"] == len(data)
                if data:
                    region = host.regions[queue]
                    assert fields["region"] == queue
                    at = region.address(fields["element"])
                    touched.update(range(at, at + len(data)))
                    await host.post_elements(queue, region, [fields["element"]])
        # Payload memory: nothing but payload has changed (I1, I2), but for the post rings' cells.
        after = bytes(host.payload.read(0, PAYLOAD_BYTES))
        for queue in (1, 2):
            ring = host.posts[queue][0]
            touched.update(range(ring, ring + 4096))
        changed = {k for k in range(PAYLOAD_BYTES) if before[k] != after[k]}
        assert changed <= touched
    return host


@whole_card_test
async def every_frame_of_a_mixed_stream_ends_where_it_belongs(dut):
    await mixed_stream(dut, pressure=False)


@whole_card_test
async def random_pauses_on_every_port_change_nothing(dut):
    await mixed_stream(dut, pressure=True)


@whole_card_test
async def frames_in_are_records_plus_counted_drops(dut):
    host = await card(dut)
    rng = host.random
    sent = [random_frame(rng) for _ in range(40)]
    for frame, *_ in sent:
        await host.send(frame)
    await host.send(bytes(tcp(80, b"x" * 10)).ljust(60, b"\0"), bad_fcs=True)
    await host.send(b"\xff" * 10)
    for queue in (0, 1, 2):
        await host.wait_records(queue, sum(f[1] == queue for f in sent))
    total = len(sent) + 2

    async def counted():
        counts = {}
        for row in (0, 1, 2, abi.rx_port_row):
            for outcome in RxOutcome:
                n = await host.counter(abi.rx_counter(row, outcome))
                counts[outcome] = counts.get(outcome, 0) + n
        return counts

    await ClockCycles(dut.clk, 100)
    counts = await counted()
    assert sum(counts.values()) == total
    assert await host.counter(abi.port_counter("rx_frames")) == total
    for outcome in RxOutcome:
        expected = sum(f[2] is outcome for f in sent)
        expected += (outcome is RxOutcome.BAD_FCS) + (outcome is RxOutcome.RUNT)
        assert counts[outcome] == expected, outcome


@whole_card_test
async def an_application_without_buffers_loses_its_own_frames_alone(dut):
    host = await card(dut, post=False)
    await host.post_elements(2, host.regions[2], range(8))
    for _ in range(6):
        await host.send(bytes(tcp(80, b"a" * 100)))
        await host.send(bytes(tcp(443, b"b" * 100)))
    got = await host.wait_records(2, 6)
    assert all(payload == b"b" * 100 for _, _, payload in got)
    await ClockCycles(dut.clk, 100)
    assert await host.counter(abi.rx_counter(1, RxOutcome.NO_BUFFER)) == 6
    assert host.index_slot(1)["rx_producer"] == 0


@whole_card_test
async def a_full_receive_ring_drops_and_takes_no_buffer(dut):
    host = await card(dut)
    frame = bytes(tcp(80, b"a"))
    cells = abi.record_cells(54)
    fit = RING_BYTES // 16 // cells
    ack = bytes(tcp(80, b"", flags="A")).ljust(60, b"\0")
    for _ in range(fit):
        await host.send(ack)
    for _ in range(3):
        await host.send(frame.ljust(60, b"\0"))

    async def dropped():
        return await host.counter(abi.rx_counter(1, RxOutcome.NO_RING_SPACE)) == 3

    await host.until(dropped, cycles=100_000, what="three drops for want of ring space")
    assert len(await host.records(1)) == fit
    await host.send(frame.ljust(60, b"\0"))
    ((fields, _, payload),) = await host.wait_records(1, 1)
    assert payload == b"a"
    assert fields["posted_left"] <= host.regions[1].postable - 1


@whole_card_test
async def bogus_posts_are_counted_and_harm_nobody(dut):
    host = await card(dut, post=False)
    one, two = host.regions[1], host.regions[2]
    good = {"element": 1, "region": 1, "generation": 1}
    await host.post(1, [
        good, good,  # a double post
        {"element": one.postable, "region": 1, "generation": 1},
        {"element": 0xFFFFFF, "region": 1, "generation": 1},
        {"element": 0, "region": 2, "generation": 1},
        {"element": 0, "region": 1, "generation": 2},
        {"element": 0, "region": 200, "generation": 1},
    ])  # fmt: skip

    async def seen():
        total = 0
        for outcome in PostOutcome:
            total += await host.counter(abi.post_counter(1, outcome))
        return total == 7

    await host.until(seen, what="seven counted posts")
    counts = {o: await host.counter(abi.post_counter(1, o)) for o in PostOutcome}
    assert counts[PostOutcome.ACCEPTED] == 1
    assert counts[PostOutcome.DOUBLE_POST] == 1
    assert counts[PostOutcome.BAD_ELEMENT] == 2
    assert counts[PostOutcome.BAD_OWNER] == 1
    assert counts[PostOutcome.BAD_REGION] == 2
    page = abi.post_doorbell_page(1)
    await host.doorbell(page, abi.POST_DOORBELL.POST_PRODUCER, 7 + 513)  # beyond the ring
    await host.post_elements(2, two, [0])
    await host.send(bytes(tcp(80, b"a" * 20)))
    await host.send(bytes(tcp(443, b"b" * 20)))
    assert (await host.wait_records(1, 1))[0][2] == b"a" * 20
    assert (await host.wait_records(2, 1))[0][2] == b"b" * 20
    assert await host.counter(abi.post_counter(1, PostOutcome.BAD_DOORBELL)) == 1


@whole_card_test
async def after_a_revoke_is_acknowledged_the_region_is_not_touched(dut):
    host = await card(dut)
    rng = host.random

    async def traffic():
        for _ in range(60):
            await host.send(bytes(tcp(rng.choice([80, 443]), rng.randbytes(900))))

    await traffic()
    await ClockCycles(dut.clk, 700)
    assert host.index_slot(1)["rx_producer"], "nothing arrived before the revoke"
    await host.revoke(1)
    frozen = bytes(host.payload.read(0x10000, 0x10000))

    async def finished():
        for fields, _, _ in await host.records(2):
            await host.post_elements(2, host.regions[2], [fields["element"]])
        return await host.counter(abi.port_counter("rx_frames")) == 60

    await host.until(finished, cycles=100_000, what="all frames")
    assert bytes(host.payload.read(0x10000, 0x10000)) == frozen
    # The other application still receives.
    for fields, _, _ in await host.records(2):
        await host.post_elements(2, host.regions[2], [fields["element"]])
    already = host.index_slot(2)["rx_producer"]
    await host.send(bytes(tcp(443, b"still here")).ljust(60, b"\0"))
    await host.wait_records(2, 1)
    assert host.index_slot(2)["rx_producer"] > already


@whole_card_test
async def header_memory_outside_the_rings_is_not_written(dut):
    host = await card(dut)
    before = bytes(host.header.read(0, HEADER_BYTES))
    for _ in range(20):
        await host.send(random_frame(host.random)[0])
    await ClockCycles(dut.clk, 6000)
    after = bytes(host.header.read(0, HEADER_BYTES))
    allowed = {k for q in (0, 1, 2) for k in range(64 * q, 64 * q + 8)}
    for queue in (0, 1, 2):
        allowed.update(range(host.rx_ring(queue), host.rx_ring(queue) + RING_BYTES))
    assert {k for k in range(HEADER_BYTES) if before[k] != after[k]} <= allowed
