"""The peer's network namespace: a small process that makes it, holds it, and starts clients in it.

Run by `hdstack.cli.demo.peer` as `python -m hdstack.cli.demo.namespace`. It makes a network
namespace (without root: inside a user namespace of its own), in it an interface with the peer's
address whose other end is a file descriptor (a TAP, or a packet socket on a veth), sends that
descriptor to its parent and gives up every capability (with `tools`: all but those over networks,
which packet filters and scanners need; they hold in this namespace alone). Nothing has a name in
the file system, so when this process ends, whatever ends it, namespace, interface and clients are
gone.

Messages are JSON on a SOCK_SEQPACKET pair, descriptors beside them (SCM_RIGHTS):
`{"op": "run", "argv": [...]}` + [stdin, stdout, stderr, status pipe] -> `{"ok": true, "pid": n}`,
and when it ends its exit status is written to the pipe; `{"op": "socket", "family": 2, "kind": 1}`
-> a socket of this namespace, TCP over IPv4 where nothing else is said. The socket's end is the
process's end.

Imports the standard library alone: a user namespace is refused to a process with threads, and
numpy starts some.
"""

import array
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_CAP_NET_ADMIN, _CAP_NET_RAW = 12, 13
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_SIOCETHTOOL = 0x8946
_OFFLOADS = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_ETH_P_ALL = 3
_QUEUE_FRAMES = "10000"
INTERFACE, FAR_END = "hdsnic0", "hdsnic1"

_libc = ctypes.CDLL(None, use_errno=True)


class _Refused(Exception):
    """The system does not allow a step; the message names it."""


def _call(result: int, what: str) -> None:
    if result:
        raise _Refused(f"{what}: {os.strerror(ctypes.get_errno())}")


