"""Commands, exact rules, scaling, moderation and reset on the whole card."""

from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, with_timeout
from rtl.nic.bench_receive import ADDRESS, ADDRESS6, MAC, PEER, card, tcp
from rtl.nic.host import COMMAND_RING, HEADER_BYTES, Host, whole_card_test
from rtl.rx.toeplitz import toeplitz
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hdsnic import abi
from hdsnic.abi import CommandKind, RxOutcome
from hdsnic.abi.flow_hash import flow_slots

DONE, REFUSED = 0, 1
REMOTE, REMOTE6 = bytes([10, 77, 0, 1]), bytes.fromhex("fd00" + "00" * 13 + "01")


async def commanded(dut, **more):
    """The card of the receive benches, with commands on and queue 3 for the application of 1."""
    host = await card(dut, **more)
    await host.enable_queue(3)
    await host.start_commands()
    return host


async def slots(host, remote, remote_port, local, local_port):
    ways, rows = [await host.read(r) for r in (abi.CONTROL.EXACT_WAYS, abi.CONTROL.EXACT_ROWS)]
    return flow_slots(ways, rows, remote, remote_port, local, local_port)


def rule(slot, remote, remote_port, local, local_port, **more):
    """Fields of an exact rule that is valid."""
    return {
        "slot": slot, "valid": 1, "ipv6": len(remote) == 16, "remote_port": remote_port,
        "local_port": local_port, "remote": int.from_bytes(remote, "little"),
        "local": int.from_bytes(local, "little"), **more,
    }  # fmt: skip


async def sent_and_taken(host, queue, frame):
    """Send a frame; the record that queue `queue` gets for it."""
    await host.send(bytes(frame).ljust(60, b"\0"))
    ((fields, header, payload),) = await host.wait_records(queue, 1)
    return fields, header, payload


@whole_card_test
async def commands_complete_in_their_order_with_their_cookies(dut):
    host = await commanded(dut)
    cookies = [await host.submit(CommandKind.FENCE) for _ in range(3)]
    cookies.append(await host.store_rule(slot=7))
    cookies.append(await host.submit(99))
    cookies.append(await host.submit(CommandKind.FENCE))
    assert await host.completed(cookies[-1]) == DONE
    assert list(host.told) == cookies
    assert list(host.told.values()) == [DONE] * 4 + [REFUSED, DONE]
    assert await host.read(abi.CONTROL.COMMAND_CONSUMER) == host.command_producer
    assert await host.read(abi.CONTROL.ERROR) == 0


@whole_card_test
async def commands_wait_for_room_in_their_completion_ring_and_the_ring_goes_round(dut):
    host = await commanded(dut)
    cells = 4096 // 16
    for _ in range(cells - 4):
        await host.submit(CommandKind.FENCE)
    last = [await host.submit(CommandKind.FENCE) for _ in range(4)]

    async def full():
        return host.index_slot(0)["completion_producer"] == cells

    await host.until(full, what="a full completion ring")
    more = [await host.submit(CommandKind.FENCE) for _ in range(3)]
    await ClockCycles(dut.clk, 2000)
    assert host.index_slot(0)["completion_producer"] == cells
    assert await host.completed(more[-1]) == DONE
    assert host.told[last[-1]] == DONE and len(host.told) == cells + 3
    assert await host.read(abi.CONTROL.ERROR) == 0


