"""Two stacks over a hostile link, and one stack under fuzzed segments: nothing ever breaks.

`HDSNIC_EXAMPLES` sets the number of examples of each test (`make test-long`: thousands).
"""

import os
import random
import struct
from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tcp_host import ELEMENT, MS, QUEUE, Host, S, Script, Segment, build, dissect, load
from tcp_invariants import Invariants
from tcp_link import Link, World

from hdstack.tcp.events import NO_LINGER, CloseFlag, EventKind, RequestKind

EXAMPLES = int(os.environ.get("HDSNIC_EXAMPLES", "12"))
hostile = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
HARMS = 60 * S
"""A minute, after which a try is due before a stack gives up at 100 s."""
MOST_LOST = 4
TCP_PROTOCOL = 6
MOST_ANSWERS = 64
"""Segments that one frame or request can cause at most: the window, and a few."""


class HostileWorld(World):
    """A link that also corrupts and stalls; both hosts' tables are held against their rules.

    It loses no more than MOST_LOST segments of a direction of a connection on end, and does no harm
    after HARMS: of thousands of connections one would meet nine losses, or six of a handshake, and
    rightly give up (RFC 1122, R2).
    """

    def __init__(self, modules, link, seed, corrupt=0.0, stall=0, **options):
        super().__init__(modules, link, seed, **options)
        self.corrupt, self.stall, self.refused = corrupt, stall, 0
        self.invariants = [Invariants(host) for host in self.hosts]
        self.heals_at = self.now + HARMS
        self.lost = Counter()

    def on_wire(self, target, frame):
        before, key = self.order, (id(target), bytes(frame[34:38]))
        self.harm(target, frame)
        if frame[23] != TCP_PROTOCOL or self.order > before:
            self.lost[key] = 0
        elif self.lost[key] == MOST_LOST:
            self.lost[key] = 0
            self.deliver(target, frame)
        else:
            self.lost[key] += 1

    def harm(self, target, frame):
        if self.now >= self.heals_at:
            self.link, self.corrupt = replace(self.link, loss=0.0), 0.0
        if self.chance.random() < self.corrupt:
            frame = self.spoil(frame)
            if frame is None:
                return
        if self.stall and self.chance.random() < 0.02:
            self.link.delay, before = self.stall, self.link.delay
            super().on_wire(target, frame)
            self.link.delay = before
            return
        super().on_wire(target, frame)

    def spoil(self, frame):
        """Flip bits behind the Ethernet header; None where the card finds the checksum wrong, and
        where flips make up for each other in the sum: what neither end can find is not promised."""
        spoilt = bytearray(frame)
        for _ in range(self.chance.randrange(1, 4)):
            spoilt[self.chance.randrange(14, len(frame))] ^= 1 << self.chance.randrange(8)
        try:
            unnoticed = dissect(bytes(spoilt)) is not None
        except AssertionError:
            unnoticed = True
            self.refused += 1
        return None if unnoticed else bytes(spoilt)

    def note(self):
        for invariants in self.invariants:
            invariants.check()


@hostile
@example(  # two flips that the checksum does not see
    seed=116271229, loss=0.02, duplicate=0, corrupt=0.05, jitter=1, stall=S, wait=0, buffers=64,
    connections=1, urgent=0,
)  # fmt: skip
@example(  # so many losses on end that a stack would rightly give up, if the link let them be
    seed=48752, loss=0.2, duplicate=0, corrupt=0.05, jitter=5 * MS, stall=S, wait=0, buffers=16,
    connections=4, urgent=0,
)  # fmt: skip
@example(  # a wrong answer to a question for the neighbour
    seed=77546, loss=0.2, duplicate=0, corrupt=0.05, jitter=300 * MS, stall=S, wait=0, buffers=16,
    connections=1, urgent=0,
)  # fmt: skip
@example(  # as many of a handshake
    seed=207980998, loss=0.2, duplicate=0, corrupt=0.05, jitter=5 * MS, stall=S, wait=0, buffers=4,
    connections=4, urgent=0,
)  # fmt: skip
@example(  # probes of a closed window to a wrong MAC address
    seed=757419435, loss=0.2, duplicate=0.1, corrupt=0.05, jitter=5 * MS, stall=S, wait=20 * MS,
    buffers=4, connections=4, urgent=0,
)  # fmt: skip
@example(  # FINs that crossed into closed windows
    seed=479001599, loss=0, duplicate=0.1, corrupt=0.05, jitter=300 * MS, stall=0, wait=20 * MS,
    buffers=4, connections=4, urgent=0,
)  # fmt: skip
@example(  # a FIN repeated to who took a wrong MAC address and waits in TIME-WAIT
    seed=872, loss=0.2, duplicate=0.1, corrupt=0.05, jitter=1, stall=S, wait=0, buffers=16,
    connections=2, urgent=0,
)  # fmt: skip
@example(  # the same, with data
    seed=872, loss=0.1, duplicate=0, corrupt=0.05, jitter=1, stall=S, wait=0, buffers=16,
    connections=2, urgent=0,
)  # fmt: skip
@example(  # six FINs lost on end, the last one answered after TIME-WAIT
    seed=206179829, loss=0.2, duplicate=0, corrupt=0.05, jitter=1, stall=S, wait=20 * MS,
    buffers=16, connections=4, urgent=0,
)  # fmt: skip
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0, 0.02, 0.1, 0.2]),
    duplicate=st.sampled_from([0, 0.1, 0.5]),
    corrupt=st.sampled_from([0, 0.05]),
    jitter=st.sampled_from([0, 1, 5 * MS, 300 * MS]),
    stall=st.sampled_from([0, S]),
    wait=st.sampled_from([0, 20 * MS]),
    buffers=st.sampled_from([4, 16, 64]),
    connections=st.sampled_from([1, 2, 4]),
    urgent=st.sampled_from([0, 0, 3]),
)
def test_over_a_hostile_link_streams_arrive_whole_and_tables_add_up_after_each_event(
    seed, loss, duplicate, corrupt, jitter, stall, wait, buffers, connections, urgent
):
    link = Link(loss=loss, duplicate=duplicate, jitter=jitter, wait=wait)
    world = HostileWorld(
        load(False), link, seed, corrupt, stall, connections=connections, size=8000,
        buffers=buffers, urgent=urgent,
    )  # fmt: skip
    world.run(traced=True).check()


