"""Heads are parsed straight over buffers, bodies come as pieces, and buffers go back in time."""

import asyncio

import pytest
from connection_fakes import Reader

from hdstack.cli.http import HEAD_BYTES_MAX, BadMessage, Incoming, parse_request, parse_response


class Runtime:
    copied_bytes = 0


def read(parts, parse=parse_request, length="head"):
    """The head and the body of what `parts` carry, and how it was carried."""
    reader, runtime = Reader(*parts), Runtime()

    async def go():
        incoming = Incoming(reader, runtime)
        head = await incoming.head(parse)
        body = b""
        wanted = (head.length or 0) if length == "head" else length
        async for piece in incoming.body(wanted):
            body += piece
            piece.release()
            piece = None
        incoming.close()
        return head, body

    head, body = asyncio.run(go())
    return head, body, runtime.copied_bytes, [view.released for view in reader.views]


def test_request_in_one_buffer_is_read_without_a_copy():
    text = b"PUT /a%20b?x=1 HTTP/1.1\r\nHost: x\r\ncontent-length: 4\r\n\r\nabcd"
    head, body, copied, released = read([text])
    assert (head.method, head.path, head.length, body) == ("PUT", b"/a b", 4, b"abcd")
    assert copied == 0 and released == [1]


@pytest.mark.parametrize("cut", range(1, 50))
def test_head_cut_anywhere_is_joined_and_the_copy_is_counted(cut):
    text = b"PUT /file HTTP/1.1\r\nContent-Length: 6\r\nHost: x\r\n\r\n"
    head, body, copied, released = read([text[:cut], text[cut:] + b"abc", b"def"])
    assert (head.path, body) == (b"/file", b"abcdef")
    assert 0 < copied <= len(text) + 3
    assert released == [1, 1, 1]


def test_body_ends_where_content_length_says_and_the_next_request_follows():
    text = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\n\r\n"
    reader, runtime = Reader(text), Runtime()

    async def go():
        incoming = Incoming(reader, runtime)
        await incoming.head(parse_request)
        async for piece in incoming.body(3):
            assert bytes(piece) == b"abc"
            piece.release()
            piece = None
        second = await incoming.head(parse_request)
        assert second.path == b"/next"
        assert await incoming.head(parse_request) is None

    asyncio.run(go())
    assert reader.views[0].released == 1


def test_body_that_ends_early_is_an_error():
    with pytest.raises(ConnectionResetError, match="2 bytes early"):
        read([b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc"])


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET no-slash HTTP/1.1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /" + b"a" * HEAD_BYTES_MAX, 431),
        (b"GET / HTTP/1.1\r\nHost", 400),
    ],
)
def test_heads_that_cannot_be_taken_are_refused_with_their_status(text, status):
    with pytest.raises(BadMessage) as error:
        read([text])
    assert error.value.status == status


@pytest.mark.parametrize(
    ("line", "keep"),
    [
        (b"HTTP/1.1\r\n", True),
        (b"HTTP/1.1\r\nConnection: close\r\n", False),
        (b"HTTP/1.0\r\n", False),
        (b"HTTP/1.0\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_connection_is_kept_as_the_version_and_the_peer_say(line, keep):
    assert parse_request(b"GET / " + line + b"\r\n").keep_alive is keep


def test_response_without_length_has_a_body_up_to_the_end():
    head, body, _, _ = read([b"HTTP/1.0 200 OK\r\n\r\nab", b"cd"], parse_response, None)
    assert (head.status, head.length, body) == (200, None, b"abcd")
