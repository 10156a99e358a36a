"""The card as the driver sees it: registers, doorbells, header memory, wake-ups, notices.

`Device` is the small interface; `DeviceProcess` speaks it with the simulated card (a process of
its own) over its control socket, a mailbox page and doorbell pages. `hdstack.driver.card` builds
on it and knows nothing of processes.
"""

import contextlib
import os
import select
import socket
import time
from collections import deque
from pathlib import Path
from typing import Protocol

import numpy as np

from hdsnic import abi

from .. import memory
from ..atomic import fence, load_acquire, store_release
from ..errors import DeviceError, HdstackError, ServiceError
from ..messages import ANSWER_BYTES, close_all, connect, receive, request, send
from ..native import compiled
from .layout import AREA_BYTES, HeaderLayout

__all__ = ["Device", "DeviceProcess", "HeaderMemory", "observe"]

_READ, _WRITE = 1, 2
_WORD_SEQ, _WORD_OP, _WORD_ADDRESS, _WORD_VALUE, _WORD_ANSWER, _WORD_STATUS = range(6)
NEED_WAKE_WORD = 16
"""Word of page 0 that the device sets before it sleeps (byte 64)."""

PAGE_WORDS = memory.PAGE // 4
_SPINS = 2000
_ANSWER_SECONDS = 5.0


