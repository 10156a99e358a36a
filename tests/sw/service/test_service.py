"""The stack process with the software card: rules before answers, deaths, sleep, and the hostile
holder of a channel, who harms only himself."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import standin

import hdstack
from hdstack import memory, messages, service
from hdstack.app.channel import Channel
from hdstack.app.pool import DeviceLink, Pool
from hdstack.atomic import load_acquire, store_release
from hdstack.errors import ConfigurationError, HdstackError, ServiceError
from hdstack.service import state
from hdstack.tcp.events import EventKind, RequestKind

VICTIM = """
import asyncio, sys, hdstack
async def main():
    runtime = await hdstack.connect(sys.argv[1], pool_bytes=1 << 20)
    async def hold(reader, writer):
        writer.write(b"held")
        await reader.read()
    await runtime.start_server(hold, 7000)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def talk(runtime, port, data=b"how are you?"):
    reader, writer = await runtime.open_connection("10.9.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@asynccontextmanager
async def bystanders(pair, port):
    """A served connection between two applications, proven to work afterwards as before."""
    a, b = pair
    async with await hdstack.connect(a, pool_bytes=1 << 20) as left:
        async with await hdstack.connect(b, pool_bytes=1 << 20) as right:
            await left.start_server(echo, port)
            reader, writer = await right.open_connection("10.9.0.1", port)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            yield right
            writer.write(b"after")
            assert await reader.readexactly(5) == b"after"
            assert await talk(right, port) == b"how are you?"


class Hostile:
    """An application that has a registered pool and a channel, and no manners."""

    def __init__(self, directory):
        self.link = DeviceLink(directory)
        self.pool = Pool(self.link, 1 << 20, 2048)
        self.channel = Channel(directory, self.link.token, [self.pool.region])
        self.words = self.channel._words

    def dismissed(self, seconds=10.0):
        """The reason that the stack gave, or None."""
        self.channel.control.settimeout(seconds)
        try:
            data = self.channel.control.recv(8192)
        except TimeoutError:
            return None
        return json.loads(data)["error"] if data else "closed"

    def close(self):
        self.channel.close()
        self.link.close()


# -- the hostile holder --------------------------------------------------------------------------


@pytest.mark.parametrize("word", [state.REQUEST_PRODUCER, state.EVENT_CONSUMER])
def test_an_index_beyond_the_ring_ends_only_its_writer(pair, word):
    async def scene():
        async with bystanders(pair, 7100):
            hostile = Hostile(pair[0])
            store_release(hostile.words, word, 0x7FFFFFFF)
            if word == state.EVENT_CONSUMER:  # it is looked at when there is an event
                hostile.channel.ask(RequestKind.LISTEN, port=7101, socket=1)
                hostile.channel.flush()
            hostile.channel._rouse()
            assert "beyond its ring" in await asyncio.to_thread(hostile.dismissed)
            hostile.close()

    run(scene())


def test_a_ring_full_of_garbage_requests_is_refused_request_by_request(pair):
    async def scene():
        async with bystanders(pair, 7110):
            hostile = Hostile(pair[0])
            rows = hostile.channel._mapping.array
            start = state.REQUESTS_AT
            garbage = os.urandom(state.REQUEST_ROWS * state.ROW_BYTES)
            rows[start : start + len(garbage)] = list(garbage)
            for turn in range(1, 5):
                store_release(hostile.words, state.REQUEST_PRODUCER, turn * state.REQUEST_ROWS)
                hostile.channel._rouse()
                deadline = time.monotonic() + 10
                while load_acquire(hostile.words, state.REQUEST_CONSUMER) != (
                    turn * state.REQUEST_ROWS
                ):
                    hostile.channel.events()
                    hostile.channel._rouse()
                    assert time.monotonic() < deadline, "the requests were never taken"
                    await asyncio.sleep(0.01)
            hostile.close()

    run(scene())


def test_an_application_that_takes_no_events_is_paused_and_delays_nobody(pair):
    async def scene():
        async with bystanders(pair, 7120):
            hostile = Hostile(pair[0])
            asked = 0
            for _ in range(20):  # every request is answered by an event; none is taken
                for _ in range(400):
                    hostile.channel.ask(RequestKind.LISTEN, port=0, socket=asked)
                    asked += 1
                hostile.channel.flush()
                await asyncio.sleep(0.02)
            waiting = load_acquire(hostile.words, state.EVENT_PRODUCER)
            assert waiting == state.EVENT_ROWS, "the ring of events is not full: nothing was tried"
            got = []
            deadline = time.monotonic() + 20
            while len(got) < asked and time.monotonic() < deadline:
                got += hostile.channel.events()
                hostile.channel.flush()
                await asyncio.sleep(0.005)
            assert [event[2] for event in got] == list(range(asked))
            assert {event[0] for event in got} == {EventKind.FAILED}
            hostile.close()

    run(scene())


def test_a_filled_wake_socket_and_a_storm_of_wakes_block_nobody(pair):
    async def scene():
        async with bystanders(pair, 7130) as right:
            hostile = Hostile(pair[0])
            store_release(hostile.words, state.NEED_WAKE_APPLICATION, 1)
            for number in range(300):  # the stack's wakes are never read: its socket fills
                hostile.channel.ask(RequestKind.LISTEN, port=0, socket=number)
                hostile.channel.flush()
                store_release(hostile.words, state.NEED_WAKE_APPLICATION, 1)
            for _ in range(20_000):
                hostile.channel._rouse()
            assert await talk(right, 7130, bytes(10_000)) == bytes(10_000)
            hostile.channel.wake.close()
            assert await talk(right, 7130) == b"how are you?"
            hostile.close()

    run(scene())


def test_sends_from_memory_that_is_not_its_own_reach_nobody(pair):
    async def scene():
        async with bystanders(pair, 7140):
            hostile = Hostile(pair[0])
            for region in (hostile.pool.region ^ 1, 200, 65535):
                hostile.channel.ask(
                    RequestKind.SEND, connection=0, region=region, generation=1, offset=1 << 31,
                    length=0xFFFFFFFF,
                )  # fmt: skip
            hostile.channel.ask(RequestKind.ABORT, connection=1)
            hostile.channel.ask(RequestKind.CONSUMED, connection=1, length=0xFFFFFFFF)
            hostile.channel.flush()
            await asyncio.sleep(0.2)
            hostile.close()

    run(scene())


@pytest.mark.parametrize(
    "raw",
    [b"not json", b"[1]", b'{"role": "king"}', b'{"role": "application", "token": 5}',
     b"[" * 5000, bytes(20000)],
    ids=["text", "a list", "unknown role", "no token", "deep", "long"],
)  # fmt: skip
def test_a_greeting_that_is_none_closes_that_client_alone(pair, raw):
    with messages.connect(pair[0] / "stack.sock", "stack") as control:
        control.send(raw)
        answer = control.recv(8192)
        assert not answer or json.loads(answer)["ok"] is False
        assert control.recv(8192) == b""
    assert service.observe(pair[0], "connections")["ok"]


def test_a_token_counts_once_and_only_for_its_process(pair):
    hostile = Hostile(pair[0])
    with pytest.raises(ServiceError, match="used before"):
        Channel(pair[0], hostile.link.token, [])
    code = (
        "import sys; from hdstack.app.channel import Channel; from hdstack import HdstackError\n"
        "try: Channel(sys.argv[1], sys.argv[2], [])\n"
        "except HdstackError as error: print(error)"
    )
    stolen = subprocess.run(
        [sys.executable, "-c", code, str(pair[0]), hostile.link.token],
        capture_output=True,
        text=True,
    )
    assert "is not the one with this token" in stolen.stdout
    with pytest.raises(ServiceError, match="the device has told nothing of this token"):
        Channel(pair[0], "0" * 32, [])
    hostile.close()


def test_regions_that_are_no_numbers_are_refused(pair):
    link = DeviceLink(pair[0])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, messages.connect(pair[0] / "stack.sock", "stack") as control:
        greeting = {"role": "application", "token": link.token, "regions": [[]]}
        with pytest.raises(ServiceError, match="by their numbers"):
            messages.request(control, greeting, (theirs.fileno(),), expect=1)
    assert service.observe(pair[0], "connections")["ok"]
    link.close()


def test_refused_descriptors_leave_none_behind_in_the_stack(pair):
    link = DeviceLink(pair[0])
    pid = service.observe(pair[0], "stats")["pid"]
    counts = []
    with open(os.devnull) as nothing:
        for _ in range(4):
            with messages.connect(pair[0] / "stack.sock", "stack") as control:
                with pytest.raises(ServiceError, match="not a socket"):
                    greeting = {"role": "application", "token": link.token}
                    messages.request(control, greeting, (nothing.fileno(),), expect=1)
                assert control.recv(1) == b""
            counts.append(len(os.listdir(f"/proc/{pid}/fd")))
    assert counts[-1] <= counts[0]
    link.close()


def test_observers_that_say_nothing_are_sent_away_and_a_user_has_a_limit_of_them(pair):
    silent = [messages.connect(pair[0] / "stack.sock", "stack") for _ in range(20)]
    for control in silent:
        with contextlib.suppress(OSError):
            control.send(b'{"role": "observer"}')
    answered = 0
    for control in silent:
        control.settimeout(10)
        with contextlib.suppress(ConnectionError):
            answered += bool(control.recv(8192))
            assert control.recv(8192) == b"", "a silent observer keeps its place"
        control.close()
    assert answered == 16
    assert service.observe(pair[0], "connections")["ok"]


def test_a_descriptor_that_is_no_socket_is_refused_for_wake_ups(pair):
    link = DeviceLink(pair[0])
    reader, writer = os.pipe()
    with messages.connect(pair[0] / "stack.sock", "stack") as control:
        with pytest.raises(ServiceError, match="not a socket"):
            greeting = {"role": "application", "token": link.token}
            messages.request(control, greeting, (reader,), expect=1)
    os.close(reader)
    os.close(writer)
    link.close()


# -- deaths --------------------------------------------------------------------------------------


def test_a_killed_application_resets_its_peers_and_gives_its_port_back(pair):
    async def scene():
        async with bystanders(pair, 7200) as right:
            victim = subprocess.Popen(
                [sys.executable, "-c", VICTIM, str(pair[0])], stdout=subprocess.PIPE
            )
            assert await asyncio.to_thread(victim.stdout.readline) == b"ready\n"
            reader, _ = await right.open_connection("10.9.0.1", 7000)
            assert await reader.readexactly(4) == b"held"
            victim.kill()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 10)
            victim.wait()
            async with await hdstack.connect(pair[0], pool_bytes=1 << 20) as heir:
                await heir.start_server(echo, 7000)
                assert await talk(right, 7000) == b"how are you?"

    run(scene())


