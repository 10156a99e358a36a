"""The native harness: memory ports, streams, capture, sleep; on a tiny card at 8 and 64 bytes."""

import mmap
import os
import socket
import threading
import time

import pytest
from parties import PAGE, Client, DeviceUnderTest, Stack, wait_for
from scapy.utils import PcapNgReader, wrpcapng
from tiny_card import (
    ADDRESS_HI,
    ADDRESS_LO,
    BEATS,
    COMMAND,
    CYCLES,
    DATA_FIRST,
    DONE,
    IRQ,
    PAYLOAD,
    STATUS,
    STROBE_HI,
    STROBE_LO,
    SUM,
    WRITE,
    tiny_verilog,
)  # fmt: skip

from hdsim.build import build_library
from hdsim.card import Card
from hdsim.links import wire_pair
from hdsim.links.pcapng import read_frames
from hdsnic import abi
from hdsnic.parameters import Parameters

OKAY, DECERR = 0, 3


class Bench:
    """A tiny card in this process, with a header memory and a pool as region 2."""

    def __init__(self, bus_bytes: int):
        self.bus_bytes = bus_bytes
        parameters = Parameters(bus_bytes=bus_bytes)
        self.control, self._control_far = os.pipe()
        self.card = Card(build_library(tiny_verilog(parameters), parameters), self.control)
        self.memory = {}
        for name, attach in (
            ("header", self.card.map_header),
            ("pool", lambda fd, size: self.card.map_region(2, fd, size)),
        ):
            fd = os.memfd_create(name)
            os.ftruncate(fd, 2 * PAGE)
            attach(fd, 2 * PAGE)
            self.memory[name] = mmap.mmap(fd, 2 * PAGE)
            os.close(fd)

    def close(self):
        self.card.close()
        os.close(self.control)
        os.close(self._control_far)

    def burst(self, address, beats=1, command=0, strobe=(1 << 64) - 1) -> int:
        """One AXI burst; its response. Written byte n of the burst is n modulo 256."""
        for register, value in (
            (ADDRESS_LO, address & 0xFFFFFFFF),
            (ADDRESS_HI, address >> 32),
            (BEATS, beats - 1),
            (STROBE_LO, strobe & 0xFFFFFFFF),
            (STROBE_HI, strobe >> 32),
            (COMMAND, command),
        ):
            self.card.write(register, value)
        self.card.wait(STATUS, DONE, DONE, 10_000)
        return self.card.read(STATUS) & 3


@pytest.fixture(params=[8, 64])
def bench(request):
    made = Bench(request.param)
    yield made
    made.close()


def test_registers_answer_and_tell_the_bus_width(bench):
    assert bench.card.read(abi.CONTROL.MAGIC.offset) == abi.MAGIC
    assert bench.card.read(abi.CONTROL.BUS_BYTES.offset) == bench.bus_bytes


@pytest.mark.parametrize("order", [0, DATA_FIRST], ids=["address first", "data first"])
def test_a_burst_lands_in_the_pool_byte_for_byte(bench, order):
    width = bench.bus_bytes
    assert bench.burst(3 << 32 | 512, 8, PAYLOAD | WRITE | order) == OKAY
    expected = bytearray(2 * PAGE)
    expected[512 : 512 + 8 * width] = [n % 256 for n in range(8 * width)]
    assert bench.memory["pool"][:] == bytes(expected)
    assert bench.memory["header"][:] == bytes(2 * PAGE)
    assert bench.card.stats()["payload_write_bytes"] == 8 * width


@pytest.mark.parametrize("strobe", [0x1, 0x80, 0x7E, 0xF0, 0x55, 0x0])
def test_exactly_the_strobed_bytes_are_written(bench, strobe):
    width = bench.bus_bytes
    strobe |= 0x5A00FF << 24 & (1 << width) - 1
    bench.memory["header"][:] = b"\xee" * (2 * PAGE)
    assert bench.burst(0, 2, WRITE, strobe) == OKAY
    for n in range(2 * width):
        written = strobe >> n % width & 1
        assert bench.memory["header"][n] == (n % 256 if written else 0xEE), f"byte {n}"
    assert bench.card.stats()["header_write_bytes"] == 2 * strobe.bit_count()


def test_a_read_gets_what_another_process_wrote(bench):
    for beat in range(4):
        at = PAGE + beat * bench.bus_bytes
        bench.memory["header"][at : at + 4] = (1000 + beat).to_bytes(4, "little")
    assert bench.burst(PAGE, 4) == OKAY
    assert bench.card.read(SUM) == 4006
    assert bench.card.stats()["header_read_bytes"] == 4 * bench.bus_bytes


