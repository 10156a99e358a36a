"""Whatever an application asks and whoever sends: tables add up, others lose nothing, and compiled
code does what the interpreted does, row by row."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tcp_host import GENERATION, MS, QUEUE, REGION, load
from udp_host import PEER, PEER6, UdpHost, datagram

from hdstack.tcp.events import RequestKind

KINDS = [int(kind) for kind in RequestKind if kind >= RequestKind.BIND]
WORD = st.one_of(st.integers(0, 40), st.integers(0, 0xFFFFFFFF), st.just(0x0A4D0001))
HALF = st.one_of(st.integers(0, 8), st.integers(0, 0xFFFF), st.just(7000))
REQUEST = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS), "port": HALF, "socket": WORD, "connection": WORD,
        "address": WORD, "region": HALF, "generation": st.sampled_from([GENERATION, 0, 65535]),
        "offset": WORD, "length": WORD, "spare": WORD,
    }
)  # fmt: skip


def pattern(length, seed=0):
    return bytes((seed + 7 * k + k // 251) & 255 for k in range(length))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(REQUEST, st.integers(0, 3)), max_size=30))
def test_garbage_requests_break_no_table_and_nothing_of_another_application(requests):
    host = UdpHost(load(False), apps=2)
    victim = host.bind(7000, queue=QUEUE + 1)
    host.peer(victim, queue=QUEUE + 1)
    host.app.auto = False
    own = [host.bind(7001), host.bind(0, socket=2)]
    for fields, mine in requests:
        kind = fields.pop("kind")
        if mine < 2:  # often about a socket that is there
            fields["connection"] = own[mine] if type(own[mine]) is int else 0
        host.request(kind, **fields)
        for frame in host.transmit():
            assert len(frame) <= 1514
        host.step()
        fields["kind"] = kind
    host.check_udp()
    host.receive(datagram(b"to the victim"))
    host.send_to(victim, b"from the victim", queue=QUEUE + 1)
    assert [d[2] for d in host.apps[QUEUE + 1].datagrams] == [b"to the victim"]
    assert any(frame.endswith(b"from the victim") for frame in host.transmit())
    host.core.drop_owner(host.s, QUEUE, host.now)
    host.step()
    host.transmit()
    host.now += 10_000 * MS
    host.timers()
    assert host.s["udp"][QUEUE]["endpoints"] == 0
    host.check_udp(quiet=True)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=60), st.integers(0, 41), st.booleans(), st.integers(0, 255))
def test_spoilt_headers_raise_nothing_and_lose_no_buffer(payload, at, v6, value):
    host = UdpHost(load(False))
    host.bind(7000)
    frame = bytearray(datagram(payload, v6=v6))
    frame[at] = value
    head = len(frame) - len(payload)
    buffers = []
    if payload:
        element = host.app.posted.pop(0)
        host.app.pool[element * 2048 : element * 2048 + len(payload)] = payload
        buffers = [(REGION, element, len(payload))]
    host.record(QUEUE, bytes(frame[:head]), payload, buffers)
    host.transmit()
    assert len(host.app.posted) == host.app.buffers and not host.app.held
    host.check_udp()


def test_a_flood_to_one_application_takes_nothing_of_another():
    host = UdpHost(load(False), apps=2)
    host.bind(7000)
    other = host.bind(7001, queue=QUEUE + 1)
    host.app.auto = host.drain_events = False
    for k in range(500):
        if host.core.ready(host.s, QUEUE):
            host.receive(datagram(pattern(20, k)))
    host.take_events(QUEUE + 1)
    for k in range(20):
        host.receive(datagram(pattern(20, k), dport=7001))
        host.take_events(QUEUE + 1)
    assert [d[2] for d in host.apps[QUEUE + 1].datagrams] == [pattern(20, k) for k in range(20)]
    assert {d[0] for d in host.apps[QUEUE + 1].datagrams} == {other}


def conversation(host):
    """A bit of everything; yields after each step."""
    number, six = host.bind(7000), host.bind(0, socket=2)
    yield
    host.peer(six, PEER6, 53, socket=2)
    port = host.app.bound[2]["port"]
    for k in range(40):
        host.receive(datagram(pattern(k * 37), v6=k % 3 == 0, sport=1000 + k))
        host.receive(datagram(pattern(k), v6=True, sport=53, dport=port))
        host.receive(datagram(pattern(9000), dport=7000 + k % 2))
        host.to(number, PEER if k % 2 else PEER6, 1000 + k)
        host.send_to(number, pattern(k * 100), given=k % 4 != 0)
        host.send_to(six, pattern(k), at=8192)
        host.transmit()
        host.step()
        yield
    host.to(number, "10.77.0.99")
    for k in range(20):
        host.send_to(number, pattern(k), cookie=k)
        yield
    for _ in range(5):
        host.now += 1000 * MS
        host.timers()
        host.transmit()
        yield
    host.unbind(six)
    host.core.drop_owner(host.s, QUEUE, host.now)
    yield


@pytest.mark.filterwarnings("ignore")
def test_compiled_and_interpreted_agree_row_by_row():
    hosts = [UdpHost(load(compiled), mss=8960) for compiled in (True, False)]
    steps = 0
    for _ in zip(*map(conversation, hosts), strict=True):
        steps += 1
        for name in (
            "endpoints",
            "datagrams",
            "udp",
            "queues",
            "segments",
            "neighbours",
            "counters",
        ):
            a, b = (np.asarray(host.s[name]) for host in hosts)
            assert a.tobytes() == b.tobytes(), f"{name} differs after step {steps}"
    assert steps > 60
    assert hosts[0].app.datagrams == hosts[1].app.datagrams
    assert hosts[0].app.sent == hosts[1].app.sent and len(hosts[0].app.sent) > 60