def test_applications_come_and_go_more_often_than_there_are_queues(pair):
    async def scene():
        for turn in range(20):
            async with await hdstack.connect(pair[0], pool_bytes=256 * 1024) as runtime:
                await runtime.start_server(echo, 7300 + turn)
        assert service.observe(pair[0], "connections")["total"] == 0

    run(scene())


def test_applications_learn_that_the_stack_ended(scene):
    (directory,) = scene.cards("one")
    stack = scene.stack(directory)

    async def wait():
        runtime = await hdstack.connect(directory, pool_bytes=1 << 20)
        pending = asyncio.create_task(runtime.open_connection("10.9.0.200", 80))
        await asyncio.sleep(0.1)
        stack.kill()
        with pytest.raises(OSError, match="ended"):
            await pending
        with pytest.raises(HdstackError, match="stack process has ended"):
            await runtime.start_server(echo, 80)
        await runtime.close()

    run(wait())
    scene.stack(directory)  # the device takes another one


def test_the_stack_ends_with_its_device_and_says_so(scene):
    (directory,) = scene.cards("one")
    stack = scene.stack(directory)
    scene.card_process.send_signal(signal.SIGKILL)
    assert stack.wait(10) != 0


def test_the_stack_ends_cleanly_on_a_signal(scene):
    (directory,) = scene.cards("one")
    stack = scene.stack(directory)
    assert (directory / "stack.sock").exists()
    stack.terminate()
    assert stack.wait(10) == 0
    assert not (directory / "stack.sock").exists()


