"""A capture file as the other end of the wire: its frames come in, what goes out is discarded."""

import select
import socket
import threading
from pathlib import Path

from .pcapng import read_frames

__all__ = ["Replay"]


class Replay:
    """Plays the frames of a pcapng file, once and as fast as the card takes them.

    `fd` is the card's end of the wire. Raises LinkError where the file is not pcapng.
    """

    def __init__(self, path: Path):
        self._frames = [frame.data for frame in read_frames(path)]
        near, self._far = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        self.fd = near.detach()

    def start(self):
        """Begin, in a thread that ends with the card's end of the wire."""
        threading.Thread(target=self._play, name="replay", daemon=True).start()

    def _play(self):
        waiting = iter(self._frames)
        frame = next(waiting, None)
        poll = select.poll()
        with self._far:
            while True:
                poll.register(self._far, select.POLLIN | (select.POLLOUT if frame else 0))
                poll.poll()
                try:
                    if frame:
                        self._far.send(frame)
                        frame = next(waiting, None)
                except BlockingIOError:
                    pass
                except OSError:
                    return
                try:
                    if not self._far.recv(65536):
                        return
                except BlockingIOError:
                    pass
                except OSError:
                    return
