"""BSD sockets over the core's requests and events: as much as packetdrill's scripts ask for.

A call answers at once, raises OSError, or returns `WAIT` where it would block; then it is asked
again after each step of the stack. Bytes are copied, which a test may.
"""

import errno
import ipaddress
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field

from tcp_host import ELEMENT

from hdstack.app.connection import address_fields, address_text
from hdstack.app.socket_options import _CONGESTION, _OPTIONS
from hdstack.tcp.events import NO_LINGER, CloseReason, EventKind, Option, RequestKind

WAIT = object()
SENDS_MOST = 1000
SEND_BYTES = 1 << 20
ERRORS = {
    CloseReason.NORMAL: 0,
    CloseReason.REFUSED: errno.ECONNREFUSED,
    CloseReason.RESET: errno.ECONNRESET,
    CloseReason.TIMED_OUT: errno.ETIMEDOUT,
    CloseReason.ABORTED: errno.ECONNABORTED,
    CloseReason.ADDRESS_IN_USE: errno.EADDRINUSE,
    CloseReason.NO_RESOURCES: errno.ENOBUFS,
    CloseReason.INVALID_REQUEST: errno.EINVAL,
    CloseReason.STACK_GONE: errno.ENETDOWN,
    CloseReason.UNREACHABLE: errno.EHOSTUNREACH,
    CloseReason.UNSUPPORTED: errno.EOPNOTSUPP,
}
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
READABLE = select.POLLIN | select.POLLRDNORM
WRITABLE = select.POLLOUT | select.POLLWRNORM
RECV_FLAGS = socket.MSG_DONTWAIT | socket.MSG_PEEK
SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
__all__ = ["WAIT", "Socket", "Sockets"]


def failed(code: int, text: str = "") -> OSError:
    return OSError(code, text or errno.errorcode[code])


def read_address(data: bytes):
    """Address and port of a struct sockaddr_in or sockaddr_in6."""
    family = struct.unpack_from("=H", data)[0] if len(data) >= 2 else -1
    if family == socket.AF_INET and len(data) >= 8:
        port, address = struct.unpack_from(">HI", data, 2)
        return ipaddress.IPv4Address(address), port
    if family == socket.AF_INET6 and len(data) >= 24:
        address = ipaddress.IPv6Address(data[8:24])
        return address.ipv4_mapped or address, struct.unpack_from(">H", data, 2)[0]
    raise failed(errno.EAFNOSUPPORT, f"address family {family} of {len(data)} bytes")


def write_address(domain: int, address, port: int) -> bytes:
    """The struct of a socket of `domain`; there an IPv4 address is a mapped one in IPv6."""
    if domain == socket.AF_INET:
        return struct.pack("=H", domain) + struct.pack(">HI8x", port, int(address))
    packed = address.packed
    packed = bytes(10) + b"\xff\xff" + packed if len(packed) == 4 else packed
    return struct.pack("=H", domain) + struct.pack(">HI", port, 0) + packed + bytes(4)


@dataclass(eq=False)
class Socket:
    """One socket; `handle` is the tool's descriptor, None before accept and after close."""

    domain: int
    handle: int | None = None
    state: str = "new"
    """new, listening, connecting, connected, over"""
    number: int | None = None
    """Of the listener or connection in the core."""
    port: int = 0
    remote: tuple = ()
    taken: int = 0
    sends: deque = field(default_factory=deque)
    """(offset, length) of each SEND that is not released."""
    send_bytes: int = SEND_BYTES
    accepted: deque = field(default_factory=deque)
    error: int = 0
    finished: bool = False
    read_shut: bool = False
    write_shut: bool = False
    told: bool = False
    """connect has returned 0."""
    linger: int = NO_LINGER
    options: dict[int, int] = field(default_factory=dict)
    """Option of the core, and what it was set to."""
    progress: int = 0
    """Bytes of the write that waits which are already handed over."""


