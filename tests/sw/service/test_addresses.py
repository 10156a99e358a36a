"""A stack asks whether its addresses are free before it uses them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("address", "further", "taken"),
    [
        ("10.9.0.1/24", "fd00:9::2/64", "10.9.0.1"),
        ("10.9.0.2/24", "fd00:9::1/64", "fd00:9::1"),
    ],
)
def test_a_stack_whose_address_is_taken_says_so_and_ends(scene, address, further, taken):
    a, b = scene.cards("a", "b")
    scene.stack(a, 1)
    process = subprocess.run(
        [sys.executable, "-c", scene.stack_code, b, address, "02:00:00:00:00:02", further],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode != 0 and "ready" not in process.stdout
    assert f"address {taken} is in use on this link by 02:00:00:00:00:01" in process.stderr
    assert "give this stack another address" in process.stderr
    scene.stack(b, 2)  # one with addresses of its own starts
