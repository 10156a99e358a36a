"""The benchmark's own rules: what is beyond a target, what a wrong byte is, what is written."""

import json

import numpy as np
import pytest
from bench import hardware, scenes
from bench.card import BenchError
from bench.frames import HEADER_BYTES, received, segments, template
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from hdsnic import abi


def case(direction, frame_bytes):
    (found,) = (
        c for c in hardware.CASES if (c.direction, c.load.frame_bytes) == (direction, frame_bytes)
    )
    return found


@pytest.mark.parametrize(
    ("direction", "frame_bytes", "at_8", "at_64"),
    [
        ("rx", 60, 9.5, 2.1), ("tx", 60, 10.5, 2.1), ("rx+tx", 60, 10.5, 2.1),
        ("rx", 1514, 191, 26), ("tx", 1514, 191, 26), ("rx", 9018, 1129, 142),
        ("tx", 9018, 1129, 142),
    ],
)  # fmt: skip
def test_targets_are_those_of_the_requirement(direction, frame_bytes, at_8, at_64):
    found = case(direction, frame_bytes)
    assert (found.target(8), found.target(64)) == (at_8, at_64)


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_the_target_of_segmentation_is_the_beats_of_the_segments(bus_bytes):
    _, _, frames = template(hardware.TSO_BYTES, hardware.MSS, 0)
    beats = sum(-(-len(frame) // bus_bytes) for frame in frames)
    target = case("tx, TSO of 64 KiB", hardware.MSS + HEADER_BYTES).target(bus_bytes)
    assert target == pytest.approx(beats / len(frames))


@pytest.mark.parametrize(("cycles", "met"), [(2.1, True), (2.1004, True), (2.101, False)])
def test_the_slower_direction_decides_whether_a_target_is_met(cycles, met):
    row = hardware.figures(scenes.Result(cycles={"rx": 1.0, "tx": cycles}), 2.1)
    assert row["met"] is met and row["cycles_per_frame"] == pytest.approx(cycles, abs=1e-3)


def results(met, error=None):
    row = {
        "direction": "rx", "bus_bytes": 8, "frame_bytes": 60, "memory_latency_cycles": 1,
        "queues": 1, "cycles_per_frame": None if error else 9.06,
        "target_cycles_per_frame": 9.5, "met": met, "error": error,
    }  # fmt: skip
    latency = {
        "bus_bytes": 8, "frame_bytes": 60, "memory_latency_cycles": 1, "cycles_to_record": 41.0,
        "target_cycles": 39, "met": True, "error": None,
    }  # fmt: skip
    return {"rows": [row], "latency": [latency]}


@pytest.mark.parametrize(
    ("met", "error", "arguments", "status"),
    [
        (True, None, ["--check"], 0), (False, None, [], 0), (False, None, ["--check"], 1),
        (False, "a byte is wrong", [], 1),
    ],
)  # fmt: skip
def test_a_wrong_byte_always_fails_and_a_missed_target_with_check(
    met, error, arguments, status, monkeypatch, tmp_path
):
    monkeypatch.setattr(hardware, "ROOT", tmp_path)
    monkeypatch.setattr(hardware, "JSON", tmp_path / "hw.json")
    monkeypatch.setattr(hardware, "PAGE", tmp_path / "hardware.md")
    monkeypatch.setattr(hardware, "measure_all", lambda *_: results(met, error))
    assert hardware.main([*arguments, "--write-docs"]) == status
    assert json.loads((tmp_path / "hw.json").read_text()) == results(met, error)
    page = (tmp_path / "hardware.md").read_text()
    assert ("a byte is wrong" in page) == bool(error)
    assert ("| beyond |" in page) == (not met and not error)


class Fake:
    """As much of a card as the check of received frames reads: one queue, one record."""

    def __init__(self, frame):
        self.queues = (1,)
        region = scenes.Region(1, 2048, 16, 0)
        payload = frame[HEADER_BYTES:]
        region.memory[: len(payload)] = np.frombuffer(payload, np.uint8)
        record = abi.RECORD.pack(
            header_length=HEADER_BYTES, payload_length=len(payload), region=1, element=0
        )
        self.regions = {1: region}
        self.header = np.frombuffer(record + frame[:HEADER_BYTES], np.uint8).copy()

    def rx_ring(self, queue):
        return 0


FRAME = received(60, 0)[3]
LOAD = scenes.Load(60, received=1)


def test_a_frame_that_was_split_right_passes():
    scenes._check_received(Fake(FRAME), LOAD, [FRAME])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda card: card.header.__setitem__(20, card.header[20] ^ 1), "header of record 0"),
        (lambda card: card.regions[1].memory.__setitem__(3, 0), "1 bytes are wrong"),
        (lambda card: card.regions[1].memory.__setitem__(6, 0), "1 bytes are wrong"),
        (lambda card: card.regions[1].memory.__setitem__(4096, 0), "1 bytes are wrong"),
    ],
    ids=["header", "payload", "behind the payload", "another buffer"],
)
def test_every_wrong_byte_is_found(spoil, told):
    card = Fake(FRAME)
    spoil(card)
    with pytest.raises(BenchError, match=told):
        scenes._check_received(card, LOAD, [FRAME])


def test_headers_with_open_checksums_and_payload_make_the_frame_that_scapy_makes():
    for segment in segments(100):
        packet = Ether(segment.header + segment.payload)
        del packet[IP].chksum, packet[TCP].chksum
        assert bytes(packet) == segment.frame
