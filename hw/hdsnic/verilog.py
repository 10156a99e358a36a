"""The card as one Verilog file, with the flat port names that AXI models find by prefix."""

import re

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib.wiring import Flow

from .nic import Nic
from .parameters import Parameters

__all__ = ["generate"]


def generate(parameters: Parameters, name: str = "hdsnic") -> str:
    """Verilog-2001 of module `name`: `clk`, `rst` (synchronous, active high), the ports of `Nic`.

    The member `axi` of port `m_axi_hdr` is called `m_axi_hdr_awaddr` and so on.
    """
    nic = Nic(parameters)
    m = Module()
    m.domains.sync = ClockDomain()
    m.submodules.nic = nic
    clk, rst = Signal(name="clk"), Signal(name="rst")
    m.d.comb += [ClockSignal().eq(clk), ResetSignal().eq(rst)]
    ports = {"clk": (clk, None), "rst": (rst, None)}
    for path, member, value in nic.signature.flatten(nic):
        flat = "_".join(str(part) for part in path)
        port = Signal(value.shape(), name=flat)
        if member.flow is Flow.In:
            m.d.comb += value.eq(port)
        else:
            m.d.comb += port.eq(value)
        ports[flat] = (port, None)
    text = verilog.convert(
        m,
        name=name,
        ports=dict(ports.items()),
        emit_src=False,
        strip_internal_attrs=True,
    )
    return _CONSTANT_PART.sub(_once, text)


# A constant part of a signal whose other parts are driven by processes: nothing ever wakes its
# `always @*` in a simulator.
_CONSTANT_PART = re.compile(r"^  always @\*\n    (.+ = \d+'[bdh][0-9a-f_]+;)\n", re.MULTILINE)


def _once(found: re.Match) -> str:
    """The same for synthesis; for simulators, set once at the start."""
    return f"`ifdef SYNTHESIS\n  always @*\n    {found[1]}\n`else\n  initial {found[1]}\n`endif\n"
