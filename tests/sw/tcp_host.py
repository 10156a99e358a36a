"""A host of the TCP core for tests: card, wire and application around the tables, in virtual time.

`load(compiled)` gives the same modules compiled or interpreted. `Host` is one stack with one or
more applications; its card splits frames, places payload in posted buffers and gathers what is
sent, as the real one does. `Script` talks to a host segment by segment, as a peer made by hand.
"""

import functools
import importlib
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from tcp_frames import (  # what tests need of a host they find here
    ACK,
    FIN,
    PSH,
    RST,  # noqa: F401
    SYN,
    Segment,
    asks_for,
    build,
    dissect,
    find_tcp,
    inet_sum,
)

from hdstack import compile as compiling
from hdstack.tcp.events import IPV6, REQUEST, CloseReason, EventKind, RequestKind

MS = 1_000_000
S = 1_000_000_000
ELEMENT = 2048
QUEUE = 1
REGION = 3
GENERATION = 7
MODULES = (
    "tcp.core", "tcp.tables", "tcp.counters", "tcp.states", "net.input", "net.output", "net.owner",
    "net.receive", "net.placing", "net.fragments", "net.identification",
)  # fmt: skip


@functools.cache
def load(compiled: bool) -> SimpleNamespace:
    """The stack's modules, compiled or as interpreted copies."""
    if compiled:
        modules = [importlib.import_module(f"hdstack.{name}") for name in MODULES]
    else:
        with compiling.interpreted():
            modules = [importlib.import_module(f"hdstack.{name}") for name in MODULES]
    return SimpleNamespace(
        **{name.replace(".", "_"): m for name, m in zip(MODULES, modules, strict=True)}
    )


@dataclass
class App:
    """One application: its pool, what it holds and what it was told."""

    queue: int
    region: int
    generation: int
    buffers: int
    elements: int
    pool: bytearray = field(default_factory=bytearray)
    posted: list = field(default_factory=list)
    events: list = field(default_factory=list)
    streams: dict = field(default_factory=dict)
    marks: dict = field(default_factory=dict)
    """Of each connection: before which byte of its stream the peer's urgent data ends."""
    released: dict = field(default_factory=dict)
    finished: set = field(default_factory=set)
    closed: dict = field(default_factory=dict)
    held: dict = field(default_factory=dict)
    reads: bool = True

    def __post_init__(self):
        self.pool = bytearray(self.elements * ELEMENT)
        self.posted = list(range(self.buffers))


