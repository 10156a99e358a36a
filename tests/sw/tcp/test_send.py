"""Payload out: segments, windows, loss, probes, and when buffers come back."""

import itertools

import pytest
from scapy.layers.inet import TCP
from tcp_host import ACK, ELEMENT, FIN, MS, PSH, QUEUE, Host, S, Script, Segment, build, load

from hdstack.tcp.events import CloseReason, EventKind


@pytest.fixture
def host():
    return Host(load(False), congestion=load(False).tcp_tables.NEWRENO)


@pytest.fixture
def script(host):
    host.listen(80)
    script = Script(host)
    script.open()
    return script


def send(script, data, offset=None):
    script.host.send(script.connection, data, offset)
    return script.take()


def test_a_send_leaves_at_once_and_comes_back_when_acknowledged(host, script):
    (segment,) = send(script, b"hello")
    assert (segment.seq, segment.payload, segment.flags) == (1, b"hello", ACK | PSH)
    assert EventKind.RELEASED not in host.kinds()
    script.give(0, seq=1, ack=6)
    assert host.app.released[script.connection] == 1
    host.check_whole()


def test_long_sends_are_cut_at_the_mss_and_the_initial_window(host, script):
    segments = send(script, b"x" * 20000)
    assert [len(s.payload) for s in segments] == [1460] * 10  # RFC 6928
    assert [s.seq for s in segments] == [1 + 1460 * k for k in range(10)]
    more = script.give(0, seq=1, ack=1 + 1460 * 10)
    assert sum(len(s.payload) for s in more) == 20000 - 14600
    assert more[-1].flags & PSH


def test_a_segment_spans_several_sends(host, script):
    base = host.app.buffers * ELEMENT
    send(script, b"x" * 14600)
    for k in range(4):
        assert send(script, b"%d" % k * 100, base + 20000 + 1000 * k) == []
    (segment,) = script.give(0, seq=1, ack=14601)
    assert segment.payload == b"".join(b"%d" % k * 100 for k in range(4))
    script.give(0, seq=1, ack=14601 + 400)
    assert host.app.released[script.connection] == 5


def test_more_pieces_than_a_descriptor_takes_make_several_segments(host, script):
    base = host.app.buffers * ELEMENT
    send(script, b"x" * 14600)
    for k in range(20):
        send(script, bytes([65 + k]), base + 20000 + k)
    host.shutdown(script.connection)
    segments = script.give(0, seq=1, ack=14601)
    assert [len(s.payload) for s in segments] == [8, 8, 4]
    assert [s.flags & FIN for s in segments] == [0, 0, FIN]


def test_the_peers_window_is_respected(host, script):
    script.give(0, seq=1, ack=1, window=3000)
    segments = send(script, b"x" * 9000)
    assert sum(len(s.payload) for s in segments) <= 3000
    script.give(0, seq=1, ack=1 + 2920, window=3000)


def test_window_scale_of_the_peer_is_applied():
    host = Host(load(False))
    host.listen(80)
    script = Script(host)
    script.open(shift=7, window=1000)
    script.give(0, seq=1, ack=1, window=100)
    assert script.row["snd_wnd"] == 12800


def test_release_waits_for_the_transmit_ring(host, script):
    """R24: the ACK comes while the card still reads the buffer."""
    host.tx_lag = True
    send(script, b"hello")
    script.give(0, seq=1, ack=6)
    assert EventKind.RELEASED not in host.kinds()
    host.core.on_transmitted(host.s, QUEUE, host.tx_producer[QUEUE])
    host.step()
    assert host.app.released[script.connection] == 1
    host.check_whole()


def test_release_waits_for_a_retransmission_that_is_queued(host, script):
    send(script, b"hello")
    host.now += S
    host.timers()  # the copy is in the queue, not in the ring
    host.tx_lag = True
    index = host.core.next_segment(host.s, QUEUE)
    assert index >= 0
    host.receive(build(Segment(script.address, host.address, script.sport, 80, script.iss + 1,
                               script.irs + 6, ACK, 65535), host.mac, script.MAC))  # fmt: skip
    host.step()
    assert EventKind.RELEASED not in host.kinds()
    script.take()
    assert EventKind.RELEASED not in host.kinds()
    host.core.on_transmitted(host.s, QUEUE, host.tx_producer[QUEUE])
    host.step()
    assert host.app.released[script.connection] == 1


