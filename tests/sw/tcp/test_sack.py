"""SACK: what we report (RFC 2018, 2883), and how losses are found and repaired (RFC 6675, 3042)."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_host import FIN, MS, QUEUE, Host, Script, load


@pytest.fixture
def host():
    host = Host(load(False), congestion=load(False).tcp_tables.NEWRENO)
    host.listen(80)
    return host


@pytest.fixture
def script(host):
    script = Script(host)
    script.open(sack_ok=True)
    return script


def last(found):
    return found[-1]


# what we report


def give(script, first, length=10, **more):
    return script.give(0, seq=first, ack=1, payload=b"x" * length, **more)


def test_the_newest_block_is_reported_first(script):
    assert last(give(script, 101)).sacks == ((101, 111),)
    assert last(give(script, 201)).sacks == ((201, 211), (101, 111))
    assert last(give(script, 301)).sacks == ((301, 311), (201, 211), (101, 111))
    assert last(give(script, 111)).sacks == ((101, 121), (301, 311), (201, 211))
    ack = last(give(script, 1, 100))
    assert ack.ack == 121 and ack.sacks == ((301, 311), (201, 211))


def test_four_blocks_fit_and_three_beside_a_time_stamp(host):
    for ts, most in ((False, 4), (True, 3)):
        script = Script(host, sport=6000 + most)
        script.open(sack_ok=True, ts=ts)
        for k in range(1, 7):
            found = last(give(script, 100 * k))
        assert found.sacks == tuple((100 * k, 100 * k + 10) for k in range(6, 6 - most, -1))


def test_many_segments_of_one_block_do_not_crowd_out_the_others(script):
    give(script, 101)
    for k in range(20):
        found = last(give(script, 201 + 10 * k))
    assert found.sacks == ((201, 401), (101, 111))


def test_two_blocks_become_one_when_the_hole_between_them_is_filled(script):
    give(script, 101)
    give(script, 121)
    assert last(give(script, 111)).sacks == ((101, 131),)


def test_nothing_is_reported_to_a_peer_that_did_not_permit_it(host):
    script = Script(host)
    script.open()
    assert last(give(script, 101)).sacks == ()


def test_a_duplicate_below_the_acknowledgement_is_reported_once(script):
    """RFC 2883 section 4.1.1."""
    give(script, 1)
    ack = last(give(script, 1))
    assert ack.ack == 11 and ack.sacks == ((1, 11),)
    assert last(give(script, 101)).sacks == ((101, 111),)


def test_a_duplicate_out_of_order_is_reported_before_its_block(script):
    """RFC 2883 section 4.2.1."""
    give(script, 101, 30)
    give(script, 201)
    assert last(give(script, 111)).sacks == ((111, 121), (101, 131), (201, 211))


def test_a_partial_duplicate_is_reported_for_what_came_twice(script):
    """RFC 2883 section 4.1.3."""
    give(script, 1, 30)
    ack = last(give(script, 21, 20))
    assert ack.ack == 41 and ack.sacks == ((21, 31),)


def test_the_report_is_limited_to_what_the_window_took(script):
    edge = int(script.row["rcv_adv"] - script.row["irs"])
    assert last(give(script, edge - 5)).sacks == ((edge - 5, edge),)


def test_reports_shorten_the_payload_beside_them(host, script):
    give(script, 101)
    host.send(script.connection, b"y" * 3000)
    found = script.take()
    assert [len(s.payload) + (12 if s.sacks else 0) for s in found] == [
        1460,
        1460,
        3000 - 2896 + 12,
    ]


# what the peer reports to us

M = 1460


def segment(k):
    """First byte of the k-th full segment."""
    return 1 + M * k


def block(first, after):
    return segment(first), segment(after)


@pytest.fixture
def sending(host, script):
    """Ten segments of a large send are on their way."""
    script.row["ssthresh"] = 0  # congestion avoidance: the window stays at ten
    host.send(script.connection, b"z" * (200 * M))
    assert [s.seq for s in script.take()] == [segment(k) for k in range(10)]
    return script


def report(script, ack, *blocks, **more):
    return script.give(0, seq=1, ack=segment(ack), sacks=[block(*b) for b in blocks], **more)


def seqs(found):
    return [(s.seq - 1) // M for s in found]


def test_three_reports_find_the_loss_and_only_the_hole_is_sent_again(host, sending):
    assert seqs(report(sending, 0, (1, 2))) == [10]  # limited transmit (RFC 3042)
    assert seqs(report(sending, 0, (1, 3))) == [11]
    assert seqs(report(sending, 0, (1, 4))) == [0]
    assert sending.row["recovery"] == 1 and host.count("fast_retransmits") == 1
    assert sending.row["cwnd"] == sending.row["ssthresh"] == 6 * M  # half of twelve


def test_one_report_of_three_segments_is_enough(sending):
    """RFC 6675 IsLost: more than two segments reported above the hole."""
    assert seqs(report(sending, 0, (1, 4)))[0] == 0
    assert sending.row["recovery"] == 1


def test_new_data_follows_as_the_pipe_empties(sending):
    report(sending, 0, (1, 4))
    # cwnd 5, pipe: segments 4 to 9 and the one sent again
    assert sending.row["cwnd"] == 5 * M
    assert seqs(report(sending, 0, (1, 5))) == []
    assert seqs(report(sending, 0, (1, 6))) == []
    assert seqs(report(sending, 0, (1, 7))) == [10]
    assert seqs(report(sending, 0, (1, 8))) == [11]


def test_several_holes_are_repaired_within_the_window(sending):
    found = report(sending, 0, (1, 2), (3, 4), (5, 10))
    # 0, 2, 4 are lost; cwnd 5 has room for all three and two new ones
    assert seqs(found) == [0, 2, 4, 10, 11]
    assert seqs(report(sending, 2, (3, 4), (5, 12))) == [12, 13, 14]


def test_recovery_ends_with_what_was_outstanding_when_it_began(sending):
    report(sending, 0, (1, 4))
    report(sending, 0, (1, 10))
    assert sending.row["recovery"] == 1
    report(sending, 10)
    assert sending.row["recovery"] == 0 and sending.row["cwnd"] == 5 * M
    assert sending.row["ranges"] == 0 and sending.row["sacked_bytes"] == 0


def test_between_two_reports_is_sent_when_there_is_no_new_data(host, script):
    """NextSeg rule 3: not lost by the rule, but nothing better is to be sent."""
    host.send(script.connection, b"z" * (6 * M))
    script.take()
    found = report(script, 0, (1, 4), (5, 6))
    assert seqs(found) == [0, 4] and script.row["high_rxt"] - script.row["iss"] == segment(5)


def test_a_lost_tail_is_rescued_once(host, script):
    """NextSeg rule 4."""
    host.send(script.connection, b"z" * (8 * M))
    script.take()
    assert seqs(report(script, 0, (1, 6))) == [0, 7]
    assert report(script, 0, (1, 6)) == []


def test_the_fin_is_rescued_as_well(host, script):
    host.send(script.connection, b"z" * (8 * M))
    host.shutdown(script.connection)
    script.take()
    found = report(script, 0, (1, 7))
    assert seqs(found)[0] == 0 and found[-1].flags & FIN


def test_without_reports_duplicates_are_no_sign_of_loss(host, sending):
    for _ in range(5):
        assert report(sending, 0) == []
    assert host.count("fast_retransmits") == 0


def test_a_timeout_sends_only_what_was_not_reported(host, sending):
    report(sending, 0, (1, 3))
    found = sending.after(300 * MS)
    assert seqs(found) == [0] and sending.row["cwnd"] == M
    assert seqs(report(sending, 3)) == [3, 4]


def test_a_report_of_the_first_byte_is_taken_back_after_a_timeout(sending):
    """RFC 2018 section 8: the peer may have thrown away what it reported."""
    report(sending, 1, (2, 4))
    sending.row["snd_una"] += M  # as if it acknowledged up to its own report, and forgot that
    sending.host.now += 300 * MS
    sending.after(300 * MS)
    assert sending.row["ranges"] == 0


def test_reports_are_dropped_at_the_second_timeout(host, sending):
    report(sending, 0, (1, 3))
    sending.after(300 * MS)
    assert sending.row["ranges"] == 1
    sending.after(800 * MS)
    assert sending.row["ranges"] == 0


def test_duplicates_that_the_peer_reports_are_counted_and_no_loss(host, sending):
    report(sending, 4)
    sending.give(0, seq=1, ack=segment(4), sacks=[block(0, 1)])
    sending.give(0, seq=1, ack=segment(4), sacks=[block(6, 7), block(5, 8)])
    assert host.count("duplicates_reported") == 2 and sending.row["sacked_bytes"] == 3 * M


@pytest.mark.parametrize(
    "wrong", [(3, 2), (3, 3), (5, 500), (-900, -800), (-5, 400), (1 << 18, 1 << 19)]
)
def test_impossible_reports_are_ignored(host, sending, wrong):
    report(sending, 0, wrong, wrong)
    assert sending.row["ranges"] == 0
    host.check_whole()


def test_the_scoreboard_of_a_connection_is_bounded(host):
    script = Script(host)
    script.open(sack_ok=True, mss=64)
    script.row["cwnd"] = 1 << 20
    host.send(script.connection, b"z" * 60000)
    script.take()
    for k in range(200):
        script.give(0, seq=1, ack=1, sacks=[(100 + 10 * k, 105 + 10 * k)])
    assert script.row["ranges"] == host.m.tcp_tables.RANGES_PER_CONNECTION
    host.check_whole()
    script.give(0, seq=1, ack=int(script.row["snd_max"] - script.row["iss"]))
    assert script.row["ranges"] == 0
    host.check_whole()


def test_ranges_come_back_when_a_connection_ends(host, sending):
    report(sending, 0, (1, 2), (3, 4))
    host.abort(sending.connection)
    sending.take()
    host.check_whole()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_the_scoreboard_is_the_set_of_what_was_reported(blocks, acks):
    """Against a plain set of byte numbers."""
    modules = load(False)
    import importlib

    from hdstack import compile as compiling

    with compiling.interpreted():
        scoreboard = importlib.import_module("hdstack.tcp.scoreboard")
    s = modules.tcp_tables.allocate()
    modules.tcp_tables.initialise(s, bytes(6), 1, 0, 0, bytes(16))
    c = s["connections"][300]
    c["queue"], c["ranges_head"], c["mss"] = QUEUE, -1, 3
    c["snd_max"], c["high_rxt"] = 100, 7
    known = set()
    acks = iter(sorted(acks))
    for at, (start, length) in enumerate(blocks):
        if at % 12 == 11:
            c["snd_una"] = max(int(c["snd_una"]), next(acks, 0))
            scoreboard.advance(s, c)
            known = {n for n in known if n >= c["snd_una"]}
        start = max(start, int(c["snd_una"]))
        fresh = set(range(start, start + length)) - known
        assert scoreboard.add(s, c, start, start + length) == len(fresh)
        known |= fresh
        una, ranges = int(c["snd_una"]), []
        at = int(c["ranges_head"])
        while at >= 0:
            row = s["ranges"][at]
            ranges.append((int(row["start"]), int(row["end"])))
            at = int(row["next"])
        assert {n for a, b in ranges for n in range(a, b)} == known
        assert all(b < c2 for (_, b), (c2, _) in itertools.pairwise(ranges))
        assert len(ranges) == c["ranges"] and len(known) == c["sacked_bytes"]

        def lost(n, ranges=ranges, known=known):
            above = [r for r in ranges if r[0] > n]
            return len(above) >= 3 or sum(1 for k in known if k > n) > 6

        holes = [n for n in range(una, 100) if n not in known]
        pipe = sum((not lost(n)) + (n < 7) for n in holes)
        assert scoreboard.pipe(s, c) == pipe
        top = max(known, default=una)
        for only, wanted in ((True, lost), (False, lambda n: True)):
            first = next((n for n in holes if n >= 7 and n < top and wanted(n)), -1)
            assert scoreboard.next_hole(s, c, only)[0] == first
        assert scoreboard.sacked_below(s, c, 30) == sum(1 for n in known if n < 30)
        assert scoreboard.highest_hole(s, c)[1] == max(holes) + 1
