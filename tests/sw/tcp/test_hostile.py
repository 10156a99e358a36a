"""Applications that lie, and applications that die: only their own connections suffer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tcp_host import (
    ELEMENT,
    GENERATION,
    QUEUE,
    REGION,
    RST,
    Host,
    S,
    Script,
    Segment,
    build,
    dissect,
    load,
)  # fmt: skip

from hdstack.tcp.events import REQUEST, CloseReason, EventKind, RequestKind

POOL = 1024 * ELEMENT


@pytest.fixture
def host():
    return Host(load(False), apps=2)


@pytest.fixture
def script(host):
    host.listen(80)
    script = Script(host)
    script.open()
    return script


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": REGION + 1},  # of the other application
        {"region": 9},
        {"region": 16},
        {"region": 65535},
        {"generation": GENERATION + 1},
        {"generation": GENERATION + 256},
        {"offset": POOL},
        {"offset": POOL - 9},
        {"offset": 0xFFFFFFFF},
        {"length": POOL + 1},
        {"length": 0xFFFFFFFF},
        {"length": 0},
    ],
)
def test_a_send_of_memory_that_is_not_its_own_ends_the_connection(host, script, wrong):
    fields = {"region": REGION, "generation": GENERATION, "offset": 0, "length": 10} | wrong
    host.request(RequestKind.SEND, connection=script.connection, **fields)
    (reset,) = script.take()
    assert reset.flags & RST and reset.payload == b""
    assert host.app.closed[script.connection] == CloseReason.INVALID_REQUEST
    host.check_whole()


def test_send_after_shutdown_ends_the_connection(host, script):
    host.shutdown(script.connection)
    host.send(script.connection, b"more")
    assert host.app.closed[script.connection] == CloseReason.INVALID_REQUEST


@pytest.mark.parametrize("kind", ["SEND", "SHUTDOWN", "ABORT", "CONSUMED"])
def test_another_applications_connection_cannot_be_named(host, script, kind):
    before = host.s["connections"].tobytes()
    host.request(
        RequestKind[kind], QUEUE + 1, connection=script.connection, region=REGION + 1,
        generation=GENERATION, offset=0, length=10,
    )  # fmt: skip
    assert host.s["connections"].tobytes() == before and script.take() == []
    assert host.count("stale_request") == 1


def test_another_applications_listener_cannot_be_stopped(host, script):
    at = host.last(EventKind.LISTENING)["connection"]
    host.request(RequestKind.UNLISTEN, QUEUE + 1, connection=at)
    Script(host, sport=999).open()


def test_more_sends_than_rows_end_that_connection_only(host, script):
    other = Script(host, sport=999)
    other.open()
    script.give(0, seq=1, ack=1, window=0)
    for _ in range(host.m.tcp_tables.SENDS_PER_QUEUE + 1):
        host.request(
            RequestKind.SEND, connection=script.connection, region=REGION,
            generation=GENERATION, offset=0, length=1,
        )  # fmt: skip
    assert host.app.closed[script.connection] == CloseReason.NO_RESOURCES
    script.take()
    host.send(other.connection, b"works")
    assert other.take()[0].payload == b"works"
    host.check_whole()


def test_consumed_lies_do_not_raise_promises_beyond_what_can_be_posted(host, script):
    for _ in range(50):
        host.request(RequestKind.CONSUMED, connection=script.connection, length=0xFFFFFFFF)
    q = host.s["queues"][QUEUE]
    assert q["posted"] <= host.app.buffers and q["promised"] <= 64 * 1460 + 16


def test_a_revoked_region_ends_the_connections_that_send_from_it(host, script):
    script.give(0, seq=1, ack=1, window=0)
    host.send(script.connection, b"x" * 100)
    host.core.clear_region(host.s, REGION)
    (reset,) = script.give(0, seq=1, ack=1, window=5000)
    assert reset.flags & RST and reset.payload == b""
    host.check_whole(drained=False)


def test_dead_application_peers_are_reset_and_its_rows_come_back(host, script):
    scripts = [script]
    for sport in range(500, 540):
        one = Script(host, sport=sport)
        one.open()
        one.give(0, seq=2, ack=1, payload=b"hole before")
        host.send(one.connection, b"x" * 3000)
        scripts.append(one)
    host.transmit()
    events = len(host.app.events)
    host.core.drop_owner(host.s, QUEUE, host.now)
    resets = {dissect(f).dport for f in host.transmit() if dissect(f).flags & RST}
    assert resets == {s.sport for s in scripts}
    host.step()
    assert host.s["queues"][QUEUE]["connections"] == 0 and len(host.app.events) == events
    assert all(row["state"] == 0 for row in host.s["listeners"])
    host.check_whole(drained=False)
    # the queue's next owner starts clean
    host.core.set_queue(host.s, QUEUE, 50000, 50010)
    assert host.core.next_event(host.s, QUEUE) == -1


def test_dead_applications_resets_wait_for_room(host):
    host.listen(80)
    for sport in range(1000, 1250):
        Script(host, sport=sport).open()
    filler = Script(host, sport=1000)
    row = next(r for r in host.s["connections"] if r["remote_port"] == 1000)
    row["cwnd"] = row["snd_wnd"] = 1 << 29
    host.send(host.m.tcp_core.first_row(QUEUE) | 1 << 16, b"z" * 1_000_000)
    host.core.drop_owner(host.s, QUEUE, host.now)
    total = 0
    for _ in range(20):
        total += sum(1 for f in host.transmit() if dissect(f).flags & RST)
        host.step()
    assert total == 250 and host.s["queues"][QUEUE]["connections"] == 0
    assert filler.take() == []
    host.check_whole(drained=False)


def test_an_application_that_takes_no_events_stops_itself_only():
    host = Host(load(False), apps=2, buffers=2000, elements=4096)
    host.listen(80)
    host.listen(81, queue=QUEUE + 1)
    slow, fast = Script(host, 80), Script(host, 81, sport=41000)
    slow.open()
    fast.give(2)
    host.drain_events = False
    seq = 1
    while host.core.ready(host.s, QUEUE):
        slow.give(0, seq=seq, ack=1, payload=b"x")
        seq += 1
    assert 500 < seq < 1100
    assert host.core.ready(host.s, QUEUE + 1)
    host.drain_events = True
    host.take_events(QUEUE + 1)
    fast = Script(host, 81, sport=42000)
    (answer,) = fast.give(2)
    fast.irs = answer.seq
    fast.give(0, seq=1, ack=1, payload=b"served")
    assert EventKind.READABLE in host.kinds(QUEUE + 1)


FIELD = {2: 0xFFFF, 4: 0xFFFFFFFF}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.sampled_from([0, 80, 81, 65535]),
            st.sampled_from(["own", "other", "stale", "any"]),
            st.integers(0, 0xFFFFFFFF),
            st.sampled_from([REGION, REGION + 1, 0, 15, 16, 65535]),
            st.sampled_from([GENERATION, 0, 65535]),
            st.sampled_from([0, 1, ELEMENT, POOL - 1, POOL, 0xFFFFFFFF]),
            st.sampled_from([0, 1, 1000, POOL, 0x7FFFFFFF, 0xFFFFFFFF]),
        ),
        max_size=40,
    )
)
def test_any_requests_break_no_table_and_no_other_application(requests):
    host = Host(load(False), apps=2)
    host.listen(80)
    host.listen(81, queue=QUEUE + 1)
    mine = Script(host, 80)
    mine.open()
    victim = Script(host, 81, sport=41000)
    (answer,) = victim.give(2)
    victim.irs = answer.seq
    victim.give(0, seq=1, ack=1)
    victim.connection = host.last(EventKind.ACCEPTED, QUEUE + 1)["connection"]
    names = {"own": mine.connection, "other": victim.connection, "stale": mine.connection + 65536}
    for kind, port, connection, number, region, generation, offset, length in requests:
        row = np.zeros(1, REQUEST)[0]
        row["kind"], row["port"], row["region"], row["generation"] = kind, port, region, generation
        row["connection"] = names.get(connection, number)
        row["address"] = number if number % 3 else 0x0A4D0001
        row["socket"], row["offset"], row["length"] = number, offset, length
        host.core.on_request(host.s, QUEUE, row, host.now)
        host.step()
        host.transmit()
    victim.give(0, seq=1, ack=1, payload=b"alive")
    assert host.apps[QUEUE + 1].streams[victim.connection] == b"alive"
    host.now += 10 * S
    host.timers()
    host.transmit()
    host.check_whole()


def test_frames_of_the_wire_are_built_right():
    """The helper's own builder and checker agree (scapy checks the stack's, in tests/sw/net)."""
    segment = Segment(1, 2, 3, 4, 5, 6, 16, 7, b"odd")
    assert dissect(build(segment, b"a" * 6, b"b" * 6)) == segment
