"""Where things lie in header memory: index slots in page 0, the command ring and a completion ring
for each queue in pages of their own, then a receive and a transmit ring for each queue, each
aligned to its size (the card wraps within the aligned block), and last the stack's own area, ranges
of which PLACE moves."""

from dataclasses import dataclass

from hdsnic import abi

from ..errors import ConfigurationError

__all__ = ["AREA_BYTES", "RING_BYTES", "HeaderLayout"]

RING_BYTES = 256 * 1024
AREA_BYTES = 5 << 20
_PAGE = abi.PAGE_BYTES


@dataclass(frozen=True)
class HeaderLayout:
    """Offsets in header memory, in bytes, for `queues` queues with rings of `ring_bytes`.

    Command and completion rings have `small_ring_bytes` each: they carry what is rare.
    """

    queues: int = abi.QUEUES_MAX
    ring_bytes: int = RING_BYTES
    small_ring_bytes: int = _PAGE

    def __post_init__(self):
        if self.ring_bytes not in [1 << n for n in range(12, 23)]:
            raise ConfigurationError(
                f"rings of {self.ring_bytes} bytes; a power of two from 4 KiB to 4 MiB is needed"
            )

    @property
    def control_bytes(self) -> int:
        """Index slots, command ring and completion rings, from byte 0 on."""
        return _PAGE + (1 + self.queues) * self.small_ring_bytes

    @property
    def _rings_at(self) -> int:
        return -(-self.control_bytes // self.ring_bytes) * self.ring_bytes

    @property
    def area(self) -> int:
        """Where the stack keeps AREA_BYTES of its own."""
        return self._rings_at + self.ring_bytes * 2 * self.queues

    @property
    def bytes(self) -> int:
        """Size of header memory; pages never used take no memory."""
        return self.area + AREA_BYTES

    def receive_ring(self, queue: int) -> int:
        return self._rings_at + self.ring_bytes * 2 * queue

    def transmit_ring(self, queue: int) -> int:
        return self._rings_at + self.ring_bytes * (1 + 2 * queue)

    @property
    def command_ring(self) -> int:
        return _PAGE

    def completion_ring(self, queue: int) -> int:
        return _PAGE + (1 + queue) * self.small_ring_bytes

    def index_slot(self, queue: int) -> int:
        return queue * abi.INDEX_SLOT_BYTES

    @property
    def rings(self) -> list[int]:
        """All rings, as they follow in the array of `HeaderMemory`: rx 0, tx 0, rx 1, ..."""
        return [self._rings_at + self.ring_bytes * n for n in range(2 * self.queues)]
