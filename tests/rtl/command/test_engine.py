"""The command ring: each kind does what it says and then completes; bad commands harm nothing."""

import ipaddress

import pytest
from rtl.command.command_bench import HEADER_PAGES, RING, Bench

from hdsnic import abi
from hdsnic.abi import CommandKind as Kind
from hdsnic.abi import RxOutcome

DONE, REFUSED, LOST = range(3)
HEADER_BYTES = HEADER_PAGES * 4096
WIDTHS = pytest.mark.parametrize("width", [8, 16, 64])


def statuses(bench):
    return [c["status"] for c in bench.completions]


@WIDTHS
@pytest.mark.parametrize("pace", [1.0, 0.5])
def test_place_gathers_ranges_of_any_alignment_into_one_frame(width, pace):
    bench = Bench(width, 3, pace=pace)
    wanted = []
    for cookie in range(24):
        count = bench.rng.choice([1, 1, 2, 3, 16])
        ranges = [
            (bench.rng.randrange(0x8000, HEADER_BYTES - 600), bench.rng.choice([1, 7, 8, 63, 500]))
            for _ in range(count)
        ]
        queue = bench.rng.randrange(bench.p.queues)
        bench.place(queue, ranges, 0xC0DE0000 + cookie)
        data = b"".join(bytes(bench.memory[o : o + n]) for o, n in ranges)
        wanted.append((queue, 0xC0DE0000 + cookie, data))
    bench.run()
    assert statuses(bench) == [DONE] * 24
    assert [c["cookie"] for c in bench.completions] == [cookie for _, cookie, _ in wanted]
    for (fields, data), (queue, cookie, expected) in zip(bench.frames, wanted, strict=True):
        assert data == expected
        assert fields["length"] == fields["payload_length"] == len(expected)
        assert (fields["header_length"], fields["hash"]) == (0, cookie)
        assert (fields["queue"], fields["reason"]) == (queue, RxOutcome.PLACED)
    assert bench.log == ["frame", "completion"] * 24
    assert bench.consumer == bench.producer and not bench.busy


@WIDTHS
def test_the_longest_frame_is_placed_whole_and_one_byte_more_is_refused(width):
    bench = Bench(width)
    longest = bench.p.frame_bytes_max
    ranges = [(0x8001, 4000), (0x9003, 4000), (0xA000, longest - 8000)]
    bench.place(1, ranges)
    bench.place(1, [*ranges[:2], (0xA000, longest - 7999)])
    bench.run()
    assert statuses(bench) == [DONE, REFUSED]
    ((_, data),) = bench.frames
    assert data == b"".join(bytes(bench.memory[o : o + n]) for o, n in ranges)


@WIDTHS
def test_a_range_outside_header_memory_is_refused_and_not_read(width):
    bench = Bench(width)
    for ranges in (
        [(HEADER_BYTES - 10, 11)], [(HEADER_BYTES, 1)], [(0xFFFFFFF0, 32)], [(0x8000, 0)],
        [(0x8000, 8), (HEADER_BYTES - 1, 2)], [(0x8000, 8), (0x8000, 0)],
    ):  # fmt: skip
        bench.place(1, ranges)
    bench.place(1, [(HEADER_BYTES - 10, 10)])
    bench.run()
    assert statuses(bench) == [REFUSED] * 6 + [DONE]
    assert len(bench.frames) == 1
    assert bench.read_bytes == 16 * 7 + 8 + 8 + 10


def test_a_rule_is_stored_then_fenced_then_completed():
    bench = Bench(64)
    address = ipaddress.IPv6Address("fd00::7").packed
    rule = {
        "slot": 2047, "valid": 1, "ipv6": 1, "udp": 1, "rss": 0, "queue": 9, "remote_port": 443,
        "local_port": 50000, "remote": int.from_bytes(address, "little"), "local": 77,
    }  # fmt: skip
    bench.rule(5, **rule)
    bench.rule(6, slot=3)  # clears
    bench.run()
    assert statuses(bench) == [DONE, DONE]
    assert bench.stores == [rule, dict.fromkeys(rule, 0) | {"slot": 3}]
    log = [entry for entry in bench.log if entry != "rule done"]
    assert log == ["rule", "fence", "fence done", "completion"] * 2
    if "rule done" in bench.log:
        assert bench.log.index("rule done") < bench.log.index("fence")


@WIDTHS
def test_what_a_command_asks_of_the_settings_is_done_before_it_completes(width):
    bench = Bench(width, 2)
    bench.command(Kind.REVOKE, 1, offset=0x8005)
    bench.command(Kind.QUEUE_RESET, 2, queue=7)
    bench.command(Kind.FENCE, 3)
    bench.run()
    assert [(c["cookie"], c["status"]) for c in bench.completions] == [(1, 0), (2, 0), (3, 0)]
    assert bench.asked == [("revoke", 0x8005), ("off", 1 << 7)]
    assert bench.log == [
        "revoke", "revoke done", "completion", "off", "off done", "completion",
        "fence", "fence done", "completion",
    ]  # fmt: skip


