"""Programs of other people as peers: nginx, wrk, iperf3, curl; over `hdsnic forward` where they are
servers, since they speak to the kernel's sockets."""

import contextlib
import json
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
from interop import LONG, PEER, PORT_A, SIZE, STACK, program, unexplained

from hdstack.cli.demo.transfers import CurlDownload, random_file

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(1800 if LONG else 600)]

SECONDS = 900.0 if LONG else 120.0
CONNECTIONS = 1000 if LONG else 200
WRK_SECONDS = 20 if LONG else 4
IPERF_SECONDS = 10 if LONG else 2

NGINX = """
daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {place}; proxy_temp_path {place};
    fastcgi_temp_path {place}; uwsgi_temp_path {place}; scgi_temp_path {place};
    keepalive_requests 1000000;
    server {{ listen {address}:{port} backlog=2048; root {place}; }}
}}
"""


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def server(argv, port: int, log: Path):
    """A program that serves a port of the loopback, ended with the block."""
    with log.open("w") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 20
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def nginx_files(place: Path, address: str, port: int, size: int) -> str:
    """The configuration of an nginx that serves `size` random bytes as /big and some as /small;
    the digest of the former."""
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    (place / "nginx.conf").write_text(NGINX.format(place=place, address=address, port=port))
    (place / "small").write_bytes(b"small " * 100)
    _, digest = random_file(place / "big", size)
    return digest


def wrk(here, port: int, connections: int, path: str):
    """wrk finds no error; requests a second."""
    text = here.run(
        WRK_SECONDS + 60, program("wrk"), "-c", connections, "-t", 2, "-d", f"{WRK_SECONDS}s",
        "--timeout", "30s", f"http://{STACK}:{port}/{path}",
    )  # fmt: skip
    print(text)
    assert "Socket errors" not in text and "Non-2xx" not in text, text
    count = int(re.search(r"(\d+) requests in", text).group(1))
    assert count >= connections
    return count


def many(told: dict) -> dict[str, int]:
    """Notes, and how many, that wrk explains: a thousand requests at a time wait longer than timers
    learnt from the handshakes; at its end it resets connections, again for each segment under way.
    """
    again = 2 * (told["retransmits"] + told["duplicates"])  # tshark may say it twice
    return {
        "retransmission": again, "DSACK": again, "duplicate_ACK": again, "reset": 10 * CONNECTIONS,
    }  # fmt: skip


def test_wrk_loads_hdsnic_serve_with_a_thousand_connections(world):
    program("wrk")
    here = world()
    here.serve(600)
    wrk(here, PORT_A, CONNECTIONS, "random.bin")
    told = here.judge()
    assert told["connections_opened"] >= CONNECTIONS
    assert told["timed_out"] == told["no_piece"] == told["lost_buffers"] == 0
    here.end()
    assert unexplained(here.capture, connections=2 * CONNECTIONS, **many(told)) == {}


