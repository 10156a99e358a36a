"""nmap and hping3: scans finish, floods hold nobody up for good, every frame is accounted for."""

import re
import time

import pytest
from interop import LONG, PORT_A, PORT_B, STACK, program, unexplained

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(1800 if LONG else 600)]

FLOOD_SECONDS = 4 if LONG else 1
FLOODS = {
    "SYN": ["-S", "-p", PORT_A],
    "SYN to a closed port": ["-S", "-p", 9],
    "ACK": ["-A", "-p", PORT_A],
    "FIN": ["-F", "-p", PORT_A],
    "Xmas": ["-F", "-S", "-R", "-P", "-A", "-U", "-p", PORT_A],
    "UDP": ["--udp", "-p", 53, "-d", 100],
    "ICMP": ["--icmp", "-d", 100],
    "SYN from anywhere": ["-S", "-p", PORT_A, "--rand-source"],
    "data to nobody": ["-A", "-P", "-p", PORT_A, "-d", 1000],
    "wrong checksums": ["-S", "-p", PORT_A, "--badcksum"],
}
WRONG = ("ip_checksum", "l4_checksum", "tcp_header", "ip_header")


def test_nmap_finishes_and_finds_what_is_there(world):
    nmap = program("nmap")
    here = world(tools=True)
    here.serve(1000)
    ports = f"{PORT_A},{PORT_B},9,22,443"
    text = here.run(
        300, nmap, "-n", "-Pn", "-sS", "-sV", "-O", "--version-intensity", 2 if not LONG else 7,
        "--host-timeout", "240s", "-p", ports, STACK,
    )  # fmt: skip
    print(text)
    for port in (PORT_A, PORT_B):
        assert re.search(rf"^{port}/tcp +open +http", text, re.MULTILINE), text
    for port in (9, 22, 443):
        assert re.search(rf"^{port}/tcp +closed", text, re.MULTILINE), text
    text = here.run(300, nmap, "-n", "-Pn", "-sU", "-p", "53,123,161", "--host-timeout", "120s",
                    STACK)  # fmt: skip
    print(text)
    assert re.search(r"^53/udp +closed", text, re.MULTILINE), text
    for kind in ("-sF", "-sX", "-sN", "-sA", "-sM", "-sW"):
        here.run(120, nmap, "-n", "-Pn", kind, "-p", ports, "--host-timeout", "60s", STACK)
    here.transfer(60)
    here.judge(WRONG)
    here.end()


def test_a_transfer_survives_floods_of_every_kind(world):
    hping3 = program("hping3")
    here = world(tools=True)
    here.serve(8 << 20 if LONG else 2 << 20)
    transfers = [here.download(900), here.upload(900)]
    for each in transfers:
        each.start()
    for name, options in FLOODS.items():
        before, _ = here.counters()
        flood = here.start("timeout", FLOOD_SECONDS, hping3, "-q", "--flood", *options, STACK)
        status, text = flood.wait(FLOOD_SECONDS + 30)
        assert status == 124, f"{name}: {text}"
        after, _ = here.counters()
        came = after["rx_frames"] - before["rx_frames"]
        print(f"{name}: {came} frames came, {text.strip()[:100]}")
        assert came > 1000 * FLOOD_SECONDS, f"{name} is no flood"
    began = time.monotonic()
    for each in transfers:
        each.join(900)
        assert not each.is_alive(), "the transfer hangs"
    print(f"transfers ended {time.monotonic() - began:.1f} s after the floods")
    assert [each.error for each in transfers] == [None, None]
    here.transfer(120)  # and new connections are taken
    told = here.judge(WRONG)
    print({name: count for name, count in told.items() if count})
    here.end()
    only = f"tcp.port == {PORT_B}"  # nothing else was sent there
    most = None
    assert unexplained(
        here.capture, only, retransmission=most, duplicate_ACK=most, out_of_order=most,
        missing=most, unseen=most, D_SACK=most, full=most,
    ) == {}  # fmt: skip
