"""Who may be the stack of a run directory, and what applications hear when it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import hdstack
from hdstack import service
from hdstack.errors import ServiceError
from hdstack.messages import listen


def test_a_second_stack_is_refused_and_harms_nobody(scene):
    a, _ = scene.pair()
    process = subprocess.run(
        [sys.executable, "-c", scene.stack_code, a, "10.9.0.9/24", "02:00:00:00:00:09"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode != 0
    assert f"a stack process runs already at {a / 'stack.sock'}" in process.stderr
    assert service.observe(a, "connections")["connections"] == []


def test_the_socket_of_a_stack_that_was_killed_is_replaced(scene):
    a, _ = scene.cards("a", "b")
    first = scene.stack(a)
    first.kill()
    first.wait(10)
    assert (a / "stack.sock").exists()
    scene.stack(a)
    assert service.observe(a, "connections")["connections"] == []


def test_who_serves_for_ever_hears_that_the_stack_ended(scene):
    a, _ = scene.cards("a", "b")
    stack = scene.stack(a)

    async def serve():
        async with await hdstack.connect(a, pool_bytes=1 << 20, harden=False) as runtime:
            server = await runtime.start_server(lambda reader, writer: None, 7000)
            os.kill(stack.pid, signal.SIGTERM)
            with pytest.raises(ServiceError, match="the stack process has ended"):
                await server.serve_forever()
            assert await runtime.until_lost() == "the stack process has ended"

    asyncio.run(asyncio.wait_for(serve(), 60))


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "."],
        ["forward", "7001", "127.0.0.1:9"],
        ["forward", "--reverse", "{free}", "10.9.0.2:9"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_end_with_the_stack_and_say_so(scene, command):
    a, _ = scene.cards("a", "b")
    stack = scene.stack(a)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command = [word.format(free=free.getsockname()[1]) for word in command]
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "hdstack.cli", *command, "--run", a, "--ready-fd", str(writer)],
        stderr=subprocess.PIPE, text=True, pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    try:
        assert os.read(reader, 16) == b"ready\n"
        os.kill(stack.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1 and "the stack process has ended" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        os.close(reader)


def test_of_many_that_start_at_a_time_one_gets_the_socket(tmp_path):
    path = tmp_path / "stack.sock"
    for _ in range(60):
        found, refused = [], []
        begin = threading.Barrier(4)

        def start(found=found, refused=refused, begin=begin):
            begin.wait(10)
            try:
                found.append(listen(path, "stack process"))
            except ServiceError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(found) == 1 and len(refused) == 3
        assert all("runs already" in text for text in refused)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(path))
        found[0].close()  # as if it had died: the socket stays for the next round


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "stack.sock"
    path.write_text("not ours")
    with pytest.raises(ServiceError, match="cannot be made: Address already in use"):
        listen(path, "stack process")
    assert path.read_text() == "not ours"
