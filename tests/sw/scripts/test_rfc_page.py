"""docs/rfc.md against the tree: what it names is there, and every script is under its RFC."""

import re

import pytest
from script_language import load
from test_scripts import HERE, SCRIPTS

TESTS = HERE.parent
PAGE = (HERE.parents[2] / "docs" / "rfc.md").read_text()
PARTS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| section", "| ---"))
]


def names_in(text):
    return re.findall(r"`([\w./]+(?:::\w+)?)`", text)


def test_what_the_page_names_is_there():
    missing = []
    for row in ROWS:
        for name in names_in(row[3]):
            path, colons, test = name.partition("::")
            if colons:
                there = (TESTS / path).is_file() and f"def {test}(" in (TESTS / path).read_text()
            else:
                there = f"{name}.script" in SCRIPTS
            if not there:
                missing.append(name)
    assert not missing


def test_a_rule_that_is_met_is_shown_by_something():
    for section, rule, met, shown in ROWS:
        assert met.split(":")[0] in ("yes", "no", "partly"), rule
        assert met != "yes" or names_in(shown) or shown.startswith("see RFC"), (section, rule)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_stands_under_the_rfc_that_its_head_names(name):
    numbers = {section.split()[1] for section in load(HERE / name).sections}
    where = {
        number
        for part in PARTS
        if f"`{name.removesuffix('.script')}`" in part
        for number in re.findall(r"RFC (\d+)", part.splitlines()[0])
    }
    assert numbers & where, f"{name} names {sorted(numbers)}, the page has it under {sorted(where)}"
