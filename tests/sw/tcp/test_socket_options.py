"""What applications may set, keep-alive, close with and without linger, backlog."""

import pytest
from tcp_host import ACK, ELEMENT, FIN, RST, SYN, Host, S, Script, arp_reply, load

from hdstack.tcp.events import (
    NO_LINGER,
    CloseReason,
    EventKind,
    OpenFlag,
    Option,
    RequestKind,
)


@pytest.fixture
def host():
    host = Host(load(False))
    host.listen(80)
    return host


@pytest.fixture
def script(host):
    script = Script(host)
    script.open()
    return script


def set_option(script, option, value):
    """The answer of the stack."""
    script.host.request(
        RequestKind.OPTION, connection=script.connection, port=int(option), length=value
    )
    event = script.host.last(EventKind.OPTION)
    assert event["connection"] == script.connection and event["port"] == option
    return event["reason"]


def close(script, linger=NO_LINGER):
    script.host.request(RequestKind.CLOSE, connection=script.connection, length=linger)
    return script.take()


def closed(script):
    return script.host.app.closed.get(script.connection)


LIMITS = {
    Option.NODELAY: (0, 1),
    Option.KEEPALIVE: (0, 1),
    Option.KEEPALIVE_IDLE: (1, 32767),
    Option.KEEPALIVE_INTERVAL: (1, 32767),
    Option.KEEPALIVE_COUNT: (1, 127),
    Option.USER_TIMEOUT: (0, 0xFFFFFFFF),
    Option.QUICKACK: (0, 1),
    Option.CONGESTION: (0, 1),
    Option.HOPS: (1, 255),
    Option.TRAFFIC_CLASS: (0, 255),
}


@pytest.mark.parametrize("option", list(Option))
def test_values_in_range_are_taken_and_others_refused_without_harm(script, option):
    least, most = LIMITS[option]
    assert set_option(script, option, least) == CloseReason.NORMAL
    assert set_option(script, option, most) == CloseReason.NORMAL
    before = script.row.tobytes()
    for value in (least - 1, most + 1):
        if 0 <= value <= 0xFFFFFFFF:
            assert set_option(script, option, value) == CloseReason.INVALID_REQUEST
    assert script.row.tobytes() == before and closed(script) is None


@pytest.mark.parametrize("option", [0, 11, 77, 65535])
def test_options_that_are_not_there_are_unsupported(script, option):
    before = script.row.tobytes()
    assert set_option(script, option, 1) == CloseReason.UNSUPPORTED
    assert script.row.tobytes() == before


def test_nodelay_lets_small_segments_go(host, script):
    set_option(script, Option.NODELAY, 1)
    for k in range(3):
        host.send(script.connection, b"x", host.app.buffers * ELEMENT + k)
        assert len(script.take()) == 1


def test_connections_begin_with_the_flags_of_their_listener_and_connect(host):
    flags = OpenFlag.NODELAY | OpenFlag.KEEPALIVE
    host.request(RequestKind.LISTEN, port=81, socket=7, offset=int(flags))
    script = Script(host, port=81)
    script.open()
    assert script.row["nodelay"] == 1
    assert script.row["keep_at"] == host.now + 7200 * S
    host.receive(arp_reply(host)[:20] + b"\x00\x01" + arp_reply(host)[22:])
    host.transmit()
    host.request(RequestKind.CONNECT, address=0x0A4D0001, port=80, offset=int(OpenFlag.NODELAY))
    out = Script(host)
    out.answer_connect()
    assert out.row["nodelay"] == 1 and out.row["keep_on"] == 0


def test_an_idle_peer_that_answers_is_kept(host, script):
    set_option(script, Option.KEEPALIVE, 1)
    for _ in range(3):
        assert script.after(7199 * S) == []
        (probe,) = script.after(2 * S)
        assert (probe.seq, probe.flags, probe.payload) == (0, ACK, b"")
        script.give(0, seq=1, ack=1)
        host.now -= S
    assert host.count("keepalive_probes") == 3 and closed(script) is None


def test_a_silent_peer_is_given_up_after_the_probes(host, script):
    for option, value in (
        (Option.KEEPALIVE_IDLE, 10),
        (Option.KEEPALIVE_INTERVAL, 5),
        (Option.KEEPALIVE_COUNT, 3),
        (Option.KEEPALIVE, 1),
    ):
        set_option(script, option, value)
    found = script.after(24 * S)
    assert [s.flags for s in found] == [ACK] * 3 and closed(script) is None
    (reset,) = script.after(2 * S)
    assert reset.flags & RST and closed(script) == CloseReason.TIMED_OUT
    host.check_whole()


