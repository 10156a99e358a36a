"""What other people's dissectors say about a capture: tshark where it is there, else scapy."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

# Linux fills in 0xFFFF where the sum is 0 (skb_checksum_help, for all protocols): the same number
# in ones' complement, so every receiver takes it (RFC 1624); tshark alone does not.
WRONG = (
    "_ws.malformed || ip.checksum.status == 0 ||"
    " (tcp.checksum.status == 0 && !tcp.checksum.ffff) ||"
    " udp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0"
)


def faulty_frames(capture: Path) -> list[str]:
    """A line for each frame that is malformed or has a wrong checksum.

    What TCP and UDP carry is data to us: a random port may be that of some protocol of tshark's.
    """
    if shutil.which("tshark"):
        done = subprocess.run(
            ["tshark", "-n", "-r", capture, "-d", "tcp.port==1-65535,data",
             "-d", "udp.port==1-65535,data", "-o", "tcp.check_checksum:TRUE",
             "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-Y", WRONG],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    from scapy.all import IP, TCP, Ether, PcapNgReader, in4_chksum, raw

    found = []
    with PcapNgReader(str(capture)) as frames:
        for number, frame in enumerate(frames, 1):
            if IP not in frame:
                continue
            again = Ether(raw(frame))
            del again[IP].chksum
            right = raw(again) == raw(frame)
            if TCP in frame and not frame[IP].frag:
                segment = raw(frame[IP])[4 * frame[IP].ihl : frame[IP].len]
                right &= in4_chksum(6, frame[IP], segment) == 0
            if not right:
                found.append(f"{number}: {frame.summary()}")
    return found


def addresses(capture: Path) -> Counter:
    """TCP frames of a capture by (source, destination) address."""
    from scapy.all import IP, TCP, PcapNgReader

    with PcapNgReader(str(capture)) as frames:
        return Counter((f[IP].src, f[IP].dst) for f in frames if TCP in f)
