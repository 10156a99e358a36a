"""TSO and VLAN insertion: segments and tags are those that scapy makes, packet by packet."""

import pytest
from transmit_bench import Bench
from transmit_frames import (
    gathered,
    mixed,
    mixed_segments,
    plain,
    seeded,
    segment,
    segmented,
    split,
)

from hdsnic.abi import TxOutcome

every_width = pytest.mark.parametrize("width", [8, 64])
any_width = pytest.mark.parametrize("width", [8, 16, 32, 64])


def scene(width, size=8192, log2_bytes=14, **kwargs):
    bench = Bench(width, **kwargs)
    return bench, bench.region(0, size=size), bench.queue(log2_bytes=log2_bytes)


@every_width
@pytest.mark.parametrize("ipv6", [False, True])
def test_a_payload_is_cut_into_segments_that_are_right_each_by_itself(width, ipv6):
    bench, region, queue = scene(width)
    pieces = [(region, 1, 5, 1000), (region, 1, 2000, 1900)]
    queue.send(segmented(gathered(bench.memory, pieces), pieces, 536, ipv6=ipv6, flags="FPAC"))
    bench.deliver()
    assert len(bench.frames) == 6


@any_width
@pytest.mark.parametrize("seed", range(3))
def test_random_segments_between_other_frames_are_those_of_scapy(width, seed):
    bench, region, queue = scene(width, seed=seed)
    rng = seeded(100 * seed + width)
    for _ in range(14):
        queue.send(mixed_segments(rng, bench.memory, region, 1))
        if rng.random() < 0.5:
            queue.send(mixed(rng, bench.memory, region, 1))
    bench.deliver()


@every_width
def test_sequence_number_and_identification_wrap(width):
    bench, region, queue = scene(width)
    pieces = [(region, 1, 0, 700)]
    payload = gathered(bench.memory, pieces)
    queue.send(segmented(payload, pieces, 100, seq=0xFFFFFFFF - 150, ident=0xFFFE))
    queue.send(segmented(payload, pieces, 100, seq=0x1FFD0, ident=0xFF))
    bench.deliver()


@every_width
def test_a_payload_of_one_segment_keeps_all_flags(width):
    bench, region, queue = scene(width)
    for size in (1, 63, 64):
        pieces = [(region, 1, 9, size)]
        queue.send(segmented(gathered(bench.memory, pieces), pieces, 64, flags="FPAC"))
    bench.deliver()
    assert len(bench.frames) == 3


@every_width
def test_segments_of_the_largest_frame_and_the_largest_header_are_sent(width):
    bench, region, queue = scene(width, size=20480, pace=1, mac_pace=1, tx_buffer_bytes=16384)
    pieces = [(region, 1, 3, 20000)]
    payload = gathered(bench.memory, pieces)
    queue.send(segmented(payload, pieces, 9018 - 54), segmented(payload, pieces, 9018 - 58, tci=7))
    short = [(region, 1, 3, 300)]
    payload = gathered(bench.memory, short)
    # 14 + 8 + 60 + 60 bytes, the most that IPv4 and TCP can have behind two tags
    most = {"tags": 2, "options": 40, "tcp_options": 40}
    queue.send(segmented(payload, short, 100, **most), segmented(payload, short, 99, **most, tci=5))
    bench.deliver()
    assert {len(frame) for frame in bench.frames} >= {9018, 242}


@every_width
def test_64_kib_are_sent_by_one_descriptor(width):
    bench, region, queue = scene(width, size=65536, pace=1, mac_pace=1, latency=(20, 20))
    pieces = [(region, 1, 1, 65535), (region, 1, 77, 1)]
    queue.send(segmented(gathered(bench.memory, pieces), pieces, 8948))
    bench.deliver()
    assert len(bench.frames) == 8


@every_width
def test_an_error_in_a_segment_drops_it_and_the_later_ones_and_no_other_frame(width):
    bench, region, queue = scene(width)
    pieces = [(region, 1, 0, 1000)]
    sent = segmented(gathered(bench.memory, pieces), pieces, 100)
    sent.before_error, sent.outcome = sent.frames[:4], TxOutcome.PORT_ERROR
    bench.ports[1].failing = [((1 << 32) + 450, 1)]
    other, other_region = bench.queue(1), bench.region(1)
    queue.send(sent)
    other.send(*(mixed(bench.rng, bench.memory, other_region, 1) for _ in range(6)))
    bench.deliver()
    assert len(bench.frames) == 10


@any_width
def test_a_tag_is_inserted_behind_the_addresses_of_every_kind_of_header(width):
    bench, region, queue = scene(width, seed=width)
    rng = seeded(width)
    for inline in range(0, width + 4, 1 if width == 8 else 3):
        payload = bytes(rng.getrandbits(8) for _ in range(inline))
        queue.send(segment(payload, udp=inline % 2, tags=inline % 3, tci=rng.getrandbits(16)))
    for count in (1, 2, 3):
        pieces = split(rng, bench.memory, region, 1, [10 + count] * count)
        payload = gathered(bench.memory, pieces)
        for ipv6 in (False, True):
            queue.send(segment(payload, pieces, ipv6=ipv6, tci=rng.getrandbits(16)))
    bench.deliver()


@any_width
def test_the_shortest_header_takes_a_tag(width):
    bench, _, queue = scene(width)
    for size in (14, 15, 16, 17, 60, 61, 64):
        sent = plain(bench.rng, size, tci=0x1234)
        sent.frames = [sent.header[:12] + b"\x81\x00\x12\x34" + sent.header[12:]]
        queue.send(sent, plain(bench.rng, size))
    bench.deliver()
