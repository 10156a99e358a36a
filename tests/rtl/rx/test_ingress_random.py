"""Random frames, good and damaged, at all widths, against the oracle.

The seed of a case stands in its name; HDSNIC_SEED runs it with another one.
"""

import os
import random

import pytest
from frame_oracle import expected
from ingress_bench import Sent, run, small
from random_frames import random_frame, random_setting

from hdsnic.abi import EXACT_TAG, RxOutcome

SEEDS = [int(os.environ["HDSNIC_SEED"])] if "HDSNIC_SEED" in os.environ else [1, 2]


@pytest.mark.parametrize("bus_bytes", (8, 16, 32, 64))
@pytest.mark.parametrize("seed", SEEDS)
def test_random_frames_have_the_fate_that_the_oracle_says(bus_bytes, seed):
    chance = random.Random(f"{seed} {bus_bytes}")
    parameters = small(bus_bytes)
    setting = random_setting(chance, parameters)
    frames = [Sent(random_frame(chance), error=chance.random() < 0.02) for _ in range(500)]
    wanted = [expected(sent.data, sent.error, setting, parameters) for sent in frames]
    valid = 1.0 if seed % 2 else 0.7
    result = run(frames, parameters, setting, ready=0.95, valid=valid, seed=seed)
    assert result.outcomes == [outcome for outcome, fields in wanted if fields is None]
    kept = [fields for _, fields in wanted if fields is not None]
    for got, want in zip(result.frames, kept, strict=True):
        assert {name: got[name] for name in want} == want
    rx = RxOutcome
    seen = {outcome for outcome, _ in wanted} | {
        fields["tag"] for fields in kept if fields["reason"] == rx.MALFORMED
    }
    assert seen >= {
        rx.SPLIT, rx.HEADER_ONLY, rx.NOT_TCP, rx.RUNT, rx.IP_HEADER, rx.L4_CHECKSUM, rx.UDP_WHOLE,
        rx.EXTENSION, rx.FRAGMENT, rx.LONG_HEADER, rx.NO_RULE, rx.NOT_LOCAL, rx.SYN_PAYLOAD,
    }  # fmt: skip
    assert {bool(fields["hash"]) for fields in kept} == {True, False}
    assert any(fields["tag"] >= EXACT_TAG for fields in kept)


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_noise_behind_a_good_address_never_splits_and_never_breaks_the_count(bus_bytes):
    chance = random.Random(99)
    types = (b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xa8")
    frames = []
    for _ in range(250):
        head = bytes.fromhex("026864730002026864730001")
        for _ in range(chance.randrange(1, 4)):
            head += chance.choice(types) + chance.randbytes(2) * chance.randrange(2)
        frames.append(
            head
            + chance.choice((b"E\x00", b"`\x00", b""))
            + chance.randbytes(chance.randrange(120))
        )
    wanted = [expected(frame) for frame in frames]
    result = run(frames, small(bus_bytes), valid=0.9, seed=3)
    assert result.outcomes == [outcome for outcome, fields in wanted if fields is None]
    assert result.frames == [fields for _, fields in wanted if fields is not None]