# -- order, sleep, isolation ---------------------------------------------------------------------


def test_rules_are_in_the_card_before_listening_is_answered_and_before_a_syn_leaves(scene):
    directory = scene.directory("ruled")
    card = standin.Card(directory)
    far = bytes([10, 9, 0, 9])  # the stack also speaks of its own addresses
    card.wire = lambda frame: card.log.append(("frame",)) if far in frame else None
    host = standin.Host(card).start()
    scene.stack(directory)

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            await runtime.start_server(echo, 8080)
            assert card.log[-2:] == [("rule", 8080, 8080, runtime.queue), ("fence",)]
            first, last = state.port_range(runtime.queue)
            with pytest.raises(OSError):
                await runtime.open_connection("10.9.0.9", 80, timeout=0.5)
            rule = card.log.index(("rule", first, last, runtime.queue))
            assert card.log[rule + 1] == ("fence",)
            frames = [n for n, entry in enumerate(card.log) if entry[0] == "frame"]
            assert frames and min(frames) > rule + 1
        deadline = time.monotonic() + 10
        while card.rules and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not card.rules, "rules outlive their application"

    run(wait())
    host.stop()


def test_without_a_rule_for_its_port_range_a_connect_fails_and_others_go_on(scene, monkeypatch):
    monkeypatch.setitem(standin.PARAMETERS, standin.C.RANGE_LISTENERS, 0)
    directory = scene.directory("ruleless")
    host = standin.Host(standin.Card(directory)).start()
    scene.stack(directory)

    async def wait():
        async with await hdstack.connect(directory, pool_bytes=1 << 20) as runtime:
            with pytest.raises(hdstack.app.NoResources):
                await runtime.open_connection("10.9.0.9", 80)
            assert (await runtime.start_server(echo, 80)).is_serving()

    run(wait())
    host.stop()


