"""Sockets: ports and addresses, whose they are, how they end (RFC 6056, 8085)."""

from itertools import pairwise

import pytest
from tcp_host import QUEUE, load
from udp_host import PEER, PEER6, US, US6, UdpHost, address_of, datagram

from hdstack.tcp.events import CloseReason, EventKind, Family, RequestKind


@pytest.fixture
def host():
    host = UdpHost(load(False), apps=2)
    yield host
    host.check_udp()


def test_a_port_is_bound_once_its_rule_is_in_the_card(host):
    steps = []
    host.core.endpoint_ready, original = (
        lambda s, at, ok: (steps.append(len(host.app.events)), original(s, at, ok)),
        host.core.endpoint_ready,
    )
    try:
        number = host.bind(7000)
    finally:
        host.core.endpoint_ready = original
    assert steps == [0]  # nothing was told before
    assert host.app.bound[1]["port"] == 7000 and host.app.bound[1]["connection"] == number


def test_without_a_rule_left_binding_fails_and_leaves_nothing(host):
    host.rules_left = 0
    assert host.bind(7000) == CloseReason.NO_RESOURCES
    host.rules_left = 64
    assert host.bind(7000) > 0


def test_a_port_of_another_application_is_in_use(host):
    number = host.bind(7000)
    assert host.bind(7000, queue=QUEUE + 1) == CloseReason.ADDRESS_IN_USE
    assert host.bind(7000, socket=2) == CloseReason.ADDRESS_IN_USE
    host.unbind(number)
    assert host.app.unbound == [number]
    assert host.bind(7000, queue=QUEUE + 1) > 0


@pytest.mark.parametrize(
    "first, second, fits",
    [
        ((None, Family.BOTH), (None, Family.IPV4), False),
        ((None, Family.IPV4), (None, Family.IPV6), True),
        ((None, Family.IPV4), (US, None), False),
        ((None, Family.IPV6), (US, None), True),
        ((None, Family.BOTH), (US6, None), False),
        ((US, None), (US, None), False),
        ((US, None), (US6, None), True),
        ((US6, None), (None, Family.IPV6), False),
    ],
)
def test_sockets_of_an_application_may_share_a_port_at_different_addresses(
    host, first, second, fits
):
    assert host.bind(7000, *first, socket=1) > 12
    found = host.bind(7000, *second, socket=2)
    assert (found != CloseReason.ADDRESS_IN_USE) == fits


def test_the_owner_of_an_address_gets_its_datagrams(host):
    four = host.bind(7000, US, socket=1)
    six = host.bind(7000, US6, socket=2)
    host.receive(datagram(b"to IPv4"))
    host.receive(datagram(b"to IPv6", v6=True))
    assert host.app.datagrams == [
        (four, (PEER, 5000), b"to IPv4"),
        (six, (PEER6, 5000), b"to IPv6"),
    ]


def test_an_ephemeral_port_is_of_the_applications_range_and_differs_each_time(host):
    """RFC 6056: not the next one, and never one that is in use."""
    q = host.s["queues"][QUEUE]
    ports = []
    for socket in range(16):
        host.bind(0, socket=socket)
        ports.append(host.app.bound[socket]["port"])
    assert len(set(ports)) == 16
    assert all(q["port_first"] <= port <= q["port_last"] for port in ports)
    assert sum(b - a == 1 for a, b in pairwise(ports)) < 8
    other = UdpHost(load(False), seed=2)
    other.bind(0)
    assert other.app.bound[1]["port"] != ports[0]


def test_ephemeral_ports_of_another_application_cannot_be_bound(host):
    port = int(host.s["queues"][QUEUE + 1]["port_first"])
    assert host.bind(port) == CloseReason.ADDRESS_IN_USE
    assert host.bind(port, queue=QUEUE + 1) > 0


