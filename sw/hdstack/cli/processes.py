"""`hdsnic device` and `hdsnic stack`: the two processes below every application."""

import ipaddress
import os
import re
import socket
from pathlib import Path

from .common import make_run_directory, say
from .errors import CommandError

__all__ = ["run_device", "run_stack"]


def _socket_by_name(name: str) -> int:
    """A packet socket on an interface, for `--link packet:NAME`."""
    try:
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        packet.bind((name, 3))
    except PermissionError:
        raise CommandError(f"a packet socket on {name} needs root (CAP_NET_RAW)") from None
    except OSError as error:
        raise CommandError(f"a packet socket on {name!r}: {error.strerror}") from None
    return packet.detach()


def _tap_by_name(name: str) -> int:
    from .demo.namespace import open_tap

    try:
        return open_tap(name)
    except OSError as error:
        raise CommandError(f"TAP {name!r}: {error.strerror} ({error.filename})") from None


def open_link(link: str) -> int:
    """The descriptor that carries the card's frames, one a read or write."""
    kind, _, name = link.partition(":")
    if kind == "fd" and name.isdigit():
        try:
            os.fstat(int(name))
        except OSError:
            raise CommandError(f"--link {link}: no such descriptor is open") from None
        return int(name)
    if kind in ("tap", "packet") and re.fullmatch(r"[^\s/]{1,15}", name):
        return _tap_by_name(name) if kind == "tap" else _socket_by_name(name)
    raise CommandError(f"--link is {link!r}; it must be tap:NAME, packet:INTERFACE or fd:NUMBER")


def run_device(
    run_directory: Path,
    link: str,
    bus_bytes: int,
    capture: Path | None,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
) -> None:
    """Run the simulated card in this process."""
    from hdsnic.parameters import Parameters

    parameters = Parameters(bus_bytes=bus_bytes)
    wire = open_link(link)
    make_run_directory(run_directory)
    from hdsim import device

    device.main(
        run_directory, wire, parameters, capture=capture, uid=uid, ready_fd=ready_fd,
        parent_pid=parent_pid,
    )  # fmt: skip


def run_stack(
    run_directory: Path,
    address: str,
    mac: str,
    gateway: str | None,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
) -> None:
    """Run the stack in this process."""
    try:
        ipaddress.IPv4Interface(address)
        if gateway is not None:
            ipaddress.IPv4Address(gateway)
    except ValueError as error:
        raise CommandError(f"{error}; an address is given as 10.77.0.2/24") from None
    if not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac):
        raise CommandError(f"--mac is {mac!r}; it must be six bytes, as in 02:68:64:73:00:02")
    if not (run_directory / "device.sock").exists():  # told before all is compiled
        raise CommandError(
            f"no device runs in {run_directory}; start one by hdsnic device, or is it running with"
            " another --run?"
        )
    from .. import service

    if ready_fd is None:
        say.print(f"stack of {address} in {run_directory}; Ctrl-C ends it", soft_wrap=True)
    service.main(
        run_directory, address, mac, uid=uid, ready_fd=ready_fd, parent_pid=parent_pid,
        gateway=gateway,
    )  # fmt: skip
