"""Connections begin: both directions, options, refusals, floods, retries."""

import pytest
from tcp_host import ACK, FIN, MS, RST, SYN, Host, S, Script, arp_reply, asks_for, dissect, load

from hdstack.tcp.events import CloseReason, EventKind, RequestKind


@pytest.fixture
def host():
    return Host(load(False))


def listening(host, port=80):
    host.listen(port)
    assert host.last(EventKind.LISTENING)["socket"] == 5
    return Script(host, port)


def test_passive_open_tells_the_application_its_peer(host):
    script = listening(host)
    answer = script.open(mss=1400, shift=7)
    assert answer.mss == 1460 and answer.shift == 4
    event = host.last(EventKind.ACCEPTED)
    assert (event["address"], event["port"], event["socket"]) == (0x0A4D0001, 40000, 5)
    assert script.state == "ESTABLISHED"
    assert script.row["mss"] == 1400 and script.row["snd_shift"] == 7
    host.check_whole()


def test_window_scale_is_not_offered_to_a_peer_without_it(host):
    assert listening(host).open(shift=-1).shift == -1


def test_a_peer_without_mss_option_gets_536_bytes(host):
    script = listening(host)
    script.open(mss=0)
    assert script.row["mss"] == 536


def test_active_open_asks_for_the_neighbour_then_sends_syn(host):
    host.connect(0x0A4D0001, 8080)
    (frame,) = host.transmit()
    assert frame[:6] == b"\xff" * 6 and frame[12:14] == b"\x08\x06"
    host.receive(arp_reply(host))
    host.step()
    script = Script(host, sport=8080)
    syn, found = script.answer_connect(shift=2)
    assert syn.mss == 1460 and syn.shift == 4 and 49152 + 256 <= syn.sport < 49152 + 512
    assert [s.flags for s in found] == [ACK] and found[0].ack == 1 and found[0].seq == 1
    event = host.last(EventKind.CONNECTED)
    assert (event["socket"], event["port"]) == (6, 8080)
    host.check_whole()


def test_connect_fails_where_no_neighbour_answers(host):
    host.connect(0x0A4D0009, 80)
    Script(host).after(5 * S)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.UNREACHABLE
    host.check_whole()


@pytest.mark.parametrize(
    "address, reason",
    [
        (0x0A4D0002, CloseReason.UNREACHABLE),
        (0xE0000001, CloseReason.UNREACHABLE),
        (0x0A4D00FF, CloseReason.UNREACHABLE),
        (0x7F000001, CloseReason.UNREACHABLE),
        (0, CloseReason.INVALID_REQUEST),
    ],
)
def test_connect_to_no_host_fails_at_once(host, address, reason):
    host.connect(address, 80)
    assert host.last(EventKind.FAILED)["reason"] == reason


def test_connect_beyond_the_network_goes_by_the_gateway(host):
    host.connect(0x08080808, 80)
    (frame,) = host.transmit()
    assert frame[38:42] == bytes([10, 77, 0, 254])


def connecting(host):
    host.receive(arp_reply(host)[:20] + b"\x00\x01" + arp_reply(host)[22:])  # they ask for us
    host.transmit()
    host.connect(0x0A4D0001, 80)


def test_refused_connect_fails(host):
    connecting(host)
    (frame,) = host.transmit()
    syn = dissect(frame)
    script = Script(host, port=syn.sport, sport=80)
    script.irs = syn.seq
    assert script.give(RST, ack=1) == []
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.REFUSED
    host.check_whole()


def test_rst_without_or_with_wrong_ack_does_not_refuse_a_connect(host):
    connecting(host)
    syn = dissect(host.transmit()[0])
    script = Script(host, port=syn.sport, sport=80)
    script.irs = syn.seq
    script.give(RST)
    script.give(RST, ack=2)
    assert EventKind.FAILED not in host.kinds()


def test_syn_is_sent_again_with_backoff_until_three_minutes(host):
    connecting(host)
    start, times = host.now, []
    syn = dissect(host.transmit()[0])
    while EventKind.FAILED not in host.kinds():
        following = host.timers()
        for frame in host.transmit():
            if asks_for(frame, 0x0A4D0001):  # the neighbour is there, its TCP is not
                host.receive(arp_reply(host))
                continue
            again = dissect(frame)
            assert again.seq == syn.seq and again.flags == SYN
            times.append((host.now - start) / S)
        host.now = max(host.now, min(following, start + 200 * S))
    assert times[:6] == [1, 3, 7, 15, 31, 63]
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.TIMED_OUT
    assert host.now - start >= 180 * S
    host.check_whole()


def test_simultaneous_open(host):
    connecting(host)
    syn = dissect(host.transmit()[0])
    script = Script(host, port=syn.sport, sport=80)
    script.irs = syn.seq
    (both,) = script.give(SYN, mss=1460)
    assert both.flags == SYN | ACK and both.seq == 0 and both.ack == 1
    script.give(0, seq=1, ack=1)
    assert host.kinds()[-1] == EventKind.CONNECTED


def test_syn_to_a_closed_port_is_reset(host):
    (answer,) = Script(host, port=81).give(SYN)
    assert answer.flags == RST | ACK and answer.ack == 1 and answer.seq == 0
    assert host.count("no_listener") == 1


