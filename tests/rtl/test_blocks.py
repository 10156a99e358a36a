"""Each block under Verilator, libraries' models on its ports: random traffic, pauses and errors.

The seed of a run is new each time and stands in its output; HDSNIC_SEED sets it.
"""

import os
import random

import pytest
from rtl.blocks import BLOCKS, parameters
from rtl.verilated import WIDTHS, run

from hdsnic.verilog import convert

SEED = int(os.environ.get("HDSNIC_SEED", random.SystemRandom().randrange(1 << 31)))


@pytest.mark.parametrize("bus_bytes", WIDTHS, ids=lambda w: f"{w}-byte bus")
@pytest.mark.parametrize("bench", BLOCKS)
def test_a_block_does_what_it_promises_between_library_models(bench, bus_bytes):
    print(f"HDSNIC_SEED={SEED}")
    verilog = convert(BLOCKS[bench](parameters(bus_bytes)), "block")
    name = f"{bench.replace('.bench_', '-')}-{bus_bytes}"
    run(verilog, "block", f"rtl.{bench}", name=name, seed=SEED)
