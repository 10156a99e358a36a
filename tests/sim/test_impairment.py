"""An impaired wire does what it was told, counts it, and does the same again from the same seed."""

import contextlib
import os
import socket
import threading
import time
from collections import Counter

import pytest
from tiny_card import tiny_verilog

from hdsim.build import build_library
from hdsim.card import Card
from hdsim.errors import LinkError
from hdsim.links import Impairment, wire_pair
from hdsnic.parameters import Parameters

FRAMES = 400
ETHERNET = 14


@contextlib.contextmanager
def looped_back(impairment):
    """A tiny card, which sends back what it gets, on an impaired wire: (card, the peer's end)."""
    parameters = Parameters(bus_bytes=8)
    control, control_far = os.pipe()
    far, card_end = wire_pair()
    with Card(build_library(tiny_verilog(parameters), parameters), control) as card:
        card.impair(impairment)
        card.set_link(card_end)
        with socket.socket(fileno=far) as peer:
            peer.settimeout(20)
            runner = threading.Thread(target=card.run)
            runner.start()
            try:
                yield card, peer
            finally:
                os.write(control_far, b"x")
                runner.join(20)
    for fd in (control, control_far, card_end):
        os.close(fd)


def frame(number, kind=0x0800):
    return bytes(12) + kind.to_bytes(2, "big") + number.to_bytes(4, "big") * 25


def run(impairment, kind=0x0800):
    """(frames that came back, counters) of FRAMES frames."""
    with looped_back(impairment) as (card, peer):
        for number in range(FRAMES):
            peer.send(frame(number, kind))
        got = []
        peer.settimeout(0.5)  # of silence: nothing waits longer than delay and reorder say
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(peer.recv(16384))
        counts = {name: n for name, n in card.stats().items() if name.startswith("impair_")}
    return got, counts


def test_an_unimpaired_share_of_nothing_changes_nothing():
    got, counts = run(Impairment())
    assert got == [frame(number) for number in range(FRAMES)]
    assert not any(counts.values())


def test_what_is_lost_and_what_comes_twice_is_counted_and_near_its_share():
    got, counts = run(Impairment(lose=0.1, duplicate=0.2, seed=3))
    assert len(got) == FRAMES - counts["impair_lost"] + counts["impair_duplicated"]
    assert 40 <= counts["impair_lost"] <= 130 and 90 <= counts["impair_duplicated"] <= 220
    assert set(got) <= {frame(number) for number in range(FRAMES)}


def test_a_corrupted_frame_has_a_bit_flipped_behind_its_ethernet_header():
    got, counts = run(Impairment(corrupt=0.5, seed=1))
    assert len(got) == FRAMES
    flipped = 0
    for number, each in enumerate(got):
        good = frame(number)
        assert each[:ETHERNET] == good[:ETHERNET]
        bits = sum((a ^ b).bit_count() for a, b in zip(each, good, strict=True))
        assert bits <= 2  # once each way
        flipped += bits
    assert flipped <= counts["impair_corrupted"] <= flipped + 10  # the same bit twice is whole
    assert 300 <= flipped <= 500


def test_arp_is_not_corrupted_since_nothing_would_find_it():
    got, counts = run(Impairment(corrupt=1.0), kind=0x0806)
    assert got == [frame(number, 0x0806) for number in range(FRAMES)]
    assert counts["impair_corrupted"] == 0


def test_reordered_frames_are_overtaken_and_none_is_missing():
    got, counts = run(Impairment(reorder=0.05, seed=5))
    assert Counter(got) == Counter(frame(number) for number in range(FRAMES))
    assert got != [frame(number) for number in range(FRAMES)]
    assert 15 <= counts["impair_reordered"] <= 80


def test_the_same_seed_does_the_same_and_another_one_something_else():
    def once(seed):
        return run(Impairment(lose=0.2, duplicate=0.1, corrupt=0.1, seed=seed))

    first, again, other = once(7), once(7), once(8)
    assert first == again and first[0] != other[0]


def test_a_delay_is_waited_for_in_each_direction_without_work_meanwhile():
    with looped_back(Impairment(delay_ms=100)) as (card, peer):
        began = time.monotonic()
        peer.send(frame(1))
        assert peer.recv(16384) == frame(1)
        assert time.monotonic() - began >= 0.2
        worked = card.stats()
    # some thousand cycles for each event; awake, as many in a hundredth of the delay
    assert worked["cycles"] <= 10_000 and worked["sleeps"] <= 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lose=2", "lose is 2.0; a share from 0 to 1"),
        ("lose", "'lose' is no impairment"),
        ("melt=0.1", "'melt=0.1' is no impairment"),
        ("lose=much", "lose is 'much'; it must be a number"),
        ("delay_ms=-1", "delay_ms is -1.0"),
        ("seed=-1", "seed is -1"),
    ],
)
def test_what_is_no_impairment_is_refused_with_what_is(text, said):
    with pytest.raises(LinkError, match=said.replace(".", r"\.")):
        Impairment.parse(text)


def test_an_impairment_is_read_from_a_line():
    found = Impairment.parse("lose=0.01, reorder=0.5,delay_ms=2.5,seed=9")
    assert found == Impairment(lose=0.01, reorder=0.5, delay_ms=2.5, seed=9)
