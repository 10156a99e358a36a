"""`hdsnic device` and `hdsnic stack`: the two processes below every application."""

import ipaddress
import re
from pathlib import Path

from .common import make_run_directory, say
from .errors import CommandError

__all__ = ["run_device", "run_stack"]


def run_device(
    run_directory: Path,
    link: str,
    bus_bytes: int,
    capture: Path | None,
    impair: str | None,
    uid: int | None,
    stack_uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
) -> None:
    """Run the simulated card in this process."""
    from hdsnic.parameters import Parameters

    parameters = Parameters(bus_bytes=bus_bytes)
    from hdsim import device
    from hdsim.links import Impairment

    impairment = None if impair is None else Impairment.parse(impair)
    make_run_directory(run_directory)
    device.main(
        run_directory, link, parameters, capture=capture, uid=uid, stack_uid=stack_uid,
        ready_fd=ready_fd, parent_pid=parent_pid, impairment=impairment,
    )  # fmt: skip


def run_stack(
    run_directory: Path,
    address: str,
    mac: str,
    gateway: str | None,
    also: list[str],
    gateway6: str | None,
    probe: bool,
    tso: bool,
    checksums: bool,
    scaling: bool,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
) -> None:
    """Run the stack in this process."""
    try:
        ipaddress.IPv4Interface(address)
        if gateway is not None:
            ipaddress.IPv4Address(gateway)
        for text in also:
            ipaddress.ip_interface(text)
        if gateway6 is not None:
            ipaddress.IPv6Address(gateway6)
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

    def on_ready() -> None:
        if ready_fd is None:
            say.print(f"stack of {address} in {run_directory}; Ctrl-C ends it", soft_wrap=True)

    service.main(
        run_directory, address, mac, uid=uid, ready_fd=ready_fd, parent_pid=parent_pid,
        gateway=gateway, addresses=also, gateway6=gateway6, probe=probe, tso=tso,
        checksums=checksums, scaling=scaling, on_ready=on_ready,
    )  # fmt: skip
