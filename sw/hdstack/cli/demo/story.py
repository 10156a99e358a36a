"""The course of `hdsnic demo`: set up, transfer both ways at once, gather, judge, tidy up.

Peer is a Linux kernel in a namespace of its own (`peer`); where none can be had, a second card and
stack at the other end of a wire. Everything that is started ends with the story, whatever ends it.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from ..common import console, say
from ..errors import CommandError
from . import report
from .peer import KernelPeer, NoKernelPeer, open_peer
from .scene import PEER_UID, Scene
from .transfers import CurlDownload, FetchTransfer, SocketUpload, Transfer, random_file

__all__ = ["run_demo"]

PEER_ADDRESS, STACK_ADDRESS = "10.77.0.1", "10.77.0.2"
STACK_MAC, SECOND_MAC = "02:68:64:73:00:02", "02:68:64:73:00:01"
PORT_A, PORT_B = 8080, 8081
_SLOWEST_BYTES_PER_SECOND = 250_000
"""A transfer slower than this is given up."""


def default_capture() -> Path:
    """build/demo.pcapng of the checkout, or of the present directory."""
    root = Path(__file__).resolve().parents[4]
    home = root if (root / "pyproject.toml").exists() and os.access(root, os.W_OK) else Path.cwd()
    return home / "build" / "demo.pcapng"


def prepare(bus_bytes: int) -> None:
    """Build the card and compile the stack, where that was not done before."""
    from hdsim.build import native_model
    from hdsnic.parameters import Parameters

    from ...native import cache_directory

    native_model(
        Parameters(bus_bytes=bus_bytes),
        progress=lambda line: say.print(line, style="dim", highlight=False),
    )
    cache = cache_directory()
    if cache is not None and not any(cache.rglob("*.nbi")):
        say.print("compiling the stack (once; a minute or two)", style="dim")
        code = "from hdstack import app, service; service.warm(); app.warm()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise CommandError(
                "the stack could not be compiled; its last lines:", done.stderr[-2000:]
            )


class _Watch:
    """The progress bars: shows transfers until all are over, and looks after the processes."""

    def __init__(self, transfers: list[Transfer], scenes: list[Scene]):
        self._transfers, self._scenes = transfers, scenes

    def run(self, midway) -> None:
        """Run the transfers; `midway` is called once while they flow."""
        columns = (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
            TransferSpeedColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        with Progress(*columns, console=say) as progress:
            bars = [progress.add_task(t.title, total=t.size) for t in self._transfers]
            for transfer in self._transfers:
                transfer.start()
            called = False
            while any(t.is_alive() for t in self._transfers):
                for transfer, bar in zip(self._transfers, bars, strict=True):
                    transfer.join(0.05)
                    progress.update(bar, completed=transfer.done)
                if not called and all(t.done * 3 > t.size for t in self._transfers):
                    midway()
                    called = True
                for scene in self._scenes:
                    scene.check()
            for transfer, bar in zip(self._transfers, bars, strict=True):
                progress.update(bar, completed=transfer.done)
            if not called:
                midway()


def _start_applications(scene: Scene, size: int) -> tuple[str, bytes, str]:
    """A serves a random file, B takes uploads; returns A's digest, B's data and digest."""
    path = scene.file("random.bin", "A")
    _, download_digest = random_file(path, size)
    data, upload_digest = random_file(scene.file("upload.bin", "B"), size)
    scene.start_server("A", path.parent, PORT_A)
    scene.start_server("B", scene.file("", "B"), PORT_B)
    return download_digest, data, upload_digest


def _gather(figures: report.Figures, scene: Scene, title: str) -> None:
    for _ in range(5):  # a frame may come between two reads of counters
        harness = scene.observe("device", "stats")["stats"]
        stack = scene.observe("stack", "stats")
        problems = report.judge_card(title, harness, stack["device"])
        if not problems:
            break
    figures.problems += problems
    figures.cards[title] = {"harness": harness, "counters": stack["device"]}
    figures.stacks[title] = stack["tcp"]
    memories = report.describe_memory({"stack": scene.observe("stack", "maps")["maps"]})
    name = title.replace("card", "stack")
    figures.copied_bytes[name] = report.payload_touched(memories, "stack")
    for name in ("A", "B"):
        if name in scene.children:
            stats = scene.observe(name, "stats")["stats"]
            figures.copied_bytes[f"application {name}"] = stats["copied_bytes"]


def _look_at_memory(figures: report.Figures, scene: Scene) -> None:
    """While traffic flows: who maps what, and as whom."""
    figures.memory = report.describe_memory(scene.maps())
    figures.problems += report.judge_memory(figures.memory, ["A", "B"])
    uids = scene.uids()
    if os.geteuid() == 0 and len({0, *uids.values()}) != len(uids) + 1:
        figures.problems.append(f"the processes do not run as users of their own: {uids}")


def _judge(figures: report.Figures, transfers: list[Transfer], size: int) -> None:
    for transfer in transfers:
        good = transfer.error is None and transfer.digest == transfer.expected
        t, rate = transfer, transfer.megabytes_per_second
        figures.transfers.append(report.Row(t.title, t.done, t.seconds, rate, t.digest, good))
        if not good:
            figures.problems.append(transfer.error or f"{transfer.title}: digests differ")
        elif transfer.done != size:
            figures.problems.append(f"{transfer.title}: {transfer.done} bytes, {size} were sent")
    for name, count in figures.copied_bytes.items():
        if count:
            figures.problems.append(f"{name} copied {count} bytes of payload by a CPU")


def _isolation(peer: KernelPeer | None) -> list[tuple[str, bool, str]]:
    root = os.geteuid() == 0
    uids = (
        "device, stack, A and B run as users of their own"
        if root
        else "one user for all processes: needs root"
    )
    kernel = "network namespace; capabilities dropped" if peer else "needs a namespace"
    return [
        ("stack cannot write payload", True, "seals of the pool (kernel)"),
        ("application cannot see header memory or another pool", True, "descriptors never given"),
        ("no ptrace, no /proc/PID/mem between processes", True, "not dumpable"),
        ("processes cannot signal or replace one another", root, uids),
        ("files of an application are closed to the others", root, uids),
        ("peer is another TCP implementation, apart from ours", peer is not None, kernel),
    ]


def _with_kernel(figures, peer: KernelPeer, size: int, capture: Path, bus_bytes: int) -> None:
    figures.peer = f"Linux kernel: {peer.way}"
    with Scene() as scene, say.status("starting the card") as status:
        scene.start_device(peer.link_fd, bus_bytes, scene.file("demo.pcapng", "device"))
        status.update("starting the stack")
        scene.start_stack(f"{STACK_ADDRESS}/24", STACK_MAC)
        status.update("starting the applications")
        download_digest, data, upload_digest = _start_applications(scene, size)
        status.stop()
        limit = 60 + size / _SLOWEST_BYTES_PER_SECOND
        url = f"http://{STACK_ADDRESS}:{PORT_A}/random.bin"
        transfers = [
            CurlDownload(peer, url, size, download_digest, limit),
            SocketUpload(peer, (STACK_ADDRESS, PORT_B), data, upload_digest, limit),
        ]
        _Watch(transfers, [scene]).run(lambda: _look_at_memory(figures, scene))
        _gather(figures, scene, "card")
        _judge(figures, transfers, size)
        _end(figures, scene)
        _keep(figures, scene.file("demo.pcapng", "device"), capture)
    figures.isolation = _isolation(peer)


def _with_wire(figures, why: str, size: int, capture: Path, bus_bytes: int) -> None:
    from hdsim.links import wire_pair

    figures.peer = f"a second simulated card and stack over a wire pair ({why})"
    here, there = (socket.socket(fileno=end) for end in wire_pair())
    with (
        here,
        there,
        Scene() as scene,
        Scene(1) as far,
        say.status("starting both cards") as status,
    ):
        scene.start_device(here.fileno(), bus_bytes, scene.file("demo.pcapng", "device"))
        far.start_device(there.fileno(), bus_bytes, None)
        status.update("starting both stacks")
        scene.start_stack(f"{STACK_ADDRESS}/24", STACK_MAC)
        far.start_stack(f"{PEER_ADDRESS}/24", SECOND_MAC)
        status.update("starting the applications")
        download_digest, data, upload_digest = _start_applications(scene, size)
        status.stop()
        upload = far.file("upload.bin", "D")
        upload.write_bytes(data)
        upload.chmod(0o644)
        limit = 60 + size / _SLOWEST_BYTES_PER_SECOND
        clients = {
            "C": ("C downloads from A", PORT_A, "random.bin", download_digest, ()),
            "D": ("D uploads to B", PORT_B, "upload", upload_digest, ("--upload", upload)),
        }
        transfers = []
        for name, (title, port, path, digest, more) in clients.items():
            child = far.start_fetch(name, f"http://{STACK_ADDRESS}:{port}/{path}", *more)
            transfers.append(FetchTransfer(title, child, size, digest, limit))
        _Watch(transfers, [scene, far]).run(lambda: _look_at_memory(figures, scene))
        _gather(figures, scene, "card")
        _gather(figures, far, "second card")
        for name, transfer in zip(clients, transfers, strict=True):
            figures.copied_bytes[f"application {name}"] = transfer.copied_bytes
        _judge(figures, transfers, size)
        _end(figures, far)
        _end(figures, scene)
        _keep(figures, scene.file("demo.pcapng", "device"), capture)
    figures.isolation = _isolation(None)


def _end(figures: report.Figures, scene: Scene) -> None:
    """End the children in order; each must go when it is asked."""
    for name in ("D", "C", "B", "A", "stack", "device"):
        if name in scene.children:
            client = name in "CD"
            status = scene.end(name)
            if status not in (0, 130) and not client:
                figures.problems.append(f"{name} ended with status {status} when asked to end")


def _keep(figures: report.Figures, made: Path, capture: Path) -> None:
    """Move the capture out of the run directory, to the user who runs the demo."""
    if not made.exists() or made.stat().st_size < 1000:
        figures.problems.append("the device left no capture")
        return
    shutil.copyfile(made, capture)
    figures.capture = str(capture)


def run_demo(size: int, peer: str, capture: Path | None, bus_bytes: int, as_json: bool) -> None:
    """Run it, print the tables; raises CommandError if anything is not as it should be."""
    if peer not in ("auto", "tap", "veth", "wire"):
        raise CommandError(f"--peer is {peer!r}; it must be auto, tap, veth or wire")
    capture = capture or default_capture()
    capture.parent.mkdir(parents=True, exist_ok=True)
    with capture.open("ab"):  # told now, not after the transfer
        pass
    begin = time.monotonic()
    figures = report.Figures()
    prepare(bus_bytes)
    kernel, why = None, "asked for by --peer wire"
    if peer != "wire":
        try:
            kernel = open_peer(f"{PEER_ADDRESS}/24", peer, PEER_UID if os.geteuid() == 0 else None)
        except NoKernelPeer as error:
            if peer != "auto":
                raise
            why = f"no kernel peer here: {error}"
            say.print(f"{why}; a second card is the peer", highlight=False, soft_wrap=True)
    with contextlib.ExitStack() as stack:
        if kernel is not None:
            stack.enter_context(kernel)
            if shutil.which("curl") is None:
                raise CommandError("the program curl is missing; install it with: apt install curl")
            _with_kernel(figures, kernel, size, capture, bus_bytes)
        else:
            _with_wire(figures, why, size, capture, bus_bytes)
    figures.seconds = time.monotonic() - begin
    if as_json:
        print(json.dumps(figures.as_dict(), indent=1))
    else:
        report.show(figures, console)
    if figures.problems:
        raise CommandError(f"the demo found {len(figures.problems)} things not as they should be")
