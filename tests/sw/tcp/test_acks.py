"""When ACKs, small segments and PSH are sent: RFC 1122, RFC 5681, Nagle, as Linux does it."""

import pytest
from tcp_host import ACK, ELEMENT, FIN, MS, PSH, Host, S, Script, load


@pytest.fixture
def host():
    host = Host(load(False), buffers=200)
    host.listen(80)
    host.app.reads = False  # what it reads makes window updates, too
    return host


@pytest.fixture
def script(host):
    script = Script(host)
    script.open(shift=7)
    return script


def acks(found):
    return [s.ack for s in found]


def give(script, first, length=1460, **more):
    return script.give(0, seq=first, ack=1, payload=b"x" * length, **more)


def test_the_first_segments_of_a_burst_are_acknowledged_each(host, script):
    seq, answers = 1, []
    for _ in range(40):
        answers += acks(give(script, seq, 1000))
        seq += 1000
    quick = [k for k in range(40) if 1 + 1000 * (k + 1) in answers]
    assert quick[:17] == [*range(16), 17], "then every second"
    assert max(b - a for a, b in zip([1, *answers], answers, strict=False)) <= 2000


def test_more_than_one_full_segment_is_acknowledged_at_once(host, script):
    script.past_quick_acks()
    assert give(script, 1) == []
    assert acks(give(script, 1461)) == [2921]
    assert give(script, 2921) == []
    assert acks(give(script, 4381)) == [5841]


def test_small_segments_wait_for_the_delayed_ack(host, script):
    script.past_quick_acks()
    for k in range(5):
        assert give(script, 1 + 10 * k, 10) == []
    assert acks(script.after(41 * MS)) == [51]


def test_a_pause_brings_quick_acks_back(host, script):
    script.past_quick_acks()
    assert give(script, 1, 100) == []
    script.after(2 * S)
    assert acks(give(script, 101, 100)) == [201]


def test_the_ack_rides_on_an_answer(host, script):
    """Both talk in turns: no quick ACK, the delayed one goes with the answer."""
    give(script, 1, 100)
    host.send(script.connection, b"answer")
    script.take()
    assert script.give(0, seq=101, ack=7, payload=b"next question") == []
    host.send(script.connection, b"answer", host.app.buffers * ELEMENT + 100)
    (answer,) = script.take()
    assert answer.payload == b"answer" and answer.ack == 114
    assert script.after(30 * MS) == []


def test_turns_end_when_the_delayed_ack_goes_alone(host, script):
    give(script, 1, 100)
    host.send(script.connection, b"answer")
    script.take()
    script.give(0, seq=101, ack=7, payload=b"x")
    assert acks(script.after(41 * MS)) == [102]
    assert script.row["pingpong"] == 0


def test_a_filled_hole_and_a_duplicate_are_acknowledged_at_once(host, script):
    script.past_quick_acks()
    give(script, 1, 100)
    assert acks(give(script, 201, 100)) == [101]
    assert acks(give(script, 101, 100)) == [301]
    assert acks(give(script, 1, 100)) == [301]


# what is sent


def send(script, data, at=0):
    script.host.send(script.connection, data, script.host.app.buffers * ELEMENT + at)
    return script.take()


def nodelay(script):
    script.row["nodelay"] = 1


def test_a_second_small_segment_waits_for_the_ack_of_the_first(script):
    """Nagle (RFC 9293 section 3.7.4)."""
    assert len(send(script, b"one")) == 1
    assert send(script, b"two", 10) == [] and send(script, b"three", 20) == []
    (both,) = script.give(0, seq=1, ack=4)
    assert both.payload == b"twothree"


def test_the_tail_of_a_large_send_does_not_wait_for_its_full_segments(script):
    """Minshall's form: only a small segment holds another up."""
    assert [len(s.payload) for s in send(script, b"x" * 3000)] == [1460, 1460, 80]
    assert send(script, b"more", 4000) == []


def test_full_segments_do_not_wait(script):
    send(script, b"one")
    assert [len(s.payload) for s in send(script, b"x" * 3000, 10)] == [1460, 1460]


def test_fin_lets_the_waiting_rest_go(host, script):
    send(script, b"one")
    send(script, b"two", 10)
    host.shutdown(script.connection)
    (rest,) = script.take()
    assert rest.payload == b"two" and rest.flags & FIN


def test_with_nodelay_nothing_waits(script):
    nodelay(script)
    assert [len(send(script, b"x", k)) for k in range(5)] == [1] * 5


def test_push_stands_where_a_send_ends(script):
    nodelay(script)
    assert [s.flags & PSH for s in send(script, b"x" * 3000)] == [0, 0, PSH]
    assert [s.flags for s in send(script, b"y" * 1460, 4000)] == [ACK | PSH]


def test_push_is_not_set_in_the_middle_of_a_send_that_the_window_cuts(script):
    script.give(0, seq=1, ack=1, window=1)
    script.row["snd_wnd"] = script.row["max_wnd"] = 2000
    found = send(script, b"x" * 4000)
    assert [(len(s.payload), s.flags & PSH) for s in found] == [(1460, 0)]
