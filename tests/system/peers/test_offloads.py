"""The stack with and without what the card can do for it: TSO, checksum insertion, RSS."""

import itertools

import pytest
from captures import faulty_frames
from interop import LONG, SIZE, unexplained

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(3600 if LONG else 600)]

SECONDS = 1500.0 if LONG else 200.0
WAYS = [
    (tso, checksums, rss)
    for tso, checksums, rss in itertools.product((True, False), repeat=3)
    if checksums or not tso  # who cuts segments must make their checksums
]
SHORT = [(True, True, True), (False, True, False), (False, False, True)]
"""Each one on, each one off."""


def name(way):
    return " ".join(f"{'with' if on else 'no'}-{what}" for what, on in
                    zip(("tso", "checksums", "rss"), way, strict=True))  # fmt: skip


@pytest.mark.parametrize("way", WAYS if LONG else SHORT, ids=name)
def test_the_kernel_gets_and_sends_the_same_with_and_without_offloads(world, way):
    tso, checksums, rss = way
    options = ["--tso" if tso else "--no-tso", "--checksums" if checksums else "--no-checksums"]
    here = world(stack=[*options, "--rss" if rss else "--no-rss"])
    here.serve()
    here.transfer(SECONDS)
    told = here.judge()
    spurious = here.spurious(told)
    read = told["payload_read_bytes"]
    # without checksum insertion what is sent is read once; with it not a byte
    assert read == 0 if checksums else SIZE <= read <= 1.01 * SIZE + 65536
    _, stack = here.counters()
    segments = stack["device"]["port"]["tx_frames"]
    descriptors = stack["queues"]["1"]["segments"]
    if tso:
        assert descriptors < segments / 2
    here.end()
    assert faulty_frames(here.capture) == []
    assert unexplained(here.capture, full=SIZE // 1448 // 10, **spurious) == {}
