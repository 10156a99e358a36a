"""IPv6: TCP, neighbour discovery, ICMPv6, routes and several addresses; scapy is the oracle."""

import ipaddress

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from tcp_host import ELEMENT, QUEUE, Host, S, load

from hdstack.errors import ConfigurationError
from hdstack.tcp.events import IPV6, CloseReason, EventKind, RequestKind

US, PEER, ROUTER = "fd00:77::2", "fd00:77::1", "fd00:77::fe"
LINK, PEER_LINK, FAR = "fe80::2", "fe80::1", "2001:db8::9"
OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
SOLICITED = "33:33:ff:00:00:02"


@pytest.fixture
def host():
    host = Host(load(False))
    tables = host.tables
    for text, bits in ((US, 64), (LINK, 64)):
        tables.add_address(host.s, *tables.split_address(ipaddress.ip_address(text)), bits)
    hop = tables.split_address(ipaddress.ip_address(ROUTER))
    tables.add_route(host.s, 0, 0, 0, *hop)
    host.listen(80)
    return host


def words(text):
    """The four words of an IPv6 address, the last one first."""
    packed = ipaddress.ip_address(text).packed
    return [int.from_bytes(packed[k : k + 4], "big") for k in (12, 8, 4, 0)]


def give(host, packet, queue=0, reason=7, payload=b""):
    """The record of a frame, its payload in a posted buffer; what goes out, read by scapy."""
    frame = bytes(packet)
    region, offset = -1, 0
    if payload:
        app = host.apps[queue]
        offset, region = app.posted.pop(0) * ELEMENT, app.region
        app.pool[offset : offset + len(payload)] = payload
        frame = frame[: len(frame) - len(payload)]
    host.memory[10 : 10 + len(frame)] = np.frombuffer(frame, np.uint8)
    host.m.net_input.on_frame(
        host.s, queue, host.memory, 10, len(frame), len(payload), region, offset, 60, reason,
        host.now,
    )  # fmt: skip
    host.step()
    return sent(host)


def sent(host):
    frames = [Ether(frame) for frame in host.transmit()]
    for frame in frames:
        again = frame.copy()
        for layer in list(again.iterpayloads()):
            if hasattr(layer, "cksum"):
                del layer.cksum
            elif hasattr(layer, "chksum"):
                del layer.chksum
        assert bytes(again) == bytes(frame), "a checksum is wrong"
    return frames


def ethernet(dst=OUR_MAC):
    return Ether(src=PEER_MAC, dst=dst)


def solicitation(target=US, src=PEER, **fields):
    packet = ethernet(SOLICITED) / IPv6(src=src, dst="ff02::1:ff00:2", hlim=255)
    packet = packet / ICMPv6ND_NS(tgt=target)
    return packet / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC) if src != "::" else packet


def known(host):
    rows = host.s["neighbours"]
    return [
        str(host.tables.join_address(int(r["high"]), int(r["address"])))
        for r in rows
        if r["state"] == 2
    ]


class Peer:
    """A TCP connection with us over IPv6, by scapy."""

    def __init__(self, host, src=PEER, dst=US, sport=40000, dport=80):
        self.host, self.src, self.dst, self.sport, self.dport = host, src, dst, sport, dport
        self.seq, self.ack = 1000, 0

    def segment(self, flags, payload=b"", options=(), extensions=()):
        packet = ethernet() / IPv6(src=self.src, dst=self.dst)
        for extension in extensions:
            packet /= extension
        packet /= TCP(sport=self.sport, dport=self.dport, flags=flags, seq=self.seq, ack=self.ack,
                      window=60000, options=list(options))  # fmt: skip
        return give(self.host, packet / Raw(payload) if payload else packet, QUEUE,
                    0 if payload else 1, payload)  # fmt: skip

    def open(self, **more):
        (answer,) = self.segment("S", **more)
        assert answer[TCP].flags == "SA" and answer[TCP].ack == self.seq + 1
        self.seq, self.ack = self.seq + 1, answer[TCP].seq + 1
        self.segment("A")
        event = self.host.last(EventKind.ACCEPTED)
        self.connection = event["connection"]
        return answer

    @property
    def row(self):
        return self.host.connection(self.connection)


