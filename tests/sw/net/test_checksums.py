"""Checksums that the stack makes itself, with scapy as the oracle."""

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from tcp_host import QUEUE

from hdstack import compile as compiler

STRIDE = 1 << 16
"""Of the pools here: two regions of so many bytes."""
AT = 20
"""Where the headers stand in the ring."""


@pytest.fixture(scope="module")
def modules():
    """Interpreted copies of TCP's tables and of what is under test, with smaller pools."""
    with compiler.interpreted():
        from hdstack.net import checksums, output
        from hdstack.tcp import tables
    checksums.POOL_STRIDE = STRIDE
    return tables, output, checksums


@pytest.fixture
def pools():
    return np.frombuffer(np.random.default_rng(4).bytes(2 * STRIDE), np.uint8).copy()


def state(tables, ipv6):
    s = tables.allocate()
    tables.initialise(s, b"\2\0\0\0\0\2", 0x0A4D0002, 24, 0, bytes(16))
    for region in (0, 1):
        row = s["regions"][region]
        row["live"], row["generation"], row["queue"] = 1, 5, QUEUE
        row["bytes"] = STRIDE
    row = s["segments"][QUEUE, 0]
    for name, value in {
        "kind": 0, "mac": 0x020000000001, "address": 0x0A4D0002, "remote_address": 0x0A4D0001,
        "local_port": 80, "remote_port": 40000, "seq": 0xFFFFFFF0, "ack": 77, "flags": 0x18,
        "window": 500, "shift": -1, "ts": 1, "tsval": 3, "tsecr": 4,
    }.items():  # fmt: skip
        row[name] = value
    if ipv6:
        row["high"] = row["remote_high"] = 0xFD00_0077 << 24
    return s, row


def encoded(modules, s, pools):
    """The frame of segment 0, headers completed by the stack, payload gathered as a card would."""
    _, output, checksums = modules
    ring = np.zeros(400, np.uint8)
    size = output.encode_segment(s, QUEUE, 0, ring, AT)
    checksums.put_checksums(s, QUEUE, 0, ring, AT, size, pools)
    frame = bytes(ring[AT : AT + size])
    row = s["segments"][QUEUE, 0]
    for piece in row["ref"][: row["references"]]:
        at = piece["region"] * STRIDE + piece["offset"]
        frame += bytes(pools[at : at + piece["length"]])
    return Ether(frame)


def refer(row, *pieces):
    row["references"], row["payload"] = len(pieces), sum(length for _, _, length in pieces)
    for ref, (region, offset, length) in zip(row["ref"], pieces, strict=False):
        ref["region"], ref["generation"] = region, 5
        ref["offset"], ref["length"] = offset, length


@pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    "pieces",
    [
        (),
        ((0, 0, 1),),
        ((0, 7, 1448),),
        ((1, 3, 1), (0, 9, 1), (1, 100, 333)),
        ((0, 5, 7), (1, 0, 700), (0, 12, 3), (1, 4444, 90)),
    ],
    ids=lambda pieces: "+".join(str(length) for _, _, length in pieces) or "none",
)
def test_checksums_are_those_of_scapy_at_any_length_and_number_of_pieces(
    modules, pools, ipv6, pieces
):
    s, row = state(modules[0], ipv6)
    refer(row, *pieces)
    frame = encoded(modules, s, pools)
    again = frame.copy()
    layer = IPv6 if ipv6 else IP
    for name in (layer, TCP):
        if "chksum" in again[name].fields:
            del again[name].chksum
    assert bytes(Ether(bytes(again))) == bytes(frame)
    assert len(frame[TCP].payload) == row["payload"]


def test_what_was_read_of_payload_is_counted(modules, pools):
    s, row = state(modules[0], False)
    refer(row, (0, 5, 7), (1, 0, 700))
    encoded(modules, s, pools)
    from hdstack.tcp import counters

    assert s["counters"][counters.PAYLOAD_READ_BYTES] == 707


@pytest.mark.parametrize(
    "harm", [{"live": 0}, {"generation": 6}, {"queue": QUEUE + 1}, {"bytes": 100}]
)
def test_a_region_that_serves_no_longer_is_not_read(modules, pools, harm):
    s, row = state(modules[0], False)
    refer(row, (1, 90, 11))
    for name, value in harm.items():
        s["regions"][1][name] = value
    encoded(modules, s, pools)
    from hdstack.tcp import counters

    assert s["counters"][counters.PAYLOAD_READ_BYTES] == 0
