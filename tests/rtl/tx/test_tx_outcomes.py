"""Every TxOutcome: what is refused, that nothing of it is read or sent, and who goes on."""

import pytest
from transmit_bench import CELL, Bench
from transmit_frames import Sent, gathered, plain, random_bytes, segment, segmented

from hdsnic.abi import TxOutcome

every_width = pytest.mark.parametrize("width", [8, 64])

REGION_BYTES = 8192
# region 0 is good; the others are each wrong in one way
REGIONS = {
    0: {},
    1: {"live": 0},
    2: {"owner": 2},
    3: {"nic_read": 0},
    4: {"generation": 7},
    5: {"owner": 0},
}
LAST = REGION_BYTES - 1
FAULTS = {
    "not live": ((1, 1, 0, 4), TxOutcome.BAD_REGION),
    "beyond the table": ((200, 1, 0, 4), TxOutcome.BAD_REGION),
    "another generation": ((4, 1, 0, 4), TxOutcome.BAD_REGION),
    "another owner": ((2, 1, 0, 4), TxOutcome.BAD_OWNER),
    "nobody's": ((5, 1, 0, 4), TxOutcome.BAD_OWNER),
    "no permission": ((3, 1, 0, 4), TxOutcome.NO_PERMISSION),
    "a byte beyond": ((0, 1, LAST, 2), TxOutcome.OUT_OF_REGION),
    "far beyond": ((0, 1, 1 << 20, 2), TxOutcome.OUT_OF_REGION),
    "sum overflows": ((0, 1, 0xFFFFFFFF, 2), TxOutcome.OUT_OF_REGION),
    "sum is zero": ((0, 1, 0xFFFFFF00, 0x100), TxOutcome.OUT_OF_REGION),
    "no bytes": ((0, 1, 5, 0), TxOutcome.BAD_DESCRIPTOR),
    "too many bytes": ((0, 1, 0, 0xFFFF), TxOutcome.OUT_OF_REGION),
}


def scene(width, **kwargs):
    bench = Bench(width, **kwargs)
    for number, faults in REGIONS.items():
        bench.region(number, **{"size": REGION_BYTES, **faults})
    return bench, bench.queue()


def good(bench, length=40):
    return plain(bench.rng, 54, [(0, 1, 77, length)], bench.memory)


def refused(bench, references, outcome, size=54, **fields):
    return Sent([], random_bytes(bench.rng, size), references, outcome, **fields)


@every_width
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_bad_reference_refuses_its_descriptor_wholly_and_the_next_one_is_sent(width, place):
    bench, queue = scene(width)
    near = [(0, 1, 5, 30), (0, 1, 900, 200)]
    for reference, outcome in FAULTS.values():
        references = {
            "alone": [reference],
            "first": [reference, *near],
            "last": [*near, reference],
        }[place]
        if reference[3] == 0xFFFF and place != "last":
            outcome = TxOutcome.BAD_DESCRIPTOR  # longer than any frame: seen in the fixed part
        queue.send(refused(bench, references, outcome), good(bench))
    bench.deliver()
    assert len(bench.frames) == len(FAULTS)


@every_width
def test_the_last_byte_of_a_region_can_be_sent(width):
    bench, queue = scene(width)
    for offset, length in ((LAST, 1), (LAST - 99, 100), (0, 1), (0, REGION_BYTES)):
        queue.send(plain(bench.rng, 54, [(0, 1, offset, length)], bench.memory))
    bench.deliver()
    assert len(bench.frames) == 4


@every_width
def test_descriptors_that_contradict_themselves_are_refused_by_their_fixed_part(width):
    bench, queue = scene(width, latency=(2, 10), pace=1)
    one = [(0, 1, 0, 4)]
    for sent in (
        refused(bench, [], TxOutcome.BAD_DESCRIPTOR, size=0),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, size=0),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, size=13),
        refused(bench, one * 65, TxOutcome.BAD_DESCRIPTOR),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, spare=1),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, spare=4),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, tcp_checksum=1, udp_checksum=1, l4_offset=34),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, ipv4_checksum=1, l3_offset=15),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, ipv4_checksum=1, l3_offset=36),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, tcp_checksum=1, l4_offset=36),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, tcp_checksum=1, l4_offset=33),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, udp_checksum=1, l4_offset=48),
        refused(bench, one, TxOutcome.BAD_DESCRIPTOR, mss=64),
        # together longer than a frame; a byte too long by one reference, and by two
        refused(bench, [(0, 1, 0, 9018 - 53)], TxOutcome.BAD_DESCRIPTOR),
        refused(bench, [(0, 1, 0, 8000), (0, 1, 0, 9018 - 8053)], TxOutcome.BAD_DESCRIPTOR),
    ):
        queue.send(sent, good(bench))
    bench.deliver()
    assert len(bench.frames) == 15