def test_a_connection_over_ipv6_carries_data_both_ways(host):
    peer = Peer(host)
    answer = peer.open(options=[("MSS", 1440)])
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (US, PEER, 64)
    assert (answer.src, answer.dst) == (OUR_MAC, PEER_MAC)
    assert dict(answer[TCP].options)["MSS"] == 1440
    (ack,) = peer.segment("PA", b"question")
    assert ack[TCP].ack == peer.seq + 8
    peer.seq += 8
    assert host.app.streams[peer.connection] == b"question"
    data = bytes(k & 255 for k in range(3001))
    host.send(peer.connection, data)
    found = sent(host)
    assert [len(f[TCP].payload) for f in found] == [1440, 1440, 121]
    assert b"".join(bytes(f[TCP].payload) for f in found) == data
    peer.ack += len(data)
    peer.segment("A")
    assert host.app.released[peer.connection] == 1
    host.check_whole()


def test_the_application_is_told_the_whole_address(host):
    Peer(host, src="2001:db8:1234:5678:9abc:def0:8765:4321").open()
    event = host.last(EventKind.ACCEPTED)
    assert event["region"] == IPV6
    told = [event[name] for name in ("address", "offset", "length", "spare")]
    assert told == words("2001:db8:1234:5678:9abc:def0:8765:4321")


def connect(host, address, port=8080):
    last, third, second, first = words(address)
    host.request(RequestKind.CONNECT, region=IPV6, address=last, connection=third, length=second,
                 spare=first, port=port, socket=6)  # fmt: skip


def test_a_connect_solicits_its_neighbour_and_goes_on_with_the_advertisement(host):
    connect(host, PEER)
    (question,) = sent(host)
    assert question.dst == "33:33:ff:00:00:01" and question[IPv6].dst == "ff02::1:ff00:1"
    assert (question[IPv6].src, question[IPv6].hlim) == (US, 255)
    assert question[ICMPv6ND_NS].tgt == PEER
    assert question[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    answer = ethernet() / IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NA(tgt=PEER, S=1, R=0)
    (syn,) = give(host, answer / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC))
    assert (syn.dst, syn[IPv6].src, syn[IPv6].dst) == (PEER_MAC, US, PEER)
    assert syn[TCP].flags == "S" and dict(syn[TCP].options)["MSS"] == 1440
    reply = TCP(sport=8080, dport=syn[TCP].sport, flags="SA", seq=7, ack=syn[TCP].seq + 1)
    give(host, ethernet() / IPv6(src=PEER, dst=US) / reply, QUEUE, 1)
    event = host.last(EventKind.CONNECTED)
    assert [event[n] for n in ("address", "offset", "length", "spare")] == words(PEER)


def test_a_far_host_is_reached_by_the_router(host):
    connect(host, FAR)
    (question,) = sent(host)
    assert question[ICMPv6ND_NS].tgt == ROUTER


def test_a_host_of_the_link_is_reached_from_the_address_of_the_link(host):
    connect(host, PEER_LINK)
    (question,) = sent(host)
    assert (question[IPv6].src, question[ICMPv6ND_NS].tgt) == (LINK, PEER_LINK)


@pytest.mark.parametrize(
    "address, reason",
    [
        ("::1", CloseReason.INVALID_REQUEST),
        ("::", CloseReason.INVALID_REQUEST),
        ("::ffff:10.0.0.1", CloseReason.INVALID_REQUEST),
        ("ff02::1", CloseReason.UNREACHABLE),
        (US, CloseReason.UNREACHABLE),
    ],
)
def test_what_no_host_can_be_is_refused(host, address, reason):
    connect(host, address)
    assert host.last(EventKind.FAILED)["reason"] == reason and sent(host) == []


def test_no_answer_to_solicitations_ends_a_connect(host):
    connect(host, PEER)
    for _ in range(5):
        host.now += S
        host.timers()
        sent(host)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.UNREACHABLE


