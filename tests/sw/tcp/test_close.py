"""Connections end: FIN in each state, half-close, TIME-WAIT, RST, blind attacks."""

import pytest
from tcp_host import ACK, FIN, MS, QUEUE, RST, SYN, Host, S, Script, load

from hdstack.tcp.events import CloseReason, EventKind, RequestKind


@pytest.fixture
def host():
    return Host(load(False))


@pytest.fixture
def script(host):
    host.listen(80)
    script = Script(host)
    script.open()
    return script


def closed(script):
    return script.host.app.closed.get(script.connection)


def test_we_close_first_and_wait_sixty_seconds(host, script):
    host.shutdown(script.connection)
    (fin,) = script.take()
    assert fin.flags == FIN | ACK and script.state == "FIN_WAIT_1"
    script.give(0, seq=1, ack=2)
    assert script.state == "FIN_WAIT_2"
    (ack,) = script.give(FIN, seq=1, ack=2)
    assert ack.ack == 2 and ack.seq == 2 and script.state == "TIME_WAIT"
    assert closed(script) == CloseReason.NORMAL
    script.after(59 * S)
    assert script.state == "TIME_WAIT"
    script.after(2 * S)
    assert script.state == "FREE"
    host.check_whole()


def test_the_peer_closes_first(host, script):
    (ack,) = script.give(FIN, seq=1, ack=1)
    assert ack.ack == 2 and script.state == "CLOSE_WAIT"
    assert script.connection in host.app.finished and closed(script) is None
    host.send(script.connection, b"still sending")
    assert script.take()[0].payload == b"still sending"
    host.shutdown(script.connection)
    (fin,) = script.take()
    assert fin.flags & FIN and fin.seq == 14 and script.state == "LAST_ACK"
    script.give(0, seq=2, ack=15)
    assert script.state == "FREE" and closed(script) == CloseReason.NORMAL
    assert host.app.released[script.connection] == 1
    host.check_whole()


