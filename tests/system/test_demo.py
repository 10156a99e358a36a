"""`hdsnic demo` as users run it: its verdict, its modes, and that nothing stays behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from captures import faulty_frames

from hdstack.cli.demo.peer import NoKernelPeer, open_peer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place():
    """A folder for all that a demo leaves; other users can pass through it, as through /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="hdsnic-test-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def needs_kernel():
    try:
        open_peer("10.77.0.1/24").close()
    except NoKernelPeer as error:
        pytest.skip(f"no kernel peer can be had here: {error}")


def start(place, *arguments, python=(sys.executable,), **options):
    environment = {**os.environ, "TMPDIR": str(place), **options.pop("env", {})}
    return subprocess.Popen(
        [*python, "-m", "hdstack.cli", "demo", "--capture", place / "demo.pcapng",
         *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        env=environment, **options,
    )  # fmt: skip


def finish(process, seconds=240):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def left(place):
    return sorted(path.name for path in place.iterdir() if path.name != "demo.pcapng")


@pytest.mark.kernel_peer
def test_demo_with_a_kernel_finds_all_as_it_should_be_and_leaves_only_its_capture(
    needs_kernel, place
):
    status, out, err = finish(start(place, "--size", 2, "--json"))
    assert status == 0, err
    told = json.loads(out)
    assert told["problems"] == [] and "Linux kernel" in told["peer"]
    assert [row["good"] for row in told["transfers"]] == [True, True]
    assert set(told["copied_bytes"].values()) == {0}
    assert told["cards"]["card"]["counters"]["port"]["payload_write_bytes"] >= 2 << 20
    assert left(place) == []
    assert faulty_frames(place / "demo.pcapng") == []


@pytest.mark.kernel_peer
def test_demo_with_a_card_of_8_bytes_and_a_table_for_people(needs_kernel, place):
    status, out, err = finish(start(place, "--size", 1, "--bus-bytes", 8), 500)
    assert status == 0, err + out
    for words in ("payload pool of A", "simulated cycles", "all is as it should be", "demo.pcapng"):
        assert words in out


def test_demo_without_a_kernel_uses_a_second_card(place):
    status, out, err = finish(start(place, "--size", 1, "--peer", "wire", "--json"))
    assert status == 0, err
    told = json.loads(out)
    assert told["problems"] == [] and set(told["cards"]) == {"card", "second card"}
    assert set(told["copied_bytes"].values()) == {0} and len(told["copied_bytes"]) == 6
    assert left(place) == []


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


def await_curl(process):
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline, "curl did not start"
        with contextlib.suppress(psutil.NoSuchProcess):
            found = family(process)
            if any(p.name() == "curl" for p in found):
                return found
        time.sleep(0.02)
    raise AssertionError(f"the demo ended early: {process.communicate()}")


@pytest.mark.kernel_peer
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_ends_every_process_and_removes_what_it_made(needs_kernel, place, number):
    process = start(place, "--size", 96)
    processes = await_curl(process)
    process.send_signal(number)
    status, _, err = finish(process, 40)
    assert status == 130, err
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive and left(place) == []


@pytest.mark.kernel_peer
def test_kill_9_of_the_demo_ends_every_process(needs_kernel, place):
    process = start(place, "--size", 96)
    processes = await_curl(process)
    process.kill()
    process.communicate(timeout=10)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


@pytest.mark.kernel_peer
def test_demo_says_which_process_ended_and_fails_when_the_stack_is_killed(needs_kernel, place):
    process = start(place, "--size", 96)
    processes = await_curl(process)
    stack = next(p for p in processes if "stack" in p.cmdline())
    stack.kill()
    status, _, err = finish(process, 60)
    assert status == 1 and "stack ended with signal 9" in err
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive and left(place) == []


def python_for_anybody():
    """An interpreter, with this environment's packages, that another user can run."""
    folders = [str(ROOT / name) for name in ("hw", "sw", "sim")] + sys.path
    packages = ":".join(f for f in folders if f and not f.startswith(sys.base_prefix))
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{here}", f"/usr/local/bin/{here}"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [python, "-c", "import hdstack.service, hdsim.device, typer"],
                user=65534, group=65534, extra_groups=[], capture_output=True, timeout=120,
                env={"PYTHONPATH": packages, "NUMBA_DISABLE_JIT": "1", "PATH": os.environ["PATH"]},
            )  # fmt: skip
            if done.returncode == 0:
                return python, packages
    pytest.skip("the checkout or the interpreter cannot be read by another user")


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are run by a plain user already")
def test_demo_of_a_plain_user_tells_what_it_cannot_enforce(place):
    from hdsim.build import cache_directory, native_model
    from hdsnic.parameters import Parameters
    from hdstack import native

    python, packages = python_for_anybody()
    cache = place / "cache"
    model = native_model(Parameters(bus_bytes=64)).parent
    for made in (model, native.cache_directory(), cache_directory() / "verilog"):
        shutil.copytree(made, cache / made.name)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, 65534, 65534)
    process = start(
        place, "--size", 1, "--json", python=(python,), user=65534, group=65534, extra_groups=[],
        env={"PYTHONPATH": packages, "HDSNIC_CACHE": str(cache), "HOME": str(place)},
    )  # fmt: skip
    status, out, err = finish(process, 500)
    assert status == 0, err
    told = json.loads(out)
    enforced = {what: yes for what, yes, _ in told["isolation"]}
    assert enforced["stack cannot write payload"]
    assert not enforced["processes cannot signal or replace one another"]
    assert ("user namespace" in told["peer"]) or ("no kernel peer here" in told["peer"])
