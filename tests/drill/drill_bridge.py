"""The process behind drill_client.cpp: serves packetdrill's calls on the stack, in virtual time.

    python drill_bridge.py SCRIPT_FD CALLS_FD [FLAGS]

Two channels: of the thread that walks through the script and drives the time, and of the one whose
calls may wait. FLAGS are `name=value`, joined by commas; see `Flags`. Ends with its channels.
"""

import contextlib
import os
import selectors
import socket
import struct
import sys
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "sw"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import errno  # noqa: E402

from drill_host import US_NS, DrillHost, Silence  # noqa: E402
from drill_sockets import WAIT, Sockets  # noqa: E402
from tcp_host import load  # noqa: E402

REQUEST = struct.Struct("=IIqiiii")
"""Bytes that follow, call, time of the caller in us, handle, three arguments."""
REPLY = struct.Struct("=Iiiq")
"""Bytes that follow, result, errno, time at which the call was over in us."""
POLLFD = struct.Struct("=ihh")
REQUEST_BYTES_MOST = 1 << 26
__all__ = ["Bridge", "Call", "Flags"]


class Call(IntEnum):
    """What the library asks; drill_build.py hands the numbers to the compiler."""

    TIME = 1
    SOCKET = 2
    BIND = 3
    LISTEN = 4
    ACCEPT = 5
    CONNECT = 6
    RECV = 7
    SEND = 8
    CLOSE = 9
    SHUTDOWN = 10
    GETSOCKOPT = 11
    SETSOCKOPT = 12
    POLL = 13
    IOCTL = 14
    PACKET_IN = 15
    PACKET_OUT = 16


@dataclass
class Flags:
    """Options of a run, as `--so_flags` gives them."""

    local: str = "192.168.0.2/16"
    local6: str = "fd3d:fa7b:d17d::2/48"
    mss: int = 1460
    buffers: int = 64
    """Posted receive buffers: what the window is made of."""
    sack: int = 1
    timestamps: int = 1
    congestion: str = "cubic"
    trace: int = 0
    """1: each call, on standard error."""

    @classmethod
    def parse(cls, text: str):
        kinds = {one.name: one.type for one in fields(cls)}
        values = {}
        for word in filter(None, text.split(",")):
            name, _, value = word.partition("=")
            if name not in kinds:
                raise SystemExit(f"--so_flags: {name!r} is none of {', '.join(kinds)}")
            if kinds[name] is int and not value.isdigit():
                raise SystemExit(f"--so_flags: {name} is {value!r}, no number")
            values[name] = kinds[name](value)
        made = cls(**values)
        if made.congestion not in ("cubic", "reno"):
            raise SystemExit(f"--so_flags: congestion is {made.congestion!r}: cubic or reno")
        return made


