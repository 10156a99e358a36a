"""UDP through the stack process with the software card: rules before answers, isolation, floods,
and what happens when an application dies or lies."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import standin

import hdstack
from hdstack import service
from hdstack.service import state
from hdstack.tcp.events import EventKind, Family, RequestKind

BOUND_FOR_EVER = """
import asyncio, sys, hdstack
async def main():
    runtime = await hdstack.connect(sys.argv[1], pool_bytes=1 << 20)
    bound = await runtime.bind_datagram(("", 7300))
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def until(done, seconds=10.0):
    """Wait for something that others bring about."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


@pytest.fixture
def ruled(scene):
    """(run directory, card) with a stack; the card logs rules and fences and sends nowhere."""
    directory = scene.directory("ruled")
    card = standin.Card(directory)
    host = standin.Host(card).start()
    scene.stack(directory)
    yield directory, card
    host.stop()


def test_the_rule_is_in_the_card_and_fenced_before_bound_is_answered_and_goes_on_close(ruled):
    directory, card = ruled

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            bound = await runtime.bind_datagram(("", 7200))
            assert card.log[-2:] == [("rule", 7200, 7200, runtime.queue), ("fence",)]
            (index,) = card.rules
            assert card.rule_kinds[index][0], "the rule is not for UDP"
            six = await runtime.bind_datagram(("::", 7201))
            assert len(card.rules) == 2
            bound.close()
            await bound.wait_closed()
            await until(lambda: [rule[0] for rule in card.rules.values()] == [7201])
            assert six.address == ("", 7201)
        await until(lambda: not card.rules)

    run(wait())


def test_sockets_at_several_addresses_share_the_rule_of_their_port(ruled):
    directory, card = ruled

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            four = await runtime.bind_datagram(("10.9.0.1", 7200))
            six = await runtime.bind_datagram(("fd00:9::1", 7200))
            assert len(card.rules) == 1
            four.close()
            await four.wait_closed()
            assert len(card.rules) == 1, "the other socket still needs it"
            six.close()
            await until(lambda: not card.rules)

    run(wait())


def test_where_the_card_does_not_split_udp_binding_is_refused(scene, monkeypatch):
    features = standin.C.FEATURES.pack(
        **{name: name != "udp_split" for name in standin.C.FEATURES.unpack(0)}
    )
    monkeypatch.setitem(standin.PARAMETERS, standin.C.FEATURES, features)
    directory = scene.directory("plain")
    host = standin.Host(standin.Card(directory)).start()
    scene.stack(directory)

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            with pytest.raises(hdstack.app.NoResources):
                await runtime.bind_datagram(("", 7200))

    run(wait())
    host.stop()


def test_an_application_sees_its_own_datagrams_and_no_others(pair):
    async def scene():
        async with contextlib.AsyncExitStack() as stack:
            a, b, peer = [
                await stack.enter_async_context(await hdstack.connect(pair[k], pool_bytes=1 << 20))
                for k in (0, 0, 1)
            ]
            first = await a.bind_datagram(("", 7210))
            second = await b.bind_datagram(("", 7211))
            with pytest.raises(OSError, match="in use"):
                await b.bind_datagram(("", 7210))
            sender = await peer.bind_datagram()
            secret = b"for A alone " * 80
            for k in range(40):
                await sender.sendto(secret, ("10.9.0.1", 7210))
                await sender.sendto(b"for B", ("10.9.0.1", 7211))
                got, _ = await second.recv()
                assert got == b"for B"
                got, _ = await first.recv()
                assert got == secret, k
            assert not first.arrived and not second.arrived
            assert b.pool.file.find(b"for A alone") < 0, "the pool of B holds bytes for A"

    run(scene())


def test_a_flood_that_nobody_takes_costs_its_own_application_alone(pair):
    """I7: another application of the same stack loses nothing meanwhile."""

    async def scene():
        async with contextlib.AsyncExitStack() as stack:
            lazy, busy, peer = [
                await stack.enter_async_context(await hdstack.connect(pair[k], pool_bytes=1 << 20))
                for k in (0, 0, 1)
            ]
            await lazy.bind_datagram(("", 7220))
            busy_end = await busy.bind_datagram(("", 7221))
            flooder, sender = await peer.bind_datagram(), await peer.bind_datagram()
            for k in range(60):
                for _ in range(20):
                    await flooder.sendto(b"flood", ("10.9.0.1", 7220))
                await sender.sendto(k.to_bytes(2, "big"), ("10.9.0.1", 7221))
                got, _ = await asyncio.wait_for(busy_end.recv(), 10)
                assert int.from_bytes(got, "big") == k
            counters = service.observe(pair[0], "stats")["tcp"]
            assert counters["datagrams_refused"] >= 60 * 20 - 96 - 250

    run(scene())


def test_kill_9_frees_the_port_for_another_application(pair):
    dead = subprocess.Popen(
        [sys.executable, "-c", BOUND_FOR_EVER, str(pair[0])], stdout=subprocess.PIPE, text=True
    )
    assert dead.stdout.readline() == "ready\n"

    async def scene():
        async with await hdstack.connect(pair[0], pool_bytes=1 << 20) as runtime:
            with pytest.raises(OSError, match="in use"):
                await runtime.bind_datagram(("", 7300))
            os.kill(dead.pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while True:
                try:
                    bound = await runtime.bind_datagram(("", 7300))
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)
            async with await hdstack.connect(pair[1], pool_bytes=1 << 20) as peer:
                sender = await peer.bind_datagram(remote_addr=("10.9.0.1", 7300))
                await sender.sendto(b"to the new owner")
                assert (await bound.recv())[0] == b"to the new owner"

    run(scene())
    dead.wait(10)
    dead.stdout.close()


def test_an_application_that_lies_about_what_it_gave_back_harms_itself_alone(pair):
    async def scene():
        async with contextlib.AsyncExitStack() as stack:
            liar, honest, peer = [
                await stack.enter_async_context(await hdstack.connect(pair[k], pool_bytes=1 << 20))
                for k in (0, 0, 1)
            ]
            bound = await liar.bind_datagram(("", 7230))
            good = await honest.bind_datagram(("", 7231))
            sender = await peer.bind_datagram()
            for k in range(300):
                await sender.sendto(bytes(100), ("10.9.0.1", 7230))
                if k % 10 == 0:
                    liar.ask(RequestKind.TAKEN, connection=bound.number, length=0xFFFFFFFF,
                             offset=0xFFFFFFFF)  # fmt: skip
                    liar.ask(RequestKind.TAKEN, connection=good.number, length=5, offset=5)
            await sender.sendto(b"all is well", ("10.9.0.1", 7231))
            assert (await good.recv())[0] == b"all is well"
            held = service.observe(pair[0], "stats")["tcp"]["not_ready"]
            assert held == 0

    run(scene())


def test_a_socket_whose_program_waits_no_longer_is_closed_again(ruled):
    directory, card = ruled

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            asking = asyncio.ensure_future(runtime.bind_datagram(("", 7240)))
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            await until(lambda: ("rule", 7240, 7240, runtime.queue) in card.log)
            await until(lambda: not card.rules)
            assert len(runtime._free_sockets) == 1024

    run(wait())


def test_every_kind_of_event_and_request_has_a_number_of_its_own():
    """They travel in rings between processes: a number that means two things would be a trap."""
    for kinds in (RequestKind, EventKind, Family):
        assert len({int(kind) for kind in kinds}) == len(kinds.__members__)
    assert state.ROW_BYTES == 32
