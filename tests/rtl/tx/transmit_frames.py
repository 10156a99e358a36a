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
    """A frame as it must leave, or the frames of a TSO descriptor, and what asks for them.

    `header` are the inline bytes with the checksum fields as a driver leaves them; `references` are
    (region, generation, offset, length). `tci` asks for a VLAN tag. `fields` overrides or adds
    fields of the descriptor.
    """

    def __init__(
        self, frames, header, references=(), outcome=abi.TxOutcome.SENT, *, tci=None, **fields
    ):
        self.frames = [frames] if isinstance(frames, bytes) else frames
        self.header, self.references = header, list(references)
        self.outcome, self.tci, self.fields = outcome, tci, fields
        self.before_error = []  # segments that leave all the same

    @property
    def frame(self):
        (frame,) = self.frames
        return frame

    @property
    def cells(self):
        return abi.descriptor_cells(
            self.fields.get("header_length", len(self.header)),
            self.fields.get("references", len(self.references)),
            self.tci is not None,
        )

    def encode(self):
        """The descriptor's bytes, whole cells."""
        fields = {"header_length": len(self.header), "references": len(self.references)}
        if self.references:
            region, generation, offset, length = self.references[0]
            fields.update(
                ref_region=region, ref_generation=generation, ref_offset=offset, ref_length=length
            )
        fields["vlan"] = int(self.tci is not None)
        out = abi.DESCRIPTOR.pack(**{**fields, **self.fields})
        if self.tci is not None:
            out += abi.VLAN_TAG.pack(tci=self.tci)
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


def _ethernet(tags, tci):
    """Ethernet header; `tags` tags stand in the descriptor, behind one that the card adds."""
    packet = Ether(**_TAG)
    if tci is not None:
        packet /= Dot1Q(prio=tci >> 13, dei=tci >> 12 & 1, vlan=tci & 0xFFF)
    for tag in range(tags):
        packet /= Dot1Q(vlan=100 + tag)
    return packet


def _without_tag(header, tci):
    """The header as it stands in the descriptor."""
    return header if tci is None else header[:12] + header[16:]


def segment(
    payload, references=(), *, ipv6=False, udp=False, tags=0, options=0, sport=4000, tci=None
):
    """A TCP or UDP frame by scapy, whose `payload` lies where `references` say."""
    packet = _ethernet(tags, tci)
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
    header = bytearray(_without_tag(frame[: len(frame) - len(payload)], tci))
    # What a driver leaves: an IPv4 checksum of no meaning, and the folded pseudo-header sum.
    if not ipv6:
        header[l3 + 10 : l3 + 12] = b"\x5a\x5a"
    addresses = header[l3 + 8 : l3 + 40] if ipv6 else header[l3 + 12 : l3 + 20]
    size = len(header) + len(payload) - l4
    pseudo = bytes(addresses) + bytes([0, 17 if udp else 6]) + size.to_bytes(2, "big")
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
        tci=tci,
    )


def segmented(
    payload, references, mss, *, ipv6=False, tags=0, options=0, tcp_options=0, flags="PA", seq=1,
    ident=1, tci=None,
):  # fmt: skip
    """A TSO descriptor, and the frames that scapy makes of its parts, each on its own."""

    def packet(part, number, flags):
        packet = _ethernet(tags, tci)
        if ipv6:
            packet /= IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9)
        else:
            source = {"src": "10.77.0.2", "dst": "10.77.0.1", "flags": "DF"}
            packet /= IP(**source, id=(ident + number) & 0xFFFF, options=[IPOption_NOP()] * options)
        at = (seq + number * mss) & 0xFFFFFFFF
        nops = [("NOP", None)] * tcp_options
        return bytes(
            packet
            / TCP(sport=4000, dport=5000, seq=at, ack=77, window=99, flags=flags, options=nops)
            / Raw(part)
        )

    parts = [payload[k : k + mss] for k in range(0, len(payload), mss)]
    frames = []
    for number, part in enumerate(parts):
        kept = set(flags)
        if number:
            kept.discard("C")
        if number < len(parts) - 1:
            kept -= {"P", "F"}
        frames.append(packet(part, number, "".join(kept)))
    l3 = 14 + 4 * tags
    l4 = l3 + (40 if ipv6 else 20 + 4 * (-(-options // 4)))
    template = bytearray(_without_tag(packet(b"", 0, flags), tci))
    # What a driver leaves: lengths and IPv4 checksum of no meaning, and the folded sum of addresses
    # and protocol.
    if ipv6:
        addresses = template[l3 + 8 : l3 + 40]
        template[l3 + 4 : l3 + 6] = b"\x5a\x5a"
    else:
        addresses = template[l3 + 12 : l3 + 20]
        template[l3 + 2 : l3 + 4] = template[l3 + 10 : l3 + 12] = b"\x5a\x5a"
    template[l4 + 16 : l4 + 18] = _fold(bytes(addresses) + bytes([0, 6])).to_bytes(2, "big")
    offsets = {"l3_offset": l3, "l4_offset": l4}
    return Sent(frames, bytes(template), references, tci=tci, tso=1, mss=mss, **offsets)


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
        tci=rng.choice([None, None, rng.getrandbits(16)]),
    )


def mixed_segments(rng, memory, region, generation):
    """Any TSO descriptor of a few segments, from references of any size."""
    mss = rng.choice([64, 65, 100, 127, 128, 200, 333])
    left = rng.choice([1, mss - 1, mss, mss + 1, 2 * mss, rng.randrange(1, 5 * mss)])
    sizes = []
    while left and len(sizes) < 12:
        sizes.append(min(left, rng.choice([1, 3, 64, 65, 150, 700])))
        left -= sizes[-1]
    pieces = split(rng, memory, region, generation, sizes)
    return segmented(
        gathered(memory, pieces),
        pieces,
        mss,
        ipv6=rng.random() < 0.5,
        tags=rng.choice([0, 0, 1, 2]),
        options=rng.choice([0, 0, 4, 40]),
        tcp_options=4 * rng.choice([0, 3, 10]),
        flags=rng.choice(["A", "PA", "FA", "PAC", "FPACEU"]),
        seq=rng.choice([1, 0xFFFFFFFF - mss, 0xFFFF, rng.getrandbits(32)]),
        ident=rng.choice([1, 0xFFFF, rng.getrandbits(16)]),
        tci=rng.choice([None, rng.getrandbits(16)]),
    )


def seeded(seed):
    return random.Random(seed)
