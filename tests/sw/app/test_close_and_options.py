"""How a connection is closed and what options do, between two applications over their stacks."""

import asyncio
import errno
import itertools
import os
import signal
import socket
import struct
from contextlib import asynccontextmanager

import pytest

import hdstack
from hdstack.app import socket_options
from hdstack.tcp.events import NO_LINGER, CloseFlag, Option, RequestKind

_ports = itertools.count(3000)
TCP = socket.IPPROTO_TCP


def run(coroutine):
    """Run a test's coroutine with a bound."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@asynccontextmanager
async def connected(pair, address="10.9.0.1"):
    """(near reader, near writer, far reader, far writer) of one connection."""
    a, b = pair
    accepted = asyncio.Queue()
    async with await hdstack.connect(a, pool_bytes=1 << 20) as left:
        async with await hdstack.connect(b, pool_bytes=1 << 20) as right:
            port = next(_ports)
            await left.start_server(lambda *streams: accepted.put_nowait(streams), port)
            near = await right.open_connection(address, port)
            yield *near, *await accepted.get()


def asked(writer):
    """What is asked of the stack from now on, as (kind, fields)."""
    runtime, found = writer._c.runtime, []
    ask = runtime.ask

    def noted(kind, **fields):
        found.append((kind, fields))
        ask(kind, **fields)

    runtime.ask = noted
    return found


def linger(on, seconds):
    return socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, seconds)


async def error_of(reader):
    """What ends the connection of `reader`."""
    while not reader._c.closed:
        await reader._c.changed()
    return reader.exception()


def test_close_is_the_stacks_and_both_ends_close_in_order(pair):
    async def scene():
        async with connected(pair) as (reader, writer, far_reader, far_writer):
            requests = asked(writer)
            writer.write(b"last words")
            writer.close()
            writer.close()
            kinds = [kind for kind, _ in requests]
            assert kinds == [RequestKind.SEND, RequestKind.CLOSE]
            assert requests[1][1]["length"] == NO_LINGER and requests[1][1]["offset"] == 0
            await writer.wait_closed()
            assert await far_reader.read() == b"last words"
            far_writer.close()
            assert await error_of(reader) is None and await error_of(far_reader) is None

    run(scene())


def test_who_closes_with_data_unread_resets_after_all_of_his_is_delivered(pair):
    async def scene():
        async with connected(pair) as (reader, writer, far_reader, far_writer):
            writer.write(b"a question of which only a part is read")
            assert await far_reader.readexactly(10) == b"a question"
            data = os.urandom(300_000)
            far_writer.write(data)
            far_writer.close()
            assert await reader.read() == data
            assert isinstance(await error_of(reader), ConnectionResetError)
            assert await reader.read() == b""  # the peer's FIN came before
            assert await error_of(far_reader) is None

    run(scene())


def test_what_a_reader_holds_and_nobody_took_counts_as_unread(pair):
    async def scene():
        async with connected(pair) as (reader, writer, far_reader, far_writer):
            writer.write(b"x" * 3000)
            with pytest.raises(asyncio.LimitOverrunError):
                await far_reader.readuntil(b"\n", limit=100)
            requests = asked(far_writer)
            far_writer.close()
            (fields,) = [fields for kind, fields in requests if kind == RequestKind.CLOSE]
            assert fields["offset"] == CloseFlag.UNREAD
            assert isinstance(await error_of(reader), ConnectionResetError)

    run(scene())


def test_data_that_comes_after_close_resets(pair):
    async def scene():
        async with connected(pair) as (reader, writer, far_reader, far_writer):
            far_writer.close()
            assert await reader.read() == b""
            writer.write(b"too late")
            assert isinstance(await error_of(reader), ConnectionResetError)
            assert await error_of(far_reader) is None

    run(scene())


def test_linger_of_nothing_resets_and_another_goes_to_the_stack(pair):
    async def scene():
        async with connected(pair) as (reader, writer, _, far_writer):
            options = far_writer.get_extra_info("socket")
            for value in (5, b"", struct.pack("ii", 1, -1), struct.pack("ii", 1, 1 << 20)):
                with pytest.raises(OSError) as caught:
                    options.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
                assert caught.value.errno == errno.EINVAL
            options.setsockopt(*linger(1, 0))
            assert options.getsockopt(*linger(1, 0)[:2], 8) == struct.pack("ii", 1, 0)
            far_writer.close()
            with pytest.raises(ConnectionResetError):
                await reader.read()
        async with connected(pair) as (reader, writer, far_reader, _):
            requests = asked(writer)
            writer.get_extra_info("socket").setsockopt(*linger(1, 3))
            writer.close()
            ((kind, fields),) = requests
            assert kind == RequestKind.CLOSE and 2900 <= fields["length"] <= 3000
            assert await far_reader.read() == b""

    run(scene())


def test_an_option_that_the_stack_refuses_raises_at_the_next_drain(pair, monkeypatch):
    async def scene():
        async with connected(pair) as (_, writer, far_reader, _):
            options = writer.get_extra_info("socket")
            options.setsockopt(TCP, socket.TCP_KEEPCNT, 5)
            await writer.drain()
            # a library that checks less than the stack does, and one that is newer
            monkeypatch.setitem(
                socket_options._OPTIONS, (TCP, socket.TCP_KEEPCNT),
                ("TCP_KEEPCNT", Option.KEEPALIVE_COUNT, (1, 1000), 9),
            )  # fmt: skip
            monkeypatch.setitem(
                socket_options._OPTIONS, (TCP, socket.TCP_MAXSEG), ("TCP_MAXSEG", 99, (1, 1000), 9)
            )
            options.setsockopt(TCP, socket.TCP_KEEPCNT, 500)
            options.setsockopt(TCP, socket.TCP_MAXSEG, 536)
            assert options.getsockopt(TCP, socket.TCP_KEEPCNT) == 500
            with pytest.raises(OSError, match="refused TCP_KEEPCNT: its value is 500") as caught:
                await writer.drain()
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(OSError, match="does not have this option") as caught:
                await options.settled()
            assert caught.value.errno == errno.ENOPROTOOPT
            await writer.drain()
            assert options.getsockopt(TCP, socket.TCP_KEEPCNT) == 5
            writer.write(b"goes on\n")
            assert await far_reader.readline() == b"goes on\n"

    run(scene())


@pytest.mark.parametrize(
    ("address", "level", "hops", "traffic_class", "other"),
    [
        ("10.9.0.1", socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS, socket.IPPROTO_IPV6),
        ("fd00:9::1", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, socket.IPV6_TCLASS,
         socket.IPPROTO_IP),
    ],
)  # fmt: skip
def test_hops_and_traffic_class_are_options_of_their_family(
    pair, address, level, hops, traffic_class, other
):
    async def scene():
        async with connected(pair, address) as (_, writer, _, _):
            options = writer.get_extra_info("socket")
            assert options.family == (
                socket.AF_INET6 if other == socket.IPPROTO_IP else socket.AF_INET
            )
            assert options.type == socket.SOCK_STREAM
            assert options.getsockopt(level, hops) == 64
            options.setsockopt(level, hops, 3)
            options.setsockopt(level, traffic_class, 0xBB)
            await options.settled()
            assert options.getsockopt(level, hops) == 3
            assert options.getsockopt(level, traffic_class) == 0xB8  # ECN bits are the stack's
            options.setsockopt(level, hops, -1)
            assert options.getsockopt(level, hops) == 64
            with pytest.raises(OSError, match="other family"):
                options.setsockopt(other, hops, 3)
            with pytest.raises(OSError, match="1 to 255"):
                options.setsockopt(level, hops, 0)
            assert options.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    run(scene())


def test_a_peer_that_does_not_answer_is_a_problem_until_it_does(scene):
    """RFC 9293 section 3.8.3: R1 is told, the connection goes on."""
    pair = scene.pair()
    far_stack = scene.processes[1]

    async def silent():
        async with connected(pair) as (_, writer, far_reader, _):
            assert writer.get_extra_info("problem") is None
            far_stack.send_signal(signal.SIGSTOP)
            try:
                writer.write(b"hello\n")
                while writer.get_extra_info("problem") is None:
                    await writer._c.changed()
                assert isinstance(writer.get_extra_info("problem"), TimeoutError)
            finally:
                far_stack.send_signal(signal.SIGCONT)
            assert await far_reader.readline() == b"hello\n"
            while writer.get_extra_info("problem") is not None:
                await writer._c.changed()

    run(silent())
