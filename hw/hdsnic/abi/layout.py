"""The small language in which the contract is written: bit fields, layouts, registers.

A `Layout` is plain data. From it come the Amaranth layout (`as_amaranth`), the numpy dtype of its
32-bit words (`as_dtype`), the C accessors (`hdsnic.abi.c_header`) and the tables of the datasheet.
Fields are packed from bit 0 of the first little-endian word upwards, without padding.
"""

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Access", "Field", "Layout", "Register"]


@dataclass(frozen=True)
class Field:
    """`bits` consecutive bits called `name`; `doc` says what they mean, with the unit."""

    name: str
    bits: int
    doc: str = ""


@dataclass(frozen=True)
class Layout:
    """Fields that follow one another from bit 0; the total is a multiple of 32 bits."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    offsets: dict[str, int] = field(init=False, compare=False, hash=False)
    widths: dict[str, int] = field(init=False, compare=False, hash=False)

    def __post_init__(self):
        offsets, at = {}, 0
        for f in self.fields:
            if f.name in offsets:
                raise ValueError(f"layout {self.name!r} names the field {f.name!r} twice")
            offsets[f.name] = at
            at += f.bits
        if at % 32:
            raise ValueError(f"layout {self.name!r} has {at} bits; a multiple of 32 is needed")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "widths", {f.name: f.bits for f in self.fields})

    @property
    def bits(self) -> int:
        return sum(f.bits for f in self.fields)

    @property
    def bytes(self) -> int:
        return self.bits // 8

    def pack(self, **values: int) -> bytes:
        """The little-endian bytes of a value for each field; fields not named are zero.

        Raises ValueError for an unknown field and for a value that does not fit.
        """
        total = 0
        for name, value in values.items():
            if name not in self.offsets:
                raise ValueError(f"{self.name} has no field {name!r}; it has {list(self.offsets)}")
            value, width = int(value), self.widths[name]
            if not 0 <= value < 1 << width:
                raise ValueError(f"{self.name}.{name} has {width} bits, which cannot hold {value}")
            total |= value << self.offsets[name]
        return total.to_bytes(self.bytes, "little")

    def unpack(self, data) -> dict[str, int]:
        """The fields of the first `self.bytes` bytes of `data`."""
        if len(data) < self.bytes:
            raise ValueError(f"{self.name} takes {self.bytes} bytes, got {len(data)}")
        total = int.from_bytes(bytes(data[: self.bytes]), "little")
        return {f.name: (total >> self.offsets[f.name]) & ((1 << f.bits) - 1) for f in self.fields}

    def as_amaranth(self):
        """The same layout for hardware: an `amaranth.lib.data.StructLayout`."""
        from amaranth.lib import data

        return data.StructLayout({f.name: f.bits for f in self.fields})

    def as_dtype(self):
        """A numpy dtype with a member for each field that is 8, 16, 32 or 64 bits and aligned.

        Raises ValueError where a field is none of these: such a layout is read by `words`, as
        32-bit words and the shifts of `offsets`.
        """
        import numpy as np

        members = {}
        for f in self.fields:
            at = self.offsets[f.name]
            if f.bits not in (8, 16, 32, 64) or at % f.bits:
                raise ValueError(f"{self.name}.{f.name} is not a whole aligned integer")
            members[f.name] = (np.dtype(f"<u{f.bits // 8}"), at // 8)
        return np.dtype(members)


class Access(Enum):
    """How software may use a register."""

    RO = "read only"
    RW = "read and write"
    WO = "write only"
    W1C = "read; a written 1 clears the bit"


@dataclass(frozen=True)
class Register:
    """A 32-bit register at byte `offset` of its page, or `count` of them `stride` bytes apart.

    `fields` splits it, from bit 0 upwards; without fields it is one 32-bit value.
    """

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()
    count: int = 1
    stride: int = 4

    def __post_init__(self):
        if self.offset % 4 or self.stride % 4:
            raise ValueError(f"register {self.name!r} is not aligned to 4 bytes")
        if sum(f.bits for f in self.fields) > 32:
            raise ValueError(f"the fields of register {self.name!r} take more than 32 bits")

    def at(self, index: int = 0) -> int:
        """Byte offset within the page of element `index`."""
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}[{index}]: it has {self.count} elements")
        return self.offset + index * self.stride

    def pack(self, **values: int) -> int:
        """The register's value from its fields."""
        at, out, known = 0, 0, {}
        for f in self.fields:
            known[f.name] = (at, f.bits)
            at += f.bits
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"register {self.name} has no field {name!r}; it has {list(known)}"
                )
            shift, bits = known[name]
            if not 0 <= int(value) < 1 << bits:
                raise ValueError(f"{self.name}.{name} has {bits} bits, which cannot hold {value}")
            out |= int(value) << shift
        return out

    def unpack(self, value: int) -> dict[str, int]:
        """The fields of a value that was read."""
        out, at = {}, 0
        for f in self.fields:
            out[f.name] = (value >> at) & ((1 << f.bits) - 1)
            at += f.bits
        return out
