"""Options of SYN and after it: order and choice as Linux has them, time stamps, PAWS (RFC 7323)."""

import pytest
import tcp_host
from tcp_host import (
    ACK,
    FIN,
    MS,
    RST,
    SYN,
    Host,
    S,
    Script,
    Segment,
    arp_reply,
    build,
    dissect,
    inet_sum,
    load,
)

from hdstack.tcp.events import EventKind

MSS, SCALE, PERMITTED, SACK, STAMP, NOP = 2, 3, 4, 5, 8, 1


@pytest.fixture
def host():
    host = Host(load(False))
    host.listen(80)
    return host


@pytest.fixture
def script(host):
    script = Script(host)
    script.open(shift=7, sack_ok=True, ts=True)
    return script


def syn_of(host):
    host.receive(arp_reply(host)[:20] + b"\x00\x01" + arp_reply(host)[22:])
    host.transmit()
    host.connect(0x0A4D0001, 80)
    return next(dissect(frame) for frame in host.transmit())


def test_a_syn_offers_what_linux_offers_in_its_order(host):
    syn = syn_of(host)
    assert syn.kinds == (MSS, PERMITTED, STAMP, NOP, SCALE)
    assert syn.mss == 1460 and syn.sack_ok and syn.ts[1] == 0


@pytest.mark.parametrize(
    "offered, kinds",
    [
        ({}, (MSS,)),
        ({"shift": 2}, (MSS, NOP, SCALE)),
        ({"sack_ok": True}, (MSS, NOP, NOP, PERMITTED)),
        ({"ts": True}, (MSS, NOP, NOP, STAMP)),
        ({"sack_ok": True, "shift": 2}, (MSS, NOP, NOP, PERMITTED, NOP, SCALE)),
        ({"sack_ok": True, "ts": True}, (MSS, PERMITTED, STAMP)),
        ({"sack_ok": True, "ts": True, "shift": 2}, (MSS, PERMITTED, STAMP, NOP, SCALE)),
    ],
)
def test_a_syn_ack_takes_up_only_what_the_peer_offered(host, offered, kinds):
    assert Script(host).open(**offered).kinds == kinds


def test_options_that_are_configured_off_are_neither_offered_nor_taken_up():
    host = Host(load(False), timestamps=False, sack=False)
    assert syn_of(host).kinds == (MSS, NOP, SCALE)
    host.listen(80)
    assert Script(host).open(sack_ok=True, ts=True).kinds == (MSS,)


def test_every_segment_after_a_syn_with_time_stamps_bears_one(host, script):
    host.send(script.connection, b"data")
    (data,) = script.take()
    assert data.kinds == (NOP, NOP, STAMP) and data.ts[1] == script.clock()
    script.give(0, seq=1, ack=5, payload=b"x")
    host.shutdown(script.connection)
    (fin,) = script.take()
    assert fin.flags & FIN and fin.ts is not None
    host.abort(script.connection)
    assert script.take()[0].ts is not None


def test_payload_leaves_room_for_the_time_stamp(host, script):
    host.send(script.connection, b"x" * 5000)
    assert [len(s.payload) for s in script.take()] == [1448, 1448, 1448, 656]


def test_the_clock_runs_in_milliseconds_from_a_beginning_of_each_connection(host):
    scripts = [Script(host, sport=port) for port in range(5000, 5008)]
    starts = {script.open(ts=True).ts[0] for script in scripts}
    assert len(starts) == 8, "beginnings are secret (RFC 7323 section 5.4)"
    script = scripts[0]
    before = script.newest
    host.now += 1234 * MS
    host.send(script.connection, b"x")
    assert script.take()[0].ts[0] == (before + 1234) & 0xFFFFFFFF


def test_active_open_takes_up_time_stamps_and_sack(host):
    host.receive(arp_reply(host)[:20] + b"\x00\x01" + arp_reply(host)[22:])
    host.transmit()
    host.connect(0x0A4D0001, 80)
    script = Script(host)
    _, (ack,) = script.answer_connect(sack_ok=True, ts=True)
    assert ack.flags == ACK and ack.ts[1] == script.clock()
    assert script.row["ts_ok"] == 1 and script.row["sack_ok"] == 1 and script.row["mss"] == 1448


