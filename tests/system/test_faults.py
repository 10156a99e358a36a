"""An application that is killed in its transfer takes nobody with it."""

import hashlib
import os
import signal
import time

import pytest

from hdstack.cli.demo.transfers import CurlDownload, SocketUpload, random_file

pytestmark = pytest.mark.kernel_peer

SIZE = 8 << 20
STACK = "10.77.0.2"


def test_kill_9_of_a_during_its_transfer_and_b_completes(kernel, scene):
    path = scene.file("random.bin", "A")
    data, digest = random_file(path, SIZE)
    scene.start_server("A", path.parent, 8080)
    scene.start_server("B", scene.file("", "B"), 8081)
    from_a = CurlDownload(kernel, f"http://{STACK}:8080/random.bin", SIZE, digest, 60)
    to_b = SocketUpload(kernel, (STACK, 8081), data, digest, 90)
    from_a.start()
    to_b.start()
    deadline = time.monotonic() + 60
    while not (SIZE // 8 < from_a.done < SIZE // 2 and to_b.done < SIZE // 2):
        assert time.monotonic() < deadline and from_a.is_alive() and to_b.is_alive()
        time.sleep(0.002)
    scene.kill("A")
    killed = time.monotonic()
    from_a.join(30)
    assert from_a.error is not None and from_a.done < SIZE
    assert time.monotonic() - killed < 10, "A's peer was not told in time"
    to_b.join(120)
    assert to_b.error is None
    assert scene.observe("B", "stats")["stats"]["copied_bytes"] == 0
    scene.check()


def test_after_that_its_memory_is_gone_from_card_and_stack(scene):
    for name in ("device", "stack"):
        pools = [m for m in scene.observe(name, "maps")["maps"] if m["name"] == "hdsnic-pool"]
        assert len(pools) == 1, f"{name} still maps the pool of A"


def test_after_that_a_new_application_serves_its_port(kernel, scene):
    path = scene.file("random.bin", "A")
    _, digest = random_file(path, 1 << 20)
    scene.start_server("A", path.parent, 8080)
    again = CurlDownload(kernel, f"http://{STACK}:8080/random.bin", 1 << 20, digest, 60)
    again.start()
    again.join(70)
    assert again.error is None


def test_an_application_that_stops_for_a_while_does_not_hold_up_the_other(kernel, scene):
    data = os.urandom(2 << 20)
    digest = hashlib.sha256(data).hexdigest()
    stopped = scene.children["A"].pid
    path_size = 1 << 20
    starving = CurlDownload(kernel, f"http://{STACK}:8080/random.bin", path_size, "", 60)
    os.kill(stopped, signal.SIGSTOP)
    try:
        starving.start()
        to_b = SocketUpload(kernel, (STACK, 8081), data, digest, 60)
        to_b.start()
        to_b.join(70)
        assert to_b.error is None
        assert starving.done < path_size
    finally:
        os.kill(stopped, signal.SIGCONT)
    starving.join(70)
    assert starving.done == path_size
