"""Decoding of one register access, as the sections of the register block share it."""

from amaranth.hdl import Signal

from .. import abi

__all__ = ["Decoder", "fields_of"]


def fields_of(register, word):
    """The fields of a register as slices of `word`."""
    out, at = {}, 0
    for f in register.fields:
        out[f.name] = word[at : at + f.bits]
        at += f.bits
    return out


class Decoder:
    """The access that is being served, and its answer.

    `known`: the address names a register that may be used so. `refused`: it may not now. `value`:
    what a read gives, two cycles after `access.start`: memories have been read by then.
    """

    def __init__(self, m, access):
        self.m, self.access = m, access
        self.address, self.data = access.address, access.write_data
        self.writing = access.start & access.is_write
        self.known, self.refused = Signal(), Signal()
        self.value = Signal(32)

    def fields(self, register):
        """The fields of `register` in the word that is being written."""
        return fields_of(register, self.data)

    def at(self, page, register, index=0):
        return self.address == page + register.at(index)

    def reads(self, page, register, source):
        """A register that shows `source` and cannot be written."""
        with self.m.If(self.at(page, register)):
            self.m.d.comb += [self.known.eq(~self.access.is_write), self.value.eq(source)]

    def stored(self, page, register, *, init=0, locked=0, clear=0):
        """A register of 32 bits of its own; `clear` brings it back to `init`."""
        m = self.m
        word = Signal(32, name=register.name.lower(), init=init)
        with m.If(clear):
            m.d.sync += word.eq(init)
        with m.If(self.at(page, register)):
            m.d.comb += [
                self.known.eq(1),
                self.value.eq(word),
                self.refused.eq(self.access.is_write & locked),
            ]
            with m.If(self.writing & ~self.refused):
                m.d.sync += word.eq(self.data)
        return word

    def strobe(self, register, page=abi.CONTROL_PAGE, *, beyond=0):
        """1 in the cycle in which a write-only register is written; `beyond` refuses the write."""
        hit = Signal(name=f"{register.name.lower()}_written")
        with self.m.If(self.at(page, register)):
            self.m.d.comb += [
                self.known.eq(self.access.is_write),
                self.refused.eq(beyond),
                hit.eq(self.writing & ~self.refused),
            ]
        return hit

    def words(self, register, page=abi.CONTROL_PAGE):
        """Write-only words that a store register takes along."""
        m = self.m
        words = [Signal(32, name=f"{register.name.lower()}_{k}") for k in range(register.count)]
        for k, word in enumerate(words):
            with m.If(self.at(page, register, k)):
                m.d.comb += self.known.eq(self.access.is_write)
                with m.If(self.writing):
                    m.d.sync += word.eq(self.data)
        return words
