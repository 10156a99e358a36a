"""Transmit: what descriptors describe leaves on the wire, and nothing that they may not read."""

from cocotb.triggers import ClockCycles
from rtl.nic.host import PAYLOAD_BYTES, RING_BYTES, Host, whole_card_test
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from hdsnic import abi
from hdsnic.abi import TxOutcome

MAC, ADDRESS = bytes.fromhex("026864730002"), bytes([10, 77, 0, 2])


async def card(dut, *, pressure=False):
    """A card with queues 1 and 2 of two applications; their regions hold random bytes."""
    host = await Host.start(dut, pressure=pressure)
    await host.set_up(MAC, ADDRESS)
    host.payload.write(0, host.random.randbytes(PAYLOAD_BYTES))
    for queue in (1, 2):
        region = await host.add_region(queue, 0x10000 * queue, owner=queue)
        await host.own(queue, queue, region, posts=0)
    return host


def folded(data):
    """The sum of 16-bit words of `data`, folded, not complemented (RFC 1071)."""
    total = sum(
        int.from_bytes(data[k : k + 2].ljust(2, b"\0"), "big") for k in range(0, len(data), 2)
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def segment(rng, payload, *, v6=False):
    """(header with open checksums, descriptor fields, the frame that must leave)."""
    ip = IPv6(src="fd00::2", dst="fd00::1") if v6 else IP(src="10.77.0.2", dst="10.77.0.1")
    options = [("Timestamp", (rng.getrandbits(32), 1))] * rng.choice([0, 1])
    packet = (
        Ether(src="02:68:64:73:00:02", dst="02:00:00:00:00:01")
        / ip
        / TCP(sport=80, dport=rng.getrandbits(16), seq=rng.getrandbits(32), flags="PA",
              options=options)
    )  # fmt: skip
    frame = bytes(packet / payload)
    l3, l4 = 14, 54 if v6 else 34
    header = bytearray(frame[: len(frame) - len(payload)])
    length = len(frame) - l4
    if v6:
        pseudo = frame[l3 + 8 : l3 + 40] + length.to_bytes(4, "big") + b"\0\0\0\x06"
    else:
        pseudo = frame[l3 + 12 : l3 + 20] + b"\0\x06" + length.to_bytes(2, "big")
        header[l3 + 10 : l3 + 12] = b"\0\0"
    header[l4 + 16 : l4 + 18] = folded(pseudo).to_bytes(2, "big")
    fields = {"l3_offset": l3, "l4_offset": l4, "tcp_checksum": 1, "ipv4_checksum": int(not v6)}
    return bytes(header), fields, frame


def pieces(host, queue, *, most=6):
    """Random references into the region of `queue`, and the bytes that they name."""
    rng, region = host.random, host.regions[queue]
    references, data = [], b""
    for _ in range(rng.randrange(1, most)):
        length = rng.choice([1, 2, 3, 7, 63, 64, 65, 200])
        offset = rng.randrange(region.elements * region.element_bytes - length)
        references.append({
            "region": region.number, "generation": region.generation,
            "offset": offset, "length": length,
        })  # fmt: skip
        data += bytes(host.payload.read(region.base + offset, length))
    return references, data


async def gathered_frames(dut, pressure):
    host = await card(dut, pressure=pressure)
    expected = {1: [], 2: []}
    for _ in range(30):
        queue = host.random.choice([1, 2])
        references, data = pieces(host, queue)
        header, fields, frame = segment(host.random, data, v6=host.random.random() < 0.3)
        await host.transmit(queue, header, references, **fields)
        expected[queue].append(frame)
    for _ in range(30):
        frame = await host.sent(cycles=60_000)
        queue = next((q for q in (1, 2) if expected[q] and expected[q][0] == frame), None)
        assert queue is not None, f"unexpected frame {frame.hex()}"
        expected[queue].pop(0)

    async def consumed():
        return all(host.index_slot(q)["tx_consumer"] == host.tx_producer[q] for q in (1, 2))

    await host.until(consumed, what="consumer indices of both queues")


@whole_card_test
async def gathered_segments_leave_with_right_checksums(dut):
    await gathered_frames(dut, pressure=False)


@whole_card_test
async def random_pauses_on_every_port_change_nothing(dut):
    await gathered_frames(dut, pressure=True)


@whole_card_test
async def inline_frames_leave_as_they_are_around_the_ring(dut):
    host = await card(dut)
    total = 0
    while total < 2 * RING_BYTES:
        frame = host.random.randbytes(host.random.choice([60, 61, 1000, 1514]))
        await host.transmit(0, frame)
        assert await host.sent() == frame
        total += len(frame)


@whole_card_test
async def a_queue_reads_regions_of_its_owner_alone(dut):
    host = await card(dut)
    host.regions[3] = await host.add_region(3, 0x40000, owner=1, nic_read=0)
    good = {"region": 1, "generation": 1, "offset": 0, "length": 100}
    header = bytes(range(54))
    size = 32 * 2048
    before = await host.counter(abi.port_counter("payload_read_bytes"))
    for bad, outcome in (
        ({"region": 2}, TxOutcome.BAD_OWNER),
        ({"region": 3}, TxOutcome.NO_PERMISSION),
        ({"generation": 2}, TxOutcome.BAD_REGION),
        ({"region": 9}, TxOutcome.BAD_REGION),
        ({"region": 255}, TxOutcome.BAD_REGION),
        ({"offset": size - 99}, TxOutcome.OUT_OF_REGION),
        ({"offset": 0xFFFFFFFF}, TxOutcome.OUT_OF_REGION),
        ({"length": 0}, TxOutcome.BAD_DESCRIPTOR),
    ):
        count = await host.counter(abi.tx_counter(1, outcome))
        await host.transmit(1, header, [good, good | bad])

        async def counted(outcome=outcome, count=count):
            return await host.counter(abi.tx_counter(1, outcome)) == count + 1

        await host.until(counted, what=f"{outcome!r} for {bad}")
    assert await host.counter(abi.port_counter("payload_read_bytes")) == before
    assert host.wire_out.empty()
    await host.transmit(1, header, [good])
    assert await host.sent() == header + bytes(host.payload.read(0x10000, 100))


@whole_card_test
async def a_revoked_region_is_not_read_again(dut):
    host = await card(dut)
    reference = {"region": 1, "generation": 1, "offset": 0, "length": 1000}
    for _ in range(10):
        await host.transmit(1, bytes(54), [reference])
    await host.revoke(1)
    before = await host.counter(abi.port_counter("payload_read_bytes"))
    for _ in range(3):
        await host.transmit(1, bytes(54), [reference])
    await host.transmit(0, b"\x55" * 60)

    async def all_consumed():
        return host.index_slot(1)["tx_consumer"] == host.tx_producer[1]

    await host.until(all_consumed, what="the consumer index")
    await ClockCycles(dut.clk, 200)
    assert await host.counter(abi.port_counter("payload_read_bytes")) == before
    refused = await host.counter(abi.tx_counter(1, TxOutcome.BAD_REGION))
    assert refused >= 3
    frames = [await host.sent() for _ in range(10 - (refused - 3) + 1)]
    assert b"\x55" * 60 in frames


@whole_card_test
async def a_descriptor_beyond_the_producer_stops_its_queue_alone(dut):
    host = await card(dut)
    ring = host.tx_ring(1)
    host.header.write(ring, abi.DESCRIPTOR.pack(header_length=1000))
    page = abi.stack_doorbell_page(1)
    await host.doorbell(page, abi.STACK_DOORBELL.TX_PRODUCER, 1)

    async def stopped():
        value = await host.read(abi.CONTROL.QUEUE_SWITCH, 1)
        return abi.CONTROL.QUEUE_SWITCH.unpack(value)["stopped"]

    await host.until(stopped, what="queue 1 stopped")
    await host.transmit(2, b"\x22" * 60)
    assert await host.sent() == b"\x22" * 60
    await host.switch_queue(1, 0)
    await host.enable_queue(1)
    await host.transmit(1, b"\x11" * 60)
    assert await host.sent() == b"\x11" * 60
