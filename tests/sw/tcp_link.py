"""Two hosts joined by a link that loses, reorders and duplicates, in virtual time, from a seed."""

import heapq
import random
import zlib
from dataclasses import dataclass

from tcp_host import ELEMENT, MS, QUEUE, Host, S, arp_reply

from hdstack.tcp.events import CloseReason, EventKind

SERVER, CLIENT = 0x0A4D0002, 0x0A4D0001


@dataclass
class Link:
    """What the wire does to each frame: probabilities, and delays in ns."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: int = 5 * MS
    jitter: int = 0
    wait: int = 0
    """Longest time until the card reports a transmit as done."""


class Writer:
    """One application's side of a connection: sends `data` in odd pieces, every `urgent`th of them
    as urgent, then SHUTDOWN.

    A buffer is overwritten as soon as it is released: whoever still reads it spoils the stream.
    """

    def __init__(self, host, connection, data, chance, most=6, urgent=0):
        self.most, self.urgent, self.urgent_end = most, urgent, 0
        self.host, self.connection, self.data, self.chance = host, connection, data, chance
        self.sent, self.outstanding, self.sends, self.shut = 0, [], 0, False

    def run(self):
        app = self.host.app
        if self.connection in app.closed:
            return
        while len(self.outstanding) > self.sends - app.released.get(self.connection, 0):
            offset, length = self.outstanding.pop(0)
            app.pool[offset : offset + length] = b"\xee" * length
        while self.sent < len(self.data) and len(self.outstanding) < self.most:
            length = min(
                self.chance.choice((1, 7, 100, 1460, 3000, 9000)), len(self.data) - self.sent
            )
            offset = self.host.send_area.take(length)
            if offset is None:
                return
            self.outstanding.append((offset, length))
            self.sends += 1
            urgent = self.urgent and self.sends % self.urgent == 0
            piece = self.data[self.sent : self.sent + length]
            self.host.send(self.connection, piece, offset, urgent=urgent)
            self.sent += length
            if urgent:
                self.urgent_end = self.sent
        if self.sent == len(self.data) and not self.shut:
            self.shut = True
            self.host.shutdown(self.connection)


class Area:
    """A ring of send memory, handed out in order; large enough that it never wraps into use."""

    def __init__(self, start, size):
        self.start, self.size, self.at = start, size, 0

    def take(self, length):
        if self.at + length > self.size:
            self.at = 0
        self.at += length
        return self.start + self.at - length


class World:
    """Server and client, `connections` between them, `size` bytes each way at most; the server's
    card cuts segments."""

    def __init__(self, modules, link, seed, connections=2, size=30000, buffers=64, limit=7200 * S,
                 urgent=0):  # fmt: skip
        self.link, self.chance, self.limit = link, random.Random(seed), limit
        self.server = Host(modules, SERVER, b"\x02\0\0\0\0\x02", buffers=buffers, seed=seed & 255,
                           tso_bytes=61440)  # fmt: skip
        self.client = Host(modules, CLIENT, b"\x02\0\0\0\0\x01", buffers=buffers, seed=~seed & 255)
        self.hosts = (self.server, self.client)
        self.now, self.order, self.wire, self.trace = self.server.now, 0, [], []
        for host in self.hosts:
            host.tx_lag = True
            host.send_area = Area(buffers * ELEMENT, 900 * ELEMENT)
            host.done = []
        # the wire may lose the question for the neighbour; that is tested elsewhere
        self.client.receive(
            arp_reply(self.client, self.server.mac, SERVER)[:20]
            + b"\x00\x01"
            + arp_reply(self.client, self.server.mac, SERVER)[22:]
        )
        self.client.transmit()
        self.server.listen(80)
        self.data = []
        for _ in range(connections):
            self.data.append([self.chance.randbytes(self.chance.randrange(size)) for _ in "sc"])
            self.client.connect(SERVER, 80, socket=len(self.data) - 1)
        self.writers, self.closed_at = {}, {}
        self.most, self.urgent = 6, urgent

    def on_wire(self, target, frame):
        link, chance = self.link, self.chance
        for _ in range(2 if chance.random() < link.duplicate else 1):
            if chance.random() < link.loss:
                continue
            self.deliver(target, frame, chance.randrange(link.jitter) if link.jitter else 0)

    def deliver(self, target, frame, more_delay=0):
        self.order += 1
        arrives = self.now + self.link.delay + more_delay
        heapq.heappush(self.wire, (arrives, self.order, target, frame))

    def applications(self):
        """Whoever got a connection begins to write; a connection is known by the client's port."""
        for host in self.hosts:
            for event in host.app.events:
                if event["kind"] in (EventKind.ACCEPTED, EventKind.CONNECTED):
                    connection = event["connection"]
                    if (host, connection) in self.writers:
                        continue
                    port = int(host.connection(connection)["remote_port"])
                    if event["kind"] == EventKind.CONNECTED:
                        port = int(host.connection(connection)["local_port"])
                    side = 0 if host is self.server else 1
                    self.writers[host, connection] = Writer(
                        host, connection, self.stream_of(port)[side], self.chance, self.most,
                        self.urgent,
                    )  # fmt: skip
                elif event["kind"] == EventKind.CLOSED:
                    self.closed_at[host, event["connection"]] = self.now
                elif event["kind"] == EventKind.FAILED:
                    raise AssertionError(f"connect failed: {event}")
            host.app.events.clear()
        for (host, _), writer in self.writers.items():
            if host.core.ready(host.s, QUEUE):
                writer.run()

    def stream_of(self, port):
        if port not in self.ports:
            self.ports[port] = self.data[len(self.ports)]
        return self.ports[port]

    def collect(self):
        for host, other in (self.hosts, self.hosts[::-1]):
            before = host.tx_producer[QUEUE]
            for frame in host.transmit():
                self.on_wire(other, frame)
            if host.tx_producer[QUEUE] != before:
                wait = self.chance.randrange(self.link.wait) if self.link.wait else 0
                due = max([self.now + wait] + [at for at, _ in host.done[-1:]])
                host.done.append((due, host.tx_producer[QUEUE]))

    def note(self):
        """Fingerprint of both hosts' rows, to be held against another run."""
        for host in self.hosts:
            s = host.s
            parts = [s[n].tobytes() for n in ("control", "counters", "queues", "neighbours")]
            parts += [s[n].tobytes() for n in ("listeners", "deadlines", "parsed", "regions")]
            parts += [host.rows_of(QUEUE)[:16].tobytes(), s["segments"][QUEUE].tobytes()]
            parts += [s["sends"][1024:1088].tobytes(), s["pieces"][512:640].tobytes()]
            parts += [s["events"][QUEUE].tobytes()]
            self.trace.append(tuple(zlib.crc32(part) for part in parts))

    def run(self, traced=False):
        """Until every connection is closed and forgotten."""
        self.ports = {}
        end = self.now + self.limit
        while self.now < end:
            for host in self.hosts:
                host.now = self.now
                while host.done and host.done[0][0] <= self.now:
                    host.core.on_transmitted(host.s, QUEUE, host.done.pop(0)[1])
                host.step()
            self.applications()
            self.collect()
            if traced:
                self.note()
            deadlines = [host.timers() for host in self.hosts]
            self.applications()
            self.collect()
            times = deadlines + [host.done[0][0] for host in self.hosts if host.done]
            if self.wire:
                times.append(self.wire[0][0])
            following = min(times)
            if following >= self.server.tables.NEVER:
                break
            self.now = max(self.now, following)
            for host in self.hosts:
                host.now = self.now
            while self.wire and self.wire[0][0] <= self.now:
                _, _, target, frame = heapq.heappop(self.wire)
                target.receive(frame)
        return self

    def ended_well(self, one, other):
        """Closed in order, all its sends released. Or by the RST of a peer that had everything and
        whose TIME-WAIT of a minute was over before the last FIN got through: it cannot know more.
        """
        host, connection = one
        reason = host.app.closed.get(connection)
        if reason == CloseReason.RESET:
            waited = self.closed_at[one] - self.closed_at[other]
            return waited >= 60 * S and other[0].app.closed.get(other[1]) == CloseReason.NORMAL
        released = host.app.released.get(connection, 0)
        return reason == CloseReason.NORMAL and released == self.writers[one].sends

    def check(self):
        """Each stream whole, in order, once; every connection closed; nothing leaked."""
        assert len(self.writers) == 2 * len(self.data)
        ports = {}
        for (host, connection), writer in self.writers.items():
            assert connection in host.app.finished
            assert writer.sent == len(writer.data)
            ports.setdefault(id(writer.data), (host, connection))
        for pair in self.data:
            one, other = (a, on_a), (b, on_b) = ports[id(pair[0])], ports[id(pair[1])]
            assert self.ended_well(one, other) and self.ended_well(other, one)
            assert bytes(a.app.streams.get(on_a, b"")) == pair[1]
            assert bytes(b.app.streams.get(on_b, b"")) == pair[0]
            assert a.app.marks.get(on_a, 0) == self.writers[other].urgent_end
            assert b.app.marks.get(on_b, 0) == self.writers[one].urgent_end
        for host in self.hosts:
            assert host.s["queues"][QUEUE]["connections"] == 0
            assert not host.app.held
            host.check_whole()