@pytest.mark.parametrize("command", [0, WRITE, PAYLOAD, PAYLOAD | WRITE])
@pytest.mark.parametrize(
    "address", [2 * PAGE, 1 << 32 | 0, 3 << 32 | 2 * PAGE, 2 << 32, 0xFF << 32]
)
def test_an_access_outside_the_mapped_memories_touches_nothing(bench, command, address):
    assert bench.burst(address, 1, command) == DECERR
    stats = bench.card.stats()
    assert stats["payload_errors" if command & PAYLOAD else "header_errors"] == 1
    assert stats["payload_write_bytes"] == stats["header_write_bytes"] == 0
    assert stats["protocol_errors"] == 0


def test_an_unmapped_region_is_out_of_reach_again(bench):
    assert bench.burst(3 << 32, 1, PAYLOAD) == OKAY
    bench.card.unmap_region(2)
    assert bench.burst(3 << 32, 1, PAYLOAD) == DECERR


def test_a_burst_across_4_kib_is_a_breach_that_is_counted(bench):
    assert bench.burst(PAGE - bench.bus_bytes, 2, WRITE) != OKAY
    assert bench.card.stats()["protocol_errors"] == 1
    assert bench.memory["header"][:] == bytes(2 * PAGE)


def test_latency_and_bandwidth_are_what_was_asked_for(bench):
    def duration():
        assert bench.burst(0, 16) == OKAY
        return bench.card.read(CYCLES)

    bench.card.memory_timing("header", latency=10)
    near = duration()
    bench.card.memory_timing("header", latency=110)
    assert duration() == near + 100
    bench.card.memory_timing("header", latency=10, bandwidth=0.25)
    assert 55 <= duration() - near + 16 <= 70  # 16 beats, one in four cycles
    # The other port keeps its own timing.
    assert bench.burst(3 << 32, 16, PAYLOAD) == OKAY


def test_the_interrupt_wakes_the_stack_once_a_rising_edge(bench):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    with near, far:
        bench.card.set_wake(0, far.fileno())
        for level in (1, 1, 0, 1):
            bench.card.write(IRQ, level)
        bench.card.read(0)
        assert bench.card.stats()["irqs"] == 2
        assert len(near.recv(1)) == 1 and len(near.recv(1)) == 1
        with pytest.raises(BlockingIOError):
            near.recv(1)


@pytest.mark.parametrize("length", [1, 60, 61, 63, 64, 65, 128, 1514, 9018])
def test_frames_pass_whole_and_short_ones_are_padded(bench, length):
    frame = bytes(n * 7 % 256 for n in range(length))
    wire, card_end = wire_pair()
    with socket.socket(fileno=wire) as peer:
        peer.settimeout(20)
        bench.card.set_link(card_end)
        runner = threading.Thread(target=bench.card.run)
        runner.start()
        try:
            peer.send(frame)
            peer.send(frame[::-1])
            got = peer.recv(16384), peer.recv(16384)
        finally:
            os.write(bench._control_far, b"x")
            runner.join(20)
        os.close(card_end)
    assert got == (frame.ljust(60, b"\0"), frame[::-1].ljust(60, b"\0"))


def test_a_wire_pair_connects_two_device_processes(tmp_path):
    """The tiny cards send back what they get, so a frame goes round for ever, and none is lost."""
    ends = wire_pair()
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        DeviceUnderTest(tmp_path / "a", link=f"fd:{ends[0]}", pass_fds=[ends[0]]) as a,
        DeviceUnderTest(tmp_path / "b", link=f"fd:{ends[1]}", pass_fds=[ends[1]]) as b,
        Client(a) as at_a,
        Client(b) as at_b,
    ):
        for n in range(5):
            os.write(ends[0], bytes([n]) * 200)  # as if a had sent it
        for client in (at_a, at_b):
            client.ask({"role": "observer"})
        end = time.monotonic() + 20
        while True:
            stats = [client.ask({"op": "stats"})["stats"] for client in (at_a, at_b)]
            if all(s["rx_frames"] >= 500 for s in stats):
                break
            assert time.monotonic() < end, stats
            with pytest.raises(TimeoutError):  # a pause: the service bounds requests
                at_a.socket.settimeout(0.05)
                at_a.socket.recv(1)
            at_a.socket.settimeout(20)
        assert not any(s["link_lost"] for s in stats)
        assert all(s["rx_bytes"] == 200 * s["rx_frames"] for s in stats)
    for end in ends:
        os.close(end)


