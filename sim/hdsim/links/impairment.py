"""What a bad wire does to frames; `native/impair.h` does it."""

from dataclasses import dataclass, fields

from ..errors import LinkError

__all__ = ["Impairment"]

DELAY_MS_MAX = 10_000.0


@dataclass(frozen=True)
class Impairment:
    """Harms to the frames of each direction, one chance for each frame and harm.

    Parameters
    ----------
    lose, duplicate, corrupt, reorder:
        Shares of the frames, 0 to 1. A corrupted frame has one bit flipped behind its Ethernet
        header (IP frames alone) and a good FCS; a reordered one waits 2 ms longer than the others.
    delay_ms:
        Of every frame, in host time.
    seed:
        Same seed and same frames: same harms.

    Raises LinkError for a value beyond its limits.
    """

    lose: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    delay_ms: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name in ("lose", "duplicate", "corrupt", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise LinkError(f"{name} is {getattr(self, name)}; a share from 0 to 1 is needed")
        if not 0 <= self.delay_ms <= DELAY_MS_MAX:
            raise LinkError(f"delay_ms is {self.delay_ms}; it must be 0 to {DELAY_MS_MAX:.0f}")
        if not 0 <= self.seed < 1 << 64:
            raise LinkError(f"seed is {self.seed}; it must be from 0 to 2^64 - 1")

    @classmethod
    def parse(cls, text: str) -> "Impairment":
        """From "lose=0.01,reorder=0.02,delay_ms=5,seed=7". Raises LinkError."""
        kinds = {field.name: field.type for field in fields(cls)}
        values = {}
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if name not in kinds or not equals:
                raise LinkError(f"{part!r} is no impairment; NAME=VALUE with {', '.join(kinds)} is")
            try:
                values[name] = kinds[name](value)
            except ValueError:
                raise LinkError(f"{name} is {value!r}; it must be a number") from None
        return cls(**values)
