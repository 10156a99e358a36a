"""What the tests of other peers share: a scene with a fresh kernel, programs, and tshark's verdict.

HDSNIC_PEERS=long (`make test-peers`) runs the full sizes; without it short ones.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from hdstack.cli.demo.peer import NoKernelPeer, open_peer
from hdstack.cli.demo.report import judge_card
from hdstack.cli.demo.scene import PEER_UID, Scene
from hdstack.cli.demo.transfers import CurlDownload, SocketUpload, random_file
from hdstack.errors import ServiceError

LONG = os.environ.get("HDSNIC_PEERS") == "long"
SIZE = 64 << 20 if LONG else 2 << 20
"""Bytes of a transfer, each way."""
PEER, STACK = "10.77.0.1", "10.77.0.2"
STACK_MAC = "02:68:64:73:00:02"
PORT_A, PORT_B = 8080, 8081
"""A serves a file, B takes uploads."""

PACKAGES = {
    "nginx": "nginx-light", "wrk": "wrk", "iperf3": "iperf3", "nmap": "nmap", "hping3": "hping3",
    "nft": "nftables", "curl": "curl", "tshark": "tshark", "ip": "iproute2",
}  # fmt: skip


def program(name: str) -> str:
    """Path of a program, or skip with the package that has it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"the program {name} is missing (apt install {PACKAGES[name]})")
    return found


class World:
    """A kernel in a namespace, a card, a stack; applications on request.

    Parameters
    ----------
    impair: what the wire does, as `hdsnic device --impair` takes it.
    stack: further options of `hdsnic stack`.
    tools: programs in the namespace may use raw sockets and packet filters.
    """

    def __init__(self, impair: str | None = None, stack=(), tools: bool = False):
        self._cleanup = contextlib.ExitStack()
        try:
            uid = PEER_UID if os.geteuid() == 0 and not tools else None
            self.kernel = self._cleanup.enter_context(open_peer(f"{PEER}/24", uid=uid, tools=tools))
        except NoKernelPeer as error:
            pytest.skip(f"no kernel peer can be had here: {error}")
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            self.scene = self._cleanup.enter_context(Scene())
            self.capture = self.scene.file("card.pcapng", "device")
            self.scene.start_device(self.kernel.link_fd, 64, self.capture, impair)
            self.scene.start_stack(f"{STACK}/24", STACK_MAC, *stack)
            failed.pop_all()

    def close(self):
        self._cleanup.close()

    # -- applications and transfers ----------------------------------------------------------------

    def serve(self, size: int = SIZE) -> None:
        """A serves `size` random bytes as /random.bin, B takes uploads of them."""
        path = self.scene.file("random.bin", "A")
        self.data, self.digest = random_file(path, size)
        self.scene.start_server("A", path.parent, PORT_A)
        self.scene.start_server("B", self.scene.file("", "B"), PORT_B)

    def download(self, seconds: float) -> CurlDownload:
        program("curl")
        url = f"http://{STACK}:{PORT_A}/random.bin"
        return CurlDownload(self.kernel, url, len(self.data), self.digest, seconds)

    def upload(self, seconds: float) -> SocketUpload:
        return SocketUpload(self.kernel, (STACK, PORT_B), self.data, self.digest, seconds)

    def transfer(self, seconds: float) -> None:
        """Download and upload at once; both must arrive whole within `seconds`."""
        transfers = [self.download(seconds), self.upload(seconds)]
        for each in transfers:
            each.start()
        for each in transfers:
            each.join(seconds + 30)
            assert not each.is_alive()
        errors = [each.error for each in transfers]
        assert errors == [None, None], errors
        print(*(f"{each.title}: {each.megabytes_per_second:.2f} MB/s" for each in transfers))
        for name in "AB":
            assert self.scene.observe(name, "stats")["stats"]["copied_bytes"] == 0

    def run(self, seconds: float, *argv) -> str:
        """Run a program in the kernel's namespace to its end; what it printed. It must succeed."""
        status, text = self.start(*argv).wait(seconds)
        assert status == 0, f"{' '.join(map(str, argv))}: status {status}\n{text}"
        return text

    def start(self, *argv) -> "Running":
        """Start a program in the kernel's namespace."""
        return Running(self.kernel, list(map(str, argv)))

    def filter(self, *rules: str) -> None:
        """Packet filters of the kernel: rules of nft, each for both hooks of the host."""
        nft = program("nft")
        lines = ["add table inet hdsnic"]
        for hook in ("input", "output"):
            lines.append(f"add chain inet hdsnic {hook} {{ type filter hook {hook} priority 0; }}")
            lines += [f"add rule inet hdsnic {hook} {rule}" for rule in rules]
        for line in lines:
            self.run(10, nft, line)

    def filtered_packets(self) -> dict[str, int]:
        """Packets that the rules of `filter` counted, by hook."""
        text = self.run(10, program("nft"), "list table inet hdsnic")
        found = re.findall(r"chain (\w+) \{.*?counter packets (\d+)", text, re.DOTALL)
        return {hook: int(count) for hook, count in found}

    # -- the verdict -------------------------------------------------------------------------------

    def counters(self) -> tuple[dict, dict]:
        """What device and stack count. Hundreds of register reads: on a busy machine it may take
        the stack longer than an observer waits, so it is asked again."""
        device = self.observe_device()
        for _ in range(5):
            with contextlib.suppress(ServiceError):
                return device, self.scene.observe("stack", "stats")
        pytest.fail("the stack does not tell its counters")

    def observe_device(self) -> dict:
        """What the simulated card's harness counts."""
        return self.scene.observe("device", "stats")["stats"]

    def judge(self, faults: tuple[str, ...] = ()) -> dict:
        """All processes live, every frame is accounted for, no counter tells of a fault but for
        drops named in `faults` ("rx ip_checksum"). Returns the counters of TCP."""
        self.scene.check()
        deadline = time.monotonic() + 20
        while True:
            device, stack = self.counters()
            found = [
                line for line in judge_card("card", device, stack["device"])
                if not any(line.endswith(fault) for fault in faults)
            ]  # fmt: skip
            if not found or time.monotonic() > deadline:
                break
        assert found == []
        return stack["tcp"]

    @staticmethod
    def spurious(told: dict) -> dict[str, int]:
        """Notes, and how many, that a path without harm explains: nothing is sent again but what a
        busy machine acknowledged later than TCP's timers wait. The receiver had it already, and
        counted it, which proves that nothing was lost."""
        assert told["retransmits"] <= told["duplicates_reported"], "the card's side lost something"
        again = 2 * (told["duplicates_reported"] + told["duplicates"])  # tshark may say it twice
        # tshark takes one that comes again within a round trip for out of order
        notes = ("retransmission", "out_of_order", "DSACK", "duplicate_ACK")
        return dict.fromkeys(notes, again)

    def end(self) -> None:
        """End the processes in order; each must go when it is asked. The capture is whole then."""
        order = [name for name in self.scene.children if name not in ("stack", "device")]
        for name in [*order, "stack", "device"]:
            assert self.scene.end(name) in (0, 130), name


