"""UDP between a Linux kernel and applications: every size of both families, isolation, fragments,
errors; then tshark's word on the capture. The tests share one scene; the last one ends it."""

import asyncio
import hashlib
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from captures import faulty_frames

import hdstack
from hdstack.cli.demo.peer import NoKernelPeer, open_peer
from hdstack.cli.demo.scene import PEER_UID, Scene
from hdstack.errors import ServiceError

pytestmark = pytest.mark.kernel_peer

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"
PEER_ADDRESS, STACK_ADDRESS = "10.77.0.1", "10.77.0.2"
STACK_MAC = "02:68:64:73:00:02"
PEER6, STACK6 = "fd00:77::1", "fd00:77::2"
PORT_A, PORT_B = 7001, 7002
WINDOW = 12
"""Datagrams of the kernel that are under way: the card is slower than it, and UDP does not wait."""


@pytest.fixture(scope="module")
def kernel():
    try:
        uid = PEER_UID if os.geteuid() == 0 else None
        peer = open_peer(f"{PEER_ADDRESS}/24", uid=uid, address6=f"{PEER6}/64")
    except NoKernelPeer as error:
        pytest.skip(f"no kernel peer can be had here: {error}")
    with peer:
        yield peer


@pytest.fixture(scope="module")
def scene(kernel):
    """A card, a stack, and two echo applications, A and B."""
    with Scene() as made:
        made.capture = made.file("card.pcapng", "device")
        made.start_device(kernel.link_fd, 64, made.capture)
        made.start_stack(f"{STACK_ADDRESS}/24", STACK_MAC, "--also", f"{STACK6}/64")
        made.start_echo("A", PORT_A)
        made.start_echo("B", PORT_B)
        yield made


def udp(kernel, family=socket.AF_INET):
    return kernel.socket(family, socket.SOCK_DGRAM)


def exchange(client, where, datagrams, seconds=240):
    """Send each to an echo application, a window at a time; what came back, in order."""
    got, under_way, end = [], 0, time.monotonic() + seconds
    waiting = iter(datagrams)
    more = True
    while more or under_way:
        while more and under_way < WINDOW:
            data = next(waiting, None)
            if data is None:
                more = False
            else:
                client.sendto(data, where)
                under_way += 1
        if under_way:
            left = end - time.monotonic()
            ready = select.select([client], [], [], max(0, left))[0]
            assert ready, f"{len(got)} of the answers came in {seconds} s"
            data, source = client.recvfrom(65536)
            assert source[:2] == where[:2]
            got.append(data)
            under_way -= 1
    return got


@pytest.mark.parametrize("family, address, most", [
    (socket.AF_INET, STACK_ADDRESS, 1472), (socket.AF_INET6, STACK6, 1452),
])  # fmt: skip
def test_datagrams_of_every_size_go_to_an_application_and_back(
    kernel, scene, family, address, most
):
    sent = [os.urandom(length) for length in range(most + 1)]
    before = scene.observe("A", "stats")["stats"]["datagrams"]
    with udp(kernel, family) as client:
        got = exchange(client, (address, PORT_A), sent)
    assert scene.observe("A", "stats")["stats"]["datagrams"] - before == len(sent)
    assert [len(data) for data in got] == list(range(most + 1))
    digests = [hashlib.sha256(b"".join(each)).hexdigest() for each in (sent, got)]
    assert digests[0] == digests[1]


def test_each_application_saw_what_was_for_it_and_copied_nothing(kernel, scene):
    before = {name: scene.observe(name, "stats")["stats"] for name in ("A", "B")}
    assert before["B"]["datagrams"] == 0
    came = stack_counters(scene)["datagrams_in"]
    with udp(kernel) as one, udp(kernel) as other:
        for k in range(100):
            one.sendto(b"for A" * (k % 50), (STACK_ADDRESS, PORT_A))
            other.sendto(b"for B" * (k % 70), (STACK_ADDRESS, PORT_B))
            for client, text in ((one, b"for A" * (k % 50)), (other, b"for B" * (k % 70))):
                assert select.select([client], [], [], 30)[0]
                assert client.recv(2000) == text
    after = {name: scene.observe(name, "stats")["stats"] for name in ("A", "B")}
    for name, each, modulus in (("A", 5, 50), ("B", 5, 70)):
        assert after[name]["datagrams"] - before[name]["datagrams"] == 100
        size = sum(each * (k % modulus) for k in range(100))
        assert after[name]["bytes"] - before[name]["bytes"] == size
        assert after[name]["copied_bytes"] == after[name]["errors"] == 0
    assert stack_counters(scene)["datagrams_in"] - came == 200


