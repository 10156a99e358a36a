"""A Linux kernel against the whole system: transfers, memory, counters, clients, the capture.

The tests share one scene, in the order in which they stand; the last one ends the card and reads
its capture.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from captures import addresses, faulty_frames

import hdstack
from hdstack.cli.demo.report import (
    describe_memory,
    judge_card,
    judge_memory,
    payload_touched,
)  # fmt: skip
from hdstack.cli.demo.transfers import CurlDownload, SocketUpload, random_file

pytestmark = pytest.mark.kernel_peer

SIZE = 4 << 20
SIOCATMARK = 0x8905
"""Linux's ioctl of sockatmark."""
PEER, STACK = "10.77.0.1", "10.77.0.2"
README = Path(__file__).resolve().parents[2] / "README.md"


def run(*transfers):
    for transfer in transfers:
        transfer.start()
    for transfer in transfers:
        transfer.join(transfer.limit_seconds + 30)
        assert not transfer.is_alive()
    return [transfer.error for transfer in transfers]


@pytest.fixture(scope="module")
def applications(scene):
    """A with a random file, B for uploads."""
    path = scene.file("random.bin", "A")
    scene.data, scene.digest = random_file(path, SIZE)
    scene.start_server("A", path.parent, 8080)
    scene.start_server("B", scene.file("", "B"), 8081)
    return scene


def download(kernel, scene):
    return CurlDownload(kernel, f"http://{STACK}:8080/random.bin", SIZE, scene.digest, 90)


def upload(kernel, scene):
    return SocketUpload(kernel, (STACK, 8081), scene.data, scene.digest, 90)


def test_download_and_upload_at_once_arrive_whole_and_are_copied_by_no_cpu(kernel, applications):
    assert run(download(kernel, applications), upload(kernel, applications)) == [None, None]
    for name in ("A", "B"):
        assert applications.observe(name, "stats")["stats"]["copied_bytes"] == 0


def test_several_downloads_at_once_share_the_card(kernel, applications):
    assert run(*(download(kernel, applications) for _ in range(4))) == [None] * 4


def test_curl_uploads_with_100_continue(kernel, applications):
    path = applications.directory / "for-curl"
    _, digest = random_file(path, 2 << 20)
    reader, writer = os.pipe()
    client = kernel.run(
        ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "60", "-T", str(path),
         f"http://{STACK}:8081/upload"], writer, writer,
    )  # fmt: skip
    os.close(writer)
    assert client.wait(70) == 0
    assert os.read(reader, 1000).decode().strip() == digest
    os.close(reader)


def test_nobody_listens_on_another_port_and_the_kernel_is_told_at_once(kernel, applications):
    with kernel.socket() as client:
        client.settimeout(10)
        with pytest.raises(ConnectionRefusedError):
            client.connect((STACK, 9))


def test_each_process_sees_only_what_is_its_own(applications):
    assert judge_memory(describe_memory(applications.maps()), ["A", "B"]) == []
    if os.geteuid() == 0:
        uids = list(applications.uids().values())
        assert len(set(uids)) == len(uids) and 0 not in uids


def test_the_stack_never_touched_a_page_of_payload(applications):
    assert payload_touched(describe_memory(applications.maps()), "stack") == 0


def test_processes_cannot_be_read_through_proc_by_their_own_user(applications):
    for child in applications.children.values():
        assert os.stat(f"/proc/{child.pid}/mem").st_uid == 0  # not dumpable: only root is let in


def test_every_frame_is_accounted_for_and_no_counter_tells_of_a_fault(applications):
    for _ in range(5):
        harness = applications.observe("device", "stats")["stats"]
        counters = applications.observe("stack", "stats")["device"]
        found = judge_card("card", harness, counters)
        if not found:
            break
    assert found == []
    port = counters["port"]
    assert port["payload_write_bytes"] >= SIZE and port["payload_read_bytes"] >= SIZE
    headers = 64 * (port["rx_frames"] + port["tx_frames"])
    assert port["header_write_bytes"] + port["header_read_bytes"] < 8 * headers


