"""The whole card under Verilator, AXI models around it; at the narrowest and the widest bus.

`make test-nightly` runs the widths between, and more random traffic. HDSNIC_SEED: random traffic
of that seed alone; HDSNIC_SEEDS: so many seeds by chance, beside the fixed ones (default 1).
"""

import os
import random
import sys
from pathlib import Path

import pytest
from rtl.verilated import WIDTHS, run

from hdsnic.parameters import Parameters
from hdsnic.verilog import generate

FIXED = (3, 10, 11)
"""Seeds of every run: rings that fill; bus errors under back-pressure; chains and many changes."""
_RTL = Path(__file__).resolve().parents[1]


def drawn_seeds():
    """Fixed seeds, then None for each that is drawn as its test runs: all workers agree on it."""
    if "HDSNIC_SEED" in os.environ:
        return [int(os.environ["HDSNIC_SEED"])]
    return [*FIXED, *[None] * int(os.environ.get("HDSNIC_SEEDS", "1"))]


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda w: f"{w}-byte bus")
def card(request):
    return request.param, generate(Parameters(bus_bytes=request.param))


@pytest.mark.parametrize("module", ["registers", "receive", "transmit", "commands", "features"])
def test_the_card_behaves_as_its_contract_says(card, module):
    bus_bytes, verilog = card
    run(verilog, "hdsnic", f"rtl.nic.bench_{module}", name=f"nic-{bus_bytes}")


def random_case(verilog, bus_bytes, seed, *, name=None, plusargs=()):
    """A case of random traffic; the error says how to run it again."""
    # Oracles and frames of the blocks' benches; the runner hands sys.path on to the simulation.
    for folder in ("rx", "tx"):
        if str(_RTL / folder) not in sys.path:
            sys.path.append(str(_RTL / folder))
    try:
        run(
            verilog, "hdsnic", "rtl.nic.bench_traffic", name=name or f"nic-{bus_bytes}", seed=seed,
            env={"HDSNIC_CASE": str(seed)}, plusargs=plusargs,
        )  # fmt: skip
    except AssertionError as error:
        raise AssertionError(
            f"{error}; again by: HDSNIC_SEED={seed} HDSNIC_BUS_BYTES={bus_bytes}"
            " make sim BENCH=random_traffic"
        ) from None


@pytest.mark.parametrize("seed", drawn_seeds())
def test_random_traffic_keeps_every_promise(card, seed):
    bus_bytes, verilog = card
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 31)
    print(f"random traffic of seed {seed} on a {bus_bytes}-byte bus")
    random_case(verilog, bus_bytes, seed)