class Bridge:
    """Serves two channels until one of them ends."""

    def __init__(self, script: socket.socket, calls: socket.socket, flags: Flags):
        modules = load(False)  # interpreted: a script is over before the compiler would be
        tables = modules.tcp_tables
        self.script, self.calls, self.flags = script, calls, flags
        self.host = DrillHost(
            modules, [flags.local, flags.local6], mss=flags.mss, buffers=flags.buffers,
            congestion=tables.NEWRENO if flags.congestion == "reno" else tables.CUBIC,
            timestamps=bool(flags.timestamps), sack=bool(flags.sack),
        )  # fmt: skip
        self.host.app.reads = False
        self.host.progress = self.progress
        self.sockets = Sockets(self.host)
        self.handles: dict[int, socket.socket] = {}
        """The other end of each descriptor that the tool has."""
        self.watch = selectors.DefaultSelector()
        self.waiting = None
        """(call, function) of the call on `calls` that waits: asked again after each step."""

    def now_us(self) -> int:
        return self.host.now // US_NS

    # messages

    def run(self):
        both = selectors.DefaultSelector()
        both.register(self.script, selectors.EVENT_READ)
        both.register(self.calls, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in both.select()]
            # a call that may wait was made before the script went on
            for channel in (self.calls, self.script):
                if channel in ready and not self.serve(channel):
                    return

    def serve(self, channel) -> bool:
        """One message; False where the other side has ended."""
        got = self.receive(channel, REQUEST.size)
        if got is None:
            return False
        data, passed = got
        length, number, now_us, handle, a, b, c = REQUEST.unpack(data)
        if length > REQUEST_BYTES_MOST:
            raise SystemExit(f"a message of {length} bytes: {REQUEST_BYTES_MOST} at most")
        got = self.receive(channel, length)
        if got is None:
            return False
        self.host.pass_until(max(self.host.now, now_us * US_NS))
        self.see_closed()
        call = Call(number)
        ask = self.asked(call, handle, (a, b, c), got[0], passed)
        if channel is self.calls:
            self.waiting = (call, ask)
            self.answer_waiting()
        else:
            self.reply(channel, call, *self.result(lambda: self.until_done(call, ask)))
        return True

    @staticmethod
    def receive(channel, size: int):
        """`size` bytes, and the descriptor that came with them."""
        data, passed = b"", []
        while len(data) < size:
            more, descriptors, _, _ = socket.recv_fds(channel, size - len(data), 1)
            passed += descriptors
            if not more:
                return None
            data += more
        return data, passed

    def reply(self, channel, call, result, code, data):
        if self.flags.trace:
            word = errno.errorcode.get(code, "") if code else ""
            print(f"{self.now_us()} {call.name} = {result} {word} {len(data)}", file=sys.stderr)
        head = REPLY.pack(len(data), result, code, self.now_us())
        channel.sendall(head + data)

    def result(self, ask):
        """(result, errno, bytes) of a call, or None where it waits."""
        try:
            found = ask()
        except OSError as error:
            return -1, error.errno, b""
        except Silence as error:
            print(f"hdsnic drill: {error}", file=sys.stderr)
            return -1, errno.EDEADLK, b""
        if found is WAIT:
            return None
        return (found[0], 0, found[1]) if isinstance(found, tuple) else (found, 0, b"")

    def until_done(self, call, ask):
        """A call of the script's own thread that waits: only time can end it."""
        found = []

        def done():
            found[:] = [ask()]
            return found[0] is not WAIT

        self.host.wait_for(done, f"{call.name} waits")
        return found[0]

    # what happens meanwhile

    def progress(self):
        self.sockets.see_events()
        if self.waiting:
            self.answer_waiting()

    def answer_waiting(self):
        """Ask again what the other thread waits for, and answer it where that is over."""
        (call, ask), self.waiting = self.waiting, None  # asking makes steps of its own
        found = self.result(ask)
        if found is None:
            self.waiting = (call, ask)
        else:
            self.reply(self.calls, call, *found)

    def see_closed(self):
        """Descriptors that the tool closed without a call."""
        for key, _ in self.watch.select(0):
            self.forget(key.data)
            self.sockets.close(key.data)

    def forget(self, handle):
        self.watch.unregister(self.handles[handle])
        self.handles.pop(handle).close()

    def keep(self, handle, passed):
        end = socket.socket(fileno=passed)
        self.handles[handle] = end
        self.watch.register(end, selectors.EVENT_READ, handle)

    # calls

    def asked(self, call: Call, handle: int, arguments: tuple, data: bytes, passed: list):
        """The call as a function without arguments, to be asked until it does not wait."""
        method = getattr(self, f"call_{call.name.lower()}")
        state = {}

        return lambda: method(handle, *arguments, data, passed, state)

    def call_time(self, *_):
        return 0

    def with_handle(self, data, passed, made):
        """Keep the descriptor that came along where `made` succeeds."""
        (handle,) = struct.unpack("=i", data)
        try:
            found = made(handle)
        except OSError:
            os.close(passed.pop())
            raise
        if found is not WAIT:
            self.keep(handle, passed.pop())
        return found

    def call_socket(self, _, domain, kind, protocol, data, passed, state):
        return self.with_handle(
            data, passed, lambda handle: self.sockets.socket(handle, domain, kind, protocol)
        )

    def call_accept(self, listener, dont_wait, _b, _c, data, passed, state):
        return self.with_handle(
            data, passed, lambda handle: self.sockets.accept(listener, handle, bool(dont_wait))
        )

    def call_bind(self, handle, _a, _b, _c, data, *_):
        return self.sockets.bind(handle, data)

    def call_listen(self, handle, backlog, *_):
        return self.sockets.listen(handle, backlog)

    def call_connect(self, handle, dont_wait, _b, _c, data, *_):
        return self.sockets.connect(handle, data, bool(dont_wait))

    def call_recv(self, handle, most, flags, dont_wait, *_):
        return self.sockets.recv(handle, most, flags, bool(dont_wait))

    def call_send(self, handle, _, flags, dont_wait, data, *_rest):
        return self.sockets.send(handle, data, flags, bool(dont_wait))

    def call_close(self, handle, *_):
        self.sockets.find(handle)
        self.forget(handle)
        return self.sockets.close(handle)

    def call_shutdown(self, handle, how, *_):
        return self.sockets.shutdown(handle, how)

    def call_getsockopt(self, handle, level, name, *_):
        return self.sockets.getsockopt(handle, level, name)

    def call_setsockopt(self, handle, level, name, _, data, *_rest):
        return self.sockets.setsockopt(handle, level, name, data)

    def call_ioctl(self, handle, request, *_):
        return self.sockets.ioctl(handle, request)

    def call_poll(self, _, timeout_ms, _b, _c, data, _passed, state):
        wanted = [(fd, events) for fd, events, _ in POLLFD.iter_unpack(data)]
        ready, found = self.sockets.poll(wanted)
        end = state.setdefault("end", self.host.now + timeout_ms * 1000 * US_NS)
        if not ready and (timeout_ms < 0 or self.host.now < end):
            if timeout_ms > 0:
                self.host.alarm = end
            return WAIT
        back = (POLLFD.pack(*one, revents) for one, revents in zip(wanted, found, strict=True))
        return ready, b"".join(back)

    def call_packet_in(self, _h, _a, _b, _c, data, *_):
        self.host.packet_in(data)
        return 0

    def call_packet_out(self, *_):
        sent, packet = self.host.packet_out()
        return 0, struct.pack("=q", sent // US_NS) + packet


def main():
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    flags = Flags.parse(sys.argv[3] if len(sys.argv) == 4 else "")
    script, calls = (socket.socket(fileno=int(word)) for word in sys.argv[1:3])
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the tool has ended
        Bridge(script, calls, flags).run()


if __name__ == "__main__":
    main()