def test_an_answered_probe_starts_the_count_again(host, script):
    for option, value in (
        (Option.KEEPALIVE_IDLE, 10),
        (Option.KEEPALIVE_INTERVAL, 30),
        (Option.KEEPALIVE_COUNT, 1),
        (Option.KEEPALIVE, 1),
    ):
        set_option(script, option, value)
    for wait in (11, 30, 30, 30):
        assert len(script.after(wait * S)) == 1
        script.give(0, seq=1, ack=1)
    assert closed(script) is None
    script.after(60 * S)
    assert closed(script) == CloseReason.TIMED_OUT


def test_keepalive_can_be_switched_off_again(script):
    set_option(script, Option.KEEPALIVE, 1)
    set_option(script, Option.KEEPALIVE, 0)
    assert script.after(100_000 * S) == []


def test_a_probe_of_the_peer_is_acknowledged(script):
    (ack,) = script.give(0, seq=0, ack=1)
    assert (ack.flags, ack.ack, ack.seq) == (ACK, 1, 1)


def test_a_user_timeout_ends_a_connection_without_progress(host, script):
    """RFC 5482."""
    set_option(script, Option.USER_TIMEOUT, 5000)
    host.send(script.connection, b"hello")
    script.take()
    script.after(4 * S)
    assert closed(script) is None
    script.after(4 * S)
    assert closed(script) == CloseReason.TIMED_OUT


def test_quickack_asks_for_acks_at_once_or_with_answers(host, script):
    host.app.reads = False
    set_option(script, Option.QUICKACK, 0)
    assert script.give(0, seq=1, ack=1, payload=b"abc") == []
    set_option(script, Option.QUICKACK, 1)
    assert len(script.give(0, seq=4, ack=1, payload=b"abc")) == 1


def test_close_sends_what_was_queued_and_then_fin(host, script):
    host.send(script.connection, b"last words")
    script.take()
    (fin,) = close(script)
    assert fin.flags & FIN and fin.seq == 11
    script.give(0, seq=1, ack=12)
    assert script.state == "FIN_WAIT_2"
    script.give(FIN, seq=1, ack=12)
    assert script.state == "TIME_WAIT" and closed(script) == CloseReason.NORMAL


def test_data_after_close_is_reset(host, script):
    """RFC 9293 section 3.6.1."""
    close(script)
    script.give(0, seq=1, ack=2)
    (reset,) = script.give(0, seq=1, ack=2, payload=b"unwanted")
    assert reset.flags & RST and closed(script) == CloseReason.NORMAL
    assert host.count("closed_data") == 1
    host.check_whole()


def test_a_closed_connection_waits_a_minute_for_the_peers_fin(host, script):
    close(script)
    script.give(0, seq=1, ack=2)
    script.after(59 * S)
    assert closed(script) is None
    script.after(2 * S)
    assert closed(script) == CloseReason.NORMAL
    host.check_whole()


def test_a_half_closed_one_waits_as_long_as_it_takes(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(0, seq=1, ack=2)
    script.after(10_000 * S)
    assert script.state == "FIN_WAIT_2"


def test_linger_resets_what_is_not_acknowledged_in_time(host, script):
    host.send(script.connection, b"unacknowledged")
    script.take()
    close(script, linger=3000)
    script.after(2 * S)
    assert closed(script) is None
    found = script.after(2 * S)
    assert found[-1].flags & RST and closed(script) == CloseReason.TIMED_OUT
    host.check_whole()


def test_linger_of_nothing_resets_at_once(script):
    (reset,) = close(script, linger=0)
    assert reset.flags & RST and closed(script) == CloseReason.ABORTED


def test_linger_ends_with_the_last_acknowledgement(host, script):
    host.send(script.connection, b"all")
    script.take()
    close(script, linger=3000)
    script.give(FIN, seq=1, ack=5)
    script.after(30 * S)
    assert script.state == "TIME_WAIT" and closed(script) == CloseReason.NORMAL


def test_the_backlog_bounds_a_listeners_half_open_connections(host):
    host.request(RequestKind.LISTEN, port=81, socket=7, length=3)
    answers = [Script(host, port=81, sport=6000 + k).give(SYN) for k in range(5)]
    rows = host.s["connections"]
    assert (rows["state"] == host.m.tcp_states.SYN_RECEIVED).sum() == 3
    assert all(dissected.flags == SYN | ACK for found in answers[:3] for dissected in found)
    assert len(Script(host, sport=7000).give(SYN)) == 1, "another listener is not touched"
