"""Datagrams out, judged by scapy: headers, sizes, fragments, neighbours, errors, and when a buffer
is the application's again (R24)."""

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP, defragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
    defragment6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from standin_frames import checksum
from tcp_host import QUEUE, S, arp_reply, load
from udp_host import OUR_MAC, PEER, PEER6, PEER_MAC, US, US6, UdpHost, datagram

from hdstack.tcp.events import CloseReason, EventKind, RequestKind
from hdstack.tcp.tables import split_address

NORMAL, INVALID = CloseReason.NORMAL, CloseReason.INVALID_REQUEST
BEYOND, BEYOND6 = "10.77.0.77", "fd00:77::77"
"""Neighbours that nobody knows yet."""


@pytest.fixture
def host():
    host = UdpHost(load(False), apps=2)
    yield host
    host.check_udp()


@pytest.fixture
def number(host):
    return host.bind(7000)


def pattern(length, seed=0):
    return bytes((seed + 7 * k + k // 251) & 255 for k in range(length))


def payload_of(packet):
    """The payload of a packet whose UDP checksum scapy finds right."""
    network = IP if IP in packet else IPv6
    again = network(bytes(packet[network]))
    del again[UDP].chksum
    assert network(bytes(again))[UDP].chksum == packet[UDP].chksum != 0
    return bytes(packet[UDP].payload)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 100, 1451, 1452, 1472])
def test_a_datagram_is_what_scapy_would_build(host, number, v6, length):
    if v6 and length > 1452:
        length = 1450
    host.to(number, PEER6 if v6 else PEER, 53)
    host.send_to(number, pattern(length))
    (packet,) = host.sent_frames()
    ends = (US6, PEER6) if v6 else (US, PEER)
    network = IPv6(src=ends[0], dst=ends[1]) if v6 else IP(
        src=ends[0], dst=ends[1], id=0, flags="DF"
    )  # fmt: skip
    expected = Ether(src=OUR_MAC, dst=PEER_MAC) / network / UDP(sport=7000, dport=53)
    assert bytes(packet) == bytes(expected / pattern(length))
    assert host.app.sent == [(9, NORMAL)] and host.count("datagrams_out") == 1


def test_a_checksum_of_zero_is_sent_as_all_ones(host, number):
    """RFC 768: zero says that there is none."""
    host.to(number)
    plain = bytes(IP(src=US, dst=PEER) / UDP(sport=7000, dport=5000) / b"\0\0")
    found = int.from_bytes(plain[26:28], "big")
    host.send_to(number, found.to_bytes(2, "big"))
    (packet,) = host.sent_frames()
    assert packet[UDP].chksum == 0xFFFF


def test_a_fixed_peer_needs_no_address(host, number):
    host.peer(number, PEER6, 53)
    host.send_to(number, b"question")
    (packet,) = host.sent_frames()
    assert (packet[IPv6].dst, packet[UDP].dport) == (PEER6, 53)
    host.to(number, PEER)
    assert host.count("bad_request") == 1
    host.send_to(number, b"still to the peer")
    assert host.sent_frames()[0][IPv6].dst == PEER6


def test_a_socket_bound_to_an_address_sends_from_it(host):
    host.m.tcp_tables.add_address(host.s, 0, host.address + 7, 24)
    number = host.bind(7000, "10.77.0.9")
    host.to(number)
    host.send_to(number, b"from the second address")
    assert host.sent_frames()[0][IP].src == "10.77.0.9"


def test_a_larger_datagram_is_refused_without_the_sum_of_its_bytes(host, number):
    for text, most in ((PEER, 1472), (PEER6, 1452)):
        host.to(number, text)
        host.send_to(number, pattern(most), cookie=1)
        host.send_to(number, pattern(most + 1), cookie=2)
    host.sent_frames()
    assert sorted(host.app.sent) == [(1, NORMAL)] * 2 + [(2, CloseReason.TOO_LARGE)] * 2


