"""The whole card under Verilator, AXI models around it; at the narrowest and the widest bus.

`make test-nightly` runs the widths between.
"""

import pytest
from rtl.bench import WIDTHS, run

from hdsnic.parameters import Parameters
from hdsnic.verilog import generate


@pytest.fixture(scope="module", params=WIDTHS, ids=lambda w: f"{w}-byte bus")
def card(request):
    return request.param, generate(Parameters(bus_bytes=request.param))


@pytest.mark.parametrize("module", ["registers", "receive", "transmit", "commands", "features"])
def test_the_card_behaves_as_its_contract_says(card, module):
    bus_bytes, verilog = card
    run(verilog, "hdsnic", f"rtl.nic.bench_{module}", name=f"nic-{bus_bytes}")
