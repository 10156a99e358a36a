"""UDP between two applications, each over its own stack and card: sockets without a copy, and
asyncio's transport and protocol over them."""

import asyncio
import errno
import hashlib
import itertools
import os
import random
from contextlib import asynccontextmanager

import pytest

import hdstack

_ports = itertools.count(2000)
LEFT, RIGHT = "10.9.0.1", "10.9.0.2"
LEFT6, RIGHT6 = "fd00:9::1", "fd00:9::2"


def run(coroutine):
    """Run a test's coroutine with a bound."""
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@asynccontextmanager
async def runtimes(pair, **options):
    options = {"pool_bytes": 1 << 20} | options
    async with await hdstack.connect(pair[0], **options) as left:
        async with await hdstack.connect(pair[1], **options) as right:
            yield left, right


@asynccontextmanager
async def sockets(pair, host=LEFT, **options):
    """(left, right): `right` has a fixed peer, `left` is bound to all addresses."""
    async with runtimes(pair, **options) as (one, other):
        port = next(_ports)
        async with await one.bind_datagram(("", port)) as left:
            async with await other.bind_datagram(remote_addr=(host, port)) as right:
                yield left, right


def data(socket, views):
    """The bytes of a datagram, read where they are; the views are released."""
    out = b"".join(bytes(view) for view in views)
    for view in views:
        view.release()
    return out


@pytest.mark.parametrize("host", [LEFT, LEFT6])
def test_buffers_go_out_and_views_come_in_and_no_byte_is_copied(pair, host):
    async def scene():
        async with sockets(pair, host) as (left, right):
            most = 1472 if host == LEFT else 1452
            for length in [0, 1, 2, 3, 500, most - 1, most]:
                sent = os.urandom(length)
                buffer = await right.runtime.buffer(max(length, 1))
                buffer.data[:length] = sent
                await right.send_buffer(buffer, length)
                views, source = await left.recv_views()
                assert data(left, views) == sent
                assert source == (RIGHT if host == LEFT else RIGHT6, right.address[1])
                answer = await left.runtime.buffer(10)
                answer.data[:] = b"0123456789"
                await left.send_buffer(answer, 10, source)
                views, source = await right.recv_views()
                assert data(right, views) == b"0123456789" and source == right.peer
            assert left.runtime.copied_bytes == right.runtime.copied_bytes == 0

    run(scene())


def test_copies_are_counted(pair):
    async def scene():
        async with sockets(pair) as (left, right):
            await right.sendto(b"x" * 100)
            got, _ = await left.recv()
            assert got == b"x" * 100
            assert left.runtime.copied_bytes == right.runtime.copied_bytes == 100

    run(scene())


def test_both_sides_go_on_with_pools_smaller_than_what_passes(pair):
    """Buffers come back."""

    async def scene():
        async with sockets(pair, pool_bytes=1 << 17) as (left, right):
            total, back = hashlib.sha256(), hashlib.sha256()
            for k in range(300):
                sent = k.to_bytes(2, "big") * (k % 500)
                await right.sendto(sent)
                got, source = await left.recv()
                await left.sendto(got, source)
                total.update(sent)
                back.update((await right.recv())[0])
            assert total.digest() == back.digest()

    run(scene())


