"""Fixtures of the simulation's tests: native libraries and device processes around a tiny card."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from parties import DeviceUnderTest


@pytest.fixture
def device(tmp_path):
    """A device process without a wire."""
    with DeviceUnderTest(tmp_path) as running:
        yield running