def test_retransmission_backs_off_and_gives_up_with_a_reset(host, script):
    start, times, last = host.now, [], None
    send(script, b"hello")
    while script.connection not in host.app.closed:
        following = host.timers()
        for segment in script.take():
            times.append((host.now - start) // MS)
            last = segment
        host.now = max(host.now, min(following, start + 300 * S))
    assert times[:6] == [200, 600, 1400, 3000, 6200, 12600]
    assert last.flags & 4 and host.app.closed[script.connection] == CloseReason.TIMED_OUT
    assert host.now - start >= 100 * S  # RFC 1122, R2
    host.check_whole()


def test_rto_follows_the_round_trip(host, script):
    """RFC 6298: SRTT and RTTVAR by its formulas."""
    srtt = rttvar = None
    row, ack = script.row, 1
    srtt, rttvar = int(row["srtt"]), int(row["rttvar"])
    for rtt in (100 * MS, 100 * MS, 300 * MS, 50 * MS):
        send(script, b"x" * 100)
        host.now += rtt
        ack += 100
        script.give(0, seq=1, ack=ack)
        rttvar += (abs(srtt - rtt) - rttvar) // 4
        srtt += (rtt - srtt) // 8
        assert row["srtt"] == srtt and row["rttvar"] == rttvar
        assert row["rto"] == max(srtt + max(MS, 4 * rttvar), 200 * MS)


def test_karn_no_round_trip_is_taken_of_a_retransmission(host, script):
    send(script, b"hello")
    before = int(script.row["srtt"])
    script.after(S)
    script.give(0, seq=1, ack=6)
    assert script.row["srtt"] == before
    assert script.row["backoff"] > 0  # kept until a measurement (RFC 6298 section 5.7)
    send(script, b"again")
    host.now += 10 * MS
    script.give(0, seq=1, ack=11)
    assert script.row["backoff"] == 0


def test_three_duplicate_acks_retransmit_the_first_segment(host, script):
    send(script, b"x" * 14600)
    script.give(0, seq=1, ack=1461)
    flight = int(script.row["snd_max"] - script.row["snd_una"])
    script.take()
    assert script.give(0, seq=1, ack=1461) == [] and script.give(0, seq=1, ack=1461) == []
    (again,) = script.give(0, seq=1, ack=1461)
    assert again.seq == 1461 and len(again.payload) == 1460
    assert script.row["recovery"] == 1 and script.row["ssthresh"] == flight // 2
    # a partial ACK sends the next hole at once (RFC 6582)
    (hole,) = script.give(0, seq=1, ack=1461 + 2920)
    assert hole.seq == 1461 + 2920
    script.give(0, seq=1, ack=14601)
    assert script.row["recovery"] == 0 and script.row["cwnd"] <= flight // 2
    assert host.count("timeouts") == 0 and host.count("fast_retransmits") == 1


def test_limited_transmit_sends_new_data_on_the_first_duplicates(host, script):
    send(script, b"x" * 30000)
    script.give(0, seq=1, ack=1461)
    script.take()
    assert len(script.give(0, seq=1, ack=1461)) == 1
    assert len(script.give(0, seq=1, ack=1461)) == 1


def test_a_timeout_starts_again_from_one_segment(host, script):
    send(script, b"x" * 14600)
    again = script.after(250 * MS)
    assert len(again) == 1 and again[0].seq == 1
    assert script.row["cwnd"] == 1460 and script.row["ssthresh"] == 7300
    more = script.give(0, seq=1, ack=1461)
    assert [s.seq for s in more] == [1461, 2921]


def test_ack_of_everything_after_a_timeout_resends_nothing(host, script):
    send(script, b"x" * 14600)
    script.after(250 * MS)
    assert script.give(0, seq=1, ack=14601) == []
    script.after(5 * S)
    assert host.app.released[script.connection] == 1


def test_closed_window_is_probed_with_backoff_as_long_as_the_peer_answers(host, script):
    script.give(0, seq=1, ack=1, window=0)
    assert send(script, b"abcdef") == []
    probes = []
    for _ in range(200):
        following = host.timers()
        for segment in script.take():
            assert segment.payload == b"a" and segment.seq == 1
            probes.append(host.now)
            script.give(0, seq=1, ack=1, window=0)
        host.now = max(host.now, following)
        if len(probes) == 12:
            break
    gaps = [(b - a) / S for a, b in itertools.pairwise(probes)]
    assert gaps[0] == 0.4 and gaps[3] == 3.2 and gaps[-1] == 60
    segments = script.give(0, seq=1, ack=1, window=65535)
    assert b"".join(s.payload for s in segments) == b"abcdef" and segments[0].seq == 1
    script.give(0, seq=1, ack=7)
    host.check_whole()


def test_probes_of_a_silent_peer_end_the_connection(host, script):
    script.give(0, seq=1, ack=1, window=0)
    send(script, b"abcdef")
    script.after(400 * S)
    assert host.app.closed[script.connection] == CloseReason.TIMED_OUT
    host.check_whole()


def test_a_probe_that_was_taken_counts_as_sent(host, script):
    script.give(0, seq=1, ack=1, window=0)
    send(script, b"abcdef")
    (probe,) = script.after(210 * MS)
    assert probe.payload == b"a"
    (rest,) = script.give(0, seq=1, ack=2, window=1000)
    assert rest.payload == b"bcdef" and rest.seq == 2


def test_acks_while_the_window_is_closed_bear_a_number_the_peer_accepts(host, script):
    host.app.reads = False
    script.give(0, seq=1, ack=1, window=0)
    send(script, b"abcdef")
    script.after(210 * MS)
    script.give(0, seq=1, ack=1, window=0, payload=b"one")
    (ack,) = script.give(0, seq=4, ack=1, window=0, payload=b"two")
    assert ack.seq == 1 and ack.ack == 7


def test_a_small_window_is_not_filled_with_small_segments(host, script):
    """Silly window avoidance of the sender: at least half of the largest window, or all."""
    script.give(0, seq=1, ack=1, window=65535)
    send(script, b"x" * 5000)
    script.give(0, seq=1, ack=5001, window=100)
    assert send(script, b"y" * 5000) == []
    (forced,) = script.after(300 * MS)
    assert len(forced.payload) == 100


def test_window_updates_of_old_segments_are_not_taken(host, script):
    script.give(0, seq=1, ack=1, payload=b"abc", window=5000)
    script.give(0, seq=4, ack=1, payload=b"def", window=6000)
    script.give(0, seq=1, ack=1, payload=b"abcdefg", window=100)  # reordered, older number
    assert script.row["snd_wnd"] == 6000


def test_our_numbers_wrap(host):
    host.listen(80)
    tables = host.m.tcp_tables
    for low in (0xFFFFFFFF, 0xFFFFFF00, 0xFFFFE000):
        script = Script(host, sport=low & 0xFFFF | 1)
        script.give(2)
        # as if the hash had given this number
        row = next(
            r for r in host.s["connections"] if r["state"] and r["remote_port"] == script.sport
        )
        iss = (1 << 32) + low
        for name in ("iss", "snd_una"):
            row[name] = iss
        row["snd_nxt"] = row["snd_max"] = row["snd_end"] = iss + 1
        row["timing_seq"] = iss + 1
        script.irs = low
        script.give(0, seq=1, ack=1)
        script.connection = host.last(EventKind.ACCEPTED)["connection"]
        data, got, ack = bytes(k & 255 for k in range(30000)), b"", 1
        segments = send(script, data)
        while segments:
            for s in segments:
                assert s.seq == ack
                got, ack = got + s.payload, ack + len(s.payload)
            segments = script.give(0, seq=1, ack=ack)
        assert got == data
        assert host.app.released[script.connection] == 1
        assert row["retransmit_at"] == tables.NEVER


def test_sends_beyond_the_transmit_rows_wait_and_go_on(host, script):
    """The ring of segments is full: nothing is lost, the rest goes when there is room."""
    script.row["cwnd"] = 1 << 29
    script.row["snd_wnd"] = 1 << 29
    host.send(script.connection, b"z" * 1_000_000)
    queued = script.take()
    got = len(b"".join(s.payload for s in queued))
    assert 230 * 1460 <= got <= 256 * 1460
    while got < 1_000_000:
        more = script.take()
        assert more, "output did not go on"
        got += sum(len(s.payload) for s in more)
    assert got == 1_000_000


def test_cwnd_restarts_after_idle(host, script):
    script.row["cwnd"] = 400_000
    host.now += 10 * S
    script.give(0, seq=1, ack=1, window=65535)
    assert len(send(script, b"x" * 60000)) == 10


# the card cuts (TSO)


def offloading():
    host = Host(load(False), tso_bytes=61440)
    host.listen(80)
    script = Script(host)
    script.open()
    return host, script


def rows_of_segments(host):
    """Segments in the ring, before the card takes them: (payload, cut)."""
    q = host.s["queues"][QUEUE]
    rows = host.s["segments"][QUEUE]
    at = range(int(q["segments_tail"]), int(q["segments_head"]))
    return [(int(rows[k % 256]["payload"]), int(rows[k % 256]["cut"])) for k in at]


def test_full_segments_leave_as_one_row_that_the_card_cuts():
    host, script = offloading()
    host.send(script.connection, b"x" * 10000)
    assert rows_of_segments(host) == [(8760, 1460), (1240, 0)]
    segments = script.take()
    assert [len(s.payload) for s in segments] == [1460] * 6 + [1240]
    assert [s.seq for s in segments] == [1 + 1460 * k for k in range(7)]
    assert [s.flags & PSH for s in segments] == [0] * 6 + [PSH]


def test_the_card_cuts_no_urgent_data():
    """It would repeat the pointer of the first segment in each."""
    host, script = offloading()
    host.send(script.connection, b"x" * 4000, urgent=True)
    assert rows_of_segments(host) == [(1460, 0), (1460, 0), (1080, 0)]
    pointers = [TCP(f[34:]).urgptr for f in host.transmit()]
    assert pointers == [4000, 2540, 1080]
    host.send(script.connection, b"x" * 4000, host.app.buffers * ELEMENT + 4000)
    assert rows_of_segments(host) == [(2920, 1460)]


def test_a_row_is_no_larger_than_the_card_and_the_window_take():
    host, script = offloading()
    script.row["cwnd"] = script.row["snd_wnd"] = 1 << 20
    host.send(script.connection, b"x" * 200_000)
    rows = rows_of_segments(host)
    assert rows[0] == (61440 // 1460 * 1460, 1460) and max(rows)[0] <= 61440
    script.take()
    host, script = offloading()
    host.send(script.connection, b"x" * 200_000)
    assert rows_of_segments(host) == [(14600, 1460)]


def test_what_is_lost_of_a_cut_row_is_sent_again_alone():
    host, script = offloading()
    host.send(script.connection, b"x" * 14600)
    script.take()
    script.after(300 * MS)
    assert script.row["retries"] == 1
    script.give(0, seq=1, ack=1 + 1460 * 4)
    script.give(0, seq=1, ack=14601)
    assert host.app.released[script.connection] == 1
    host.check_whole()


def test_fin_stands_on_the_last_segment_of_a_cut_row():
    host, script = offloading()
    script.give(0, seq=1, ack=1, window=0)
    host.send(script.connection, b"x" * 2920)
    host.shutdown(script.connection)
    segments = script.give(0, seq=1, ack=1, window=65535)
    assert [s.flags & FIN for s in segments] == [0, FIN]
    assert [s.flags & PSH for s in segments] == [0, PSH]


def test_scattered_pieces_make_a_cut_row_with_a_short_end():
    host, script = offloading()
    script.row["nodelay"] = 1
    script.give(0, seq=1, ack=1, window=0)
    base = host.app.buffers * ELEMENT
    for k in range(12):
        send(script, bytes([65 + k]) * 500, base + 1000 * k)
    segments = script.give(0, seq=1, ack=1, window=65535)
    data = b"".join(s.payload for s in segments)
    assert data == b"".join(bytes([65 + k]) * 500 for k in range(12))