@pytest.mark.parametrize("family, address", [
    (socket.AF_INET, STACK_ADDRESS), (socket.AF_INET6, STACK6),
])  # fmt: skip
def test_what_the_kernel_cuts_goes_to_an_application_whole_and_back(kernel, scene, family, address):
    """The stack puts the fragments together, the card moves the payload by PLACE."""
    before = stack_counters(scene)
    sent = [os.urandom(length) for length in (1473, 2048, 2049, 4000, 8192, 9018)]
    with udp(kernel, family) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        assert [exchange(client, (address, PORT_A), [data])[0] for data in sent] == sent
    after = stack_counters(scene)
    for name in ("reassembled", "placed", "whole_datagrams"):
        assert after[name] - before[name] == len(sent), name


def test_without_a_checksum_over_ipv4_it_is_taken(kernel, scene):
    with udp(kernel) as client:
        client.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        assert exchange(client, (STACK_ADDRESS, PORT_A), [b"no sum" * 20]) == [b"no sum" * 20]


@pytest.mark.parametrize("family, address", [
    (socket.AF_INET, STACK_ADDRESS), (socket.AF_INET6, STACK6),
])  # fmt: skip
def test_the_kernel_is_told_that_nobody_has_a_port(kernel, scene, family, address):
    with udp(kernel, family) as client:
        client.connect((address, 9))
        client.settimeout(30)
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 120))


@pytest.mark.parametrize("family, address", [
    (socket.AF_INET, PEER_ADDRESS), (socket.AF_INET6, PEER6),
])  # fmt: skip
def test_the_kernel_puts_fragments_together_and_finds_the_checksum_right(
    kernel, scene, family, address
):
    """RFC 791, RFC 8200: what is larger than a packet leaves in fragments."""

    async def send(sizes, receiver):
        where = receiver.getsockname()[:2]
        async with await hdstack.connect(scene.run, harden=False) as runtime:
            async with await runtime.bind_datagram() as bound:
                for size in sizes:
                    sent = os.urandom(size)
                    buffer = await runtime.buffer(size)
                    buffer.data[:] = sent
                    await bound.send_buffer(buffer, size, where)
                    ready = await asyncio.to_thread(select.select, [receiver], [], [], 30)
                    assert ready[0], f"{size} bytes did not arrive"
                    assert receiver.recv(65536) == sent
            assert runtime.copied_bytes == 0

    with udp(kernel, family) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.bind((address, 0))
        run(send([1473, 1480, 2953, 8000, 20001, 65507], receiver))


def test_an_application_is_told_that_the_kernel_refuses(kernel, scene):
    async def ask():
        async with await hdstack.connect(scene.run, harden=False) as runtime:
            for address in (PEER_ADDRESS, PEER6):
                async with await runtime.bind_datagram(remote_addr=(address, 9)) as bound:
                    await bound.sendto(b"anybody?")
                    with pytest.raises(ConnectionRefusedError):
                        await bound.recv_views()

    run(ask())


def test_a_kernel_that_answers_to_a_fixed_peer_is_heard(kernel, scene):
    async def ask(server):
        async with await hdstack.connect(scene.run, harden=False) as runtime:
            where = server.getsockname()[:2]
            async with await runtime.bind_datagram(remote_addr=where) as bound:
                await bound.sendto(b"question")
                assert await asyncio.to_thread(select.select, [server], [], [], 30)
                data, source = server.recvfrom(100)
                assert (data, source) == (b"question", (STACK_ADDRESS, bound.address[1]))
                server.sendto(b"answer", source)
                assert await bound.recv() == (b"answer", where)

    with udp(kernel) as server:
        server.bind((PEER_ADDRESS, 0))
        run(ask(server))


def test_the_example_of_the_guide_runs(kernel, scene):
    text = GUIDE.read_text()
    code = text[text.index("### UDP") :]
    code = code[code.index("```python\n") + 10 :]
    code = code[: code.index("```")]
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE,
        env={**os.environ, "HDSNIC_RUN": str(scene.run)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        with udp(kernel) as client:
            client.connect((STACK_ADDRESS, 7))
            client.settimeout(1)
            while True:
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                try:
                    client.send(bytes(321))
                    answer = client.recv(100)
                    break
                except (ConnectionRefusedError, TimeoutError):
                    time.sleep(0.1)  # it is not there yet
        assert answer == b"     321\n"
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()


def stack_counters(scene):
    """The counters; on a busy machine they may take longer than the 5 s of one question."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return scene.observe("stack", "stats")["tcp"]
        except ServiceError:
            assert time.monotonic() < deadline


def test_counters_tell_of_no_drop_and_the_capture_of_no_wrong_checksum(scene):
    counters = stack_counters(scene)
    for name in ("bad_datagram", "datagrams_refused", "place_dropped", "foreign_payload",
                 "neighbour_full", "neighbour_silent", "bad_request", "not_ready"):  # fmt: skip
        assert counters[name] == 0, name
    for name in ("B", "A", "stack", "device"):
        assert scene.end(name) in (0, 130)
    assert faulty_frames(scene.capture) == []
