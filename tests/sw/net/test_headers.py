"""Headers in and out, with scapy as the oracle."""

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from tcp_host import QUEUE, Host, S, Script, load

from hdstack.tcp.events import EventKind

US, PEER = "10.77.0.2", "10.77.0.1"
OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"


@pytest.fixture
def host():
    return Host(load(False))


def give(host, packet, queue=0, reason=7):
    """The record of a whole frame; what goes out, read by scapy."""
    frame = bytes(packet)
    host.memory[10 : 10 + len(frame)] = np.frombuffer(frame, np.uint8)
    host.m.net_input.on_frame(
        host.s, queue, host.memory, 10, len(frame), 0, -1, 0, 64, reason, host.now
    )
    host.step()
    return [Ether(frame) for frame in host.transmit()]


def checked(packet):
    """The packet with checksums as scapy computes them."""
    copy = packet.copy()
    for layer in (IP, TCP, ICMP):
        if layer in copy:
            del copy[layer].chksum
    return Ether(bytes(copy))


def ethernet(**fields):
    return Ether(src=PEER_MAC, dst=OUR_MAC, **fields)


def test_arp_request_for_us_is_answered(host):
    (answer,) = give(
        host, Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER_MAC, psrc=PEER, pdst=US)
    )
    arp = answer[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (2, OUR_MAC, US, PEER_MAC, PEER)
    assert (answer.dst, answer.src, len(answer)) == (PEER_MAC, OUR_MAC, 42)


def test_arp_for_others_and_forged_arp_is_not_answered(host):
    assert give(host, ethernet() / ARP(hwsrc=PEER_MAC, psrc=PEER, pdst="10.77.0.3")) == []
    (defence,) = give(host, ethernet() / ARP(hwsrc=PEER_MAC, psrc=US, pdst=US))
    assert (defence[ARP].psrc, defence[ARP].pdst, defence.dst) == (US, US, "ff:ff:ff:ff:ff:ff")
    assert give(host, ethernet() / ARP(hwsrc="ff:ff:ff:ff:ff:ff", psrc=PEER, pdst=US)) == []
    assert give(host, ethernet() / ARP(op=2, hwsrc=PEER_MAC, psrc=PEER, pdst=US)) == []
    assert host.count("bad_arp") == 3
    assert not host.s["neighbours"]["state"].any()


def test_the_neighbour_table_is_bounded(host):
    for k in range(200):
        give(host, ethernet() / ARP(hwsrc=PEER_MAC, psrc=f"10.77.0.{k + 3}", pdst=US))
        host.now += S
    known = {int(a) & 255 for a in host.s["neighbours"]["address"]}
    assert known == set(range(139, 203)), "the oldest make room"


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_echo_requests_are_answered_with_right_checksums(host, size):
    payload = bytes(k & 255 for k in range(size))
    request = ethernet() / IP(src=PEER, dst=US) / ICMP(id=7, seq=9) / Raw(payload)
    (answer,) = give(host, request)
    assert (answer[IP].src, answer[IP].dst, answer[ICMP].type) == (US, PEER, 0)
    assert (answer[ICMP].id, answer[ICMP].seq) == (7, 9)
    assert bytes(answer[ICMP].payload) == payload
    assert bytes(checked(answer)) == bytes(answer)


def test_echo_with_a_wrong_checksum_is_counted(host):
    assert give(host, ethernet() / IP(src=PEER, dst=US) / ICMP(chksum=1)) == []
    assert host.count("bad_icmp") == 1


def test_echo_is_rate_limited(host):
    host.now += S
    answers = sum(len(give(host, ethernet() / IP(src=PEER, dst=US) / ICMP())) for _ in range(150))
    assert answers == 100 and host.count("icmp_withheld") == 50


@pytest.mark.parametrize(
    "packet, counter",
    [
        (ethernet(type=0x88CC) / Raw(b"\0" * 60), "not_ip"),
        (ethernet() / IP(src=PEER, dst="10.77.0.9") / ICMP(), "not_ours"),
        (ethernet() / IP(src=PEER, dst=US, flags="MF") / ICMP(), "fragments"),
        (ethernet() / IP(src=PEER, dst=US, frag=9) / ICMP(), "fragments"),
        (ethernet() / IP(src=PEER, dst=US) / ICMP(type=13), "other_protocol"),
        (ethernet() / IP(src="224.0.0.1", dst=US) / ICMP(), "bad_ip"),
        (ethernet() / IP(src=US, dst=US) / ICMP(), "bad_ip"),
        (ethernet() / IP(src=PEER, dst=US, version=6) / ICMP(), "bad_ip"),
        (Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst=US) / ICMP(), "not_ours"),
    ],
)
def test_what_is_not_for_us_is_counted_and_not_answered(host, packet, counter):
    assert give(host, packet) == []
    assert host.count(counter) == 1