def test_stray_ack_is_reset_at_its_own_number(host):
    (answer,) = Script(host, port=81).give(0, seq=5, ack=77)
    assert answer.flags == RST and answer.seq == 77


def test_resets_to_strangers_are_rate_limited(host):
    script = Script(host, port=81)
    answered = sum(len(script.give(SYN)) for _ in range(300))
    assert answered == 200
    assert host.count("resets_withheld") == 100
    host.now += S // 10
    assert sum(len(script.give(SYN)) for _ in range(100)) == 20


def test_lost_syn_ack_is_sent_again_and_given_up(host):
    script = listening(host)
    script.give(SYN)
    again = script.after(100 * S)
    assert [s.flags for s in again] == [SYN | ACK] * 5
    assert EventKind.ACCEPTED not in host.kinds() and EventKind.CLOSED not in host.kinds()
    host.check_whole()


def test_repeated_syn_gets_the_same_syn_ack(host):
    script = listening(host)
    (first,) = script.give(SYN)
    (again,) = script.give(SYN)
    assert (again.flags, again.seq, again.ack) == (first.flags, first.seq, first.ack)


def test_half_open_connections_are_bounded(host):
    host.listen(80)
    for sport in range(1000, 1600):
        Script(host, sport=sport).give(SYN)
        assert host.s["queues"][1]["half_open"] <= 512
    assert host.count("cookies_sent") == 88
    Script(host).after(200 * S)
    assert host.s["queues"][1]["half_open"] == 0
    host.check_whole()


def test_syn_with_payload_opens_and_its_data_comes_again(host):
    script = listening(host)
    (answer,) = script.give(SYN, payload=b"early")
    assert answer.flags == SYN | ACK and answer.ack == 1
    script.irs = answer.seq
    script.give(0, seq=1, ack=1, payload=b"early")
    connection = host.last(EventKind.ACCEPTED)["connection"]
    assert host.app.streams[connection] == b"early"


def test_wrong_ack_of_a_syn_ack_is_reset_and_leaves_the_connection(host):
    script = listening(host)
    (answer,) = script.give(SYN)
    script.irs = answer.seq
    (reset,) = script.give(0, seq=1, ack=99)
    assert reset.flags == RST and reset.seq == 99
    script.give(0, seq=1, ack=1)
    assert EventKind.ACCEPTED in host.kinds()


def test_initial_numbers_differ_by_peer_and_by_secret(host):
    host.listen(80)
    other = Host(load(False), seed=2)
    other.listen(80)
    numbers = {Script(h, sport=p).give(SYN)[0].seq for h in (host, other) for p in range(1, 40)}
    assert len(numbers) == 78


def test_port_in_use_and_port_zero_are_refused():
    host = Host(load(False), apps=2)
    host.listen(80)
    host.listen(80, socket=9)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.ADDRESS_IN_USE
    host.listen(80, socket=9, queue=2)
    assert host.last(EventKind.FAILED, 2)["reason"] == CloseReason.ADDRESS_IN_USE
    host.listen(49152 + 256, socket=9, queue=2)  # a port of the first application's range
    assert host.last(EventKind.FAILED, 2)["reason"] == CloseReason.ADDRESS_IN_USE
    host.listen(0, socket=9)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.INVALID_REQUEST


def test_unlisten_keeps_the_rule_until_the_last_connection_ends(host):
    script = listening(host)
    script.open()
    at = host.last(EventKind.LISTENING)["connection"]
    host.request(RequestKind.UNLISTEN, connection=at)
    assert host.s["listeners"][at]["state"] == host.m.tcp_states.LISTENER_CLOSING
    other = Script(host, sport=41000)
    assert other.give(SYN)[0].flags == RST | ACK
    script.give(0, seq=1, ack=1, payload=b"still served")
    assert host.app.streams[script.connection] == b"still served"
    host.abort(script.connection)
    assert host.s["listeners"][at]["state"] == host.m.tcp_states.LISTENER_FREE
    script.take()
    host.check_whole()


def test_listening_again_before_the_last_connection_ends_needs_no_new_rule(host):
    script = listening(host)
    script.open()
    at = host.last(EventKind.LISTENING)["connection"]
    host.request(RequestKind.UNLISTEN, connection=at)
    host.listen(80, socket=11)
    assert host.last(EventKind.LISTENING)["socket"] == 11
    Script(host, sport=41000).open()


def test_syn_fin_and_syn_rst_are_not_answered(host):
    script = listening(host)
    assert script.give(SYN | FIN) == [] and script.give(SYN | RST) == []
    assert host.count("bad_segment") == 2


def test_ports_of_connects_come_from_the_applications_range_and_do_not_repeat(host):
    connecting(host)
    host.transmit()
    ports = set()
    for _ in range(40):
        host.connect(0x0A4D0001, 80)
        ports |= {dissect(f).sport for f in host.transmit()}
    assert len(ports) == 40 and all(49408 <= port < 49664 for port in ports)


def test_time_moves_the_initial_number_forward(host):
    first = Script(host, port=80)
    host.listen(80)
    one = first.give(SYN)[0].seq
    first.irs = one
    first.give(RST, seq=1, ack=1)
    host.now += 40 * MS
    two = first.give(SYN)[0].seq
    assert two == 40 * MS // 4000  # relative to the first one