# fuzzed segments

NEAR = st.sampled_from(
    [0, 1, -1, 2, 100, 1459, 1460, 1461, 5840, 65535, -65536, 1 << 30, 1 << 31, -(1 << 31), 77777]
)
STAMP = st.builds(
    lambda value, echo: struct.pack(">BBBBII", 1, 1, 8, 10, value, echo),
    st.sampled_from([0, 5000, 1_006_000, 1 << 31, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 0xFFFFFFFF]),
)
OPTIONS = st.one_of(st.just(b""), STAMP, st.binary(max_size=40))
SACKED = st.lists(st.tuples(NEAR, NEAR), max_size=3)
"""SACK blocks, relative to what was sent."""
SEGMENT = st.tuples(
    st.just("segment"),
    st.one_of(st.sampled_from([16, 17, 24, 25]), st.integers(0, 255)),  # flags
    NEAR,  # seq, relative to what we expect
    NEAR,  # ack, relative to what we sent
    st.sampled_from([0, 0, 0, 1, 100, 1460]),  # payload
    st.sampled_from([0, 1, 1000, 65535]),  # window
    OPTIONS,
    SACKED,
    st.booleans(),  # of the connection, or of a stranger
)
CALL = st.tuples(
    st.just("call"),
    st.sampled_from(["send", "urgent", "close", "leave", "abort", "read", "connect", "option"]),
)
PAUSE = st.tuples(st.just("pause"), st.sampled_from([MS, 50 * MS, S, 61 * S]))
STEPS = st.lists(st.one_of(SEGMENT, SEGMENT, SEGMENT, CALL, PAUSE), max_size=40)
BEGINNINGS = ("listening", "established", "options", "closing", "holes")


