"""ICMP errors in: what is believed, and what follows (RFC 5927, 1191). Errors out (RFC 1122)."""

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tcp_host import FIN, MS, Host, S, Script, arp_reply, load

from hdstack.tcp.events import CloseReason, EventKind

US, PEER, ROUTER = "10.77.0.2", "10.77.0.1", "10.77.0.254"
OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"


@pytest.fixture
def host():
    host = Host(load(False), congestion=load(False).tcp_tables.NEWRENO)
    host.listen(80)
    return host


@pytest.fixture
def script(host):
    script = Script(host)
    script.open()
    return script


def give(host, packet):
    """A frame to queue 0; what goes out, read by scapy."""
    frame = bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / packet)
    host.memory[10 : 10 + len(frame)] = np.frombuffer(frame, np.uint8)
    host.m.net_input.on_frame(host.s, 0, host.memory, 10, len(frame), 0, -1, 0, 64, 7, host.now)
    host.step()


def error(script, kind, code, seq, size=1500, mtu=0, quoted=8, **changes):
    """An ICMP error about our segment at relative `seq`."""
    script.host.transmit()
    inner = IP(src=US, dst=PEER, len=size, proto=6, flags="DF")
    for name, value in changes.items():
        setattr(inner, name, value)
    number = (script.irs + seq) & 0xFFFFFFFF
    ports = script.port.to_bytes(2, "big") + script.sport.to_bytes(2, "big")
    tcp = ports + number.to_bytes(4, "big") + bytes(12)
    message = IP(src=ROUTER, dst=US) / ICMP(type=kind, code=code, nexthopmtu=mtu or None)
    give(script.host, message / Raw(bytes(inner)[:20] + tcp[:quoted]))
    return script.take()


def connecting(host):
    host.receive(arp_reply(host)[:20] + b"\x00\x01" + arp_reply(host)[22:])
    host.transmit()
    host.connect(0x0A4D0001, 80)
    row = next(r for r in host.s["connections"] if r["state"] == host.m.tcp_states.SYN_SENT)
    script = Script(host, port=int(row["local_port"]), sport=80)
    script.irs = int(row["iss"]) & 0xFFFFFFFF
    return script


HARD = [(3, 2), (3, 3)]
SOFT = [(3, 0), (3, 1), (3, 5), (3, 13), (11, 0), (11, 1), (12, 0)]


@pytest.mark.parametrize("kind, code", HARD)
def test_hard_errors_end_a_connect_at_once(host, kind, code):
    error(connecting(host), kind, code, 0, 60)
    reason = host.last(EventKind.FAILED)["reason"]
    assert reason == (CloseReason.REFUSED if code == 3 else CloseReason.UNREACHABLE)
    assert host.count("errors_taken") == 1
    host.check_whole()


@pytest.mark.parametrize("kind, code", SOFT)
def test_soft_errors_let_a_connect_go_on_and_name_the_reason_at_its_end(host, kind, code):
    """RFC 1122 section 4.2.3.9."""
    script = connecting(host)
    error(script, kind, code, 0, 60)
    assert EventKind.FAILED not in host.kinds()
    script.after(300 * S)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.UNREACHABLE


def to_established(script):
    script.host.send(script.connection, b"x" * 100)
    script.take()
    return 1


def to_fin_wait_1(script):
    script.host.shutdown(script.connection)
    script.take()
    return 1


def to_closing(script):
    to_fin_wait_1(script)
    script.give(FIN, seq=1, ack=1)
    return 1


def to_last_ack(script):
    script.give(FIN, seq=1, ack=1)
    to_fin_wait_1(script)
    return 1


@pytest.mark.parametrize("reach", [to_established, to_fin_wait_1, to_closing, to_last_ack])
@pytest.mark.parametrize("kind, code", HARD + SOFT)
def test_no_error_ends_a_synchronised_connection(host, script, reach, kind, code):
    """RFC 5927 section 6: hard errors are soft ones there."""
    seq = reach(script)
    state = script.state
    assert error(script, kind, code, seq, 140) == []
    assert script.state == state and EventKind.CLOSED not in host.kinds()
    script.after(400 * S)
    assert host.app.closed[script.connection] in (CloseReason.REFUSED, CloseReason.UNREACHABLE)


