"""Windows by NewReno (RFC 5681) and CUBIC (RFC 9438), held against their formulas."""

import importlib

import pytest
from tcp_host import MS, Host, S, Script, load

from hdstack import compile as compiling
from hdstack.errors import ConfigurationError

M = 1460


@pytest.fixture(scope="module")
def modules():
    with compiling.interpreted():
        names = ("tables", "congestion", "cubic")
        return {name: importlib.import_module(f"hdstack.tcp.{name}") for name in names}


@pytest.fixture
def row(modules):
    """A connection of an algorithm of choice, in congestion avoidance at `cwnd`."""

    def make(algorithm, cwnd, ssthresh=2 * M, srtt=100 * MS):
        c = modules["tables"].allocate()["connections"][0]
        c["mss"], c["algorithm"] = M, getattr(modules["tables"], algorithm)
        modules["congestion"].begin(c, False)
        c["snd_una"], c["recover"] = 1, 0
        c["cwnd"], c["ssthresh"], c["srtt"] = cwnd, ssthresh, srtt
        return c

    return make


def one_round(modules, c, now, srtt=100 * MS):
    """ACKs of a whole window, two segments each, spread over a round trip."""
    cwnd = int(c["cwnd"])
    acks = min(max(cwnd // (2 * M), 1), 100)
    for k in range(acks):
        modules["congestion"].on_ack(c, cwnd // acks, int(c["cwnd"]), now + srtt * k // acks)
    return now + srtt


def test_newreno_grows_by_a_segment_each_round_trip(modules, row):
    c, now = row("NEWRENO", 50 * M), 1
    for k in range(20):
        assert abs(c["cwnd"] - (50 + k) * M) <= M
        now = one_round(modules, c, now)


@pytest.mark.parametrize("algorithm", ["NEWRENO", "CUBIC"])
def test_slow_start_doubles_each_round_trip(modules, row, algorithm):
    c, now = row(algorithm, 10 * M, ssthresh=1 << 30), 1
    for k in range(5):
        assert c["cwnd"] == pytest.approx(10 * M << k, rel=0.02)
        now = one_round(modules, c, now)


@pytest.mark.parametrize("algorithm", ["NEWRENO", "CUBIC"])
def test_a_window_that_is_not_used_does_not_grow(modules, row, algorithm):
    for ssthresh in (2 * M, 1 << 30):
        c = row(algorithm, 50 * M, ssthresh)
        for k in range(100):
            modules["congestion"].on_ack(c, M, 5 * M, 1 + k * MS)
        assert c["cwnd"] == 50 * M


@pytest.mark.parametrize("algorithm, factor", [("NEWRENO", 0.5), ("CUBIC", 0.7)])
def test_a_loss_reduces_the_window_by_the_algorithms_factor(modules, row, algorithm, factor):
    c = row(algorithm, 100 * M)
    modules["congestion"].on_loss(c, 100 * M)
    assert c["cwnd"] == c["ssthresh"] == int(100 * M * factor)
    c = row(algorithm, 100 * M)
    modules["congestion"].on_timeout(c, 100 * M, True)
    assert c["cwnd"] == M and c["ssthresh"] == int(100 * M * factor)
    modules["congestion"].on_loss(c, M)
    assert c["ssthresh"] == 2 * M, "never below two segments"


@pytest.mark.parametrize("segments", [500, 1000, 20_000])
def test_cubic_follows_its_curve(modules, row, segments):
    """W_cubic(t) = C (t - K)^3 + W_max in floating point; section 4.2."""
    c, start = row("CUBIC", segments * M), 5 * S
    modules["congestion"].on_loss(c, segments * M)
    k = (segments * 0.3 / 0.4) ** (1 / 3)
    now, worst = start, 0.0
    while now < start + int(1.5 * k * S):
        now = one_round(modules, c, now)
        at = (now - start) / S
        worst = max(worst, abs(int(c["cwnd"]) / M / (0.4 * (at - k) ** 3 + segments) - 1))
    assert worst < 0.02
    assert c["cubic_k"] == pytest.approx(k * 1000, abs=2)


def test_cubic_is_no_slower_than_newreno_on_short_paths(modules, row):
    """Section 4.3: with alpha 9/17 until the loss is made good, then one segment a round trip."""
    c, now, srtt = row("CUBIC", 20 * M, srtt=MS), 5 * S, MS
    modules["congestion"].on_loss(c, 20 * M)
    estimate = 14.0
    for _ in range(60):
        now = one_round(modules, c, now, srtt)
        estimate += 9 / 17 if estimate < 20 else 1
        assert c["cwnd"] / M == pytest.approx(estimate, rel=0.08)


def test_cubic_gives_way_by_fast_convergence(modules, row):
    """Section 4.7: a loss below the last maximum remembers less."""
    c = row("CUBIC", 100 * M)
    modules["congestion"].on_loss(c, 100 * M)
    assert c["w_max"] == 100 * M
    modules["congestion"].on_loss(c, 70 * M)
    assert c["w_max"] == 70 * M * 17 // 20


def test_cubic_never_grows_by_more_than_half_in_a_round_trip(modules, row):
    c, now = row("CUBIC", 100 * M), 5 * S
    modules["congestion"].on_loss(c, 100 * M)
    one_round(modules, c, now)
    now += 100 * S  # far beyond the plateau
    before = int(c["cwnd"])
    one_round(modules, c, now)
    assert before < c["cwnd"] <= before * 1.7


def test_cube_roots_are_exact(modules):
    root = modules["cubic"].cube_root
    for n in (0, 1, 2, 99, 1000, 123_456, 1_699_999):
        assert root(n**3) == n and (n == 0 or root(n**3 - 1) == n - 1)


def test_the_window_and_its_products_stay_within_63_bits(modules, row):
    c, now = row("CUBIC", 1 << 29), 5 * S
    c["mss"] = 8960
    modules["congestion"].on_loss(c, 1 << 29)
    for _ in range(300):
        now += 3600 * S
        modules["congestion"].on_ack(c, 1 << 29, 1 << 30, now)
        assert 0 < c["cwnd"] <= 1 << 30


def test_the_algorithm_is_the_stacks_configuration(modules):
    tables = load(False).tcp_tables
    for algorithm in (tables.NEWRENO, tables.CUBIC):
        host = Host(load(False), congestion=algorithm)
        host.listen(80)
        script = Script(host)
        script.open()
        assert script.row["algorithm"] == algorithm
    with pytest.raises(ConfigurationError, match="CUBIC"):
        Host(load(False), congestion=7)


def test_cubic_reduces_once_for_the_losses_of_a_flight():
    host = Host(load(False))
    host.listen(80)
    script = Script(host)
    script.open(sack_ok=True)
    host.send(script.connection, b"x" * 50 * M)
    script.take()
    script.give(0, seq=1, ack=1, sacks=[(1 + M, 1 + 2 * M), (1 + 4 * M, 1 + 7 * M)])
    assert script.row["cwnd"] == 7 * M
    script.give(0, seq=1, ack=1, sacks=[(1 + 8 * M, 1 + 9 * M)])
    assert script.row["cwnd"] == 7 * M


@pytest.mark.parametrize("algorithm", ["NEWRENO", "CUBIC"])
def test_a_reduction_that_was_for_nothing_is_given_back_without_a_burst(modules, row, algorithm):
    """RFC 4015 section 3.2, RFC 9438 section 4.9."""
    congestion, c = modules["congestion"], row(algorithm, 40 * M, ssthresh=30 * M)
    now = one_round(modules, c, 1)
    c["snd_una"], c["snd_max"] = 1, 1 + 40 * M
    kept = {name: int(c[name]) for name in ("w_max", "epoch", "cubic_k", "cwnd_prior")}
    cwnd = int(c["cwnd"])
    congestion.save(c, 40 * M)
    congestion.on_timeout(c, 40 * M, True)
    assert c["cwnd"] == M and c["ssthresh"] < 30 * M
    congestion.undo(c, 38 * M, 2 * M)
    assert c["cwnd"] == min(40 * M, cwnd)  # what is in flight, and what the ACK made room for
    assert c["ssthresh"] == 40 * M  # the flight of then was more than the threshold
    assert {name: int(c[name]) for name in kept} == kept
    congestion.save(c, 2 * M)
    congestion.on_loss(c, 2 * M)
    congestion.undo(c, 2 * M, 50 * M)
    assert c["cwnd"] == 2 * M + congestion.initial_window(M), "no burst beyond an initial window"
    one_round(modules, c, now)


class Path:
    """Slow start over a path whose round trip the test decides."""

    def __init__(self, modules, row):
        self.congestion, self.c = modules["congestion"], row("CUBIC", 10 * M, ssthresh=1 << 30)
        self.c["snd_una"], self.c["snd_max"] = 1, 1 + 10 * M
        self.now = 1

    def round(self, *rtts):
        """A window sent and acknowledged segment by segment; by how much the window grew."""
        c, before = self.c, int(self.c["cwnd"])
        segments = before // M
        c["snd_max"] = c["snd_una"] + segments * M
        for k in range(segments):
            c["snd_una"] += M
            self.congestion.on_round_trip(c, rtts[k % len(rtts)] * MS)
            self.congestion.on_ack(c, M, before, self.now)
            self.now += MS
        return int(c["cwnd"]) / before


def test_hystart_slows_down_when_round_trips_grow_and_ends_after_five_rounds(modules, row):
    """RFC 9406 section 4.2."""
    path = Path(modules, row)
    assert path.round(40) == 2 and path.round(40, 44) == 2
    assert 1.25 < path.round(46) < 2 and path.c["css"] == 1  # 40 ms and an eighth of it
    grown = [path.round(46) for _ in range(4)]
    assert grown == [pytest.approx(1.25, rel=0.01)] * 4
    assert path.c["ssthresh"] == 1 << 30
    path.round(46)
    assert path.c["ssthresh"] < 1 << 30
    cwnd = int(path.c["cwnd"])
    assert path.c["ssthresh"] <= cwnd
    path.round(46)
    assert path.c["cwnd"] < cwnd * 1.25  # congestion avoidance


def test_hystart_goes_on_when_round_trips_shrink_again(modules, row):
    path = Path(modules, row)
    path.round(40), path.round(40), path.round(60)
    assert path.c["css"] == 1
    path.round(41)
    assert path.c["css"] == 0 and path.round(41) == 2
    assert path.c["ssthresh"] == 1 << 30


@pytest.mark.parametrize("first, second", [(1, 4), (200, 215), (40, 44)])
def test_hystart_lets_small_changes_pass(modules, row, first, second):
    """Between 4 and 16 ms, an eighth of the round trip."""
    path = Path(modules, row)
    path.round(first), path.round(first)
    assert path.round(second) == 2 and path.c["css"] == 0


def test_hystart_is_for_the_first_slow_start_only(modules, row):
    path = Path(modules, row)
    path.c["ssthresh"] = 1000 * M
    path.round(40), path.round(40)
    assert path.round(80) == 2 and path.c["css"] == 0


def test_a_whole_connection_leaves_slow_start_by_hystart():
    """Over the core, by time stamps: each round trip of a growing window is longer."""
    host = Host(load(False))
    host.listen(80)
    script = Script(host)
    script.open(window=65535, shift=8, sack_ok=True, ts=True)
    host.app.reads = False
    rtt = 40
    segments = []
    for _ in range(9):
        host.send(script.connection, bytes(200_000), host.app.buffers * 2048)
        segments += script.take()
        flight, segments = [s for s in segments if s.payload], []
        segments += script.after(rtt * MS)
        for segment in flight:
            ack = segment.seq + len(segment.payload)
            segments += script.give(0, seq=1, ack=ack, ts=(script.clock(), segment.ts[0]))
        rtt += 8
        if script.row["ssthresh"] < 1 << 30:
            break
    assert 10 * M < script.row["ssthresh"] < 1 << 30
    assert host.count("timeouts") == 0 and host.count("retransmits") == 0
