"""A host whose card brings fragments and whole frames to queue 0, and knows PLACE.

scapy makes the fragments and reads what comes back.
"""

import ipaddress

import numpy as np
from scapy.layers.inet import IP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tcp_host import ELEMENT, QUEUE, REGION, Host, S, Script, load

from hdsnic.abi import RxOutcome

PEER, US = "10.77.0.1", "10.77.0.2"
PEER6, US6 = "fd00:77::1", "fd00:77::2"
OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
FRAGMENT, NO_RULE, PLACED = (
    int(r) for r in (RxOutcome.FRAGMENT, RxOutcome.NO_RULE, RxOutcome.PLACED)
)


def ethernet():
    return Ether(src=PEER_MAC, dst=OUR_MAC)


def fragments4(packet, size=600, number=77):
    """Frames of an IPv4 packet cut into fragments of `size` bytes of data."""
    packet = packet.copy()
    packet[IP].id, packet[IP].flags = number, 0
    return [bytes(ethernet() / part) for part in fragment(packet, fragsize=size)]


def fragments6(packet, size=600, number=77):
    """The same of an IPv6 packet; `size` includes its headers."""
    header = IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrFragment(id=number, nh=packet.nh)
    whole = header / packet.payload
    return [bytes(ethernet() / part) for part in fragment6(IPv6(bytes(whole)), size)]


def cut(packet, size=600, number=77):
    """Fragments of a packet of either family, its checksums made before."""
    whole = type(packet)(bytes(packet))
    return (fragments6 if IPv6 in whole else fragments4)(whole, size, number)


def piece(packet, offset, length, more, number=77, frame=ethernet()):
    """The frame of one fragment, of whatever shape: bytes `offset` to `offset` + `length`."""
    data = bytes(type(packet)(bytes(packet)).payload)[offset : offset + length]
    if IPv6 in packet:
        protocol = IPv6(bytes(packet)).nh
        header = IPv6(src=packet.src, dst=packet.dst)
        header /= IPv6ExtHdrFragment(nh=protocol, offset=offset // 8, m=more, id=number)
        return bytes(frame / header / Raw(data))
    protocol = IP(bytes(packet)).proto
    header = IP(src=packet.src, dst=packet.dst, proto=protocol, id=number,
                frag=offset // 8, flags="MF" if more else 0)  # fmt: skip
    return bytes(frame / header / Raw(data))


class FragmentHost(Host):
    """A host with an area in header memory; `lost` commands stay without an answer."""

    def __init__(self, compiled=False, **more):
        super().__init__(load(compiled), place_bytes=9018, **more)
        for text in (US6, "fe80::2"):
            address = self.tables.split_address(ipaddress.ip_address(text))
            self.tables.add_address(self.s, *address, 64)
        self.area = np.zeros(self.tables.AREA_BYTES, np.uint8)
        self.lost = False
        self.refuses = False
        self.commands = []

    def renew(self):
        """As if nothing had ever come: for the examples of a property, since a host is large."""
        s = self.s
        s["holds"]["state"] = 0
        s["counters"][:] = 0
        s["control"]["holds_due"] = self.tables.NEVER
        self.now += 60 * S  # answers are not limited by those of the last example
        self.transmit()
        return self

    def hand_in(self, frame, reason=FRAGMENT):
        """The record of a whole frame on queue 0."""
        self.memory[10 : 10 + len(frame)] = np.frombuffer(frame, np.uint8)
        self.m.net_receive.on_receive(
            self.s, self.area, 0, self.memory, 10, len(frame), 0, -1, 0, 0, reason, 0, self.now
        )

    def give(self, *frames, reason=FRAGMENT):
        """Hand frames in, let the card do what it is told; what goes out, read by scapy."""
        for frame in frames:
            self.hand_in(bytes(frame), reason)
            self.place()
        self.step()
        return [Ether(frame) for frame in self.transmit()]

    def place(self, most=1000):
        """The card's turn: carry out commands."""
        while most and self.m.net_placing.next_place(self.s):
            most -= 1
            cookie, queue, at, length = (int(n) for n in self.s["place"].tolist())
            self.commands.append((cookie, queue, length))
            if self.lost:
                continue
            if not self.refuses:
                self.move(queue, self.area[at : at + length].tobytes(), cookie)
            self.m.net_placing.place_answered(self.s, cookie, self.refuses, self.now)

    def move(self, queue, data, cookie):
        app = self.apps[queue]
        if not app.posted:
            self.dropped_no_buffer += 1
            return
        assert len(data) <= ELEMENT
        element = app.posted.pop(0)
        assert element not in app.held, "a delivered buffer would be overwritten"
        app.pool[element * ELEMENT : element * ELEMENT + len(data)] = data
        self.m.net_receive.on_receive(
            self.s, self.area, queue, self.memory, 0, 0, len(data), app.region, element * ELEMENT,
            min(len(app.posted), 255), PLACED, cookie, self.now,
        )  # fmt: skip
        self.step()

    def deadline(self):
        """Let the tables do what is due."""
        return int(self.m.net_receive.on_deadline(self.s, self.area, self.now))

    def holds(self, state):
        return int((self.s["holds"]["state"] == state).sum())

    def check_holds(self):
        """What is said of the holds is what they are."""
        moving = self.s["holds"]["state"] == self.m.net_fragments.MOVING
        assert self.s["control"]["moving"] == moving.sum()
        busy = self.s["holds"][self.s["holds"]["state"] != 0]
        if len(busy):
            assert self.s["control"]["holds_due"] <= busy["due"].min()


def opened(host, port=80, sport=40000):
    """A connection of a peer made by hand, with a listener on `port`."""
    host.listen(port)
    script = Script(host, port=port, sport=sport)
    script.open(mss=1460)
    return script


__all__ = [
    "FRAGMENT", "NO_RULE", "OUR_MAC", "PEER", "PEER6", "PEER_MAC", "PLACED", "QUEUE", "REGION",
    "US", "US6", "FragmentHost", "cut", "ethernet", "opened", "piece",
]  # fmt: skip