def test_an_error_is_forgotten_when_the_peer_answers_after_all(host, script):
    to_established(script)
    error(script, 3, 1, 1, 140)
    script.give(0, seq=1, ack=101)
    host.send(script.connection, b"x" * 100)
    script.after(400 * S)
    assert host.app.closed[script.connection] == CloseReason.TIMED_OUT


@pytest.mark.parametrize("seq", [0, 101, 5000, -1, 1 << 31])
def test_errors_about_numbers_not_in_flight_are_ignored(host, script, seq):
    """RFC 5927 section 4.1."""
    to_established(script)
    error(script, 3, 4, seq, 1500, 600)
    error(script, 3, 1, seq)
    assert host.count("errors_ignored") == 2 and script.row["mss"] == 1460
    assert script.row["soft_error"] == 0


@pytest.mark.parametrize(
    "changes", [{"src": PEER}, {"dst": "10.77.0.9"}, {"proto": 17}, {"frag": 3}]
)
def test_errors_about_what_we_never_sent_are_ignored(host, script, changes):
    to_established(script)
    error(script, 3, 4, 1, 1500, 600, **changes)
    assert host.count("errors_ignored") == 1 and script.row["mss"] == 1460


@pytest.mark.parametrize("quoted", [0, 4, 7])
def test_errors_that_quote_too_little_are_counted(host, script, quoted):
    to_established(script)
    error(script, 3, 4, 1, 1500, 600, quoted=quoted)
    assert host.count("bad_icmp") == 1 and script.row["mss"] == 1460


def test_a_smaller_path_mtu_sends_again_in_smaller_segments(host, script):
    """RFC 1191 section 6.4; the congestion window stays."""
    host.send(script.connection, b"x" * 2920)
    script.take()
    cwnd = int(script.row["cwnd"])
    found = error(script, 3, 4, 1, 1500, 1000)
    assert [(s.seq, len(s.payload)) for s in found] == [
        (1, 960),
        (961, 960),
        (1921, 960),
        (2881, 40),
    ]
    assert script.row["mss"] == 960 and script.row["cwnd"] == cwnd
    assert script.give(0, seq=1, ack=2921) == [] and host.count("timeouts") == 0


def test_time_stamps_are_counted_into_the_path_mtu(host):
    script = Script(host)
    script.open(ts=True)
    host.send(script.connection, b"x" * 1448)
    script.take()
    found = error(script, 3, 4, 1, 1500, 1000)
    assert [len(s.payload) for s in found] == [948, 500]


def test_a_router_that_tells_no_mtu_means_the_next_plateau(host, script):
    """RFC 1191 section 7."""
    host.send(script.connection, b"x" * 1460)
    script.take()
    error(script, 3, 4, 1, 1500, 0)
    assert script.row["mss"] == 1492 - 40


@pytest.mark.parametrize("mtu", [1, 68, 551])
def test_the_path_mtu_has_a_floor(host, script, mtu):
    host.send(script.connection, b"x" * 1460)
    script.take()
    error(script, 3, 4, 1, 1500, mtu)
    assert script.row["mss"] == 552 - 40


@pytest.mark.parametrize("size, mtu", [(1000, 1000), (500, 1400), (1500, 1500), (1500, 9000)])
def test_a_packet_that_fits_the_mtu_told_was_not_too_big(host, script, size, mtu):
    host.send(script.connection, b"x" * 1460)
    script.take()
    assert error(script, 3, 4, 1, size, mtu) == []
    assert script.row["mss"] == 1460 and host.count("errors_ignored") == 1