def test_half_closed_we_still_receive(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(0, seq=1, ack=2)
    script.give(0, seq=1, ack=2, payload=b"abc")
    script.give(FIN, seq=4, ack=2, payload=b"def")
    assert host.app.streams[script.connection] == b"abcdef" and script.state == "TIME_WAIT"


def test_both_close_at_once(host, script):
    host.shutdown(script.connection)
    script.take()
    (ack,) = script.give(FIN, seq=1, ack=1)  # sent before our FIN was seen
    assert ack.ack == 2 and script.state == "CLOSING"
    script.give(0, seq=2, ack=2)
    assert script.state == "TIME_WAIT" and closed(script) == CloseReason.NORMAL
    host.check_whole()


def test_fin_that_acknowledges_ours_goes_straight_to_time_wait(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    assert script.state == "TIME_WAIT"


def test_fin_follows_the_last_byte_in_the_same_segment(host, script):
    host.send(script.connection, b"x" * 14600)
    script.take()
    host.send(script.connection, b"last")
    host.shutdown(script.connection)
    (segment,) = script.give(0, seq=1, ack=14601)
    assert segment.payload == b"last" and segment.flags & FIN


def test_a_lost_fin_is_sent_again(host, script):
    host.shutdown(script.connection)
    script.take()
    again = script.after(S)
    assert [s.flags & FIN for s in again] == [FIN, FIN] and {s.seq for s in again} == {1}


def test_shutdown_twice_is_harmless(host):
    host.listen(80)
    script = Script(host)
    script.open()
    host.shutdown(script.connection)
    host.shutdown(script.connection)
    assert len(script.take()) == 1


def test_time_wait_acknowledges_a_repeated_fin_and_starts_again(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    script.after(50 * S)
    (ack,) = script.give(FIN, seq=1, ack=2)
    assert ack.ack == 2
    script.after(50 * S)
    assert script.state == "TIME_WAIT"
    script.after(11 * S)
    assert script.state == "FREE"


def test_rst_does_not_end_time_wait(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    script.give(RST, seq=2, ack=2)
    assert script.state == "TIME_WAIT"


def test_a_new_syn_with_higher_numbers_reopens_out_of_time_wait(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    before = (script.irs + 2) & 0xFFFFFFFF
    script.iss += 100000
    (answer,) = script.give(SYN)
    assert answer.flags == SYN | ACK and answer.ack == 1
    assert (answer.seq + script.irs - before) & 0xFFFFFFFF < 1 << 31
    script.irs = (answer.seq + script.irs) & 0xFFFFFFFF
    script.give(0, seq=1, ack=1)
    assert host.kinds().count(EventKind.ACCEPTED) == 2
    host.check_whole()


def test_an_old_syn_in_time_wait_is_only_acknowledged(host, script):
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    (ack,) = script.give(SYN, seq=-5000)
    assert ack.flags == ACK and script.state == "TIME_WAIT"


@pytest.mark.parametrize(
    "stamps_before, step, seq, reopens",
    [
        (True, 1, -5000, True),  # a newer time stamp is enough
        (True, 0, 100_000, True),
        (True, 0, -5000, False),
        (True, -1, 100_000, False),  # numbers that wrapped do not help an old one
        (True, None, 100_000, True),
        (True, None, -5000, False),
        (False, 1, -5000, True),
        (False, None, -5000, False),
    ],
)
def test_time_stamps_decide_what_may_end_time_wait(host, stamps_before, step, seq, reopens):
    """RFC 6191 section 2."""
    host.listen(80)
    script = Script(host)
    script.open(ts=stamps_before)
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=2)
    assert script.state == "TIME_WAIT"
    last, script.ts = script.clock(), False
    (answer,) = script.give(SYN, seq=seq, ts=None if step is None else (last + step, 0))
    assert answer.flags == (SYN | ACK if reopens else ACK)
    host.check_whole()


def to_established(host, script):
    pass


def to_fin_wait_1(host, script):
    host.shutdown(script.connection)
    script.take()


def to_fin_wait_2(host, script):
    to_fin_wait_1(host, script)
    script.give(0, seq=1, ack=2)


def to_close_wait(host, script):
    script.give(FIN, seq=1, ack=1)


def to_closing(host, script):
    to_fin_wait_1(host, script)
    script.give(FIN, seq=1, ack=1)


def to_last_ack(host, script):
    to_close_wait(host, script)
    host.shutdown(script.connection)
    script.take()


STATES = [to_established, to_fin_wait_1, to_fin_wait_2, to_close_wait, to_closing, to_last_ack]


@pytest.mark.parametrize("reach", STATES)
def test_rst_with_the_expected_number_ends_every_state(host, script, reach):
    reach(host, script)
    expected = int(script.row["rcv_nxt"] - script.row["irs"])
    assert script.give(RST, seq=expected) == []
    # where both streams are whole and only our FIN is open, nothing was lost
    normal = reach in (to_closing, to_last_ack)
    assert closed(script) == (CloseReason.NORMAL if normal else CloseReason.RESET)
    assert script.state == "FREE"
    host.check_whole()


@pytest.mark.parametrize("reach", STATES)
def test_rst_inside_the_window_is_challenged_and_outside_ignored(host, script, reach):
    """RFC 5961 section 3."""
    reach(host, script)
    state, expected = script.state, int(script.row["rcv_nxt"] - script.row["irs"])
    assert script.give(RST, seq=expected - 1) == []
    assert script.give(RST, seq=expected + 1_000_000) == []
    if script.row["rcv_adv"] > script.row["rcv_nxt"]:
        (ack,) = script.give(RST, seq=expected + 1)
        assert ack.flags == ACK and ack.ack == expected
    assert script.state == state and closed(script) is None


@pytest.mark.parametrize("reach", STATES)
def test_syn_inside_the_window_is_challenged(host, script, reach):
    """RFC 5961 section 4."""
    reach(host, script)
    state, expected = script.state, int(script.row["rcv_nxt"] - script.row["irs"])
    (ack,) = script.give(SYN, seq=expected)
    assert ack.flags == ACK and ack.ack == expected and script.state == state


@pytest.mark.parametrize("reach", STATES)
def test_ack_of_what_was_never_sent_is_challenged(host, script, reach):
    """RFC 5961 section 5."""
    reach(host, script)
    state, expected = script.state, int(script.row["rcv_nxt"] - script.row["irs"])
    (ack,) = script.give(0, seq=expected, ack=5000)
    assert ack.flags == ACK and ack.ack == expected and script.state == state
    assert script.give(0, seq=expected, ack=-200_000)[0].flags == ACK
    assert host.count("bad_ack") == 2


@pytest.mark.parametrize("reach", STATES)
def test_abort_resets_the_peer_in_every_state(host, script, reach):
    reach(host, script)
    host.abort(script.connection)
    (reset,) = script.take()
    assert reset.flags == RST | ACK
    assert closed(script) == CloseReason.ABORTED and script.state == "FREE"
    host.check_whole()


@pytest.mark.parametrize("reach", STATES)
def test_every_state_ends_when_the_peer_is_silent_with_data_outstanding(host, script, reach):
    if reach in (to_established, to_close_wait):
        reach(host, script)
        host.send(script.connection, b"x" * 100)
    else:
        host.send(script.connection, b"x" * 100)
        host.shutdown(script.connection)
        if reach in (to_closing, to_last_ack):
            script.give(FIN, seq=1, ack=1)
    script.after(300 * S)
    assert closed(script) == CloseReason.TIMED_OUT
    host.check_whole()


def test_challenges_of_a_connection_are_rate_limited(host, script):
    """RFC 5961 section 7: ten in five seconds."""
    answers = sum(len(script.give(RST, seq=5)) for _ in range(500))
    assert answers == 10 and host.count("resets_withheld") == 490
    host.now += 5 * S
    assert sum(len(script.give(RST, seq=5)) for _ in range(500)) == 10


def test_challenges_of_all_connections_are_limited_by_a_number_that_nobody_knows(host):
    """A limit that is known could be counted down from outside, to learn what others send."""
    host.listen(80)
    scripts = [Script(host, sport=1000 + k) for k in range(200)]
    for script in scripts:
        script.open()
    totals = []
    for _ in range(3):
        host.now += 10 * S
        totals.append(sum(len(x.give(SYN, seq=1)) for x in scripts for _ in range(10)))
    assert all(500 <= total < 1500 for total in totals) and len(set(totals)) > 1


def test_two_ends_that_disagree_do_not_answer_each_other_for_ever(host, script):
    """Both are convinced of other numbers: ACKs of ACKs run into the rate limit."""
    total = sum(len(script.give(0, seq=-10, ack=1)) for _ in range(1000))
    assert total == 10


def test_closed_comes_after_the_ring_is_free_of_the_connections_buffers(host, script):
    host.tx_lag = True
    host.send(script.connection, b"x" * 5000)
    script.take()
    script.give(RST, seq=1)
    assert closed(script) is None and script.state == "DEAD"
    host.core.on_transmitted(host.s, QUEUE, host.tx_producer[QUEUE])
    host.step()
    assert closed(script) == CloseReason.RESET and script.state == "FREE"
    host.check_whole()


def test_normal_close_waits_for_the_ring_too(host, script):
    host.tx_lag = True
    host.send(script.connection, b"x" * 50)
    host.shutdown(script.connection)
    script.take()
    script.give(FIN, seq=1, ack=52)
    assert script.state == "TIME_WAIT" and closed(script) is None
    host.core.on_transmitted(host.s, QUEUE, host.tx_producer[QUEUE])
    host.step()
    assert host.kinds()[-2:] == [EventKind.RELEASED, EventKind.CLOSED]
    host.check_whole()


def test_last_ack_waits_for_the_ring_too(host, script):
    host.tx_lag = True
    script.give(FIN, seq=1, ack=1)
    host.send(script.connection, b"x" * 50)
    host.shutdown(script.connection)
    script.take()
    script.give(0, seq=2, ack=52)
    assert closed(script) is None
    host.core.on_transmitted(host.s, QUEUE, host.tx_producer[QUEUE])
    host.step()
    assert host.kinds()[-2:] == [EventKind.RELEASED, EventKind.CLOSED]
    assert script.state == "FREE"
    host.check_whole()


def test_time_wait_rows_are_used_again_when_all_are_taken(host):
    host.listen(80)
    each = host.tables.CONNECTIONS_PER_QUEUE
    for k in range(each + 50):
        script = Script(host, sport=1000 + k)
        script.open()
        host.shutdown(script.connection)
        script.take()
        script.give(FIN, seq=1, ack=2)
        host.now += MS
    assert host.s["queues"][QUEUE]["connections"] == each
    assert host.count("syn_dropped") == 0
    script.after(61 * S)
    host.check_whole()


def test_connection_numbers_do_not_come_back_at_once(host):
    host.listen(80)
    seen = set()
    for k in range(50):
        script = Script(host, sport=1000 + k)
        script.open()
        assert script.connection not in seen
        seen.add(script.connection)
        host.abort(script.connection)
        script.take()
    host.request(RequestKind.ABORT, connection=min(seen))
    assert host.count("stale_request") == 1
