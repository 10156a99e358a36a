"""Random frames, good and damaged, at all widths, against the oracle."""

import random

import pytest
from frame_oracle import expected
from frames import edit, ethernet, ip_offset, network, pad, payload_of, refresh, transport
from ingress_bench import Sent, run, small
from scapy.packet import Raw

from hdsnic.abi import RxOutcome


def random_frame(chance):
    """A frame of a random kind; often cut, extended, flipped, or with a field out of range."""
    version = chance.choice((4, 4, "options", 6, 6))
    kind = chance.choice(("tcp", "tcp", "tcp", "udp", "icmp"))
    layers = ethernet(chance.randrange(3)) / network(
        version,
        destination=chance.choice((None, None, None, "10.0.0.1" if version != 6 else "::1")),
    )
    l4 = transport(kind, version, port=chance.choice((80, 80, 80, 81)))
    if kind == "tcp":
        l4.flags = chance.choice(("A", "PA", "S", "FA", "R"))
        l4.options = [("NOP", None)] * (4 * chance.randrange(11))
    packet = layers / l4
    size = chance.choice((0, 1, 2, 5, 17, 64, 200, chance.randrange(600)))
    if size:
        packet /= Raw(payload_of(size, chance.randrange(256)))
    raw = bytes(packet)
    damage = chance.randrange(10)
    if damage == 0:
        raw = flipped(raw, chance, len(raw))
    elif damage == 1:
        raw = flipped(raw, chance, 80)
    elif damage == 2:
        raw = raw[: chance.randrange(1, len(raw))]
    elif damage == 3:
        raw += chance.randbytes(chance.randrange(1, 70))
    elif damage == 4:
        raw = with_field_out_of_range(raw, chance)
    elif damage == 5 and kind != "icmp":
        raw = refresh(flipped(raw, chance, 40, start=30)) if len(raw) > 80 else raw
    if damage != 2 and len(raw) < 60:
        raw = pad(raw)
    return raw


def flipped(raw, chance, end, start=0):
    """One to three bits flipped."""
    out = bytearray(raw)
    for _ in range(chance.randrange(1, 4)):
        out[chance.randrange(start, min(end, len(out)))] ^= 1 << chance.randrange(8)
    return bytes(out)


def with_field_out_of_range(raw, chance):
    """A length or fragment field changed, with checksums that are right for what it is now."""
    at = ip_offset(raw)
    if raw[at] >> 4 == 4:
        field, value = chance.choice(
            (
                (2, chance.randrange(15, 90).to_bytes(2, "big")),
                (0, bytes([0x40 | chance.randrange(16)])),
                (6, bytes([0, 3])),
            )
        )
    else:
        field, value = 40 + 12, bytes([chance.randrange(16) << 4])
    return refresh(edit(raw, at + field, value))


@pytest.mark.parametrize("bus_bytes", (8, 16, 32, 64))
def test_random_frames_have_the_fate_that_the_oracle_says(bus_bytes):
    chance = random.Random(bus_bytes)
    frames = [Sent(random_frame(chance), error=chance.random() < 0.02) for _ in range(450)]
    wanted = [expected(sent.data, sent.error) for sent in frames]
    result = run(frames, small(bus_bytes), ready=0.95, seed=bus_bytes)
    assert result.outcomes == [outcome for outcome, fields in wanted if fields is None]
    kept = [fields for _, fields in wanted if fields is not None]
    for got, want in zip(result.frames, kept, strict=True):
        assert got == want
    seen = {outcome for outcome, _ in wanted}
    rx = RxOutcome
    assert seen >= {rx.SPLIT, rx.HEADER_ONLY, rx.NOT_TCP, rx.RUNT, rx.IP_HEADER, rx.L4_CHECKSUM}


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
