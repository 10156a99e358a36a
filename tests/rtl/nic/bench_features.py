"""Placed frames, chains, segmentation, tags, time stamps, error completions, failed neighbours."""

from cocotb.triggers import ClockCycles
from rtl.nic.bench_commands import DONE, commanded
from rtl.nic.bench_receive import ADDRESS, MAC, tcp
from rtl.nic.bench_transmit import folded, segment
from rtl.nic.host import whole_card_test
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from hdsnic import abi
from hdsnic.abi import CommandKind, CompletionKind, PostOutcome, RxOutcome, TxOutcome

STAGE = 0x80000
"""Header memory that no ring uses."""


def padded(frame):
    return bytes(frame).ljust(60, b"\0")


async def errors(host):
    """Names of the ERROR bits that are set."""
    value = await host.read(abi.CONTROL.ERROR)
    return {name for name, bit in abi.CONTROL.ERROR.unpack(value).items() if bit}


async def completions_of(host, queue, count):
    out = []

    async def enough():
        out.extend(await host.completions(queue))
        return len(out) >= count

    await host.until(enough, what=f"{count} completions of queue {queue}")
    return out


# -- placed frames and chains ----------------------------------------------------------------------


@whole_card_test
async def placed_bytes_and_frames_from_the_wire_share_a_queue_and_lose_nothing(dut):
    host = await commanded(dut)
    rng = host.random
    stage = rng.randbytes(0x8000)
    host.header.write(STAGE, stage)
    placed, sent = {}, []
    for _ in range(12):
        ranges = [
            (rng.randrange(0x7000), rng.choice([1, 7, 64, 700, 1448]))
            for _ in range(rng.choice([1, 2, 5]))
        ]
        cookie = await host.place(1, [(STAGE + at, n) for at, n in ranges])
        placed[cookie] = b"".join(stage[at : at + n] for at, n in ranges)
        sent.append(rng.randbytes(rng.choice([1, 500, 1400])))
        await host.send(padded(tcp(80, sent[-1])))
        if rng.random() < 0.5:
            assert await host.completed(cookie) == DONE
        for fields, _, payload in await host.records(1):
            await check(host, fields, payload, placed, sent)

    async def all_there():
        for fields, _, payload in await host.records(1):
            await check(host, fields, payload, placed, sent)
        return not placed and not sent

    await host.until(all_there, cycles=60_000, what="every frame and every placed range")
    assert await host.counter(abi.rx_counter(1, RxOutcome.PLACED)) == 12


async def check(host, fields, payload, placed, sent):
    """One record of either kind; its buffers are posted again."""
    if fields["reason"] == RxOutcome.PLACED:
        assert payload == placed.pop(fields["hash"])
        assert fields["header_length"] == 0
    else:
        assert payload == sent.pop(0)
    elements = [fields["element"], *(buffer["element"] for buffer in fields["chain"])]
    await host.post_elements(1, host.regions[1], elements)


@whole_card_test
async def a_placed_frame_without_posted_buffers_is_a_counted_drop(dut):
    host = await commanded(dut, post=False)
    assert await host.completed(await host.place(1, [(STAGE, 100)])) == DONE

    async def counted():
        return await host.counter(abi.rx_counter(1, RxOutcome.NO_BUFFER)) == 1

    await host.until(counted, what="the drop")
    assert not await host.records(1)