@whole_card_test
async def a_ring_of_commands_is_checked_and_locked_like_the_others(dut):
    host = await Host.start(dut)
    register, pages = abi.CONTROL.COMMAND_RING, HEADER_BYTES // 4096
    page = abi.MANAGEMENT_PAGE
    good = register.pack(base=COMMAND_RING // 4096, log2_bytes=12)
    assert not await host.write(register, good), "there is no header memory yet"
    assert await host.write(abi.MANAGEMENT.HEADER_PAGES, pages, page=page)
    for base, log2 in ((pages, 12), (pages - 1, 13), (1, 13), (4, 11), (0, 23), (0xFFFFFF, 12)):
        assert not await host.write(register, register.pack(base=base, log2_bytes=log2))
    assert await host.write(register, good)
    assert await host.read(register) == good
    assert not await host.write(register, good), "it is on already"
    assert not await host.write(abi.MANAGEMENT.HEADER_PAGES, 1, page=page)
    assert await host.write(register, 0)
    assert await host.read(register) == 0
    assert await host.write(abi.MANAGEMENT.HEADER_PAGES, 1, page=page)


@whole_card_test
async def an_exact_rule_wins_over_a_listener_rule_once_it_is_committed(dut):
    host = await commanded(dut)
    for number, (remote, local) in enumerate(((REMOTE, ADDRESS), (REMOTE6, ADDRESS6))):
        ip = IPv6(src="fd00::1", dst="fd00::2") if number else None
        frame = tcp(80, b"", ip=ip, flags="A")
        fields, *_ = await sent_and_taken(host, 1, frame)
        assert fields["tag"] == 0
        slot = (await slots(host, remote, 5000, local, 80))[number]
        exact = rule(slot, remote, 5000, local, 80, queue=3)
        assert await host.completed(await host.store_rule(**exact)) == DONE
        fields, *_ = await sent_and_taken(host, 3, frame)
        assert fields["tag"] == abi.EXACT_TAG + slot
        other = tcp(80, b"", ip=ip, flags="A")
        other["TCP"].sport = 5001
        fields, *_ = await sent_and_taken(host, 1, other)
        assert fields["tag"] == 0
        assert await host.completed(await host.store_rule(slot=slot)) == DONE
        fields, *_ = await sent_and_taken(host, 1, frame)
        assert fields["tag"] == 0


@whole_card_test
async def a_rule_completes_only_after_the_frames_that_were_looked_up_before(dut):
    host = await commanded(dut)
    slot = (await slots(host, REMOTE, 5000, ADDRESS, 80))[0]
    exact = rule(slot, REMOTE, 5000, ADDRESS, 80, queue=3)
    frame = bytes(tcp(80, b"", flags="A")).ljust(60, b"\0")
    for turn in range(12):
        for _ in range(host.random.randrange(1, 8)):
            await host.send(frame)
        await ClockCycles(dut.clk, host.random.randrange(60))
        target, before = (3, 1) if turn % 2 == 0 else (1, 3)
        change = exact if target == 3 else {"slot": slot}
        assert await host.completed(await host.store_rule(**change)) == DONE
        settled = host.index_slot(before)["rx_producer"]
        await host.wire_in.wait()  # what was on its way is looked up by the new rule
        await ClockCycles(dut.clk, 300)
        assert host.index_slot(before)["rx_producer"] == settled, "a frame came after its fence"
        await host.records(1)
        await host.records(3)


@whole_card_test
async def scaling_chooses_the_queue_by_the_published_hash(dut):
    host = await commanded(dut)
    key = bytes(host.random.randbytes(40))
    c = abi.CONTROL
    for k in range(10):
        await host.write(c.RSS_KEY_WORD, int.from_bytes(key[4 * k : 4 * k + 4], "little"), k)
    assert await host.write(c.RSS_KEY_STORE, c.RSS_KEY_STORE.pack(context=5))
    assert not await host.write(c.RSS_KEY_STORE, c.RSS_KEY_STORE.pack(context=16))
    table = [host.random.choice([1, 3]) for _ in range(abi.RSS_ENTRIES)]
    for entry, queue in enumerate(table):
        word = c.RSS_TABLE_STORE.pack(context=5, entry=entry, queue=queue)
        assert await host.write(c.RSS_TABLE_STORE, word)
    await host.listen(4, 5, 8080, rss=1)
    expected = {1: [], 3: []}
    for sport in range(6000, 6024):
        ip = IPv6(src="fd00::1", dst="fd00::2") if sport % 2 else None
        frame = tcp(8080, b"", ip=ip, flags="A")
        frame["TCP"].sport = sport
        ends = (REMOTE6 + ADDRESS6) if sport % 2 else (REMOTE + ADDRESS)
        hashed = toeplitz(key, ends + sport.to_bytes(2, "big") + (8080).to_bytes(2, "big"))
        expected[table[hashed % abi.RSS_ENTRIES]].append(hashed)
        await host.send(bytes(frame).ljust(60, b"\0"))
    for queue, hashes in expected.items():
        got = await host.wait_records(queue, len(hashes))
        assert [fields["hash"] for fields, *_ in got] == hashes


@whole_card_test
async def udp_is_split_for_a_queue_in_that_mode_which_is_locked_while_the_queue_is_on(dut):
    host = await commanded(dut)
    register = abi.CONTROL.QUEUE_MODE
    await host.listen(5, 1, 53, udp=1)
    frame = Ether(**PEER) / IP(src="10.77.0.1", dst="10.77.0.2") / UDP(dport=53) / Raw(b"question")
    fields, *_ = await sent_and_taken(host, 0, frame)
    assert fields["reason"] == RxOutcome.UDP_WHOLE
    mode = register.pack(udp_split=1)
    assert not await host.write(register, mode, 1), "the queue is on"
    await host.switch_queue(1, 0)
    assert await host.write(register, mode, 1)
    assert await host.read(register, 1) == mode
    await host.enable_queue(1)
    fields, header, payload = await sent_and_taken(host, 1, frame)
    assert fields["reason"] == RxOutcome.SPLIT
    assert (len(header), payload) == (42, b"question")


@whole_card_test
async def a_revoke_by_command_is_done_when_it_completes(dut):
    host = await commanded(dut)
    for _ in range(20):
        await host.send(bytes(tcp(80, host.random.randbytes(900))))
        await host.send(bytes(tcp(443, host.random.randbytes(900))))
    await ClockCycles(dut.clk, 1500)
    assert await host.command(CommandKind.REVOKE, offset=1 << 1) == DONE
    frozen = bytes(host.payload.read(0x10000, 0x10000))
    state = abi.MANAGEMENT.REGION_STATE
    live = state.unpack(await host.read(state, 1, abi.MANAGEMENT_PAGE))["live"]
    other = state.unpack(await host.read(state, 2, abi.MANAGEMENT_PAGE))["live"]
    assert (live, other) == (0, 1)

    async def finished():
        for queue in (1, 2):
            for fields, _, _ in await host.records(queue):
                if queue == 2:
                    await host.post_elements(2, host.regions[2], [fields["element"]])
        return await host.counter(abi.port_counter("rx_frames")) == 40

    await host.until(finished, cycles=100_000, what="all frames")
    assert bytes(host.payload.read(0x10000, 0x10000)) == frozen


@whole_card_test
async def a_queue_that_is_reset_by_command_is_off_with_final_indices(dut):
    host = await commanded(dut)
    frame = bytes(tcp(443, b"", flags="A")).ljust(60, b"\0")
    for _ in range(30):
        await host.send(frame)
    await ClockCycles(dut.clk, 200)
    assert await host.command(CommandKind.QUEUE_RESET, queue=2) == DONE
    state = abi.CONTROL.QUEUE_SWITCH.unpack(await host.read(abi.CONTROL.QUEUE_SWITCH, 2))
    assert not state["enable"] and not state["busy"]
    final = host.index_slot(2)
    before = await host.counter(abi.rx_counter(2, RxOutcome.DISABLED))
    await host.send(frame)  # behind those of before, if any are still to come

    async def dropped():
        return await host.counter(abi.rx_counter(2, RxOutcome.DISABLED)) > before

    await host.until(dropped, what="a frame for a queue that is off")
    await host.wire_in.wait()
    await ClockCycles(dut.clk, 500)
    assert host.index_slot(2) == final
    assert await host.command(CommandKind.QUEUE_RESET, queue=0) == REFUSED
    await host.records(2)
    await host.enable_queue(2)
    await sent_and_taken(host, 2, tcp(443, b"again"))


async def irq_edges(host, queue, limit, count, gap):
    """Rising edges of `irq` while `count` frames come `gap` cycles apart; and IRQ_STATUS."""
    dut, edges = host.dut, []
    register = abi.CONTROL.IRQ_MODERATION
    assert await host.write(register, register.pack(**limit), queue)
    await host.write(abi.CONTROL.IRQ_STATUS, 0xFFFF)
    await host.write(abi.CONTROL.IRQ_ENABLE, 1 << queue)
    frame = bytes(tcp(80, b"", flags="A")).ljust(60, b"\0")
    for _ in range(count):
        edges.append(int(dut.irq.value))
        await host.send(frame)
        await ClockCycles(dut.clk, gap)
    return edges


@whole_card_test
async def interrupts_come_at_once_or_after_so_many_updates_or_so_long(dut):
    host = await commanded(dut)
    edges = await irq_edges(host, 1, {"updates": 0, "cycles": 0}, 3, 200)
    assert edges == [0, 1, 1]
    edges = await irq_edges(host, 1, {"updates": 4, "cycles": 0}, 6, 200)
    assert edges == [0, 0, 0, 0, 1, 1]
    await host.write(abi.CONTROL.IRQ_STATUS, 0xFFFF)
    assert await host.read(abi.CONTROL.IRQ_STATUS) == 0
    edges = await irq_edges(host, 1, {"updates": 0, "cycles": 1000}, 1, 200)
    assert not dut.irq.value, "an interrupt came too early"
    await with_timeout(RisingEdge(dut.irq), 4 * 1000, "ns")
    await host.write(abi.CONTROL.IRQ_STATUS, 0xFFFF)
    if dut.irq.value:
        await with_timeout(FallingEdge(dut.irq), 4 * 100, "ns")


@whole_card_test
async def a_reset_leaves_no_queue_and_no_rule_but_what_belongs_to_applications(dut):
    host = await commanded(dut)
    slot = (await slots(host, REMOTE, 5000, ADDRESS, 80))[0]
    exact = rule(slot, REMOTE, 5000, ADDRESS, 80, queue=3)
    assert await host.completed(await host.store_rule(**exact)) == DONE
    frame = tcp(443, b"in flight")
    for _ in range(10):
        await host.send(bytes(frame).ljust(60, b"\0"))
    c = abi.CONTROL
    assert not await host.write(c.RESET, 1)
    assert await host.write(c.RESET, abi.RESET_WORD)
    refused = not await host.write(c.MAC_LO, 7)

    async def done():
        return not c.QUEUE_SWITCH.unpack(await host.read(c.QUEUE_SWITCH, 0))["busy"]

    await host.until(done, cycles=60_000, what="the reset")
    assert refused, "a setting during a reset"
    for queue in range(4):
        assert await host.read(c.QUEUE_SWITCH, queue) == 0
    for register in (c.SWITCHES, c.MAC_LO, c.COMMAND_RING, c.IRQ_ENABLE):
        assert await host.read(register) == 0, register
    assert await host.read(c.PORT_TIMEOUT) == 1 << 20
    state = abi.MANAGEMENT.REGION_STATE
    assert state.unpack(await host.read(state, 2, abi.MANAGEMENT_PAGE))["live"]
    for queue in range(4):
        await host.records(queue)  # what was complete before stays complete

    for queue in range(4):
        await host.enable_queue(queue)
    await host.switch_on(MAC, ADDRESS)
    # Rules are gone; posts are not.
    for port, flags in ((80, "A"), (443, "PA")):
        fields, *_ = await sent_and_taken(host, 0, tcp(port, b"", flags=flags))
        assert fields["reason"] == RxOutcome.NO_RULE
    await host.listen(0, 2, 443)
    fields, _, payload = await sent_and_taken(host, 2, frame)
    assert (fields["reason"], payload) == (RxOutcome.SPLIT, b"in flight")