def test_a_smaller_mtu_is_taken_once_a_second(host, script):
    """Each costs a window of retransmissions."""
    host.send(script.connection, b"x" * 1460)
    script.take()
    for mtu in range(1400, 1300, -1):
        error(script, 3, 4, 1, 1500, mtu)
    assert script.row["mss"] == 1360 and host.count("path_mtu") == 1


def test_the_next_connection_begins_with_the_mtu_that_was_learnt(host, script):
    host.send(script.connection, b"x" * 1460)
    script.take()
    error(script, 3, 4, 1, 1500, 1000)
    other = Script(host, sport=50000)
    assert other.open().mss == 1460, "what we receive is not limited by it"
    assert other.row["mss"] == 960
    stranger = Script(host, sport=50000, address=0x0A4D0003)
    stranger.open()
    assert stranger.row["mss"] == 1460
    host.now += 700 * S
    late = Script(host, sport=50001)
    late.open()
    assert late.row["mss"] == 1460


def test_a_smaller_mtu_is_forgotten_after_ten_minutes(host, script):
    host.send(script.connection, b"x" * 1460)
    script.take()
    error(script, 3, 4, 1, 1500, 1000)
    script.give(0, seq=1, ack=1461)
    host.now += 601 * S
    host.send(script.connection, b"y" * 100)
    script.take()
    script.give(0, seq=1, ack=1561)
    assert script.row["mss"] == 1460


def test_the_table_of_paths_is_bounded(host):
    for k in range(100):
        script = Script(host, sport=40000, address=0x0A4D0100 + k)
        script.open()
        host.send(script.connection, b"x" * 1460)
        script.take()
        host.now += 20 * MS
        error(script, 3, 4, 1, 1500, 1000, dst=f"10.77.1.{k}")
        host.abort(script.connection)
        script.take()
    known = set(host.s["paths"]["address"].tolist())
    assert known == {0x0A4D0100 + k for k in range(36, 100)}, "the oldest made room"


# errors out


def answers(host, packet):
    give(host, packet)
    return [Ether(frame) for frame in host.transmit()]


@pytest.mark.parametrize(
    "packet, code",
    [
        (IP(src=PEER, dst=US) / UDP(sport=5, dport=53) / Raw(b"q" * 30), 3),
        (IP(src=PEER, dst=US, proto=132) / Raw(b"sctp" * 5), 2),
    ],
)
def test_what_nobody_takes_is_answered_by_unreachable(host, packet, code):
    (answer,) = answers(host, packet)
    assert (answer[IP].src, answer[IP].dst) == (US, PEER)
    assert (answer[ICMP].type, answer[ICMP].code) == (3, code)
    quoted = bytes(answer[ICMP].payload)
    assert quoted == bytes(IP(bytes(packet)))
    again = answer.copy()
    del again[IP].chksum, again[ICMP].chksum
    assert bytes(Ether(bytes(again))) == bytes(answer)


def test_an_error_quotes_548_bytes_at_most(host):
    (answer,) = answers(host, IP(src=PEER, dst=US) / UDP(dport=53) / Raw(b"q" * 1400))
    assert len(answer) == 14 + 576


def test_errors_are_not_answered_and_are_limited_in_rate(host):
    assert answers(host, IP(src=PEER, dst=US) / ICMP(type=3, code=3) / Raw(bytes(28))) == []
    host.now += S
    found = sum(len(answers(host, IP(src=PEER, dst=US) / UDP(dport=53))) for _ in range(150))
    assert found == 100 and host.count("icmp_withheld") == 50


def test_a_flood_of_errors_leaves_the_connection_as_it_was(host, script):
    to_established(script)
    before = {name: int(script.row[name]) for name in ("snd_nxt", "cwnd", "mss", "rto")}
    chance = np.random.default_rng(1)
    for _ in range(300):
        kind, code = int(chance.integers(0, 20)), int(chance.integers(0, 16))
        error(script, kind, code, int(chance.integers(200, 1 << 32)), 1500, 600)
    assert before == {name: int(script.row[name]) for name in before}
    script.give(0, seq=1, ack=101)
    assert host.app.released[script.connection] == 1
