"""Datagrams that come in fragments, or whole: to the socket that they are for, by PLACE."""

import pytest
from fragment_host import NO_RULE, PLACED, FragmentHost, cut, ethernet
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Raw
from tcp_host import ELEMENT
from udp_host import PEER, PEER6, US, US6, UdpHost

from hdsnic import abi

BYTES = bytes(k * 11 & 255 for k in range(60000))


class DatagramHost(FragmentHost, UdpHost):
    """Its card answers PLACE by a chain of buffers."""

    def move(self, queue, data, cookie):
        app = self.apps[queue]
        parts = [data[at : at + ELEMENT] for at in range(0, len(data), ELEMENT)]
        if len(parts) > len(app.posted):
            self.dropped_no_buffer += 1
            return
        elements = [app.posted.pop(0) for _ in parts]
        for element, part in zip(elements, parts, strict=True):
            assert element not in app.held, "a delivered buffer would be overwritten"
            app.pool[element * ELEMENT : element * ELEMENT + len(part)] = part
        more = b"".join(
            abi.CHAINED_BUFFER.pack(region=app.region, element=element, length=len(part))
            for element, part in list(zip(elements, parts, strict=True))[1:]
        )
        self.memory[: len(more)] = bytearray(more)
        self.m.net_input.take_chain(self.s, self.memory, 0, len(parts) - 1)
        self.m.net_receive.on_receive(
            self.s, self.area, queue, self.memory, len(more), 0, len(data), app.region,
            elements[0] * ELEMENT, min(len(app.posted), 255), PLACED, cookie, self.now,
        )  # fmt: skip
        self.m.net_input.take_chain(self.s, self.memory, 0, 0)
        self.step()


@pytest.fixture
def host():
    return DatagramHost(apps=2)


def packet(payload, six=False, port=7000, **udp):
    base = IPv6(src=PEER6, dst=US6) if six else IP(src=PEER, dst=US)
    return base / UDP(sport=5000, dport=port, **udp) / Raw(payload)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("size", [700, 2048, 2049, 9000])
def test_a_datagram_in_fragments_reaches_its_socket(host, six, size):
    number = host.bind(7000)
    assert host.give(*cut(packet(BYTES[:size], six), 552)) == []
    assert host.app.datagrams == [(number, (PEER6 if six else PEER, 5000), BYTES[:size])]
    assert host.count("placed") == host.count("whole_datagrams") == 1
    host.check_udp()
    host.check_holds()


def test_a_whole_datagram_of_a_socket_is_moved(host):
    host.bind(7000)
    host.give(ethernet() / packet(BYTES[:500]), reason=NO_RULE)
    assert [d[2] for d in host.app.datagrams] == [BYTES[:500]]


def test_one_without_a_checksum_is_taken_over_ipv4_alone(host):
    host.bind(7000)
    for number, six in enumerate((False, True)):
        whole = type(packet(b"", six))(bytes(packet(BYTES[:900], six)))
        whole[UDP].chksum = 0
        host.give(*cut(whole, 552, number=number))
    assert len(host.app.datagrams) == 1 and host.count("bad_checksum") == 1


@pytest.mark.parametrize("six", [False, True])
def test_nobodys_is_answered_and_a_wrong_sum_is_not(host, six):
    (answer,) = host.give(*cut(packet(BYTES[:900], six), 552))
    if six:
        assert answer[ICMPv6DestUnreach].code == 4
    else:
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
    host.bind(7000)
    assert host.give(*cut(packet(BYTES[:900], six, chksum=0x1234), 552, number=78)) == []
    assert host.count("bad_checksum") == 1 and host.commands == []


def test_what_is_larger_than_a_command_can_move_is_dropped_and_counted(host):
    host.bind(7000)
    assert host.give(*cut(packet(BYTES[:9019]), 1400)) == []
    assert host.count("place_no_room") == 1 and host.app.datagrams == []
    assert host.holds(0) == host.tables.HOLDS


def test_without_buffers_it_is_lost(host):
    host.bind(7000)
    host.app.posted, kept = [], host.app.posted
    host.give(*cut(packet(BYTES[:900]), 552))
    host.now += 1 << 30
    host.deadline()
    assert host.count("place_dropped") == 1 and host.holds(0) == host.tables.HOLDS
    host.app.posted = kept
    host.give(*cut(packet(BYTES[:900]), 552, number=78))
    assert [d[2] for d in host.app.datagrams] == [BYTES[:900]]
    host.check_udp()