@pytest.mark.parametrize("tags", [[], [Dot1Q(vlan=5)], [Dot1AD(vlan=5), Dot1Q(vlan=6)]])
@pytest.mark.parametrize("ip_options", [b"", b"\x01" * 40])
def test_syn_is_understood_under_tags_and_options(host, tags, ip_options):
    host.listen(80)
    packet = ethernet()
    for tag in tags:
        packet /= tag
    options = [("NOP", None), ("Timestamp", (1, 2)), ("MSS", 1234), ("SAckOK", b""), ("WScale", 9)]
    packet /= IP(src=PEER, dst=US) / TCP(
        sport=5555, dport=80, flags="S", seq=0xFFFFFFFF, window=4321, options=options
    )
    frame = bytearray(bytes(packet))
    if ip_options:
        at = 14 + 4 * len(tags)
        frame[at] = 0x4F
        frame[at + 20 : at + 20] = ip_options
        total = len(frame) - at
        frame[at + 2 : at + 4] = total.to_bytes(2, "big")
    (answer,) = give(host, bytes(frame), QUEUE, 1)
    tcp = answer[TCP]
    assert (tcp.sport, tcp.dport, tcp.flags, tcp.ack) == (80, 5555, "SA", 0)
    assert dict(tcp.options)["MSS"] == 1460 and dict(tcp.options)["WScale"] == 4
    assert [name for name, _ in tcp.options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
    assert answer[IP].flags == "DF" and answer[IP].ttl == 64
    assert bytes(checked(answer)) == bytes(answer)
    row = host.rows_of(QUEUE)[0]
    assert row["mss"] == 1234 - 12 and row["snd_shift"] == 9 and row["snd_wnd"] == 4321


def test_sent_segments_are_what_scapy_would_build(host):
    host.listen(80)
    script = Script(host)
    script.open()
    data = bytes(k * 7 & 255 for k in range(3001))
    host.send(script.connection, data)
    frames = [Ether(frame) for frame in host.transmit()]
    assert b"".join(bytes(f[TCP].payload) for f in frames) == data
    for frame in frames:
        assert bytes(checked(frame)) == bytes(frame)
        assert frame[IP].len == len(frame) - 14 and frame[TCP].dataofs == 5


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_cut_off_records_are_never_read_beyond_their_end(host, length):
    """Stale bytes behind the record would make it a valid SYN."""
    host.listen(80)
    frame = bytes(ethernet() / IP(src=PEER, dst=US) / TCP(sport=5555, dport=80, flags="S"))
    host.memory[: len(frame)] = np.frombuffer(frame, np.uint8)
    cut = min(length, len(frame) - 1)
    host.m.net_input.on_frame(host.s, QUEUE, host.memory, 0, cut, 0, -1, 0, 64, 1, host.now)
    assert host.transmit() == [] and EventKind.ACCEPTED not in host.kinds()
    assert not host.s["connections"]["state"].any()