class Host:
    """A stack at `address` with applications on queues of their own."""

    def __init__(self, modules, address=0x0A4D0002, mac=b"\x02\0\0\0\0\x02", buffers=64, mss=1460,
                 apps=1, seed=1, elements=1024, **configuration):  # fmt: skip
        self.m = modules
        self.core, self.tables = modules.tcp_core, modules.tcp_tables
        self.address, self.mac, self.now = address, mac, 1000 * S
        self.s = self.tables.allocate()
        secret = bytes((seed * 37 + k * 11) & 255 for k in range(16))
        self.tables.initialise(
            self.s, mac, address, 24, address & ~255 | 254, secret, mss, **configuration
        )
        self.apps = {}
        self.tx_producer = [0] * 16
        self.tx_lag = False
        self.memory = np.zeros(16384, np.uint8)
        self.out = np.zeros(2048, np.uint8)
        self.dropped_no_buffer = 0
        self.dropped_not_ready = 0
        self.drain_events = True
        self.version = 0
        for k in range(apps):
            self.add_app(QUEUE + k, REGION + k, buffers, elements)

    def add_app(self, queue, region, buffers, elements=1024):
        app = App(queue, region, GENERATION, buffers, elements)
        self.apps[queue] = app
        self.core.set_queue(self.s, queue, 49152 + 256 * queue, 49152 + 256 * queue + 255)
        self.core.set_region(
            self.s, region, GENERATION, queue, ELEMENT, elements * ELEMENT, buffers
        )
        return app

    @property
    def app(self):
        return self.apps[QUEUE]

    def count(self, name):
        return int(self.s["counters"][self.m.tcp_counters.NAMES.index(name)])

    def connection(self, number):
        return self.s["connections"][number & ((1 << self.tables.INDEX_BITS) - 1)]

    # the card, receiving

    def steer(self, port):
        for row in self.s["listeners"]:
            if row["state"] and row["port"] == port:
                return int(row["queue"])
        for queue, app in self.apps.items():
            q = self.s["queues"][app.queue]
            if q["port_first"] <= port <= q["port_last"]:
                return queue
        return None

    def receive(self, frame: bytes):
        """A frame from the wire."""
        if frame[:6] not in (self.mac, b"\xff" * 6):
            return
        segment = dissect(frame)
        queue, region, offset, payload, reason, left = 0, -1, 0, b"", 7, 0
        header = frame
        if segment is not None:
            steered = self.steer(segment.dport)
            if steered is not None and not (segment.payload and segment.flags & SYN):
                queue, app = steered, self.apps[steered]
                left, reason = min(len(app.posted), 255), 1
                if segment.payload:
                    if not self.core.ready(self.s, queue):
                        self.dropped_not_ready += 1
                        return
                    if not app.posted:
                        self.dropped_no_buffer += 1
                        return
                    element = app.posted.pop(0)
                    offset, region, payload = element * ELEMENT, app.region, segment.payload
                    assert element not in app.held, "a delivered buffer would be overwritten"
                    app.pool[offset : offset + len(payload)] = payload
                    header = frame[: find_tcp(frame)[1] - len(payload)]
                    left, reason = min(len(app.posted), 255), 0
        if not self.core.ready(self.s, queue):
            self.dropped_not_ready += 1
            return
        at = 64
        self.memory[at : at + len(header)] = np.frombuffer(header, np.uint8)
        self.m.net_input.on_frame(
            self.s, queue, self.memory, at, len(header), len(payload) or len(frame) - len(header),
            region, offset, left, reason, self.now,
        )  # fmt: skip

    # the card, sending

    def transmit(self) -> list[bytes]:
        """Frames of all queues, in order of their rings."""
        frames = []
        for queue in range(16):
            while (index := self.core.next_segment(self.s, queue)) >= 0:
                frames += self.cut(self.s["segments"][queue, index], self.gather(queue, index))
                self.tx_producer[queue] = (self.tx_producer[queue] + 8) & 0xFFFFFFFF
                self.core.segment_queued(self.s, queue, self.tx_producer[queue])
            if not self.tx_lag:
                self.core.on_transmitted(self.s, queue, self.tx_producer[queue])
        return frames

    def gather(self, queue, index):
        row = self.s["segments"][queue, index]
        length = self.m.net_output.encode_segment(self.s, queue, index, self.out, 0)
        frame = bytearray(self.out[:length].tobytes())
        if row["kind"] != 0:
            return bytes(frame)
        owners = {app.region: app for app in self.apps.values()}
        for k in range(row["references"]):
            ref = row["ref"][k]
            app = owners[int(ref["region"])]
            assert app.queue == queue and ref["generation"] == app.generation and ref["length"] > 0
            assert ref["offset"] + ref["length"] <= len(app.pool)
            frame += app.pool[int(ref["offset"]) : int(ref["offset"] + ref["length"])]
        # the field holds the pseudo-header's sum, so the sum over the segment is what is needed
        if frame[12:14] == b"\x86\xdd":
            struct.pack_into(">H", frame, 70, inet_sum(bytes(frame[54:])) ^ 0xFFFF)
            return bytes(frame)
        struct.pack_into(">H", frame, 24, inet_sum(bytes(frame[14:34])) ^ 0xFFFF)
        struct.pack_into(">H", frame, 50, inet_sum(bytes(frame[34:])) ^ 0xFFFF)
        return bytes(frame)

    def cut(self, row, frame):
        """The segments that the card makes of a frame."""
        if row["kind"] != 0 or row["cut"] == 0:
            return [frame]
        l4 = 54 if frame[12:14] == b"\x86\xdd" else 34
        start, most, found = l4 + (frame[l4 + 12] >> 4 << 2), int(row["cut"]), []
        payload = frame[start:]
        assert len(payload) == row["payload"] > most
        for at in range(0, len(payload), most):
            part = bytearray(frame[:start] + payload[at : at + most])
            seq = (int.from_bytes(frame[l4 + 4 : l4 + 8], "big") + at) & 0xFFFFFFFF
            part[l4 + 4 : l4 + 8] = seq.to_bytes(4, "big")
            if at + most < len(payload):
                part[l4 + 13] &= ~(FIN | PSH)
            length = len(part) - 14 if l4 == 34 else len(part) - 54
            struct.pack_into(">H", part, 16 if l4 == 34 else 18, length)
            if l4 == 34:
                part[24:26] = b"\0\0"
                struct.pack_into(">H", part, 24, inet_sum(bytes(part[14:34])) ^ 0xFFFF)
            addresses = part[26:34] if l4 == 34 else part[22:54]
            part[l4 + 16 : l4 + 18] = b"\0\0"
            pseudo = bytes(addresses) + struct.pack(">HH", 6, len(part) - l4)
            struct.pack_into(">H", part, l4 + 16, inet_sum(pseudo + bytes(part[l4:])) ^ 0xFFFF)
            found.append(bytes(part))
        return found

    # the service and the application

    def request(self, kind, queue=QUEUE, **fields):
        row = np.zeros(1, REQUEST)[0]
        row["kind"] = int(kind)
        for name, value in fields.items():
            row[name] = value
        assert self.core.ready(self.s, queue)
        self.core.on_request(self.s, queue, row, self.now)
        self.step()

    def listen(self, port, socket=5, queue=QUEUE):
        self.request(RequestKind.LISTEN, queue, socket=socket, port=port)

    def connect(self, address, port, socket=6, queue=QUEUE):
        fields = {"address": address}
        if address >> 32:
            words = [address >> 32 * k & 0xFFFFFFFF for k in range(4)]
            fields = dict(zip(("address", "connection", "length", "spare"), words, strict=True))
            fields["region"] = IPV6
        self.request(RequestKind.CONNECT, queue, socket=socket, port=port, **fields)

    def send(self, connection, data: bytes, offset=None, queue=QUEUE, urgent=False):
        """Put `data` into the send area at `offset` and ask for it to be sent."""
        app = self.apps[queue]
        offset = app.buffers * ELEMENT if offset is None else offset
        app.pool[offset : offset + len(data)] = data
        if urgent:
            self.request(RequestKind.URGENT, queue, connection=connection, length=len(data))
        self.request(
            RequestKind.SEND, queue, connection=connection, region=app.region,
            generation=app.generation, offset=offset, length=len(data),
        )  # fmt: skip

    def shutdown(self, connection, queue=QUEUE):
        self.request(RequestKind.SHUTDOWN, queue, connection=connection)

    def abort(self, connection, queue=QUEUE):
        self.request(RequestKind.ABORT, queue, connection=connection)

    def release(self, connection, element, length, queue=QUEUE):
        """The application has read what is in `element`: it posts it and says so."""
        app = self.apps[queue]
        app.held.pop(element)
        app.posted.append(element)
        self.request(RequestKind.CONSUMED, queue, connection=connection, length=length)

    def step(self):
        """What a burst does besides records: rules, output, events."""
        if self.s["control"]["listeners_version"] != self.version:
            self.version = int(self.s["control"]["listeners_version"])
            for at, row in enumerate(self.s["listeners"]):
                if row["state"] == self.m.tcp_states.LISTENER_PENDING:
                    self.core.listener_ready(self.s, at, 1)
        for queue in range(16):
            self.core.on_output(self.s, queue, self.now)
        if self.drain_events:
            for queue in self.apps:
                self.take_events(queue)

    def take_events(self, queue, most=1 << 30):
        app = self.apps[queue]
        consumed = []
        while most and (index := self.core.next_event(self.s, queue)) >= 0:
            most -= 1
            row = self.s["events"][queue, index]["row"]
            event = {name: int(row[name]) for name in row.dtype.names}
            event["kind"] = EventKind(event["kind"])
            event["reason"] = CloseReason(event["reason"])
            self.core.event_taken(self.s, queue)
            app.events.append(event)
            self.apply(app, event, consumed)
        for connection, element, length in consumed:
            self.release(connection, element, length, queue)

    def apply(self, app, event, consumed):
        kind, connection = event["kind"], event["connection"]
        if kind == EventKind.READABLE:
            assert connection not in app.closed and connection not in app.finished
            assert event["region"] == app.region
            start, length = event["offset"], event["length"]
            element = start // ELEMENT
            assert element < app.buffers and length > 0
            assert start % ELEMENT + length <= ELEMENT
            assert element not in app.held, "the same buffer was given twice"
            assert element not in app.posted
            app.streams.setdefault(connection, bytearray()).extend(app.pool[start : start + length])
            app.held[element] = (connection, length)
            if app.reads:
                consumed.append((connection, element, length))
        elif kind == EventKind.URGENT:
            mark = len(app.streams.get(connection, b"")) + event["length"]
            assert mark > app.marks.get(connection, 0) and event["length"] > 0
            app.marks[connection] = mark
        elif kind == EventKind.RETURNED:
            element = event["offset"] // ELEMENT
            assert event["region"] == app.region and element < app.buffers
            assert element not in app.held and element not in app.posted
            app.posted.append(element)
        elif kind == EventKind.RELEASED:
            assert connection not in app.closed
            app.released[connection] = app.released.get(connection, 0) + 1
        elif kind == EventKind.FINISHED:
            assert connection not in app.finished
            app.finished.add(connection)
        elif kind == EventKind.CLOSED:
            assert connection not in app.closed, "closed twice"
            app.closed[connection] = event["reason"]

    def kinds(self, queue=QUEUE):
        return [event["kind"] for event in self.apps[queue].events]

    def last(self, kind, queue=QUEUE):
        return [event for event in self.apps[queue].events if event["kind"] == kind][-1]

    def timers(self):
        """Run what is due; time of the next deadline."""
        following = int(self.core.on_timers(self.s, self.now))
        self.step()
        return following

    def rows_of(self, queue):
        """The rows of connections of `queue`."""
        each = self.tables.CONNECTIONS_PER_QUEUE
        return self.s["connections"][queue * each : (queue + 1) * each]

    def check_lists(self, queue, rows):
        """What the lists by which rows are found say is what the rows say."""
        s, q = self.s, self.s["queues"][queue]
        for name in ("waiting", "starved"):
            listed, at = set(), int(q[f"{name}_head"])
            while at >= 0:
                listed.add(at)
                at = int(s["connections"][at][f"{name}_next"])
            first = queue * len(rows)
            assert listed == {first + int(at) for at in np.flatnonzero(rows[f"{name}_listed"])}
            assert listed >= {first + int(at) for at in np.flatnonzero(rows[name] * rows["state"])}
        old, at, before = set(), int(q["old_head"]), -1
        while at >= 0:
            old.add(at)
            assert s["connections"][at]["old_before"] == before
            before, at = at, int(s["connections"][at]["old_next"])
        assert before == q["old_tail"]
        waits = np.flatnonzero(rows["state"] == self.m.tcp_states.TIME_WAIT)
        assert old == {queue * len(rows) + int(at) for at in waits}

    def check_whole(self, drained=True):
        """No row, buffer or promise is lost: every table adds up."""
        s, t = self.s, self.tables
        links = {name: s[f"{name}s"]["next"].tolist() for name in ("send", "piece", "range")}
        links["connection"] = s["connections"]["hash_next"].tolist()
        for queue in range(t.QUEUES):
            q = s["queues"][queue]
            for name, each in (
                ("connection", t.CONNECTIONS_PER_QUEUE),
                ("send", t.SENDS_PER_QUEUE),
                ("piece", t.PIECES_PER_QUEUE),
                ("range", t.RANGES_PER_QUEUE),
            ):
                free, at = set(), int(q[f"free_{name}"])
                following = links[name]
                while at >= 0:
                    assert at not in free and at // each == queue
                    free.add(at)
                    at = following[at]
                rows = self.rows_of(queue)
                live = rows[rows["state"] != 0]
                if name == "connection":
                    used = len(live)
                    assert used == q["connections"]
                else:
                    used = int(live[f"{name}s"].sum())
                assert len(free) + used == each, (queue, name, len(free), used)
            self.check_lists(queue, rows)
            assert q["promised"] == rows["promised"][rows["state"] != 0].sum()
            assert q["starved"] == rows["starved"][rows["state"] != 0].sum()
            assert q["waiting"] == rows["waiting"][rows["state"] != 0].sum()
        hashed = 0
        for bucket in np.flatnonzero(s["buckets"] != t.NONE):
            at = int(s["buckets"][bucket])
            while at >= 0:
                hashed += 1
                assert s["connections"][at]["bucket"] == bucket
                at = int(s["connections"][at]["hash_next"])
        each = t.CONNECTIONS // t.BLOCKS
        assert (s["blocks"] <= s["deadlines"].reshape(-1, each).min(axis=1)).all()
        assert s["control"]["next_deadline"] <= s["blocks"].min()
        states = s["connections"]["state"]
        assert hashed == ((states != 0) & (states != self.m.tcp_states.DEAD)).sum()
        for queue, app in self.apps.items():
            if drained:
                rows = self.rows_of(queue)
                kept = int(rows["pieces"][rows["state"] != 0].sum())
                known = len(app.posted) + len(app.held)
                assert known + kept == app.buffers, (known, kept, app.buffers)


