"""The file server as such, over a reader and a writer that keep what passes."""

import asyncio
import hashlib
import os

import pytest
from connection_fakes import Reader, Runtime, Writer

from hdstack.cli.http import Incoming
from hdstack.cli.serve import CHUNK_BYTES, FileServer


@pytest.fixture
def ask(tmp_path):
    """Send bytes to a server of `tmp_path`/files; returns the writer with what it answered."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "folder").mkdir()
    (files / "small").write_bytes(b"hello")
    (files / "folder" / "large").write_bytes(os.urandom(3 * CHUNK_BYTES + 17))
    (tmp_path / "secret").write_bytes(b"secret")
    (files / "link").symlink_to(tmp_path / "secret")
    (files / "way").symlink_to(tmp_path)
    os.mkfifo(files / "pipe")
    root = os.open(files, os.O_PATH | os.O_DIRECTORY)

    def go(*parts):
        writer, reader, runtime = Writer(), Reader(*parts), Runtime()
        asyncio.run(FileServer(runtime, root).handle(reader, writer))
        assert all(view.released == 1 for view in reader.views)
        assert runtime.copied_bytes == 0
        writer.head, _, writer.body = writer.sent.partition(b"\r\n\r\n")
        return writer

    yield go
    os.close(root)


def test_get_answers_with_the_file(ask, tmp_path):
    large = (tmp_path / "files" / "folder" / "large").read_bytes()
    answer = ask(b"GET /folder/./large?query HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(large)}".encode() in answer.head
    assert answer.body == large and answer.ended


def test_head_answers_without_a_body(ask):
    answer = ask(b"HEAD /small HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 5" in answer.head and answer.body == b""


def test_several_requests_on_one_connection_are_answered_in_order(ask):
    answer = ask(
        b"GET /small HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\n", b"GET /small HTTP/1.0\r\n\r\n"
    )
    assert [part[:3] for part in answer.sent.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]
    assert b"Connection: close" in answer.sent.split(b"HTTP/1.1 ")[3]


@pytest.mark.parametrize(
    "path",
    ["/none", "/", "/folder", "/../secret", "/folder/../../secret", "/%2e%2e/secret", "/link",
     "/way/secret", "/pipe", "/small/x", "/a%00b"],
)  # fmt: skip
def test_what_is_no_file_below_the_root_is_not_found(ask, path):
    answer = ask(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    assert answer.head.startswith(b"HTTP/1.1 404 ") and b"secret" not in answer.body


@pytest.mark.parametrize("verb", ["PUT", "POST"])
def test_upload_is_answered_with_its_sha256(ask, verb):
    data = os.urandom(5000)
    head = f"{verb} /x HTTP/1.1\r\nContent-Length: 5000\r\n\r\n".encode()
    answer = ask(head + data[:1000], data[1000:2448], data[2448:])
    assert answer.body == hashlib.sha256(data).hexdigest().encode() + b"\n"


def test_a_client_that_expects_it_is_told_to_continue_first(ask):
    answer = ask(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"a")
    assert answer.sent.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"DELETE / HTTP/1.1\r\n\r\n", b"405"),
        (b"PUT / HTTP/1.1\r\n\r\n", b"411"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"\r\n\r\n", b"400"),
    ],
)
def test_what_it_does_not_take_is_refused_and_the_connection_ends(ask, text, status):
    answer = ask(text)
    assert answer.head.split()[1] == status and b"Connection: close" in answer.head


def test_an_upload_that_ends_early_resets_the_connection(ask):
    answer = ask(b"PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
    assert answer.aborted and not answer.sent


def test_a_file_that_becomes_shorter_resets_the_connection(ask, tmp_path, monkeypatch):
    path = tmp_path / "files" / "folder" / "large"
    real = os.preadv

    def shortened(fd, buffers, at):
        os.truncate(path, 0)
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", shortened)
    assert ask(b"GET /folder/large HTTP/1.1\r\n\r\n").aborted


def test_unread_pieces_are_given_back_when_a_connection_ends():
    reader = Reader(b"PUT / HTTP/1.1\r\n\r\nrest", b"more")

    async def go():
        incoming = Incoming(reader, Runtime())
        incoming._pieces.extend([view, view.data] for view in await reader.read_views())
        incoming.close()

    asyncio.run(go())
    assert [view.released for view in reader.views] == [1, 0]
