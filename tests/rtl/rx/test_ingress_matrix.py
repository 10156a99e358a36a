"""Well-formed frames of every kind: what the parser finds is what scapy built."""

import itertools

import pytest
from frames import ethernet, network, options_of, pad, payload_of, routing, transport
from ingress_bench import run, small
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop
from scapy.packet import Raw
from setting import PORT, QUEUE, Listener, Setting

from hdsnic.abi import RxOutcome

WIDTHS = (8, 16, 32, 64)
SIZES = (0, 1, 6, 7, 8, 64, 65, 700)
NO_EXTENSION = (4, "options", 6)
HOP, NOTHING = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()
CHAINS = {
    "hop-by-hop": [HOP],
    "destination": [NOTHING],
    "routing": [routing()],
    "routing of 8": [routing(size=8)],
    "all": [HOP, NOTHING, routing(), NOTHING],
    "routing four times": [routing(size=8)] * 4,
    "one of 56": [options_of(56)],
    "one of 64, then routing": [options_of(64), routing(size=8)],
    "sizes": [options_of(16, IPv6ExtHdrHopByHop), options_of(24), routing(size=40), options_of(8)],
    "17 headers": [HOP] + [NOTHING] * 16,
}


def frames_of(kind, tags, version, chain, size, options):
    packet = ethernet(tags) / network(version)
    for header in chain:
        packet /= header
    packet /= transport(kind, version, options=options) if options else transport(kind, version)
    if size:
        packet /= Raw(payload_of(size, start=size))
    return packet


def matrix(kind, extended):
    """Frames of a protocol with all that the ingress should find in them."""
    if extended:
        variants = [(6, chain) for chain in CHAINS.values()]
        sizes = (0, 1, 100)
    else:
        variants = [(version, []) for version in NO_EXTENSION]
        sizes = SIZES
    for tags, (version, chain), size in itertools.product((0, 1, 2), variants, sizes):
        for options in ((), [("MSS", 1460), ("Timestamp", (1, 2))], [("NOP", None)] * 40):
            if options and (kind != "tcp" or size not in (0, 1, 65)):
                continue
            packet = frames_of(kind, tags, version, chain, size, options)
            raw = pad(packet)
            found = {
                "bytes": raw,
                "length": len(raw),
                "vlan_tags": tags,
                "ipv6": int(version == 6),
                "checksum_good": int(kind != "icmp"),
                "hash": 0,
            }
            header = len(bytes(packet)) - size
            if kind == "icmp" or header > 256:
                found |= {"header_length": len(raw), "payload_length": 0, "queue": 0, "tag": 0}
                found["reason"] = RxOutcome.NOT_TCP if kind == "icmp" else RxOutcome.LONG_HEADER
            else:
                found["header_length"] = header
                found["payload_length"] = size
                found["reason"] = RxOutcome.SPLIT if size else RxOutcome.HEADER_ONLY
                found |= {"queue": QUEUE, "tag": 5 if kind == "tcp" else 6}
            yield found


@pytest.mark.parametrize("bus_bytes", WIDTHS)
@pytest.mark.parametrize("kind", ("tcp", "udp", "icmp"))
@pytest.mark.parametrize("extended", (False, True))
def test_every_kind_of_frame_is_found_as_scapy_built_it(kind, extended, bus_bytes):
    expected = list(matrix(kind, extended))
    setting = Setting(
        listeners=(*Setting().listeners, Listener(6, PORT, QUEUE, udp=True)),
        udp_split=1 << QUEUE,
    )
    result = run([e["bytes"] for e in expected], small(bus_bytes), setting)
    assert not result.outcomes
    for got, want in zip(result.frames, expected, strict=True):
        assert got == want
