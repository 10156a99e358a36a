"""The kernel peer's namespace: what it can do, and that nothing of it stays behind."""

import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from hdstack.cli.demo.peer import KernelPeer, NoKernelPeer, ways

ADDRESS = "10.77.0.1/24"
WAYS = ways()


@pytest.fixture(params=WAYS, ids=str)
def peer(request):
    try:
        made = KernelPeer(request.param, ADDRESS, uid=64899)
    except NoKernelPeer as error:
        pytest.skip(f"not allowed here: {error}")
    with made:
        yield made


def said(peer, *argv):
    reader, writer = os.pipe()
    status = peer.run(list(argv), writer, writer).wait(20)
    os.close(writer)
    with open(reader) as stream:
        return status, stream.read()


def frame(peer):
    """The next frame that the kernel puts on the wire."""
    assert select.select([peer.link_fd], [], [], 10)[0], "the kernel sent nothing"
    return os.read(peer.link_fd, 2048)


@pytest.mark.kernel_peer
def test_the_kernel_asks_on_the_wire_for_whom_it_wants_to_reach(peer):
    with peer.socket() as client:
        client.setblocking(False)
        client.connect_ex(("10.77.0.2", 80))
        asked = frame(peer)
    assert asked[12:14] == b"\x08\x06"  # ARP
    assert asked[28:32] == bytes([10, 77, 0, 1]) and asked[38:42] == bytes([10, 77, 0, 2])


@pytest.mark.kernel_peer
def test_what_the_kernel_sends_has_whole_checksums_and_is_no_longer_than_a_frame(peer):
    from scapy.all import ARP, IP, TCP, Ether, raw

    with peer.socket() as client:
        client.setblocking(False)
        client.connect_ex(("10.77.0.2", 80))
        asked = Ether(frame(peer))
        reply = Ether(src="02:68:64:73:00:02", dst=asked.src) / ARP(
            op="is-at", hwsrc="02:68:64:73:00:02", psrc="10.77.0.2", hwdst=asked.src,
            pdst="10.77.0.1",
        )  # fmt: skip
        os.write(peer.link_fd, raw(reply))
        for _ in range(10):
            sent = Ether(frame(peer))
            if TCP in sent:
                break
    assert len(sent) <= 1514
    again = Ether(raw(sent))
    del again[IP].chksum, again[TCP].chksum
    assert raw(Ether(raw(again))) == raw(sent)


@pytest.mark.kernel_peer
def test_clients_have_no_capability_and_no_way_out(peer):
    status, text = said(peer, "grep", "^Cap[EPB]", "/proc/self/status")
    assert status == 0
    assert all(int(line.split()[1], 16) == 0 for line in text.splitlines())
    assert said(peer, "ip", "link", "set", "hdsnic0", "down")[0] != 0
    _, links = said(peer, "ip", "-br", "link")
    assert {line.split("@")[0].split()[0] for line in links.splitlines()} <= {
        "lo", "hdsnic0", "hdsnic1",
    }  # fmt: skip


@pytest.mark.kernel_peer
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_with_tools_clients_have_the_capabilities_over_their_network_and_no_other(way):
    try:
        peer = KernelPeer(way, ADDRESS, uid=64899, tools=True)
    except NoKernelPeer as error:
        pytest.skip(f"not allowed here: {error}")
    with peer:
        _, text = said(peer, "grep", "^Cap[EPB]", "/proc/self/status")
        net_admin, net_raw = 12, 13
        found = {int(line.split()[1], 16) for line in text.splitlines()}
        assert found == {1 << net_admin | 1 << net_raw}
        assert said(peer, "ip", "link", "set", "hdsnic0", "down")[0] == 0
        assert said(peer, "mount", "-t", "tmpfs", "none", "/mnt")[0] != 0


@pytest.mark.kernel_peer
def test_a_client_that_fails_is_reported_with_its_status(peer):
    assert said(peer, "sh", "-c", "exit 7")[0] == 7
    with pytest.raises(NoKernelPeer, match="no-such-program"):
        said(peer, "no-such-program")


@pytest.mark.kernel_peer
def test_closing_ends_clients_and_namespace(peer):
    null = os.open(os.devnull, os.O_RDWR)
    client = peer.run(["sleep", "600"], null, null)
    os.close(null)
    process = psutil.Process(client.pid)
    holder = psutil.Process(process.ppid())
    peer.close()
    _, alive = psutil.wait_procs([process, holder], timeout=10)
    assert not alive


@pytest.mark.kernel_peer
def test_kill_9_of_its_owner_ends_clients_and_namespace():
    code = (
        "import os, sys\n"
        "from hdstack.cli.demo.peer import open_peer\n"
        f"peer = open_peer({ADDRESS!r})\n"
        "null = os.open(os.devnull, os.O_RDWR)\n"
        "print(peer.run(['sleep', '600'], null, null).pid, peer._process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = owner.stdout.readline()
    if not line:
        owner.wait(10)
        pytest.skip("no kernel peer can be had here")
    processes = [psutil.Process(int(pid)) for pid in line.split()]
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    owner.stdin.close()
    owner.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_where_no_way_is_open_each_refusal_is_told(monkeypatch):
    from hdstack.cli.demo import peer as module

    def refuse(way, *_):
        raise NoKernelPeer(f"{way}: closed")

    monkeypatch.setattr(module, "KernelPeer", refuse)
    with pytest.raises(NoKernelPeer) as error:
        module.open_peer(ADDRESS)
    assert str(error.value).count("closed") == len(WAYS)
