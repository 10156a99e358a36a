"""Both sides of a memory port before a slow memory: every byte at its place, each end told once."""

import cocotb
from cocotb.triggers import RisingEdge
from rtl.blocks import PORT_CLIENTS
from rtl.drivers import Memory, Sink, Source, start, until

REQUESTS = 40
"""Of each client and side."""
AREA = 1 << 16
RING_LOG2 = 12


class Places:
    """Requests of a client: pieces of its own area that no other request touches, and of a ring."""

    def __init__(self, rng, base):
        self.rng, self.base, self.at = rng, base, 1 << RING_LOG2

    def next(self):
        """(address, length, wrap_log2)."""
        rng = self.rng
        if self.at > 1 << RING_LOG2 and rng.random() < 0.25:
            start = rng.randrange(1 << RING_LOG2)
            return self.base + start, rng.randrange(1, 600), RING_LOG2
        self.at += rng.choice((0, 0, 1, 7, 64, rng.randrange(300)))
        length = rng.choice((1, 8, 63, 64, 65, rng.randrange(1, 300), rng.randrange(1, 6000)))
        self.at += length
        assert self.at <= AREA, "the area is too small for the requests"
        return self.base + self.at - length, length, 0


def pieces(address, length, wrap):
    """The (address, offset in the request, length) of a request's straight pieces."""
    offset = 0
    while length:
        end = (address >> wrap) + 1 << wrap if wrap else address + length
        count = min(length, end - address)
        yield address, offset, count
        length, offset = length - count, offset + count
        address = end - (1 << wrap) if wrap else end


def lanes(address, data, bus_bytes):
    """A request's beats on the lanes of its address."""
    padded = bytes(address % bus_bytes) + data
    for k in range(0, len(padded), bus_bytes):
        chunk = padded[k : k + bus_bytes]
        strobe = sum(1 << i for i in range(len(chunk)) if k + i >= address % bus_bytes)
        yield {
            "data": int.from_bytes(chunk, "little"), "strobe": strobe,
            "last": int(k + bus_bytes >= len(padded)),
        }  # fmt: skip


async def traffic(dut, failing, pressure):
    """Random requests of all clients; `failing` of them meet an address that fails."""
    width = len(dut.m_axi_wstrb)
    rng = await start(dut)
    memory = Memory(dut, "m_axi", rng, pressure=pressure)
    image = bytearray(memory.mem[:])
    ends, wanted = [], []  # of each write client: errors told, and expected
    answers, asked = [], []  # of each read client
    for k in range(PORT_CLIENTS):
        _writer(dut, rng, memory, image, k, width, failing, ends, wanted)
        _reader(dut, rng, memory, PORT_CLIENTS + k, k, width, failing, answers, asked)
    everything = REQUESTS * PORT_CLIENTS
    await until(
        dut, lambda: sum(map(len, ends)) >= everything and sum(map(len, answers)) >= everything,
        "the end of all requests", cycles=120_000,
    )  # fmt: skip
    for _ in range(40):
        await RisingEdge(dut.clk)
    assert ends == wanted
    for told, requests in zip(answers, asked, strict=True):
        for beats, (data, broken) in zip(told, requests, strict=True):
            assert [error for *_, error in beats] == broken
            got = b"".join(d[b:e] for d, b, e, _ in beats)
            if not any(broken):
                assert got == data
            assert len(got) == len(data)
    # What failed may have been written in part; everything else is as it must be.
    for at in memory.uncertain:
        image[at] = memory.mem[at]
    assert bytes(memory.mem[:]) == bytes(image), "a byte that nobody asked for was written"


def _writer(dut, rng, memory, image, k, width, failing, ends, wanted):
    requests = Source(dut, f"write_{k}_request", rng, rng.choice((0.2, 1)))
    beats = Source(dut, f"write_{k}_beats", rng, rng.choice((0.6, 1)))
    done, error = getattr(dut, f"write_{k}_done"), getattr(dut, f"write_{k}_error")
    told, expected = [], []
    ends.append(told)
    wanted.append(expected)

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            if int(done.value):
                told.append(int(error.value))

    cocotb.start_soon(watch())
    places = Places(rng, k * AREA)
    for _ in range(REQUESTS):
        address, length, wrap = places.next()
        data = rng.randbytes(length)
        fails = not wrap and rng.random() < failing
        expected.append(int(fails))
        if fails:
            memory.failing.add(address + rng.randrange(length))
            memory.uncertain |= set(range(address, address + length))
        for at, offset, count in pieces(address, length, wrap):
            image[at : at + count] = data[offset : offset + count]
        requests.put({"address": address, "length": length, "wrap_log2": wrap})
        beats.put(*lanes(address, data, width))


def _reader(dut, rng, memory, area, k, width, failing, answers, asked):
    requests = Source(dut, f"read_{k}_request", rng, rng.choice((0.2, 1)))
    told, expected, beats = [], [], []
    answers.append(told)
    asked.append(expected)

    def take(beat):
        data = beat["data"].to_bytes(width, "little")
        beats.append((data, beat["begin"], beat["end"], beat["error"]))
        if beat["last"]:
            told.append(beats[:])
            beats.clear()

    Sink(dut, f"read_{k}_beats", rng, rng.choice((0.5, 1)), take)
    places = Places(rng, area * AREA)
    for _ in range(REQUESTS):
        address, length, wrap = places.next()
        spans = list(pieces(address, length, wrap))
        if not wrap and rng.random() < failing:
            memory.failing.add(address + rng.randrange(length))
        words = [w for at, _, n in spans for w in range(at // width, (at + n - 1) // width + 1)]
        expected.append((b"".join(memory.peek(at, n) for at, _, n in spans), words))
        requests.put({"address": address, "length": length, "wrap_log2": wrap})
    bad = {at // width for at in memory.failing}
    expected[:] = [(data, [int(w in bad) for w in words]) for data, words in expected]


@cocotb.test()
async def every_byte_comes_to_its_place_and_back(dut):
    await traffic(dut, 0, 0.2)


@cocotb.test()
async def an_error_response_ends_its_own_request_alone(dut):
    await traffic(dut, 0.2, 0.4)
