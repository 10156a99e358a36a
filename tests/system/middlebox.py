"""A router on the wire between a kernel and the card, that cuts what the kernel sends.

Frames are carried both ways by a thread. With `cut` set, packets of TCP towards the card leave as
fragments of about so many bytes, in any order, some of them twice and some never; with `wrap`,
those of IPv6 get a fragment header although they are whole (RFC 6946). scapy does the cutting.
"""

import contextlib
import os
import random
import select
import socket
import threading

from scapy.layers.inet import IP, TCP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether

_FRAME_BYTES = 16384


class Middlebox:
    """Between `kernel_fd` and the descriptor `card_fd`, which is for the device process."""

    def __init__(self, kernel_fd: int):
        self._kernel = kernel_fd
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._near, self.card_fd = near, far.detach()
        near.setblocking(False)
        self.cut = 0
        self.wrap = False
        self.fragments = self.packets = self.lost = 0
        self._chance = random.Random(20)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopping.is_set():
            ready, _, _ = select.select([self._kernel, self._near], [], [], 0.1)
            if self._kernel in ready:
                with contextlib.suppress(BlockingIOError):
                    for frame in self._treat(os.read(self._kernel, _FRAME_BYTES)):
                        self._near.send(frame)
            if self._near in ready:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._kernel, self._near.recv(_FRAME_BYTES))

    def _treat(self, frame):
        if not (self.cut or self.wrap):
            return [frame]
        packet = Ether(frame)
        if TCP not in packet:
            return [frame]
        header = Ether(src=packet.src, dst=packet.dst)
        self.packets += 1
        if IPv6 in packet:
            ip = IPv6(src=packet[IPv6].src, dst=packet[IPv6].dst, hlim=packet[IPv6].hlim)
            ip /= IPv6ExtHdrFragment(nh=6, id=self.packets)
            whole = ip / packet[IPv6].payload
            parts = [whole] if self.wrap else fragment6(whole, self.cut)
        elif self.cut:
            packet[IP].flags, packet[IP].id = 0, self.packets & 0xFFFF
            parts = fragment(packet[IP], self.cut)
        else:
            return [frame]
        frames = [bytes(header / part) for part in parts]
        if len(frames) > 1:
            frames += [one for one in frames if self._chance.random() < 0.1]
            self._chance.shuffle(frames)
            if self._chance.random() < 0.02:
                frames.pop()
                self.lost += 1
            self.fragments += len(frames)
        return frames

    def close(self):
        self._stopping.set()
        self._thread.join(10)
        self._near.close()
        with contextlib.suppress(OSError):
            os.close(self.card_fd)
