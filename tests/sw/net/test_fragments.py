"""Fragments put together, and what attackers make of them; scapy cuts, and reads the answers."""

import functools
import random

import pytest
from fragment_host import (
    PEER,
    PEER6,
    US,
    US6,
    FragmentHost,
    cut,
    ethernet,
    piece,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    defragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tcp_host import S

FILLING, GIVEN_UP = 1, 2
BYTES = bytes(k * 7 & 255 for k in range(65536))


@functools.cache
def only_host():
    return FragmentHost()


@pytest.fixture
def host():
    return only_host().renew()


def ping(size, six=False, src=None):
    if six:
        return IPv6(src=src or PEER6, dst=US6) / ICMPv6EchoRequest(id=7, seq=9, data=BYTES[:size])
    return IP(src=src or PEER, dst=US) / ICMP(id=7, seq=9) / Raw(BYTES[:size])


def echoed(answers, six=False):
    """The data of an echo reply that came in frames of at most 1,514 bytes."""
    assert answers and all(len(frame) <= 1514 for frame in answers)
    if six:
        whole = answers[0] if len(answers) == 1 else defragment6([f[IPv6] for f in answers])
        whole = IPv6(bytes(whole[IPv6]))
        sent = whole[ICMPv6EchoReply].cksum
        del whole[ICMPv6EchoReply].cksum
        assert IPv6(bytes(whole))[ICMPv6EchoReply].cksum == sent
        assert (whole.src, whole.dst, whole[ICMPv6EchoReply].id) == (US6, PEER6, 7)
        return whole[ICMPv6EchoReply].data
    return joined(answers)


def joined(answers):
    data = b""
    for frame in answers:
        ip = frame[IP]
        assert ip.frag * 8 == len(data) and bool(ip.flags.MF) == (frame is not answers[-1])
        assert {f[IP].id for f in answers} == {answers[0][IP].id}
        again = IP(bytes(ip))
        del again.chksum
        assert IP(bytes(again)).chksum == ip.chksum, "IPv4 checksum"
        data += bytes(ip.payload)[: ip.len - 20]
    reply = ICMP(data)
    sent = reply.chksum
    del reply.chksum
    assert ICMP(bytes(reply)).chksum == sent and reply.type == 0 and (reply.id, reply.seq) == (7, 9)
    return bytes(reply.payload)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("size", [601, 1472, 1473, 4000, 9000, 65000])
def test_a_large_ping_is_answered_whole(host, size, six):
    host.now += S
    assert (
        echoed(host.give(*cut(ping(size, six), 600 if size < 1400 else 1400)), six) == BYTES[:size]
    )
    assert host.count("reassembled") == 1 and host.holds(0) == host.tables.HOLDS
    assert host.count("copied_bytes") > size


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_order_and_duplicates_do_not_matter(data):
    six, host = data.draw(st.booleans()), only_host().renew()
    size = data.draw(st.integers(300, 5000))
    frames = cut(ping(size, six), data.draw(st.sampled_from([88, 256, 600, 1400])))
    order = data.draw(st.permutations(frames))
    twice = data.draw(st.lists(st.sampled_from(frames), max_size=4))
    last = order[-1]
    before = order[:-1] + [frame for frame in twice if frame != last]
    random.Random(size).shuffle(before)
    assert host.give(*before) == []
    assert echoed(host.give(last), six) == BYTES[:size]
    host.check_holds()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_never_makes_other_bytes(data):
    """Pieces of any place and length: an answer holds the packet's own bytes, or there is none, and
    there is none once two of them overlapped with different bytes."""
    six, host = data.draw(st.booleans()), only_host().renew()
    packet = ping(992, six)
    spans = data.draw(
        st.lists(st.tuples(st.integers(0, 130), st.integers(1, 60)), min_size=1, max_size=14)
    )
    answers, covered, overlapped = [], set(), False
    for first, units in spans:
        end = min(8 * (first + units), 1000)
        if 8 * first >= end:
            continue
        part = set(range(first, -(-end // 8)))
        if part & covered and not part <= covered:
            overlapped = True
        if overlapped and not answers:
            assert host.give(piece(packet, 8 * first, end - 8 * first, end < 1000)) == []
        else:
            answers += host.give(piece(packet, 8 * first, end - 8 * first, end < 1000))
        if answers:
            break
        covered |= part
    if answers:
        assert echoed(answers, six) == BYTES[:992] and not overlapped
    assert overlapped == (host.count("fragments_overlapping") > 0)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("offset, length", [(392, 400), (8, 16), (0, 408), (400, 208)])
def test_an_overlap_gives_the_datagram_up_with_all_that_follows(host, six, offset, length):
    """RFC 5722, RFC 8200 section 4.5; the same for IPv4."""
    packet = ping(992, six)
    host.give(piece(packet, 0, 400, 1))
    other = ping(992, six)
    if six:
        other[ICMPv6EchoRequest].data = bytes(992)
    else:
        other[Raw].load = bytes(992)
    if offset == 400:
        host.give(piece(packet, 600, 400, 0))
    host.give(piece(other, offset, length, 1))
    assert host.count("fragments_overlapping") == 1 and host.holds(GIVEN_UP) == 1
    assert host.give(piece(packet, 400, 200, 1), piece(packet, 600, 400, 0)) == []
    assert host.count("fragments_late") == 2 and host.count("reassembled") == 0
    host.now += 61 * S
    host.deadline()
    assert host.holds(0) == host.tables.HOLDS and host.transmit() == []


@pytest.mark.parametrize("six", [False, True])
def test_two_ends_that_differ_give_the_datagram_up(host, six):
    packet = ping(992, six)
    host.give(piece(packet, 800, 100, 0), piece(packet, 904, 96, 0))
    assert host.count("fragments_overlapping") == 1
    host.give(piece(packet, 800, 100, 0, number=5), piece(packet, 0, 904, 1, number=5))
    assert host.count("fragments_overlapping") == 2
    host.give(piece(packet, 0, 904, 1, number=6), piece(packet, 800, 48, 0, number=6))
    assert host.count("fragments_overlapping") == 3 and host.count("reassembled") == 0


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("upper, least", [(TCP(dport=80), 20), (TCP(dataofs=10), 40)])
def test_headers_must_be_whole_in_the_first_fragment(host, six, upper, least):
    """RFC 1858, RFC 7112."""
    base = IPv6(src=PEER6, dst=US6) if six else IP(src=PEER, dst=US)
    packet = base / upper / Raw(BYTES[:200])
    answers = host.give(piece(packet, 0, (least - 1) & ~7, 1))
    assert host.count("fragments_tiny") == 1
    if six:
        assert answers[0][ICMPv6ParamProblem].code == 3
    else:
        assert answers == []
    host.give(piece(packet, 0, (least + 7) & ~7, 1, number=78))
    assert host.count("fragments_tiny") == 1 and host.holds(FILLING) == 1


def test_a_fragment_that_begins_in_the_tcp_header_is_refused(host):
    """RFC 3128."""
    packet = IP(src=PEER, dst=US) / TCP(dport=80) / Raw(BYTES[:200])
    assert host.give(piece(packet, 8, 64, 1)) == []
    assert host.count("fragments_tiny") == 1


def test_lengths_that_cannot_be_are_refused(host):
    v4, v6 = ping(992), ping(992, True)
    assert host.give(piece(v4, 0, 401, 1), piece(v4, 8, 0, 0)) == []
    (answer,) = host.give(piece(v6, 0, 401, 1))
    assert (answer[ICMPv6ParamProblem].code, answer[ICMPv6ParamProblem].ptr) == (0, 4)
    beyond = IP(src=PEER, dst=US, frag=8191, id=3) / Raw(bytes(400))
    assert host.give(ethernet() / beyond) == []
    beyond = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrFragment(offset=8191, nh=17) / Raw(bytes(400))
    (answer,) = host.give(ethernet() / beyond)
    assert (answer[ICMPv6ParamProblem].code, answer[ICMPv6ParamProblem].ptr) == (0, 42)
    assert host.count("fragments_bad") == 5 and host.holds(0) == host.tables.HOLDS


def test_a_whole_packet_with_a_fragment_header_waits_for_nothing(host):
    """RFC 6946: an atomic fragment is handled by itself, whatever waits under its number."""
    packet = ping(992, True)
    host.give(piece(packet, 0, 400, 1))
    answers = host.give(piece(ping(100, True), 0, 108, 0))
    assert answers[0][ICMPv6EchoReply].data == BYTES[:100]
    assert echoed(host.give(piece(packet, 400, 600, 0)), True) == BYTES[:992]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("first", [True, False])
def test_what_stays_incomplete_is_given_up_in_time_and_its_source_told(host, six, first):
    packet = ping(992, six)
    host.give(piece(packet, 0 if first else 400, 400, 1))
    host.now += (60 if six else 30) * S - 1
    assert host.deadline() == host.now + 1 and host.holds(FILLING) == 1
    host.now += 1
    host.deadline()
    assert host.holds(FILLING) == 0 and host.count("fragments_timed_out") == 1
    frames = host.transmit()
    if not first:
        assert frames == []
        return
    (frame,) = frames
    answer = Ether(frame)
    assert frame[62 if six else 42 :] == piece(packet, 0, 400, 1)[14:]
    if six:
        assert answer[ICMPv6TimeExceeded].code == 1 and answer[IPv6].dst == PEER6
    else:
        assert (answer[ICMP].type, answer[ICMP].code, answer[IP].dst) == (11, 1, PEER)


def test_errors_and_answers_about_time_outs_are_limited(host):
    error = IP(src=PEER, dst=US) / ICMP(type=3, code=3) / Raw(bytes(992))
    host.give(piece(error, 0, 400, 1))
    error = IPv6(src=PEER6, dst=US6) / ICMPv6DestUnreach() / Raw(bytes(992))
    host.give(piece(error, 0, 400, 1))
    host.now += 61 * S
    host.deadline()
    assert host.transmit() == [] and host.count("fragments_timed_out") == 2
    for k in range(150):
        host.give(piece(ping(992, src=f"10.77.1.{k}"), 0, 400, 1))
    host.now += 61 * S
    host.deadline()
    assert len(host.transmit()) == host.tables.DATAGRAMS


def test_a_flood_takes_no_more_room_than_there_is(host):
    """Bounds hold, the oldest makes room, and a source takes no more than its share."""
    most = host.tables.DATAGRAMS
    for k in range(200):
        host.give(piece(ping(992, src=f"10.77.{k}.9"), 0, 400, 1, number=k))
        host.now += 1000
        host.check_holds()
    assert host.holds(FILLING) == most and host.count("fragments_evicted") == 200 - most
    packet = ping(992, src="10.77.199.9")
    assert echoed(host.give(piece(packet, 400, 600, 0, number=199))) == BYTES[:992]

    host.renew()
    other = ping(992)
    host.give(piece(other, 0, 400, 1))
    for k in range(200):
        host.give(piece(ping(992, src="10.77.0.66"), 0, 400, 1, number=k))
        host.give(piece(ping(992, True, src=f"fd00:99::{k + 1:x}"), 0, 400, 1, number=k))
        host.now += 1000
    assert host.holds(FILLING) == 1 + 8 + 8
    assert echoed(host.give(piece(other, 400, 600, 0))) == BYTES[:992]


def test_datagrams_are_told_apart_by_all_that_names_them(host):
    one = ping(992)
    host.give(piece(one, 0, 400, 1))
    assert host.give(piece(one, 400, 600, 0, number=78)) == []
    assert host.give(piece(ping(992, src="10.77.0.3"), 400, 600, 0)) == []
    udp = IP(src=PEER, dst=US) / UDP() / Raw(BYTES[:992])
    assert host.give(piece(udp, 400, 600, 0)) == []
    assert host.holds(FILLING) == 4
    assert echoed(host.give(piece(one, 400, 600, 0))) == BYTES[:992]


@pytest.mark.parametrize("six", [False, True])
def test_a_datagram_for_nobody_is_answered_as_a_whole_one(host, six):
    base = IPv6(src=PEER6, dst=US6) if six else IP(src=PEER, dst=US)
    packet = base / UDP(dport=53) / Raw(BYTES[:2000])
    (answer,) = host.give(*cut(packet))
    if six:
        assert answer[ICMPv6DestUnreach].code == 4
    else:
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
    wrong = base / UDP(dport=53, chksum=0x1234) / Raw(BYTES[:2000])
    assert host.give(*cut(wrong, number=78)) == [] and host.count("bad_checksum") == 1


@pytest.mark.parametrize("six", [False, True])
def test_identifications_differ_by_destination_and_do_not_repeat(host, six):
    """RFC 7739 section 5.3."""
    first = {}
    for k in range(1, 5):
        seen = []
        for turn in range(3):
            packet = ping(2000, six, src=f"fd00:77::{k}1" if six else f"10.77.0.{k}1")
            answers = host.give(*cut(packet, number=10 * k + turn))
            numbers = {f[IPv6ExtHdrFragment].id if six else f[IP].id for f in answers}
            assert len(numbers) == 1
            seen += numbers
        assert len(set(seen)) == 3
        first[k] = seen[0]
    gaps = {b - a for a, b in zip(first.values(), list(first.values())[1:], strict=False)}
    assert len(gaps) == 3 and 3 not in gaps


def test_extension_headers_stay_and_the_fragment_header_goes(host):
    packet = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    echo = ICMPv6EchoRequest(id=7, seq=9, data=BYTES[:2000])
    whole = IPv6(bytes(packet / echo))
    upper = bytes(whole[ICMPv6EchoRequest])
    header = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
    frames = [
        ethernet() / header / IPv6ExtHdrFragment(nh=58, id=4, offset=at // 8, m=more)
        / Raw(upper[at:end])
        for at, end, more in ((0, 800, 1), (800, 1600, 1), (1600, len(upper), 0))
    ]  # fmt: skip
    assert echoed(host.give(*frames), True) == BYTES[:2000]


def test_neighbour_discovery_in_fragments_is_refused(host):
    """RFC 6980."""
    ask = ICMPv6ND_NS(tgt=US6, res=0)
    packet = IPv6(src=PEER6, dst=US6, hlim=255) / ask
    first, last = piece(packet, 0, 16, 1), piece(packet, 16, 8, 0)
    assert host.give(first, last) == []
    assert host.count("bad_ndp") == 1 and host.count("reassembled") == 1


def test_fragments_in_fragments_end(host):
    inner = bytes(IPv6ExtHdrFragment(nh=58, m=1, id=9)) + bytes(1000)
    frames = [
        ethernet() / IPv6(src=PEER6, dst=US6) / IPv6ExtHdrFragment(nh=44, id=4, offset=at // 8, m=m)
        / Raw(inner[at:end])
        for at, end, m in ((0, 504, 1), (504, 1008, 0))
    ]  # fmt: skip
    assert host.give(*frames) == []
    assert host.count("fragments_bad") == 1 and host.holds(0) == host.tables.HOLDS


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_fragments_break_nothing(data):
    host = only_host().renew()
    frames = cut(ping(1500, data.draw(st.booleans())), 400)
    for frame in frames:
        damaged = bytearray(frame)
        for _ in range(data.draw(st.integers(0, 3))):
            damaged[data.draw(st.integers(14, len(frame) - 1))] = data.draw(st.integers(0, 255))
        host.give(bytes(damaged[: data.draw(st.integers(14, len(damaged)))]))
        host.check_holds()
    host.now += 61 * S
    host.deadline()
    assert host.holds(0) == host.tables.HOLDS