@every_width
def test_tso_descriptors_that_contradict_themselves_are_refused(width):
    bench, queue = scene(width, latency=(2, 10), pace=1, tso_bytes_max=12000)
    many = [(0, 1, 0, 6000)]
    right = {"tso": 1, "mss": 536, "l3_offset": 14, "l4_offset": 34}
    for references, wrong in (
        ([], {}),
        (many, {"mss": 0}),
        (many, {"mss": 63}),
        (many, {"mss": 9018 - 53}),
        (many, {"mss": 9018 - 57, "tci": 1}),
        (many, {"l3_offset": 15}),
        (many, {"l3_offset": 16}),  # 18 bytes of IP header
        (many, {"l4_offset": 33}),
        (many, {"l4_offset": 36}),  # 18 bytes of TCP header
        (many, {"udp_checksum": 1}),
        (many, {"size": 257}),
        (many * 2 + [(0, 1, 0, 1)], {}),
        (many * 65, {}),
    ):
        queue.send(refused(bench, references, TxOutcome.BAD_DESCRIPTOR, **{**right, **wrong}))
        queue.send(good(bench))
    payload = gathered(bench.memory, many * 2)
    for limit in ({"mss": 9018 - 54}, {"mss": 9018 - 58, "tci": 1}):
        queue.send(segmented(payload, many * 2, **limit))
    bench.deliver()
    assert len(bench.frames) == 13 + 4


@every_width
def test_a_bad_reference_of_a_tso_descriptor_refuses_it_wholly(width):
    bench, queue = scene(width)
    near = [(0, 1, 5, 300), (0, 1, 900, 200)]
    tso = {"tso": 1, "mss": 64, "l3_offset": 14, "l4_offset": 34}
    for reference, outcome in FAULTS.values():
        queue.send(refused(bench, [*near, reference], outcome, **tso), good(bench))
    bench.deliver()
    assert len(bench.frames) == len(FAULTS)


@every_width
def test_a_tag_may_not_make_a_frame_longer_than_the_largest(width):
    bench, queue = scene(width, pace=1, mac_pace=1)
    whole = segment(gathered(bench.memory, [(0, 1, 0, 8000)]), [(0, 1, 0, 8000)], tci=5)
    bad = [
        refused(bench, [(0, 1, 0, length)], TxOutcome.BAD_DESCRIPTOR, size=9018 - 3 - length, tci=5)
        for length in (7000, 8000)
    ]
    queue.send(whole, *bad, whole)
    bench.deliver()
    assert len(bench.frames) == 2


@every_width
def test_the_longest_frame_that_is_allowed_is_not_refused(width):
    bench, queue = scene(width, pace=1, mac_pace=1)
    pieces = [(0, 1, 0, 8000), (0, 1, 3, 9018 - 8054)]
    queue.send(plain(bench.rng, 54, pieces, bench.memory))
    bench.deliver()
    assert len(bench.frames[0]) == 9018


def test_a_bad_descriptor_of_the_largest_size_is_passed_over():
    """65,535 bytes of header and 255 references: many visits' worth of cells, while others wait."""
    bench, queue = scene(64, pace=1, mac_pace=1, latency=(2, 10))
    bench.queues.clear()
    queue = bench.queue(0, log2_bytes=17)
    other = bench.queue(1)
    huge = refused(bench, [(0, 1, 0, 1)] * 255, TxOutcome.BAD_DESCRIPTOR, size=65535)
    queue.send(good(bench), huge, good(bench))
    other.send(*(good(bench) for _ in range(60)))
    bench.deliver()
    assert len(bench.frames) == 62


