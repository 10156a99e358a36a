"""A flood of SYN: cookies keep real peers served and tables bounded (RFC 4987)."""

import pytest
from tcp_host import ACK, MS, RST, SYN, Host, S, Script, load

from hdstack.tcp.events import EventKind, RequestKind


@pytest.fixture
def host():
    """A listener whose only place for half-open connections is taken."""
    host = Host(load(False))
    host.request(RequestKind.LISTEN, port=80, socket=5, length=1)
    Script(host, sport=999).give(SYN)
    return host


def syn(script, **options):
    (answer,) = script.give(SYN, **options)
    assert answer.flags == SYN | ACK and answer.ack == 1
    script.irs = answer.seq
    return answer


def connections(host):
    return int(host.s["queues"][1]["connections"])


def test_a_syn_beyond_the_limit_takes_no_row_and_is_answered(host):
    for sport in range(2000, 2300):
        syn(Script(host, sport=sport))
    assert connections(host) == 1 and host.count("cookies_sent") == 300


def test_the_ack_of_a_cookie_opens_the_connection(host):
    script = Script(host)
    syn(script, mss=1460)
    script.give(0, seq=1, ack=1)
    event = host.last(EventKind.ACCEPTED)
    assert (event["address"], event["port"], event["socket"]) == (0x0A4D0001, 40000, 5)
    script.connection = event["connection"]
    script.give(0, seq=1, ack=1, payload=b"hello")
    host.send(script.connection, b"x" * 3000)
    assert [len(s.payload) for s in script.take()] == [1460, 1460, 80]
    assert host.app.streams[script.connection] == b"hello"
    host.check_whole()


def test_data_with_the_ack_is_taken(host):
    """The bare ACK was lost, or the peer sent none."""
    script = Script(host)
    syn(script, mss=1460)
    script.give(0, seq=1, ack=1, payload=b"request")
    assert host.app.streams[host.last(EventKind.ACCEPTED)["connection"]] == b"request"


@pytest.mark.parametrize("forged", [False, True])
def test_a_later_syn_does_not_spoil_the_cookie(host, forged):
    """The peer's own one again, or one that somebody forges: it finds room, the cookie's ACK comes
    after it."""
    script = Script(host)
    cookie = syn(script, mss=1460)
    Script(host, sport=999).give(RST, seq=1)
    host.now += 10 * MS
    later = syn(Script(host, iss=77_000) if forged else script, mss=1460)
    assert later.seq != cookie.seq and connections(host) == 1
    script.irs = cookie.seq
    answers = script.give(0, seq=1, ack=1, payload=b"request")
    assert not any(a.flags & RST for a in answers)
    assert host.app.streams[host.last(EventKind.ACCEPTED)["connection"]] == b"request"
    assert connections(host) == 1
    host.check_whole()


@pytest.mark.parametrize(
    "mss, kept", [(0, 536), (64, 64), (535, 256), (536, 536), (1400, 1300), (1460, 1460)]
)
def test_the_peers_mss_is_kept_to_the_next_lower_of_eight(host, mss, kept):
    script = Script(host)
    syn(script, mss=mss)
    script.give(0, seq=1, ack=1)
    script.connection = host.last(EventKind.ACCEPTED)["connection"]
    assert script.row["mss"] == kept


def test_options_survive_in_the_time_stamp(host):
    script = Script(host)
    script.ts = True
    answer = syn(script, mss=1460, shift=9, sack_ok=True)
    assert answer.shift == 4 and answer.sack_ok and answer.ts is not None
    script.give(0, seq=1, ack=1, window=100)
    script.connection = host.last(EventKind.ACCEPTED)["connection"]
    row = script.row
    assert (row["ts_ok"], row["sack_ok"], row["snd_shift"], row["rcv_shift"]) == (1, 1, 9, 4)
    assert row["snd_wnd"] == 51200 and row["mss"] == 1448
    host.now += S
    host.send(script.connection, b"x")
    (data,) = script.take()
    assert 0 < (data.ts[0] - answer.ts[0]) & 0xFFFFFFFF < 1100, "the clock never runs backwards"


@pytest.mark.parametrize("step", range(0, 64, 7))
def test_the_marked_time_stamp_is_never_ahead_of_the_clock(host, step):
    host.now += step * MS
    script = Script(host)
    script.ts = True
    answer = syn(script, mss=1460, shift=14, sack_ok=True)
    script.give(0, seq=1, ack=1)
    host.send(host.last(EventKind.ACCEPTED)["connection"], b"x")
    (data,) = script.take()
    assert 0 <= (data.ts[0] - answer.ts[0]) & 0xFFFFFFFF < 64


def test_without_time_stamps_other_options_are_given_up(host):
    answer = syn(Script(host), mss=1460, shift=9, sack_ok=True)
    assert answer.shift == -1 and not answer.sack_ok


@pytest.mark.parametrize("wrong", ["ack", "seq", "port", "late"])
def test_a_wrong_cookie_is_answered_by_a_reset(host, wrong):
    script = Script(host)
    syn(script)
    ack, seq = (99, 1) if wrong == "ack" else (1, 99 if wrong == "seq" else 1)
    if wrong == "port":
        script.sport += 1
    if wrong == "late":
        host.now += 200 * S
        syn(Script(host, sport=2222))  # still under a flood
    (reset,) = script.give(0, seq=seq, ack=ack)
    assert reset.flags == RST and EventKind.ACCEPTED not in host.kinds()
    assert host.count("cookies_wrong") == 1


def test_acks_are_not_believed_where_no_cookie_was_sent():
    host = Host(load(False))
    host.listen(80)
    script = Script(host)
    script.irs = 12345
    (reset,) = script.give(0, seq=1, ack=1)
    assert reset.flags == RST and host.count("cookies_wrong") == 0


def test_guessed_cookies_do_not_open_connections(host):
    script = Script(host)
    syn(script)
    for guess in range(1, 3000):
        script.give(0, seq=1, ack=1 + 1000 * guess)
    assert EventKind.ACCEPTED not in host.kinds()


def test_the_connection_of_a_cookie_is_as_any_other(host):
    script = Script(host)
    syn(script, mss=1460)
    script.give(0, seq=1, ack=1)
    script.connection = host.last(EventKind.ACCEPTED)["connection"]
    host.shutdown(script.connection)
    (fin,) = script.take()
    script.give(0, seq=1, ack=2)
    (ack,) = script.give(1, seq=1, ack=2)
    assert fin.seq == 1 and ack.flags == ACK and script.state == "TIME_WAIT"
    host.check_whole()
