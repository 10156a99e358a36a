"""Frames for the transmit benches: scapy makes the whole frame, the driver's part is derived."""

import random

from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from hdsnic import abi

_TAG = {"dst": "02:00:00:00:00:01", "src": "02:00:00:00:00:02"}


def random_bytes(rng, size):
    return bytes(rng.getrandbits(8) for _ in range(size))


class Sent:
    """A frame as it must leave, and the descriptor that asks for it.

    `header` are the inline bytes with the checksum fields as a driver leaves them; `references` are
    (region, generation, offset, length). `fields` overrides or adds fields of the descriptor.
    """

    def __init__(self, frame, header, references=(), outcome=abi.TxOutcome.SENT, **fields):
        self.frame, self.header, self.references = frame, header, list(references)
        self.outcome, self.fields = outcome, fields

    @property
    def cells(self):
        return abi.descriptor_cells(
            self.fields.get("header_length", len(self.header)),
            self.fields.get("references", len(self.references)),
        )

    def encode(self):
        """The descriptor's bytes, whole cells."""
        fields = {"header_length": len(self.header), "references": len(self.references)}
        if self.references:
            region, generation, offset, length = self.references[0]
            fields.update(
                ref_region=region, ref_generation=generation, ref_offset=offset, ref_length=length
            )
        out = abi.DESCRIPTOR.pack(**{**fields, **self.fields})
        for region, generation, offset, length in self.references[1:]:
            out += abi.REFERENCE.pack(
                region=region, generation=generation, offset=offset, length=length
            )
        out += self.header
        # Padding is anything but zero, so that a byte of it in a frame would be seen.
        return out + b"\xa5" * (self.cells * abi.CELL_BYTES - len(out))


def plain(rng, size, references=(), memory=None, **fields):
    """A frame without checksums: random header bytes, then the referenced bytes of `memory`."""
    header = random_bytes(rng, size)
    return Sent(header + gathered(memory, references), header, references, **fields)


def gathered(memory, references):
    return b"".join(
        memory[region][offset : offset + length] for region, _, offset, length in references
    )


def _fold(data):
    total = sum(int.from_bytes(data[k : k + 2], "big") for k in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def segment(payload, references=(), *, ipv6=False, udp=False, tags=0, options=0, sport=4000):
    """A TCP or UDP frame by scapy, whose `payload` lies where `references` say."""
    packet = Ether(**_TAG)
    for tag in range(tags):
        packet /= Dot1Q(vlan=100 + tag)
    l3 = 14 + 4 * tags
    if ipv6:
        packet /= IPv6(src="2001:db8::1", dst="2001:db8::2")
        l4 = l3 + 40
    else:
        packet /= IP(src="10.77.0.2", dst="10.77.0.1", options=[IPOption_NOP()] * options)
        l4 = l3 + 20 + 4 * (-(-options // 4))
    if udp:
        packet /= UDP(sport=sport, dport=5000)
    else:
        packet /= TCP(sport=sport, dport=5000, seq=sport * 77, ack=9, flags="PA")
    frame = bytes(packet / Raw(payload))
    header = bytearray(frame[: len(frame) - len(payload)])
    # What a driver leaves: an IPv4 checksum of no meaning, and the folded pseudo-header sum.
    if not ipv6:
        header[l3 + 10 : l3 + 12] = b"\x5a\x5a"
    addresses = frame[l3 + 8 : l3 + 40] if ipv6 else frame[l3 + 12 : l3 + 20]
    pseudo = addresses + bytes([0, 17 if udp else 6]) + (len(frame) - l4).to_bytes(2, "big")
    field = l4 + (6 if udp else 16)
    header[field : field + 2] = _fold(pseudo).to_bytes(2, "big")
    if not references:  # the payload stands in the descriptor
        header += payload
    return Sent(
        frame,
        bytes(header),
        references,
        l3_offset=l3,
        l4_offset=l4,
        ipv4_checksum=int(not ipv6),
        tcp_checksum=int(not udp),
        udp_checksum=int(udp),
    )


def split(rng, memory, region, generation, sizes):
    """References of these sizes at random places of a region."""
    return [
        (region, generation, rng.randrange(len(memory[region]) - size + 1), size) for size in sizes
    ]


def mixed(rng, memory, region, generation, sport=4000):
    """Any frame that the card must send."""
    references = rng.choice([0, 0, 1, 1, 1, 2, 3, 7])
    sizes = [rng.choice([1, 2, 7, 63, 64, 65, rng.randrange(1, 200)]) for _ in range(references)]
    pieces = split(rng, memory, region, generation, sizes)
    payload = gathered(memory, pieces) or random_bytes(rng, rng.randrange(90))
    return segment(
        payload,
        pieces,
        ipv6=rng.random() < 0.4,
        udp=rng.random() < 0.4,
        tags=rng.choice([0, 0, 1, 2]),
        options=rng.choice([0, 0, 4, 40]),
        sport=sport,
    )


def seeded(seed):
    return random.Random(seed)