def test_the_round_trip_of_a_segment_sent_twice_is_taken_from_its_time_stamp(host, script):
    """RFC 7323 section 4: Karn's rule is not needed where the peer echoes."""
    host.send(script.connection, b"hello")
    script.take()
    (again,) = script.after(250 * MS)
    assert script.row["backoff"] == 1
    host.now += 30 * MS
    srtt = int(script.row["srtt"])
    sample = 30 * MS + host.now % MS
    script.give(0, seq=1, ack=6, ts=(script.clock(), again.ts[0]))
    assert abs(int(script.row["srtt"]) - (srtt + (sample - srtt) // 8)) <= 50 * MS // 8
    assert script.row["backoff"] == 0


@pytest.mark.parametrize("echo", [1 << 31, 5000, -70_000])
def test_echoes_that_were_never_sent_are_no_round_trip(host, script, echo):
    host.send(script.connection, b"hello")
    script.take()
    (again,) = script.after(250 * MS)
    before = int(script.row["srtt"])
    script.give(0, seq=1, ack=6, ts=(script.clock(), again.ts[0] + echo))
    assert script.row["srtt"] == before and script.row["backoff"] == 1


def test_paws_drops_an_overtaken_segment_and_acknowledges(host, script):
    host.now += 10 * MS
    script.give(0, seq=1, ack=1, payload=b"abc")
    (ack,) = script.give(0, seq=4, ack=1, payload=b"old", ts=script.clock() - 1)
    assert ack.ack == 4 and host.count("old_timestamp") == 1
    assert host.app.streams[script.connection] == b"abc"
    script.give(0, seq=4, ack=1, payload=b"new")
    assert host.app.streams[script.connection] == b"abcnew"
    host.check_whole()


def test_paws_does_not_hold_up_a_reset(host, script):
    script.give(0, seq=1, ack=1, payload=b"abc")
    script.give(RST, seq=4, ts=script.clock() - 1000)
    assert EventKind.CLOSED in host.kinds()


def test_paws_lets_go_after_24_days_of_silence(host, script):
    host.now += 25 * 86400 * S
    script.give(0, seq=1, ack=1, payload=b"abc", ts=script.clock() - 86400_000 * 3)
    script.give(0, seq=1, ack=1, payload=b"abc", ts=5)
    assert host.app.streams[script.connection] == b"abc"


def test_a_segment_without_the_agreed_time_stamp_is_dropped(host, script):
    """RFC 7323 section 3.2."""
    script.ts = False
    assert script.give(0, seq=1, ack=1, payload=b"abc") == []
    assert host.count("no_timestamp") == 1 and EventKind.READABLE not in host.kinds()
    script.give(RST, seq=1)
    assert EventKind.CLOSED in host.kinds(), "a reset needs none"
    host.check_whole()


def test_the_echo_is_of_the_segment_that_was_next_in_order(host, script):
    """RFC 7323 section 4.3: a segment behind a hole does not change what is echoed."""
    first = script.clock()
    host.now += 7 * MS
    (ack,) = script.give(0, seq=4, ack=1, payload=b"def")
    assert ack.ts[1] == first and ack.ack == 1
    host.now += 7 * MS
    (ack,) = script.give(0, seq=1, ack=1, payload=b"abc")
    assert ack.ts[1] == script.clock() and ack.ack == 7


def test_a_delayed_ack_echoes_the_first_segment_that_it_covers(host, script):
    host.app.reads = False
    script.past_quick_acks()
    first = script.clock()
    script.give(0, seq=1, ack=1, payload=b"x" * 1000)
    host.now += 7 * MS
    acks = script.give(0, seq=1001, ack=1, payload=b"x" * 1000)
    assert [a.ts[1] for a in acks if a.ack == 2001] == [first]


@pytest.mark.parametrize(
    "options",
    [
        bytes([STAMP, 10]),
        bytes([STAMP, 9, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]),
        bytes([SACK, 9, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1]),
        bytes([SACK, 255, 1, 1]),
        bytes([MSS, 0, 1, 1]),
        bytes([SCALE, 1, 1, 1]),
        bytes([253, 4, 9, 9]),
        bytes([NOP, NOP, NOP, STAMP]),
        bytes(40),
        bytes([1] * 40),
        bytes([255] * 40),
    ],
)
@pytest.mark.parametrize("flags", [SYN, ACK])
def test_malformed_options_neither_stop_nor_mislead(host, monkeypatch, options, flags):
    script = Script(host)
    if flags == ACK:
        script.open()
    plain = Segment(script.address, host.address, script.sport, 80, script.iss + (flags == ACK),
                    script.irs + (flags == ACK), flags, 1000)  # fmt: skip
    frame = bytearray(build(plain, host.mac, script.MAC))
    padded = options + bytes(-len(options) % 4)
    frame += padded
    frame[46] = (20 + len(padded)) << 2
    frame[16:18] = (40 + len(padded)).to_bytes(2, "big")
    frame[24:26] = b"\0\0"
    frame[24:26] = (inet_sum(bytes(frame[14:34])) ^ 0xFFFF).to_bytes(2, "big")
    frame[50:52] = b"\0\0"
    pseudo = bytes(frame[26:34]) + b"\0\x06" + (20 + len(padded)).to_bytes(2, "big")
    frame[50:52] = (inet_sum(pseudo + bytes(frame[34:])) ^ 0xFFFF).to_bytes(2, "big")
    monkeypatch.setattr(tcp_host, "dissect", lambda _: plain)  # the card looks at no option
    host.receive(bytes(frame))
    host.step()
    rows = host.s["connections"][host.s["connections"]["state"] != 0]
    assert len(rows) == 1 and rows[0]["ts_ok"] == 0 and rows[0]["sack_ok"] == 0
    assert rows[0]["ranges"] == 0