class Running:
    """A program in the namespace, with what it prints."""

    def __init__(self, kernel, argv: list[str]):
        self._argv = argv
        reader, writer = os.pipe()
        try:
            self._process = kernel.run(["env", "TMPDIR=/tmp", *argv], writer, writer)
        finally:
            os.close(writer)
        self._text: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._reader.start()

    def _read(self, fd):
        with open(fd, errors="replace") as stream:
            for line in stream:
                self._text.append(line)

    def so_far(self) -> str:
        """What it has printed."""
        return "".join(self._text)

    def wait(self, seconds: float) -> tuple[int, str]:
        """(status, output). A program that runs longer is a failure of the test."""
        try:
            status = self._process.wait(seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, 9)
            self._reader.join(5)
            pytest.fail(f"{' '.join(self._argv)} hangs; so far it said:\n{self.so_far()}")
        self._reader.join(10)
        return status, self.so_far()


# -- tshark's expert -------------------------------------------------------------------------------

NOTES = {
    "open": "Connection establish (request|acknowledge) .*",
    "finish": r"Connection finish \(FIN\)|This frame (initiates|undergoes) the connection closing",
    "reset": r"Connection reset \(RST\)",
    "update": "TCP window update",
    "full": "TCP window specified by the receiver is now completely full",
    "zero window": "TCP Zero Window segment",
    "probe": r"TCP (Zero Window Probe|zero window probe.*|Zero Window Probe Ack)|"
    "ACK to a TCP (keep-alive|zero window).*",
    "keep alive": "TCP keep-alive segment|ACK to a TCP keep-alive segment",
    "retransmission": r"This frame is a \(suspected\) (fast |spurious )?retransmission",
    "duplicate ACK": r"Duplicate ACK \(#N\)",
    "out of order": r"This frame is a \(suspected\) out-of-order segment",
    "missing": r"Previous segment\(s\) not captured \(common at capture start\)",
    "unseen": r"ACKed segment that wasn't captured \(common at capture start\)",
    "DSACK": "D-SACK Sequence",
    "damaged": "a frame with a wrong checksum|Bogus .*|Malformed .*|"
    "IPv. (total|payload) length exceeds.*",
    "forged": "A new tcp session is started with the same ports.*|Window scale shift exceeds N|"
    "The (acknowledgment number|urgent pointer) field is nonzero while the ... flag is not set|"
    r"The (non-)?SYN packet does (not )?contain a MSS option|TCP SYN-ACK accepting TFO data",
}
"""Notes of tshark 4 by our names; numbers in them are written N."""