class Script:
    """A peer made by hand. Sequence numbers are relative: ours to `iss`, theirs to `irs`."""

    MAC = b"\x02\0\0\0\0\x01"

    def __init__(self, host: Host, port=80, sport=40000, iss=1000, address=0x0A4D0001):
        self.host, self.port, self.sport, self.iss, self.address = host, port, sport, iss, address
        self.irs = 0
        self.connection = None
        self.ts = False
        self.newest = 0

    def clock(self):
        """The peer's time stamp clock: 1 ms."""
        return self.host.now // MS + 5000

    def give(self, flags, seq=0, ack=None, payload=b"", window=65535, mss=0, shift=-1,
             sack_ok=False, ts=None, sacks=()):  # fmt: skip
        """Hand in a segment; what comes back. `ts`: (TSval, TSecr), or TSval of a connection with
        time stamps, which then answers the newest. `sacks`: blocks by relative numbers."""
        if ts is None and self.ts:
            ts = self.clock()
        if isinstance(ts, int):
            ts = (ts, self.newest)
        blocks = tuple((self.irs + start, self.irs + end) for start, end in sacks)
        segment = Segment(
            self.address, self.host.address, self.sport, self.port, self.iss + seq,
            self.irs + ack if ack is not None else 0,
            flags | (ACK if ack is not None else 0), window, payload, mss, shift, sack_ok, ts,
            blocks,
        )  # fmt: skip
        self.host.receive(build(segment, self.host.mac, self.MAC))
        self.host.step()
        return self.take()

    def take(self):
        """Segments that the host sent, numbers made relative."""
        found = []
        for frame in self.host.transmit():
            if asks_for(frame, self.address):
                self.host.receive(arp_reply(self.host, self.MAC, self.address))
            segment = dissect(frame)
            if segment is None or segment.dport != self.sport:
                continue
            assert segment.sport == self.port and segment.destination == self.address
            segment.seq = (segment.seq - self.irs) & 0xFFFFFFFF
            if segment.flags & ACK:
                segment.ack = (segment.ack - self.iss) & 0xFFFFFFFF
            segment.sacks = tuple(
                tuple((edge - self.iss) & 0xFFFFFFFF for edge in block) for block in segment.sacks
            )
            if segment.ts is not None:
                self.newest = segment.ts[0]
            found.append(segment)
        self.host.step()
        return found

    def after(self, ns):
        """Let time pass in the steps of the host's own deadlines; what it sends meanwhile."""
        end, found = self.host.now + ns, []
        for _ in range(10000):
            following = self.host.timers()
            found += self.take()
            if following > end:
                break
            self.host.now = max(following, self.host.now)
        else:
            raise AssertionError("timers do not come to rest")
        self.host.now = end
        return found

    def open(self, window=65535, mss=1460, shift=-1, sack_ok=False, ts=False):
        """Passive open by the host: SYN, SYN-ACK, ACK."""
        self.ts = ts
        (answer,) = self.give(SYN, window=window, mss=mss, shift=shift, sack_ok=sack_ok)
        assert answer.flags == SYN | ACK and answer.ack == 1
        self.irs = answer.seq
        assert self.give(0, seq=1, ack=1, window=window) == []
        self.connection = self.host.last(EventKind.ACCEPTED)["connection"]
        return answer

    def answer_connect(self, window=65535, mss=1460, shift=-1, sack_ok=False, ts=False):
        """The host is connecting: take its SYN, answer, and give what it sends then."""
        syn = next(dissect(f) for f in self.host.transmit() if dissect(f))
        assert syn.flags == SYN
        self.sport, self.port, self.irs = syn.dport, syn.sport, syn.seq
        if ts:
            self.ts, self.newest = True, syn.ts[0]
        found = self.give(SYN, seq=0, ack=1, window=window, mss=mss, shift=shift, sack_ok=sack_ok)
        self.connection = self.host.last(EventKind.CONNECTED)["connection"]
        return syn, found

    def past_quick_acks(self):
        """As after the first segments of a burst: ACKs are delayed again."""
        self.row["data_at"], self.row["quick"] = self.host.now, 0

    @property
    def row(self):
        return self.host.connection(self.connection)

    @property
    def state(self):
        return self.host.m.tcp_states.NAMES[self.row["state"]]


def arp_reply(host: Host, mac=Script.MAC, address=0x0A4D0001) -> bytes:
    return (
        host.mac + mac + b"\x08\x06"
        + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + mac + struct.pack(">I", address)
        + host.mac + struct.pack(">I", host.address)
    )  # fmt: skip
