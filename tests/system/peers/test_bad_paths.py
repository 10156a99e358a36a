"""A Linux kernel over paths that lose, delay, reorder, duplicate and corrupt: all arrives whole."""

import pytest
from interop import LONG, SIZE, program, unexplained

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(3600 if LONG else 600)]

SECONDS = 1500.0 if LONG else 200.0
SEGMENTS = 2 * SIZE // 1448
"""Of both transfers together, at least."""


def test_a_clean_path_needs_no_retransmission_and_no_window_shuts(world):
    here = world()
    here.serve()
    here.transfer(SECONDS)
    told = here.judge()
    assert told["retransmits"] == 0
    here.end()
    assert unexplained(here.capture, full=SEGMENTS // 20) == {}


@pytest.mark.parametrize("loss", [0.001, 0.05], ids=["0.1 %", "5 %"])
def test_the_kernels_filter_loses_both_ways(world, loss):
    program("nft")
    here = world(tools=True)
    here.serve()
    here.filter(f"meta l4proto tcp numgen random mod 1000 < {round(loss * 1000)} counter drop")
    here.transfer(SECONDS)
    lost = here.filtered_packets()
    print(f"lost: {lost}")
    told = here.judge()
    if loss * SEGMENTS > 20:
        assert lost["input"] > 0 and lost["output"] > 0 and told["retransmits"] > 0
    here.end()
    most = 4 * sum(lost.values()) + 20
    assert unexplained(
        here.capture, retransmission=most, duplicate_ACK=100 * most, out_of_order=most,
        missing=most, unseen=most, D_SACK=most, full=SEGMENTS // 20,
    ) == {}  # fmt: skip


@pytest.mark.parametrize(
    "impair",
    [
        "lose=0.05,seed=1",
        "delay_ms=10,seed=2",
        "reorder=0.05,seed=3",
        "duplicate=0.05,seed=4",
        "corrupt=0.02,seed=5",
        "lose=0.01,duplicate=0.01,corrupt=0.01,reorder=0.02,delay_ms=2,seed=6",
    ],
    ids=lambda text: text.replace(",", " "),
)
def test_the_wire_does_harm_both_ways(world, impair):
    here = world(impair=impair)
    here.serve()
    here.transfer(SECONDS)
    told = here.judge(
        ("ip_checksum", "ip_header", "tcp_header", "l4_checksum") if "corrupt" in impair else ()
    )
    device, _ = here.counters()
    harms = {name: count for name, count in device.items() if name.startswith("impair_")}
    print(f"harms: {harms}, TCP: { {k: v for k, v in told.items() if v} }")
    here.end()
