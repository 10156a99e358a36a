"""Where things lie in header memory: index slots in page 0, then a receive and a transmit ring for
each queue, each aligned to its size (the card wraps within the aligned block)."""

from dataclasses import dataclass

from hdsnic import abi

from ..errors import ConfigurationError

__all__ = ["RING_BYTES", "HeaderLayout"]

RING_BYTES = 256 * 1024


@dataclass(frozen=True)
class HeaderLayout:
    """Offsets in header memory, in bytes, for `queues` queues with rings of `ring_bytes`."""

    queues: int = abi.QUEUES_MAX
    ring_bytes: int = RING_BYTES

    def __post_init__(self):
        if self.ring_bytes not in [1 << n for n in range(12, 23)]:
            raise ConfigurationError(
                f"rings of {self.ring_bytes} bytes; a power of two from 4 KiB to 4 MiB is needed"
            )

    @property
    def bytes(self) -> int:
        """Size of header memory; pages never used take no memory."""
        return self.ring_bytes * (1 + 2 * self.queues)

    def receive_ring(self, queue: int) -> int:
        return self.ring_bytes * (1 + 2 * queue)

    def transmit_ring(self, queue: int) -> int:
        return self.ring_bytes * (2 + 2 * queue)

    def index_slot(self, queue: int) -> int:
        return queue * abi.INDEX_SLOT_BYTES

    @property
    def rings(self) -> list[int]:
        """All rings, as they follow in the array of `HeaderMemory`: rx 0, tx 0, rx 1, ..."""
        return [self.ring_bytes * (1 + n) for n in range(2 * self.queues)]
