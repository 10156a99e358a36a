"""Random settings of the ingress, random frames, good and damaged: for its benches and the card."""

from frame_oracle import packed
from frames import (
    edit,
    ethernet,
    ip_offset,
    network,
    options_of,
    pad,
    payload_of,
    refresh,
    routing,
    transport,
)
from scapy.layers.inet6 import IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.packet import Raw
from setting import OWN_IPV4, OWN_IPV6, Exact, Listener, Setting
from toeplitz import KEY

PORTS = (80, 80, 81, 82, 83)
SOURCES = range(40000, 40012)
SIZES = (0, 1, 2, 5, 17, 64, 200, None)
"""Sizes of payloads; None: any below 600."""


def random_setting(chance, parameters):
    """Rules of all kinds, so that most frames find one."""
    rules, taken = [], set()
    for _ in range(20):
        version = chance.choice((4, 6))
        rule = Exact(
            packed("10.77.0.1" if version == 4 else "fd00:77::1"),
            chance.choice(SOURCES),
            packed(OWN_IPV4 if version == 4 else OWN_IPV6),
            chance.choice(PORTS),
            queue=chance.randrange(4),
            way=chance.randrange(2),
            udp=chance.random() < 0.3,
            rss=chance.random() < 0.3,
        )
        flow = (rule.remote, rule.remote_port, rule.local_port, rule.udp)
        if rule.slot(parameters) not in taken and flow not in taken:
            taken |= {rule.slot(parameters), flow}
            rules.append(rule)
    return Setting(
        listeners=(
            Listener(0, 82, 2, last=83, rss=True),
            Listener(5, 80, 3),
            Listener(6, 80, 5, udp=True),
            Listener(7, 82, 1, udp=True, rss=True),
            Listener(8, 83, 7, udp=True),
        ),
        exact=tuple(rules),
        rss={n: (KEY if n else chance.randbytes(40), tuple(range(n, 16))) for n in range(4)},
        udp_split=chance.getrandbits(16) & ~(1 << 7) | 1 << 5,
        deliver_malformed=chance.random() < 0.5,
    )


def random_chain(chance):
    """Extension headers, now and then one that is not passed over."""
    chain = [options_of(8 * chance.randrange(1, 4), IPv6ExtHdrHopByHop)] * chance.randrange(2)
    for _ in range(chance.choice((0, 1, 2, 5, 20))):
        chain.append(
            chance.choice(
                (
                    options_of(8 * chance.choice((1, 1, 2, 3, 8, 20))),
                    routing(int(chance.random() < 0.05), chance.choice((8, 8, 24))),
                )
            )
        )
    if chance.random() < 0.1:
        chain.append(IPv6ExtHdrFragment(offset=chance.randrange(3)))
    return chain


def random_frame(chance, *, payload=None, sizes=SIZES, serial=None):
    """A frame of a random kind; often cut, extended, flipped, or with a field out of range.

    `payload` makes that of a size; by default bytes that differ from lane to lane. `serial` goes
    where a field of the headers may say anything, so that frames can be told apart.
    """
    version = chance.choice((4, 4, "options", 6, 6))
    kind = chance.choice(("tcp", "tcp", "tcp", "udp", "udp", "icmp"))
    layers = ethernet(chance.randrange(3)) / network(
        version,
        destination=chance.choice((None, None, None, "10.0.0.1" if version != 6 else "::1")),
        **({} if serial is None else {"fl" if version == 6 else "id": serial}),
    )
    if version == 6 and chance.random() < 0.5:
        for header in random_chain(chance):
            layers /= header
    l4 = transport(kind, version, port=chance.choice(PORTS), source=chance.choice(SOURCES))
    if kind == "tcp":
        l4.flags = chance.choice(("A", "PA", "S", "FA", "R"))
        l4.options = [("NOP", None)] * (4 * chance.randrange(11))
        l4.seq = 1000 if serial is None else serial
    packet = layers / l4
    size = chance.choice(sizes)
    size = chance.randrange(600) if size is None else size
    if size:
        packet /= Raw(payload(size) if payload else payload_of(size, chance.randrange(256)))
    raw = bytes(packet)
    damage = chance.randrange(12)
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
