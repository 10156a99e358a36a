"""A Linux kernel over paths that lose, delay, reorder, duplicate and corrupt: all arrives whole."""

import pytest
from interop import LONG, SIZE, expert, program, unexplained, without_damaged

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(3600 if LONG else 600)]

SECONDS = 1500.0 if LONG else 200.0
SEGMENTS = 2 * SIZE // 1448
"""Of both transfers together, at least."""
DAMAGED = ("ip_checksum", "ip_header", "tcp_header", "l4_checksum")
"""Drops that a corrupted frame may end as."""
DONE = {"lose": "lost", "duplicate": "duplicated", "corrupt": "corrupted", "reorder": "reordered"}


def after_harm(harms: int, corrupted: int = 0) -> dict:
    """Notes, and how many, that so many harmed frames explain."""
    few = 4 * harms + 20
    return {
        "retransmission": few, "out_of_order": few, "missing": few, "unseen": few, "DSACK": few,
        "keep_alive": few, "duplicate_ACK": 100 * few, "full": SEGMENTS // 10,
        "damaged": 2 * corrupted, "reset": 8,  # a copy that comes when the connection is over
    }  # fmt: skip


def test_a_clean_path_loses_nothing_and_no_window_shuts(world):
    here = world()
    here.serve()
    here.transfer(SECONDS)
    spurious = here.spurious(here.judge())
    here.end()
    assert unexplained(here.capture, full=SEGMENTS // 20, **spurious) == {}


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
    assert unexplained(here.capture, **after_harm(sum(lost.values()))) == {}


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
    told = here.judge(DAMAGED if "corrupt" in impair else ())
    device, _ = here.counters()
    harms = {name[7:]: count for name, count in device.items() if name.startswith("impair_")}
    print(f"harms: {harms}, TCP: { {k: v for k, v in told.items() if v} }")
    asked = [name for name in ("lose", "duplicate", "corrupt", "reorder") if name in impair]
    assert [harms[DONE[name]] > 0 for name in asked] == [True] * len(asked)
    assert sum(harms.values()) == sum(harms[DONE[name]] for name in asked)
    here.end()
    capture = here.capture
    if "corrupt" in asked:
        damaged = expert(capture)["a frame with a wrong checksum"]
        assert 0 < damaged <= harms["corrupted"]  # those of the other direction are not seen here
        capture = without_damaged(capture)
    if asked:
        notes = after_harm(sum(harms.values()), harms["corrupted"])
    else:
        notes = {"full": SEGMENTS // 20, **here.spurious(told)}
    assert unexplained(capture, **notes) == {}