@whole_card_test
async def a_jumbo_frame_fills_a_chain_of_buffers_and_nothing_else(dut):
    host = await commanded(dut)
    before = bytearray(host.payload.read(0x10000, 0x10000))
    touched = set()
    for size in (2048, 2049, 4096, 8964 - 12):
        data = host.random.randbytes(size)
        await host.send(bytes(tcp(80, data)))
        ((fields, header, payload),) = await host.wait_records(1, 1)
        assert (fields["reason"], payload) == (RxOutcome.SPLIT, data)
        assert len(header) == 54
        assert len(fields["chain"]) == -(-size // 2048) - 1
        assert all(buffer["length"] == 2048 for buffer in fields["chain"][:-1])
        elements = [fields["element"], *(buffer["element"] for buffer in fields["chain"])]
        assert len(set(elements)) == len(elements)
        touched.update(elements)
    after = bytes(host.payload.read(0x10000, 0x10000))
    for element in range(32):
        at = 2048 * element
        same = before[at : at + 2048] == after[at : at + 2048]
        assert same or element in touched or element >= 30, "a buffer that was not claimed"


@whole_card_test
async def records_of_a_queue_in_that_mode_tell_when_the_frame_came(dut):
    host = await commanded(dut)
    await host.switch_queue(1, 0)
    register = abi.CONTROL.QUEUE_MODE
    assert await host.write(register, register.pack(time_stamps=1), 1)
    await host.enable_queue(1)
    last = 0
    for payload in (b"", b"stamped", host.random.randbytes(5000)):
        begin = await host.counter(abi.CONTROL.CYCLES_LO.offset)
        await host.send(padded(tcp(80, payload)))
        ((fields, header, got),) = await host.wait_records(1, 1)
        end = await host.counter(abi.CONTROL.CYCLES_LO.offset)
        assert begin <= fields["cycles"] <= end and fields["cycles"] > last
        assert (got, len(header)) == (payload, 54)
        last = fields["cycles"]


# -- segmentation and tags -------------------------------------------------------------------------


def large_segment(rng, v6):
    """Header template and descriptor fields for TSO; the frame, but for its payload, as packet."""
    ip = (
        IPv6(src="fd00::2", dst="fd00::1")
        if v6
        else IP(src="10.77.0.2", dst="10.77.0.1", id=0xFFFE)
    )
    packet = Ether(src="02:68:64:73:00:02", dst="02:00:00:00:00:01") / ip / TCP(
        sport=80, dport=rng.getrandbits(16), seq=0xFFFFF000, ack=77, flags="FPAC", window=500,
        options=[("Timestamp", (rng.getrandbits(32), 1))],
    )  # fmt: skip
    header = bytearray(bytes(packet))
    l3, l4 = 14, 54 if v6 else 34
    addresses = header[l3 + 8 : l3 + 40] if v6 else header[l3 + 12 : l3 + 20]
    header[l4 + 16 : l4 + 18] = folded(bytes(addresses) + b"\0\x06").to_bytes(2, "big")
    return bytes(header), {"l3_offset": l3, "l4_offset": l4, "tso": 1}, packet


async def segmented(dut, v6):
    host = await commanded(dut)
    data = host.random.randbytes(0x10000)
    host.payload.write(0x10000, data)
    references = [
        {"region": 1, "generation": 1, "offset": at, "length": n}
        for at, n in ((3, 5000), (9001, 7), (10000, 4700))
    ]
    payload = b"".join(data[r["offset"] : r["offset"] + r["length"]] for r in references)
    header, fields, packet = large_segment(host.random, v6)
    mss = 1448
    await host.transmit(1, header, references, mss=mss, **fields)
    count = -(-len(payload) // mss)
    for k in range(count):
        part = payload[mss * k : mss * (k + 1)]
        expected = packet.copy()
        flags = "A" + "C" * (k == 0) + "FP" * (k == count - 1)
        expected[TCP].flags, expected[TCP].seq = flags, (0xFFFFF000 + mss * k) & 0xFFFFFFFF
        if not v6:
            expected[IP].id = (0xFFFE + k) & 0xFFFF
        assert await host.sent() == bytes(expected / Raw(part)), f"segment {k} of {count}"
    assert await host.counter(abi.tx_counter(1, TxOutcome.SENT)) == 1


@whole_card_test
async def a_large_segment_of_ipv4_leaves_as_segments_of_mss_bytes(dut):
    await segmented(dut, v6=False)


@whole_card_test
async def a_large_segment_of_ipv6_leaves_as_segments_of_mss_bytes(dut):
    await segmented(dut, v6=True)


@whole_card_test
async def a_tag_is_inserted_behind_the_addresses(dut):
    host = await commanded(dut)
    payload = bytes(host.payload.read(0x10000, 300))
    header, fields, frame = segment(host.random, payload)
    reference = {"region": 1, "generation": 1, "offset": 0, "length": 300}
    await host.transmit(1, header, [reference], vlan=1, tag=0x6123, **fields)
    sent = Ether(await host.sent())
    assert (sent[Dot1Q].vlan, sent[Dot1Q].prio) == (0x123, 3)
    assert bytes(sent)[:12] + bytes(sent)[16:] == frame


# -- what goes wrong is told -----------------------------------------------------------------------


@whole_card_test
async def refused_descriptors_and_posts_are_told_with_ring_index_and_reason(dut):
    host = await commanded(dut)
    await host.transmit(1, bytes(60))
    await host.sent()
    index = host.tx_producer[1]
    bad = {"region": 2, "generation": 1, "offset": 0, "length": 64}
    await host.transmit(1, bytes(54), [bad])
    await host.transmit(1, bytes(60))
    await host.sent()
    (told,) = await completions_of(host, 1, 1)
    assert (told["kind"], told["queue"]) == (CompletionKind.TRANSMIT_FAULT, 1)
    assert (told["index"], told["status"]) == (index, TxOutcome.BAD_OWNER)
    at = host.posts[2][1]
    await host.post(2, [{"element": 900, "region": 2, "generation": 1}])
    (told,) = await completions_of(host, 2, 1)
    assert (told["kind"], told["queue"]) == (CompletionKind.POST_FAULT, 2)
    assert (told["index"], told["status"]) == (at, PostOutcome.BAD_ELEMENT)


@whole_card_test
async def a_queue_in_that_mode_stops_at_a_refused_descriptor(dut):
    host = await commanded(dut)
    register = abi.CONTROL.QUEUE_MODE
    await host.switch_queue(1, 0)
    assert await host.write(register, register.pack(stop_on_refusal=1), 1)
    await host.enable_queue(1)
    await host.transmit(1, bytes(54), [{"region": 9, "generation": 1, "offset": 0, "length": 64}])

    async def stopped():
        value = await host.read(abi.CONTROL.QUEUE_SWITCH, 1)
        return abi.CONTROL.QUEUE_SWITCH.unpack(value)["stopped"]

    await host.until(stopped, what="queue 1 stopped")
    await host.transmit(1, b"\x11" * 60)
    await host.transmit(2, b"\x22" * 60)
    assert await host.sent() == b"\x22" * 60
    await ClockCycles(dut.clk, 300)
    assert host.wire_out.empty()


@whole_card_test
async def faults_without_room_are_counted_by_a_bit(dut):
    host = await commanded(dut)
    bad = {"element": 900, "region": 1, "generation": 1}
    for _ in range(3):
        await host.post(1, [bad] * 100)

        async def refused():
            count = await host.counter(abi.post_counter(1, PostOutcome.BAD_ELEMENT))
            return count % 100 == 0 and count

        await host.until(refused, what="counted posts")
    assert "completion_lost" in await errors(host)
    assert host.index_slot(1)["completion_producer"] <= 256


# -- neighbours that fail --------------------------------------------------------------------------


@whole_card_test
async def a_payload_memory_that_never_answers_fails_its_port_and_a_revoke_is_acknowledged(dut):
    host = await commanded(dut)
    await host.write(abi.CONTROL.PORT_TIMEOUT, 400)
    host.payload.write_if.b_channel.pause = True
    for _ in range(5):
        await host.send(padded(tcp(80, b"into nowhere")))

    async def failed():
        return "payload_write_failed" in await errors(host)

    await host.until(failed, what="the port's failure")
    assert await host.command(CommandKind.REVOKE, offset=1 << 1) == DONE

    async def counted():
        rows = [RxOutcome.PORT_ERROR, RxOutcome.DISABLED]
        return sum([await host.counter(abi.rx_counter(1, o)) for o in rows]) == 5

    await host.until(counted, what="five lost frames")
    told = [c for c in await completions_of(host, 1, 1)
            if c["kind"] == CompletionKind.RECEIVE_FAULT]  # fmt: skip
    assert told[0]["status"] == RxOutcome.PORT_ERROR
    # The memory comes back, and forgets; a reset takes the port into use again.
    host.payload.write_if.b_channel.pause = False
    await ClockCycles(dut.clk, 200)
    c = abi.CONTROL
    assert await host.write(c.RESET, abi.RESET_WORD)

    async def done():
        return not c.QUEUE_SWITCH.unpack(await host.read(c.QUEUE_SWITCH, 0))["busy"]

    await host.until(done, cycles=60_000, what="the reset")
    await host.write(c.ERROR, 0xFFFF)
    for queue in (0, 2):
        await host.enable_queue(queue)
    await host.switch_on(MAC, ADDRESS)
    await host.listen(0, 2, 443)
    await host.send(padded(tcp(443, b"as before")))
    ((_, _, payload),) = await host.wait_records(2, 1)
    assert payload == b"as before"
    assert await errors(host) == set()


@whole_card_test
async def a_stalled_mac_loses_frames_and_holds_up_no_revoke(dut):
    host = await commanded(dut)
    await host.write(abi.CONTROL.PORT_TIMEOUT, 300)
    host.wire_out.pause = True
    reference = {"region": 1, "generation": 1, "offset": 0, "length": 1400}
    for _ in range(10):
        await host.transmit(1, bytes(54), [reference])

    async def stalled():
        return "mac_stalled" in await errors(host)

    await host.until(stalled, what="the MAC's stall")

    async def consumed():
        return host.index_slot(1)["tx_consumer"] == host.tx_producer[1]

    await host.until(consumed, what="the consumer index")
    assert await host.command(CommandKind.REVOKE, offset=1 << 1) == DONE
    host.wire_out.pause = False

    async def flushed():
        return await host.counter(abi.port_counter("tx_flushed")) > 0

    await host.until(flushed, what="flushed frames")
    await ClockCycles(dut.clk, 500)
    while not host.wire_out.empty():
        await host.wire_out.recv()
    await host.write(abi.CONTROL.ERROR, 0xFFFF)
    await host.transmit(2, b"\x22" * 60)
    assert await host.sent() == b"\x22" * 60
    assert "mac_stalled" not in await errors(host)