def bad_commands(p):
    """Commands with one field wrong each."""
    yield {"kind": 0}
    yield {"kind": 6}
    yield {"kind": 255}
    for kind in Kind:
        ok = {"kind": kind, "length": 8, "ranges": 1} if kind is Kind.PLACE else {"kind": kind}
        yield ok | {"spare": 1}
        yield ok | {"spare_2": 0x8000}
        yield ok | {"queue": p.queues}
        if kind is not Kind.PLACE:
            yield ok | {"length": 1}
    yield {"kind": Kind.REVOKE, "offset": 1 << p.regions}
    yield {"kind": Kind.FENCE, "offset": 1}
    yield {"kind": Kind.QUEUE_RESET, "queue": 0}
    yield {"kind": Kind.QUEUE_RESET, "queue": 1, "offset": 1}
    yield {"kind": Kind.FENCE, "ranges": 1}


@WIDTHS
def test_a_command_with_a_wrong_field_is_refused_and_does_nothing(width):
    bench = Bench(width, queues=8, regions=8, rss_contexts=4)
    rule = abi.EXACT_RULE.pack(slot=1)
    count = 0
    for fields in bad_commands(bench.p):
        count += 1
        data = abi.COMMAND.pack(cookie=count, **fields)
        bench.put(data + rule if fields["kind"] == Kind.RULE else data)
    for wrong in (
        {"slot": bench.p.exact_ways * bench.p.exact_rows}, {"spare": 1}, {"spare_2": 1},
        {"valid": 1, "queue": 8}, {"valid": 1, "queue": 4, "rss": 1},
    ):  # fmt: skip
        count += 1
        bench.rule(count, **wrong)
    bench.place(1, [])
    bench.place(1, [(0, 1)] * 17)
    bench.command(Kind.FENCE, 999)
    bench.run()
    assert statuses(bench) == [REFUSED] * (count + 2) + [DONE]
    assert [c["cookie"] for c in bench.completions][:count] == list(range(1, count + 1))
    assert not bench.asked and not bench.stores and not bench.frames
    assert bench.log == ["completion"] * (count + 2) + ["fence", "fence done", "completion"]


def test_a_command_beyond_the_producer_is_refused_and_the_ring_goes_on_there():
    bench = Bench(64)
    bench.place(1, [(0x8000, 8)] * 5)
    cut = 2  # cells of three

    async def scenario(ctx):
        await bench.ring(ctx, cut)
        while not bench.completions:
            await ctx.tick()
        bench.producer = cut
        bench.command(Kind.FENCE, 4)
        await bench.ring(ctx, bench.producer)

    bench.run(scenario)
    assert [(c["cookie"], c["status"]) for c in bench.completions] == [(0, REFUSED), (4, DONE)]
    assert bench.consumer == 3 and not bench.frames


def test_a_doorbell_beyond_the_ring_is_ignored():
    bench = Bench(8)
    bench.command(Kind.FENCE, 1)

    async def scenario(ctx):
        for wrong in (257, 0x80000000, -1):
            await bench.ring(ctx, wrong)
            await ctx.tick().repeat(60)
        assert not bench.completions
        await bench.ring(ctx, 1)

    bench.run(scenario)
    assert bench.consumer == 1


@WIDTHS
def test_commands_go_on_around_the_end_of_the_ring(width):
    bench = Bench(width)
    fields = {"slot": 9, "valid": 1, "queue": 3, "remote": 1 << 127 | 1, "local": 2}

    async def scenario(ctx):
        for turn in range(120):  # 5 cells each of 256
            bench.rule(turn, **fields)
            bench.command(Kind.FENCE, turn)
            await bench.ring(ctx, bench.producer)
            while len(bench.completions) < bench.commands:
                await ctx.tick()

    bench.run(scenario)
    assert set(statuses(bench)) == {DONE}
    assert len(bench.stores) == 120
    assert all(s["remote"] == fields["remote"] and s["local"] == 2 for s in bench.stores)


@pytest.mark.parametrize("place", ["fixed", "more", "range"])
def test_a_read_error_stops_the_ring_until_it_is_set_up_anew(place):
    bench = Bench(8)
    bench.place(1, [(0x8000, 100), (0x9001, 100)], 7)
    bench.failing = {{"fixed": RING + 9, "more": RING + 16, "range": 0x9064}[place]}

    async def scenario(ctx):
        await bench.ring(ctx, 2)
        while not bench.completions:
            await ctx.tick()
        bench.command(Kind.FENCE, 8)
        await bench.ring(ctx, 3)
        await ctx.tick().repeat(100)
        assert len(bench.completions) == 1, "the ring went on"
        bench.failing = set()
        bench.producer = 0
        await bench.set_ring(ctx)
        bench.place(2, [(0x8000, 100), (0x9001, 100)], 9)
        bench.commands -= 1  # the fence was never read
        await bench.ring(ctx, bench.producer)

    bench.run(scenario)
    assert statuses(bench) == [LOST, DONE]
    ((fields, data),) = bench.frames
    assert fields["queue"] == 2
    assert data == bytes(bench.memory[0x8000:0x8064] + bench.memory[0x9001:0x9065])
