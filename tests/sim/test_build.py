"""The cached build of the native model."""

import os
import subprocess
import sys

import pytest
from tiny_card import tiny_verilog

from hdsim import build
from hdsim.errors import BuildError
from hdsim.header import c_header
from hdsnic import abi
from hdsnic.parameters import Parameters

SMALL = Parameters(bus_bytes=8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache that borrows only Verilator's compiled runtime."""
    runtime = build.cache_directory() / "runtime"
    build.build_library(tiny_verilog(SMALL), SMALL)  # fills the usual cache, so runtime is there
    monkeypatch.setenv("HDSNIC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "runtime").symlink_to(runtime)
    return tmp_path / "cache"


def test_a_second_call_does_not_build_and_a_changed_source_does(cache):
    lines = []
    text = tiny_verilog(SMALL)
    first = build.build_library(text, SMALL, progress=lines.append)
    assert first.is_relative_to(cache) and [line.split(": ")[1] for line in lines][:2] == [
        "Verilator",
        "C++",
    ]
    lines.clear()
    assert build.build_library(text, SMALL, progress=lines.append) == first
    assert not lines
    changed = text.replace("m_axis_tx_tuser = 0", "m_axis_tx_tuser = 1")
    assert changed != text
    assert build.build_library(changed, SMALL, progress=lines.append) != first
    assert lines


BUILD = """
import sys
from hdsim import build
from hdsnic.parameters import Parameters

lines = []
text = open(sys.argv[1]).read()
print("ready", flush=True)
sys.stdin.readline()
print(build.build_library(text, Parameters(bus_bytes=8), progress=lines.append), len(lines))
"""


def test_two_processes_that_start_at_once_build_once(cache, tmp_path):
    path = tmp_path / "card.v"
    path.write_text(tiny_verilog(SMALL) + "\n// twice\n")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", BUILD, path], **pipes) for _ in range(2)]
    try:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=300)[0].split() for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait(10)
    assert answers[0][0] == answers[1][0]
    assert sorted(int(lines) > 0 for _, lines in answers) == [False, True]


def test_verilog_with_a_fault_is_reported_with_the_tools_own_words(cache):
    with pytest.raises(BuildError, match=r"verilator_bin failed.*failed\.log"):
        build.build_library("module hdsnic(input clk); wrong", SMALL, progress=lambda _: None)
    assert not list(cache.glob("*.tmp"))


def test_a_missing_compiler_is_named_with_the_package(cache, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"g\+\+"):
        build.build_library(tiny_verilog(SMALL), SMALL)


def test_the_header_has_the_addresses_of_the_contract():
    text = c_header(Parameters(bus_bytes=16))
    assert f"constexpr uint32_t MAGIC = {abi.MAGIC:#x};" in text
    assert "constexpr uint32_t BUS_BYTES = 0x10;" in text
    assert f"constexpr uint32_t REG_FENCE = {abi.CONTROL.FENCE.offset:#x};" in text
    assert f"constexpr uint32_t RX_CONSUMER = {abi.STACK_DOORBELL.RX_CONSUMER.offset:#x};" in text
