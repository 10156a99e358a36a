"""The relay as such: fakes on the card's side, real sockets on the kernel's."""

import asyncio
import socket
import struct

import pytest
from connection_fakes import Reader, Runtime, Writer

from hdstack.cli.errors import CommandError
from hdstack.cli.forward import Forwarder, addresses_of, parse_target


class Silence:
    """A reader of a peer that says nothing and does not end."""

    async def read_views(self):
        await asyncio.Event().wait()


def relayed(serve, reader):
    """What became of a connection of the card with a kernel server, which is `serve`: (forwarder,
    writer towards the peer)."""

    async def life():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        forwarder, writer = Forwarder(Runtime(), [server.sockets[0].getsockname()]), Writer()
        async with server:
            await asyncio.wait_for(forwarder.from_card(reader, writer), 20)
        return forwarder, writer

    return asyncio.run(life())


def test_both_directions_pass_whole_and_end_each_by_itself():
    got = bytearray()

    async def serve(reader, writer):
        got.extend(await reader.read())  # up to the end of this direction
        writer.write(b"answer" * 100_000)
        writer.close()

    reader = Reader(b"first", b"second" * 1000)
    forwarder, writer = relayed(serve, reader)
    assert got == b"first" + b"second" * 1000
    assert writer.sent == b"answer" * 100_000 and writer.ended and not writer.aborted
    assert all(view.released == 1 for view in reader.views)
    assert forwarder.figures == {
        "connections": 1, "refused": 0, "reset": 0, "to_kernel_bytes": 6005,
        "to_card_bytes": 600_000,
    }  # fmt: skip


def test_a_reset_of_the_server_resets_the_peer():
    async def serve(_, writer):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    forwarder, writer = relayed(serve, Silence())
    assert writer.aborted and forwarder.figures["reset"] == 1


def test_an_idle_connection_holds_no_buffer_of_the_pool():
    async def life():
        silent = Silence()
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        forwarder = Forwarder(Runtime(), [server.sockets[0].getsockname()])
        async with server:
            task = asyncio.create_task(forwarder.from_card(silent, Writer()))
            while not forwarder.figures["connections"]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            held = forwarder.runtime.buffers
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return held

    assert asyncio.run(asyncio.wait_for(life(), 20)) == 0


def test_connections_begin_in_the_order_in_which_they_were_accepted():
    count = 100

    async def life(listener):
        forwarder = Forwarder(Runtime(), addresses_of(listener.getsockname()))
        async with asyncio.TaskGroup() as tasks:
            for k in range(count):
                tasks.create_task(forwarder.from_card(Reader(b"%d" % k), Writer()))
            return await asyncio.to_thread(lambda: [first_words(listener) for _ in range(count)])

    def first_words(listener):
        listener.settimeout(20)
        near, _ = listener.accept()
        with near, near.makefile("rb") as file:
            near.settimeout(20)
            return int(file.read())

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(count)
        assert asyncio.run(asyncio.wait_for(life(listener), 60)) == list(range(count))


def test_the_next_address_of_a_name_is_tried_where_nobody_serves_the_first():
    async def serve(reader, writer):
        writer.write(b"here")
        writer.close()

    async def life():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port, writer = server.sockets[0].getsockname()[1], Writer()
        forwarder = Forwarder(Runtime(), [("127.0.0.2", port), ("127.0.0.1", port)])
        async with server:
            await asyncio.wait_for(forwarder.from_card(Reader(), writer), 20)
        return writer.sent

    assert asyncio.run(life()) == b"here"


def test_where_nobody_serves_the_peer_is_reset():
    async def life():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            forwarder, writer = Forwarder(Runtime(), [unused.getsockname()]), Writer()
            await asyncio.wait_for(forwarder.from_card(Reader(b"x"), writer), 20)
        return forwarder, writer

    forwarder, writer = asyncio.run(life())
    assert writer.aborted and forwarder.figures["refused"] == 1


@pytest.mark.parametrize(
    ("text", "where"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("localhost:1", ("localhost", 1)),
     ("[fd00::1]:65535", ("fd00::1", 65535))],
)  # fmt: skip
def test_targets_are_read(text, where):
    assert parse_target(text) == where


@pytest.mark.parametrize("text", ["80", ":80", "host:", "host:0", "host:65536", "host:http"])
def test_what_is_no_target_is_refused_with_what_is(text):
    with pytest.raises(CommandError, match=r"no target; give HOST:PORT, as in 127\.0\.0\.1:5201"):
        parse_target(text)


def test_a_name_that_nobody_knows_is_told(monkeypatch):
    def nobody(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)  # real ones may take long to say so
    with pytest.raises(CommandError, match="nowhere cannot be looked up: Name or service not know"):
        addresses_of(("nowhere", 80))


def test_what_can_be_no_name_is_told():
    with pytest.raises(CommandError, match=r"cannot be looked up: .*too long"):
        addresses_of(("x" * 64 + ".org", 80))


def test_an_address_is_its_own():
    assert addresses_of(("127.0.0.1", 80)) == [("127.0.0.1", 80)]
    assert addresses_of(("::1", 80)) == [("::1", 80)]
