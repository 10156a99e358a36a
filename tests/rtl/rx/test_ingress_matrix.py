"""Well-formed frames of every kind: what the parser finds is what scapy built."""

import itertools

import pytest
from frames import ethernet, network, pad, payload_of, transport
from ingress_bench import QUEUE, run, small
from scapy.packet import Raw

from hdsnic.abi import RxOutcome

WIDTHS = (8, 64)
SIZES = (0, 1, 6, 7, 8, 64, 65, 700)


def matrix(kind):
    """Frames of a protocol with all that the ingress should find in them."""
    for tags, version, size in itertools.product((0, 1, 2), (4, "options", 6), SIZES):
        for options in ((), [("MSS", 1460), ("Timestamp", (1, 2))], [("NOP", None)] * 40):
            if options and (kind != "tcp" or size not in (0, 1, 65)):
                continue
            l4 = transport(kind, version, options=options) if options else transport(kind, version)
            packet = ethernet(tags) / network(version) / l4
            if size:
                packet /= Raw(payload_of(size, start=size))
            raw = pad(packet)
            found = {
                "bytes": raw,
                "length": len(raw),
                "vlan_tags": tags,
                "ipv6": int(version == 6),
                "checksum_good": int(kind != "icmp"),
                "queue": 0,
                "tag": 0,
                "hash": 0,
            }
            if kind == "tcp":
                reason = RxOutcome.SPLIT if size else RxOutcome.HEADER_ONLY
                header = len(bytes(packet)) - size
                found |= {"header_length": header, "payload_length": size, "reason": reason}
                found |= {"queue": QUEUE, "tag": 5}
            else:
                found |= {"header_length": len(raw), "payload_length": 0}
                found["reason"] = RxOutcome.NOT_TCP
            yield found


@pytest.mark.parametrize("bus_bytes", WIDTHS)
@pytest.mark.parametrize("kind", ("tcp", "udp", "icmp"))
def test_every_kind_of_frame_is_found_as_scapy_built_it(kind, bus_bytes):
    expected = list(matrix(kind))
    result = run([e["bytes"] for e in expected], small(bus_bytes))
    assert not result.outcomes
    for got, want in zip(result.frames, expected, strict=True):
        assert got == want