class HeaderMemory:
    """The stack's header memory: `slots` (index slots, uint32), `control` (bytes of the index
    slots, command and completion rings), `rings`, flat bytes with every receive and transmit ring
    twice in a row (ring n of `layout.rings` begins at n x 2 x ring_bytes), and `area`, the bytes
    that the stack keeps for itself."""

    def __init__(self, layout: HeaderLayout | None = None):
        self.layout = layout or HeaderLayout()
        self.fd = memory.create("hdsnic-header", self.layout.bytes)
        memory.add_seals(self.fd, memory.SIZE_SEALS)
        self._control = memory.Mapping(self.fd, self.layout.control_bytes)
        self._rings = memory.RingMapping(self.fd, self.layout.rings, self.layout.ring_bytes)
        self._area = memory.Mapping(self.fd, AREA_BYTES, self.layout.area)
        self.control = self._control.array
        self.area = self._area.array
        self.slots = self._control.words[: memory.PAGE // 4]
        self.rings = self._rings.array.reshape(-1)

    def close(self) -> None:
        """Unmap; no array of this memory may be in use any more."""
        self.slots = self.control = self.rings = self.area = None
        self._control.close()
        self._area.close()
        self._rings.close()
        with contextlib.suppress(OSError):
            os.close(self.fd)


class Device(Protocol):
    """What a card offers to its driver, whatever carries it."""

    header: HeaderMemory
    doorbells: np.ndarray
    """uint32: from word (1 + q) x 1024 on the registers of queue q's stack doorbell page."""

    def read(self, address: int) -> int: ...

    def write(self, address: int, value: int) -> None: ...

    def wake(self) -> None: ...

    def notices(self) -> list[tuple[dict, list[int]]]: ...


@compiled
def _post(words, sequence, operation, address, value):
    words[1] = operation
    words[2] = address
    words[3] = value
    store_release(words, 0, sequence)
    fence()
    return load_acquire(words, 16)


@compiled
def _await_answer(words, sequence, spins):
    for _ in range(spins):  # noqa: SIM110 (numba compiles a loop, not a generator)
        if load_acquire(words, 4) == sequence:
            return True
    return False


class DeviceProcess:
    """A client of the device process, in the role of the stack.

    Raises DeviceError where the device refuses, speaks another ABI version, or does not answer
    within 5 s.
    """

    def __init__(self, run_directory, header: HeaderMemory | None = None):
        self.header = header or HeaderMemory()
        self.irq, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.irq.setblocking(False)
        far.setblocking(False)
        self._waiting: deque = deque()
        self._answers: deque = deque()
        self._sequence = 0
        self.gone = False
        try:
            self.control = connect(Path(run_directory) / "device.sock", "device process")
            hello = {"role": "stack", "abi": abi.ABI_VERSION}
            try:
                self.hello, (fd,) = request(
                    self.control, hello, (self.header.fd, far.fileno()), "device process", expect=1
                )
            except ServiceError as error:
                raise DeviceError(str(error)) from None
        finally:
            far.close()
        try:
            pages = memory.check(fd)
            if pages < memory.PAGE * (1 + int(self.hello.get("queues", 0))):
                raise DeviceError(f"the device's stack pages have only {pages} bytes")
            self._pages = memory.Mapping(fd, pages)
        finally:
            os.close(fd)
        self.doorbells = self._pages.words
        self._sequence = int(load_acquire(self.doorbells, _WORD_SEQ))
        self.control.setblocking(False)

    def _transact(self, operation: int, address: int, value: int = 0) -> int:
        words = self.doorbells
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        if _post(words, self._sequence, operation, address, value):
            self.wake()
        if not _await_answer(words, self._sequence, _SPINS):
            self._await_slowly(operation, address)
        if words[_WORD_STATUS]:
            what = "read of" if operation == _READ else f"write of {value:#x} to"
            raise DeviceError(f"the device refused a {what} register {address:#x}")
        return int(words[_WORD_VALUE])

    def _await_slowly(self, operation, address):
        hang_up = select.poll()
        hang_up.register(self.control, 0)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not _await_answer(self.doorbells, self._sequence, _SPINS):
            if hang_up.poll(0):
                self.gone = True
                raise DeviceError("the device process has ended")
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"the device did not answer an access to register {address:#x} within"
                    f" {_ANSWER_SECONDS} s"
                )
            os.sched_yield()

    def read(self, address: int) -> int:
        """The 32-bit register at `address` (control page and counters only)."""
        return self._transact(_READ, address)

    def write(self, address: int, value: int) -> None:
        """Write a register; returns when the card has taken it."""
        self._transact(_WRITE, address, value)

    def wake(self) -> None:
        """Wake the device process, which said that it sleeps."""
        with contextlib.suppress(BlockingIOError):  # full: a wake is on its way already
            try:
                self.irq.send(b"\0", socket.MSG_DONTWAIT)
            except BlockingIOError:
                raise
            except OSError:
                self.gone = True

    def drain_irq(self) -> bool:
        """Take the bytes that interrupts have sent; whether there were any."""
        seen = False
        try:
            for _ in range(64):
                if not self.irq.recv(16, socket.MSG_DONTWAIT):
                    self.gone = True
                    break
                seen = True
        except BlockingIOError:
            pass
        except OSError:
            self.gone = True
        return seen

    def _pump(self) -> None:
        while not self.gone:
            try:
                got = receive(self.control)
            except (BlockingIOError, TimeoutError):
                return
            except (OSError, HdstackError):
                got = None
            if got is None:
                self.gone = True
            elif "notice" in got[0]:
                self._waiting.append(got)
            else:
                close_all(got[1])
                self._answers.append(got[0])

    def notices(self) -> list[tuple[dict, list[int]]]:
        """What the device has told since the last call; the caller owns the descriptors."""
        self._pump()
        out = list(self._waiting)
        self._waiting.clear()
        return out

    def ask(self, operation: str, seconds: float = 5.0) -> dict:
        """The device's answer to `stats` or `maps`."""
        send(self.control, {"op": operation})
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0 or self.gone:
                raise DeviceError(f"the device did not answer {operation!r} within {seconds} s")
            poll.poll(left * 1000)
            self._pump()
        return self._answers.popleft()

    def close(self) -> None:
        """Leave the device; it stops the rings. The header memory is closed too."""
        self.control.close()
        self.irq.close()
        for _, descriptors in self._waiting:
            close_all(descriptors)
        self.doorbells = None
        self._pages.close()
        self.header.close()


def observe(run_directory, operation: str) -> dict:
    """What the device process tells an observer: `stats` or `maps`. Takes at most 5 s."""
    with connect(Path(run_directory) / "device.sock", "device process") as control:
        request(control, {"role": "observer", "abi": abi.ABI_VERSION}, what="device process")
        return request(control, {"op": operation}, what="device process", limit=ANSWER_BYTES)[0]
