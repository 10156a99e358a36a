"""HTTP/1.1 heads, read by `re` straight over views of the pool, and a body as a row of pieces.

Used by `hdsnic serve` and `hdsnic fetch`. Only what these need: bodies with Content-Length, or up
to the end of the connection. No payload is copied, but for a head that lies across two buffers:
that one is joined, and the runtime's `copied_bytes` counts it.
"""

import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

__all__ = ["HEAD_BYTES_MAX", "BadMessage", "Head", "Incoming", "parse_request", "parse_response"]

HEAD_BYTES_MAX = 16384
"""Longest head that is taken; longer ones are refused."""

_END = re.compile(rb"\r\n\r\n")
_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])\r\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n]*)?\r\n")
_LENGTH = re.compile(rb"\r\n(?i:content-length):[ \t]*(\d{1,18})[ \t]*(?=\r\n)")
_ANY_LENGTH = re.compile(rb"\r\n(?i:content-length):")
_TRANSFER = re.compile(rb"\r\n(?i:transfer-encoding):")
_EXPECT = re.compile(rb"\r\n(?i:expect):[ \t]*(?i:100-continue)[ \t]*(?=\r\n)")
_CONNECTION = re.compile(rb"\r\n(?i:connection):[ \t]*([^\r\n]*)")


class BadMessage(Exception):
    """The other side's head cannot be taken; `status` is the HTTP status that answers it."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Head:
    """What a head said. `method` and `path` (decoded, without query) of a request, `status` of a
    response; `length`: of the body, None where the head does not tell."""

    method: str = ""
    path: bytes = b""
    status: int = 0
    length: int | None = None
    expects_continue: bool = False
    keep_alive: bool = True


def _fields(text) -> dict:
    lengths = _LENGTH.findall(text)
    if len(lengths) > 1 or bool(lengths) != bool(_ANY_LENGTH.search(text)):
        raise BadMessage(400, "Content-Length is given twice, or is no number")
    if _TRANSFER.search(text):
        raise BadMessage(411, "a body needs a Content-Length; transfer encodings are not taken")
    return {
        "length": int(lengths[0]) if lengths else None,
        "expects_continue": _EXPECT.search(text) is not None,
    }


def _keep_alive(text, minor: bytes) -> bool:
    match = _CONNECTION.search(text)
    wish = match.group(1).lower() if match else b""
    return b"close" not in wish and (minor == b"1" or b"keep-alive" in wish)


def parse_request(text) -> Head:
    """The head of a request; `text` is any buffer that ends with the empty line."""
    match = _REQUEST.match(text)
    if match is None:
        raise BadMessage(400, "the request line is not one of HTTP/1.1")
    path = unquote_to_bytes(bytes(match.group(2)).split(b"?", 1)[0])
    return Head(
        method=match.group(1).decode(), path=path,
        keep_alive=_keep_alive(text, match.group(3)), **_fields(text),
    )  # fmt: skip


def parse_response(text) -> Head:
    """The head of a response."""
    match = _STATUS.match(text)
    if match is None:
        raise BadMessage(502, "the answer is not one of HTTP/1.1")
    return Head(
        status=int(match.group(2)), keep_alive=_keep_alive(text, match.group(1)), **_fields(text)
    )


class Incoming:
    """The bytes of a connection in the order sent, as pieces of pool views.

    A piece is a read-only memoryview; it is valid until the next one is asked for, which gives the
    buffer behind it back to the device.
    """

    def __init__(self, reader, runtime):
        self._reader = reader
        self._runtime = runtime
        self._pieces: deque = deque()  # [view, memoryview of what is left of it]

    async def _more(self) -> bool:
        views = await self._reader.read_views()
        self._pieces.extend([view, view.data] for view in views)
        return bool(views)

    def _consume(self, count: int) -> None:
        while count:
            first = self._pieces[0]
            view, data = first
            taken = min(count, len(data))
            first[1] = data[taken:]
            del data
            count -= taken
            if not len(first[1]):
                self._pieces.popleft()
                first[1] = None
                view.release()

    async def head(self, parse) -> Head | None:
        """The next head, by `parse_request` or `parse_response`; None at the end of the stream."""
        if not self._pieces and not await self._more():
            return None
        text = self._pieces[0][1]
        while (end := _END.search(text)) is None:
            if len(text) > HEAD_BYTES_MAX:
                raise BadMessage(431, f"the head is longer than {HEAD_BYTES_MAX} bytes")
            if not await self._more():
                raise BadMessage(400, "the connection ended within a head")
            text = b"".join(piece for _, piece in self._pieces)
            self._runtime.copied_bytes += len(text)
        length = end.end()
        try:
            return parse(text[:length])
        finally:
            del text, end
            self._consume(length)

    async def body(self, length: int | None) -> AsyncIterator[memoryview]:
        """The pieces of a body of `length` bytes (None: up to the end of the stream).

        Raises ConnectionResetError where the stream ends before.
        """
        left = length
        while left is None or left > 0:
            if not self._pieces and not await self._more():
                if left is None:
                    return
                raise ConnectionResetError(f"the peer ended the body {left} bytes early")
            piece = self._pieces[0][1][:left]
            count = len(piece)
            if left is not None:
                left -= count
            yield piece
            del piece
            self._consume(count)

    def close(self) -> None:
        """Give back what was not read."""
        while self._pieces:
            view = self._pieces.popleft()[0]
            view.release()