class Fuzzed:
    """One stack with a connection in some state, and steps that make no sense."""

    def __init__(self, modules, beginning):
        self.host = Host(modules)
        self.host.app.reads = False
        self.invariants = Invariants(self.host)
        self.host.listen(80)
        self.script = Script(self.host)
        self.sent = 0
        if beginning == "listening":
            return
        with_options = beginning in ("options", "holes")
        self.script.open(window=3000, sack_ok=with_options, ts=beginning == "options")
        if beginning == "closing":
            self.send()
            self.host.shutdown(self.script.connection)
        elif beginning == "holes":
            for at in range(10):
                self.script.give(0, seq=101 + 200 * at, ack=1, payload=b"h" * 100)
        self.host.transmit()

    def row(self):
        for row in self.host.s["connections"]:
            if row["state"] and row["remote_port"] == self.script.sport:
                return row
        return None

    def frame(self, flags, seq, ack, length, window, options, sacked, own):
        row = self.row() if own else None
        una = int(row["snd_una"]) if row is not None else 0
        if sacked:
            edges = [(una + edge) & 0xFFFFFFFF for block in sacked for edge in block]
            block = struct.pack(f">BBBB{len(edges)}I", 1, 1, 5, 2 + 4 * len(edges), *edges)
            options = (options + block)[:40]
        options += b"\0" * (-len(options) % 4)
        segment = Segment(
            self.script.address, self.host.address, self.script.sport if own else 4444, 80,
            (int(row["rcv_nxt"]) if row is not None else 1000) + seq,
            una + ack, flags, window,
            options + b"f" * length,
        )  # fmt: skip
        frame = bytearray(build(segment, self.host.mac, Script.MAC))
        # the option bytes become part of the header, the window is the urgent pointer as well, and
        # the sum is made right again
        frame[46] = (5 + len(options) // 4) << 4
        frame[52:54] = window.to_bytes(2, "big")
        total = int.from_bytes(frame[50:52], "big") + (5 << 12) - (frame[46] << 8) - window
        total = (total & 0xFFFF) + (total >> 16)
        frame[50:52] = (total & 0xFFFF).to_bytes(2, "big")
        return bytes(frame)

    def send(self, urgent=False):
        offset = self.host.app.buffers * ELEMENT + self.sent
        self.host.send(self.script.connection, b"s" * 2000, offset, urgent=urgent)
        self.sent += 2000

    def call(self, name):
        app, connection = self.host.app, self.script.connection
        if name == "connect":
            self.host.connect(Script(self.host).address, 5000)
        elif connection is None or connection in app.closed:
            return
        elif name in ("send", "urgent"):
            self.send(name == "urgent")
        elif name == "close":
            self.host.shutdown(connection)
        elif name == "leave":
            self.host.request(
                RequestKind.CLOSE, connection=connection, length=NO_LINGER,
                offset=CloseFlag.UNREAD if app.held else 0,
            )  # fmt: skip
        elif name == "option":
            fields = {"port": self.sent % 13, "length": self.sent % 300}
            self.host.request(RequestKind.OPTION, connection=connection, **fields)
        elif name == "abort":
            self.host.abort(connection)
        else:
            for element, (owner, length) in list(app.held.items()):
                self.host.release(owner, element, length)

    def step(self, step):
        kind, *rest = step
        if kind == "segment":
            self.host.receive(self.frame(*rest))
            self.host.step()
        elif kind == "call":
            self.call(*rest)
        else:
            end = self.host.now + rest[0]
            for _ in range(1000):
                following = self.host.timers()
                self.host.transmit()
                if following > end:
                    break
                self.host.now = max(following, self.host.now)
            else:
                raise AssertionError("timers do not come to rest")
            self.host.now = end
        sent = self.host.transmit()
        self.host.step()
        assert len(sent) <= MOST_ANSWERS
        if self.script.connection is None and EventKind.ACCEPTED in self.host.kinds():
            self.script.connection = self.host.last(EventKind.ACCEPTED)["connection"]

    def finish(self):
        """Left alone, every timer ends; then the application goes, and nothing is left."""
        self.step(("pause", 1000 * S))
        self.invariants.check()
        rows = self.host.s["connections"]["state"]
        states = self.host.m.tcp_states
        assert not ((rows == states.SYN_SENT) | (rows == states.SYN_RECEIVED)).any()
        self.host.check_whole()
        self.host.core.drop_owner(self.host.s, QUEUE, self.host.now)
        self.host.transmit()
        self.host.step()
        assert self.host.s["queues"][QUEUE]["connections"] == 0


@settings(hostile, max_examples=4 * EXAMPLES)
@given(beginning=st.sampled_from(BEGINNINGS), steps=STEPS)
def test_fuzzed_segments_break_no_table_and_leave_nothing_behind(beginning, steps):
    fuzzed = Fuzzed(load(False), beginning)
    for step in steps:
        fuzzed.step(step)
        fuzzed.invariants.check()
    fuzzed.finish()


@hostile
@given(beginning=st.sampled_from(BEGINNINGS), steps=STEPS)
def test_fuzzed_segments_do_the_same_compiled_and_interpreted(beginning, steps):
    pair = [Fuzzed(load(compiled), beginning) for compiled in (False, True)]
    for step in steps:
        for fuzzed in pair:
            fuzzed.step(step)
    plain, fast = pair
    assert plain.host.s.tobytes() == fast.host.s.tobytes()
    assert plain.host.app.events == fast.host.app.events


@settings(hostile, max_examples=4 * EXAMPLES)
@given(seed=st.integers(0, 1 << 30))
def test_spoilt_frames_raise_nothing_and_leave_the_connection_usable(seed):
    """Bytes of headers changed at will, checksums and all: the record as the stack gets it."""
    chance = random.Random(seed)
    fuzzed = Fuzzed(load(False), "established")
    host = fuzzed.host
    for _ in range(50):
        frame = bytearray(fuzzed.frame(16, 0, 0, 0, 3000, chance.randbytes(12), [], True))
        for _ in range(chance.randrange(1, 6)):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
        length = chance.randrange(1, len(frame) + 1)
        host.memory[:length] = memoryview(bytes(frame[:length]))
        host.m.net_input.on_frame(
            host.s, 0, host.memory, 0, length, 0, -1, 0, 64, chance.randrange(8), host.now
        )
        host.step()
        assert len(host.transmit()) <= MOST_ANSWERS
        fuzzed.invariants.check()
    fuzzed.finish()