@every_width
def test_a_descriptor_beyond_the_producer_stops_its_queue_and_no_other(width):
    bench, queue = scene(width)
    bench.queues.clear()
    queue, other = bench.queue(0), bench.queue(1)
    queue.send(good(bench), good(bench))
    other.send(*(good(bench) for _ in range(10)))

    async def script(bench):
        await bench.until(lambda: not queue.waiting and not queue.expected, "the good ones")
        runaway = refused(bench, [(0, 1, 0, 8)], TxOutcome.OVERRUN)
        queue.write(runaway.encode())
        queue.expected.append((runaway, None))
        bench.ring(queue, queue.producer + runaway.cells - 1)
        other.send(*(good(bench) for _ in range(10)))
        await bench.until(lambda: not queue.expected, "OVERRUN")
        await bench.cycles(1)
        assert bench.stopped == 1
        assert queue.consumer == queue.producer  # still in front of it
        # More doorbells do not bring it back, a new ring does.
        bench.ring(queue, queue.producer + runaway.cells)
        await bench.settled()
        await bench.cycles(200)
        assert bench.stopped == 1
        queue.reset()
        bench.store(queue)
        await bench.until(lambda: not bench.strobes, "the ring to be stored")
        queue.send(good(bench), good(bench))
        await bench.settled()
        assert bench.stopped == 0

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 24


@every_width
@pytest.mark.parametrize("where", ["fixed part", "tag", "reference", "header", "payload"])
def test_an_error_response_refuses_the_frame_and_stops_the_queue(width, where):
    bench, queue = scene(width)
    bench.queues.clear()
    queue, other = bench.queue(0), bench.queue(1)
    victim = plain(
        bench.rng, 200, [(0, 1, 3000, 100), (0, 1, 4000, 100), (0, 1, 5000, 100)], bench.memory
    )
    victim.outcome = TxOutcome.PORT_ERROR
    # It ends with a beat, so that the fault is in none of its own.
    first = plain(bench.rng, 48, [(0, 1, 77, 40)], bench.memory)
    queue.send(first, victim)
    at = queue.base + first.cells * CELL
    if where == "payload":
        bench.ports[1].failing = [((1 << 32) + 4050, 1)]
    else:
        # At 64 bytes a beat the fault is on a later beat than the parts before it.
        offset = {"fixed part": 8, "tag": 16, "reference": 16, "header": 200}[where]
        bench.ports[0].failing = [(at + offset, 1)]
    untrusted = where in ("fixed part", "tag", "reference")
    if untrusted:
        victim.references = []  # none of them may be read
    other.send(*(good(bench) for _ in range(5)))
    tci = 5 if where == "tag" else None
    encoded = plain(bench.rng, 200, [(0, 1, 3000, 100)] * 3, bench.memory, tci=tci)
    if untrusted:
        victim.encode, victim.tci = encoded.encode, tci
        victim.fields = {"header_length": 200, "references": 3}

    async def script(bench):
        await bench.until(lambda: not queue.waiting and not queue.expected, "both outcomes")
        await bench.cycles(1)
        assert bench.stopped == 1
        assert queue.consumer == (first.cells if untrusted else queue.producer)
        bench.ports[0].failing = bench.ports[1].failing = []
        other.send(*(good(bench) for _ in range(5)))
        await bench.settled()
        queue.reset()
        bench.store(queue)
        await bench.until(lambda: not bench.strobes, "the ring to be stored")
        queue.send(good(bench))
        await bench.settled()

    bench.run(script)
    bench.check()
    assert len(bench.frames) == 12


@every_width
def test_every_outcome_is_counted_once_for_each_descriptor(width):
    bench, queue = scene(width, seed=5)
    total = 0
    for k in range(40):
        reference, outcome = list(FAULTS.values())[k % len(FAULTS)]
        if bench.rng.random() < 0.5:
            queue.send(refused(bench, [(0, 1, 1, 1), reference], outcome))
        else:
            queue.send(segment(gathered(bench.memory, [(0, 1, 8, 90)]), [(0, 1, 8, 90)]))
        total += 1
    bench.deliver()
    assert len(bench.outcomes) == total
