"""What other people's dissectors say about a capture: tshark where it is there, else scapy."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

WRONG = (
    "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 ||"
    " udp.checksum.status == 0 || icmp.checksum.status == 0"
)


def faulty_frames(capture: Path) -> list[str]:
    """A line for each frame that is malformed or has a wrong checksum.

    What TCP carries is data to us: a random port may be that of some protocol of tshark's.
    """
    if shutil.which("tshark"):
        done = subprocess.run(
            ["tshark", "-n", "-r", capture, "-d", "tcp.port==1-65535,data",
             "-o", "tcp.check_checksum:TRUE",
             "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", WRONG],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    from scapy.all import IP, TCP, Ether, PcapNgReader, raw

    found = []
    with PcapNgReader(str(capture)) as frames:
        for number, frame in enumerate(frames, 1):
            if IP not in frame:
                continue
            again = Ether(raw(frame))
            del again[IP].chksum
            if TCP in again:
                del again[TCP].chksum
            if raw(again) != raw(frame):
                found.append(f"{number}: {frame.summary()}")
    return found


def addresses(capture: Path) -> Counter:
    """TCP frames of a capture by (source, destination) address."""
    from scapy.all import IP, TCP, PcapNgReader

    with PcapNgReader(str(capture)) as frames:
        return Counter((f[IP].src, f[IP].dst) for f in frames if TCP in f)
