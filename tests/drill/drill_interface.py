"""packetdrill's side of the interface, by ctypes: loads the library and calls its table.

So the bridge is tested where there is no packetdrill.
"""

import ctypes
import errno
import ipaddress
import socket
import struct
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_int,
    c_longlong,
    c_short,
    c_size_t,
    c_ssize_t,
    c_uint,
    c_ulong,
    c_void_p,
)
from pathlib import Path

PACKET_BYTES = 4096
PORT = 8080
__all__ = ["Drill", "PollFd"]


class PollFd(ctypes.Structure):
    _fields_ = [("fd", c_int), ("events", c_short), ("revents", c_short)]


class Vector(ctypes.Structure):
    _fields_ = [("base", c_char_p), ("length", c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [
        ("name", c_void_p), ("name_length", c_uint), ("parts", POINTER(Vector)),
        ("count", c_size_t), ("control", c_void_p), ("control_length", c_size_t), ("flags", c_int),
    ]  # fmt: skip


class Time(ctypes.Structure):
    _fields_ = [("seconds", c_longlong), ("microseconds", c_longlong)]


BYTES, LENGTH = c_char_p, POINTER(c_uint)
MEMBERS = (
    ("free", None, ()),
    ("socket", c_int, (c_int, c_int, c_int)),
    ("bind", c_int, (c_int, BYTES, c_uint)),
    ("listen", c_int, (c_int, c_int)),
    ("accept", c_int, (c_int, BYTES, LENGTH)),
    ("connect", c_int, (c_int, BYTES, c_uint)),
    ("read", c_ssize_t, (c_int, BYTES, c_size_t)),
    ("readv", c_ssize_t, (c_int, POINTER(Vector), c_int)),
    ("recv", c_ssize_t, (c_int, BYTES, c_size_t, c_int)),
    ("recvfrom", c_ssize_t, (c_int, BYTES, c_size_t, c_int, BYTES, LENGTH)),
    ("recvmsg", c_ssize_t, (c_int, POINTER(Message), c_int)),
    ("write", c_ssize_t, (c_int, BYTES, c_size_t)),
    ("writev", c_ssize_t, (c_int, POINTER(Vector), c_int)),
    ("send", c_ssize_t, (c_int, BYTES, c_size_t, c_int)),
    ("sendto", c_ssize_t, (c_int, BYTES, c_size_t, c_int, BYTES, c_uint)),
    ("sendmsg", c_ssize_t, (c_int, POINTER(Message), c_int)),
    ("fcntl", c_int, (c_int, c_int, c_int)),
    ("ioctl", c_int, (c_int, c_ulong, POINTER(c_int))),
    ("close", c_int, (c_int,)),
    ("shutdown", c_int, (c_int, c_int)),
    ("getsockopt", c_int, (c_int, c_int, c_int, BYTES, LENGTH)),
    ("setsockopt", c_int, (c_int, c_int, c_int, BYTES, c_uint)),
    ("poll", c_int, (POINTER(PollFd), c_ulong, c_int)),
    ("netdev_send", c_int, (BYTES, c_size_t)),
    ("netdev_receive", c_int, (BYTES, POINTER(c_size_t), POINTER(c_longlong))),
    ("usleep", c_int, (c_uint,)),
    ("gettimeofday", c_int, (POINTER(Time), c_void_p)),
    ("epoll_create", c_int, (c_int,)),
    ("epoll_ctl", c_int, (c_int, c_int, c_int, c_void_p)),
    ("epoll_wait", c_int, (c_int, c_void_p, c_int, c_int)),
    ("pipe", c_int, (POINTER(c_int),)),
    ("splice", c_ssize_t, (c_int, c_void_p, c_int, c_void_p, c_size_t, c_uint)),
)


class Table(ctypes.Structure):
    _fields_ = [("self", c_void_p)] + [
        (name, ctypes.CFUNCTYPE(result, c_void_p, *arguments, use_errno=True))
        for name, result, arguments in MEMBERS
    ]


class Drill:
    """One run over the library: `drill.call("listen", 3, 1)` returns as the C function does.

    A call that fails raises OSError with its errno.
    """

    def __init__(self, library: Path, flags: str = "", local: str = "192.168.0.2"):
        self.table = Table()
        self.local = ipaddress.ip_address(local)
        self.domain = socket.AF_INET if self.local.version == 4 else socket.AF_INET6
        loaded = ctypes.CDLL(str(library), use_errno=True)
        self.waiting = loaded.drill_waiting
        """How many calls of the other thread the bridge has not answered."""
        loaded.packetdrill_interface_init(flags.encode(), byref(self.table))

    def call(self, name, *arguments):
        ctypes.set_errno(0)
        result = getattr(self.table, name)(None, *arguments)
        if result is not None and result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{name}: {errno.errorcode.get(code, code)}")
        return result

    def address(self, address, port: int) -> bytes:
        """A struct sockaddr_in or sockaddr_in6."""
        packed = ipaddress.ip_address(address).packed
        if self.domain == socket.AF_INET:
            return struct.pack("=H", self.domain) + struct.pack(">H4s8x", port, packed)
        return struct.pack("=H", self.domain) + struct.pack(">HI16s4x", port, 0, packed)

    def socket(self, kind=socket.SOCK_STREAM) -> int:
        return self.call("socket", self.domain, kind, socket.IPPROTO_TCP)

    def listener(self) -> int:
        fd = self.socket()
        name = self.address(self.local, PORT)
        self.call("bind", fd, name, len(name))
        self.call("listen", fd, 1)
        return fd

    def accept(self, fd):
        """The new descriptor, and the address that came along."""
        name, length = ctypes.create_string_buffer(28), c_uint(28)
        made = self.call("accept", fd, ctypes.cast(name, c_char_p), byref(length))
        return made, name.raw[: length.value]

    def connect(self, fd, address, port=PORT):
        name = self.address(address, port)
        return self.call("connect", fd, name, len(name))

    def read(self, fd, size) -> bytes:
        data = ctypes.create_string_buffer(size)
        done = self.call("read", fd, ctypes.cast(data, c_char_p), size)
        return data.raw[:done]

    def write(self, fd, data: bytes) -> int:
        return self.call("write", fd, data, len(data))

    def setsockopt(self, fd, level, name, value: int):
        return self.call("setsockopt", fd, level, name, struct.pack("i", value), 4)

    def getsockopt(self, fd, level, name) -> int:
        value, length = ctypes.create_string_buffer(4), c_uint(4)
        self.call("getsockopt", fd, level, name, ctypes.cast(value, c_char_p), byref(length))
        assert length.value == 4
        return struct.unpack("i", value.raw)[0]

    def poll(self, timeout_ms, *wanted) -> list[int]:
        """`revents` of each (descriptor, events)."""
        handles = (PollFd * len(wanted))(*[(fd, events, 0) for fd, events in wanted])
        ready = self.call("poll", handles, len(wanted), timeout_ms)
        found = [one.revents for one in handles]
        assert ready == sum(1 for revents in found if revents)
        return found

    def packet_in(self, packet: bytes):
        return self.call("netdev_send", packet, len(packet))

    def packet_out(self) -> tuple[float, bytes]:
        """When, in seconds, and which packet; an empty one where nothing comes."""
        data = ctypes.create_string_buffer(PACKET_BYTES)
        size, at = c_size_t(PACKET_BYTES), c_longlong()
        self.call("netdev_receive", ctypes.cast(data, c_char_p), byref(size), byref(at))
        return at.value / 1e6, data.raw[: size.value]

    def now(self) -> float:
        time = Time()
        self.call("gettimeofday", byref(time), None)
        return time.seconds + time.microseconds / 1e6

    def sleep(self, seconds: float):
        self.call("usleep", int(seconds * 1e6))

    def free(self):
        self.call("free")