@pytest.mark.parametrize("target", [US, LINK])
def test_a_solicitation_for_us_is_answered_and_learnt(host, target):
    (answer,) = give(host, solicitation(target))
    advert = answer[ICMPv6ND_NA]
    assert (advert.tgt, advert.S, advert.O, advert.R) == (target, 1, 1, 0)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    assert (answer.dst, answer[IPv6].dst, answer[IPv6].hlim) == (PEER_MAC, PEER, 255)
    assert known(host) == [PEER]


def test_who_wants_our_address_is_told_that_it_is_taken(host):
    """Duplicate address detection of another host (RFC 4862 section 5.4.3)."""
    (answer,) = give(host, solicitation(src="::"))
    assert (answer.dst, answer[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert answer[ICMPv6ND_NA].S == 0 and known(host) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p[IPv6], "hlim", 254),
        lambda p: setattr(p[ICMPv6ND_NS], "code", 1),
        lambda p: setattr(p[ICMPv6NDOptSrcLLAddr], "len", 0),
        lambda p: setattr(p[ICMPv6NDOptSrcLLAddr], "lladdr", "33:33:00:00:00:09"),
    ],
)
def test_solicitations_from_afar_or_malformed_are_counted(host, change):
    packet = solicitation()
    change(packet)
    assert give(host, packet) == [] and known(host) == []
    assert host.count("bad_ndp") == 1


def test_advertisements_that_nobody_asked_for_are_not_learnt(host):
    answer = ethernet() / IPv6(src=PEER, dst=US, hlim=255) / ICMPv6ND_NA(tgt=PEER, O=1)
    give(host, answer / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC))
    assert known(host) == [] and host.count("bad_ndp") == 1


@pytest.mark.parametrize("size", [0, 1, 56, 1400])
def test_echo_is_answered(host, size):
    payload = bytes(k & 255 for k in range(size))
    request = ICMPv6EchoRequest(id=7, seq=9, data=payload)
    (answer,) = give(host, ethernet() / IPv6(src=PEER, dst=US) / request)
    reply = answer[ICMPv6EchoReply]
    assert (reply.id, reply.seq, reply.data) == (7, 9, payload)
    assert (answer[IPv6].src, answer[IPv6].dst, answer.dst) == (US, PEER, PEER_MAC)


def test_echo_to_a_group_and_with_a_wrong_checksum_is_not_answered(host):
    group = Ether(src=PEER_MAC, dst="33:33:00:00:00:01")
    assert give(host, group / IPv6(src=PEER, dst="ff02::1") / ICMPv6EchoRequest()) == []
    assert give(host, ethernet() / IPv6(src=PEER, dst=US) / ICMPv6EchoRequest(cksum=1)) == []
    assert host.count("bad_icmp") == 1


def test_answers_are_limited_in_rate(host):
    host.now += S
    request = ethernet() / IPv6(src=PEER, dst=US) / ICMPv6EchoRequest()
    assert sum(len(give(host, request)) for _ in range(150)) == 100


def test_what_nobody_takes_is_answered_by_an_error(host):
    packet = IPv6(src=PEER, dst=US) / UDP(dport=53) / Raw(b"q" * 20)
    (answer,) = give(host, ethernet() / packet)
    assert answer[ICMPv6DestUnreach].code == 4
    assert bytes(answer[ICMPv6DestUnreach].payload) == bytes(packet)
    packet = IPv6(src=PEER, dst=US, nh=200) / Raw(b"none" * 5)
    (answer,) = give(host, ethernet() / packet)
    assert (answer[ICMPv6ParamProblem].code, answer[ICMPv6ParamProblem].ptr) == (1, 6)


@pytest.mark.parametrize(
    "extensions",
    [
        [IPv6ExtHdrHopByHop()],
        [IPv6ExtHdrDestOpt()],
        [IPv6ExtHdrRouting()],
        [IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(), IPv6ExtHdrDestOpt()],
    ],
)
def test_extension_headers_are_passed_over(host, extensions):
    peer = Peer(host)
    peer.open(extensions=extensions)
    peer.segment("PA", b"data", extensions=extensions)
    assert host.app.streams[peer.connection] == b"data"


def with_option(kind, header=IPv6ExtHdrHopByHop):
    """A packet with an option of this type, which nobody knows, after one to be skipped."""
    options = [HBHOptUnknown(otype=0x1E, optdata=b"ab"), HBHOptUnknown(otype=kind, optdata=b"cd")]
    return IPv6(src=PEER, dst=US) / header(options=options) / TCP(sport=9, dport=80, flags="S")


