"""The control socket: clients, their messages, and what happens when they misbehave.

One thread serves the socket between two runs of the card. A client that sends what is no message,
sends too much, or does not read its answers is closed, with everything that it had; the others do
not notice. Each turn takes only a few messages of each client, so a storm delays nobody for long.
"""

import contextlib
import os
import select
import socket
import struct
import time
from collections import Counter, deque
from pathlib import Path

from hdstack.errors import ServiceError
from hdstack.messages import BadMessage, close_all, listen, receive, send

from .errors import DeviceError

__all__ = ["Client", "ControlSocket"]

CLIENTS_MAX = 256
CLIENTS_PER_USER = 64
MESSAGES_PER_TURN = 8
BURST, PER_SECOND = 256, 64
"""Messages that a client may send at once, and in the long run; more ends its connection."""
UNSENT_MAX = 256
"""Answers and notices kept for a client that does not read them now."""
HELLO_SECONDS = 10.0
"""For the first message of a client; a silent one is sent away when another comes later."""


class Client:
    """A connection. `role` and `state` belong to the handler; `role` is None before its hello."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self.connection = connection
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid, self.uid, _ = struct.unpack("iII", credentials)
        self.role: str | None = None
        self.state = None
        self.closed = False
        self.watched = select.EPOLLIN
        self.unsent: deque[tuple[dict, list[int]]] = deque()
        self.since = self._counted = time.monotonic()
        self._allowance = float(BURST)

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict, descriptors=()):
        """Send now, or as soon as the client reads; the descriptors stay the caller's."""
        if self.closed:
            return
        if not self.unsent:
            try:
                send(self.connection, message, descriptors)
                return
            except BlockingIOError:
                pass
            except OSError:
                self.closed = True
                return
        if len(self.unsent) >= UNSENT_MAX:
            self.closed = True
            return
        self.unsent.append((message, [os.dup(fd) for fd in descriptors]))

    def flush(self):
        """Send what waits, as far as the client reads."""
        while self.unsent and not self.closed:
            message, descriptors = self.unsent[0]
            try:
                send(self.connection, message, descriptors)
            except BlockingIOError:
                return
            except OSError:
                self.closed = True
                return
            close_all(descriptors)
            self.unsent.popleft()

    def spend(self) -> bool:
        """Count a message; False when it is one too many."""
        now = time.monotonic()
        more = (now - self._counted) * PER_SECOND
        self._allowance = min(BURST, self._allowance + more) - 1
        self._counted = now
        return self._allowance >= 0

    def close(self):
        self.closed = True
        while self.unsent:
            close_all(self.unsent.popleft()[1])
        self.connection.close()


class ControlSocket:
    """Listens at `path`; `epoll` is readable when `serve` has something to do.

    `handler(client, message, descriptors)` answers a message and does not keep the descriptors;
    `ended(client)` is called once for each client that is gone.
    """

    def __init__(self, path: Path, epoll: select.epoll, handler, ended):
        self._epoll, self._handler, self._ended = epoll, handler, ended
        self._path = path
        self._clients: dict[int, Client] = {}
        self._users: Counter[int] = Counter()
        try:
            self._listener = listen(path, "device")
        except ServiceError as error:
            raise DeviceError(str(error)) from None
        self._epoll.register(self._listener, select.EPOLLIN)

    def serve(self, events: dict[int, int]):
        """Take what `epoll` reported: descriptor -> events."""
        if self._listener.fileno() in events:
            self._accept()
        for fd, event in events.items():
            client = self._clients.get(fd)
            if client is None:
                continue
            if event & select.EPOLLOUT:
                client.flush()
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(client)
        self.sweep()

    def sweep(self):
        """Part with the clients that are done for, and watch the others for what they need."""
        late = time.monotonic() - HELLO_SECONDS
        again = True
        while again:  # parting with one sends notices, which may end another
            again = False
            for fd, client in list(self._clients.items()):
                if client.closed or (client.role is None and client.since < late):
                    self._epoll.unregister(fd)
                    del self._clients[fd]
                    self._users[client.uid] -= 1
                    client.close()
                    self._ended(client)
                    again = True
        for fd, client in self._clients.items():
            wanted = select.EPOLLIN | (select.EPOLLOUT if client.unsent else 0)
            if wanted != client.watched:
                self._epoll.modify(fd, wanted)
                client.watched = wanted

    def close(self):
        """Close every connection without telling the handler."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._listener.close()

    def _accept(self):
        self.sweep()
        for _ in range(MESSAGES_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            client = Client(connection)
            if len(self._clients) >= CLIENTS_MAX or self._users[client.uid] >= CLIENTS_PER_USER:
                client.send({"ok": False, "error": "the device has too many connections"})
                client.close()
                continue
            self._users[client.uid] += 1
            self._clients[client.fileno()] = client
            self._epoll.register(client, select.EPOLLIN)

    def _read(self, client):
        for _ in range(MESSAGES_PER_TURN):
            if client.closed:
                return
            try:
                got = receive(client.connection)
            except BlockingIOError:
                return
            except BadMessage as error:
                client.send({"ok": False, "error": str(error)})
                client.closed = True
                return
            except OSError:
                got = None
            if got is None:
                client.closed = True
                return
            message, descriptors = got
            try:
                if not client.spend():
                    client.send({"ok": False, "error": "too many requests in a short time"})
                    client.closed = True
                else:
                    self._handler(client, message, descriptors)
            finally:
                close_all(descriptors)
