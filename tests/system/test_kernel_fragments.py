"""A Linux kernel and fragments: large pings that it cuts itself, streams that a router cuts.

The tests share one scene; the last one reads its capture.
"""

import os
import shutil
import subprocess
import time

import pytest
from captures import faulty_frames
from middlebox import Middlebox

from hdstack.cli.demo.namespace import INTERFACE
from hdstack.cli.demo.scene import Scene
from hdstack.cli.demo.transfers import SocketUpload, random_file
from hdstack.errors import ServiceError

pytestmark = pytest.mark.kernel_peer

STACK_ADDRESS, STACK_MAC = "10.77.0.2", "02:68:64:73:00:02"
PEER6, STACK6 = "fd00:77::1", "fd00:77::2"
SIZE = 256 << 10


@pytest.fixture(scope="module")
def inside(kernel):
    """Run a command as root in the peer's namespace; gives its output."""
    if os.geteuid() != 0:
        pytest.skip("only root may enter the peer's namespace with its capabilities")
    with open(os.devnull, "wb") as nothing:
        holder = kernel.run(["sleep", "600"], nothing.fileno(), nothing.fileno())

    def run(*argv, seconds=60):
        argv = ["nsenter", "-t", str(holder.pid), "-n", *argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    run("sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6")
    run("ip", "-6", "address", "add", f"{PEER6}/64", "dev", INTERFACE, "nodad")
    return run


@pytest.fixture(scope="module")
def scene(kernel, inside):
    router = Middlebox(kernel.link_fd)
    try:
        with Scene() as made:
            made.router = router
            made.capture = made.file("card.pcapng", "device")
            made.start_device(router.card_fd, 64, made.capture)
            made.start_stack(f"{STACK_ADDRESS}/24", STACK_MAC, "--also", f"{STACK6}/64")
            made.path = made.file("random.bin", "B")
            made.data, made.digest = random_file(made.path, SIZE)
            made.start_server("B", made.file("", "B"), 8081)
            yield made
    finally:
        router.close()


def counters(scene):
    """Counters of TCP; a machine with much else to do may take longer than observers wait."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return scene.observe("stack", "stats")["tcp"]
        except ServiceError:
            if time.monotonic() > deadline:
                raise


def gained(scene, before):
    return {name: value - before[name] for name, value in counters(scene).items()}


@pytest.mark.parametrize("address", [STACK_ADDRESS, STACK6])
@pytest.mark.parametrize("size", [1473, 4000, 20000])
def test_large_pings_are_answered(scene, inside, address, size):
    if shutil.which("ping") is None:
        pytest.skip("the program `ping` is missing (apt install iputils-ping)")
    before = counters(scene)
    said = inside("ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", "-s", str(size), address)
    assert "3 received" in said and "0% packet loss" in said
    got = gained(scene, before)
    assert got["reassembled"] == got["echo_replies"] == 3


def test_a_stream_of_the_kernel_arrives_whole_although_a_router_cuts_it(scene, kernel):
    before = counters(scene)
    scene.router.cut = 552
    upload = SocketUpload(kernel, (STACK_ADDRESS, 8081), scene.data, scene.digest, 120)
    upload.start()
    upload.join(150)
    scene.router.cut = 0
    assert upload.error is None and not upload.is_alive()
    got = gained(scene, before)
    assert scene.router.fragments > 3 * SIZE // 1500 and scene.router.lost > 0
    assert got["placed"] >= SIZE // 2048 and got["reassembled"] >= SIZE // 1500
    assert got["place_refused"] == got["place_lost"] == got["bad_checksum"] == 0
    assert got["fragments_repeated"] + got["fragments_late"] > 0


def put(kernel, scene):
    """Upload by curl over IPv6; the digest that B answers."""
    reader, writer = os.pipe()
    client = kernel.run(
        ["curl", "-q", "-sS", "-g", "--noproxy", "*", "--max-time", "120", "-H", "Expect:", "-T",
         str(scene.upload), f"http://[{STACK6}]:8081/upload"], writer, writer,
    )  # fmt: skip
    os.close(writer)
    assert client.wait(150) == 0
    with open(reader, encoding="ascii") as answer:
        return answer.read().strip()


@pytest.fixture
def upload(scene, tmp_path):
    scene.upload = scene.directory / "for-curl"
    shutil.copyfile(scene.path, scene.upload)
    scene.upload.chmod(0o644)
    return scene


def test_a_stream_over_ipv6_arrives_whole_although_it_is_cut(upload, kernel):
    before = counters(upload)
    upload.router.cut = 1280
    digest = put(kernel, upload)
    upload.router.cut = 0
    assert digest == upload.digest
    got = gained(upload, before)
    assert got["reassembled"] >= SIZE // 1500 and got["place_refused"] == got["place_lost"] == 0


def test_whole_segments_that_the_card_cannot_steer_are_moved(upload, kernel):
    """R32, on the card itself: a fragment header on a whole packet keeps it from the split."""
    before = counters(upload)
    upload.router.wrap = True
    digest = put(kernel, upload)
    upload.router.wrap = False
    assert digest == upload.digest
    got = gained(upload, before)
    assert got["whole_payload"] >= SIZE // 1500 and got["reassembled"] == 0
    assert got["placed"] >= SIZE // 1500 and got["place_refused"] == got["place_lost"] == 0


def test_nothing_waits_for_ever_and_the_capture_has_no_wrong_checksum(scene):
    deadline = time.monotonic() + 20
    while scene.observe("stack", "stats")["moving"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for name in ("B", "stack", "device"):
        assert scene.end(name) in (0, 130)
    assert faulty_frames(scene.capture) == []
