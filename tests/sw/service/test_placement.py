"""The stack process, fragments and PLACE over the software card; its peer is made by hand."""

import asyncio
import hashlib
import queue
import random
import time

import pytest
import standin
from scapy.layers.inet import ICMP, IP, TCP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

import hdstack
from hdstack import service

PEER, STACK = "10.9.0.9", "10.9.0.1"
PEER6, STACK6 = "fd00:9::9", "fd00:9::1"
PEER_MAC, STACK_MAC = "02:00:00:00:00:09", "02:00:00:00:00:01"
DATA = random.Random(7).randbytes(60_000)


class Wire:
    """A software card in this process, with a stack on it; what the card sends lies in `frames`."""

    def __init__(self, scene):
        self.directory = scene.directory("card")
        self.card = standin.Card(self.directory)
        self.frames = queue.SimpleQueue()
        self.card.wire = self.frames.put
        self.host = standin.Host(self.card).start()
        scene.stack(self.directory, 1)

    def give(self, *packets):
        for packet in packets:
            frame = bytes(Ether(src=PEER_MAC, dst=STACK_MAC) / packet)
            self.card.deliver(frame)
        self.host.poke.send(b"x")

    def take(self, wanted, seconds=20.0):
        """The next frame that `wanted` likes, read by scapy; ARP is answered on the way."""
        deadline = time.monotonic() + seconds
        while True:
            frame = Ether(self.frames.get(timeout=max(deadline - time.monotonic(), 0.001)))
            if ARP in frame and frame[ARP].op == 1:
                answer = ARP(op=2, hwsrc=PEER_MAC, psrc=PEER, hwdst=STACK_MAC, pdst=STACK)
                self.give(answer)
            elif wanted(frame):
                return frame

    def counters(self):
        return service.observe(self.directory, "stats")["tcp"]

    def await_counter(self, name, least=1, seconds=20.0):
        deadline = time.monotonic() + seconds
        while (counters := self.counters())[name] < least:
            assert time.monotonic() < deadline, f"{name} never came to {least}: {counters}"
            time.sleep(0.02)
        return counters


class Peer:
    """A TCP connection with the stack, a segment at a time."""

    def __init__(self, wire, port, sport):
        self.wire, self.port, self.sport = wire, port, sport
        self.seq, self.ack, self.number = 1000, 0, 0
        wire.give(self.packet("S"))
        answer = wire.take(self.mine)
        assert answer[TCP].flags == "SA"
        self.seq, self.ack = self.seq + 1, answer[TCP].seq + 1
        wire.give(self.packet("A"))

    def packet(self, flags, payload=b""):
        tcp = TCP(sport=self.sport, dport=self.port, flags=flags, seq=self.seq, ack=self.ack,
                  window=60000)  # fmt: skip
        return IP(src=PEER, dst=STACK) / tcp / Raw(payload)

    def mine(self, frame):
        return TCP in frame and frame[TCP].dport == self.sport

    def acknowledged(self):
        """Whether what was sent is acknowledged within a second."""
        try:
            self.wire.take(
                lambda f: self.mine(f) and "A" in f[TCP].flags and f[TCP].ack == self.seq, 1.0
            )
        except queue.Empty:
            return False
        return True

    def send(self, payload, size=None, flags="PA"):
        """One segment, in fragments of `size` bytes and any order if that is given; again until it
        is acknowledged."""
        start = self.seq
        for _ in range(20):
            self.seq = start
            packet = self.packet(flags, payload)
            self.number += 1
            packet.id = self.number
            parts = fragment(IP(bytes(packet)), size) if size else [packet]
            random.Random(self.number).shuffle(parts)
            self.seq = start + len(payload) + ("F" in flags)
            self.wire.give(*parts)
            if self.acknowledged():
                return
        raise AssertionError(f"segment {start} was never acknowledged: {self.wire.counters()}")


async def digest(reader, writer):
    total = hashlib.sha256()
    while data := await reader.read(100_000):
        total.update(data)
    writer.write(total.hexdigest().encode())
    writer.close()


def serving(wire, scene, port=7000):
    """Run `scene(peer)` in a thread while an application digests what comes to `port`."""

    async def main():
        async with await hdstack.connect(wire.directory, pool_bytes=1 << 20) as runtime:
            await runtime.start_server(digest, port)
            return await asyncio.to_thread(scene, wire, port)

    return asyncio.run(asyncio.wait_for(main(), 120))


def end(peer):
    """Finish the stream; what the application says of it."""
    peer.send(b"", flags="FA")
    answer = peer.wire.take(lambda f: peer.mine(f) and len(f[TCP].payload) == 64)
    return bytes(answer[TCP].payload).decode()