def test_what_the_program_does_not_take_is_bounded_and_the_socket_goes_on(pair):
    async def scene():
        async with sockets(pair) as (left, right):
            for k in range(300):
                await right.sendto(k.to_bytes(2, "big"))
            mark = await right.runtime.bind_datagram(remote_addr=right.peer)
            held = [await left.recv_views() for _ in range(96)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(left.recv_views(), 0.5)
            numbers = [int.from_bytes(bytes(views[0]), "big") for views, _ in held]
            assert numbers == list(range(96))
            for views, _ in held:
                views[0].release()
            deadline = asyncio.get_running_loop().time() + 20
            while True:  # the word that there is room travels
                await mark.sendto(b"room")
                try:
                    views, _ = await asyncio.wait_for(left.recv_views(), 0.5)
                    break
                except TimeoutError:
                    assert asyncio.get_running_loop().time() < deadline
            assert data(left, views) == b"room"

    run(scene())


def test_a_sender_is_held_back_and_nothing_that_it_may_send_is_refused(pair):
    async def scene():
        async with sockets(pair) as (_, right):
            most = 0
            for _ in range(500):
                await right.sendto(b"y" * 1000)
                most = max(most, len(right._out))
            assert 0 < most <= 64
            right.close()
            await asyncio.wait_for(right.wait_closed(), 20)
            assert right.runtime.datagrams == 0

    run(scene())


@pytest.mark.parametrize("element_bytes", [256, 512])
def test_datagrams_larger_than_a_buffer_come_as_several_views(pair, element_bytes):
    async def scene():
        async with sockets(pair, element_bytes=element_bytes) as (left, right):
            for length in (element_bytes, element_bytes + 1, 1472):
                sent = os.urandom(length)
                await right.sendto(sent)
                views, _ = await left.recv_views()
                assert len(views) == -(-length // element_bytes)
                assert data(left, views) == sent
            assert left.runtime.copied_bytes == 0

    run(scene())


@pytest.mark.parametrize("host", [LEFT, LEFT6])
def test_larger_than_the_path_is_refused_where_the_program_wants_no_fragments(pair, host):
    async def scene():
        async with runtimes(pair) as (_, right):
            one = await right.bind_datagram(remote_addr=(host, 9), fragment=False)
            most = 1472 if host == LEFT else 1452
            with pytest.raises(OSError, match=f"{most + 1} bytes") as error:
                await one.sendto(bytes(most + 1))
            assert error.value.errno == errno.EMSGSIZE
            other = await right.bind_datagram(remote_addr=(host, 9))
            with pytest.raises(OSError) as error:
                await other.sendto(bytes(65536))
            assert error.value.errno == errno.EMSGSIZE

    run(scene())


def test_a_port_that_nobody_has_is_connection_refused_to_a_fixed_peer(pair):
    async def scene():
        async with runtimes(pair) as (_, right):
            for host in (LEFT, LEFT6):
                one = await right.bind_datagram(remote_addr=(host, 9))
                await one.sendto(b"anybody?")
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.wait_for(one.recv_views(), 20)
                one.close()

    run(scene())


def test_a_host_that_is_not_there_is_unreachable(pair):
    async def scene():
        async with runtimes(pair) as (_, right):
            one = await right.bind_datagram()
            await one.sendto(b"anybody?", ("10.9.0.77", 9))
            with pytest.raises(OSError) as error:
                await asyncio.wait_for(one.recv_views(), 20)
            assert error.value.errno == errno.EHOSTUNREACH

    run(scene())


def test_ports_that_are_taken_or_not_ours_are_refused_with_the_systems_numbers(pair):
    async def scene():
        async with runtimes(pair) as (left, _):
            port = next(_ports)
            one = await left.bind_datagram((LEFT, port))
            assert one.address == (LEFT, port)
            for local, number in (
                ((LEFT, port), errno.EADDRINUSE),
                (("", port), errno.EADDRINUSE),
                (("10.9.0.55", 0), errno.EADDRNOTAVAIL),
            ):
                with pytest.raises(OSError) as error:
                    await left.bind_datagram(local)
                assert error.value.errno == number
            with pytest.raises(OSError) as error:
                await left.bind_datagram(remote_addr=("203.0.113.5", 9))
            assert error.value.errno == errno.EHOSTUNREACH
            one.close()
            await one.wait_closed()
            again = await left.bind_datagram((LEFT, port))
            assert again.address == (LEFT, port)

    run(scene())


def test_wrong_calls_are_told_what_would_be_right(pair):
    async def scene():
        async with sockets(pair) as (left, right):
            with pytest.raises(OSError, match="address is needed"):
                await left.sendto(b"where?")
            with pytest.raises(ValueError, match="talks to"):
                await right.sendto(b"there", ("10.9.0.9", 1))
            with pytest.raises(ValueError, match="1 to 65535"):
                await left.sendto(b"there", (RIGHT, 0))
            with pytest.raises(ValueError, match="0 to 65535"):
                await left.runtime.bind_datagram(("", 65536))
            with pytest.raises(OSError, match="is no address"):
                await left.runtime.bind_datagram(remote_addr=("example.invalid", 1))
            buffer = await right.runtime.buffer(10)
            with pytest.raises(ValueError, match="0 to 10"):
                await right.send_buffer(buffer, 11)
            await right.send_buffer(buffer)
            with pytest.raises(ValueError, match="was sent"):
                await right.send_buffer(buffer)
            left.close()
            with pytest.raises(OSError, match="is closed"):
                await left.recv_views()

    run(scene())


class Recorder(asyncio.DatagramProtocol):
    def __init__(self, answer=False):
        self.answer, self.got, self.errors, self.log = answer, asyncio.Queue(), asyncio.Queue(), []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.log.append("made")

    def datagram_received(self, data, addr):
        self.got.put_nowait((data, addr))
        if self.answer:
            self.transport.sendto(data, addr)

    def error_received(self, exc):
        self.errors.put_nowait(exc)

    def pause_writing(self):
        self.log.append("pause")

    def resume_writing(self):
        self.log.append("resume")

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def test_an_asyncio_program_runs_unchanged(pair):
    async def scene():
        async with runtimes(pair) as (one, other):
            port = next(_ports)
            server, echo = await one.create_datagram_endpoint(
                lambda: Recorder(answer=True), local_addr=("0.0.0.0", port)
            )
            client, protocol = await other.create_datagram_endpoint(
                Recorder, remote_addr=(LEFT, port)
            )
            assert client.get_extra_info("peername") == (LEFT, port)
            assert client.get_extra_info("sockname")[0] == RIGHT
            random.seed(1)
            for _ in range(50):
                sent = random.randbytes(random.choice([0, 1, 100, 1472]))
                client.sendto(sent)
                assert await protocol.got.get() == (sent, (LEFT, port))
            client.sendto(bytes(70000))
            assert (await protocol.errors.get()).errno == errno.EMSGSIZE
            with pytest.raises(ValueError):
                client.sendto(b"", (RIGHT, 1))
            client.close()
            assert client.is_closing() and await protocol.lost is None
            assert echo.errors.empty() and server.get_write_buffer_size() == 0
            server.abort()
            assert await echo.lost is None
            assert echo.log == ["made"]

    run(scene())


def test_the_transport_holds_back_pauses_and_sends_all_before_it_closes(pair):
    async def scene():
        async with runtimes(pair) as (one, other):
            port = next(_ports)
            counted = []
            bound = await one.bind_datagram(("", port))

            async def take():
                while True:
                    views, _ = await bound.recv_views()
                    counted.append(int.from_bytes(data(bound, views)[:2], "big"))

            taking = asyncio.ensure_future(take())
            client, protocol = await other.create_datagram_endpoint(
                Recorder, remote_addr=(LEFT, port)
            )
            for k in range(200):
                client.sendto(k.to_bytes(2, "big") + bytes(1000))
            assert client.get_write_buffer_size() > 64 * 1024 and "pause" in protocol.log
            client.close()
            assert await protocol.lost is None
            assert protocol.log == ["made", "pause", "resume"]
            deadline = asyncio.get_running_loop().time() + 10
            while not counted or counted[-1] < 199:
                assert asyncio.get_running_loop().time() < deadline, counted[-5:]
                await asyncio.sleep(0.01)
            assert counted == sorted(counted)  # in order, whatever was dropped on the way
            taking.cancel()
            await asyncio.wait([taking])

    run(scene())


def test_errors_of_icmp_reach_error_received(pair):
    async def scene():
        async with runtimes(pair) as (_, other):
            client, protocol = await other.create_datagram_endpoint(Recorder, remote_addr=(LEFT, 9))
            client.sendto(b"anybody?")
            assert isinstance(await protocol.errors.get(), ConnectionRefusedError)
            client.sendto(b"still works")
            assert isinstance(await protocol.errors.get(), ConnectionRefusedError)

    run(scene())


def test_tcp_and_udp_of_one_application_share_its_pool(pair):
    async def scene():
        async with sockets(pair, pool_bytes=1 << 18) as (left, right):

            async def echo(reader, writer):
                while got := await reader.read(4096):
                    writer.write(got)
                    await writer.drain()
                writer.close()

            port = next(_ports)
            await left.runtime.start_server(echo, port)
            reader, writer = await right.runtime.open_connection(LEFT, port)
            stream = os.urandom(300_000)

            async def flood():
                for k in range(1000):
                    await right.sendto(k.to_bytes(2, "big") * 200)
                    if k % 10 == 0:
                        await asyncio.sleep(0)

            async def drain():
                while True:
                    views, _ = await left.recv_views()
                    data(left, views)

            draining = asyncio.ensure_future(drain())
            flooding = asyncio.ensure_future(flood())
            writer.write(stream)
            writer.write_eof()
            assert await reader.read() == stream
            await flooding
            draining.cancel()
            await asyncio.wait([draining])

    run(scene())


def test_what_a_protocol_raises_is_told_and_costs_no_other_datagram(pair):
    class Clumsy(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"trip":
                raise RuntimeError("stumbled")

    async def scene():
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with runtimes(pair) as (one, other):
            port = next(_ports)
            _, clumsy = await one.create_datagram_endpoint(Clumsy, local_addr=("", port))
            sender = await other.bind_datagram(remote_addr=(LEFT, port))
            for data in (b"trip", b"trip", b"last"):
                await sender.sendto(data)
            assert [(await clumsy.got.get())[0] for _ in range(3)] == [b"trip", b"trip", b"last"]
            assert [str(context["exception"]) for context in told] == ["stumbled"] * 2

    run(scene())
