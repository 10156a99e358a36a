"""Payload in: order, holes, overlaps, duplicates, windows, acknowledgements."""

import pytest
from tcp_host import (
    ACK,
    ELEMENT,
    FIN,
    MS,
    PSH,
    QUEUE,
    RST,
    SYN,
    Host,
    S,
    Script,
    Segment,
    build,
    load,
)

from hdstack.tcp.events import EventKind


@pytest.fixture
def host():
    return Host(load(False))


@pytest.fixture
def script(host):
    host.listen(80)
    script = Script(host)
    script.open()
    return script


def stream(script):
    return bytes(script.host.app.streams.get(script.connection, b""))


def test_payload_in_order_is_delivered(host, script):
    script.give(0, seq=1, ack=1, payload=b"abc")
    (ack, *_) = script.give(0, seq=4, ack=1, payload=b"def")
    assert ack.flags == ACK and ack.ack == 7 and ack.seq == 1
    assert stream(script) == b"abcdef"
    host.check_whole()


def test_a_single_segment_is_acknowledged_after_40_ms(host, script):
    host.app.reads = False
    script.past_quick_acks()
    script.give(0, seq=1, ack=1, payload=b"abc")
    assert script.after(39 * MS) == []
    (ack,) = script.after(2 * MS)
    assert ack.ack == 4


def test_a_hole_is_acknowledged_at_once_each_time_and_filled_later(host, script):
    host.app.reads = False
    for k in (2, 1):
        (ack,) = script.give(0, seq=1 + 3 * k, ack=1, payload=b"%d.." % k)
        assert ack.ack == 1
    assert stream(script) == b"" and script.row["pieces"] == 2
    (ack,) = script.give(0, seq=1, ack=1, payload=b"0..")
    assert ack.ack == 10 and stream(script) == b"0..1..2.."
    assert host.count("out_of_order") == 2
    host.check_whole()


def test_a_duplicate_returns_its_buffer_and_is_acknowledged(host, script):
    script.give(0, seq=1, ack=1, payload=b"abc")
    (ack,) = script.give(0, seq=1, ack=1, payload=b"abc")
    assert ack.ack == 4 and stream(script) == b"abc"
    assert host.kinds()[-1] == EventKind.RETURNED
    host.check_whole()


def test_an_overlap_in_front_is_trimmed_by_offset(host, script):
    script.give(0, seq=1, ack=1, payload=b"abcd")
    script.give(0, seq=3, ack=1, payload=b"cdef")
    event = host.last(EventKind.READABLE)
    assert event["length"] == 2 and event["offset"] % ELEMENT == 2
    assert stream(script) == b"abcdef"


@pytest.mark.parametrize(
    "segments",
    [
        [(4, b"def"), (3, b"cdefg"), (1, b"ab")],  # a later one covers a piece
        [(4, b"def"), (2, b"bcd"), (1, b"a"), (7, b"g")],  # tail trimmed
        [(4, b"def"), (6, b"fg"), (1, b"abc")],  # head trimmed
        [(3, b"cd"), (6, b"f"), (2, b"bcdefg"), (1, b"a")],  # covers two
        [(3, b"cdefg"), (4, b"de"), (1, b"abcdefg")],  # inside a piece
        [(2, b"b"), (4, b"d"), (6, b"f"), (1, b"abcdefg")],
    ],
)
def test_overlaps_out_of_order_make_one_stream_and_lose_no_buffer(host, script, segments):
    for seq, payload in segments:
        script.give(0, seq=seq, ack=1, payload=payload)
    assert stream(script) == b"abcdefg"
    assert script.row["pieces"] == 0
    host.check_whole()


def test_pieces_of_a_connection_are_bounded_and_the_one_in_order_always_fits():
    host = Host(load(False), buffers=250)
    host.listen(80)
    script = Script(host)
    script.open()
    for k in range(150):
        script.give(0, seq=3 + 2 * k, ack=1, payload=b"x")
    assert script.row["pieces"] == 128 and host.count("no_piece") == 22
    script.give(0, seq=1, ack=1, payload=b"ab")
    assert stream(script) == b"abx"
    host.check_whole()


