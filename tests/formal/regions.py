"""The region table: a row that is not live, or not there, grants nothing to anybody (I6)."""

from amaranth.hdl import Array, Signal
from spec import Mutant, Property, Spec, as_value

from hdsnic.csr.regions import RegionTable
from hdsnic.interfaces import RegionRow
from hdsnic.parameters import Parameters


class RegionTableSpec(Spec):
    """Any writes, any reads; an arbitrary region is followed."""

    depth = 2
    properties = (
        Property(
            "I6 a revoked row is read by nobody as live",
            "A reader sees a row as live only if the last write of its index was live.",
            (
                Mutant(
                    "a row under its write is read",
                    "hdsnic.csr.regions",
                    " & ~(self.write & (self.write_index == reader.index))",
                    "",
                ),
                Mutant(
                    "indices beyond the table wrap",
                    "hdsnic.csr.regions",
                    "(reader.index < p.regions)",
                    "1",
                ),
            ),
        ),
        Property(
            "I2 a reader gets the row that was written",
            "A row that reads as live is the one last written at its index.",
            (
                Mutant(
                    "writes go to the next row",
                    "hdsnic.csr.regions",
                    "write.addr.eq(self.write_index)",
                    "write.addr.eq(self.write_index + 1)",
                ),
            ),
        ),
    )

    def build(self, m):
        p = Parameters(bus_bytes=8, regions=3, address_bits=32)
        table = self.block(m, "table", RegionTable(p, 1))
        reader = table.readers[0]
        index = self.free(8, "index")
        region = self.constant(m, 8, "region")
        row = Signal(RegionRow(p))  # of `region`, as written last
        asked = Signal()
        m.d.comb += [
            table.write.eq(self.free(1, "write")),
            table.write_index.eq(self.free(8, "write_index")),
            table.write_row.eq(self.free(len(row.as_value()), "write_row")),
            reader.index.eq(index),
        ]
        self.assume(m, table.write.implies(table.write_index < p.regions))
        m.d.sync += asked.eq(index == region)
        with m.If(table.write & (table.write_index == region)):
            m.d.sync += row.eq(table.write_row)
        seen = reader.row
        live = asked & seen.live
        self.prove(m, self.properties[0].name, live.implies(row.live & (region < p.regions)))
        self.prove(m, self.properties[1].name, live.implies(seen.as_value() == row.as_value()))
        stored = Array(as_value(row) for row in self.rows(self.view(table).rows))
        self.helper(m, (region >= p.regions) | (stored[region] == row.as_value()))