def test_an_application_has_sixteen_sockets_and_takes_none_of_anothers(host):
    for socket in range(16):
        assert host.bind(6000 + socket, socket=socket) > 12
    assert host.bind(6100, socket=99) == CloseReason.NO_RESOURCES
    assert host.bind(6100, queue=QUEUE + 1) > 12


@pytest.mark.parametrize(
    "local, family, reason",
    [
        ("10.77.0.9", None, CloseReason.NOT_LOCAL),
        ("fd00:77::9", None, CloseReason.NOT_LOCAL),
        (None, 2, CloseReason.INVALID_REQUEST),
        (None, 65535, CloseReason.INVALID_REQUEST),
    ],
)
def test_an_address_that_is_not_ours_is_refused(host, local, family, reason):
    assert host.bind(7000, local, family or 0) == reason


def test_an_address_with_the_wrong_family_is_refused(host):
    host.request(RequestKind.BIND, socket=1, port=7000, region=Family.BOTH, address=host.address)
    assert host.last(EventKind.FAILED)["reason"] == CloseReason.INVALID_REQUEST


def test_the_number_of_a_socket_does_not_come_back_soon(host):
    numbers = set()
    for _ in range(50):
        number = host.bind(7000)
        host.unbind(number)
        numbers.add(number)
    assert len(numbers) == 50


def test_a_fixed_peer_is_answered_with_the_address_that_it_is_reached_from(host):
    number = host.bind(7000)
    assert host.peer(number, PEER6) == number
    assert host.text_of(host.app.bound[1]) == US6
    assert host.app.bound[1]["port"] == 7000


@pytest.mark.parametrize(
    "text, port, reason",
    [
        ("10.77.0.2", 5000, CloseReason.UNREACHABLE),  # ourselves
        ("10.77.0.255", 5000, CloseReason.UNREACHABLE),
        ("224.0.0.1", 5000, CloseReason.UNREACHABLE),
        ("255.255.255.255", 5000, CloseReason.UNREACHABLE),
        ("2001:db8::1", 5000, CloseReason.UNREACHABLE),  # no route
        (PEER, 0, CloseReason.INVALID_REQUEST),
        ("0.0.0.0", 5000, CloseReason.INVALID_REQUEST),
    ],
)
def test_peers_that_cannot_be_are_refused(host, text, port, reason):
    assert host.peer(host.bind(7000), text, port) == reason


def test_a_peer_of_the_other_family_is_refused(host):
    assert host.peer(host.bind(7000, US), PEER6) == CloseReason.INVALID_REQUEST
    assert host.peer(host.bind(7001, family=Family.IPV6, socket=2), PEER, socket=2) == (
        CloseReason.INVALID_REQUEST
    )


def test_the_end_of_an_application_frees_its_ports_and_nobody_elses(host):
    host.bind(7000)
    other = host.bind(7001, queue=QUEUE + 1)
    host.core.drop_owner(host.s, QUEUE, host.now)
    host.step()
    assert host.steer_udp(7000) is None and host.steer_udp(7001) == QUEUE + 1
    host.receive(datagram(b"still here", dport=7001))
    assert host.apps[QUEUE + 1].datagrams == [(other, (PEER, 5000), b"still here")]


def test_the_owner_of_a_port_is_told_by_one_function(host):
    """For frames that come past the steering rules (fragments)."""
    owner = host.m.net_owner.owner
    host.bind(7000, queue=QUEUE + 1)
    host.listen(80)
    four, six = (0, host.address), host.m.tcp_tables.split_address(address_of(US6))
    first = int(host.s["queues"][QUEUE + 1]["port_first"])
    assert owner(host.s, 17, *four, 7000) == owner(host.s, 17, *six, 7000) == QUEUE + 1
    assert owner(host.s, 6, *four, 80) == QUEUE
    assert owner(host.s, 6, *four, first) == QUEUE + 1
    for protocol, local, port in ((17, four, 80), (6, four, 7000), (1, four, 80), (17, four, first),
                                  (17, (0, host.address + 1), 7000)):  # fmt: skip
        assert owner(host.s, protocol, *local, port) == -1
