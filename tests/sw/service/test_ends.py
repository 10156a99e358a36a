"""Who may be the stack of a run directory, and what applications hear when it ends."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

import hdstack
from hdstack import service
from hdstack.errors import ServiceError


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


@pytest.mark.parametrize("command", [["serve", "."], ["forward", "7001", "127.0.0.1:9"]])
def test_commands_end_with_the_stack_and_say_so(scene, command):
    a, _ = scene.cards("a", "b")
    stack = scene.stack(a)
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
    finally:
        process.kill()
        os.close(reader)
