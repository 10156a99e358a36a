"""The committed datasheet says what the contract says."""

import re
from pathlib import Path

from hdsnic import abi
from hdsnic.abi.datasheet import generate

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasheet.md"


def test_committed_datasheet_is_current():
    assert PAGE.read_text() == generate(), "run `make datasheet` and commit docs/datasheet.md"


def test_datasheet_tells_the_addresses_of_counters_as_the_driver_computes_them():
    text = generate()
    told = re.search(r"outcome o: `(0x\w+)` \+ (\d+) q \+ (\d+) o", text)
    base, per_queue, per_outcome = (int(number, 0) for number in told.groups())
    for queue in (0, 7, abi.rx_port_row):
        for outcome in abi.RxOutcome:
            address = base + per_queue * queue + per_outcome * outcome
            assert address == abi.rx_counter(queue, outcome)


def test_datasheet_names_every_outcome_and_every_field():
    text = generate()
    for outcomes in (abi.RxOutcome, abi.TxOutcome, abi.PostOutcome):
        assert all(f"`{outcome.label}`" in text for outcome in outcomes)
    for layout in (abi.RECORD, abi.DESCRIPTOR, abi.REFERENCE, abi.POST_CELL, abi.INDEX_SLOT):
        assert all(f"`{field.name}`" in text for field in layout.fields)