def test_hdsnic_stats_shows_the_same_counters(applications):
    done = subprocess.run(
        [sys.executable, "-m", "hdstack.cli", "stats", "--run", applications.run, "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["device"]["port"]["rx_frames"] > 0 and told["stack"]["tcp"]["segments_in"] > 0
    shown = subprocess.run(
        [sys.executable, "-m", "hdstack.cli", "stats", "--run", applications.run],
        capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    assert shown.returncode == 0 and "segments_in" in shown.stdout


def test_an_idle_card_sleeps(applications):
    bursts = applications.observe("stack", "stats")["bursts"]  # first: the stack asks the device
    time.sleep(0.3)  # let what is in flight arrive: this measures a quiet card
    before = applications.observe("device", "stats")["stats"]
    time.sleep(3)  # no event to wait for: that none comes is what is tested
    after = applications.observe("device", "stats")["stats"]
    # What a timer or the peer's kernel wakes costs a thousand cycles and a hundred bursts; awake,
    # three seconds have some hundred thousand cycles and a million bursts.
    assert after["cycles"] - before["cycles"] <= 60_000
    assert after["sleeps"] - before["sleeps"] <= 60
    assert applications.observe("stack", "stats")["bursts"] - bursts <= 6000


def test_hdsnic_fetch_takes_a_file_from_a_server_of_the_kernel(kernel, applications):
    data = applications.data[: 1 << 20]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = HTTPServer((PEER, 8000), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = kernel.socket()
    server.socket.bind((PEER, 8000))
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        child = applications.start_fetch("C", f"http://{PEER}:8000/file")
        assert child.process.wait(60) == 0, child.tail()
    finally:
        server.shutdown()
        server.server_close()
    said = child.log.read_text()
    assert f"{len(data)} bytes" in said and "copied 0 bytes" in said
    assert hashlib.sha256(data).hexdigest() in said
    applications.end("C")


def at_mark(client):
    """Whether the next byte that the kernel gives is its urgent one (sockatmark)."""
    return struct.unpack("i", fcntl.ioctl(client, SIOCATMARK, bytes(4)))[0] == 1


def test_urgent_marks_stand_where_the_kernel_puts_and_finds_them(kernel, applications):
    """RFC 9293 section 3.8.5, both ways."""
    heard = []

    async def interrupted(reader, writer):
        before = await reader.wait_urgent()
        seen = b""
        while reader.urgent_bytes:
            seen += await reader.read(reader.urgent_bytes)
        heard.append((before <= 5001, seen, await reader.readexactly(5)))
        writer.write(b"y" * 3000)
        writer.write_urgent(b"?")
        writer.write(b"tail")
        writer.close()

    def talk():
        with kernel.socket() as client:
            client.settimeout(30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            client.connect((STACK, 7100))
            client.sendall(b"x" * 5000)
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"after")
            got = b""
            while not at_mark(client):
                got += client.recv(65536)
            return got, client.recv(1), client.recv(4, socket.MSG_WAITALL)

    async def scene():
        async with await hdstack.connect(applications.run, harden=False) as runtime:
            await runtime.start_server(interrupted, 7100)
            return await asyncio.to_thread(talk)

    assert asyncio.run(asyncio.wait_for(scene(), 90)) == (b"y" * 3000, b"?", b"tail")
    assert heard == [(True, b"x" * 5000 + b"!", b"after")]


def test_the_example_of_the_readme_runs(kernel, applications):
    text = README.read_text()
    code = text[text.index("```python\n") + 10 :]
    code = code[: code.index("```")]
    assert len([line for line in code.splitlines() if line]) <= 22
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE,
        env={**os.environ, "HDSNIC_RUN": str(applications.run)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            client = kernel.socket()
            client.settimeout(10)
            if client.connect_ex((STACK, 7000)) == 0:
                break
            client.close()
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with client:
            client.sendall(applications.data[:100_000])
            client.shutdown(1)
            answer = b""
            while more := client.recv(1000):
                answer += more
    finally:
        process.kill()
        process.wait(10)
        process.stderr.close()
    assert answer.decode().strip() == hashlib.sha256(applications.data[:100_000]).hexdigest()


def test_the_capture_has_no_malformed_frame_and_no_wrong_checksum(applications):
    for name in ("B", "A", "stack", "device"):
        assert applications.end(name) in (0, 130)
    assert faulty_frames(applications.capture) == []
    seen = addresses(applications.capture)
    assert seen[PEER, STACK] > 1000 and seen[STACK, PEER] > 1000
