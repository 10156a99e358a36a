"""The blocks of the transmit path alone: what their docstrings claim, against small models."""

import struct
from random import Random

import pytest
from amaranth.sim import Simulator
from scapy.utils import checksum

from hdsnic.abi import TxOutcome
from hdsnic.parameters import Parameters
from hdsnic.tx.buffer import FrameBuffer
from hdsnic.tx.check import ReferenceCheck
from hdsnic.tx.checksum import Checksum
from hdsnic.tx.pieces import PieceQueue
from hdsnic.tx.scheduler import Scheduler, quota_cells
from hdsnic.tx.window import Window

every_width = pytest.mark.parametrize("width", [8, 64])


def simulate(dut, testbench):
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(testbench)
    simulator.run()


def fields(ctx, view, **values):
    for name, value in values.items():
        ctx.set(getattr(view, name), value)


def whole(data):
    return int.from_bytes(data, "little")


def beats_of(data, width):
    return [data[k : k + width] for k in range(0, len(data), width)]


# -- window ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_the_window_shows_the_words_that_were_not_taken_yet(width):
    p, rng = Parameters(bus_bytes=width), Random(width)
    dut, unit = Window(p), width // 8
    words = [rng.getrandbits(64) for _ in range(60 * unit)]

    async def testbench(ctx):
        beat, at, aligned = 0, 0, False
        start = rng.randrange(0, unit, 2) if unit > 1 else 0  # a visit begins on a cell
        beats = dut.beats
        for _ in range(400):
            offer = beat < 60 and rng.random() < 0.8
            ctx.set(beats.valid, offer)
            if offer:
                data = sum(w << (64 * k) for k, w in enumerate(words[beat * unit :][:unit]))
                fields(ctx, beats.payload, data=data, begin=8 * start if beat == 0 else 0)
                ctx.set(beats.payload.error, beat % 7 == 3)
            level = ctx.get(dut.level)
            ctx.set(dut.align, 0)
            ctx.set(dut.take, 0)
            if level and not aligned:
                ctx.set(dut.align, 1)
                aligned, at = True, start
            elif level and aligned:
                shown = ctx.get(dut.words)
                count = min(level, max(unit, 2))
                for k in range(count):
                    assert (shown >> (64 * k)) & (2**64 - 1) == words[at + k]
                assert ctx.get(dut.held) == unit - at % unit
                assert ctx.get(dut.whole) == (at % unit == 0)
                errors = ctx.get(dut.errors)
                assert errors & 1 == ((at // unit) % 7 == 3)
                if rng.random() < 0.1:
                    ctx.set(dut.drop, 1)
                    at += unit - at % unit
                else:
                    take = rng.randint(0, min(level, unit + 1))
                    ctx.set(dut.take, take)
                    at += take
            ready = ctx.get(beats.ready)
            await ctx.tick()
            ctx.set(dut.drop, 0)
            beat += offer and ready
        assert at == len(words)

    simulate(dut, testbench)


# -- references ------------------------------------------------------------------------------------


def judge(rows, owner, reference):
    """The rule of the table, in the order of its outcomes."""
    row = rows.get(reference["region"])
    if reference["length"] == 0:
        return TxOutcome.BAD_DESCRIPTOR
    if row is None or not row["live"] or row["generation"] != reference["generation"]:
        return TxOutcome.BAD_REGION
    if row["owner"] != owner or owner == 0:
        return TxOutcome.BAD_OWNER
    if not row["nic_read"]:
        return TxOutcome.NO_PERMISSION
    size = row["elements"] << row["log2_element_bytes"]
    if reference["offset"] + reference["length"] > size:
        return TxOutcome.OUT_OF_REGION
    if row["base"] + reference["offset"] + reference["length"] > 1 << 40:
        return TxOutcome.OUT_OF_REGION
    return TxOutcome.SENT


def test_random_references_are_judged_as_the_table_of_outcomes_says():
    p = Parameters(bus_bytes=64, frame_bytes_max=1514, tso_bytes_max=1460)
    rng = Random(3)
    dut = ReferenceCheck(p)
    rows = {}
    for number in range(8):
        rows[number] = {
            "live": rng.random() < 0.9,
            "base": rng.choice([number << 32, (1 << 40) - 4096]),
            "elements": rng.choice([1, 3, 16, 0xFFFFFF]),
            "log2_element_bytes": rng.choice([8, 11, 14]),
            "owner": rng.choice([0, 1, 1, 1, 1, 2]),
            "generation": rng.choice([1, 1, 1, 255]),
            "nic_read": rng.random() < 0.9,
        }
    rows[7].update(live=1, owner=1, generation=1, nic_read=0)
    owners = [1, 2, 0, 1]
    jobs, pieces = [], []
    wanted_jobs, wanted_pieces = [], []

    async def testbench(ctx):
        async def cycle():
            _, _, job_valid, job, valid, piece, index = await ctx.tick().sample(
                dut.jobs.valid, dut.jobs.payload, dut.pieces.valid & dut.pieces.ready,
                dut.pieces.payload, dut.region.index,
            )  # fmt: skip
            row = rows.get(index, {})
            for name in dut.region.row.shape().members:
                ctx.set(getattr(dut.region.row, name), row.get(name, 0))
            if job_valid:
                jobs.append((job.queue, job.verdict))
            if valid:
                pieces.append((piece.address, piece.length))
            ctx.set(dut.pieces.ready, rng.random() < 0.7)
            ctx.set(dut.items.valid, 0)

        for queue, owner in enumerate(owners):
            ctx.set(dut.owner_store.valid, 1)
            fields(ctx, dut.owner_store.payload, queue=queue, owner=owner)
            await cycle()
        ctx.set(dut.owner_store.valid, 0)
        for _ in range(300):
            queue, header = rng.randrange(4), rng.randrange(14, 300)
            preset = rng.choice([0, 0, 0, 0, int(TxOutcome.PORT_ERROR)])
            verdict, total, good, tso = 0, 0, [], rng.random() < 0.3
            count = rng.choice([0, 1, 1, 1, 2, 5])
            while not ctx.get(dut.room):
                await cycle()
            for k in range(max(count, 1)):
                number = rng.choice([*range(8), 0, 0, 77])
                size = rows.get(number, rows[0])
                size = min(size["elements"] << size["log2_element_bytes"], 0xFFFFFFFF)
                length = rng.choice([0, 1, 50, 200, 300, 600])
                offset = rng.choice([0, 8, size - length, size - length + 1, 0xFFFFFFFF])
                offset = max(0, min(offset, 0xFFFFFFFF))
                reference = {"region": number, "generation": 1, "offset": offset, "length": length}
                if count:
                    verdict = verdict or int(judge(rows, owners[queue], reference))
                    total += length
                    row = rows.get(number, {"base": 0})
                    good.append((row["base"] + offset, length))
                finish = k == max(count, 1) - 1
                item = dut.items.payload
                ctx.set(dut.items.valid, 1)
                fields(ctx, item.reference, **reference)
                fields(ctx, item, has_reference=count > 0, finish=finish)
                fields(ctx, item.job, queue=queue, verdict=preset if finish else 0, tso=tso)
                fields(ctx, item.job, header_length=header, payload_length=total)
                await cycle()
            too_long = total > 1460 if tso else header + total > 1514
            verdict = preset or verdict or (too_long and int(TxOutcome.BAD_DESCRIPTOR)) or 0
            wanted_jobs.append((queue, verdict))
            if not verdict:
                wanted_pieces.extend(good)
            for _ in range(rng.randint(1, 4)):
                await cycle()
        for _ in range(600):
            await cycle()

    simulate(dut, testbench)
    assert jobs == wanted_jobs
    assert pieces == wanted_pieces
    assert {verdict for _, verdict in jobs} == set(range(7))


def test_pieces_come_out_after_their_commit_and_never_after_a_rollback():
    dut = PieceQueue(Parameters(references_max=4))

    async def testbench(ctx):
        out = []
        ctx.set(dut.pieces.ready, 1)

        async def cycle(push=None, commit=0, rollback=0):
            ctx.set(dut.push.valid, push is not None)
            ctx.set(dut.push.payload.length, push or 0)
            ctx.set(dut.commit, commit)
            ctx.set(dut.rollback, rollback)
            _, _, valid, length = await ctx.tick().sample(
                dut.pieces.valid & dut.pieces.ready, dut.pieces.payload.length
            )
            if valid:
                out.append(length)

        for k in (1, 2, 3):
            await cycle(push=k)
        for _ in range(5):
            await cycle()
        assert out == []
        await cycle(rollback=1)
        await cycle(push=4)
        await cycle(push=5)
        await cycle(commit=1)
        assert not ctx.get(dut.pieces.valid)
        await cycle()
        assert ctx.get(dut.pieces.valid)  # two cycles after the commit
        await cycle(push=6)
        await cycle()
        assert out == [4, 5]
        ctx.set(dut.pieces.ready, 0)
        while ctx.get(dut.room):
            await cycle(push=7)
        await cycle(rollback=1)
        assert ctx.get(dut.room)

    simulate(dut, testbench)


# -- gather, checksum, buffer ----------------------------------------------------------------------


@every_width
def test_sums_are_those_of_scapy_for_any_bytes_seven_cycles_after_the_last_beat(width):
    p, rng = Parameters(bus_bytes=width), Random(width)
    dut = Checksum(p)
    frames = []
    for k in range(40):
        l3 = rng.randrange(0, 40, 2)
        ihl = rng.randint(5, 15)
        l4 = l3 + 4 * ihl
        size = l4 + rng.randint(20, 300)
        data = bytearray(rng.choice([0, 255, rng.getrandbits(8)]) for _ in range(size))
        data[l3] = 0x40 | ihl
        header = bytes(data[l3 : l3 + 10]) + b"\0\0" + bytes(data[l3 + 12 : l4])
        extra = rng.choice([0, 0, 0xFFFF, rng.getrandbits(16)])
        l4_sum = checksum(extra.to_bytes(2, "big") + bytes(data[l4:]))
        frames.append((bytes(data), l3, l4, checksum(header), l4_sum, extra, k % 2))

    async def testbench(ctx):
        got, ends, cycle = [], [], 0

        async def step():
            nonlocal cycle
            _, _, valid, meta = await ctx.tick().sample(dut.meta.valid, dut.meta.payload)
            cycle += 1
            if valid:
                got.append((meta, cycle))

        for data, l3, l4, *_, extra, udp in frames:
            parts = beats_of(data, width)
            for k, part in enumerate(parts):
                ctx.set(dut.beats.valid, 1)
                last = k == len(parts) - 1
                beat = dut.beats.payload
                fields(ctx, beat, data=whole(part), count=len(part), last=last, good=1)
                fields(ctx, beat, l3_offset=l3, l4_offset=l4, ipv4_checksum=1)
                fields(ctx, beat, tcp_checksum=1 - udp, udp_checksum=udp)
                ctx.set(beat.extra, int.from_bytes(extra.to_bytes(2, "big"), "little"))
                await step()
                ctx.set(dut.beats.valid, 0)
                while rng.random() < 0.2:
                    await step()
                if last:
                    ends.append(cycle)
            # A bad frame between leaves no trace.
            ctx.set(dut.beats.valid, rng.random() < 0.3)
            fields(ctx, dut.beats.payload, data=rng.getrandbits(60), last=1, good=0, count=width)
            await step()
            ctx.set(dut.beats.valid, 0)
        for _ in range(10):
            await step()
        assert len(got) == len(frames)
        for (meta, _), (data, l3, l4, l3_sum, l4_sum, _, udp) in zip(got, frames, strict=True):
            assert meta.l3_at == l3 + 10
            assert meta.l4_at == l4 + (6 if udp else 16)
            assert meta.l3_checksum == struct.unpack("<H", struct.pack(">H", l3_sum))[0]
            if udp and l4_sum == 0:
                l4_sum = 0xFFFF
            assert meta.l4_checksum == struct.unpack("<H", struct.pack(">H", l4_sum))[0]
            assert meta.last_beat * width + meta.count == len(data)

    simulate(dut, testbench)


def test_meta_follows_the_last_beat_by_seven_cycles():
    dut = Checksum(Parameters(bus_bytes=64))

    async def testbench(ctx):
        ctx.set(dut.beats.valid, 1)
        fields(ctx, dut.beats.payload, count=60, last=1, good=1)
        await ctx.tick()
        ctx.set(dut.beats.valid, 0)
        cycles = 1
        while not ctx.get(dut.meta.valid):
            await ctx.tick()
            cycles += 1
            assert cycles < 20
        assert cycles == 7

    simulate(dut, testbench)


@every_width
def test_the_buffer_inserts_checksums_and_forgets_bad_frames(width):
    p, rng = Parameters(bus_bytes=width, tx_buffer_bytes=16384), Random(width)
    dut = FrameBuffer(p)

    async def testbench(ctx):
        wanted, got, frame = [], [], b""

        async def step():
            nonlocal frame
            ctx.set(dut.mac.ready, rng.random() < 0.7)
            _, _, valid, beat = await ctx.tick().sample(
                dut.mac.valid & dut.mac.ready, dut.mac.payload
            )
            if valid:
                frame += beat.data.to_bytes(width, "little")[: beat.count]
                if beat.last:
                    got.append(frame)
                    frame = b""

        for _ in range(150):
            while not ctx.get(dut.room):
                await step()
            data = bytearray(rng.getrandbits(8) for _ in range(rng.randint(60, 300)))
            good = rng.random() < 0.7
            parts = beats_of(data, width)
            for k, part in enumerate(parts):
                ctx.set(dut.beats.valid, 1)
                last = k == len(parts) - 1
                fields(ctx, dut.beats.payload, data=whole(part), last=last, good=good)
                await step()
            ctx.set(dut.beats.valid, 0)
            if good:
                l3_at, l4_at = 24, 2 * rng.randrange(13, 29)
                sums = rng.getrandbits(16), rng.getrandbits(16)
                switches = rng.getrandbits(1), rng.getrandbits(1)
                ctx.set(dut.meta.valid, 1)
                fields(
                    ctx, dut.meta.payload, last_beat=len(parts) - 1, count=len(parts[-1]),
                    l3=switches[0], l3_at=l3_at, l3_checksum=sums[0],
                    l4=switches[1], l4_at=l4_at, l4_checksum=sums[1],
                )  # fmt: skip
                await step()
                ctx.set(dut.meta.valid, 0)
                for switch, at, total in zip(switches, (l3_at, l4_at), sums, strict=True):
                    if switch:
                        data[at : at + 2] = total.to_bytes(2, "little")
                wanted.append(bytes(data))
        for _ in range(20000):
            if len(got) == len(wanted):
                break
            await step()
        assert got == wanted

    simulate(dut, testbench)


@every_width
@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.parametrize("stall", [1, 9])
def test_a_frame_that_a_discard_cuts_ends_as_an_error_and_the_next_one_is_whole(
    width, taken, stall
):
    dut = FrameBuffer(Parameters(bus_bytes=width))

    async def testbench(ctx):
        for frame in range(2):
            for k in range(6):
                ctx.set(dut.beats.valid, 1)
                fields(ctx, dut.beats.payload, data=16 * frame + k + 1, last=k == 5, good=1)
                await ctx.tick()
            ctx.set(dut.beats.valid, 0)
            ctx.set(dut.meta.valid, 1)
            fields(ctx, dut.meta.payload, last_beat=5, count=width)
            await ctx.tick()
            ctx.set(dut.meta.valid, 0)
            for _ in range(8):
                await ctx.tick()
            if frame:
                break
            # One beat is on offer, `taken` were taken before.
            for _ in range(taken):
                ctx.set(dut.mac.ready, 1)
                await ctx.tick()
            ctx.set(dut.mac.ready, 0)
            ctx.set(dut.discard, 1)
            for _ in range(stall):
                await ctx.tick()
                assert ctx.get(dut.mac.valid)
                assert ctx.get(dut.mac.payload.data) == taken + 1
            ctx.set(dut.discard, 0)
        ctx.set(dut.mac.ready, 1)
        beats, done = [], 0
        for _ in range(30):
            if ctx.get(dut.mac.valid):
                beat = ctx.get(dut.mac.payload)
                beats.append((beat.data, beat.count, beat.last, beat.error))
            await ctx.tick()
            done += ctx.get(dut.frame_done)
        assert beats == [
            (taken + 1, width, 0, 0),
            (0, 1, 1, 1),
            *((16 + k + 1, width, k == 5, 0) for k in range(6)),
        ]
        assert done == 1

    simulate(dut, testbench)


@every_width
def test_room_is_there_until_the_largest_frame_would_not_fit_and_again_when_frames_leave(width):
    p = Parameters(bus_bytes=width, tx_buffer_bytes=16384)
    dut = FrameBuffer(p)
    size = 16384 // width
    largest = -(-9018 // width)

    async def testbench(ctx):
        async def store():
            """A frame of two beats."""
            for last in (0, 1):
                ctx.set(dut.beats.valid, 1)
                fields(ctx, dut.beats.payload, last=last, good=1, count=width)
                await ctx.tick()
            ctx.set(dut.beats.valid, 0)
            ctx.set(dut.meta.valid, 1)
            fields(ctx, dut.meta.payload, last_beat=1, count=width)
            await ctx.tick()
            ctx.set(dut.meta.valid, 0)

        await ctx.tick()
        frames = 0
        while ctx.get(dut.room):
            await store()
            frames += 1
            for _ in range(3):
                await ctx.tick()
        by_beats = 2 * frames + largest + 12
        assert abs(by_beats - size) <= 4 or 230 <= frames <= 236
        ctx.set(dut.mac.ready, 1)
        for _ in range(2 * frames + 10):
            await ctx.tick()
        assert ctx.get(dut.room)

    simulate(dut, testbench)


# -- scheduler -------------------------------------------------------------------------------------


def test_the_first_read_follows_a_doorbell_by_four_cycles_and_ends_on_a_kib():
    dut = Scheduler(Parameters())

    async def testbench(ctx):
        ctx.set(dut.store.valid, 1)
        fields(ctx, dut.store.payload, queue=2, enable=1, base=0x40000, log2_bytes=14)
        await ctx.tick()
        ctx.set(dut.store.valid, 0)
        await ctx.tick()
        ctx.set(dut.visit.ready, 1)
        ctx.set(dut.request.ready, 1)
        ctx.set(dut.close.ready, 1)
        ctx.set(dut.ready, 0xFFFF)
        ctx.set(dut.doorbell.valid, 1)
        fields(ctx, dut.doorbell.payload, queue=2, index=150)
        reads, cycles = [], 0
        while len(reads) < 4:
            if ctx.get(dut.request.valid):
                request = ctx.get(dut.request.payload)
                reads.append((cycles, request.address, request.length))
                assert request.wrap_log2 == 14
            await ctx.tick()
            ctx.set(dut.doorbell.valid, 0)
            cycles += 1
            assert cycles < 40
        assert reads == [
            (4, 0x40000, 1024),
            (6, 0x40400, 1024),
            # The rest of the last beat may come with the next doorbell: what is whole goes first.
            (8, 0x40800, (148 - 128) * 16),
            (10, 0x40940, (150 - 148) * 16),
        ]
        assert ctx.get(dut.close.valid)
        assert ctx.get(dut.close.payload.issued) == ctx.get(dut.close.payload.available) == 150

    simulate(dut, testbench)


def test_a_visit_is_read_as_far_as_was_claimed_even_in_the_cycle_in_which_it_would_be_closed():
    dut = Scheduler(Parameters())

    async def testbench(ctx):
        ctx.set(dut.store.valid, 1)
        fields(ctx, dut.store.payload, queue=0, enable=1, base=0, log2_bytes=14)
        await ctx.tick()
        ctx.set(dut.store.valid, 0)
        for port in (dut.visit, dut.request, dut.close):
            ctx.set(port.ready, 1)
        ctx.set(dut.ready, 0xFFFF)
        ctx.set(dut.doorbell.valid, 1)
        fields(ctx, dut.doorbell.payload, queue=0, index=1000)
        await ctx.tick()
        ctx.set(dut.doorbell.valid, 0)
        while not ctx.get(dut.request.valid):
            await ctx.tick()
        await ctx.tick()
        # 64 cells were read. Now the pause and the claim of 130 come together.
        ctx.set(dut.hold, 1)
        assert ctx.get(dut.close.valid)
        ctx.set(dut.claim.valid, 1)
        ctx.set(dut.claim.payload, 130)
        assert not ctx.get(dut.close.valid)
        await ctx.tick()
        ctx.set(dut.claim.valid, 0)
        for _ in range(10):
            if ctx.get(dut.close.valid):
                break
            await ctx.tick()
        assert ctx.get(dut.close.payload.issued) == 192
        await ctx.tick()
        assert ctx.get(dut.quiet)

    simulate(dut, testbench)


def test_a_queue_short_of_credit_is_visited_where_none_with_credit_waits():
    dut = Scheduler(Parameters())

    async def testbench(ctx):
        for queue in range(3):
            ctx.set(dut.store.valid, 1)
            fields(ctx, dut.store.payload, queue=queue, enable=1, base=queue << 20, log2_bytes=14)
            await ctx.tick()
        ctx.set(dut.store.valid, 0)
        for port in (dut.visit, dut.request, dut.close):
            ctx.set(port.ready, 1)
        for queue in range(3):
            ctx.set(dut.doorbell.valid, 1)
            fields(ctx, dut.doorbell.payload, queue=queue, index=1000)
            await ctx.tick()
        ctx.set(dut.doorbell.valid, 0)
        await ctx.tick().repeat(2)
        # Queue 2 has credit, 1 is short of it, 0 is beyond the slack.
        ctx.set(dut.ready, 0b100)
        ctx.set(dut.nearly, 0b110)
        visits, closes = [], []
        for _ in range(200):
            if ctx.get(dut.visit.valid):
                visits.append(ctx.get(dut.visit.payload.queue))
            if ctx.get(dut.close.valid):
                closes.append(ctx.get(dut.close.payload.issued))
            await ctx.tick()
        # Queue 1 ends the visit of 2 after its quota, what is left of 2 that of 1.
        assert visits == [2, 1]
        assert closes == 2 * [quota_cells(dut.parameters)]

    simulate(dut, testbench)


def test_a_visit_goes_on_to_a_new_producer_index_until_another_queue_has_work():
    dut = Scheduler(Parameters())

    async def testbench(ctx):
        for queue in range(2):
            ctx.set(dut.store.valid, 1)
            fields(ctx, dut.store.payload, queue=queue, enable=1, base=queue << 20, log2_bytes=14)
            await ctx.tick()
        ctx.set(dut.store.valid, 0)
        for port in (dut.visit, dut.request, dut.close):
            ctx.set(port.ready, 1)
        ctx.set(dut.ready, 0xFFFF)
        reads, visits, closes = [], 0, []

        async def ring(queue, index):
            nonlocal visits
            ctx.set(dut.doorbell.valid, 1)
            fields(ctx, dut.doorbell.payload, queue=queue, index=index)
            for _ in range(14):
                if ctx.get(dut.request.valid):
                    request = ctx.get(dut.request.payload)
                    reads.append((request.address, request.length))
                visits += ctx.get(dut.visit.valid)
                if ctx.get(dut.close.valid):
                    closes.append(ctx.get(dut.close.payload.issued))
                await ctx.tick()
                ctx.set(dut.doorbell.valid, 0)

        await ring(0, 8)
        await ring(0, 20)
        assert (reads, visits, closes) == ([(0, 128), (128, 192)], 1, [])
        assert ctx.get(dut.available) == 20
        await ring(1, 4)
        assert (reads[2:], visits, closes) == ([(1 << 20, 64)], 2, [20])
        # Queue 1 ends within a beat, and its visit with it.
        await ring(1, 9)
        assert (reads[3:], visits, closes) == (
            [((1 << 20) + 64, 64), ((1 << 20) + 128, 16)],
            2,
            [20, 9],
        )

    simulate(dut, testbench)
