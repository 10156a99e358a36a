"""The proofs' own rules, and two of the quickest proofs; `make formal` runs them all."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module", autouse=True)
def specifications():
    """Specifications go by plain names, which modules of other folders may have too."""
    names = [f.stem for f in HERE.glob("*.py") if not f.stem.startswith("test_")]
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def all_specs():
    run = importlib.import_module("run")
    spec = importlib.import_module("spec")
    return [s for name in run.blocks() for s in spec.specs_of(importlib.import_module(name))]


def test_every_property_has_a_mutant_to_kill():
    properties = [p for spec in all_specs() for p in spec.properties]
    assert properties
    assert [p.name for p in properties if not p.mutants] == []


def test_every_mutant_changes_exactly_one_place_of_today_s_source():
    for spec in all_specs():
        for prop in spec.properties:
            for mutant in prop.mutants:
                source = Path(importlib.util.find_spec(mutant.module).origin).read_text()
                assert source.count(mutant.old) == 1, (prop.name, mutant.name)


def test_the_invariants_of_the_design_are_all_there():
    numbers = {p.name.split()[0] for spec in all_specs() for p in spec.properties}
    assert numbers >= {"I1", "I2", "I3", "I4", "I6", "R19"}


def test_the_page_on_verification_has_today_s_table():
    page = (HERE.parents[1] / "docs" / "verification.md").read_text()
    assert importlib.import_module("run").table() in page, "run.py --table prints it"


@pytest.mark.parametrize("block", ["regions"])
def test_quick_proofs_hold_and_their_mutants_die(block):
    done = subprocess.run([sys.executable, HERE / "run.py", block], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