@pytest.mark.parametrize("header", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
@pytest.mark.parametrize(
    "kind, answered", [(0x1F, "SYN-ACK"), (0x5E, None), (0x9E, "error"), (0xDE, "error")]
)
def test_an_unknown_option_is_skipped_dropped_or_reported_as_its_type_says(
    host, kind, answered, header
):
    """RFC 8200 section 4.2."""
    packet = with_option(kind, header)
    answers = give(host, ethernet() / packet, QUEUE, 1)
    if answered == "SYN-ACK":
        assert answers[0][TCP].flags == "SA"
        return
    assert host.count("bad_ip") == 1 and not host.rows_of(QUEUE)["state"].any()
    if answered is None:
        assert answers == []
        return
    problem = answers[0][ICMPv6ParamProblem]
    assert (problem.code, bytes(packet)[problem.ptr]) == (2, kind)
    assert bytes(problem.payload) == bytes(packet)


def test_a_routing_header_that_is_not_used_up_is_refused(host):
    """RFC 8200 section 4.4, RFC 5095: we forward for nobody."""
    routing = IPv6ExtHdrRouting(type=4, addresses=[PEER], segleft=1)
    packet = IPv6(src=PEER, dst=US) / routing / TCP(sport=9, dport=80, flags="S")
    (answer,) = give(host, ethernet() / packet, QUEUE, 1)
    problem = answer[ICMPv6ParamProblem]
    assert (problem.code, problem.ptr) == (0, 42)
    assert not host.rows_of(QUEUE)["state"].any()


def test_hop_by_hop_options_stand_first_or_are_not_taken(host):
    """RFC 8200 section 4.1."""
    headers = IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop()
    packet = IPv6(src=PEER, dst=US) / headers / TCP(sport=9, dport=80, flags="S")
    assert give(host, ethernet() / packet, QUEUE, 1) == []
    assert not host.rows_of(QUEUE)["state"].any() and host.count("other_protocol") == 1


@pytest.mark.parametrize(
    "packet, counter",
    [
        (IPv6(src=PEER, dst="fd00:77::9") / TCP(), "not_ours"),
        (IPv6(src=PEER, dst=US) / IPv6ExtHdrFragment(m=1) / TCP(), "fragments"),
        (IPv6(src="ff02::1", dst=US) / TCP(), "bad_ip"),
        (IPv6(src="::1", dst=US) / TCP(), "bad_ip"),
        (IPv6(src="::", dst=US) / TCP(), "bad_ip"),
        (IPv6(src=US, dst=US) / TCP(), "bad_ip"),
        (IPv6(src="::ffff:10.77.0.1", dst=US) / TCP(), "bad_ip"),
        (IPv6(version=4, src=PEER, dst=US) / TCP(), "bad_ip"),
    ],
)
def test_what_is_not_for_us_or_cannot_be_is_counted(host, packet, counter):
    assert give(host, ethernet() / packet) == [] and host.count(counter) == 1


@pytest.mark.parametrize("length", range(14, 74, 4))
def test_cut_off_records_are_never_read_beyond_their_end(host, length):
    frame = bytes(ethernet() / IPv6(src=PEER, dst=US) / TCP(sport=5555, dport=80, flags="S"))
    host.memory[: len(frame)] = np.frombuffer(frame, np.uint8)
    host.m.net_input.on_frame(host.s, QUEUE, host.memory, 0, length, 0, -1, 0, 64, 1, host.now)
    assert host.transmit() == [] and not host.s["connections"]["state"].any()


def quoted(peer, seq, size=1440):
    tcp = TCP(sport=peer.dport, dport=peer.sport, seq=seq, dataofs=5)
    return bytes(IPv6(src=US, dst=PEER, plen=20 + size) / tcp)


def test_a_packet_too_big_makes_smaller_segments(host):
    """RFC 8201."""
    peer = Peer(host)
    peer.open(options=[("MSS", 1440)])
    host.send(peer.connection, b"x" * 1440)
    sent(host)
    error = ICMPv6PacketTooBig(mtu=1300) / Raw(quoted(peer, peer.ack))
    found = give(host, ethernet() / IPv6(src=ROUTER, dst=US) / error)
    assert [len(f[TCP].payload) for f in found] == [1240, 200]
    host.now += 2 * S
    again = ICMPv6PacketTooBig(mtu=600) / Raw(quoted(peer, peer.ack, 1240))
    give(host, ethernet() / IPv6(src=ROUTER, dst=US) / again)
    assert peer.row["mss"] == 1280 - 60, "no less than every link takes"


@pytest.mark.parametrize("offset", [-1, 1440, 1 << 31])
def test_errors_about_numbers_not_in_flight_are_ignored(host, offset):
    peer = Peer(host)
    peer.open(options=[("MSS", 1440)])
    host.send(peer.connection, b"x" * 1440)
    sent(host)
    error = ICMPv6PacketTooBig(mtu=1300) / Raw(quoted(peer, (peer.ack + offset) & 0xFFFFFFFF))
    give(host, ethernet() / IPv6(src=ROUTER, dst=US) / error)
    assert peer.row["mss"] == 1440 and host.count("errors_ignored") == 1


@pytest.mark.parametrize(
    "error", [ICMPv6DestUnreach(code=0), ICMPv6DestUnreach(code=4), ICMPv6TimeExceeded()]
)
def test_no_error_ends_an_established_connection(host, error):
    peer = Peer(host)
    peer.open()
    host.send(peer.connection, b"x" * 100)
    sent(host)
    give(host, ethernet() / IPv6(src=ROUTER, dst=US) / error / Raw(quoted(peer, peer.ack, 100)))
    assert host.count("errors_soft") == 1 and peer.connection not in host.app.closed


def test_the_same_ports_of_other_addresses_are_other_connections(host):
    four = [
        Peer(host, src, dst)
        for src in (PEER, "fd00:77::3")
        for dst in (US, LINK)
    ]  # fmt: skip
    for peer in four:
        peer.open()
    assert len({peer.connection for peer in four}) == 4
    for peer in four:
        peer.segment("PA", peer.src.encode() + peer.dst.encode())
    for peer in four:
        assert host.app.streams[peer.connection] == (peer.src + peer.dst).encode()
    host.check_whole()


def test_a_second_ipv4_address_is_answered_for_and_from(host):
    host.tables.add_address(host.s, 0, 0x0A580005, 24)
    question = ARP(hwsrc=PEER_MAC, psrc="10.88.0.1", pdst="10.88.0.5")
    (answer,) = give(host, Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / question)
    assert (answer[ARP].psrc, answer[ARP].hwsrc) == ("10.88.0.5", OUR_MAC)
    (echo,) = give(host, ethernet() / IP(src="10.88.0.1", dst="10.88.0.5") / ICMP())
    assert echo[IP].src == "10.88.0.5"
    syn = IP(src="10.88.0.1", dst="10.88.0.5") / TCP(sport=9, dport=80, flags="S")
    (answer,) = give(host, ethernet() / syn, QUEUE, 1)
    assert answer[IP].src == "10.88.0.5" and answer[TCP].flags == "SA"


def test_the_longest_prefix_decides_where_a_packet_goes(host):
    tables = host.tables
    tables.add_route(host.s, 0, 0xC0A80000, 16, 0, 0x0A4D0063)
    tables.add_route(host.s, 0, 0xC0A80100, 24, 0, 0x0A4D0064)
    for target, hop in (
        (0x08080808, "10.77.0.254"),
        (0xC0A80203, "10.77.0.99"),
        (0xC0A80103, "10.77.0.100"),
    ):
        host.connect(target, 80)
        (question,) = sent(host)
        assert question[ARP].pdst == hop


def test_tables_of_addresses_and_routes_are_bounded(host):
    with pytest.raises(ConfigurationError, match="8 at most"):
        for k in range(9):
            host.tables.add_address(host.s, 0, 0x0B000001 + k, 24)
    with pytest.raises(ConfigurationError, match="16 at most"):
        for k in range(17):
            host.tables.add_route(host.s, 0, 0x0C000000 + k, 24, 0, 1)
