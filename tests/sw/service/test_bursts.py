"""The compiled loop around the burst: when it gives control back, and its clock."""

import time

import numpy as np
import pytest

from hdstack.clock import monotonic_ns
from hdstack.driver.device import HeaderMemory
from hdstack.driver.layout import HeaderLayout
from hdstack.service import state
from hdstack.service.bursts import bursts
from hdstack.service.state import Work
from hdstack.tcp import core, tables
from hdstack.tcp.events import REQUEST, RequestKind

_SECOND_NS = 1_000_000_000


@pytest.fixture
def loop():
    """`run(version, busy_ns, idle_ns)` over the tables of a stack with nothing to do."""
    s = tables.allocate()
    tables.initialise(s, bytes(6), 1, 0, 0, bytes(16))
    io = np.zeros(1, state.SERVICE)[0]
    header = HeaderMemory(HeaderLayout(queues=1, ring_bytes=4096))
    io["ring_bytes"] = 4096
    pages = np.zeros(1024 * 17, np.uint32)
    channels = np.zeros(16 * state.CHANNEL_WORDS, np.uint32)

    def run(version, busy_ns, idle_ns):
        return bursts(
            s, io, header.slots, pages, header.rings, header.rings.view(np.int64), header.area,
            channels, state.NO_POOLS, version, busy_ns, idle_ns,
        )  # fmt: skip

    run.s, run.io, run.channels = s, io, channels
    yield run
    header.close()


def request(loop, queue, count):
    """Requests of the application of `queue` that mean nothing, each of them work for a burst."""
    base = queue * state.CHANNEL_WORDS
    rows = loop.channels[base + state.REQUESTS_AT // 4 :].view(REQUEST)
    rows[:count]["kind"] = int(RequestKind.UNLISTEN)
    loop.channels[base + state.REQUEST_PRODUCER] = count


def test_the_clock_is_the_monotonic_one():
    before = time.monotonic_ns()
    now = monotonic_ns()
    assert before <= now <= time.monotonic_ns()


def test_idle_is_told_after_the_whole_while(loop):
    began = time.monotonic_ns()
    assert loop(0, _SECOND_NS, 2_000_000) == Work.IDLE
    assert time.monotonic_ns() - began >= 2_000_000
    assert loop.io["bursts"] > 2


def test_other_listeners_end_it_at_once(loop):
    loop.s["control"]["listeners_version"] = 7
    assert not loop(6, _SECOND_NS, _SECOND_NS) & Work.IDLE
    assert loop.io["bursts"] == 1


def test_an_application_that_waits_ends_it_at_once(loop):
    core.set_queue(loop.s, 1, 50000, 50001)
    loop.io["queues"][1]["attached"] = 1
    loop.channels[state.CHANNEL_WORDS + state.NEED_SPACE] = 1
    request(loop, 1, 3)
    work = loop(0, _SECOND_NS, _SECOND_NS)
    assert work & Work.WAKE_APPLICATIONS and work & Work.DONE and not work & Work.IDLE
    assert loop.io["wakes"] == 1 << 1


def test_work_alone_ends_it_when_its_time_is_over(loop):
    core.set_queue(loop.s, 1, 50000, 50001)
    loop.io["queues"][1]["attached"] = 1
    request(loop, 1, 3)
    assert loop(0, 0, _SECOND_NS) == Work.DONE
    assert loop.io["queues"][1]["requests"] == 3 and loop.io["bursts"] == 1
