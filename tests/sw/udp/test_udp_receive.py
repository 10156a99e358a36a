"""Datagrams in: whole, of every size, to the socket that they are for; what is dropped, and how
buffers come back (R21, R22)."""

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether
from tcp_host import ELEMENT, QUEUE, Script, load
from udp_host import OUR_MAC, PEER, PEER6, PEER_MAC, US, US6, UdpHost, datagram

from hdstack.tcp.events import Family, RequestKind


@pytest.fixture
def host():
    host = UdpHost(load(False), apps=2)
    yield host
    host.check_udp()


def pattern(length, seed=0):
    return bytes((seed + 7 * k + k // 251) & 255 for k in range(length))


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 17, 18, 19, 1452, 1472])
def test_datagrams_of_every_size_come_whole_with_their_source(host, v6, length):
    number = host.bind(7000)
    host.receive(datagram(pattern(length), v6=v6, sport=1234))
    assert host.app.datagrams == [(number, (PEER6 if v6 else PEER, 1234), pattern(length))]
    assert host.count("datagrams_in") == 1 and len(host.app.posted) == host.app.buffers


def test_a_datagram_of_no_bytes_takes_no_buffer(host):
    host.bind(7000)
    host.app.auto = False
    host.receive(datagram(b""))
    assert host.app.datagrams[0][2] == b"" and not host.app.held