def test_the_capture_of_a_device_process_has_every_frame_both_ways(tmp_path):
    frames = [bytes([n]) * (60 + 11 * n) for n in range(1, 40)]
    outside, a_end = wire_pair()
    capture = tmp_path / "a.pcapng"
    (tmp_path / "a").mkdir()
    with socket.socket(fileno=outside) as peer:
        peer.settimeout(20)
        with DeviceUnderTest(
            tmp_path / "a", link=f"fd:{a_end}", pass_fds=[a_end], capture=str(capture)
        ):
            for frame in frames:
                peer.send(frame)
            got = [peer.recv(16384) for _ in frames]
        os.close(a_end)
    assert got == frames
    with PcapNgReader(str(capture)) as reader:
        packets = list(reader)
    # Each frame is in the file twice: in, and out again; each way in order.
    assert [bytes(p) for p in packets if p.direction == 1] == frames
    assert [bytes(p) for p in packets if p.direction == 2] == frames
    stamps = [p.time for p in packets]
    assert stamps == sorted(stamps) and stamps[0] > 1_600_000_000
    ours = list(read_frames(capture))
    assert [f.data for f in ours if f.outbound] == frames
    assert [f.data for f in ours if f.outbound is False] == frames


def test_a_capture_file_is_replayed_once_reception_is_switched_on(tmp_path):
    frames = [bytes([n]) * 100 for n in range(20)]
    wrpcapng(str(tmp_path / "in.pcapng"), frames)
    out = tmp_path / "out.pcapng"
    with DeviceUnderTest(
        tmp_path, link=f"pcap:{tmp_path / 'in.pcapng'}", capture=str(out)
    ) as device:
        with Stack(device) as stack:

            def played():
                return stack.ask({"op": "stats"})["stats"]["tx_frames"]

            assert played() == 0
            assert stack.access(2, abi.CONTROL.SWITCHES.offset, 1)[0] == 0
            for _ in range(20):  # asked seldom: the service bounds requests
                if played() == len(frames):
                    break
                stack.access(1, 0)
            wait_for(lambda: stack.access(1, 0) == (0, abi.MAGIC), "an answer")
            assert played() == len(frames)
    assert [f.data for f in read_frames(out) if f.outbound] == frames


def test_a_device_with_nothing_to_do_sleeps(device):
    with Stack(device) as stack:
        assert stack.access(1, 0) == (0, abi.MAGIC)
        wait_for(lambda: stack.word(64) == 1, "the device to sleep")
        before = stack.ask({"op": "stats"})["stats"]
        # One second of silence, measured on a socket on which nothing comes.
        stack.irq.settimeout(1.0)
        with pytest.raises(TimeoutError):
            stack.irq.recv(1)
        assert device.state() == "S"
        after = stack.ask({"op": "stats"})["stats"]
        # a question wakes it for some thousand cycles; awake, a second has a hundred times as many
        assert after["cycles"] - before["cycles"] <= 5000
        assert after["sleeps"] - before["sleeps"] <= 3
        assert stack.access(1, 0) == (0, abi.MAGIC)  # and it wakes again


def test_every_doorbell_of_the_stacks_pages_reaches_its_register_and_no_other_word_does(bench):
    queues = Parameters(bus_bytes=bench.bus_bytes).queues
    size = (1 + queues) * PAGE
    fd = os.memfd_create("pages")
    os.ftruncate(fd, size)
    bench.card.attach_stack(fd)
    pages = mmap.mmap(fd, size)
    bells = abi.STACK_DOORBELL
    names = ("TX_PRODUCER", "RX_CONSUMER", "COMPLETION_CONSUMER", "COMMAND_PRODUCER")
    expected = {}
    for queue in range(queues):
        for word in range(6):
            value = 1 + queue * 16 + word
            at = (1 + queue) * PAGE + 4 * word
            pages[at : at + 4] = value.to_bytes(4, "little")
        for name in names[: None if queue == 0 else 3]:
            offset = getattr(bells, name).offset
            address = abi.stack_doorbell_page(queue) + offset
            expected[address] = 1 + queue * 16 + offset // 4
    for address, value in expected.items():
        bench.card.wait(address, 0xFFFFFFFF, value, 100_000)
    for queue in range(queues):
        for word in range(6):
            address = abi.stack_doorbell_page(queue) + 4 * word
            assert bench.card.read(address) == expected.get(address, 0)
    os.close(fd)
