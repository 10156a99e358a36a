"""Commands to the card and completions from it: rare control work, in plain Python.

One command ring, on queue 0's doorbell page; a completion ring for each queue: command completions
come in that of queue 0, faults in that of their queue.
"""

import time
from collections import deque

from hdsnic import abi
from hdsnic.abi import CONTROL, CommandKind, CompletionKind

from ..atomic import load_acquire, store_release
from ..errors import ConfigurationError, DeviceError
from .device import PAGE_WORDS, Device

__all__ = ["Commands"]

_SECONDS = 5.0
_CELL = abi.CELL_BYTES
_INDEX_WORDS = abi.INDEX_SLOT_BYTES // 4
_COMPLETION_PRODUCER = abi.INDEX_SLOT.offsets["completion_producer"] // 32
_COMPLETION_CONSUMER = abi.STACK_DOORBELL.COMPLETION_CONSUMER.offset // 4
_COMMAND_PRODUCER = abi.STACK_DOORBELL.COMMAND_PRODUCER.offset // 4
_RANGES_MAX = 16
_UNASKED_MAX = 4096
"""Completed commands that are remembered until somebody asks; then the oldest are forgotten."""
_LENGTH_MAX = (1 << abi.COMMAND.widths["length"]) - 1


class Commands:
    """The command ring and the completion rings of the card behind `device`.

    `submit` and its kin return a cookie at once; `poll` gathers what has completed, and `wait`
    polls until a cookie is done. Commands are carried out one after the other, in their order.

    Raises DeviceError where a command is refused, fails, or takes more than 5 s.
    """

    def __init__(self, device: Device):
        self._device = device
        self._layout = device.header.layout
        self._cells = self._layout.small_ring_bytes // _CELL
        self._producer = 0
        self._on = False
        self._cookie = 0
        self._written = self._read = 0
        self._waiting: dict[int, int] = {}  # cookie -> cells ever written, with its own
        self._done: dict[int, int] = {}  # cookie -> status, until somebody asks
        self._consumers = [0] * self._layout.queues
        self.faults: deque = deque(maxlen=1024)
        """Completions that tell of faults, oldest first: fields of `abi.COMPLETION`."""

    # -- set-up ------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the command ring on. Queue 0 must be on: its completion ring takes the answers."""
        self.stop()
        self._store_doorbell(0, _COMMAND_PRODUCER, 0)
        self._producer = 0
        ring = CONTROL.COMMAND_RING.pack(
            base=self._layout.command_ring // abi.PAGE_BYTES,
            log2_bytes=self._layout.small_ring_bytes.bit_length() - 1,
        )
        self._device.write(CONTROL.COMMAND_RING.offset, ring)
        self._on = True

    def stop(self) -> None:
        """Switch the command ring off; returns when the command under way has ended."""
        self._on = False
        self._waiting.clear()
        self._done.clear()
        self._written = self._read = 0
        self._device.write(CONTROL.COMMAND_RING.offset, 0)
        self._until(lambda: self._device.read(CONTROL.COMMAND_RING.offset) == 0, "commands to end")

    def open_ring(self, queue: int) -> int:
        """A queue's completion ring begins anew: the value of its COMPLETION_RING."""
        self._consumers[queue] = 0
        self._store_doorbell(queue, _COMPLETION_CONSUMER, 0)
        return CONTROL.COMPLETION_RING.pack(
            base=self._layout.completion_ring(queue) // abi.PAGE_BYTES,
            log2_bytes=self._layout.small_ring_bytes.bit_length() - 1,
        )

    # -- commands ----------------------------------------------------------------------------

    def place(self, queue: int, ranges: list[tuple[int, int]], cookie: int | None = None) -> int:
        """Move ranges (offset in header memory, bytes) into buffers posted to `queue`.

        The record that comes of it is PLACED and has the cookie in `hash`. One that is given has
        bit 31 set; all others have not.
        """
        if not 1 <= len(ranges) <= _RANGES_MAX:
            raise ConfigurationError(f"{len(ranges)} ranges; 1 to {_RANGES_MAX} may be placed")
        if any(not 0 < length <= _LENGTH_MAX for _, length in ranges):
            raise ConfigurationError(f"a range of {ranges} is empty or beyond {_LENGTH_MAX} bytes")
        (offset, length), *more = ranges
        tail = b"".join(abi.COMMAND_RANGE.pack(offset=o, length=n) for o, n in more)
        fields = {"queue": queue, "ranges": len(ranges), "offset": offset, "length": length}
        return self.submit(CommandKind.PLACE, tail, cookie, **fields)

    def revoke(self, regions: list[int]) -> int:
        """Revoke regions: once complete, the card touches them no more (I6)."""
        return self.submit(CommandKind.REVOKE, offset=sum(1 << r for r in set(regions)))

    def fence(self) -> int:
        """Complete when every frame that was looked up before has completed, and shows (R15)."""
        return self.submit(CommandKind.FENCE)

    def reset_queue(self, queue: int) -> int:
        """Switch a queue off; when complete its indices are final."""
        return self.submit(CommandKind.QUEUE_RESET, queue=queue)

    def store_rule(self, **rule: int) -> int:
        """Write a slot of the exact rules (fields of `abi.EXACT_RULE`), then fence (R15)."""
        return self.submit(CommandKind.RULE, abi.EXACT_RULE.pack(**rule))

    def submit(
        self, kind: CommandKind, tail: bytes = b"", cookie: int | None = None, **fields: int
    ) -> int:
        """Put a command into the ring, waiting for room; returns its cookie."""
        if not self._on:
            raise DeviceError("the command ring is not switched on")
        cells = -(-(abi.COMMAND.bytes + len(tail)) // _CELL)
        if cells > self.free_cells:
            self._until(lambda: self._room(cells), f"room for a command {kind.name}")
        if cookie is None:
            self._cookie = cookie = (self._cookie + 1) & 0x7FFFFFFF
        data = abi.COMMAND.pack(kind=kind, cookie=cookie, **fields) + tail
        ring, base = self._device.header.control, self._layout.command_ring
        for k, cell in enumerate(range(self._producer, self._producer + cells)):
            at = base + cell % self._cells * _CELL
            part = data[k * _CELL : (k + 1) * _CELL].ljust(_CELL, b"\0")
            ring[at : at + _CELL] = memoryview(part)
        self._producer = (self._producer + cells) & 0xFFFFFFFF
        self._written += cells
        self._waiting[cookie] = self._written
        self._store_doorbell(0, _COMMAND_PRODUCER, self._producer)
        self._device.wake()
        return cookie

    @property
    def free_cells(self) -> int:
        """Cells of the ring that are free for certain: what completed was read, and all before."""
        return self._cells - (self._written - self._read) if self._on else 0

    def look(self) -> None:
        """Ask the card how far it has read the ring."""
        consumer = self._device.read(CONTROL.COMMAND_CONSUMER.offset)
        self._read = self._written - ((self._producer - consumer) & 0xFFFFFFFF)

    def _room(self, cells):
        self.poll()  # a command that waits for room in the completion ring holds up the next ones
        self.look()
        return self.free_cells >= cells

    # -- completions -------------------------------------------------------------------------

    def poll(self) -> None:
        """Take all completions; hand their cells back."""
        header = self._device.header
        for queue, consumer in enumerate(self._consumers):
            word = queue * _INDEX_WORDS + _COMPLETION_PRODUCER
            producer = int(load_acquire(header.slots, word))
            if (producer - consumer) & 0xFFFFFFFF > self._cells:
                raise DeviceError(f"the card's completion index of queue {queue} ran ahead")
            base = self._layout.completion_ring(queue)
            while consumer != producer:
                at = base + consumer % self._cells * _CELL
                self._take(abi.COMPLETION.unpack(bytes(header.control[at : at + _CELL])))
                consumer = (consumer + 1) & 0xFFFFFFFF
            if consumer != self._consumers[queue]:
                self._consumers[queue] = consumer
                self._store_doorbell(queue, _COMPLETION_CONSUMER, consumer)

    def _take(self, fields):
        if fields["kind"] != CompletionKind.COMMAND:
            self.faults.append(fields)
        elif fields["cookie"] in self._waiting:
            self._read = max(self._read, self._waiting.pop(fields["cookie"]))
            self._done[fields["cookie"]] = fields["status"]
            if len(self._done) > _UNASKED_MAX:
                del self._done[next(iter(self._done))]

    def status(self, cookie: int) -> int | None:
        """Status of a completed command (0: done), which is forgotten then; None while it waits.

        Says what the last `poll` has found.
        """
        if cookie in self._waiting:
            return None
        status = self._done.pop(cookie, None)
        if status is None:
            raise DeviceError(f"no command with the cookie {cookie} is waiting")
        return status

    def done(self, cookie: int) -> bool:
        """Whether a command has completed; asking for a completed one forgets it."""
        if cookie in self._waiting:
            self.poll()
        status = self.status(cookie)
        if status is None:
            return False
        if status:
            what = {1: "was refused", 2: "was lost: header memory did not answer"}
            raise DeviceError(f"a command {what.get(status, f'ended with status {status}')}")
        return True

    def wait(self, cookie: int, seconds: float = _SECONDS) -> None:
        """Wait until a command has completed, at most so long."""
        self._until(lambda: self.done(cookie), "a command", seconds)

    def _until(self, condition, what, seconds=_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise DeviceError(f"{what} took more than {seconds} s")

    def _store_doorbell(self, queue, word, value):
        store_release(self._device.doorbells, (1 + queue) * PAGE_WORDS + word, value)
