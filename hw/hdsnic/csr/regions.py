"""The region table: what memory the device may touch, and for whom (R19, I2)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from ..interfaces import RegionLookup, RegionRow

__all__ = ["RegionTable"]


class RegionTable(wiring.Component):
    """Rows of `RegionRow`, written by the register block alone, read by `readers` blocks.

    A row follows its index by one cycle. An index beyond the table reads as not live, and so does a
    row in the cycle in which it is written.
    """

    def __init__(self, parameters, readers):
        self.parameters = parameters
        p = parameters
        super().__init__(
            {
                "write": In(1),
                "write_index": In(8),
                "write_row": In(RegionRow(p)),
                "readers": In(RegionLookup(p)).array(readers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        m.submodules.rows = rows = Memory(shape=RegionRow(p), depth=p.regions, init=[])
        write = rows.write_port()
        m.d.comb += [
            write.addr.eq(self.write_index),
            write.data.eq(self.write_row),
            write.en.eq(self.write),
        ]
        for reader in self.readers:
            port = rows.read_port()
            known = Signal()
            m.d.sync += known.eq(
                (reader.index < p.regions) & ~(self.write & (self.write_index == reader.index))
            )
            m.d.comb += [port.addr.eq(reader.index), reader.row.eq(port.data)]
            with m.If(~known):
                m.d.comb += reader.row.live.eq(0)
        return m