class Sockets:
    """All sockets of one application on `host` (a DrillHost)."""

    def __init__(self, host):
        self.host, self.app = host, host.app
        self.by_handle: dict[int, Socket] = {}
        self.connections: dict[int, Socket] = {}
        self.listeners: dict[int, Socket] = {}
        self.asked: dict[int, Socket] = {}
        self.asked_number = 0
        self.events_seen = 0
        self.areas = [(self.app.buffers * ELEMENT, len(self.app.pool))]
        """Free parts of the pool for sending: (begin, end), in order."""

    # events

    def see_events(self):
        """What the core has told since the last time."""
        while self.events_seen < len(self.app.events):
            event = self.app.events[self.events_seen]
            self.events_seen += 1
            handler = getattr(self, f"_on_{event['kind'].name.lower()}", None)
            if handler:
                handler(event)

    def _on_listening(self, event):
        made = self.asked.pop(event["socket"])
        made.state, made.number = "listening", event["connection"]
        self.listeners[event["socket"]] = made

    def _peer(self, event):
        names = ("address", "region", "offset", "length", "spare")
        text = address_text(*(event[name] for name in names))
        return ipaddress.ip_address(text), event["port"]

    def _on_accepted(self, event):
        listener = self.listeners.get(event["socket"])
        if listener is None:
            self.host.abort(event["connection"])
            return
        made = Socket(listener.domain, options=dict(listener.options))
        made.state, made.number, made.told = "connected", event["connection"], True
        made.remote, made.port = self._peer(event), listener.port
        made.send_bytes, made.linger = listener.send_bytes, listener.linger
        self.connections[made.number] = made
        listener.accepted.append(made)
        self._apply_options(made)

    def _on_connected(self, event):
        made = self.asked.pop(event["socket"])
        made.state, made.number = "connected", event["connection"]
        self.connections[made.number] = made
        if made.handle is None:
            self.host.abort(made.number)
            return
        self._apply_options(made)

    def _on_failed(self, event):
        made = self.asked.pop(event["socket"])
        made.error, made.state = ERRORS[event["reason"]], "over"

    def _on_finished(self, event):
        made = self.connections.get(event["connection"])
        if made:
            made.finished = True

    def _on_released(self, event):
        self._free(*self.connections[event["connection"]].sends.popleft())

    def _on_closed(self, event):
        made = self.connections.pop(event["connection"], None)
        if made is None:
            return  # aborted before anybody had it
        code = ERRORS[event["reason"]]
        # the peer had said all and was answered by RST: whoever writes on has a broken pipe
        made.error = errno.EPIPE if code == errno.ECONNRESET and made.finished else code
        made.state = "over"
        while made.sends:
            self._free(*made.sends.popleft())

    # memory to send from

    def _free(self, begin: int, length: int):
        joined = []
        for start, end in sorted([*self.areas, (begin, begin + length)]):
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self.areas = joined

    def _take(self, length: int) -> int | None:
        for at, (start, end) in enumerate(self.areas):
            if end - start >= length:
                self.areas[at : at + 1] = [(start + length, end)] if end - start > length else []
                return start
        return None

    # the calls

    def find(self, handle: int) -> Socket:
        if handle not in self.by_handle:
            raise failed(errno.EBADF, f"descriptor {handle} is no socket of the bridge")
        return self.by_handle[handle]

    def socket(self, handle: int, domain: int, kind: int, protocol: int):
        if domain not in (socket.AF_INET, socket.AF_INET6):
            raise failed(errno.EAFNOSUPPORT)
        kind &= ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if kind != socket.SOCK_STREAM or protocol not in (0, socket.IPPROTO_TCP):
            raise failed(errno.EPROTONOSUPPORT)
        self.by_handle[handle] = Socket(domain, handle)
        return 0

    def bind(self, handle: int, data: bytes):
        made = self.find(handle)
        address, port = read_address(data)
        if made.state != "new" or made.port:
            raise failed(errno.EINVAL)
        if not port:
            raise failed(errno.EOPNOTSUPP, "a port of the stack's choosing")
        if int(address) and not self.host.has_address(address):
            bits = 16 if address.version == 4 else 48
            self.host.add_address(address, bits)
        made.port = port
        return 0

    def listen(self, handle: int, backlog: int):
        made = self.find(handle)
        if made.state == "listening":
            return 0
        if made.state != "new" or not made.port:
            raise failed(errno.EINVAL)
        self._ask(made, RequestKind.LISTEN, port=made.port, length=max(backlog, 1))
        if made.state != "listening":
            raise failed(made.error)
        return 0

    def _ask(self, made: Socket, kind: RequestKind, **fields):
        self.asked_number += 1
        self.asked[self.asked_number] = made
        self.host.request(kind, socket=self.asked_number, **fields)
        self.host.settle()

    def accept(self, handle: int, new_handle: int, dont_wait: bool):
        listener = self.find(handle)
        if listener.state != "listening":
            raise failed(errno.EINVAL)
        if not listener.accepted:
            if dont_wait:
                raise failed(errno.EAGAIN)
            return WAIT
        made = listener.accepted.popleft()
        made.handle = new_handle
        self.by_handle[new_handle] = made
        return 0, write_address(made.domain, *made.remote)

    def connect(self, handle: int, data: bytes, dont_wait: bool):
        made = self.find(handle)
        if made.state == "new":
            address, port = read_address(data)
            if made.port:
                raise failed(errno.EADDRNOTAVAIL, "connect from a port of the caller's choosing")
            made.remote = (address, port)
            self._ask(made, RequestKind.CONNECT, port=port, **address_fields(str(address)))
            if made.state == "new":
                made.state = "connecting"
            if made.state == "connecting" and dont_wait:
                raise failed(errno.EINPROGRESS)
        elif made.state == "connecting" and dont_wait:
            raise failed(errno.EALREADY)
        elif made.told:
            raise failed(errno.EISCONN)
        if made.state == "connecting":
            return WAIT
        if made.state == "over" and made.error:
            code, made.error, made.state = made.error, 0, "new"
            raise failed(code)
        made.told = True
        return 0

    def available(self, made: Socket) -> int:
        return len(self.app.streams.get(made.number, b"")) - made.taken

    def recv(self, handle: int, most: int, flags: int, dont_wait: bool):
        made = self.find(handle)
        if flags & ~RECV_FLAGS:
            raise failed(errno.EOPNOTSUPP, f"flags {flags:#x}: MSG_DONTWAIT and MSG_PEEK are here")
        if made.state in ("new", "listening") or made.number is None:
            raise failed(errno.ENOTCONN)
        length = min(most, self.available(made))
        if length > 0:
            stream = self.app.streams[made.number]
            got = bytes(stream[made.taken : made.taken + length])
            if not flags & socket.MSG_PEEK:
                made.taken += length
                self._give_back(made)
            return length, got
        if made.error and made.error != errno.EPIPE:
            code, made.error = made.error, 0
            raise failed(code)
        if most == 0 or made.finished or made.read_shut or made.state == "over":
            return 0
        if dont_wait or flags & socket.MSG_DONTWAIT:
            raise failed(errno.EAGAIN)
        return WAIT

    def _give_back(self, made: Socket):
        """Post the buffers again that are wholly read."""
        held = [(k, n) for k, (c, n) in self.app.held.items() if c == made.number]
        unread = sum(n for _, n in held) - self.available(made)
        for element, length in held:
            if length > unread:
                break
            unread -= length
            self.host.release(made.number, element, length)
        self.host.settle()

    def send(self, handle: int, data: bytes, flags: int, dont_wait: bool):
        made = self.find(handle)
        if flags & ~SEND_FLAGS:
            raise failed(errno.EOPNOTSUPP, f"flags {flags:#x}: MSG_DONTWAIT, MSG_NOSIGNAL are here")
        if made.state == "over" and made.error:
            code, made.error = made.error, 0
            raise failed(code)
        if made.write_shut or made.state == "over":
            raise failed(errno.EPIPE)
        if made.state == "connecting":
            if dont_wait:
                raise failed(errno.EAGAIN)
            return WAIT
        if made.state != "connected":
            raise failed(errno.EPIPE if made.state == "listening" else errno.ENOTCONN)
        self._send_some(made, data)
        done, wait = made.progress, not (dont_wait or flags & socket.MSG_DONTWAIT)
        if done < len(data) and wait and made.state == "connected":
            return WAIT
        made.progress = 0
        if not done and data:
            raise failed(made.error or errno.EAGAIN)
        return done

    def outstanding(self, made: Socket) -> int:
        """Bytes written that the peer has not acknowledged."""
        if made.state != "connected":
            return 0
        row = self.host.connection(made.number)
        return max(int(row["snd_end"] - row["snd_una"]), 0)

    def room(self, made: Socket) -> int:
        """Bytes that a write may still take."""
        if len(made.sends) >= SENDS_MOST:
            return 0
        return max(made.send_bytes - self.outstanding(made), 0)

    def _send_some(self, made: Socket, data: bytes):
        while made.progress < len(data) and made.state == "connected":
            length = min(len(data) - made.progress, self.room(made))
            offset = self._take(length) if length else None
            if offset is None:
                return
            made.sends.append((offset, length))
            piece = data[made.progress : made.progress + length]
            made.progress += length
            self.host.send(made.number, piece, offset)
            self.host.settle()

    def shutdown(self, handle: int, how: int):
        made = self.find(handle)
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise failed(errno.EINVAL)
        if made.state != "connected":
            raise failed(errno.ENOTCONN)
        if how != socket.SHUT_WR:
            made.read_shut = True
        if how != socket.SHUT_RD and not made.write_shut:
            made.write_shut = True
            self.host.shutdown(made.number)
            self.host.settle()
        return 0

    def close(self, handle: int):
        """The descriptor is closed: what is sent still goes, what was not read resets."""
        made = self.find(handle)
        del self.by_handle[handle]
        made.handle = None
        if made.state == "listening":
            self.listeners = {k: one for k, one in self.listeners.items() if one is not made}
            self.host.request(RequestKind.UNLISTEN, connection=made.number)
            for child in made.accepted:
                self._end(child)
        elif made.number is not None:
            self._end(made)
        self.host.settle()
        return 0

    def _end(self, made: Socket):
        # RFC 9293 section 3.6.1: the peer is to know that bytes were not read
        unread = self.available(made) > 0
        made.taken = len(self.app.streams.get(made.number, b""))
        if made.state == "connected":
            linger = 0 if unread else made.linger
            self.host.request(RequestKind.CLOSE, connection=made.number, length=linger)
        self._give_back(made)

    def ioctl(self, handle: int, request: int):
        made = self.find(handle)
        if request == SIOCINQ:
            return self.available(made)
        if request == SIOCOUTQ:
            return self.outstanding(made)
        raise failed(errno.EINVAL)

    # options

    def _set_option(self, made: Socket, option: int, value: int):
        """Now, or where there is no connection yet, when there is one."""
        if made.state == "connected":
            self.host.request(RequestKind.OPTION, connection=made.number, port=option, length=value)
            self.host.settle()
            reason = self.host.last(EventKind.OPTION)["reason"]
            if reason != CloseReason.NORMAL:
                raise failed(ERRORS[reason])
        made.options[option] = value

    def _apply_options(self, made: Socket):
        for option, value in list(made.options.items()):
            self._set_option(made, option, value)

    def setsockopt(self, handle: int, level: int, name: int, value: bytes):
        made = self.find(handle)
        if (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER) and len(value) == 8:
            on, seconds = struct.unpack("ii", value)
            made.linger = seconds * 1000 if on else NO_LINGER
            return 0
        if (level, name) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION):
            if value.rstrip(b"\0") not in _CONGESTION:
                raise failed(errno.ENOENT)
            self._set_option(made, int(Option.CONGESTION), _CONGESTION[value.rstrip(b"\0")])
            return 0
        if len(value) < 4:
            raise failed(errno.EINVAL)
        number = struct.unpack_from("i", value)[0]
        if (level, name) == (socket.SOL_SOCKET, socket.SO_REUSEADDR):
            return 0  # a port is free as soon as its listener is closed
        if (level, name) == (socket.SOL_SOCKET, socket.SO_SNDBUF):
            made.send_bytes = min(max(2 * number, 4608), SEND_BYTES)  # twice, as Linux has it
            return 0
        option, (least, most), _ = self._find_option(level, name)
        number = int(number != 0) if most == 1 else number
        if not least <= number <= most:
            raise failed(errno.EINVAL)
        self._set_option(made, option, number)
        return 0

    @staticmethod
    def _find_option(level: int, name: int):
        """Option of the core, its range and its first value."""
        if (level, name) not in _OPTIONS:
            raise failed(errno.ENOPROTOOPT, f"option {name} of level {level}")
        _, option, limits, first = _OPTIONS[level, name]
        return int(option), limits, first

    def getsockopt(self, handle: int, level: int, name: int):
        made = self.find(handle)
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR):
            value, made.error = made.error, 0
        elif (level, name) == (socket.SOL_SOCKET, socket.SO_SNDBUF):
            value = made.send_bytes
        elif (level, name) == (socket.IPPROTO_TCP, socket.TCP_MAXSEG) and made.number is not None:
            value = int(self.host.connection(made.number)["mss"])
        else:
            option, _, first = self._find_option(level, name)
            value = made.options.get(option, first)
        return 0, struct.pack("i", value)

    # poll

    def readiness(self, made: Socket) -> int:
        """Every condition that holds, as poll(2) names them."""
        if made.state == "listening":
            return READABLE if made.accepted else 0
        if made.state == "new":
            return WRITABLE | select.POLLHUP
        if made.state == "connecting":
            return 0
        over = made.state == "over"
        ended = made.finished or made.read_shut or over
        found = select.POLLERR if made.error else 0
        if self.available(made) or ended:
            found |= READABLE
        if ended:
            found |= select.POLLRDHUP
        if over or (ended and made.write_shut):
            found |= select.POLLHUP
        if made.write_shut or over or 3 * self.room(made) >= made.send_bytes:
            found |= WRITABLE
        return found

    def poll(self, wanted: list[tuple[int, int]]):
        """`revents` of each (handle, events), and how many are not 0."""
        found = []
        for handle, events in wanted:
            made = self.by_handle.get(handle)
            if handle < 0:
                found.append(0)
            elif made is None:
                found.append(select.POLLNVAL)
            else:
                always = select.POLLERR | select.POLLHUP
                found.append(self.readiness(made) & (events | always))
        return sum(1 for revents in found if revents), found