def _unshare(user: bool) -> None:
    uid, gid = os.getuid(), os.getgid()
    if not user:
        _call(_libc.unshare(CLONE_NEWNET), "a network namespace")
        return
    _call(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET), "an unprivileged user namespace")
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {uid} 1"),
            ("gid_map", f"0 {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise _Refused(f"the user namespace's {name}: {error.strerror}") from None


def _ip(*words: str) -> str:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        raise _Refused("the program `ip` is missing (apt install iproute2)") from None
    if done.returncode:
        raise _Refused(f"ip {' '.join(words)}: {done.stderr.strip() or 'failed'}")
    return done.stdout


def open_tap(name: str) -> int:
    """A TAP device whose frames are read and written whole. Raises OSError with the file's name."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(tap)
        raise OSError(error.errno, error.strerror, "/dev/net/tun") from None
    return tap


def _tap() -> int:
    try:
        return open_tap(INTERFACE)
    except OSError as error:
        raise _Refused(f"/dev/net/tun: {error.strerror}") from None


def _without_offloads(interface: str) -> None:
    """Checksums and segments are to be whole in every frame, as on a wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name, command in _OFFLOADS.items():
            value = array.array("I", [command, 0])
            request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
            except OSError as error:
                if name == "tx":
                    raise _Refused(f"checksum offload off: {error.strerror}") from None


def _veth() -> int:
    _ip("link", "add", "name", INTERFACE, "type", "veth", "peer", "name", FAR_END)
    for interface in (INTERFACE, FAR_END):
        _without_offloads(interface)
        _no_ipv6(interface)
    _ip("link", "set", FAR_END, "up")
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    packet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    packet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    packet.bind((FAR_END, _ETH_P_ALL))
    return packet.detach()


def _await_carrier(interface: str) -> None:
    """A veth drops what is sent until the kernel has noticed, within a second, that both are up."""
    deadline = time.monotonic() + 5
    while _ip("-br", "link", "show", "dev", interface).split()[1] != "UP":
        if time.monotonic() > deadline:
            raise _Refused(f"{interface} has no carrier")
        time.sleep(0.01)


def _no_ipv6(interface: str) -> None:
    # only to keep router solicitations out of the demo's table, so a refusal does no harm
    with (
        contextlib.suppress(OSError),
        open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", "w", encoding="ascii") as file,
    ):
        file.write("1")


def _drop_capabilities(kept: int) -> None:
    """For good: the bounding set is `kept` too, so no program started from here gets one back."""
    header = struct.pack("Ii", 0x20080522, 0)
    sets = struct.pack("3I3I", kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable
    _call(_libc.capset(header, sets), "dropping the capabilities")
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in ("CapEff", "CapPrm", "CapBnd") and int(value, 16) & ~kept:
                raise _Refused(f"dropping the capabilities: still {line.strip()}")


def set_up(link: str, address: str, user: bool, uid: int | None, address6: str | None,
           tools: bool) -> int:  # fmt: skip
    """Make the namespace and the interface; returns the descriptor of its far end."""
    kept = 1 << _CAP_NET_ADMIN | 1 << _CAP_NET_RAW if tools else 0
    _unshare(user)
    far_end = _tap() if link == "tap" else _veth()
    if address6 is None:
        _no_ipv6(INTERFACE)
    else:  # "nodad": it is to be there at once, and nobody else has it
        _ip("address", "add", address6, "dev", INTERFACE, "nodad")
    _ip("address", "add", address, "dev", INTERFACE)
    _ip("link", "set", "lo", "up")
    # The card is slower than the kernel: this wire keeps what a window holds, and loses nothing.
    _ip("link", "set", INTERFACE, "mtu", "1500", "txqueuelen", _QUEUE_FRAMES, "up")
    if link == "veth":
        _await_carrier(INTERFACE)
        _await_carrier(FAR_END)
    for capability in range(64):  # while there is still the one that allows it
        if not kept >> capability & 1:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if uid is not None and not tools:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _drop_capabilities(kept)
    return far_end


def _die_with(parent: int) -> None:
    _call(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "the death signal")
    if os.getppid() != parent:
        raise _Refused("the parent has ended")


def _run(argv: list[str], streams: list[int], started: threading.Event, result: dict) -> None:
    """Start a client and wait for it; its death signal is tied to this thread, so it must wait."""
    stdin, stdout, stderr, status = streams
    try:
        child = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd="/",
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )  # fmt: skip
        result["pid"] = child.pid
    except OSError as error:
        result["error"] = f"{argv[0]}: {error.strerror}"
    finally:
        for stream in (stdin, stdout, stderr):
            os.close(stream)
        started.set()
    if "pid" in result:
        code = child.wait()
        with contextlib.suppress(OSError):
            os.write(status, str(code).encode())
    os.close(status)


def serve(parent: socket.socket) -> None:
    """Answer the parent's messages until it closes its end."""
    while True:
        message, fds, _, _ = socket.recv_fds(parent, 65536, 8)
        if not message:
            return
        request = json.loads(message)
        if request["op"] == "run":
            result: dict = {}
            started = threading.Event()
            threading.Thread(
                target=_run, args=(request["argv"], fds, started, result), daemon=True
            ).start()
            started.wait(30)
            parent.send(json.dumps({"ok": "pid" in result, **result}).encode())
        elif request["op"] == "socket":
            family = request.get("family", socket.AF_INET)
            with socket.socket(family, request.get("kind", socket.SOCK_STREAM)) as made:
                socket.send_fds(parent, [b'{"ok": true}'], [made.fileno()])
        else:
            parent.send(json.dumps({"ok": False, "error": f"no such op: {request['op']}"}).encode())


def main() -> None:
    settings = json.loads(sys.argv[1])
    parent = socket.socket(fileno=settings["fd"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        far_end = set_up(
            settings["link"], settings["address"], settings["user"], settings.get("uid"),
            settings.get("address6"), settings.get("tools", False),
        )  # fmt: skip
        _die_with(settings["parent"])
    except Exception as error:
        text = str(error) or type(error).__name__
        parent.send(json.dumps({"ok": False, "error": text}).encode())
        sys.exit(1)
    socket.send_fds(parent, [b'{"ok": true}'], [far_end])
    os.close(far_end)
    serve(parent)


if __name__ == "__main__":
    main()
