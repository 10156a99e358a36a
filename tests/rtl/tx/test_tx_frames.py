"""Frames out of the transmit path equal what scapy builds, from descriptors of every shape."""

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from transmit_bench import Bench
from transmit_frames import gathered, mixed, plain, seeded, segment, split

every_width = pytest.mark.parametrize("width", [8, 64])


@every_width
def test_each_kind_of_frame_has_the_checksums_that_scapy_computes(width):
    bench = Bench(width)
    region = bench.region(3)
    queue = bench.queue()
    rng = seeded(width)
    kinds = [
        {"ipv6": ipv6, "udp": udp, "tags": tags, "options": options}
        for ipv6 in (False, True)
        for udp in (False, True)
        for tags in (0, 1, 2)
        for options in ((0,) if ipv6 else (0, 4, 40))
    ]
    for kind in kinds:
        pieces = split(rng, bench.memory, region, 1, [rng.randrange(1, 120)])
        queue.send(segment(gathered(bench.memory, pieces), pieces, **kind))
    bench.deliver()
    assert len(bench.frames) == len(kinds)


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_mixed_frames_are_right_under_random_latency_and_back_pressure(width):
    bench = Bench(width, seed=width)
    region = bench.region(0)
    queue = bench.queue()
    rng = seeded(width + 1)
    queue.send(*(mixed(rng, bench.memory, region, 1) for _ in range(35)))
    bench.deliver()
    assert len(bench.frames) == 35


@every_width
def test_pieces_are_packed_from_every_alignment_to_every_alignment(width):
    bench = Bench(width, pace=1, mac_pace=1, latency=(2, 9))
    region = bench.region(0, size=4096)
    queue = bench.queue(log2_bytes=14)
    lanes = range(width) if width == 8 else (0, 1, 2, 7, 8, 15, 31, 32, 33, 62, 63)
    for size in range(14, 14 + width) if width == 8 else (14, 15, 31, 63, 64, 65, 77):
        for lane in lanes:
            length = 1 + (lane * 7 + size) % (2 * width + 3)
            queue.send(plain(bench.rng, size, [(region, 1, 512 + lane, length)], bench.memory))
    bench.deliver()


@every_width
@pytest.mark.parametrize("piece", [1, 2, 3, 17])
def test_frames_of_up_to_the_most_references_are_gathered(width, piece):
    bench = Bench(width, latency=(5, 60))
    region = bench.region(0)
    queue = bench.queue()
    for count in (2, 5, 63, 64, 64, 64):
        pieces = split(bench.rng, bench.memory, region, 1, [piece] * count)
        queue.send(segment(gathered(bench.memory, pieces), pieces))
    bench.deliver()


@every_width
def test_inline_frames_of_14_to_9018_bytes_leave_unchanged(width):
    bench = Bench(width, pace=1)
    queue = bench.queue(log2_bytes=14)
    sizes = [14, 15, 59, 60, 63, 64, 65, 127, 128, 129, 1514, 9017, 60, 9018]
    queue.send(*(plain(bench.rng, size) for size in sizes))
    bench.deliver()
    assert [len(frame) for frame in bench.frames] == sizes


@every_width
def test_largest_frames_from_memory_fill_the_buffer_and_leave(width):
    bench = Bench(width, pace=1, mac_pace=0.6, tx_buffer_bytes=16384)
    region = bench.region(0, size=16384)
    queue = bench.queue()
    for offset in (1, width - 1):
        pieces = [(region, 1, offset, 9018 - 54)]
        queue.send(segment(gathered(bench.memory, pieces), pieces))
    bench.deliver()


@every_width
def test_a_ring_is_used_round_and_round_with_descriptors_across_its_end(width):
    bench = Bench(width, burst=30)
    region = bench.region(0)
    queue = bench.queue(log2_bytes=12)
    while sum(sent.cells for sent in queue.waiting) < 2 * 256:
        size = bench.rng.choice([14, 60, 100, 300, 700])
        queue.send(plain(bench.rng, size, [(region, 1, 99, 3)], bench.memory))
    bench.deliver()
    assert queue.producer > 2 * 256


@every_width
def test_a_udp_checksum_of_zero_is_sent_as_all_ones(width):
    bench = Bench(width)
    queue = bench.queue()
    first = segment(bytes(4), udp=True)
    wanted = Ether(first.frame)[UDP].chksum
    # Two bytes that make the sum all ones: scapy then sends 0xffff (RFC 768).
    zero = segment(bytes(2) + wanted.to_bytes(2, "big"), udp=True)
    assert Ether(zero.frame)[UDP].chksum == 0xFFFF
    queue.send(first, zero)
    bench.deliver()


@every_width
def test_frames_without_checksum_switches_are_not_touched(width):
    bench = Bench(width)
    queue = bench.queue()
    queue.send(plain(bench.rng, 90, l3_offset=14, l4_offset=34), plain(bench.rng, 90))
    bench.deliver()


@every_width
def test_a_senseless_ihl_changes_the_checksum_alone(width):
    bench = Bench(width)
    queue = bench.queue()
    for ihl in range(16):
        sent = segment(b"abc")
        header = bytearray(sent.header)
        header[14] = 0x40 | ihl
        sent.header = bytes(header)
        queue.send(sent)
    bench.strict = False

    async def script(bench):
        await bench.until(lambda: len(bench.frames) == 16, "16 frames")

    bench.run(script)
    for ihl, frame in enumerate(bench.frames):
        assert frame[15:24] + frame[26:50] == sent.header[15:24] + sent.header[26:50]
        assert frame[14] == 0x40 | ihl


def test_bytes_beside_the_pieces_never_leave():
    bench = Bench(64, latency=(1, 5))
    region = bench.region(0)
    bench.memory[region] = bytes(len(bench.memory[region]))  # poison of the ports is not zero
    queue = bench.queue()
    for length in (1, 2, 63, 64, 65):
        queue.send(plain(bench.rng, 14, [(region, 1, 70, length)], bench.memory))
    bench.deliver()
    assert all(frame[14:] == bytes(len(frame) - 14) for frame in bench.frames)