@pytest.mark.parametrize("length", [ELEMENT, ELEMENT + 1, 3 * ELEMENT, 8972])
def test_a_datagram_larger_than_a_buffer_comes_in_a_chain(host, length):
    number = host.bind(7000)
    host.app.auto = False
    host.receive(datagram(pattern(length)))
    assert host.app.datagrams == [(number, (PEER, 5000), pattern(length))]
    assert len(host.app.held) == -(-length // ELEMENT)


def test_a_chain_that_nobody_takes_is_given_back_whole(host):
    number = host.bind(7000)
    host.peer(number)
    host.receive(datagram(pattern(5000), sport=1))
    assert host.app.datagrams == [] and len(host.app.posted) == host.app.buffers


def test_ip_options_and_extension_headers_do_not_matter(host):
    host.bind(7000)
    udp = UDP(sport=5000, dport=7000)
    frame = Ether(src=PEER_MAC, dst=OUR_MAC)
    options = [IPOption(b"\x07\x07\x04\0\0\0\0")]
    host.receive(bytes(frame / IP(src=PEER, dst=US, options=options) / udp / b"with options"))
    assert host.app.datagrams[-1][2] == b"with options"
    extended = bytes(frame / IPv6(src=PEER6, dst=US6) / IPv6ExtHdrDestOpt() / udp / b"extended")
    element = host.app.posted.pop(0)
    host.app.pool[element * ELEMENT : element * ELEMENT + 8] = b"extended"
    host.record(QUEUE, extended[:-8], b"extended", [(host.app.region, element, 8)])
    assert host.app.datagrams[-1][2] == b"extended"


def test_a_datagram_shorter_than_its_ip_packet_ends_where_it_says(host):
    """RFC 768: Length; the rest is nobody's."""
    host.bind(7000)
    frame = datagram(b"12345678", len=12, chksum=0)
    host.receive(frame)
    assert host.app.datagrams[0][2] == b"1234"


def test_without_a_checksum_over_ipv4_it_is_taken(host):
    """RFC 768; over IPv6 the card drops it (RFC 8200 section 8.1)."""
    host.bind(7000)
    host.receive(datagram(b"no sum", chksum=0))
    assert host.app.datagrams[0][2] == b"no sum"


def test_source_port_zero_is_no_source_port_and_taken(host):
    host.bind(7000)
    host.receive(datagram(b"no answer wanted", sport=0))
    assert host.app.datagrams[0][1] == (PEER, 0)


@pytest.mark.parametrize("length", [0, 7, 40])
def test_impossible_lengths_are_dropped_and_the_buffer_comes_back(host, length):
    host.bind(7000)
    good = datagram(b"12345678")
    bad = bytearray(good)
    bad[38:40] = length.to_bytes(2, "big")
    element = host.app.posted.pop(0)
    host.record(QUEUE, bytes(bad[:42]), b"12345678", [(host.app.region, element, 8)])
    assert host.app.datagrams == [] and host.count("bad_datagram") == 1
    assert len(host.app.posted) == host.app.buffers


def unreachable(host, v6):
    (packet,) = host.sent_frames()
    if v6:
        assert packet[IPv6].dst == PEER6 and packet[ICMPv6DestUnreach].code == 4
        return bytes(packet[ICMPv6DestUnreach])[8:]
    assert packet[IP].dst == PEER and (packet[ICMP].type, packet[ICMP].code) == (3, 3)
    return bytes(packet[ICMP])[8:]


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("length", [0, 100])
def test_a_port_that_nobody_has_is_answered_by_unreachable(host, v6, length):
    """RFC 1122 section 4.1.3.1."""
    host.receive(datagram(pattern(length), v6=v6))
    assert unreachable(host, v6) == datagram(pattern(length), v6=v6)[14:]
    assert host.count("no_socket") == 1


@pytest.mark.parametrize("v6", [False, True])
def test_a_fixed_peer_keeps_all_others_out(host, v6):
    """A stranger is told so; what the card has split off is not quoted (RFC 792: 8 bytes)."""
    number = host.bind(7000)
    host.peer(number, PEER6 if v6 else PEER, 5000)
    host.receive(datagram(b"from the peer", v6=v6))
    assert host.sent_frames() == []
    stranger = datagram(b"from another port", v6=v6, sport=5001)
    host.receive(stranger)
    assert stranger[14:].startswith(unreachable(host, v6)[: 48 if v6 else 28])
    host.receive(datagram(b"of the other family", v6=not v6))
    assert [d[2] for d in host.app.datagrams] == [b"from the peer"]
    assert len(host.app.posted) == host.app.buffers


def test_a_socket_that_waits_for_its_peer_hears_nobody(host):
    number = host.bind(7000, silent=1)
    host.receive(datagram(b"too early"))
    assert host.app.datagrams == []
    host.peer(number)
    host.receive(datagram(b"in time"))
    assert [d[2] for d in host.app.datagrams] == [b"in time"]


def test_a_socket_of_one_family_takes_nothing_of_the_other(host):
    host.bind(7000, family=Family.IPV4)
    host.receive(datagram(b"six", v6=True))
    host.receive(datagram(b"four"))
    assert [d[2] for d in host.app.datagrams] == [b"four"]


def test_each_application_sees_its_own_datagrams_only(host):
    host.bind(7000)
    host.bind(7001, queue=QUEUE + 1)
    for k in range(20):
        host.receive(datagram(pattern(100, k), dport=7000 + k % 2))
    for queue in (QUEUE, QUEUE + 1):
        seen = [d[2] for d in host.apps[queue].datagrams]
        assert seen == [pattern(100, k) for k in range(20) if k % 2 == queue - QUEUE]


def test_what_an_application_does_not_release_is_bounded_and_the_rest_comes_back(host):
    host = UdpHost(load(False), buffers=256)
    number, other = host.bind(7000), host.bind(7001, socket=2)
    host.app.auto = False
    for k in range(150):
        host.receive(datagram(pattern(50, k)))
    assert len(host.app.datagrams) == 96 == host.s["endpoints"][16]["held"]
    assert host.count("datagrams_refused") == 54
    assert len(host.app.posted) == 256 - 96
    for k in range(50):
        host.receive(datagram(pattern(50, k), dport=7001))
    assert len([d for d in host.app.datagrams if d[0] == other]) == 256 // 2 - 96
    for element, (owner, _) in list(host.app.held.items())[:10]:
        host.release(owner, [element], None)
    host.receive(datagram(b"room again"))
    assert host.app.datagrams[-1] == (number, (PEER, 5000), b"room again")
    host.check_udp()


def test_datagrams_of_no_bytes_are_bounded_too(host):
    host.bind(7000)
    host.app.auto = False
    for _ in range(100):
        host.receive(datagram(b""))
    assert len(host.app.datagrams) == 32  # half of 64 buffers
    host.request(RequestKind.TAKEN, connection=host.app.datagrams[0][0], length=32)
    host.receive(datagram(b""))
    assert len(host.app.datagrams) == 33


def test_without_buffers_the_card_drops_and_nobody_else_notices(host):
    host.bind(7000)
    host.bind(7001, queue=QUEUE + 1)
    host.app.posted.clear()
    host.app.held = dict.fromkeys(range(host.app.buffers))
    host.receive(datagram(b"lost"))
    host.receive(datagram(b"kept", dport=7001))
    assert host.dropped_no_buffer == 1
    assert [d[2] for d in host.apps[QUEUE + 1].datagrams] == [b"kept"]


def test_a_datagram_in_header_memory_is_dropped_and_nobody_is_told_that_the_port_is_closed(host):
    host.bind(7000)
    host.record(0, datagram(b"past the rule"), b"", [])
    assert host.app.datagrams == [] and host.count("whole_datagrams") == 1
    assert host.sent_frames() == []


def test_a_datagram_in_the_memory_of_another_application_goes_to_nobody(host):
    host.bind(7000, queue=QUEUE + 1)
    frame = datagram(b"astray")
    element = host.app.posted.pop(0)
    host.record(QUEUE, frame[:42], b"astray", [(host.app.region, element, 6)])
    assert host.count("foreign_payload") == 1 and host.apps[QUEUE + 1].datagrams == []
    assert len(host.app.posted) == host.app.buffers and host.sent_frames() == []


def test_windows_of_tcp_leave_out_what_udp_may_take(host):
    """R22: what is promised stays within the buffers that are left."""
    host.listen(80)
    script = Script(host)
    script.open()
    for _ in range(40):  # the promise grows as data comes
        at = int(script.row["rcv_nxt"]) - int(script.row["irs"])
        script.give(16, seq=at, ack=1, payload=bytes(1000))
    alone = int(host.s["queues"][QUEUE]["promised"])
    host.bind(7000)
    q, u = host.s["queues"][QUEUE], host.s["udp"][QUEUE]
    for _ in range(60):
        at = int(script.row["rcv_nxt"]) - int(script.row["irs"])
        script.give(16, seq=at, ack=1, payload=bytes(1000))
    assert q["promised"] <= (host.app.buffers // 2) * q["average"] + 1460 < alone
    host.app.auto = False
    for k in range(64):
        host.receive(datagram(pattern(10, k)))
    assert u["held"] == 32 and q["average"] > 900  # small datagrams say nothing about segments
    assert len(host.app.posted) * 1000 >= q["promised"]


def windows(flood):
    """The windows that a peer of TCP is told while datagrams come, or do not, and are held."""
    host = UdpHost(load(False))
    host.listen(80)
    script = Script(host)
    script.open()
    number = host.bind(7000)
    host.app.auto = False
    found = []
    for k in range(80):
        if flood:
            host.receive(datagram(pattern(10, k)))
        found += [answer.window for answer in script.give(16, 1 + 1000 * k, 1, bytes(1000))]
        if k % 16 == 15:
            for element, (owner, _) in list(host.app.held.items()):
                if owner == number:
                    host.release(owner, [element], None)
    return found


def test_what_udp_takes_and_gives_back_changes_no_window_of_tcp():
    quiet = windows(False)
    assert len(quiet) > 40 and max(quiet) > 20000
    assert windows(True) == quiet


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.77.0.2", "ff02::1", US6]
)
def test_a_source_that_no_host_has_is_dropped(host, source):
    """RFC 1122 section 4.1.3.6."""
    host.bind(7000)
    host.receive(datagram(b"from nowhere", v6=":" in source, source=source))
    assert host.app.datagrams == [] and host.sent_frames() == []
    assert len(host.app.posted) == host.app.buffers