def test_holes_of_one_connection_do_not_hold_up_another():
    host = Host(load(False), buffers=250, elements=2048)
    host.listen(80)
    peers = [Script(host, sport=5000 + k) for k in range(6)]
    for peer in peers:
        peer.open()
    host.s["queues"][QUEUE]["free_piece"] = -1  # as if the others had used all rows
    script = peers[-1]
    script.give(0, seq=1, ack=1, payload=b"in order needs no row")
    assert stream(script) == b"in order needs no row"


def test_data_beyond_the_window_is_dropped_and_counted(host, script):
    edge = int(script.row["rcv_adv"] - script.row["irs"])
    (ack,) = script.give(0, seq=edge + 1, ack=1, payload=b"far")
    assert ack.ack == 1 and host.count("beyond_window") == 1
    script.give(0, seq=edge - 2, ack=1, payload=b"tail is cut")
    assert script.row["pieces"] == 1
    host.check_whole()


def test_the_window_never_shrinks_and_closes_when_no_buffer_is_posted():
    host = Host(load(False), buffers=8)
    host.listen(80)
    host.app.reads = False
    script = Script(host)
    script.open(shift=3)
    seq, edge = 1, 0
    for _ in range(12):
        if seq + 1460 > script.row["rcv_adv"] - script.row["irs"]:
            break
        for ack in script.give(0, seq=seq, ack=1, payload=b"x" * 1460):
            assert ack.ack + (ack.window << 4) >= edge
            edge = ack.ack + (ack.window << 4)
        seq += 1460
    assert len(host.app.held) == len(stream(script)) // 1460 >= 4
    assert script.row["rcv_adv"] - script.row["rcv_nxt"] < 1460 and host.dropped_no_buffer == 0
    # what the application reads opens the window again, without a probe
    host.app.reads = True
    for element, (connection, length) in list(host.app.held.items()):
        host.release(connection, element, length)
    (update,) = script.take()[-1:]
    assert update.window << 4 >= 1460
    host.check_whole()


def test_promises_stay_within_posted_buffers_over_many_connections():
    host = Host(load(False), buffers=32)
    host.listen(80)
    for sport in range(2000, 2040):
        script = Script(host, sport=sport)
        script.open(shift=3)
        script.give(0, seq=1, ack=1, payload=b"x" * 1460)
        script.give(0, seq=1461, ack=1, payload=b"x" * 1460)
    assert host.s["queues"][QUEUE]["promised"] <= 32 * 1460 + 16 * 40
    host.check_whole()


def test_a_connection_that_only_sends_takes_no_window_from_those_that_receive():
    host = Host(load(False), buffers=250)
    host.listen(80)
    script = Script(host)
    script.open(shift=3)
    script.give(0, seq=1, ack=1, payload=b"request")
    for k in range(40):
        host.send(script.connection, b"x" * 1000)
        assert script.take()
        script.give(0, seq=8, ack=1 + 1000 * (k + 1))
    assert script.row["rcv_adv"] - script.row["rcv_nxt"] < 5 * 1460
    other = Script(host, sport=6000)
    other.open(shift=3)
    for k in range(40):
        other.give(0, seq=1 + 1460 * k, ack=1, payload=b"x" * 1460)
    assert other.row["rcv_adv"] - other.row["rcv_nxt"] > 60 * 1460


def test_small_segments_make_the_window_small(host, script):
    """A buffer that held a byte counts as one byte (R22)."""
    for k in range(150):
        script.give(0, seq=1 + k, ack=1, payload=b"x")
    assert host.s["queues"][QUEUE]["average"] < 64
    edge = int(script.row["rcv_adv"])
    for k in range(150, 400):
        script.give(0, seq=1 + k, ack=1, payload=b"x")
    assert script.row["rcv_adv"] == edge


def test_a_zero_window_probe_is_answered_with_the_window():
    host = Host(load(False), buffers=2)
    host.listen(80)
    host.app.reads = False
    script = Script(host)
    script.open()
    seq = 1
    while host.app.posted:
        script.give(0, seq=seq, ack=1, payload=b"x" * 1460)
        seq += 1460
    script.after(100 * MS)
    for element, (_connection, _length) in list(host.app.held.items()):
        host.app.held.pop(element)
        host.app.posted.append(element)  # posted, but CONSUMED is not said
    (ack,) = script.give(0, seq=seq - 1, ack=1, payload=b"x")
    assert ack.ack == seq and ack.window >= 1460


