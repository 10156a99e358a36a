"""The application's end of its channel with the stack: requests out, events in.

Indices go through acquire and release; to sleep, need-wake is set, fenced, and the index read
again; a wake is one byte on a socket pair that is never waited for.
"""

import contextlib
import os
import socket
import struct
from collections import deque
from pathlib import Path

from hdsnic import abi

from .. import memory
from ..atomic import load_acquire, prepare_sleep, publish, store_release
from ..errors import ServiceError
from ..messages import connect, request
from ..service import state

__all__ = ["Channel"]

_REQUEST = struct.Struct("<HHIIIHHIII")
_EVENT = struct.Struct("<HHIIIHHIII")
assert _REQUEST.size == _EVENT.size == state.ROW_BYTES


class Channel:
    """Attach with the `token` that the device gave; `regions` must be known to the stack."""

    def __init__(self, run_directory, token: str, regions: list[int]):
        self.wake, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wake.setblocking(False)
        self.control = connect(Path(run_directory) / "stack.sock", "stack process")
        try:
            hello = {"role": "application", "abi": abi.ABI_VERSION, "token": token,
                     "regions": regions}  # fmt: skip
            self.hello, (fd,) = request(
                self.control, hello, (far.fileno(),), "stack process", expect=1
            )
        except BaseException:
            self.wake.close()
            self.control.close()
            raise
        finally:
            far.close()
        try:
            told = tuple(self.hello.get(n) for n in ("request_rows", "event_rows", "bytes"))
            known = state.REQUEST_ROWS, state.EVENT_ROWS, state.CHANNEL_BYTES
            if told != known:
                raise ServiceError(
                    f"the stack's channel has the sizes {told}, this library knows {known}; use"
                    " stack and library of the same release"
                )
            memory.check(fd, state.CHANNEL_BYTES)
            self._mapping = memory.Mapping(fd, state.CHANNEL_BYTES)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(fd)
        self.control.setblocking(False)
        self._words = self._mapping.words
        self._memory = self._mapping.memory
        self._requested = self._told = 0
        self._consumed = 0
        self._waiting: deque[tuple] = deque()

    # -- requests ----------------------------------------------------------------------------

    def ask(self, kind, *, port=0, socket=0, connection=0, address=0, region=0, generation=0,
            offset=0, length=0, spare=0) -> None:  # fmt: skip
        """Queue one request; it is published by the next `flush`, in order."""
        self._waiting.append(
            (kind, port, socket, connection, address, region, generation, offset, length, spare)
        )

    def flush(self) -> None:
        """Publish requests, as many as the ring takes; wake the stack if it sleeps."""
        words = self._words
        while self._waiting:
            consumer = load_acquire(words, state.REQUEST_CONSUMER)
            used = (self._requested - consumer) & 0xFFFFFFFF
            room = state.REQUEST_ROWS - used
            if room <= 0:
                # Ask for a wake when there is room; look again, lest it came meanwhile.
                if prepare_sleep(words, state.NEED_SPACE, state.REQUEST_CONSUMER) == consumer:
                    break
                continue
            for _ in range(min(room, len(self._waiting))):
                at = state.REQUESTS_AT + self._requested % state.REQUEST_ROWS * state.ROW_BYTES
                _REQUEST.pack_into(self._memory, at, *self._waiting.popleft())
                self._requested = (self._requested + 1) & 0xFFFFFFFF
        else:
            store_release(words, state.NEED_SPACE, 0)
        if self._requested != self._told:
            self._told = self._requested
            if publish(words, state.REQUEST_PRODUCER, self._requested, state.NEED_WAKE_STACK):
                self._rouse()

    def _rouse(self):
        # An error is no harm. Full: a wake is on its way; gone: the control socket tells.
        with contextlib.suppress(OSError):
            self.wake.send(b"\0", socket.MSG_DONTWAIT)

    # -- events ------------------------------------------------------------------------------

    def events(self) -> list[tuple]:
        """All events that have come: (kind, port, socket, connection, address, region, reason,
        offset, length, spare) each. They are taken out of the ring at once, by one copy."""
        words = self._words
        producer = load_acquire(words, state.EVENT_PRODUCER)
        count = (producer - self._consumed) & 0xFFFFFFFF
        if count > state.EVENT_ROWS:
            raise ServiceError("the stack's event index is beyond the ring; the channel is broken")
        out = []
        first = self._consumed % state.EVENT_ROWS
        for start, rows in (
            (first, min(count, state.EVENT_ROWS - first)),
            (0, max(0, first + count - state.EVENT_ROWS)),
        ):
            at = state.EVENTS_AT + start * state.ROW_BYTES
            out += _EVENT.iter_unpack(self._memory[at : at + rows * state.ROW_BYTES])
        if count:
            self._consumed = producer
            # The stack waits for room only when the ring is full, so only a large catch can be
            # what it waits for.
            asleep = publish(words, state.EVENT_CONSUMER, producer, state.NEED_WAKE_STACK)
            if asleep and count >= state.EVENT_ROWS // 2:
                self._rouse()
        return out

    def may_sleep(self) -> bool:
        """Ask the stack to wake us; False where an event has come meanwhile."""
        return (
            prepare_sleep(self._words, state.NEED_WAKE_APPLICATION, state.EVENT_PRODUCER)
            == self._consumed
        )

    def awake(self) -> bool:
        """Take the wake-ups; False where the stack is gone."""
        store_release(self._words, state.NEED_WAKE_APPLICATION, 0)
        try:
            for _ in range(64):
                if not self.wake.recv(16, socket.MSG_DONTWAIT):
                    return False
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leave the stack; it resets what is still open."""
        self.control.close()
        self.wake.close()
        self._words = self._memory = None
        if mapping := getattr(self, "_mapping", None):
            mapping.close()