@pytest.mark.parametrize("length", [1473, 1480, 2952, 8000, 65507])
def test_fragments_of_ipv4_are_put_together_by_scapy(host, number, length):
    """RFC 791 section 3.2."""
    host.to(number)
    host.send_to(number, pattern(length), given=True)
    frames = [frame for _ in range(3) for frame in host.sent_frames()]
    assert all(len(frame) <= 1514 and not frame[IP].flags.DF for frame in frames)
    assert len({frame[IP].id for frame in frames}) == 1
    (whole,) = defragment([frame[IP] for frame in frames])
    assert payload_of(IP(bytes(whole))) == pattern(length)
    assert host.app.sent == [(9, NORMAL)] and host.count("fragments_out") == len(frames)


@pytest.mark.parametrize("length", [1453, 1460, 4000, 60000])
def test_fragments_of_ipv6_are_put_together_by_scapy(host, number, length):
    """RFC 8200 section 4.5."""
    host.to(number, PEER6)
    host.send_to(number, pattern(length), given=True)
    frames = [frame for _ in range(3) for frame in host.sent_frames()]
    assert all(len(frame) <= 1514 and IPv6ExtHdrFragment in frame for frame in frames)
    assert payload_of(IPv6(bytes(defragment6([f[IPv6] for f in frames])))) == pattern(length)


def test_identifications_differ_from_datagram_to_datagram(host, number):
    host.to(number)
    seen = set()
    for _ in range(50):
        host.send_to(number, pattern(2000), given=True)
        seen |= {frame[IP].id for frame in host.sent_frames()}
    assert len(seen) == 50


def test_datagrams_and_answers_of_the_stack_draw_identifications_from_one_counter(host, number):
    """RFC 8200 section 4.5: different for every packet between two addresses, whoever sends it."""
    host.to(number, PEER6)
    host.send_to(number, pattern(2000), given=True)
    (sent,) = {frame[IPv6ExtHdrFragment].id for frame in host.sent_frames()}
    peer = split_address(ip_address(PEER6))
    assert host.m.net_identification.next_identification(host.s, *peer) == (sent + 1) % (1 << 32)


def test_a_wrong_sum_spoils_the_own_datagram_alone(host, number):
    host.to(number)
    host.send_to(number, pattern(2000), spare=0x10000 | 1234)
    (whole,) = defragment([frame[IP] for frame in host.sent_frames()])
    data = bytes(whole)
    pseudo = data[12:20] + b"\0\x11" + len(data[20:]).to_bytes(2, "big")
    assert checksum(pseudo + data[20:]) != 0xFFFF  # the peer drops it
    host.send_to(number, b"the next one")
    assert payload_of(host.sent_frames()[0]) == b"the next one"


def test_more_than_ip_can_carry_is_too_large(host, number):
    host.to(number)
    host.send_to(number, pattern(65508), given=True)
    assert host.app.sent == [(9, CloseReason.TOO_LARGE)]


@pytest.mark.parametrize(
    "changes",
    [
        {"region": 4}, {"region": 15}, {"region": 16}, {"region": 65535}, {"generation": 8},
        {"offset": 1024 * 2048 - 3}, {"offset": 0xFFFFFFFF}, {"length": 65536},
        {"length": 0xFFFFFFFF}, {"spare": 5}, {"spare": 0x20000}, {"spare": 0xFFFFFFFF},
    ],
)  # fmt: skip
def test_what_is_not_the_applications_is_not_sent(host, number, changes):
    host.to(number)
    host.send_to(number, b"good", **changes)
    assert host.sent_frames() == [] and host.app.sent == [(9, INVALID)]
    host.send_to(number, b"good")
    assert payload_of(host.sent_frames()[0]) == b"good"


def test_a_socket_that_was_told_nowhere_sends_nothing(host, number):
    host.send_to(number, b"where?")
    host.to(number, PEER, 0)
    host.send_to(number, b"port zero?")
    assert host.app.sent == [(9, INVALID)] * 2


@pytest.mark.parametrize("text", ["10.77.0.255", "224.0.0.251", US, "2001:db8::5", "ff02::1"])
def test_groups_ourselves_and_what_has_no_route_are_unreachable(host, number, text):
    host.to(number, text)
    host.send_to(number, b"hello")
    assert host.app.sent == [(9, CloseReason.UNREACHABLE)]


