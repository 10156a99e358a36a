"""Each way in which a frame can be refused or left unsplit, one by one and between good frames."""

import pytest
from frame_oracle import expected
from frames import (
    edit,
    ethernet,
    extended,
    ip_sum,
    network,
    options_of,
    pad,
    payload_of,
    refresh,
    routing,
    tcp,
    transport,
    udp,
)
from ingress_bench import Sent, run, small
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from setting import QUEUE, Listener, Setting

from hdsnic.abi import RxOutcome

WIDTHS = (8, 16, 32, 64)
OTHER_MAC = "02:aa:bb:cc:dd:ee"
# Offsets in an untagged IPv4 frame: IP header from 14, L4 header from 34; IPv6: from 14 and from 54
TOTAL, FLAGS, PROTOCOL, IP_SUM = 16, 20, 23, 24
DATA_OFFSET, TCP_SUM = 34 + 12, 34 + 16
UDP_LENGTH, UDP_SUM = 34 + 4, 34 + 6

UDP_PORT = 81
UDP_RULE = Listener(6, UDP_PORT, QUEUE, udp=True)

rx = RxOutcome


def refused():
    """(name, frame, outcome) of frames that are dropped."""
    good, six, datagram = tcp(100), tcp(100, version=6), udp(40)
    six_datagram = udp(40, version=6)
    two_tags = tcp(100, 2)
    cut = [
        (f"cut to {n} bytes, {kind}", Sent(whole[:n]), rx.RUNT)
        for kind, whole, sizes in (
            ("IPv4", good, (1, 6, 13, 14, 15, 33)),
            ("two tags", two_tags, (14, 17, 18, 21, 22, 41)),
            ("IPv6", six, (14, 53)),
        )
        for n in sizes
    ]
    short_tcp = edit(good, TOTAL, (20 + 19).to_bytes(2, "big"))
    short_udp = edit(datagram, TOTAL, (20 + 7).to_bytes(2, "big"))
    beyond_options = edit(good, DATA_OFFSET, [0xF0])
    nothing = IPv6ExtHdrDestOpt()
    chained = extended([nothing, nothing], transport("tcp", 6), 0, padded=False)
    cut_short = edit(chained, 14 + 4, [0, 16])  # the packet ends behind the second header
    return cut + [
        ("no TCP behind the chain", Sent(cut_short[:70]), rx.TCP_HEADER),
        ("chain goes on", Sent(edit(cut_short, 62, [60])[:70]), rx.IP_HEADER),
        ("chain goes on in the padding", Sent(edit(cut_short, 62, [60])), rx.IP_HEADER),
        ("header runs out of the packet", Sent(edit(chained, 63, [3])), rx.IP_HEADER),
        ("header runs out of the window", Sent(edit(chained, 55, [255])), rx.IP_HEADER),
        ("packet ends within a header", Sent(edit(chained, 14 + 4, [0, 10])), rx.IP_HEADER),
        ("packet ends at a header", Sent(edit(chained, 14 + 4, [0, 8])), rx.IP_HEADER),
        ("routing header in the padding", Sent(edit(cut_short, 62, [43])), rx.IP_HEADER),
        ("marked by the MAC", Sent(good, error=True), rx.BAD_FCS),
        ("last beat without a byte", Sent(good, last_count=0), rx.BAD_FCS),
        ("runt and marked", Sent(good[:13], error=True), rx.BAD_FCS),
        ("one byte over the largest", Sent(tcp(9018 - 54 + 1)), rx.OVERSIZE),
        ("for another MAC", Sent(edit(good, 0, bytes.fromhex("02aabbccddee"))), rx.MAC_FILTER),
        ("MAC differs in the last byte", Sent(edit(good, 5, [3])), rx.MAC_FILTER),
        ("MAC differs in the first byte", Sent(edit(good, 0, [0])), rx.MAC_FILTER),
        ("IP version 5", Sent(edit(good, 14, [0x55])), rx.IP_HEADER),
        ("version 6 under the type of 4", Sent(edit(good, 14, [0x65])), rx.IP_HEADER),
        ("version 4 under the type of 6", Sent(edit(six, 14, [0x40])), rx.IP_HEADER),
        ("header length 4", Sent(edit(good, 14, [0x44])), rx.IP_HEADER),
        ("total length 19", Sent(edit(good, TOTAL, [0, 19])), rx.IP_HEADER),
        ("total length one over", Sent(edit(good, TOTAL, [0, 141])), rx.IP_HEADER),
        ("total length 65,535", Sent(edit(good, TOTAL, [255, 255])), rx.IP_HEADER),
        ("IPv6 length one over", Sent(edit(six, 14 + 4, [0, 121])), rx.IP_HEADER),
        ("IPv6 length 65,535", Sent(edit(six, 14 + 4, [255, 255])), rx.IP_HEADER),
        ("options beyond the frame", Sent(edit(tcp(0), 14, [0x4F])[:60]), rx.IP_HEADER),
        ("IPv4 checksum", Sent(edit(good, IP_SUM, [good[IP_SUM] ^ 1])), rx.IP_CHECKSUM),
        ("a bit of TTL", Sent(edit(good, 22, [good[22] ^ 0x80])), rx.IP_CHECKSUM),
        ("data offset 4", Sent(refresh(edit(good, DATA_OFFSET, [0x40]))), rx.TCP_HEADER),
        ("data offset beyond", Sent(refresh(edit(tcp(39), DATA_OFFSET, [0xF0]))), rx.TCP_HEADER),
        ("19 bytes of TCP", Sent(ip_sum(short_tcp)), rx.TCP_HEADER),
        ("no TCP under IPv6", Sent(edit(six, 14 + 4, [0, 0])), rx.TCP_HEADER),
        ("TCP checksum", Sent(edit(good, TCP_SUM, [good[TCP_SUM] ^ 1])), rx.L4_CHECKSUM),
        ("TCP checksum, long offset", Sent(beyond_options), rx.L4_CHECKSUM),
        ("last byte of payload", Sent(edit(good, 153, [good[153] ^ 1])), rx.L4_CHECKSUM),
        ("port under IPv6", Sent(edit(six, 54 + 2, [1, 1])), rx.L4_CHECKSUM),
        ("destination under IPv6", Sent(edit(six, 14 + 39, [9])), rx.L4_CHECKSUM),
        ("source under IPv6", Sent(edit(six, 14 + 8, [9])), rx.L4_CHECKSUM),
        ("UDP checksum", Sent(edit(datagram, UDP_SUM, [1, 1])), rx.L4_CHECKSUM),
        ("UDP without, IPv6", Sent(edit(six_datagram, 54 + 6, [0, 0])), rx.L4_CHECKSUM),
        ("UDP length 7", Sent(edit(datagram, UDP_LENGTH, [0, 7])), rx.RUNT),
        ("UDP length one over", Sent(edit(datagram, UDP_LENGTH, [0, 49])), rx.RUNT),
        ("7 bytes of UDP", Sent(ip_sum(short_udp)), rx.RUNT),
    ]


