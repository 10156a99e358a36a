"""The whole card under Verilator, at the narrowest and the widest bus, AXI models around it."""

import pytest
from rtl.bench import run

from hdsnic.parameters import Parameters
from hdsnic.verilog import generate


@pytest.fixture(scope="module", params=[8, 64], ids=lambda w: f"{w}-byte bus")
def card(request):
    return request.param, generate(Parameters(bus_bytes=request.param))


@pytest.mark.parametrize("module", ["registers", "receive", "transmit", "commands", "features"])
def test_the_card_behaves_as_its_contract_says(card, module):
    bus_bytes, verilog = card
    run(verilog, "hdsnic", f"rtl.nic.bench_{module}", name=f"nic-{bus_bytes}")
