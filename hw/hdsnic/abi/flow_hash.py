"""Where an exact rule may stand: the hash that device and driver both compute.

A flow may stand in one slot of each way: slot = way x EXACT_ROWS + row. The driver chooses among
them (as in a cuckoo table); the device looks into all of them at once. The hash is linear and has
no key: who chooses his own addresses and ports can make flows meet in the same slots, and then only
those go without an exact rule (R32).
"""

from hashlib import sha256

__all__ = ["FLOW_HASH_ROTATIONS", "flow_hash_mask", "flow_slots"]

FLOW_HASH_ROTATIONS = {"remote": (0, 7, 13, 22), "local": (16, 27, 3, 10)}
"""By how much each 32-bit word of the addresses is rotated to the left before all are added
modulo 2."""


def flow_hash_mask(way: int, bit: int) -> int:
    """Bits of the folded tuple (64) whose parity is bit `bit` of the row in `way`."""
    digest = sha256(f"hdsnic exact rule, way {way}, bit {bit}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _fold(name, address):
    folded = 0
    for at, rotation in zip(range(0, len(address), 4), FLOW_HASH_ROTATIONS[name], strict=False):
        word = int.from_bytes(address[at : at + 4], "little")
        folded ^= (word << rotation | word >> (32 - rotation)) & 0xFFFFFFFF
    return folded


def flow_slots(
    ways: int, rows: int, remote: bytes, remote_port: int, local: bytes, local_port: int
) -> list[int]:
    """The slots in which the device looks for a flow, one a way; TCP and UDP alike.

    `remote` and `local` are addresses of 4 or 16 bytes as they stand in the packet, `remote` the
    source of received frames. `ways` and `rows` are EXACT_WAYS and EXACT_ROWS.
    """
    if len(remote) != len(local) or len(remote) not in (4, 16):
        raise ValueError(f"addresses of {len(remote)} and {len(local)} bytes; both take 4 or 16")
    folded = _fold("remote", remote) ^ _fold("local", local)
    folded |= remote_port << 32 | local_port << 48
    return [
        way * rows
        + sum(
            (folded & flow_hash_mask(way, bit)).bit_count() % 2 << bit
            for bit in range(rows.bit_length() - 1)
        )
        for way in range(ways)
    ]
