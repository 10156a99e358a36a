"""nmap and hping3: scans finish, floods hold nobody up for good, every frame is accounted for."""

import re
import time

import pytest
from interop import LONG, PORT_A, PORT_B, STACK, program, unexplained

from hdstack.cli.demo.namespace import INTERFACE

pytestmark = [pytest.mark.kernel_peer, pytest.mark.timeout(1800 if LONG else 600)]

FLOOD_SECONDS = 6 if LONG else 2
SECONDS = 900.0 if LONG else 200.0
SIZE = 8 << 20 if LONG else 2 << 20
SEGMENTS = SIZE // 1448
CLOSED = 9
FLOODER = "10.77.0.9"
"""The kernel's second address. hping3 uses all source ports: from the first one some of its SYNs
would have the ends of the transfers' own connections."""
FLOODS = {
    "SYN": ["-S", "-p", PORT_A, "-a", FLOODER],
    "SYN to a closed port": ["-S", "-p", CLOSED],
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
    ports = f"{PORT_A},{PORT_B},{CLOSED},22,443"
    versions = ["-sV"] if LONG else ["--max-os-tries", 1]  # half a minute of timeouts of nmap's own
    text = here.run(300, nmap, "-n", "-Pn", "-sS", "-O", *versions, "--host-timeout", "240s",
                    "-p", ports, STACK)  # fmt: skip
    print(text)
    for port in (PORT_A, PORT_B):
        assert re.search(rf"^{port}/tcp +open", text, re.MULTILINE), text
    for port in (CLOSED, 22, 443):
        assert re.search(rf"^{port}/tcp +closed", text, re.MULTILINE), text
    if LONG:
        assert "Server:\\x20hdsnic" in text, "nmap's probes were not answered"
    text = here.run(120, nmap, "-n", "-Pn", "-sU", "-p", "53,123,161", "--host-timeout", "90s",
                    STACK)  # fmt: skip
    print(text)
    assert re.search(r"^53/udp +closed", text, re.MULTILINE), text
    for kind in ("-sF", "-sX", "-sN", "-sA", "-sM", "-sW") if LONG else ("-sX", "-sA"):
        here.run(120, nmap, "-n", "-Pn", kind, "-p", ports, "--host-timeout", "60s", STACK)
    here.transfer(60)
    here.judge(WRONG)
    here.end()
    # nmap forges segments to see what comes back: few, and every answer is one of these
    found = unexplained(
        here.capture, connections=150, reset=None, forged=300, unseen=300, missing=300,
        retransmission=100, DSACK=100, duplicate_ACK=100, keep_alive=100, out_of_order=100,
        damaged=20,
    )  # fmt: skip
    assert found == {}


@pytest.mark.parametrize("name", FLOODS if LONG else ("SYN", "Xmas", "UDP", "wrong checksums"))
def test_a_transfer_completes_under_a_flood(world, name):
    hping3 = program("hping3")
    here = world(tools=True)
    here.serve(SIZE)
    here.run(10, program("ip"), "address", "add", f"{FLOODER}/32", "dev", INTERFACE)
    before, _ = here.counters()
    began = time.monotonic()
    flood = here.start("timeout", FLOOD_SECONDS, hping3, "-q", "--flood", *FLOODS[name], STACK)
    while here.observe_device()["rx_frames"] < before["rx_frames"] + 100:
        assert time.monotonic() < began + FLOOD_SECONDS, "the flood does not begin"
    here.transfer(SECONDS)
    took = time.monotonic() - began
    status, text = flood.wait(FLOOD_SECONDS + 30)
    assert status == 124, text
    after, _ = here.counters()
    came = after["rx_frames"] - before["rx_frames"] - 2 * SEGMENTS
    print(f"{name}: some {came} frames; the transfers took {took:.1f} s")
    assert came > 1000 * FLOOD_SECONDS, "this is no flood"
    here.transfer(60)  # as before
    told = here.judge(WRONG)
    print({name: count for name, count in told.items() if count})
    here.end()
    few = 8 * SEGMENTS  # the kernel's queue to the card is full of the flood, and loses much else
    assert unexplained(
        # not the flood, whose source ports are any
        here.capture, f"tcp.port == {PORT_B} && !(tcp.port in {{{PORT_A}, {CLOSED}}})",
        connections=4, full=few,
        retransmission=few, duplicate_ACK=few, out_of_order=few, missing=few, unseen=few,
        DSACK=few, keep_alive=few, probe=few,
    ) == {}  # fmt: skip