def unsplit():
    """(name, frame, outcome) of frames that go whole to queue 0."""
    good, datagram = tcp(100), udp(40)
    arp = pad(Ether(dst="ff:ff:ff:ff:ff:ff", src=OTHER_MAC) / ARP(pdst="10.77.0.2"))
    tcp_header = transport("tcp", 6)
    nothing = IPv6ExtHdrDestOpt()
    chained = [
        (f"IPv6: {name}", extended(headers, tcp_header), reason)
        for name, headers, reason in (
            ("fragment", [IPv6ExtHdrFragment()], rx.FRAGMENT),
            ("fragment behind options", [nothing, IPv6ExtHdrFragment(m=1)], rx.FRAGMENT),
            ("not the last destination", [routing(1)], rx.EXTENSION),
            ("not the last, options behind", [routing(2), nothing], rx.EXTENSION),
            ("hop-by-hop not first", [nothing, IPv6ExtHdrHopByHop()], rx.EXTENSION),
            ("one header of 264 bytes", [options_of(264)], rx.LONG_HEADER),
            ("26 headers", [nothing] * 26, rx.LONG_HEADER),
            ("TCP header ends at 258", [options_of(184)], rx.LONG_HEADER),
        )
    ]
    for kind, reason in (
        *((kind, rx.EXTENSION) for kind in (135, 139, 140, 253, 254)),
        *((kind, rx.TUNNEL) for kind in (4, 41, 47, 50, 51, 97, 115, 137)),
        (59, rx.NOT_TCP),
        (132, rx.NOT_TCP),
    ):
        for headers in ([], [nothing]):
            frame = extended([*headers, IPv6ExtHdrDestOpt(nh=kind)], Raw(payload_of(40)), 0)
            chained.append((f"IPv6: {kind} behind {len(headers) + 1} headers", frame, reason))
        if reason == rx.TUNNEL:
            frame = ip_sum(edit(good, PROTOCOL, [kind]))
            chained.append((f"IPv4: protocol {kind}", frame, reason))
    return chained + [
        ("ARP", arp, rx.NOT_IP),
        ("type only", good[:12] + b"\x88\xcc", rx.NOT_IP),
        ("three tags", edit(tcp(100, 2), 20, [0x81, 0x00]), rx.NOT_IP),
        ("first fragment", tcp(100, ip={"flags": "MF"}), rx.FRAGMENT),
        ("later fragment", tcp(100, ip={"frag": 100}), rx.FRAGMENT),
        ("fragment, L4 damaged", edit(tcp(100, ip={"flags": "MF"}), 60, [0]), rx.FRAGMENT),
        ("UDP", datagram, rx.NO_RULE),
        ("UDP without checksum", edit(datagram, UDP_SUM, [0, 0]), rx.NO_RULE),
        ("UDP shorter than IP says", trailing_udp(), rx.NO_RULE),
        ("UDP to another address", udp(9, ip={"destination": "224.0.0.251"}), rx.NOT_LOCAL),
        ("UDP for a queue that does not split it", udp(40, port=UDP_PORT), rx.UDP_WHOLE),
        ("IPv4 with protocol 60", ip_sum(edit(good, PROTOCOL, [60])), rx.NOT_TCP),
        ("SYN with payload", tcp(5, flags="S"), rx.SYN_PAYLOAD),
        ("another port", tcp(100, port=81), rx.NO_RULE),
        ("SYN to another port", tcp(0, port=81, flags="S"), rx.NO_RULE),
        ("another address", tcp(100, ip={"destination": "10.77.0.3"}), rx.NOT_LOCAL),
        ("another IPv6", tcp(9, version=6, ip={"destination": "fd00:77::102"}), rx.NOT_LOCAL),
        ("multicast", tcp(1, ip={"destination": "224.0.0.1"}), rx.NOT_LOCAL),
    ]


