"""The stack process: device and applications meet here, TCP runs here.

`main` is the whole process; `warm` fills the compile cache; `observe` asks a running stack.
"""

import contextlib
import ipaddress
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import memory
from ..errors import ConfigurationError
from ..messages import ANSWER_BYTES, connect, listen, request

__all__ = ["main", "observe", "warm"]


def warm() -> None:
    """Compile, or load from the cache, everything that the stack process runs."""
    import numpy as np

    from .. import atomic
    from ..driver.device import HeaderMemory, _await_answer, _post
    from ..driver.layout import HeaderLayout
    from ..net import placing
    from ..tcp import core, tables
    from . import server, state
    from .burst import burst
    from .bursts import bursts

    atomic.warm()
    words = np.zeros(1024 * 17, np.uint32)
    _post(words, 0, 0, 0, 0)
    _await_answer(words, 0, 1)
    s = tables.allocate()
    tables.initialise(s, bytes(6), 1, 0, 0, bytes(16))
    io = np.zeros(1, state.SERVICE)[0]
    header = HeaderMemory(HeaderLayout(queues=1, ring_bytes=4096))
    io["ring_bytes"] = 4096
    channels = np.zeros(16 * state.CHANNEL_WORDS, np.uint32)
    server._ask_for_wakes(io, channels, 0)
    core.set_queue(s, 1, 50000, 50001)
    core.set_region(s, 0, 1, 1, 2048, 4096, 1)
    core.clear_region(s, 0)
    core.listener_ready(s, 0, 0)
    core.probe_addresses(s, 0)
    core.endpoint_ready(s, 0, 0)
    core.on_attach_tx(s, 1)
    core.next_segment(s, 1)
    core.drop_owner(s, 1, 0)
    arguments = (
        s, io, header.slots, words, header.rings, header.rings.view(np.int64), header.area,
        channels, state.NO_POOLS,
    )  # fmt: skip
    burst(*arguments, 0)
    bursts(*arguments, 0, 0, 0)
    placing.drop_queue(s, 1)
    placing.next_place(s)
    placing.place_answered(s, 0, False, 0)
    header.close()


def _address(text: str, gateway: str | None):
    try:
        interface = ipaddress.IPv4Interface(text)
        hop = ipaddress.IPv4Address(gateway) if gateway else None
    except ValueError as error:
        raise ConfigurationError(
            f"address {text!r}, gateway {gateway!r}: {error}; give them as 10.77.0.2/24 and"
            " 10.77.0.1"
        ) from None
    return int(interface.ip), interface.network.prefixlen, int(hop) if hop else 0


def _further(addresses, gateway6: str | None, mac: bytes):
    """Interfaces and routes beyond the first IPv4 address; with IPv6 comes one of the link."""
    try:
        interfaces = [ipaddress.ip_interface(text) for text in addresses]
        hop = ipaddress.IPv6Address(gateway6) if gateway6 else None
    except ValueError as error:
        raise ConfigurationError(
            f"addresses {', '.join(addresses)}, IPv6 gateway {gateway6!r}: {error}; give them as"
            " fd00:77::2/64 and fd00:77::1"
        ) from None
    ipv6 = any(each.version == 6 for each in interfaces)
    if ipv6 and not any(each.ip.is_link_local for each in interfaces):
        # RFC 4291 appendix A
        host = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
        own = ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + host)
        interfaces.append(ipaddress.IPv6Interface((own, 64)))
    if hop and not ipv6:
        raise ConfigurationError(f"IPv6 gateway {gateway6} is given, but no IPv6 address")
    return interfaces, [(ipaddress.IPv6Network("::/0"), hop)] if hop else []


def _mac(text: str) -> bytes:
    try:
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1:
        raise ConfigurationError(
            f"MAC address {text!r}: six bytes in hexadecimal are needed, and no multicast address,"
            " for example 02:68:64:73:00:02"
        )
    return mac


def main(run_directory, address: str, mac: str, *, uid: int | None = None, gid: int | None = None,
         ready_fd: int | None = None, parent_pid: int | None = None, gateway: str | None = None,
         mtu: int = 1500, addresses: Sequence[str] = (),
         gateway6: str | None = None, tso: bool = True, checksums: bool = True,
         scaling: bool = False, probe: bool = True,
         on_ready: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    """Run the stack process until SIGTERM or SIGINT, or until its parent or the device ends.

    Parameters
    ----------
    run_directory: where the device's `device.sock` is; `stack.sock` is made there.
    address: IPv4 with prefix, "10.77.0.2/24". gateway: next hop for other networks.
    mac: MAC address of the card, "02:68:64:73:00:02".
    uid, gid: become this user (needs root) once everything is imported and compiled.
    on_ready: called when traffic can flow.
    ready_fd: "ready" and a newline are written here when traffic can flow; then it is closed.
    parent_pid: end with this parent process.
    mtu: largest IP packet, in bytes.
    addresses: further addresses of either family, with prefix, "fd00:77::2/64"; with IPv6 comes an
        address of the link by itself.
    gateway6: next hop for other IPv6 networks.
    probe: ask for a second whether another host has our addresses, before they are used.
    tso: let the card cut large sends into segments.
    checksums: let the card insert checksums; else the stack makes them, which reads payload, and
        the card cuts nothing.
    scaling: steer by way of the card's receive-side scaling.

    Raises HdstackError, with one sentence, if it cannot start, if another host has one of the
    addresses, or if the device ends.
    """
    own, prefix, hop = _address(address, gateway)
    hardware = _mac(mac)
    interfaces, routes = _further(addresses, gateway6, hardware)
    warm()
    from ..driver import DeviceProcess
    from .server import Server

    path = Path(run_directory) / "stack.sock"
    listener = listen(path, "stack process")
    if uid is not None:
        memory.drop_to(uid, gid)
    memory.harden()
    if parent_pid is not None:
        memory.die_with_parent(parent_pid)
    server = Server(
        DeviceProcess(run_directory),
        listener,
        hardware,
        own,
        prefix,
        hop,
        mtu,
        interfaces,
        routes,
        tso,
        checksums,
        scaling,
    )
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    signal.set_wakeup_fd(server.stop_descriptor(), warn_on_full_buffer=False)
    try:
        if probe:
            server.claim_addresses()
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)
        on_ready()
        server.run()
    finally:
        signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError):
            path.unlink()
        server.close()


def observe(run_directory, operation: str) -> dict:
    """What a running stack tells an observer: `stats`, `maps` or `connections`; at most 5 s."""
    with connect(Path(run_directory) / "stack.sock", "stack process") as control:
        request(control, {"role": "observer"}, what="stack process")
        return request(control, {"op": operation}, what="stack process", limit=ANSWER_BYTES)[0]
