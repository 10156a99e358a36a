"""The library and the bridge without packetdrill: its table called through ctypes."""

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import psutil
import pytest
from drill_bridge import Bridge, Flags
from drill_build import HERE
from drill_interface import PORT, Drill, Message, Vector
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

US, PEER = "192.168.0.2", "192.0.2.1"
US6, PEER6 = "fd3d:fa7b:d17d::2", "2001:db8::1"
PEER_PORT = 40000


class Peer:
    """The other side of a connection, over packets that scapy builds and reads."""

    def __init__(self, drill, us=US, peer=PEER):
        self.drill, self.us, self.peer = drill, us, peer
        self.layer = IPv6 if ":" in us else IP
        self.port = PORT
        self.own, self.seq, self.ack = PEER_PORT, 1000, 0

    def give(self, flags, payload=b"", **fields):
        tcp = TCP(sport=self.own, dport=self.port, seq=self.seq, ack=self.ack, flags=flags,
                  window=65535, **fields)  # fmt: skip
        packet = self.layer(src=self.peer, dst=self.us) / tcp
        self.drill.packet_in(bytes(packet / Raw(payload) if payload else packet))
        self.seq += len(payload) + ("S" in flags) + ("F" in flags)

    def take(self, flags, payload=b""):
        """The next packet has these flags and bytes; it is acknowledged by what we give next."""
        at, data = self.drill.packet_out()
        packet = self.layer(data)
        again = packet.copy()
        del again[TCP].chksum
        assert bytes(self.layer(bytes(again))) == data, "checksum"
        assert (packet.src, packet.dst) == (self.us, self.peer)
        tcp = packet[TCP]
        assert tcp.flags == flags and bytes(tcp.payload) == payload
        if tcp.flags.A:
            assert tcp.ack == self.seq
        self.ack = tcp.seq + len(payload) + tcp.flags.S + tcp.flags.F
        self.port, self.own = tcp.sport, tcp.dport
        return at

    def open(self):
        """The handshake with a listener; the accepted descriptor and what accept said of us."""
        listener = self.drill.listener()
        self.give("S", options=[("MSS", 1000)])
        self.take("SA")
        self.give("A")
        return self.drill.accept(listener)


@contextlib.contextmanager
def running(library, **more):
    """A run whose bridge is a thread of this process, which saves its start."""
    ends = [socket.socketpair() for _ in range(2)]
    bridge = Bridge(*(pair[1] for pair in ends), Flags())
    thread = threading.Thread(target=bridge.run, daemon=True)
    thread.start()
    drill = Drill(library, "channels={}:{}".format(*(pair[0].detach() for pair in ends)), **more)
    try:
        yield drill
    finally:
        drill.free()
        thread.join(30)
        for pair in ends:
            pair[1].close()
        assert not thread.is_alive(), "the bridge does not end with its channels"


@pytest.fixture
def drill(library):
    with running(library) as drill:
        yield drill


@pytest.fixture
def peer(drill):
    return Peer(drill)


@contextlib.contextmanager
def fails(code):
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == code, caught.value


def wait_in_thread(drill, call):
    """As packetdrill makes calls that wait: in a thread of its own, and goes on when the bridge has
    it. A function that gives the end of the call."""
    found = []

    def work():
        found.append(call())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    limit = time.monotonic() + 30
    while not drill.waiting():
        assert thread.is_alive() and time.monotonic() < limit, "the call does not wait"
        time.sleep(0.001)

    def end():
        thread.join(30)
        assert not thread.is_alive(), "the call still waits"
        return found[0]

    end.waits = thread.is_alive
    return end


def test_a_connection_from_open_to_close(drill, peer):
    accepted, name = peer.open()
    assert name == struct.pack("=H", socket.AF_INET) + struct.pack(
        ">H4s8x", PEER_PORT, socket.inet_aton(PEER)
    )
    peer.give("PA", b"question")
    peer.take("A")
    assert drill.read(accepted, 4) == b"ques" and drill.read(accepted, 100) == b"tion"
    assert drill.write(accepted, b"answer") == 6
    peer.take("PA", b"answer")
    peer.give("A")
    assert drill.call("close", accepted) == 0
    peer.take("FA")
    peer.give("FA")
    peer.take("A")


def test_the_same_over_ipv6(library):
    with running(library, local=US6) as drill:
        peer = Peer(drill, US6, PEER6)
        accepted, name = peer.open()
        assert name[8:24] == socket.inet_pton(socket.AF_INET6, PEER6) and len(name) == 28
        peer.give("PA", b"six")
        peer.take("A")
        assert drill.read(accepted, 10) == b"six"


