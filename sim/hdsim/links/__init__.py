"""Links: what the card's wire is connected to, always one descriptor with one frame a call.

`open_link` makes one from a name, as the command line gives it; `wire_pair` connects two cards.
Frames are Ethernet without FCS.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import LinkError
from .impairment import Impairment
from .replay import Replay

__all__ = ["Impairment", "Link", "open_link", "wire_pair"]

FORMS = "tap:NAME, packet:INTERFACE, pcap:FILE, fd:NUMBER or none"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_BUFFER_BYTES = 4 << 20
"""Of a socket: some thousand frames, so that a burst waits instead of being lost."""


@dataclass
class Link:
    """An open link: `fd` for `Card.set_link` (-1: no wire), and how it was called.

    `waits_for_receive`: frames are held until reception is switched on, as a file can wait.
    `start` begins what the link needs beside the card, in the process that runs it.
    """

    fd: int
    name: str
    waits_for_receive: bool = False
    start: Callable[[], None] = lambda: None

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_link(link: str | int) -> Link:
    """Open a link by its name (see `FORMS`), or take over a descriptor that is open.

    A TAP device is made if it does not exist; a packet socket takes all frames of an interface.
    `pcap:FILE` replays a capture once, from the moment that the card receives. Raises LinkError.
    """
    if isinstance(link, int):
        link = f"fd:{link}"
    kind, _, name = link.partition(":")
    try:
        if kind == "tap" and 0 < len(name) < 16:
            return Link(_tap(name), link)
        if kind == "packet" and name:
            return Link(_packet(name), link)
        if kind == "pcap" and name:
            replay = Replay(Path(name))
            return Link(replay.fd, link, waits_for_receive=True, start=replay.start)
        if kind == "fd" and name.isdigit():
            os.set_blocking(int(name), False)
            return Link(int(name), link)
    except OSError as error:
        raise LinkError(f"the link {link!r} cannot be opened: {error}") from error
    if link == "none":
        return Link(-1, link)
    raise LinkError(f"there is no link {link!r}; it must be {FORMS}")


def wire_pair() -> tuple[int, int]:
    """The two ends of a wire: a frame written to one is read from the other, none is lost."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends[0].detach(), ends[1].detach()


def _tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def _packet(name: str) -> int:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        packet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        packet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        packet.bind((name, _ETH_P_ALL))
    except OSError:
        packet.close()
        raise
    return packet.detach()
