"""The card as one Verilog file, with the flat port names that AXI models find by prefix."""

import re

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, Flow

from .nic import Nic
from .parameters import Parameters

__all__ = ["convert", "generate"]


def generate(parameters: Parameters, name: str = "hdsnic") -> str:
    """Verilog-2001 of module `name`: the card. Its ports are those of `Nic`; see `convert`."""
    return convert(Nic(parameters), name)


def convert(component: Component, name: str) -> str:
    """Verilog-2001 of module `name`: `clk`, `rst` (synchronous, active high), the ports of a block.

    The member `awaddr` of port `m_axi_hdr` is called `m_axi_hdr_awaddr` and so on, a structure is a
    port for each of its fields.
    """
    m = Module()
    m.domains.sync = ClockDomain()
    m.submodules[type(component).__name__.lower()] = component
    clk, rst = Signal(name="clk"), Signal(name="rst")
    m.d.comb += [ClockSignal().eq(clk), ResetSignal().eq(rst)]
    ports = {"clk": (clk, None), "rst": (rst, None)}
    for path, member, whole in component.signature.flatten(component):
        for flat, value in _parts("_".join(map(str, path)), whole):
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


def _parts(name, value):
    """A value as (name, value) of its fields, down to plain ones."""
    if not (isinstance(value, data.View) and isinstance(value.shape(), data.StructLayout)):
        return [(name, value)]
    return [part for f in value.shape().members for part in _parts(f"{name}_{f}", value[f])]


# A constant part of a signal whose other parts are driven by processes: nothing ever wakes its
# `always @*` in a simulator.
_CONSTANT_PART = re.compile(r"^  always @\*\n    (.+ = \d+'[bdh][0-9a-f_]+;)\n", re.MULTILINE)


def _once(found: re.Match) -> str:
    """The same for synthesis; for simulators, set once at the start."""
    return f"`ifdef SYNTHESIS\n  always @*\n    {found[1]}\n`else\n  initial {found[1]}\n`endif\n"
