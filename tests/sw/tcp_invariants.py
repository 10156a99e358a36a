"""What holds of the TCP core's tables after every event; `check(host)` raises where it does not."""

import numpy as np

from hdstack.tcp import states
from hdstack.tcp.sizes import BLOCK

ORDER = (
    ("snd_una", "snd_nxt"),
    ("snd_nxt", "snd_max"),
)
"""Fields of a connection of which the first is never above the second."""
ADVANCING = ("snd_una", "snd_max", "snd_end", "rcv_nxt", "rcv_adv")
"""Fields that never go back while a row belongs to one connection."""
DEADLINES = ("retransmit_at", "ack_at", "state_at", "keep_at")
HEADS = {"send": "send_head", "piece": "piece_head", "range": "ranges_head"}
SENDS = (states.ESTABLISHED, states.CLOSE_WAIT, states.FIN_WAIT_1, states.CLOSING, states.LAST_ACK)


def walk(start, links, lowest, count):
    """The rows of a list, each once and all of the queue that owns it."""
    found, at = [], int(start)
    while at >= 0:
        assert lowest <= at < lowest + count, f"row {at} is of another queue"
        found.append(at)
        assert len(found) <= count, "a list runs in a circle"
        at = links[at - lowest]
    return found


def lists_of(s, tables, queue):
    """Free lists and the lists of the connections: together every row, none twice."""
    q = s["queues"][queue]
    first = queue * tables.CONNECTIONS_PER_QUEUE
    rows = s["connections"][first : first + tables.CONNECTIONS_PER_QUEUE]
    live = np.flatnonzero(rows["state"])
    assert len(live) == q["connections"]
    free = walk(q["free_connection"], rows["hash_next"].tolist(), first, len(rows))
    assert sorted(free + [int(k) + first for k in live]) == list(range(first, first + len(rows)))
    for name, field, each in (
        ("send", "next", tables.SENDS_PER_QUEUE),
        ("piece", "next", tables.PIECES_PER_QUEUE),
        ("range", "next", tables.RANGES_PER_QUEUE),
    ):
        lowest = queue * each
        links = s[f"{name}s"][field][lowest : lowest + each].tolist()
        used = walk(q[f"free_{name}"], links, lowest, each)
        for k in live:
            own = walk(rows[k][HEADS[name]], links, lowest, each)
            assert len(own) == rows[k][f"{name}s"], f"{name}s of row {k}"
            if name == "send":
                sends_in_order(s, rows[k], own)
            elif name == "piece":
                pieces_in_order(s, rows[k], own)
            else:
                ranges_in_order(s, rows[k], own)
            used += own
        assert len(used) == len(set(used)) == each, f"a {name} is lost or in two lists"
    for name in ("promised", "starved", "waiting"):
        assert q[name] == rows[name][live].sum(), name
    return [(int(k) + first, rows[k]) for k in live]


def sends_in_order(s, c, own):
    """Sends lie end to end, up to the end of the stream."""
    if not own:
        return
    assert own[-1] == c["send_tail"]
    at = int(s["sends"][own[0]]["seq"])
    for index in own:
        row = s["sends"][index]
        assert row["seq"] == at and row["length"] > 0
        at += int(row["length"])
    assert at == c["snd_end"]


def pieces_in_order(s, c, own):
    """Pieces lie in the window, in order, without overlap."""
    at = int(c["rcv_nxt"])
    for index in own:
        row = s["pieces"][index]
        assert row["seq"] >= at and row["length"] > 0, "pieces overlap"
        at = int(row["seq"] + row["length"])
    assert not own or at <= c["rcv_adv"]


def ranges_in_order(s, c, own):
    """What the peer reported lies above snd_una, in order, with holes between, and is summed up."""
    at, total = int(c["snd_una"]), 0
    for index in own:
        row = s["ranges"][index]
        assert at < row["start"] < row["end"] <= c["snd_max"] or row["start"] == at == c["snd_una"]
        total += int(row["end"] - row["start"])
        at = int(row["end"])
    assert total == c["sacked_bytes"]


def numbers(s, index, c):
    """Sequence numbers in order; a timer runs for whatever is not acknowledged."""
    state = c["state"]
    if state == states.DEAD:
        return
    for low, high in ORDER:
        assert c[low] <= c[high], f"{low} {c[low]} > {high} {c[high]}"
    assert c["snd_max"] <= c["snd_end"] + 1
    if state >= states.ESTABLISHED and not c["fin_told"]:
        assert c["rcv_nxt"] <= c["rcv_adv"]
    deadline = min(int(c[name]) for name in DEADLINES)
    assert s["deadlines"][index] <= deadline, "a deadline is forgotten"
    assert s["blocks"][index // BLOCK] <= deadline
    assert s["control"]["next_deadline"] <= deadline
    if state in SENDS and c["snd_max"] > c["snd_una"]:
        assert s["deadlines"][index] < 1 << 62 or c["pending"], "nothing would send this again"
    if state == states.TIME_WAIT:
        assert c["state_at"] < 1 << 62


def hashed(s, tables, live):
    """Each connection is in the chain of its bucket, once; nothing else is in any chain."""
    expected = {index for index, c in live if c["state"] != states.DEAD}
    found, links = [], s["connections"]["hash_next"]
    for bucket in np.flatnonzero(s["buckets"] >= 0):
        at, steps = int(s["buckets"][bucket]), 0
        while at >= 0:
            assert s["connections"][at]["bucket"] == bucket
            found.append(at)
            at, steps = int(links[at]), steps + 1
            assert steps <= tables.CONNECTIONS, "a chain runs in a circle"
    assert sorted(found) == sorted(expected)


class Invariants:
    """Holds one host's tables against what must be so, and against how they were before."""

    def __init__(self, host):
        self.host, self.before = host, {}

    def check(self):
        s, tables = self.host.s, self.host.tables
        live = []
        for queue in self.host.apps:
            live += lists_of(s, tables, queue)
            self.host.check_lists(queue, self.host.rows_of(queue))
        hashed(s, tables, live)
        half_open = 0
        now = {}
        for index, c in live:
            numbers(s, index, c)
            half_open += c["state"] == states.SYN_RECEIVED and c["listener"] >= 0
            key = index, int(c["reuse"])
            now[key] = [int(c[name]) for name in ADVANCING]
            if key in self.before and c["state"] > states.SYN_RECEIVED:
                for name, old, new in zip(ADVANCING, self.before[key], now[key], strict=True):
                    if name == "rcv_adv" and c["fin_told"]:
                        continue  # after the peer's FIN nothing is promised any more
                    assert new >= old, f"{name} goes back from {old} to {new}"
            if c["state"] < states.ESTABLISHED:
                del now[key]
        assert half_open == sum(int(s["queues"][queue]["half_open"]) for queue in self.host.apps)
        self.before = now