def test_fin_out_of_order_waits_for_the_data_before_it(host, script):
    script.give(FIN, seq=4, ack=1, payload=b"def")
    assert host.app.finished == set()
    (ack,) = script.give(0, seq=1, ack=1, payload=b"abc")
    assert ack.ack == 8 and stream(script) == b"abcdef"
    assert script.connection in host.app.finished and script.state == "CLOSE_WAIT"


def test_data_after_fin_is_refused(host, script):
    script.give(FIN, seq=1, ack=1, payload=b"abc")
    script.give(0, seq=5, ack=1, payload=b"more")
    assert stream(script) == b"abc" and host.count("after_close") == 1
    host.check_whole()


def test_pieces_beyond_a_fin_are_returned(host, script):
    script.give(0, seq=6, ack=1, payload=b"lies")
    script.give(FIN, seq=1, ack=1, payload=b"abc")
    assert stream(script) == b"abc" and script.row["pieces"] == 0
    host.check_whole()


@pytest.mark.parametrize("iss", [0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFF0, 0xFFFFF000])
def test_the_peers_numbers_wrap(iss):
    host = Host(load(False))
    host.listen(80)
    script = Script(host, iss=iss)
    script.open()
    for k in (0, 2, 1, 3, 4, 6, 5):
        script.give(0, seq=1 + 1000 * k, ack=1, payload=bytes([65 + k]) * 1000)
    assert stream(script) == b"".join(bytes([65 + k]) * 1000 for k in range(7))
    script.give(FIN, seq=7001, ack=1)
    assert script.state == "CLOSE_WAIT"
    host.check_whole()


def test_payload_whole_in_header_memory_is_dropped_without_ack(host, script):
    host.steer = lambda port: None
    assert script.give(0, seq=1, ack=1, payload=b"abc") == []
    assert script.after(S) == [] and stream(script) == b""
    assert host.count("whole_payload") == 1


def test_payload_in_another_applications_buffer_goes_back_to_that_one():
    host = Host(load(False), apps=2)
    host.listen(80)
    script = Script(host)
    script.open()
    host.steer = lambda port: QUEUE + 1
    script.give(0, seq=1, ack=1, payload=b"abc")
    assert host.count("foreign_payload") == 1 and stream(script) == b""
    assert host.kinds(QUEUE + 1) == [EventKind.RETURNED]
    host.check_whole()


def test_a_full_event_ring_stops_the_queue_and_loses_nothing():
    host = Host(load(False), buffers=2000, elements=4096)
    host.listen(80)
    script = Script(host)
    script.open()
    host.drain_events = False
    seq, sent = 1, 0
    while host.core.ready(host.s, QUEUE) and sent < 2000:
        script.give(PSH, seq=seq, ack=1, payload=b"%04d" % sent)
        seq, sent = seq + 4, sent + 1
    assert 500 < sent < 1100
    assert script.give(0, seq=seq, ack=1, payload=b"late") == [] and host.dropped_not_ready
    host.drain_events = True
    host.step()
    script.give(0, seq=seq, ack=1, payload=b"late")
    assert stream(script) == b"".join(b"%04d" % k for k in range(sent)) + b"late"
    host.check_whole()


@pytest.mark.parametrize("flags", [SYN, SYN | RST, RST, FIN, 0, 0xFF])
def test_any_flags_with_payload_lose_no_buffer(host, script, flags):
    for seq in (-5, 0, 1, 2, 70000, 1 << 31):
        for ack in (None, 0, 1, 2, 1 << 31):
            script.give(flags, seq=seq, ack=ack, payload=b"payload")
    script.after(2 * S)
    host.check_whole()


def test_tcp_lengths_that_contradict_the_record_are_dropped(host, script):
    frame = bytearray(
        build(
            Segment(script.address, host.address, script.sport, 80, script.iss + 1,
                    script.irs + 1, ACK, 100, b""), host.mac, script.MAC
        )
    )  # fmt: skip
    import numpy as np

    for at, value in ((46, 0x40), (46, 0xF0), (14, 0x4F), (14, 0x43), (17, 200), (17, 10)):
        wrong = bytearray(frame)
        wrong[at] = value
        host.memory[: len(wrong)] = np.frombuffer(wrong, np.uint8)
        host.m.net_input.on_frame(
            host.s, QUEUE, host.memory, 0, len(wrong), 0, -1, 0, 5, 1, host.now
        )
    assert host.count("bad_segment") + host.count("bad_ip") + host.count("whole_payload") == 6
