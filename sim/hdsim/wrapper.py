"""The Verilog around the card that makes its simulation fast: a register at every input.

Verilator evaluates the logic behind top-level inputs again whenever the harness sets them, which
for a card costs as much as the clock edge. So the harness sets the inputs of the *next* cycle
before the edge, and `WRAPPER` takes them over on it, together with every register of the card:
one evaluation a cycle, and exact, also where an output depends on an input within the cycle.
"""

from hdsnic.parameters import Parameters

__all__ = ["WRAPPER", "ports", "wrapper"]

WRAPPER = "hdsnic_clocked"
"""Name of the wrapping module; its ports are those of the card."""


def ports(parameters: Parameters) -> list[tuple[str, int, bool]]:
    """Name, width in bits, and whether it is an input, of every port of the card but `clk`."""
    data, strobe = 8 * parameters.bus_bytes, parameters.bus_bytes
    out = [("rst", 1, True), ("irq", 1, False)]
    for prefix, is_input in (("s_axis_rx_", True), ("m_axis_tx_", False)):
        for name, width in (
            ("tdata", data), ("tkeep", strobe), ("tvalid", 1), ("tlast", 1), ("tuser", 1),
        ):  # fmt: skip
            out.append((prefix + name, width, is_input))
        out.append((prefix + "tready", 1, not is_input))
    for prefix in ("m_axi_hdr_", "m_axi_pay_"):
        for channel in ("aw", "ar"):
            for name, width in (
                ("id", parameters.id_bits), ("addr", parameters.address_bits), ("len", 8),
                ("size", 3), ("burst", 2), ("lock", 1), ("cache", 4), ("prot", 3), ("qos", 4),
                ("valid", 1),
            ):  # fmt: skip
                out.append((prefix + channel + name, width, False))
            out.append((f"{prefix}{channel}ready", 1, True))
        for name, width in (("data", data), ("strb", strobe), ("last", 1), ("valid", 1)):
            out.append((f"{prefix}w{name}", width, False))
        out.append((prefix + "wready", 1, True))
        for name, width in (("id", parameters.id_bits), ("resp", 2), ("valid", 1)):
            out.append((f"{prefix}b{name}", width, True))
        out.append((prefix + "bready", 1, False))
        for name, width in (
            ("id", parameters.id_bits), ("data", data), ("resp", 2), ("last", 1), ("valid", 1),
        ):  # fmt: skip
            out.append((f"{prefix}r{name}", width, True))
        out.append((prefix + "rready", 1, False))
    for name, width, is_input in (
        ("awaddr", 18, True), ("awprot", 3, True), ("awvalid", 1, True), ("awready", 1, False),
        ("wdata", 32, True), ("wstrb", 4, True), ("wvalid", 1, True), ("wready", 1, False),
        ("bresp", 2, False), ("bvalid", 1, False), ("bready", 1, True),
        ("araddr", 18, True), ("arprot", 3, True), ("arvalid", 1, True), ("arready", 1, False),
        ("rdata", 32, False), ("rresp", 2, False), ("rvalid", 1, False), ("rready", 1, True),
    ):  # fmt: skip
        out.append(("s_axil_" + name, width, is_input))
    return out


def wrapper(parameters: Parameters) -> str:
    """Verilog of the module `WRAPPER` around a module `hdsnic`."""
    table = ports(parameters)
    declared = ["  input clk"]
    body, pins, moves = [], ["    .clk(clk)"], []
    for name, width, is_input in table:
        span = f"[{width - 1}:0] " if width > 1 else ""
        declared.append(f"  {'input' if is_input else 'output'} {span}{name}")
        inside = f"{name}_now" if is_input else name
        if is_input:
            body.append(f"  reg {span}{inside};")
            moves.append(f"    {inside} <= {name};")
        pins.append(f"    .{name}({inside})")
    return "\n".join(
        [
            f"module {WRAPPER} (",
            ",\n".join(declared),
            ");",
            *body,
            "  always @(posedge clk) begin",
            *moves,
            "  end",
            "  hdsnic card (",
            ",\n".join(pins),
            "  );",
            "endmodule",
            "",
        ]
    )