def trailing_udp():
    """A datagram that ends, with its checksum, 6 bytes before the IP packet does."""
    packet = ethernet() / network(4) / transport("udp", 4) / Raw(payload_of(33))
    whole = bytes(packet)
    return ip_sum(edit(whole + b"\x11" * 6, TOTAL, (len(whole) - 14 + 6).to_bytes(2, "big")))


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_each_malformed_frame_is_dropped_under_its_reason(bus_bytes):
    cases = refused()
    result = run([frame for _, frame, _ in cases], small(bus_bytes))
    assert not result.frames
    got = list(zip([name for name, _, _ in cases], result.outcomes, strict=True))
    assert got == [(name, outcome) for name, _, outcome in cases]
    for (_, frame, _), length in zip(cases, result.lengths, strict=True):
        if frame.last_count is None:
            assert length == len(frame.data)
        else:  # a last beat with a wrong count counts as a full one
            assert length == -(-len(frame.data) // bus_bytes) * bus_bytes


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_each_unsplit_frame_goes_whole_to_queue_0_under_its_reason(bus_bytes):
    cases = unsplit()
    setting = Setting(listeners=(*Setting().listeners, UDP_RULE))
    result = run([frame for _, frame, _ in cases], small(bus_bytes), setting)
    assert not result.outcomes
    for (name, frame, reason), got in zip(cases, result.frames, strict=True):
        assert (name, reason) == (name, RxOutcome(got["reason"]))
        assert got["bytes"] == frame
        assert (got["queue"], got["header_length"], got["payload_length"]) == (0, len(frame), 0)


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_bad_frames_roll_back_and_leave_good_neighbours_whole(bus_bytes):
    sent, kept, dropped = [], [], []
    for n, (_, bad, outcome) in enumerate(refused()):
        good = tcp(n * 7, n % 3)
        sent += [good, bad]
        kept.append(good)
        dropped.append(outcome)
    result = run(sent, small(bus_bytes), ready=0.9)
    assert [f["bytes"] for f in result.frames] == kept
    assert result.outcomes == dropped


def test_outcomes_that_ingress_can_give_are_all_shown_above():
    shown = {outcome for _, _, outcome in refused() + unsplit()}
    elsewhere = {rx.SPLIT, rx.HEADER_ONLY, rx.DISABLED, rx.OVERFLOW}  # in the other tests here
    elsewhere |= {rx.MALFORMED, rx.FAIR_SHARE}
    of_egress = {o for o in rx if rx.NO_BUFFER <= o < rx.FAIR_SHARE} | {rx.PLACED}
    assert shown | elsewhere | of_egress == set(rx)


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_the_debug_switch_delivers_whole_what_was_dropped_for_what_it_holds(bus_bytes):
    setting = Setting(deliver_malformed=True)
    sent = [frame for _, frame, _ in refused() if frame.last_count is None]
    sent += [Sent(frame) for _, frame, _ in unsplit()[:5]]
    wanted = [expected(frame.data, frame.error, setting) for frame in sent]
    result = run(sent, small(bus_bytes), setting)
    assert result.outcomes == [outcome for outcome, fields in wanted if fields is None]
    assert set(result.outcomes) == {rx.BAD_FCS, rx.OVERSIZE, rx.RUNT, rx.MAC_FILTER}
    for got, want in zip(result.frames, [f for _, f in wanted if f is not None], strict=True):
        assert {name: got[name] for name in want} == want
    tags = {f["tag"] for f in result.frames if f["reason"] == rx.MALFORMED}
    assert tags == {rx.RUNT, rx.IP_HEADER, rx.IP_CHECKSUM, rx.TCP_HEADER, rx.L4_CHECKSUM}


def test_a_closed_receive_switch_is_not_opened_by_the_debug_switch():
    result = run([tcp(10)], small(8), Setting(receive=False, deliver_malformed=True))
    assert result.outcomes == [rx.DISABLED]


def test_the_longest_ipv4_header_of_142_bytes_is_split():
    options = {"options": [b"\x01" * 40]}

    ip = IP(src="10.77.0.1", dst="10.77.0.2", **options)
    packet = ethernet(2) / ip / transport("tcp", 4, options=[("NOP", None)] * 40) / Raw(b"payload")
    for bus_bytes in WIDTHS:
        (got,) = run([bytes(packet)], small(bus_bytes)).frames
        assert got["reason"] == rx.SPLIT
        assert (got["header_length"], got["payload_length"]) == (14 + 8 + 60 + 60, 7)


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_headers_of_up_to_256_bytes_are_split_and_longer_ones_are_not(bus_bytes):
    for l4, fits, too_long in (
        (transport("tcp", 6), options_of(176), options_of(184)),
        (transport("tcp", 6, options=[("NOP", None)] * 4), options_of(176), options_of(184)),
        (transport("udp", 6, port=UDP_PORT), options_of(192), options_of(200)),
    ):
        setting = Setting(udp_split=1 << QUEUE, listeners=(*Setting().listeners, UDP_RULE))
        frames = [extended([header], l4, 7) for header in (fits, too_long)]
        split, whole = run(frames, small(bus_bytes), setting).frames
        assert (split["reason"], split["payload_length"]) == (rx.SPLIT, 7)
        assert split["header_length"] == len(frames[0]) - 7 <= 256
        assert (whole["reason"], whole["checksum_good"]) == (rx.LONG_HEADER, 1)


@pytest.mark.parametrize("bus_bytes", (16, 64))
def test_the_largest_frame_passes_and_endless_ones_do_no_harm(bus_bytes):
    largest = tcp(9018 - 54)
    endless = tcp(9018 - 54) + bytes(60000)
    result = run([largest, endless, tcp(10)], small(bus_bytes))
    assert [f["length"] for f in result.frames] == [9018, 64]
    assert result.outcomes == [rx.OVERSIZE]
    assert result.lengths == [9018, 65535, 64]


def test_a_closed_receive_switch_drops_frames_but_not_the_mac_faults_count():
    frames = [tcp(10), Sent(tcp(10), error=True), tcp(10)[:13], udp(9)]
    result = run(frames, small(8), Setting(receive=False))
    assert not result.frames
    assert result.outcomes == [rx.DISABLED, rx.BAD_FCS, rx.RUNT, rx.DISABLED]


def test_promiscuous_mode_and_group_addresses_pass_the_mac_filter():
    other = edit(tcp(10), 0, bytes.fromhex("02aabbccddee"))
    multicast = edit(tcp(10), 0, bytes.fromhex("01005e000001"))
    broadcast = edit(tcp(10), 0, b"\xff" * 6)
    frames = [other, multicast, broadcast]
    assert [f["bytes"] for f in run(frames, small(64)).frames] == [multicast, broadcast]
    promiscuous = run(frames, small(64), Setting(promiscuous=True))
    assert [f["bytes"] for f in promiscuous.frames] == frames


def test_header_only_frames_go_to_their_queue_and_payload_ends_with_the_ip_packet():
    frames = [tcp(0), tcp(0, flags="S"), tcp(0, flags="FA"), tcp(2), tcp(0, version=6)]
    result = run(frames, small(8))
    got = [
        (f["reason"], f["queue"], f["header_length"], f["payload_length"]) for f in result.frames
    ]
    only = rx.HEADER_ONLY
    assert got == [
        (only, QUEUE, 54, 0),
        (only, QUEUE, 54, 0),
        (only, QUEUE, 54, 0),
        (rx.SPLIT, QUEUE, 54, 2),
        (only, QUEUE, 74, 0),
    ]


@pytest.mark.parametrize("bus_bytes", (8, 64))
def test_the_lowest_rule_that_matches_wins_and_rules_heed_address_range_and_protocol(bus_bytes):
    setting = Setting(
        addresses=(bytes([10, 77, 0, 2]), bytes([10, 77, 0, 9])),
        listeners=(
            Listener(0, 1000, 1, last=2000),
            Listener(1, 1500, 2, last=1500),
            Listener(2, 81, 3, address=1),
            Listener(3, 81, 4),
            Listener(4, 82, 5, udp=True),
            Listener(5, 83, 6, valid=False),
            Listener(7, 1000, 7),
            Listener(10, 90, 8, last=99),
            Listener(11, 65535, 9),
        ),
    )
    nine = {"destination": "10.77.0.9"}
    cases = [
        (tcp(1, port=999), None),
        (tcp(1, port=1000), (0, 1)),
        (tcp(1, port=1500), (0, 1)),
        (tcp(1, port=2000), (0, 1)),
        (tcp(1, port=2001), None),
        (tcp(1, port=81), (3, 4)),
        (tcp(1, port=81, ip=nine), (2, 3)),
        (tcp(1, port=82), None),
        (tcp(1, port=83), None),
        (tcp(1, port=90), (10, 8)),
        (tcp(1, port=91), None),
        (tcp(1, port=65535), (11, 9)),
    ]
    result = run([frame for frame, _ in cases], small(bus_bytes), setting)
    for (_, want), got in zip(cases, result.frames, strict=True):
        reason = rx.SPLIT if want else rx.NO_RULE
        assert (got["reason"], got["tag"], got["queue"]) == (reason, *(want or (0, 0)))


def test_a_cleared_address_is_local_no_longer():
    setting = Setting(addresses=(bytes([10, 77, 0, 2]), None))
    result = run([tcp(1), tcp(1, version=6)], small(8), setting)
    assert [f["reason"] for f in result.frames] == [rx.SPLIT, rx.NOT_LOCAL]
