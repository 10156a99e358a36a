"""How large the tables are, and that what peers do does not make them larger."""

import subprocess
import sys

import pytest

from hdstack.tcp import sizes

FILL = """
import importlib, resource
import numpy as np
from hdstack import compile as compiling

with compiling.interpreted():
    tables, rows, core, states, timers = (
        importlib.import_module(f"hdstack.tcp.{name}")
        for name in ("tables", "rows", "core", "states", "timers")
    )
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
s = tables.allocate()
tables.initialise(s, bytes(6), 1, 0, 0, bytes(range(16)))
opened, p = 0, s["parsed"]
p["local_address"], p["local_port"] = 1, 80
for queue in range(tables.QUEUES):
    for k in range(6250):
        p["remote_address"], p["remote_port"] = 0x0A000000 + opened // 60000, opened % 60000 + 1
        index = rows.take_connection(s, queue)
        assert index >= 0
        c = s["connections"][index]
        c["state"] = states.ESTABLISHED
        c["keep_at"] = 7200 * tables.SECOND
        timers.update_deadline(s, index)
        opened += 1
chains = np.bincount(s["connections"]["bucket"][s["connections"]["state"] != 0])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
core.on_timers(s, 1)
p["remote_address"], p["remote_port"] = 0x0A000001, 1
found = rows.find_connection(s)
print(opened, tables.STATE_BYTES, grown * 1024, chains.max(), found)
print(len({int(rows.number(s["connections"][i], i)) for i in range(0, tables.CONNECTIONS, 97)}))
"""


def test_a_hundred_thousand_idle_connections_fit_into_256_mib():
    found = subprocess.run(
        [sys.executable, "-c", FILL], env={"HDSNIC_CONNECTIONS": "6272", "PYTHONPATH": path()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()
    opened, size, grown, longest, row = map(int, first.split())
    assert opened == 100_000
    assert size <= 256 << 20 and grown <= 256 << 20
    assert longest < 12, "chains of the hash stay short"
    assert row >= 0 and int(second) == len(range(0, 16 * 6272, 97))


def path():
    return ":".join(p for p in sys.path if p)


@pytest.mark.parametrize("text", ["", "0", "63", "100", "8256", "-64", "many", "64.0"])
def test_sizes_that_cannot_be_are_refused_with_what_is_allowed(monkeypatch, text):
    monkeypatch.setenv("HDSNIC_CONNECTIONS", text)
    with pytest.raises(sizes.ConfigurationError, match="multiple of 64 from 64 to 8192"):
        sizes.connections_per_queue()


def test_sizes_that_can_be_are_taken(monkeypatch):
    for number in (64, 1024, 8192):
        monkeypatch.setenv("HDSNIC_CONNECTIONS", str(number))
        assert sizes.connections_per_queue() == number
