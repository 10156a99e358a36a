"""The options of a connection, in the terms of the socket module.

What an asyncio program gets by `writer.get_extra_info("socket")`: there is no socket, but the
options that it may want to set are here. One that makes no sense here is refused with the reason.
"""

import errno
import socket
import struct

from ..tcp.events import Option, RequestKind

__all__ = ["SocketOptions"]

_TCP, _SOCKET = socket.IPPROTO_TCP, socket.SOL_SOCKET
_FLAG, _SECONDS = (0, 1), (1, 32767)

_OPTIONS = {
    (_TCP, socket.TCP_NODELAY): ("TCP_NODELAY", Option.NODELAY, _FLAG, 1),
    (_SOCKET, socket.SO_KEEPALIVE): ("SO_KEEPALIVE", Option.KEEPALIVE, _FLAG, 0),
    (_TCP, socket.TCP_KEEPIDLE): ("TCP_KEEPIDLE", Option.KEEPALIVE_IDLE, _SECONDS, 7200),
    (_TCP, socket.TCP_KEEPINTVL): ("TCP_KEEPINTVL", Option.KEEPALIVE_INTERVAL, _SECONDS, 75),
    (_TCP, socket.TCP_KEEPCNT): ("TCP_KEEPCNT", Option.KEEPALIVE_COUNT, (1, 127), 9),
    (_TCP, socket.TCP_USER_TIMEOUT): (
        "TCP_USER_TIMEOUT", Option.USER_TIMEOUT, (0, 0x7FFFFFFF), 0,
    ),
    (_TCP, socket.TCP_QUICKACK): ("TCP_QUICKACK", Option.QUICKACK, _FLAG, 1),
}  # fmt: skip
_CONGESTION = {b"reno": 0, b"cubic": 1}

_SENSELESS = {
    (_SOCKET, socket.SO_REUSEADDR): "a listener's port is free as soon as it is closed",
    (_SOCKET, socket.SO_REUSEPORT): "a port belongs to one application",
    (_SOCKET, socket.SO_RCVBUF): "the receive window follows the posted buffers of the pool",
    (_SOCKET, socket.SO_SNDBUF): "what is sent lies in the pool; see send_bytes_max",
    (_TCP, socket.TCP_CORK): "write larger pieces instead, or fill a send buffer",
    (_TCP, socket.TCP_MAXSEG): "it follows from the link and the peer",
}


class SocketOptions:
    """`setsockopt` and `getsockopt` of one connection."""

    def __init__(self, connection):
        self._c = connection
        self._values: dict[int, int] = {}

    def setsockopt(self, level: int, name: int, value) -> None:
        """Set an option; `value` is an integer, or bytes as the socket module takes them.

        Raises OSError with ENOPROTOOPT for an option that is not there, EINVAL for a value out of
        its range.
        """
        if (level, name) == (_TCP, socket.TCP_CONGESTION):
            algorithm = bytes(value).rstrip(b"\0")
            if algorithm not in _CONGESTION:
                raise OSError(errno.ENOENT, f"TCP_CONGESTION {algorithm!r}: b'reno' or b'cubic'")
            self._ask(Option.CONGESTION, _CONGESTION[algorithm])
            return
        text, option, (least, most), _ = self._find(level, name)
        if not isinstance(value, int):
            (value,) = struct.unpack("i", value)
        if most == 1:
            value = int(value != 0)
        if not least <= value <= most:
            raise OSError(errno.EINVAL, f"{text} is {value}; {least} to {most} are allowed")
        self._ask(option, value)

    def getsockopt(self, level: int, name: int) -> int:
        """The value that was last asked for (no answer of the stack is awaited), or the first."""
        _, option, _, first = self._find(level, name)
        return self._values.get(option, first)

    def _find(self, level, name):
        if (level, name) in _OPTIONS:
            return _OPTIONS[level, name]
        why = _SENSELESS.get((level, name), "the stack does not have it")
        raise OSError(errno.ENOPROTOOPT, f"option {name} of level {level}: {why}")

    def _ask(self, option, value):
        self._values[option] = value
        if not self._c.closed:
            self._c.runtime.ask(
                RequestKind.OPTION, connection=self._c.number, port=option, length=value
            )

    def getpeername(self) -> tuple:
        """Address and port of the peer."""
        return self._c.peer

    def getsockname(self) -> tuple:
        """Our address and port."""
        return self._c.local
