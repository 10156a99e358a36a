"""`hdsnic verilog`: the card as one file, for other people's tools."""

import sys
from pathlib import Path

from .common import format_bytes, say

__all__ = ["write_verilog"]


def write_verilog(output: Path, bus_bytes: int, queues: int, regions: int) -> None:
    """Generate the Verilog of a card of these parameters; raises ParameterError for bad ones."""
    from hdsnic.parameters import Parameters

    parameters = Parameters(bus_bytes=bus_bytes, queues=queues, regions=regions)
    from hdsnic.verilog import generate

    if str(output) == "-":
        sys.stdout.write(generate(parameters))
        return
    if output.is_dir():
        raise IsADirectoryError(21, "is a directory; name a file", str(output))
    with output.open("a"):  # a path that cannot be written is told before the work, not after
        pass
    with say.status(f"generating the card at {bus_bytes} bytes"):
        text = generate(parameters)
    output.write_text(text)
    size = format_bytes(len(text))
    say.print(f"{output}: module hdsnic, {bus_bytes} bytes wide, {size}", soft_wrap=True)
