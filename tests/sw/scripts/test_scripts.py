"""Every script of this folder interpreted, and a selection of all kinds as compiled code."""

from pathlib import Path

import pytest
from script_language import load as load_script
from script_runner import Runner
from tcp_host import load

HERE = Path(__file__).parent
SCRIPTS = sorted(str(path.relative_to(HERE)) for path in HERE.rglob("*.script"))
COMPILED = SCRIPTS[::4]


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name):
    Runner(load_script(HERE / name), load(False)).run()


@pytest.mark.parametrize("name", COMPILED)
def test_script_compiled(name):
    Runner(load_script(HERE / name), load(True)).run()