@pytest.fixture
def wire(scene):
    made = Wire(scene)
    yield made
    made.host.stop()


def test_large_pings_of_both_families_are_answered(wire):
    data = DATA[:4000]
    echo = IP(bytes(IP(src=PEER, dst=STACK, id=5) / ICMP(id=7) / Raw(data)))
    wire.give(*fragment(echo, 1480))
    got = b""
    while len(got) < 4008:
        frame = wire.take(lambda f: ICMP in f or (IP in f and f[IP].frag))
        got += bytes(frame[IP].payload)[: frame[IP].len - 20]
    assert got[8:] == data and got[0] == 0
    echo = IPv6(src=PEER6, dst=STACK6) / IPv6ExtHdrFragment(id=9) / ICMPv6EchoRequest(data=data)
    wire.give(*fragment6(echo, 1280))
    got = b""
    # the neighbour is known by the request itself: the answer goes where that came from
    while len(got) < 4008:
        got += bytes(wire.take(lambda f: IPv6ExtHdrFragment in f)[IPv6ExtHdrFragment].payload)
    assert got[8:] == data and got[0] == 129
    assert wire.counters()["reassembled"] == 2


def test_a_stream_in_fragments_arrives_whole(wire):
    def scene(wire, port):
        peer, at = Peer(wire, port, 40000), 0
        for size in (100, 1460, 3000, 1, 5000, 1460, 2048, 2049):
            peer.send(DATA[at : at + size], 304)
            at += size
        assert end(peer) == hashlib.sha256(DATA[:at]).hexdigest()
        return at

    serving(wire, scene)
    counters = wire.counters()
    assert counters["reassembled"] >= 6 and counters["placed"] >= 10
    assert counters["place_refused"] == counters["place_lost"] == 0


def test_segments_without_a_rule_are_moved(wire):
    """R32: what lands on queue 0 although its connection is known."""

    def scene(wire, port):
        peer = Peer(wire, port, 40000)
        peer.send(DATA[:1460])
        assert wire.counters()["placed"] == 0
        wire.card.rules.clear()
        for k in range(1, 20):
            peer.send(DATA[1460 * k : 1460 * (k + 1)])
        assert end(peer) == hashlib.sha256(DATA[: 1460 * 20]).hexdigest()

    serving(wire, scene)
    counters = wire.counters()
    assert counters["placed"] >= 19 and counters["whole_payload"] >= 19


def test_commands_that_are_lost_free_their_holds_and_the_stack_goes_on(wire):
    def scene(wire, port):
        peer = Peer(wire, port, 40000)
        wire.card.rules.clear()
        ring = wire.card.commands.base, wire.card.commands.bytes
        wire.card.commands.bytes = 0  # as if the card had forgotten them
        peer.seq = 1001
        wire.give(*(peer.packet("PA", DATA[:100]) for _ in range(20)))
        wire.await_counter("place_no_room", 4)
        wire.await_counter("place_lost", 16)
        wire.card.commands.base, wire.card.commands.bytes = ring
        peer.send(DATA[:100])
        assert end(peer) == hashlib.sha256(DATA[:100]).hexdigest()

    serving(wire, scene)
    counters = wire.counters()
    assert counters["place_lost"] == 16 and counters["place_late"] >= 1


@pytest.mark.parametrize("answers", [True, False])
def test_what_was_for_one_application_never_reaches_the_next(wire, answers):
    """Commands under way when an application leaves are done, or given up by the card, before its
    queue is another's."""
    secret = b"for the first application alone " * 30

    async def main():
        async with await hdstack.connect(wire.directory, pool_bytes=1 << 20) as first:
            await first.start_server(digest, 7000)
            peer = await asyncio.to_thread(Peer, wire, 7000, 40000)
            wire.card.rules.clear()
            step, wire.card.commands.step = wire.card.commands.step, lambda: False
            wire.give(peer.packet("PA", secret))
            await asyncio.to_thread(wire.await_counter, "whole_payload")
        deadline = time.monotonic() + 10
        while wire.card.applications:  # else the next one gets another queue
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        coming = asyncio.create_task(hdstack.connect(wire.directory, pool_bytes=1 << 20))
        await asyncio.sleep(0.5)
        assert not coming.done(), "the queue is another's, and the command still stands"
        if answers:
            wire.card.commands.step = step
        async with await coming:
            wire.card.commands.step = step
            regions = [region for region in wire.card.regions if region and region.live]
            assert len(regions) == 1
            await asyncio.to_thread(wire.counters)
            assert bytes(regions[0].memory).find(secret[:32]) < 0

    asyncio.run(asyncio.wait_for(main(), 60))
    assert wire.counters()["placed"] == 0