def test_the_sockets_of_others_cannot_be_used(host, number):
    for kind in (RequestKind.PEER, RequestKind.TO, RequestKind.SEND_TO, RequestKind.UNBIND):
        host.request(kind, QUEUE + 1, connection=number, socket=1, port=1, address=1, length=1)
    assert host.count("stale_request") == 4 and host.apps[QUEUE + 1].sent == []
    host.receive(datagram(b"still bound"))
    assert len(host.app.datagrams) == 1


# -- buffers ---------------------------------------------------------------------------------


def test_a_buffer_comes_back_when_the_card_has_read_it_and_not_before(host, number):
    host.to(number)
    host.tx_lag = True
    for cookie in range(3):
        host.send_to(number, b"held", cookie=cookie)
    assert len(host.sent_frames()) == 3 and host.app.sent == []
    host.core.on_transmitted(host.s, QUEUE, 8)
    host.step()
    assert host.app.sent == [(0, NORMAL)]
    host.core.on_transmitted(host.s, QUEUE, 24)
    host.step()
    assert host.app.sent == [(0, NORMAL), (1, NORMAL), (2, NORMAL)]


def test_a_fragmented_datagram_is_over_with_its_last_fragment(host, number):
    host.to(number)
    host.tx_lag = True
    host.send_to(number, pattern(4000), given=True)
    assert len(host.sent_frames()) == 3
    host.core.on_transmitted(host.s, QUEUE, 16)
    host.step()
    assert host.app.sent == []
    host.core.on_transmitted(host.s, QUEUE, 24)
    host.step()
    assert host.app.sent == [(9, NORMAL)]


def test_what_finds_no_room_waits_and_goes_in_order(host, number):
    host.to(number)
    for cookie in range(256):
        data = cookie.to_bytes(2, "big") + pattern(3000)
        host.send_to(number, data, cookie=cookie, given=True, at=3008 * cookie)
    host.send_to(number, b"one too many", cookie=999, at=3008 * 256)
    assert host.app.sent == [(999, CloseReason.NO_RESOURCES)]
    seen = []
    while frames := host.sent_frames():
        seen += [bytes(f[UDP].payload)[:2] for f in frames if f[IP].frag == 0]
    assert seen == [cookie.to_bytes(2, "big") for cookie in range(256)]
    assert host.app.sent[1:] == [(cookie, NORMAL) for cookie in range(256)]


def test_acknowledgements_of_tcp_still_find_room(host, number):
    host.to(number)
    for _ in range(256):
        host.send_to(number, b"x")
    assert host.core.ready(host.s, QUEUE)


def test_a_socket_that_is_closed_gives_its_buffers_back_first(host, number):
    host.to(number)
    host.tx_lag = True
    host.send_to(number, b"last words", cookie=3)
    assert len(host.sent_frames()) == 1
    host.unbind(number)
    assert host.app.unbound == [] and host.bind(7000, socket=2) > 12
    host.core.on_transmitted(host.s, QUEUE, 8)
    host.step()
    assert host.kinds()[-2:] == [EventKind.SENT, EventKind.UNBOUND]
    assert host.app.unbound == [number]


def test_a_revoked_region_ends_what_waits_and_the_socket_lives_on(host, number):
    host.to(number)
    for _ in range(20):
        host.send_to(number, pattern(20000), given=True)
    host.core.clear_region(host.s, host.app.region)
    host.core.set_region(host.s, host.app.region, 8, QUEUE, 2048, 1024 * 2048, 64)
    while host.sent_frames():
        pass
    assert len(host.app.sent) == 20
    assert {reason for _, reason in host.app.sent} == {NORMAL, INVALID}
    host.send_to(number, b"from the new region", generation=8)
    assert host.core.next_segment(host.s, QUEUE) >= 0


