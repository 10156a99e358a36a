"""A fresh kernel, card, stack and applications for each test, and the verdict on what was seen."""

import pytest
from interop import World


@pytest.fixture
def world():
    """`world(...)` makes the scene of a test; see `interop.World`. Ended with the test."""
    made = []

    def make(**settings):
        made.append(World(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
