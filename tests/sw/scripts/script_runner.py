"""Runs a segment script against one stack in virtual time. README.md of this folder says how."""

import ipaddress

import numpy as np
from script_language import ANY, Script, ScriptError, SegmentText, format_segment
from script_wire import (
    OUR_IPV6,
    PEER_IPV6,
    Peer,
    build,
    build_icmp,
    differences,
    neighbour_answer,
    read,
    relative,
)
from tcp_host import ELEMENT, GENERATION, MS, QUEUE, REGION, Host, S

from hdstack.tcp.events import (
    NO_LINGER,
    CloseFlag,
    CloseReason,
    EventKind,
    Option,
    RequestKind,
)

PEER_PORT = 40000
FLOOD_PORTS = range(10000, 30000)
FLOOD_SYN = SegmentText(2, 0, 0, window=65535, options=[("mss", 1460)])
FOREVER = (1 << 62) - 1
__all__ = ["Mismatch", "Runner"]

OPERATORS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Mismatch(ScriptError):
    """The stack does not do what the script says."""


class Runner:
    """One run of a script: `Runner(script, modules).run()`; raises `Mismatch`."""

    def __init__(self, script: Script, modules):
        self.script, config = script, script.config
        self.host = self.new_host(modules)
        if config["isn"] is not None:
            self.host.now += self.time_until_isn(modules, config["isn"])
        self.start = self.base = self.host.now
        self.tolerance = config["tolerance_ms"] * MS
        self.host.app.reads = False
        self.peers = {}
        self.peer = self.peer_of(1)
        self.segments, self.waits, self.trace = [], [], []
        self.events_seen = 0
        self.send_at = self.host.app.buffers * ELEMENT
        self.listening = False
        self.step = script.steps[0]

    def new_host(self, modules):
        config = self.script.config
        tables = modules.tcp_tables
        host = Host(
            modules,
            buffers=config["buffers"],
            mss=config["mss"],
            congestion=tables.NEWRENO if config["newreno"] else tables.CUBIC,
            timestamps=config["timestamps"],
            sack=config["sack"],
        )
        if config["ipv6"]:
            ours = ipaddress.IPv6Address(OUR_IPV6)
            tables.add_address(host.s, *tables.split_address(ours), 64)
        return host

    def time_until_isn(self, modules, isn):
        """RFC 6528: the number grows by one each 4 us, so the start of time decides it."""
        host = self.new_host(modules)
        host.listen(80)
        peer = Peer(1, self.peer_address(), PEER_PORT + 1, 0)
        first = next(s for s in self.script.steps if s.kind == "in")
        host.receive(build(host, peer, first.what))
        host.step()
        (frame,) = host.transmit()
        return ((isn - read(frame)[1].seq) & 0xFFFFFFFF) * 4000

    def peer_address(self):
        config = self.script.config
        return int(ipaddress.IPv6Address(PEER_IPV6)) if config["ipv6"] else config["peer_address"]

    def peer_of(self, number):
        if number not in self.peers:
            config = self.script.config
            self.peers[number] = Peer(
                number, self.peer_address(), PEER_PORT + number, config["peer_isn"] & 0xFFFFFFFF
            )
        return self.peers[number]

    # time

    def at(self, ns):
        return f"{(ns - self.start) / S:.6f}"

    def note(self, text):
        self.trace.append(f"  {self.at(self.host.now):>12} {text}")

    def collect(self):
        """What the stack sends and says now."""
        for _ in range(100):
            frames = self.host.transmit()
            self.host.step()
            self.new_events()
            if not frames:
                break
            for frame in frames:
                self.take_frame(frame)
        else:
            self.fail("the stack does not stop sending", "")
        self.serve_waits()

    def take_frame(self, frame):
        answer = neighbour_answer(self.host, frame)
        if answer is not None:
            self.host.receive(answer)
            self.host.step()
            return
        found = read(frame)
        if found is None:
            return
        port, segment, payload = found
        if port in FLOOD_PORTS:
            return
        peer = next((p for p in self.peers.values() if p.port == port), None)
        if peer is None:
            self.fail(f"a segment to port {port}, where no peer is", "")
        if segment.flags & 2 and not segment.flags & 16:
            at = 54 if self.script.config["ipv6"] else 34
            peer.local_port = int.from_bytes(frame[at : at + 2], "big")
        made = relative(peer, segment)
        if payload != peer.our_stream(made.seq, len(payload)) and not made.flags & 2:
            self.fail(f"the payload of {format_segment(made)} is not what was sent", "")
        self.segments.append((self.host.now, peer, made))
        self.note(f"{self.label(peer)}> {format_segment(made)}")

    def label(self, peer):
        return f"[{peer.number}] " if len(self.peers) > 1 else ""

    def new_events(self):
        events = self.host.app.events
        while self.events_seen < len(events):
            event = events[self.events_seen]
            self.events_seen += 1
            kind = event["kind"]
            if event["port"] in FLOOD_PORTS and kind == EventKind.ACCEPTED:
                continue
            if kind == EventKind.ACCEPTED:
                peer = next(p for p in self.peers.values() if p.port == event["port"])
                peer.connection = event["connection"]
                peer.accepted = True
            elif kind == EventKind.CONNECTED:
                self.peers[event["socket"]].connection = event["connection"]
            elif kind == EventKind.FAILED:
                self.peers[event["socket"]].failed.append(event["reason"])
            elif kind == EventKind.LISTENING:
                self.listener = event["connection"]
            if kind not in (EventKind.RELEASED, EventKind.RETURNED):
                length = (
                    f" {event['length']}" if kind in (EventKind.READABLE, EventKind.URGENT) else ""
                )
                reason = f" {event['reason'].name}" if kind >= EventKind.CLOSED else ""
                self.note(f"event {kind.name}{length}{reason}")

    def advance(self, until, stop_at_segment=False):
        """Let time pass in the steps of the stack's own deadlines."""
        for _ in range(20000):
            following = self.host.timers()
            self.collect()
            if self.segments and stop_at_segment:
                return
            if following > until:
                break
            self.host.now = max(following, self.host.now)
        else:
            self.fail("timers do not come to rest", "")
        if until < FOREVER:
            self.host.now = max(until, self.host.now)
        self.serve_waits()

    # the script

    def run(self):
        for step in self.script.steps:
            self.step, when = step, step.when
            target = (self.base if when.relative else self.start) + when.start
            if self.step.kind == "out":
                self.expect_segment(when, target)
                continue
            self.advance(target)
            if self.step.kind != "call" or target > self.base:
                self.nothing_unexpected()
            self.base = self.host.now
            line = self.script.lines[self.step.line - 1].strip().partition(" ")[2].strip()
            self.note(self.label(self.peer) + line)
            getattr(self, f"do_{self.step.kind}")(self.step.what)
            self.collect()
        for wait in list(self.waits):
            self.advance(wait[3] + self.tolerance)
        self.nothing_unexpected()
        self.tidy()
        return self

    def do_in(self, segment):
        self.host.receive(build(self.host, self.peer, segment))
        self.host.step()

    def do_icmp(self, icmp):
        self.host.receive(build_icmp(self.host, self.peer, icmp))
        self.host.step()

    def do_call(self, call):
        when = self.step.when
        if when.blocks is None:
            getattr(self, f"call_{call.name}")(*call.arguments)
            return
        if call.name == "connect":
            self.call_connect()
        end = self.host.now + when.blocks
        self.waits.append((self.step, self.peer, call, end))

    def nothing_unexpected(self):
        if self.segments:
            at, peer, got = self.segments[0]
            self.fail(
                "the stack sent a segment that the script does not expect",
                f"nothing more before {self.at(self.host.now)}",
                f"{self.at(at)} {self.label(peer)}> {format_segment(got)}",
            )

    def expect_segment(self, when, target):
        expected = self.step.what
        last = self.base + when.window if when.window is not None else target
        limit = FOREVER if when.any else last + self.tolerance
        self.advance(limit, stop_at_segment=True)
        text = f"{self.label(self.peer)}> {format_segment(expected)}"
        due = "at any time" if when.any else self.at(target)
        if when.window is not None:
            due += f" to {self.at(last)}"
        if not self.segments:
            self.fail(f"the stack sent nothing by {self.at(self.host.now)}", f"{due} {text}")
        at, peer, got = self.segments.pop(0)
        got = self.learn_clock(peer, expected, got)
        wrong = differences(expected, got, self.script.config["tolerance_ms"])
        if peer is not self.peer:
            wrong.append("peer")
        if not when.any and not target - self.tolerance <= at <= limit:
            wrong.append("time")
        if wrong:
            self.fail(
                f"not as expected: {', '.join(wrong)}",
                f"{due} {text}",
                f"{self.at(at)} {self.label(peer)}> {format_segment(got)}",
            )
        self.base = at

    def learn_clock(self, peer, expected, got):
        """Our time stamps begin anywhere: the first one is what the script says it is."""
        stamps = [o for o in got.options if o[0] == "TS"]
        if peer.ts_base is not None or not stamps:
            return got
        said = (
            [o for o in expected.options or [] if o[0] == "TS"] if expected.options != ANY else []
        )
        peer.ts_base = stamps[0][1] - (said[0][1] if said and said[0][1] != ANY else 0)
        got.options = [
            (o[0], o[1] - peer.ts_base, o[2]) if o[0] == "TS" else o for o in got.options
        ]
        return got

    def serve_waits(self):
        """Calls that block: each has to return at its time."""
        now = self.host.now
        for wait in list(self.waits):
            step, peer, call, end = wait
            done = getattr(self, f"done_{call.name}")(peer, *call.arguments)
            if done and now < end - self.tolerance:
                self.step = step
                self.fail(f"'{call.name}' returned early", self.at(end), self.at(now))
            if not done and now >= end + self.tolerance:
                self.step = step
                self.fail(f"'{call.name}' still blocks", self.at(end), self.at(now))
            if done:
                self.waits.remove(wait)
                self.note(f"'{call.name}' returned")

    # calls that can block

    def now_or_fail(self, name, *arguments):
        if not getattr(self, f"done_{name}")(self.peer, *arguments):
            self.fail(f"'{name}' would block", "it returns at once")

    def call_accept(self):
        self.now_or_fail("accept")

    def done_accept(self, peer):
        return peer.connection is not None

    def call_connect(self):
        if self.host.core.ready(self.host.s, QUEUE):
            self.host.connect(self.peer.address, self.peer.port, socket=self.peer.number)

    def done_connect(self, peer):
        return peer.connection is not None or bool(peer.failed)

    def call_read(self, length):
        self.now_or_fail("read", length)

    def done_read(self, peer, length):
        """Take `length` bytes off the stream; buffers that are wholly read are posted again."""
        stream = self.host.app.streams.get(peer.connection, b"")
        if len(stream) - peer.taken < length:
            return False
        got = bytes(stream[peer.taken : peer.taken + length])
        if got != peer.stream(1 + peer.taken, length):
            self.fail("the bytes that were read are not those that the peer sent", "")
        peer.taken += length
        released = peer.taken - (len(stream) - sum(self.held(peer)))
        for element, (connection, size) in list(self.host.app.held.items()):
            if connection == peer.connection and size <= released:
                released -= size
                self.host.release(connection, element, size)
            elif connection == peer.connection:
                break
        return True

    def held(self, peer):
        return [n for c, n in self.host.app.held.values() if c == peer.connection]

    def call_drain(self):
        self.now_or_fail("drain")

    def done_drain(self, peer):
        return self.host.app.released.get(peer.connection, 0) == peer.sends

    def call_closed(self, reason=None):
        self.now_or_fail("closed", *([reason] if reason else []))

    def done_closed(self, peer, reason=None):
        closed = self.host.app.closed.get(peer.connection)
        if closed is not None and reason is not None and CloseReason(closed).name != reason:
            self.fail("the connection ended for another reason", reason, CloseReason(closed).name)
        return closed is not None

    # other calls

    def call_listen(self, *words):
        named = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        self.peer.local_port = named.get("port", 80)
        self.host.request(
            RequestKind.LISTEN, socket=5, port=self.peer.local_port, length=named.get("backlog", 0)
        )

    def call_unlisten(self):
        self.host.request(RequestKind.UNLISTEN, connection=self.listener)

    def call_send(self, length, *urgent):
        peer, app = self.peer, self.host.app
        data = peer.our_stream(1 + peer.sent, length)
        if self.send_at + length > len(app.pool):
            self.send_at = app.buffers * ELEMENT
        app.pool[self.send_at : self.send_at + length] = data
        if urgent:
            self.host.request(RequestKind.URGENT, connection=peer.connection, length=length)
        self.host.request(
            RequestKind.SEND, connection=peer.connection, region=REGION, generation=GENERATION,
            offset=self.send_at, length=length,
        )  # fmt: skip
        self.send_at += length
        peer.sent += length
        peer.sends += 1

    def call_shutdown(self):
        self.host.shutdown(self.peer.connection)

    def call_close(self, *linger):
        """As `hdstack.app` does, it says whether it leaves data unread."""
        ms = round(1000 * float(linger[1])) if linger else NO_LINGER
        unread = len(self.host.app.streams.get(self.peer.connection, b"")) > self.peer.taken
        self.host.request(
            RequestKind.CLOSE, connection=self.peer.connection, length=ms,
            offset=CloseFlag.UNREAD if unread else 0,
        )  # fmt: skip

    def call_set(self, name, value, *refused):
        self.host.request(
            RequestKind.OPTION, connection=self.peer.connection, port=int(Option[name.upper()]),
            length=int(value, 0),
        )  # fmt: skip
        reason = self.host.last(EventKind.OPTION)["reason"].name
        self.same(f"set {name}", refused[1] if refused else "NORMAL", reason)

    def call_abort(self):
        self.host.abort(self.peer.connection)

    def call_die(self):
        self.host.core.drop_owner(self.host.s, QUEUE, self.host.now)

    def call_peer(self, number):
        local_port = self.peer.local_port
        known = number in self.peers
        self.peer = self.peer_of(number)
        if not known:
            self.peer.local_port = local_port

    def call_flood(self, number):
        """`number` SYNs from as many ports; what they are answered is not looked at."""
        for k in range(number):
            stranger = Peer(0, self.peer.address, FLOOD_PORTS[k], 7 * k, self.peer.local_port)
            self.host.receive(build(self.host, stranger, FLOOD_SYN))
            self.host.step()
            self.collect()

    # expectations

    def row(self):
        rows = self.host.s["connections"]
        dead = self.host.m.tcp_states.DEAD
        for index in np.flatnonzero(rows["remote_port"] == self.peer.port):
            if rows[index]["state"] not in (0, dead):
                return rows[index]
        return None

    def call_expect(self, what, *rest):
        state = "none" if self.row() is None else self.host.m.tcp_states.NAMES[self.row()["state"]]
        app, connection = self.host.app, self.peer.connection
        if what == "silence":
            return
        if what == "readable":
            got = len(app.streams.get(connection, b"")) - self.peer.taken
            self.same(what, int(rest[0]), got)
        elif what == "urgent":
            ahead = app.marks.get(connection, 0) - self.peer.taken
            self.same(what, int(rest[0]), max(ahead, 0))
        elif what == "finished":
            self.same(what, True, connection in app.finished)
        elif what == "state":
            self.same(what, rest[0], state)
        elif what == "gone":
            self.same("state", "none", state)
        elif what == "failed":
            self.same(what, rest[0], " ".join(CloseReason(r).name for r in self.peer.failed))
        elif what == "problem":
            told = [e["reason"].name for e in app.events if e["kind"] == EventKind.PROBLEM]
            self.same(what, rest[0], " ".join(told) or "none")
        elif what == "counter":
            self.compare(" ".join(rest[:1]), self.host.count(rest[0]), *rest[1:])
        else:
            row = self.row()
            if row is None or what not in row.dtype.names:
                self.fail(f"there is no field '{what}' of a live connection", "a field of the row")
            self.compare(what, int(row[what]), *rest)

    def same(self, what, expected, got):
        if expected != got:
            self.fail(f"'{what}' is another", str(expected), str(got))

    def compare(self, what, got, operator, number):
        if not OPERATORS[operator](got, int(number, 0)):
            self.fail(f"'{what}' is another", f"{operator} {number}", str(got))

    # the end

    def tidy(self):
        """No table, buffer or promise is lost; everything that still lives can be ended."""
        host = self.host
        host.check_whole()
        host.core.drop_owner(host.s, QUEUE, host.now)
        for _ in range(20):
            host.transmit()
            host.step()
        assert host.s["queues"][QUEUE]["connections"] == 0
        host.check_whole(drained=False)

    def fail(self, wrong, expected, got=None):
        """Raise `Mismatch` with the script, a mark at the line, and the trace so far."""
        at = self.step.line
        text = [wrong, ""]
        for number, line in enumerate(self.script.lines, 1):
            if at - 12 <= number <= at + 4:
                text.append(f"{'-->' if number == at else '   '} {number:3} {line}")
        text.append("")
        if expected:
            text.append(f"expected  {expected}")
        if got is not None:
            text.append(f"got       {got}")
        text += ["", "trace (seconds):", *self.trace[-60:]]
        raise Mismatch(self.script.path, at, "\n".join(text))