def test_the_end_of_an_application_leaves_no_row_behind(host, number):
    host.to(number, BEYOND)
    host.send_to(number, b"waits for a neighbour")
    host.to(number, PEER)
    host.tx_lag = True
    for _ in range(10):
        host.send_to(number, b"in flight")
    host.sent_frames()
    host.core.drop_owner(host.s, QUEUE, host.now)
    host.core.on_attach_tx(host.s, QUEUE)
    host.tx_producer[QUEUE] = 0
    host.core.set_queue(host.s, QUEUE, 50000, 50001)
    host.app.events.clear()
    host.step()
    assert host.app.events == []  # the next application hears nothing of it
    host.check_udp(quiet=True)


# -- neighbours ------------------------------------------------------------------------------


def test_a_datagram_waits_for_its_neighbour_and_then_goes(host, number):
    host.to(number, BEYOND)
    host.send_to(number, b"first", cookie=1)
    host.send_to(number, b"second", cookie=2, at=64)
    (asked,) = host.sent_frames()
    assert asked[ARP].pdst == BEYOND and host.app.sent == []
    host.to(number, PEER)
    host.send_to(number, b"not held up", cookie=3, at=128)
    assert [payload_of(f) for f in host.sent_frames()] == [b"not held up"]
    Host = type(host)
    super(Host, host).receive(arp_reply(host, b"\x02\0\0\0\0\x77", 0x0A4D004D))
    host.step()
    frames = host.sent_frames()
    assert [payload_of(f) for f in frames] == [b"first", b"second"]
    assert {f.dst for f in frames} == {"02:00:00:00:00:77"}
    assert host.app.sent == [(3, NORMAL), (1, NORMAL), (2, NORMAL)]


def test_the_same_over_ipv6(host, number):
    host.to(number, BEYOND6)
    host.send_to(number, b"first")
    (asked,) = host.sent_frames()
    assert asked[ICMPv6ND_NS].tgt == BEYOND6
    answer = (
        Ether(src="02:00:00:00:00:77", dst=OUR_MAC) / IPv6(src=BEYOND6, dst=US6, hlim=255)
        / ICMPv6ND_NA(tgt=BEYOND6, S=1) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:77")
    )  # fmt: skip
    host.record(0, bytes(answer), b"", [])
    (packet,) = host.sent_frames()
    assert payload_of(packet) == b"first" and packet.dst == "02:00:00:00:00:77"


def test_a_silent_neighbour_is_asked_three_times_then_the_datagram_is_given_up(host, number):
    host.to(number, BEYOND)
    host.send_to(number, b"anybody?")
    asked = len(host.sent_frames())
    begun = host.now
    while True:
        following = host.timers()
        asked += len(host.sent_frames())
        if host.app.sent:
            break
        assert following < begun + 10 * S, "it would wait for ever"
        host.now = following
    assert host.app.sent == [(9, CloseReason.UNREACHABLE)]
    assert asked == 3 and 2 * S <= host.now - begun <= 4 * S
    assert host.count("neighbour_silent") == 1
    assert host.s["control"]["udp_deadline"] == 1 << 62


def test_few_wait_for_neighbours_and_the_oldest_makes_room(host, number):
    host.to(number, BEYOND)
    for cookie in range(20):
        host.send_to(number, b"waits", cookie=cookie)
    assert host.app.sent == [(cookie, CloseReason.NO_RESOURCES) for cookie in range(4)]
    assert host.count("neighbour_full") == 4
    other = host.bind(7001, queue=QUEUE + 1)
    host.to(other, BEYOND, queue=QUEUE + 1)
    host.send_to(other, b"waits, too", queue=QUEUE + 1)
    assert host.apps[QUEUE + 1].sent == []


# -- what routers and peers say ------------------------------------------------------------------


def error(host, quoted, v6=False, kind=3, code=3, mtu=0, source=PEER):
    if v6:
        message = {1: ICMPv6DestUnreach(code=code), 2: ICMPv6PacketTooBig(mtu=mtu)}[kind]
        packet = IPv6(src=PEER6, dst=US6) / message / Raw(bytes(quoted)[:200])
    else:
        message = ICMP(type=kind, code=code, nexthopmtu=mtu or None)
        packet = IP(src=source, dst=US) / message / Raw(bytes(quoted)[:28])
    host.record(0, bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / packet), b"", [])


