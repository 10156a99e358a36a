"""The options of a connection, in the terms of the socket module.

What an asyncio program gets by `writer.get_extra_info("socket")`: there is no socket, but the
options that it may want to set are here. One that makes no sense here is refused with the reason.

`setsockopt` cannot wait, the stack is another process: what can be known here is checked at once;
what the stack answers is awaited by the next `drain`, or by `settled`, which raises a refusal.
"""

import errno
import socket
import struct
from collections import deque

from ..tcp.events import CloseReason, Option, RequestKind

__all__ = ["SocketOptions"]

_TCP, _SOCKET = socket.IPPROTO_TCP, socket.SOL_SOCKET
_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
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
    (_IP, socket.IP_TTL): ("IP_TTL", Option.HOPS, (1, 255), 64),
    (_IP, socket.IP_TOS): ("IP_TOS", Option.TRAFFIC_CLASS, (0, 255), 0),
    (_IPV6, socket.IPV6_UNICAST_HOPS): ("IPV6_UNICAST_HOPS", Option.HOPS, (1, 255), 64),
    (_IPV6, socket.IPV6_TCLASS): ("IPV6_TCLASS", Option.TRAFFIC_CLASS, (0, 255), 0),
}  # fmt: skip
_CONGESTION = {b"reno": 0, b"cubic": 1}
_LINGER = struct.Struct("ii")
_LINGER_MAX = 65535

_SENSELESS = {
    (_SOCKET, socket.SO_REUSEADDR): "a listener's port is free as soon as it is closed",
    (_SOCKET, socket.SO_REUSEPORT): "a port belongs to one application",
    (_SOCKET, socket.SO_RCVBUF): "the receive window follows the posted buffers of the pool",
    (_SOCKET, socket.SO_SNDBUF): "what is sent lies in the pool; see send_bytes_max",
    (_TCP, socket.TCP_CORK): "write larger pieces instead, or fill a send buffer",
    (_TCP, socket.TCP_MAXSEG): "it follows from the link and the peer",
}


class SocketOptions:
    """`setsockopt` and `getsockopt` of one connection; `family`, `type`, `proto` as a socket's.

    `linger_seconds`: what SO_LINGER asks for; None where `close` waits as long as TCP does.
    """

    type, proto = socket.SOCK_STREAM, _TCP

    def __init__(self, connection):
        self._c = connection
        self.family = socket.AF_INET6 if ":" in connection.peer[0] else socket.AF_INET
        self.linger_seconds: int | None = None
        self._values: dict[int, int] = {}
        self._awaited: deque[tuple[str, int, int]] = deque()
        self._refused: deque[OSError] = deque()

    def setsockopt(self, level: int, name: int, value) -> None:
        """Set an option; `value` is an integer, or bytes as the socket module takes them.

        Raises OSError with ENOPROTOOPT for an option that is not there, EINVAL for a value out of
        its range.
        """
        if (level, name) == (_TCP, socket.TCP_CONGESTION):
            algorithm = bytes(value).rstrip(b"\0")
            if algorithm not in _CONGESTION:
                raise OSError(errno.ENOENT, f"TCP_CONGESTION {algorithm!r}: b'reno' or b'cubic'")
            self._ask("TCP_CONGESTION", Option.CONGESTION, _CONGESTION[algorithm])
            return
        if (level, name) == (_SOCKET, socket.SO_LINGER):
            self._set_linger(value)
            return
        if (level, name) == (_SOCKET, socket.SO_OOBINLINE):
            self._check_inline(value)
            return
        text, option, (least, most), first = self._find(level, name)
        if not isinstance(value, int):
            (value,) = struct.unpack("i", value)
        if most == 1:
            value = int(value != 0)
        if level in (_IP, _IPV6) and value == -1:
            value = first
        if not least <= value <= most:
            raise OSError(errno.EINVAL, f"{text} is {value}; {least} to {most} are allowed")
        self._ask(text, option, value)

    def _set_linger(self, value):
        if isinstance(value, int) or len(value) != _LINGER.size:
            raise OSError(errno.EINVAL, "SO_LINGER takes struct.pack('ii', on, seconds)")
        on, seconds = _LINGER.unpack(value)
        if on and not 0 <= seconds <= _LINGER_MAX:
            raise OSError(errno.EINVAL, f"SO_LINGER is {seconds}; 0 to {_LINGER_MAX} s are allowed")
        self.linger_seconds = seconds if on else None

    def _check_inline(self, value):
        if not (value if isinstance(value, int) else any(value)):
            raise OSError(
                errno.EINVAL,
                "SO_OOBINLINE is 0; only 1 is allowed: urgent data stays in the stream (RFC 6093)",
            )

    def getsockopt(self, level: int, name: int, buflen: int = 0):
        """The value in force as far as known: that of the last answer, or what was asked for since.

        An integer, or `buflen` bytes of it as the socket module gives them.
        """
        if (level, name) == (_SOCKET, socket.SO_LINGER):
            on = self.linger_seconds is not None
            return _LINGER.pack(on, self.linger_seconds or 0) if buflen else int(on)
        if (level, name) == (_SOCKET, socket.SO_TYPE):
            value = int(self.type)
        elif (level, name) == (_SOCKET, socket.SO_OOBINLINE):
            value = 1
        elif (level, name) == (_SOCKET, socket.SO_ERROR):
            error = self._c.error
            value = 0 if error is None else (error.errno or errno.ECONNRESET)
        else:
            _, option, _, first = self._find(level, name)
            asked = [v for _, each, v in self._awaited if each == option]
            value = asked[-1] if asked else self._values.get(option, first)
        return struct.pack("i", value)[:buflen] if buflen else value

    def _find(self, level, name):
        if level == (_IP if self.family == socket.AF_INET6 else _IPV6):
            why = "the connection is of the other family of addresses"
        elif (level, name) in _OPTIONS:
            return _OPTIONS[level, name]
        else:
            why = _SENSELESS.get((level, name), "the stack does not have it")
        raise OSError(errno.ENOPROTOOPT, f"option {name} of level {level}: {why}")

    def _ask(self, text, option, value):
        if self._c.closed:
            return
        self._awaited.append((text, option, value))
        self._c.runtime.ask(
            RequestKind.OPTION, connection=self._c.number, port=option, length=value
        )

    # -- what the stack answers --------------------------------------------------------------

    def on_answer(self, option: int, value: int, reason: int) -> None:
        """The stack answered the oldest question: the option is `value`, or refused."""
        if not self._awaited or self._awaited[0][1] != option:
            return
        text, _, _ = self._awaited.popleft()
        if reason == CloseReason.NORMAL:
            self._values[option] = value
        else:
            unsupported = reason == CloseReason.UNSUPPORTED
            code = errno.ENOPROTOOPT if unsupported else errno.EINVAL
            why = "it does not have this option" if unsupported else f"its value is {value}"
            self._refused.append(OSError(code, f"the stack refused {text}: {why}"))
        self._c.tell()

    @property
    def unsettled(self) -> bool:
        """Whether an answer is awaited, or a refusal not yet raised."""
        return bool(self._awaited or self._refused)

    async def settled(self) -> None:
        """Wait until the stack has answered all that was set; raises the first refusal."""
        while self._awaited and not self._c.closed:
            await self._c.changed()
        if self._refused:
            raise self._refused.popleft()

    def getpeername(self) -> tuple:
        """Address and port of the peer."""
        return self._c.peer

    def getsockname(self) -> tuple:
        """Our address and port."""
        return self._c.local