def test_nginx_behind_hdsnic_forward_serves_curl_and_wrk(world, tmp_path):
    nginx = program("nginx")
    program("wrk")
    port, place = free_port(), tmp_path / "www"
    digest = nginx_files(place, "127.0.0.1", port, SIZE)
    here = world()
    with server([nginx, "-c", place / "nginx.conf", "-p", place], port, tmp_path / "nginx.log"):
        here.scene.start_forward("A", 80, f"127.0.0.1:{port}")
        download = CurlDownload(here.kernel, f"http://{STACK}/big", SIZE, digest, SECONDS)
        download.start()
        download.join(SECONDS + 30)
        assert download.error is None
        wrk(here, 80, CONNECTIONS, "small")
        figures = here.scene.observe("A", "stats")["stats"]
    assert figures["copied_bytes"] == 0 and figures["refused"] == 0
    assert figures["connections"] >= CONNECTIONS + 1 and figures["to_card_bytes"] > SIZE
    told = here.judge()
    here.end()
    notes = {"full": SIZE // 1448, **many(told)}
    assert unexplained(here.capture, connections=2 * CONNECTIONS, **notes) == {}


def test_hdsnic_fetch_takes_a_file_from_nginx(world, tmp_path):
    nginx = program("nginx")
    here = world()
    place = here.scene.directory / "www"
    digest = nginx_files(place, PEER, 8000, SIZE)
    started = here.start(nginx, "-c", place / "nginx.conf", "-p", place)
    deadline = time.monotonic() + 20
    while True:
        with here.kernel.socket() as probe:
            if probe.connect_ex((PEER, 8000)) == 0:
                break
        assert time.monotonic() < deadline, started.so_far()
        time.sleep(0.05)
    child = here.scene.start_fetch("C", f"http://{PEER}:8000/big")
    assert child.process.wait(SECONDS) == 0, child.tail()
    said = child.log.read_text()
    assert digest in said and "copied 0 bytes" in said
    here.scene.end("C")
    spurious = here.spurious(here.judge())
    here.end()
    assert unexplained(here.capture, full=SIZE // 1448 // 10, **spurious) == {}


def test_iperf3_both_ways_and_in_parallel(world, tmp_path):
    iperf3 = program("iperf3")
    port = free_port()
    here = world()
    with server([iperf3, "-s", "-B", "127.0.0.1", "-p", str(port)], port, tmp_path / "log"):
        here.scene.start_forward("A", 5201, f"127.0.0.1:{port}")
        for options in ([], ["-R"], ["-P", 4], ["-P", 4, "-R"], ["--bidir"]):
            text = here.run(
                IPERF_SECONDS + 60, iperf3, "-c", STACK, "-t", IPERF_SECONDS, "-J", *options
            )
            end = json.loads(text)["end"]
            received = end["sum_received"]
            rate = received["bits_per_second"] / 8e6
            print(f"iperf3 {' '.join(map(str, options))}: {rate:.2f} MB/s")
            assert received["bytes"] > 100_000, end
        figures = here.scene.observe("A", "stats")["stats"]
        assert figures["copied_bytes"] == 0 and figures["refused"] == 0
    told = here.judge()
    here.end()
    # The server on the loopback may be slower than the sender: that shuts the window. iperf3 cuts
    # connections off with much under way: a reset for each segment, and no D-SACK for what a timer
    # sent again.
    again = 2 * (told["retransmits"] + told["duplicates"] + told["duplicates_reported"]) + 1000
    notes = dict.fromkeys(("retransmission", "out_of_order", "DSACK", "duplicate_ACK"), again)
    assert unexplained(
        here.capture, full=None, zero_window=None, probe=None, keep_alive=50, reset=None, **notes
    ) == {}  # fmt: skip


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_forward_in_reverse_reaches_a_server_of_the_peer(world, size):
    """A socket of this host, through the card, to a server in the namespace; half-close."""
    here = world()
    port = free_port()
    with here.kernel.socket() as listener:
        listener.bind((PEER, 7000))
        listener.listen(4)
        listener.settimeout(20)
        here.scene.start_forward("A", port, f"{PEER}:7000", "--reverse")
        data = bytes(range(256)) * (size // 256 + 1)
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(20)
                client.sendall(data[:size])
                client.shutdown(socket.SHUT_WR)
                got = b""
                while more := accepted.recv(65536):
                    got += more
                assert got == data[:size]
                accepted.sendall(got[::-1])  # the other direction lives on
            back = b""
            while more := client.recv(65536):
                back += more
        assert back == data[:size][::-1]
    figures = here.scene.observe("A", "stats")["stats"]
    assert figures["to_card_bytes"] == figures["to_kernel_bytes"] == size
    spurious = here.spurious(here.judge())
    here.end()
    assert unexplained(here.capture, **spurious) == {}


def test_forward_tells_the_peer_at_once_that_nobody_serves(world):
    here = world()
    here.scene.start_forward("A", 80, f"127.0.0.1:{free_port()}")
    with here.kernel.socket() as client:
        client.settimeout(20)
        with pytest.raises(ConnectionResetError):
            client.connect((STACK, 80))  # may itself see the reset, if it is fast
            client.recv(1)
    assert here.scene.observe("A", "stats")["stats"]["refused"] == 1
    spurious = here.spurious(here.judge())
    here.end()
    assert unexplained(here.capture, reset=1, **spurious) == {}