@pytest.mark.parametrize(
    "v6, kind, code, reason",
    [
        (False, 3, 3, CloseReason.REFUSED), (False, 3, 2, CloseReason.REFUSED),
        (False, 3, 1, CloseReason.UNREACHABLE), (False, 11, 0, CloseReason.UNREACHABLE),
        (True, 1, 4, CloseReason.REFUSED), (True, 1, 3, CloseReason.UNREACHABLE),
    ],
)  # fmt: skip
def test_a_connected_socket_hears_of_errors_once_for_what_it_sent(host, number, v6, kind, code,
                                                                 reason):  # fmt: skip
    """RFC 1122 section 4.1.3.3."""
    host.peer(number, PEER6 if v6 else PEER)
    host.send_to(number, b"anybody?")
    (packet,) = host.sent_frames()
    for _ in range(3):
        error(host, packet[IPv6 if v6 else IP], v6, kind, code)
    assert host.app.errors == [(number, reason)]
    host.send_to(number, b"again?")
    error(host, host.sent_frames()[0][IPv6 if v6 else IP], v6, kind, code)
    assert len(host.app.errors) == 2


def test_others_are_told_nothing_and_forgeries_change_nothing(host, number):
    host.to(number)
    host.send_to(number, b"to nobody in particular")
    (packet,) = host.sent_frames()
    error(host, packet[IP])
    assert host.app.errors == []  # as everywhere: who has many peers would not know which
    host.peer(number)
    host.send_to(number, b"x")
    (packet,) = host.sent_frames()
    for layer, name, value in ((IP, "src", "10.77.0.3"), (IP, "dst", "10.77.0.3"),
                               (UDP, "sport", 7001), (UDP, "dport", 5001)):  # fmt: skip
        forged = IP(bytes(packet[IP]))
        setattr(forged[layer], name, value)
        error(host, forged)
    assert host.app.errors == [] and host.count("errors_ignored") == 5


@pytest.mark.parametrize("v6", [False, True])
def test_a_smaller_path_mtu_is_learnt_and_larger_datagrams_are_cut(host, number, v6):
    """RFC 1191, RFC 8201."""
    layer, text = (IPv6, PEER6) if v6 else (IP, PEER)
    host.to(number, text)
    host.send_to(number, pattern(1400))
    (packet,) = host.sent_frames()
    error(host, packet[layer], v6, *((2, 0) if v6 else (3, 4)), mtu=1300)
    assert host.count("path_mtu") == 1
    host.send_to(number, pattern(1400), cookie=5)
    assert host.app.sent[-1] == (5, CloseReason.TOO_LARGE)
    host.send_to(number, pattern(1400), given=True)
    frames = host.sent_frames()
    assert len(frames) == 2 and all(len(frame) <= 1314 for frame in frames)
    if v6:
        assert payload_of(IPv6(bytes(defragment6([f[IPv6] for f in frames])))) == pattern(1400)
    else:
        assert payload_of(IP(bytes(defragment([f[IP] for f in frames])[0]))) == pattern(1400)
    host.now += 601 * S
    host.send_to(number, pattern(1400))
    host.know(text)
    host.step()


def test_a_path_mtu_is_not_believed_without_a_datagram_or_below_the_floor(host, number):
    host.to(number)
    forged = IP(src=US, dst=PEER, len=1500) / UDP(sport=7000, dport=5000) / b"12345678"
    error(host, forged, kind=3, code=4, mtu=600)
    assert host.count("path_mtu") == 0  # nothing was sent
    host.send_to(number, pattern(1400))
    host.sent_frames()
    forged[IP].dst = "10.77.0.3"
    error(host, forged, kind=3, code=4, mtu=600)
    assert host.count("path_mtu") == 0  # not where the socket sends to
    forged[IP].dst = PEER
    error(host, forged, kind=3, code=4, mtu=68)
    assert host.count("path_mtu") == 1 and host.s["paths"]["mtu"].max() == 552
