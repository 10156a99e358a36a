"""Streams between two applications, each over its own stack and card: asyncio's semantics, and the
zero-copy calls beneath them."""

import asyncio
import errno
import hashlib
import itertools
import os
import socket
from contextlib import asynccontextmanager

import pytest

import hdstack

_ports = itertools.count(1000)


def run(coroutine):
    """Run a test's coroutine with a bound."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@asynccontextmanager
async def connected(pair, handler, address="10.9.0.1", **options):
    """(server runtime, client runtime, reader, writer) of a connection served by `handler`."""
    a, b = pair
    options = {"pool_bytes": 1 << 20} | options
    async with await hdstack.connect(a, **options) as left:
        async with await hdstack.connect(b, **options) as right:
            port = next(_ports)
            await left.start_server(handler, port)
            reader, writer = await right.open_connection(address, port)
            yield left, right, reader, writer


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_lines_and_exact_reads_come_back_as_they_were_written(pair):
    async def scene():
        async with connected(pair, echo) as (_, _, reader, writer):
            writer.writelines([b"first\n", b"second\n", b"12345678", b"tail"])
            assert await reader.readline() == b"first\n"
            assert await reader.readuntil(b"nd\n") == b"second\n"
            assert await reader.readexactly(8) == b"12345678"
            writer.write_eof()
            assert await reader.read() == b"tail"
            assert await reader.read(10) == b"" and reader.at_eof()

    run(scene())


def test_streams_over_ipv6_know_their_ends(pair):
    async def scene():
        peers = []

        async def told(reader, writer):
            peers.append(writer.get_extra_info("peername")[0])
            await echo(reader, writer)

        async with connected(pair, told, "fd00:9::1") as (_, _, reader, writer):
            data = os.urandom(300_000)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            assert peers == ["fd00:9::2"]
            assert writer.get_extra_info("peername")[0] == "fd00:9::1"

    run(scene())


def test_options_are_set_and_the_senseless_ones_refused_with_a_reason(pair):
    async def scene():
        async with connected(pair, echo) as (_, _, reader, writer):
            options = writer.get_extra_info("socket")
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            options.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            options.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
            options.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            assert options.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            with pytest.raises(OSError, match="follows the posted buffers") as caught:
                options.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            assert caught.value.errno == errno.ENOPROTOOPT
            with pytest.raises(OSError, match="1 to 127") as caught:
                options.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 500)
            assert caught.value.errno == errno.EINVAL
            writer.write(b"still works\n")
            assert await reader.readline() == b"still works\n"

    run(scene())


def test_urgent_data_is_told_and_its_end_is_known(pair):
    """RFC 9293 section 3.8.5, MUST-32 and MUST-33."""

    async def interrupted(reader, writer):
        assert await reader.wait_urgent() == 60_003
        seen = b""
        while reader.urgent_bytes:
            assert reader.urgent_bytes == 60_003 - len(seen)
            seen += await reader.read(min(reader.urgent_bytes, 5000))
        assert seen == b"x" * 60_000 + b"cut"
        assert await reader.readexactly(4) == b"tail"
        writer.write_urgent(b"!")
        writer.close()

    async def scene():
        async with connected(pair, interrupted) as (_, _, reader, writer):
            assert reader.urgent_bytes == 0
            writer.write(b"x" * 60_000)
            writer.write_urgent(b"cut")
            writer.write(b"tail")
            assert await reader.wait_urgent() == 1
            assert await reader.read() == b"!"
            assert reader.urgent_bytes == 0 == await reader.wait_urgent()

    run(scene())


def test_an_urgent_mark_ahead_of_a_full_pool_is_the_only_one(pair):
    """What waits for room in the pool has no mark of its own."""

    async def interrupted(reader, writer):
        seen = 0
        await reader.wait_urgent()
        while reader.urgent_bytes:  # the pointer moves on with what comes
            seen += len(await reader.read(min(reader.urgent_bytes, 5000)))
        writer.write(b"%d %d" % (seen, len(await reader.read())))
        writer.close()

    async def scene():
        async with connected(pair, interrupted, pool_bytes=1 << 17) as (_, _, reader, writer):
            writer.write(b"x" * 200_000)
            writer.write_urgent(b"cut")
            writer.write(b"tail" * 1000)
            writer.write_eof()
            assert await reader.read() == b"200003 4000"

    run(scene())


def test_who_waits_for_urgent_data_hears_of_it_though_another_task_reads(pair):
    heard = []

    async def telnet(reader, writer):
        async def listen():
            while not reader.at_eof():
                heard.append(await reader.wait_urgent())

        listening = asyncio.ensure_future(listen())
        while data := await reader.read(1000):
            writer.write(data)
        await listening
        writer.close()

    async def scene():
        async with connected(pair, telnet) as (_, _, reader, writer):
            for k in range(5):
                writer.write_urgent(b"!")
                assert await reader.readexactly(1) == b"!"
                assert len(heard) == k + 1
            writer.write_eof()
            assert await reader.read() == b""
            assert len(heard) in (5, 6) and set(heard) <= {0, 1}  # once more at the end

    run(scene())


def test_urgent_data_ends_where_the_stream_does(pair):
    """A mark beyond the last byte must not keep its reader."""

    async def scene():
        async with connected(pair, echo) as (_, _, reader, writer):
            connection = reader._c
            connection.on_urgent(5000)
            assert await reader.wait_urgent() == reader.urgent_bytes == 5000
            writer.write(b"abc")
            writer.write_eof()
            seen = b""
            while reader.urgent_bytes:
                seen += await reader.read(reader.urgent_bytes)
            assert seen == b"abc" and await reader.wait_urgent() == 0

    run(scene())


def test_urgent_data_stays_inline(pair):
    async def scene():
        async with connected(pair, echo) as (_, _, _, writer):
            options = writer.get_extra_info("socket")
            options.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            assert options.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE) == 1
            with pytest.raises(OSError, match="only 1 is allowed") as caught:
                options.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
            assert caught.value.errno == errno.EINVAL

    run(scene())


def test_a_stream_that_ends_early_tells_what_there_was(pair):
    async def short(reader, writer):
        writer.write(b"abc")
        writer.close()

    async def scene():
        async with connected(pair, short) as (_, _, reader, _):
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(10)
            assert caught.value.partial == b"abc"

    run(scene())


def test_a_separator_across_two_segments_is_found_and_the_rest_stays_for_views(pair):
    async def split(reader, writer):
        for piece in (b"head\r", b"\n\r", b"\nbody"):
            writer.write(piece)
            await asyncio.sleep(0.05)
        writer.close()

    async def scene():
        async with connected(pair, split) as (_, right, reader, _):
            assert await reader.readuntil(b"\r\n\r\n") == b"head\r\n\r\n"
            assert right.copied_bytes == 8
            (view,) = await reader.read_views()
            with view:
                assert bytes(view.data) == b"body"
            assert await reader.read_views() == []
            assert right.copied_bytes == 8

    run(scene())


def test_a_separator_that_never_comes_is_refused_at_the_limit(pair):
    async def flood(reader, writer):
        writer.write(bytes(5000))
        writer.close()

    async def scene():
        async with connected(pair, flood) as (_, _, reader, _):
            with pytest.raises(asyncio.LimitOverrunError):
                await reader.readuntil(b"\n", limit=3000)

    run(scene())


def test_a_megabyte_goes_through_without_a_copy_and_arrives_whole(pair):
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def take(reader, writer):
        while views := await reader.read_views():
            for view in views:
                with view:
                    received.update(view.data)
        writer.write(b"done")
        writer.close()

    async def scene():
        async with connected(pair, take) as (left, right, reader, writer):
            for _ in range(16):
                buffer = await right.buffer(65536)
                buffer.data[:] = os.urandom(65536)
                sent.update(buffer.data)
                await writer.send_buffer(buffer)
            writer.write_eof()
            assert await reader.read() == b"done"
            assert received.digest() == sent.digest()
            assert (left.copied_bytes, right.copied_bytes) == (4, 4)

    run(scene())


def test_plain_writes_are_copied_once_and_counted(pair):
    async def scene():
        async with connected(pair, echo) as (left, right, reader, writer):
            data = os.urandom(200_000)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data
            assert right.copied_bytes == 2 * len(data)
            assert left.copied_bytes == 2 * len(data)

    run(scene())


def test_more_than_the_pool_holds_can_be_written_at_once(pair):
    async def scene():
        async with connected(pair, echo, pool_bytes=128 * 1024) as (_, right, reader, writer):
            data = os.urandom(3 * right.send_bytes_max)
            writer.write(data)
            writer.write_eof()
            assert await reader.read() == data

    run(scene())


def test_every_buffer_is_posted_again_once_its_views_are_released(pair):
    async def scene():
        async with connected(pair, echo, pool_bytes=128 * 1024) as (_, right, reader, writer):
            for turn in range(20):  # far more than the pool has elements
                writer.write(bytes([turn]) * 4000)
                assert await reader.readexactly(4000) == bytes([turn]) * 4000
            assert not any(right.pool._users)

    run(scene())


def test_a_view_keeps_its_bytes_while_others_come_and_go(pair):
    async def scene():
        async with connected(pair, echo, pool_bytes=128 * 1024) as (_, _, reader, writer):
            writer.write(b"keep me")
            (kept,) = await reader.read_views()
            for turn in range(40):
                writer.write(bytes([turn]) * 2000)
                await reader.readexactly(2000)
            assert bytes(kept.data) == b"keep me"
            with pytest.raises(TypeError):
                kept.data[0] = 0
            kept.release()
            kept.release()
            with pytest.raises(ValueError, match="released"):
                bytes(kept.data)

    run(scene())


def test_a_view_that_was_cut_gives_its_buffer_back_after_both_parts(pair):
    async def scene():
        async with connected(pair, echo) as (_, right, reader, writer):
            writer.write(b"abcdef")
            (first,) = await reader.read_views(4)
            (second,) = await reader.read_views(4)
            assert (bytes(first), bytes(second)) == (b"abcd", b"ef")
            first.release()
            assert sum(right.pool._users) == 1
            second.release()
            assert sum(right.pool._users) == 0

    run(scene())


def test_send_buffers_come_back_to_the_pool(pair):
    async def scene():
        async with connected(pair, echo) as (_, right, reader, writer):
            whole = list(right.pool._free)
            unused = await right.buffer(5000)
            sent = await right.buffer(100)
            sent.data[:] = bytes(100)
            await writer.send_buffer(sent, 60)
            await reader.readexactly(60)
            with pytest.raises(ValueError, match="was sent"):
                await writer.send_buffer(sent)
            unused.release()
            writer.close()
            await writer.wait_closed()
            assert right.pool._free == whole

    run(scene())


def test_half_close_lets_the_answer_come_after_the_question_ended(pair):
    async def count(reader, writer):
        total = len(await reader.read())
        writer.write(f"{total}".encode())
        writer.close()

    async def scene():
        async with connected(pair, count) as (_, _, reader, writer):
            writer.write(bytes(12345))
            writer.write_eof()
            with pytest.raises(ConnectionError):
                writer.write(b"late")
            assert await reader.read() == b"12345"

    run(scene())


def test_an_abort_is_a_reset_for_the_peer(pair):
    async def abort(reader, writer):
        await reader.readline()
        writer.abort()

    async def scene():
        async with connected(pair, abort) as (_, _, reader, writer):
            writer.write(b"go\n")
            with pytest.raises(ConnectionResetError, match=r"10\.9\.0\.1"):
                await reader.read()

    run(scene())


def test_a_handler_that_fails_resets_its_connection_alone(pair):
    async def fail(reader, writer):
        if await reader.readline() == b"fail\n":
            raise RuntimeError("on purpose")
        writer.write(b"fine")
        writer.close()

    async def scene():
        a, b = pair
        reports = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: reports.append(told))
        async with await hdstack.connect(a) as left, await hdstack.connect(b) as right:
            port = next(_ports)
            await left.start_server(fail, port)
            bad = await right.open_connection("10.9.0.1", port)
            good = await right.open_connection("10.9.0.1", port)
            bad[1].write(b"fail\n")
            with pytest.raises(ConnectionResetError):
                await bad[0].read()
            good[1].write(b"work\n")
            assert await good[0].read() == b"fine"
            assert "on purpose" in str(reports[0]["exception"])

    run(scene())


def test_a_port_where_nobody_listens_refuses(pair):
    async def scene():
        async with await hdstack.connect(pair[1]) as right:
            with pytest.raises(ConnectionRefusedError):
                await right.open_connection("10.9.0.1", next(_ports))

    run(scene())


def test_a_neighbour_that_does_not_answer_is_given_up(pair):
    async def scene():
        async with await hdstack.connect(pair[1]) as right:
            with pytest.raises(OSError):
                await right.open_connection("10.9.0.77", 80, timeout=1.0)

    run(scene())


def test_a_port_in_use_is_refused_and_free_again_after_close(pair):
    async def scene():
        port = next(_ports)
        async with await hdstack.connect(pair[0]) as one, await hdstack.connect(pair[0]) as two:
            server = await one.start_server(echo, port)
            with pytest.raises(OSError) as caught:
                await two.start_server(echo, port)
            assert caught.value.errno == errno.EADDRINUSE
            server.close()
            await server.wait_closed()
            assert (await two.start_server(echo, port)).is_serving()

    run(scene())


def test_ports_that_belong_to_another_applications_range_cannot_be_listened_on(pair):
    async def scene():
        async with await hdstack.connect(pair[0]) as one:
            other = 65536 - 1024 if one.queue != 15 else 49152
            with pytest.raises(OSError):
                await one.start_server(echo, other)

    run(scene())


def test_many_connections_at_once_keep_their_bytes_apart(pair):
    async def scene():
        a, b = pair
        async with await hdstack.connect(a) as left, await hdstack.connect(b) as right:
            port = next(_ports)
            await left.start_server(echo, port)

            async def one(number):
                reader, writer = await right.open_connection("10.9.0.1", port)
                data = bytes([number]) * (1000 + number)
                writer.write(data)
                writer.write_eof()
                assert await reader.read() == data
                writer.close()
                await writer.wait_closed()

            await asyncio.gather(*(one(number) for number in range(20)))

    run(scene())


def test_wrong_arguments_are_refused_with_what_is_allowed(pair):
    async def scene():
        with pytest.raises(hdstack.HdstackError, match="power of two"):
            await hdstack.connect(pair[0], element_bytes=3000)
        with pytest.raises(hdstack.HdstackError, match=r"is it running"):
            await hdstack.connect("/nowhere")
        async with await hdstack.connect(pair[0]) as runtime:
            with pytest.raises(ValueError, match="1 to 65535"):
                await runtime.start_server(echo, 0)
            with pytest.raises(OSError, match="no address such as"):
                await runtime.open_connection("nowhere", 80)
            with pytest.raises(ValueError, match="bytes are possible"):
                await runtime.buffer(1 << 30)

    run(scene())