_OPTIONS = [
    "-d", "tcp.port==1-65535,data", "-d", "udp.port==1-65535,data", "-o",
    "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
]  # fmt: skip
_WHOLE = (
    "!(ip.checksum.status == 0 || (tcp.checksum.status == 0 && tcp.checksum != 0xffff)"
    " || udp.checksum.status == 0)"
)
_BAD = "0"
"""Checksum status of tshark."""


def expert(capture: Path, only: str = "") -> Counter:
    """Notes of tshark's expert analysis, numbers replaced by N; `only`: a display filter.

    Of a frame with a wrong checksum that is the one note, whatever else it seems to hold. A TCP
    checksum of 0xFFFF is right where 0 is (see `captures`).
    """
    done = subprocess.run(
        [program("tshark"), "-n", "-r", capture, *_OPTIONS,
         "-Y", f"_ws.expert && ({only})" if only else "_ws.expert",
         "-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=|",
         "-e", "tcp.checksum", "-e", "ip.checksum.status", "-e", "tcp.checksum.status",
         "-e", "udp.checksum.status", "-e", "_ws.expert.message"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Counter = Counter()
    for line in done.stdout.splitlines():
        checksum, ip, tcp, udp, messages = line.split("\t", 4)
        tcp_bad = tcp == _BAD and checksum != "0xffff"
        if ip == _BAD or tcp_bad or udp == _BAD:
            found["a frame with a wrong checksum"] += 1
            continue
        for message in messages.split("|"):
            if message.startswith("Bad checksum") or "instead of 0x0000 (see RFC 1624)" in message:
                continue  # of the checksum 0xFFFF
            found[re.sub(r"0x[0-9a-f]+|\d+", "N", message)] += 1
    return found


def without_damaged(capture: Path) -> Path:
    """A capture without the frames whose checksums are wrong: the expert would take their numbers
    for true, and all that follows for retransmissions."""
    whole = capture.with_name("whole.pcapng")
    done = subprocess.run(
        [program("tshark"), "-n", "-r", capture, *_OPTIONS, "-Y", _WHOLE, "-w", whole],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return whole


def unexplained(
    capture: Path, only: str = "", connections: int = 2, **explained: int | None
) -> dict[str, int]:
    """Notes of a capture that are not in `explained` (name of `NOTES`, "_" for a blank -> most that
    may be; None: any number), or are more than it allows.

    Always explained: opening and closing, window updates, and a window of zero in the ACK and the
    FIN behind a peer's FIN, where nothing can come and so nothing is promised.
    """
    limits = {"open": None, "finish": None, "update": None, "zero window": 2 * connections}
    limits |= {name.replace("_", " "): most for name, most in explained.items()}
    seen = Counter()
    left = {}
    for message, count in expert(capture, only).items():
        names = [name for name in limits if re.fullmatch(NOTES[name], message)]
        if names:
            seen[names[0]] += count
        else:
            left[message] = count
    print(f"tshark's notes: {dict(seen)}, unexplained: {left}")
    for name, count in seen.items():
        if limits[name] is not None and count > limits[name]:
            left[name] = count
    return left
