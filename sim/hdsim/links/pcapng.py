"""Reader of capture files in the pcapng format (IETF draft-ietf-opsawg-pcapng).

Takes what Wireshark and this project's harness write: any byte order, several sections and
interfaces, enhanced and simple packet blocks; other blocks are passed over.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import LinkError

__all__ = ["Frame", "read_frames"]

_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_OPTION_END, _OPTION_FLAGS, _OPTION_RESOLUTION = 0, 2, 9
_ETHERNET = 1


class Frame(NamedTuple):
    """A captured frame; `time_ns` is its stamp since the epoch, 0 where the file has none.

    `outbound` is True, False, or None where the file does not say.
    """

    time_ns: int
    data: bytes
    outbound: bool | None


def read_frames(path: Path) -> Iterator[Frame]:
    """The Ethernet frames of a file, in its order. Raises LinkError where it is not pcapng."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LinkError(f"the capture {path} cannot be read: {error.strerror}") from error
    if data[:4] != struct.pack("<I", _SECTION):
        raise LinkError(f"{path} is no pcapng file; convert it, for example with editcap -F pcapng")
    at, order, interfaces = 0, "<", []
    while at + 12 <= len(data):
        if data[at : at + 4] == struct.pack("<I", _SECTION):  # reads the same in both orders
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == _BYTE_ORDER else ">"
            interfaces = []
        kind, size = struct.unpack_from(order + "II", data, at)
        if size < 12 or size % 4 or at + size > len(data):
            raise LinkError(f"{path}: the block at byte {at} has the impossible length {size}")
        body = data[at + 8 : at + size - 4]
        at += size
        try:
            if kind == _INTERFACE:
                interfaces.append(_interface(body, order))
            elif kind == _ENHANCED:
                number, high, low, length = struct.unpack_from(order + "IIII", body)
                link, resolution = interfaces[number]
                if link == _ETHERNET:
                    stamp = (high << 32 | low) * 1_000_000_000 // resolution
                    options = _options(body[20 + (length + 3 & ~3) :], order)
                    flags = options.get(_OPTION_FLAGS)
                    way = struct.unpack(order + "I", flags)[0] & 3 if flags else 0
                    yield Frame(stamp, body[20 : 20 + length], {1: False, 2: True}.get(way))
            elif kind == _SIMPLE and interfaces[0][0] == _ETHERNET:
                (length,) = struct.unpack_from(order + "I", body)
                yield Frame(0, body[4 : 4 + length], None)
        except (struct.error, IndexError):
            raise LinkError(f"{path}: the block before byte {at} is damaged") from None


def _interface(body, order):
    (link,) = struct.unpack_from(order + "H", body)
    resolution = _options(body[8:], order).get(_OPTION_RESOLUTION, b"\x06")[0]
    return link, 1 << (resolution & 127) if resolution & 128 else 10**resolution


def _options(data, order):
    found, at = {}, 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from(order + "HH", data, at)
        if code == _OPTION_END:
            break
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)
    return found
