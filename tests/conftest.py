"""What all tests share: the kernel-peer rule of continuous integration, and waveforms."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "kernel_peer: needs a Linux kernel as peer (root, or a user namespace)"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """HDSNIC_KERNEL_PEER=required: a skipped kernel-peer test fails where a TAP can be had, but for
    one that lacks a program and names its package."""
    outcome = yield
    report = outcome.get_result()
    if (
        report.skipped
        and item.get_closest_marker("kernel_peer")
        and os.environ.get("HDSNIC_KERNEL_PEER") == "required"
        and os.path.exists("/dev/net/tun")
        and "is missing (apt install" not in str(report.longrepr)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped although /dev/net/tun is there: {report.longrepr}"


@pytest.fixture(autouse=True)
def waves(request, monkeypatch):
    """WAVES=1: benches in Amaranth's simulator leave build/waves/<test>.vcd.

    (cocotb's runner reads the same variable by itself.)
    """
    if os.environ.get("WAVES", "0") in ("", "0") or "rtl" not in request.node.path.parts:
        return
    from amaranth.sim import Simulator

    folder = ROOT / "build" / "waves"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", f"{request.node.path.stem}.{request.node.name}")

    def traced(method):
        def run(self, *args, **kwargs):
            with self.write_vcd(str(folder / f"{name}.vcd")):
                return method(self, *args, **kwargs)

        return run

    for method in ("run", "run_until"):
        monkeypatch.setattr(Simulator, method, traced(getattr(Simulator, method)))
