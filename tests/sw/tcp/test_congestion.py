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
