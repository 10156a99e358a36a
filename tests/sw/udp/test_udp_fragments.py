"""Datagrams in fragments, or whole on queue 0: to the buffers of their socket, by PLACE."""

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from tcp_host import ELEMENT, QUEUE, load
from udp_host import OUR_MAC, PEER, PEER6, PEER_MAC, US, US6, UdpHost, datagram

from hdsnic import abi
from hdsnic.abi import RxOutcome

FRAGMENT, NO_RULE, PLACED = (
    int(r) for r in (RxOutcome.FRAGMENT, RxOutcome.NO_RULE, RxOutcome.PLACED)
)


def pattern(length, seed=0):
    return bytes((seed + 7 * k + k // 251) & 255 for k in range(length))


def cut(payload, v6=False, dport=7000, number=77, size=1400, **udp):
    """Frames of a datagram in fragments; scapy makes the checksum before it cuts."""
    transport = UDP(sport=5000, dport=dport, **udp) / payload
    frame = Ether(src=PEER_MAC, dst=OUR_MAC)
    if not v6:
        whole = IP(bytes(IP(src=PEER, dst=US, id=number) / transport))
        return [bytes(frame / part) for part in fragment(whole, fragsize=size)]
    whole = IPv6(bytes(IPv6(src=PEER6, dst=US6) / transport))
    header = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrFragment(id=number, nh=17)
    return [bytes(frame / part) for part in fragment6(IPv6(bytes(header / whole.payload)), size)]


class PlacingHost(UdpHost):
    """A host whose card brings fragments whole to queue 0, and carries out PLACE."""

    def __init__(self, **more):
        super().__init__(load(False), place_bytes=9018, **more)
        self.area = np.zeros(self.tables.AREA_BYTES, np.uint8)

    def on_receive(self, queue, at, header, payload, buffers, reason, cookie):
        region, element, _ = buffers[0] if buffers else (-1, 0, 0)
        left = min(len(self.apps[queue].posted), 255) if queue else 0
        self.m.net_receive.on_receive(
            self.s, self.area, queue, self.memory, at, header, payload, region,
            element * ELEMENT, left, reason, cookie, self.now,
        )  # fmt: skip

    def hand_in(self, frame, reason=FRAGMENT):
        self.memory[64 : 64 + len(frame)] = np.frombuffer(frame, np.uint8)
        self.m.net_input.take_chain(self.s, self.memory, 64, 0)
        self.on_receive(0, 64, len(frame), 0, [], reason, 0)

    def give(self, frames, reason=FRAGMENT):
        for frame in frames:
            self.hand_in(frame, reason)
        while self.m.net_placing.next_place(self.s):
            cookie, queue, at, length = (int(n) for n in self.s["place"].tolist())
            self.move(queue, self.area[at : at + length].tobytes(), cookie)
            self.m.net_placing.place_answered(self.s, cookie, False, self.now)
        self.step()

    def move(self, queue, data, cookie):
        """PLACE: into a chain of posted buffers, or nowhere."""
        app = self.apps[queue]
        parts = [data[at : at + ELEMENT] for at in range(0, len(data), ELEMENT)]
        if len(parts) > len(app.posted):
            self.dropped_no_buffer += 1
            return
        buffers = []
        for part in parts:
            element = app.posted.pop(0)
            app.pool[element * ELEMENT : element * ELEMENT + len(part)] = part
            buffers.append((app.region, element, len(part)))
        more = b"".join(
            abi.CHAINED_BUFFER.pack(region=region, element=element, length=length)
            for region, element, length in buffers[1:]
        )
        self.memory[64 : 64 + len(more)] = np.frombuffer(more, np.uint8)
        self.m.net_input.take_chain(self.s, self.memory, 64, len(buffers) - 1)
        self.on_receive(queue, 64 + len(more), 0, len(data), buffers, PLACED, cookie)


@pytest.fixture
def host():
    host = PlacingHost(apps=2)
    yield host
    host.check_udp()
    assert (host.s["holds"]["state"] == 0).all()


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("length", [1473, 2048, 2049, 5000, 8900])
def test_a_datagram_in_fragments_reaches_its_socket_whole(host, v6, length):
    number = host.bind(7000)
    host.app.auto = False
    host.give(cut(pattern(length), v6))
    assert host.app.datagrams == [(number, (PEER6 if v6 else PEER, 5000), pattern(length))]
    assert len(host.app.held) == -(-length // ELEMENT) and host.count("placed") == 1
    for element, (owner, _) in list(host.app.held.items()):
        host.release(owner, [element], None)


def test_without_a_checksum_over_ipv4_it_is_taken_and_with_a_wrong_one_dropped(host):
    host.bind(7000)
    host.give(cut(pattern(3000), chksum=0))
    host.give(cut(pattern(3000), number=78, chksum=0x1234))
    assert [d[2] for d in host.app.datagrams] == [pattern(3000)]
    assert host.count("bad_checksum") == 1


def test_a_whole_datagram_that_missed_its_rule_is_moved(host):
    host.bind(7000)
    host.give([datagram(b"past the rule")], NO_RULE)
    host.give([datagram(b"")], NO_RULE)
    assert [d[2] for d in host.app.datagrams] == [b"past the rule", b""]
    assert host.count("whole_datagrams") == 1 == host.count("placed")


def test_fragments_go_to_the_application_that_has_the_port_and_to_its_peer_only(host):
    host.bind(7000)
    other = host.bind(7001, queue=QUEUE + 1)
    host.peer(other, PEER, 5000, queue=QUEUE + 1)
    host.give(cut(pattern(3000), dport=7001))
    host.give(cut(pattern(3000, 1), True, dport=7001))  # not from its peer
    assert host.app.datagrams == []
    assert [d[2] for d in host.apps[QUEUE + 1].datagrams] == [pattern(3000)]


def test_nobody_is_told_by_icmp_as_of_a_whole_one(host):
    host.give(cut(pattern(3000)))
    (answer,) = host.sent_frames()
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)


def test_a_socket_that_is_closed_meanwhile_gets_its_buffers_back(host):
    number = host.bind(7000)
    for frame in cut(pattern(5000)):
        host.hand_in(frame)
    host.unbind(number)
    host.give([])
    assert host.app.datagrams == [] and len(host.app.posted) == host.app.buffers


def test_without_buffers_it_is_lost_and_nothing_stays_behind(host):
    host.bind(7000)
    kept, host.app.posted = host.app.posted, []
    host.give(cut(pattern(5000)))
    host.app.posted = kept
    host.now += 10_000_000_000
    host.m.net_receive.on_deadline(host.s, host.area, host.now)
    host.give(cut(pattern(5000), number=78))
    assert [d[2] for d in host.app.datagrams] == [pattern(5000)]