def test_an_idle_stack_sleeps(pair):
    before = service.observe(pair[0], "stats")["bursts"]
    time.sleep(3)  # no event to wait for: that none comes is what is tested
    # a hundred for the question and for each time that a timer goes off; awake, above a million
    assert service.observe(pair[0], "stats")["bursts"] - before <= 5000


def test_the_stack_sees_pools_read_only_and_applications_no_header_memory(pair):
    async def scene():
        async with await hdstack.connect(pair[0], pool_bytes=1 << 20) as runtime:
            mine = {entry.inode: entry for entry in runtime.maps()}
            pool = os.fstat(runtime.pool._fd).st_ino
            assert mine[pool].permissions == "rw"
            told = service.observe(pair[0], "maps")["maps"]
            assert [m["permissions"] for m in told if m["inode"] == pool] == ["r"]
            (header,) = {m["inode"] for m in told if m["name"] == "hdsnic-header"}
            assert header not in mine

    run(scene())
    told = service.observe(pair[0], "maps")["maps"]
    assert not [m for m in told if m["name"] == "hdsnic-pool"], "a pool outlives its application"


def test_observers_are_told_counters_and_connections(pair):
    async def scene():
        async with bystanders(pair, 7400):
            told = service.observe(pair[0], "stats")
            assert told["tcp"]["segments_in"] > 0
            assert told["queues"]["1"]["requests"] > 0
            assert told["device"]["card"]["queues"] == 16
            rows = service.observe(pair[0], "connections")["connections"]
            assert [row["local_port"] for row in rows if row["state"] == "ESTABLISHED"] == [7400]

    run(scene())
    with pytest.raises(ServiceError, match="stats, maps and connections"):
        service.observe(pair[0], "secrets")


def test_an_observer_is_not_sent_away_while_the_card_is_slow_with_its_counters(scene):
    """The stack sends silent observers away after 2 s; the card here is silent for longer."""
    a, _ = scene.pair()
    with messages.connect(a / "stack.sock", "stack") as control:
        messages.request(control, {"role": "observer"}, what="stack")
        os.kill(scene.card_process.pid, signal.SIGSTOP)
        try:
            control.send(b'{"op": "stats"}')
            time.sleep(2.5)
        finally:
            os.kill(scene.card_process.pid, signal.SIGCONT)
        control.settimeout(10)
        assert json.loads(control.recv(messages.ANSWER_BYTES))["ok"]
        told = messages.request(control, {"op": "connections"}, what="stack")[0]
        assert told["connections"] == []


@pytest.mark.parametrize(
    ("address", "mac", "reason"),
    [
        ("10.9.0.999/24", "02:00:00:00:00:01", "10.77.0.2/24"),
        ("10.9.0.1/24", "02:00:00:00:01", "six bytes"),
        ("10.9.0.1/24", "03:00:00:00:00:01", "multicast"),
    ],
)
def test_wrong_settings_are_refused_with_an_example(tmp_path, address, mac, reason):
    with pytest.raises(ConfigurationError, match=reason):
        service.main(tmp_path, address, mac)


def test_a_stack_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ServiceError, match=r"stack process at .*is it running"):
        service.observe(tmp_path, "stats")


def test_a_channel_cannot_change_its_size(pair, monkeypatch):
    seen = []
    check = memory.check

    def look(fd, *arguments, **options):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 4096)
        seen.append(memory.get_seals(fd))
        return check(fd, *arguments, **options)

    link = DeviceLink(pair[0])
    monkeypatch.setattr(memory, "check", look)
    Channel(pair[0], link.token, []).close()
    link.close()
    assert [seals & memory.SIZE_SEALS for seals in seen] == [memory.SIZE_SEALS]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_stack_and_application_work_as_users_of_their_own(scene):
    code = (
        "import sys; from hdstack import service;"
        "service.main(sys.argv[1], '10.9.0.1/24', '02:00:00:00:00:01', uid=54321, ready_fd=1)"
    )
    application = (
        "import asyncio, sys, hdstack; from hdstack import app, memory\n"
        "app.warm(); memory.drop_to(54322)\n"
        "async def main():\n"
        "    async with await hdstack.connect(sys.argv[1], pool_bytes=1 << 20) as runtime:\n"
        "        await runtime.start_server(lambda r, w: None, 80)\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        directory = Path(name)
        scene.start(Path(standin.__file__), directory)
        stack = scene.start("-c", code, directory)
        running = scene.start("-c", application, directory)
        told = service.observe(directory, "stats")["queues"]["1"]
        assert (told["uid"], told["pid"]) == (54322, running.pid)
        assert psutil.Process(stack.pid).uids() == (54321,) * 3
