"""Blocks of the egress on their own, against models of a few lines."""

import random
from collections import deque

import pytest
from amaranth.hdl import Elaboratable, Module, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator
from egress_bench import pack, parameters, unpack

from hdsnic import abi
from hdsnic.abi import PostOutcome, RxOutcome
from hdsnic.rx.commit import Commit
from hdsnic.rx.handles import ElementStates, HandleQueues
from hdsnic.rx.record import RecordWriter
from hdsnic.rx.split import ChainCutter, PayloadAligner, Splitter
from hdsnic.rx.storage import IndexTable

every_width = pytest.mark.parametrize("width", [8, 16, 32, 64])


def simulate(dut, *scenarios, feeds=(), limit=30_000):
    """Runs coroutines until all `scenarios` end, `feeds` beside; at most `limit` cycles."""

    async def bounded(ctx):
        for _ in range(limit):
            await ctx.tick()
        raise AssertionError(f"not done within {limit} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for scenario in scenarios:
        simulator.add_testbench(scenario)
    for feed in (bounded, *feeds):
        simulator.add_testbench(feed, background=True)
    simulator.run()


async def moves(ctx, other_side, *sampled):
    """Waits until the cycle in which `other_side` of a handshake is 1; `sampled` of that cycle."""
    while True:
        _, _, moved, *values = await ctx.tick().sample(other_side, *sampled)
        if moved:
            return values


def source(stream, values, chance=1.0, seed=0):
    """Offers integers to a stream in turn."""
    rng = random.Random(seed)

    async def process(ctx):
        for value in values:
            while rng.random() >= chance:
                await ctx.tick()
            ctx.set(Value.cast(stream.payload), value)
            ctx.set(stream.valid, 1)
            await moves(ctx, stream.ready)
            ctx.set(stream.valid, 0)

    return process


async def take(ctx, stream, rng, chance):
    """The next value of a stream, as an integer, after random back-pressure."""
    while rng.random() >= chance:
        await ctx.tick()
    ctx.set(stream.ready, 1)
    (value,) = await moves(ctx, stream.valid, Value.cast(stream.payload))
    ctx.set(stream.ready, 0)
    return value


def beats_of(data, width):
    return [
        int.from_bytes(data[at : at + width].ljust(width, b"\xee"), "little")
        for at in range(0, len(data), width)
    ]


@every_width
@pytest.mark.parametrize("chance", [1.0, 0.5])
def test_record_writer_lays_records_on_cells_and_strobes_nothing_else(width, chance):
    rng = random.Random(width)
    dut = RecordWriter(parameters(width))
    layout = dut.jobs.payload.shape()
    headers, jobs, words, expected = [], [], [], []
    lengths = [14, 54, 0, 54, 15, 16, 17, 0, 64, 256, *(rng.randrange(14, 300) for _ in range(60))]
    for n, length in enumerate(lengths):
        header = rng.randbytes(length)
        fields = rng.randbytes(16)
        cell = rng.randrange(max(1, width // 16))
        stamped = n % 3 == 1 or n == 2
        chained = rng.randrange(1, 10) if n % 4 == 3 else 0
        stamp, chain = rng.randbytes(8 * stamped), rng.randbytes(8 * chained)
        total = 16 * cell + 16 + len(stamp) + len(chain) + length
        headers += beats_of(header, width)
        words += beats_of(chain, 8)
        job = {"fields": int.from_bytes(fields, "little"), "end": total, "stamped": stamped,
               "time_stamp": int.from_bytes(stamp, "little") if stamped else 0x5555,
               "chained": chained}  # fmt: skip
        if width > 16:
            job["cell"] = cell
        jobs.append(pack(layout, **job))
        expected.append((16 * cell, total, fields + stamp + chain + header))

    async def check(ctx):
        for begin, end, data in expected:
            image = bytes(begin) + data
            for at in range(0, end, width):
                beat = unpack(dut.output.payload.shape(), await take(ctx, dut.output, rng, chance))
                lanes = [k for k in range(width) if begin <= at + k < end]
                assert beat["strobe"] == sum(1 << k for k in lanes)
                got = beat["data"].to_bytes(width, "little")
                assert all(got[k] == image[at + k] for k in lanes)
                assert beat["last"] == (at + width >= end)

    feeds = (
        source(dut.jobs, jobs, chance, 1),
        source(dut.header, headers, chance, 2),
        source(dut.words, words, chance, 3),
    )
    simulate(dut, check, feeds=feeds)


class SplitPath(Elaboratable):
    """Splitter and aligner in a row."""

    def __init__(self, width):
        p = parameters(width)
        self.splitter, self.aligner = Splitter(p), PayloadAligner(p)

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter, m.submodules.aligner = self.splitter, self.aligner
        wiring.connect(m, self.splitter.payload, self.aligner.input)
        return m


@every_width
@pytest.mark.parametrize("chance", [1.0, 0.6])
def test_splitter_and_aligner_part_frames_at_any_offset(width, chance):
    rng = random.Random(width)
    dut = SplitPath(width)
    jobs, beats, headers, payloads = [], [], [], []
    cases = [(rng.randrange(14, 150), rng.randrange(0, 200), rng.choice((0, 3, 70)), rng.random())
             for _ in range(60)]  # fmt: skip
    for header, payload, padding, kind in cases:
        data = rng.randbytes(header + payload + padding)
        job = {}
        if kind > 0.15:  # else the frame is skipped
            job["header_beats"] = -(-header // width)
            headers += beats_of(data, width)[: job["header_beats"]]
            if payload:
                job |= {
                    "payload_first": header // width, "shift": header % width,
                    "payload_end": -(-(header + payload) // width), "payload_length": payload,
                }  # fmt: skip
                payloads.append(data[header : header + payload])
        jobs.append(pack(dut.splitter.jobs.payload.shape(), **job))
        shape = dut.splitter.beats.payload.shape()
        for k, beat in enumerate(beats_of(data, width)):
            last = (k + 1) * width >= len(data)
            count = len(data) - k * width if last else width
            beats.append(pack(shape, data=beat, count=count, last=last))

    async def header_side(ctx):
        taken = random.Random(3)
        for beat in headers:
            assert (
                beat & ((1 << 8) - 1) == (await take(ctx, dut.splitter.header, taken, chance)) & 255
            )

    async def check(ctx):
        for payload in payloads:
            for at in range(0, len(payload), width):
                part = payload[at : at + width]
                beat = unpack(
                    dut.aligner.output.payload.shape(),
                    await take(ctx, dut.aligner.output, rng, chance),
                )
                assert beat["strobe"] == (1 << len(part)) - 1
                assert beat["data"].to_bytes(width, "little")[: len(part)] == part
                assert beat["last"] == (at + width >= len(payload))

    feeds = (
        source(dut.splitter.jobs, jobs, chance, 1),
        source(dut.splitter.beats, beats, chance, 2),
    )
    simulate(dut, check, header_side, feeds=feeds)


@every_width
def test_chain_cutter_ends_each_buffer_and_passes_beats_in_order(width):
    rng = random.Random(width)
    dut = ChainCutter(parameters(width))
    lengths = [rng.randrange(1, 9) for _ in range(40)]
    beats = [rng.getrandbits(8 * width) for _ in range(sum(lengths))]
    offered = [pack(dut.input.payload.shape(), data=b, last=rng.randrange(2)) for b in beats]

    async def check(ctx):
        expected = iter(beats)
        for length in lengths:
            for k in range(length):
                beat = unpack(dut.output.payload.shape(), await take(ctx, dut.output, rng, 0.7))
                assert beat["data"] == next(expected) and beat["last"] == (k == length - 1)

    feeds = source(dut.lengths, lengths, 0.5, 1), source(dut.input, offered, 0.8, 2)
    simulate(dut, check, feeds=feeds)


def test_element_states_agree_with_a_set_under_random_operations():
    p = parameters(8)
    dut = ElementStates(p)
    layout = dut.mark.payload.shape()
    rng = random.Random(1)
    elements = [(r, e) for r in range(4) for e in (0, 1, 31, 32, 33, 63)]

    def packed(element):
        return pack(layout, region=element[0], element=element[1])

    async def scenario(ctx):
        for region in range(4):  # contents are undefined before
            await sweep(ctx, region)
        marked, asked = set(), None
        for _ in range(3000):
            mark, finish, discard = (rng.choice(elements) for _ in range(3))
            wants = [rng.random() < c for c in (0.7, 0.4, 0.4)]
            ctx.set(dut.mark.payload.as_value(), packed(mark))
            ctx.set(dut.finish.payload.as_value(), packed(finish))
            ctx.set(dut.discard.payload.as_value(), packed(discard))
            ctx.set(dut.mark.valid, wants[0])
            ctx.set(dut.finish.valid, wants[1])
            ctx.set(dut.discard.valid, wants[2])
            if asked is not None:
                assert ctx.get(dut.marked_before) == asked
            asked = None
            assert ctx.get(dut.mark.ready) and ctx.get(dut.discard.ready) != wants[1]
            # A clear of what is not marked leaves a mark in the same cycle alone.
            cleared = finish if wants[1] else discard if wants[2] else None
            before = cleared in marked
            if wants[0]:
                asked = mark in marked
                marked.add(mark)
            if before:
                marked.discard(cleared)
            await ctx.tick()
        for strobe in (dut.mark, dut.finish, dut.discard):
            ctx.set(strobe.valid, 0)
        await sweep(ctx, 2)
        ctx.set(dut.mark.valid, 1)
        for element in elements:
            ctx.set(dut.mark.payload.as_value(), packed(element))
            await ctx.tick()
            expected = element in marked and element[0] != 2
            assert ctx.get(dut.marked_before) == expected, element

    async def sweep(ctx, region):
        ctx.set(dut.sweep.payload, region)
        ctx.set(dut.sweep.valid, 1)
        await ctx.tick().until(dut.sweep.ready)
        ctx.set(dut.sweep.valid, 0)
        assert ctx.get(dut.busy)
        await ctx.tick().until(~dut.busy)

    simulate(dut, scenario)


def test_handle_queues_keep_order_through_pushes_pops_flushes_and_purges():
    p = parameters(8)
    dut = HandleQueues(p)
    shape = dut.push.payload.shape()
    rng = random.Random(2)
    model = [deque() for _ in range(4)]
    number = 0

    async def scenario(ctx):
        nonlocal number
        ctx.set(dut.quiet, 1)
        for _ in range(300):
            for _ in range(rng.randrange(12)):  # push
                q = rng.randrange(4)
                if len(model[q]) == p.post_prefetch:
                    continue
                region, number = rng.randrange(4), number + 1
                handle = (region, number % 64, number % 256)
                ctx.set(dut.reserve.payload.queue, q)
                ctx.set(dut.reserve.payload.count, 1)
                ctx.set(dut.reserve.valid, 1)
                await ctx.tick()
                ctx.set(dut.reserve.valid, 0)
                packed = handle[1] | handle[0] << 6 | handle[2] << 8
                ctx.set(dut.push.payload.as_value(), pack(shape, handle=packed, queue=q))
                ctx.set(dut.push.valid, 1)
                await ctx.tick()
                ctx.set(dut.push.valid, 0)
                model[q].append(handle)
            for _ in range(rng.randrange(6)):  # claim
                await claim(ctx, rng.randrange(4))
            if rng.random() < 0.3:
                await walk(ctx, rng.randrange(4), rng.random() < 0.5)

    def told(handle):
        return (handle.at.region, handle.at.element, handle.generation)

    async def claim(ctx, q):
        """Up to four handles of queue `q` are looked at in turn, then taken, or one of them is."""
        ctx.set(dut.queue, q)
        ctx.set(dut.wanted, 1)
        assert ctx.get(dut.ready) == ctx.get(dut.held) == len(model[q])
        found = ctx.get(dut.found)
        if model[q] and not found:  # within two cycles
            await ctx.tick().repeat(2)
            found = ctx.get(dut.found)
        assert found == bool(model[q])
        if found:
            assert told(ctx.get(dut.handle)) == model[q][0]
            last = rng.randrange(4)
            for depth in range(last + 1):
                ctx.set(dut.depth, depth)
                await ctx.tick()
                assert ctx.get(dut.another) == (len(model[q]) > depth + 1)
                if not ctx.get(dut.another):
                    break
                assert told(ctx.get(dut.following)) == model[q][depth + 1]
            replaces = depth > 0 and rng.random() < 0.3
            ctx.set(dut.replace if replaces else dut.pop, 1)
            await ctx.tick()
            ctx.set(dut.replace, 0)
            ctx.set(dut.pop, 0)
            ctx.set(dut.depth, 0)
            if replaces:
                model[q][depth] = model[q][0]
            for _ in range(1 if replaces else depth + 1):
                model[q].popleft()
        ctx.set(dut.wanted, rng.randrange(2))

    async def walk(ctx, which, flush):
        """Flush of queue `which`, or purge of region `which`; what leaves is what should."""
        expected = []
        for q in range(4):
            gone = [h for h in model[q] if (q == which if flush else h[0] == which)]
            expected += [(q, h) for h in gone]
            model[q] = deque(h for h in model[q] if h not in gone)
        if flush:
            ctx.set(dut.flush.payload, which)
            ctx.set(dut.flush.valid, 1)
            await ctx.tick()
            ctx.set(dut.flush.valid, 0)
        else:
            ctx.set(dut.purge.payload, which)
            ctx.set(dut.purge.valid, 1)
            await ctx.tick().until(dut.purge.ready)
            ctx.set(dut.purge.valid, 0)
        seen, swept = [], []
        while ctx.get(dut.hold):
            ctx.set(dut.discard.ready, rng.random() < 0.5)
            ctx.set(dut.sweep.ready, rng.random() < 0.5)
            if ctx.get(dut.discard.valid) and ctx.get(dut.discard.ready):
                d = ctx.get(dut.discard.payload)
                at = d.handle.at
                seen.append((d.queue, (at.region, at.element, d.handle.generation)))
            if ctx.get(dut.sweep.valid) and ctx.get(dut.sweep.ready):
                swept.append(ctx.get(dut.sweep.payload))
            await ctx.tick()
        assert seen == expected
        assert swept == ([] if flush else [which])

    simulate(dut, scenario)


@pytest.mark.parametrize("seed", range(4))
def test_commit_shows_a_record_only_after_all_acknowledgements_and_none_after_an_error(seed):
    p = parameters(8)
    dut = Commit(p)
    rng = random.Random(seed)
    frames, producers = [], [0] * 4
    for _ in range(200):
        queue, kind = rng.randrange(4), rng.random()
        outcome, buffers = RxOutcome.SPLIT, rng.choice((1, 1, 2, 5))
        if kind < 0.3:
            outcome, buffers = RxOutcome.HEADER_ONLY, 0
        elif kind < 0.5:
            outcome, buffers = RxOutcome.NO_BUFFER, 0
        if outcome < abi.RX_RECORDS:
            producers[queue] += 5
        frames.append((queue, outcome, producers[queue], buffers))
    entries = [(k, n) for k, f in enumerate(frames) for n in range(max(1, f[3]))]
    # Writes whose acknowledgement is an error: ("h", frame) or ("p", frame, buffer).
    errors = {("h", k) for k in range(200) if rng.random() < 0.01}
    errors |= {("p", *entry) for entry in entries if rng.random() < 0.01}

    def writes_of(k):
        _, outcome, _, buffers = frames[k]
        own = {("h", k)} if outcome < abi.RX_RECORDS else set()
        return own | {("p", k, n) for n in range(buffers)}

    async def scenario(ctx):
        ctx.set(dut.enabled, 0b1111)
        ctx.set(dut.flushed.ready, 1)
        ctx.set(dut.faults.ready, 1)
        waiting = {"h": deque(), "p": deque()}  # writes without an acknowledgement
        ports = {"h": (dut.header_done, dut.header_error),
                 "p": (dut.payload_done, dut.payload_error)}  # fmt: skip
        acknowledged, failed, completed, sent, finished = set(), set(), 0, 0, []
        visible, faults, stopped = [0] * 4, [], []
        shape, counted = dut.entries.payload.shape(), dut.outcome.payload.shape()
        slow = {"h": 0.1, "p": 0.3}
        while completed < len(frames):
            if rng.random() < 0.01:
                slow["h"], slow["p"] = slow["p"], slow["h"]
            for port, (done, error) in ports.items():
                now = bool(waiting[port]) and rng.random() < slow[port]
                ctx.set(done, now)
                if now:
                    write = waiting[port].popleft()
                    ctx.set(error, write in errors)
                    acknowledged.add(write)
            offer = sent < len(entries) and rng.random() < 0.7
            ctx.set(dut.entries.valid, offer)
            ctx.set(dut.ends.valid, 0)
            if offer:
                k, n = entries[sent]
                queue, outcome, producer, buffers = frames[k]
                more = n + 1 < buffers
                ctx.set(dut.entries.payload.as_value(),
                        pack(shape, queue=queue, outcome=outcome, producer=producer,
                             claimed=buffers > 0, more=more, element=sent % 64))  # fmt: skip
                if ctx.get(dut.entries.ready):
                    ctx.set(dut.ends.valid, buffers > 0)
                    ctx.set(dut.ends.payload, not more)
                    assert not buffers or ctx.get(dut.ends.ready)
                    if outcome < abi.RX_RECORDS and n == 0:
                        waiting["h"].append(("h", k))
                    if buffers:
                        waiting["p"].append(("p", k, n))
                    sent += 1
            if ctx.get(dut.finish.valid):
                finished.append(ctx.get(dut.finish.payload.element))
                at = [e for e in range(len(entries)) if frames[entries[e][0]][3]]
                k = entries[at[len(finished) - 1]][0]
                assert k in (completed, completed + 1) and writes_of(k) <= acknowledged
            if ctx.get(dut.flushed.valid):
                assert ctx.get(dut.flushed.payload.outcome) == PostOutcome.FLUSHED
            if ctx.get(dut.faults.valid):
                fault = ctx.get(dut.faults.payload)
                faults.append((fault.queue, fault.index, fault.status))
            if ctx.get(dut.outcome.valid):
                got = unpack(counted, ctx.get(dut.outcome.payload.as_value()))
                queue, outcome, producer, buffers = frames[completed]
                if outcome < abi.RX_RECORDS:
                    assert writes_of(completed) <= acknowledged
                    if writes_of(completed) & errors:
                        outcome = RxOutcome.PORT_ERROR
                        stopped.append((queue, visible[queue], outcome))
                        failed.add(queue)
                    elif queue in failed:
                        outcome = RxOutcome.DISABLED
                assert got == {"queue": queue, "outcome": outcome}
                shows = outcome < abi.RX_RECORDS
                assert ctx.get(dut.index.valid) == shows
                if shows:
                    assert ctx.get(dut.index.payload.low) == producer
                    visible[queue] = producer
                completed += 1
            else:
                assert not ctx.get(dut.index.valid)
            await ctx.tick()
        await ctx.tick()
        assert ctx.get(dut.failed) == sum(1 << q for q in failed)
        assert finished == [e % 64 for e, (k, _) in enumerate(entries) if frames[k][3]]
        assert len(faults) + ctx.get(dut.faults.valid) == len(stopped)
        assert faults == stopped[: len(faults)]

    simulate(dut, scenario)
    assert seed or errors, "the first seed has errors"


def test_commit_tells_a_post_consumer_that_moved_while_its_queue_was_off_once_it_is_on():
    dut = Commit(parameters(8))

    async def scenario(ctx):
        ctx.set(dut.enabled, 0b1011)
        ctx.set(dut.consumer, 77)
        ctx.set(dut.moved.payload, 2)
        ctx.set(dut.moved.valid, 1)
        await ctx.tick()
        ctx.set(dut.moved.valid, 0)
        for _ in range(20):  # several rounds of the scan
            assert not ctx.get(dut.index.valid)
            await ctx.tick()
        ctx.set(dut.enabled, 0b1111)
        told = []
        for _ in range(20):
            await ctx.tick()
            if ctx.get(dut.index.valid):
                update = ctx.get(dut.index.payload)
                told.append((update.queue, update.low, update.high))
        assert told == [(2, 0, 77)]

    simulate(dut, scenario)


def test_commit_is_not_settled_while_a_post_consumer_of_a_queue_that_is_on_is_untold():
    dut = Commit(parameters(8))

    async def scenario(ctx):
        ctx.set(dut.enabled, 0b1101)
        await ctx.tick()
        for queue in range(4):
            for _ in range(queue):  # another place of the scan
                await ctx.tick()
            assert ctx.get(dut.settled)
            ctx.set(dut.moved.payload, queue)
            ctx.set(dut.moved.valid, 1)
            await ctx.tick()
            ctx.set(dut.moved.valid, 0)
            told = 0
            for _ in range(8):
                told += ctx.get(dut.index.valid)
                assert not (ctx.get(dut.settled) and ctx.get(dut.index.valid))
                settled = ctx.get(dut.settled)
                assert settled == (queue == 1 or told == 1) or ctx.get(dut.index.valid)
                await ctx.tick()
            assert settled and told == (queue != 1)

    simulate(dut, scenario)


def test_index_table_reads_zero_after_reset_and_clear_and_else_what_was_written():
    dut = IndexTable(2, 2)
    rng = random.Random(4)

    async def scenario(ctx):
        model = [0] * 4
        for _ in range(500):
            writes, clears = rng.random() < 0.4, rng.random() < 0.2
            q, value, cleared = rng.randrange(4), rng.randrange(1 << 32), rng.randrange(4)
            asked = [rng.randrange(4) for _ in range(2)]
            for signal, number in (
                (dut.write, writes), (dut.write_queue, q), (dut.write_value, value),
                (dut.clear, clears), (dut.clear_queue, cleared),
                (dut.queue[0], asked[0]), (dut.queue[1], asked[1]),
            ):  # fmt: skip
                ctx.set(signal, number)
            assert [ctx.get(v) for v in dut.value] == [model[k] for k in asked]
            if writes:
                model[q] = value
            if clears:
                model[cleared] = 0
            await ctx.tick()

    simulate(dut, scenario)