def test_active_open_without_and_with_an_answer(drill, peer):
    fd = drill.socket(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with fails(errno.EINPROGRESS):
        drill.connect(fd, PEER)
    peer.take("S")
    with fails(errno.EALREADY):
        drill.connect(fd, PEER)
    assert drill.poll(0, (fd, select.POLLOUT)) == [0]
    peer.give("SA")
    peer.take("A")
    assert drill.poll(0, (fd, select.POLLOUT)) == [select.POLLOUT]
    assert drill.getsockopt(fd, socket.SOL_SOCKET, socket.SO_ERROR) == 0
    drill.connect(fd, PEER)
    with fails(errno.EISCONN):
        drill.connect(fd, PEER)
    with fails(errno.EAGAIN):
        drill.read(fd, 10)


def test_handles_are_descriptors_whose_end_the_bridge_sees(drill, peer):
    accepted, _ = peer.open()
    os.fstat(accepted)
    os.close(accepted)  # as the tool does at the end, without a call
    drill.sleep(0.001)
    peer.take("FA")
    with fails(errno.EBADF):
        drill.write(accepted, b"x")


def test_the_clock_moves_by_sleep_and_by_timers_alone(drill, peer):
    begin = drill.now()
    drill.sleep(3600)
    assert 3600 <= drill.now() - begin < 3600.001
    accepted, _ = peer.open()
    drill.write(accepted, b"lost")
    first = peer.take("PA", b"lost")
    second = peer.take("PA", b"lost")
    third = peer.take("PA", b"lost")
    assert 0.19 < second - first < 1.1 and 1.9 < (third - second) / (second - first) < 2.1
    assert drill.now() - third < 0.001


def test_two_runs_are_the_same_to_the_microsecond(library):
    def run():
        with running(library) as drill:
            peer = Peer(drill)
            accepted, _ = peer.open()
            drill.write(accepted, bytes(5000))
            return [drill.packet_out() for _ in range(6)]

    assert run() == run()


def test_silence_is_an_empty_packet_and_ends(capfd, drill, peer):
    peer.open()
    assert drill.packet_out() == (0, b"")
    assert "the stack has nothing to do and no timer is set" in capfd.readouterr().err


def test_a_call_of_the_script_that_nobody_can_end_fails(drill, peer):
    accepted, _ = peer.open()
    with fails(errno.EDEADLK):
        drill.read(accepted, 10)
    assert drill.poll(100, (accepted, select.POLLIN)) == [0]


def test_calls_that_wait_are_answered_when_it_happens(drill, peer):
    listener = drill.listener()
    accepting = wait_in_thread(drill, lambda: drill.accept(listener))
    peer.give("S")
    peer.take("SA")
    assert accepting.waits()
    peer.give("A")
    accepted, _ = accepting()
    begin = drill.now()
    reading = wait_in_thread(drill, lambda: (drill.read(accepted, 10), drill.now()))
    drill.sleep(0.5)
    assert reading.waits()
    peer.give("PA", b"late")
    drill.sleep(10)
    data, at = reading()
    assert data == b"late" and 0.5 <= at - begin < 0.501, "the time at which the call was over"


def test_a_write_waits_for_room(drill, peer):
    accepted, _ = peer.open()
    drill.setsockopt(accepted, socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
    assert drill.getsockopt(accepted, socket.SOL_SOCKET, socket.SO_SNDBUF) == 10000
    writing = wait_in_thread(drill, lambda: drill.write(accepted, bytes(12000)))
    drill.sleep(0.01)
    for number in range(10):
        peer.take("PA" if number == 9 else "A", bytes(1000))
    assert writing.waits()
    peer.give("A")
    assert writing() == 12000


def test_vectors_messages_and_flags(drill, peer):
    accepted, _ = peer.open()
    parts = (Vector * 2)(Vector(b"ab", 2), Vector(b"cde", 3))
    assert drill.call("writev", accepted, parts, 2) == 5
    peer.take("PA", b"abcde")
    peer.give("PA", b"12345")
    peer.take("A")
    message = Message(parts=parts, count=2)
    assert drill.call("sendmsg", accepted, message, socket.MSG_NOSIGNAL) == 5
    peer.take("PA", b"abcde")
    room = b"\0" * 8
    assert drill.call("recv", accepted, room, 5, socket.MSG_PEEK) == 5
    assert drill.call("recvfrom", accepted, room, 2, 0, None, None) == 2
    into = (Vector * 2)(Vector(b"\0" * 2, 2), Vector(b"\0" * 3, 3))
    assert drill.call("readv", accepted, into, 2) == 3
    with fails(errno.EAGAIN):
        drill.call("recvmsg", accepted, Message(parts=into, count=2), socket.MSG_DONTWAIT)
    with fails(errno.EOPNOTSUPP):
        drill.call("send", accepted, b"x", 1, socket.MSG_OOB)
    with fails(errno.EFAULT):
        drill.call("read", accepted, None, 10)


def test_options_and_what_is_not_here(drill, peer):
    accepted, _ = peer.open()
    drill.setsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    assert drill.getsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert drill.getsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_MAXSEG) == 1000
    drill.call("setsockopt", accepted, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno", 4)
    with fails(errno.ENOPROTOOPT):
        drill.setsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    with fails(errno.ENOPROTOOPT):
        drill.getsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_INFO)
    with fails(errno.EINVAL):
        drill.setsockopt(accepted, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0)
    for call in (("epoll_create", 1), ("pipe", None)):
        with fails(errno.ENOSYS):
            drill.call(*call)
    with fails(errno.EPROTONOSUPPORT):
        drill.socket(socket.SOCK_DGRAM)


def test_shutdown_close_with_unread_bytes_and_reset(drill, peer):
    accepted, _ = peer.open()
    peer.give("PA", b"unread")
    peer.take("A")
    assert drill.call("shutdown", accepted, socket.SHUT_WR) == 0
    peer.take("FA")
    with fails(errno.EPIPE):
        drill.write(accepted, b"x")
    with fails(errno.EINVAL):
        drill.call("shutdown", accepted, 7)
    drill.call("close", accepted)
    peer.take("RA")
    other = Peer(drill)
    other.own = PEER_PORT + 1
    with fails(errno.EADDRINUSE):
        drill.listener()


def test_icmp_and_broken_packets(drill, peer):
    fd = drill.socket(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with fails(errno.EINPROGRESS):
        drill.connect(fd, PEER)
    _, syn = drill.packet_out()
    damaged = bytearray(bytes(IP(src=PEER, dst=US) / TCP(bytes(syn)[20:])))
    damaged[-1] ^= 1
    drill.packet_in(bytes(damaged))
    drill.packet_in(b"\x45\0")
    drill.packet_in(bytes(IP(src=PEER, dst=US) / ICMP(type=8, id=7) / Raw(b"ping")))
    _, echo = drill.packet_out()
    assert IP(echo)[ICMP].type == 0 and bytes(IP(echo)[Raw]) == b"ping"
    with fails(errno.EMSGSIZE):
        drill.packet_in(bytes(IP(src=PEER, dst=US) / Raw(bytes(5000))))


def test_the_bridge_is_a_process_that_ends_with_its_library(library):
    before = set(psutil.Process().children())
    drill = Drill(library, "sack=0,mss=1000,congestion=reno")
    (bridge,) = set(psutil.Process().children()) - before
    Peer(drill).open()
    drill.free()
    assert not bridge.is_running()
    with fails(errno.EIO):
        drill.socket()
    assert drill.packet_out() == (0, b""), "the tool would ask again for ever"


def test_a_bridge_that_dies_fails_every_call(capfd, library):
    before = set(psutil.Process().children())
    drill = Drill(library)
    (bridge,) = set(psutil.Process().children()) - before
    bridge.kill()
    with fails(errno.EIO):
        drill.socket()
    assert drill.packet_out() == (0, b"")
    assert drill.now() > 0
    drill.free()
    assert not bridge.is_running()
    assert "every call fails from now on" in capfd.readouterr().err


def test_the_bridge_ends_when_the_tool_is_killed(library):
    code = f"""import psutil, time
from drill_interface import Drill
drill = Drill({str(library)!r})
print(psutil.Process().children()[0].pid, flush=True)
time.sleep(600)"""
    tool = subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        bridge = psutil.Process(int(tool.stdout.readline()))
    finally:
        tool.kill()
        tool.communicate(timeout=30)
    limit = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):
        while bridge.status() != psutil.STATUS_ZOMBIE:  # whoever adopted it may not look
            assert time.monotonic() < limit, "the bridge lives on"
            time.sleep(0.01)


@pytest.mark.parametrize("flags", ["colour=red", "mss=large", "congestion=vegas"])
def test_unknown_flags_are_named(flags):
    with pytest.raises(SystemExit, match=flags.partition("=")[0]):
        Flags.parse(flags)
