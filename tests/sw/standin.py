"""A software card for tests: the device process's sockets, pages and rings, without RTL.

One host runs one or more cards in a thread, or in a process of its own (`python standin.py RUN..`).
The frames of a card go to `wire(frame)`, and `deliver(frame)` brings one in; `join` makes a cable.
Checksums are inserted, segments cut, rules steer, payload goes to posted buffers and chains of
them, commands are carried out, indices are written after the data: what the driver, the stack and
applications rely on is as on the card. What the card refuses or counts is only there where a test
looks at it. `standin_frames` knows frames, `standin_commands` the command ring.
"""

import contextlib
import json
import mmap
import os
import secrets
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np
from standin_commands import CommandRing
from standin_frames import insert_checksums, parse, segments, toeplitz

from hdsnic import abi
from hdsnic.abi import RxOutcome
from hdsnic.abi.flow_hash import flow_slots
from hdstack import memory
from hdstack.atomic import fence, load_acquire, store_release, warm

C = abi.CONTROL
RING_CELL = abi.CELL_BYTES
PARAMETERS = {
    C.BUS_BYTES: 64, C.QUEUES: 16, C.REGIONS: 16, C.LISTENERS: 64, C.RANGE_LISTENERS: 8,
    C.LOCAL_ADDRESSES: 8, C.REFERENCES_MAX: 64, C.FRAME_BYTES_MAX: 9018, C.POSTABLE_MAX: 4096,
    C.EXACT_WAYS: 4, C.EXACT_ROWS: 512, C.RSS_CONTEXTS: 16, C.CHAIN_MAX: 10, C.TSO_BYTES_MAX: 65536,
    C.FEATURES: (1 << len(C.FEATURES.fields)) - 1,
}  # fmt: skip


class Queue:
    def __init__(self):
        self.on = False
        self.rx = self.tx = (0, 4096)
        self.rx_producer = self.rx_consumer = self.tx_consumer = 0
        self.posts_on = False
        self.owner = 0
        self.post = None  # (region, offset, cells)
        self.post_consumer = 0
        self.posted: list[tuple[int, int, int]] = []


class Region:
    def __init__(self, owner, queue, generation, element_bytes, elements, postable, fd, ring):
        self.owner, self.queue, self.generation = owner, queue, generation
        self.element_bytes, self.elements, self.postable = element_bytes, elements, postable
        self.fd, self.ring, self.live = fd, ring, False
        self.memory = mmap.mmap(fd, element_bytes * elements)


class Application:
    def __init__(self, control, queue, wake, page, token, pid, uid):
        self.control, self.queue, self.wake, self.page = control, queue, wake, page
        self.token, self.pid, self.uid = token, pid, uid
        self.words = page.words


class Card:
    """One card and its device process's sockets in `run_directory`."""

    def __init__(self, run_directory, abi_version=abi.ABI_VERSION):
        self.path = Path(run_directory) / "device.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        os.chmod(self.path, 0o666)
        self.listener.listen(16)
        self.listener.setblocking(False)
        self.version = abi_version
        self.wire = lambda frame: None
        self.incoming: list[bytes] = []
        self.queues = [Queue() for _ in range(16)]
        self.regions: list[Region | None] = [None] * 16
        self.generations = [0] * 16
        self.rules: dict[int, tuple[int, int, int]] = {}
        self.rule_kinds: dict[int, tuple[int, int]] = {}  # udp, rss
        self.scaling: dict[int, tuple[bytes, list[int]]] = {}  # context: key, table
        self.commands = CommandRing(self)
        self.registers: dict[int, int] = {}
        self.status = 0
        self.stack = self.irq = self.header = self.pages = None
        self.unknown: list[socket.socket] = []
        self.observers: list[socket.socket] = []
        self.applications: list[Application] = []
        self.seen: dict[int, tuple[int, int]] = {}
        self.mailbox = 0
        self.log: list[tuple] = []
        self.dropped: dict[str, int] = {}
        self.counters: dict[int, int] = {}
        self.sent = 0

    # -- sockets -----------------------------------------------------------------------------

    def sockets(self):
        ends = [self.listener, *self.unknown, *self.observers]
        ends += [end for a in self.applications for end in (a.control, a.wake)]
        return ends + [end for end in (self.stack, self.irq) if end]

    def serve(self):
        """One look at every socket."""
        with contextlib.suppress(BlockingIOError):
            control, _ = self.listener.accept()
            control.setblocking(False)
            self.unknown.append(control)
        for control in list(self.unknown):
            self._hello(control)
        for control in list(self.observers):
            got = self._receive(control)
            if got == "gone":
                self.observers.remove(control)
                control.close()
            elif got:
                self._send(control, {"ok": True, "frames": self.sent})
        for application in list(self.applications):
            self._drain(application.wake)
            got = self._receive(application.control)
            if got == "gone":
                self._leave(application)
            elif got:
                self._request(application, *got)
        if self.stack:
            self._drain(self.irq)
            got = self._receive(self.stack)
            if got == "gone":
                self.stack.close()
                self.irq.close()
                self.stack = self.irq = self.pages = None
                for queue in self.queues:
                    queue.on = False
            elif got:
                self._send(self.stack, {"ok": True, "frames": self.sent})

    @staticmethod
    def _drain(end):
        with contextlib.suppress(OSError):
            while end.recv(16, socket.MSG_DONTWAIT):
                pass

    @staticmethod
    def _receive(control):
        try:
            data, fds, _, _ = socket.recv_fds(control, 8192, 8)
        except BlockingIOError:
            return None
        except OSError:
            return "gone"
        return (json.loads(data), fds) if data else "gone"

    @staticmethod
    def _send(control, message, fds=()):
        with contextlib.suppress(OSError):
            socket.send_fds(control, [json.dumps(message).encode()], list(fds))

    def _hello(self, control):
        got = self._receive(control)
        if got is None:
            return
        self.unknown.remove(control)
        if got == "gone":
            control.close()
            return
        message, fds = got
        if message.get("abi") != self.version:
            self._send(control, {"ok": False, "error": f"the device has ABI {self.version}"})
            control.close()
        elif message["role"] == "stack":
            size = os.fstat(fds[0]).st_size
            self.header = np.frombuffer(mmap.mmap(fds[0], size), np.uint8)
            self.slots = self.header[:4096].view(np.uint32)
            self.irq = socket.socket(fileno=fds[1])
            os.close(fds[0])
            fd = memory.create("hdsnic-stack-pages", 4096 * 17)
            memory.add_seals(fd, memory.SIZE_SEALS)
            self._pages = memory.Mapping(fd, 4096 * 17)
            self.mailbox = 0
            self.stack, self.pages = control, self._pages.words
            self._send(control, {"ok": True, "bus_bytes": 64, "queues": 16}, [fd])
            os.close(fd)
            for application in self.applications:
                self._tell_application(application)
            for index, region in enumerate(self.regions):
                if region and region.live:
                    self._tell_region(index, region)
        elif message["role"] == "observer":
            self.observers.append(control)
            self._send(control, {"ok": True})
        else:
            used = {a.queue for a in self.applications}
            queue = next(q for q in range(1, 16) if q not in used)
            fd = memory.create("hdsnic-post-page", 4096)
            memory.add_seals(fd, memory.SIZE_SEALS)
            page = memory.Mapping(fd, 4096)
            pid, uid, _ = struct.unpack(
                "3i", control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
            wake = socket.socket(fileno=fds[0])
            token = secrets.token_hex(16)
            application = Application(control, queue, wake, page, token, pid, uid)
            self.applications.append(application)
            self._tell_application(application)
            self._send(control, {"ok": True, "queue": queue, "owner": queue, "token": token}, [fd])
            os.close(fd)

    def _tell_application(self, a):
        notice = {"notice": "application", "queue": a.queue, "owner": a.queue, "token": a.token}
        if self.stack:
            self._send(self.stack, notice | {"pid": a.pid, "uid": a.uid})

    def _tell_region(self, index, region):
        if self.stack:
            notice = {
                "notice": "region", "queue": region.queue, "region": index,
                "generation": region.generation, "element_bytes": region.element_bytes,
                "elements": region.elements, "postable": region.postable,
            }  # fmt: skip
            self._send(self.stack, notice, [region.fd])

    def _request(self, application, message, fds):
        if message["op"] == "register":
            assert memory.get_seals(fds[0]) & memory.SIZE_SEALS == memory.SIZE_SEALS
            index = self.regions.index(None)
            self.generations[index] = (self.generations[index] + 1) % 256
            ring = message["post_ring_offset"], message["post_ring_bytes"]
            self.regions[index] = Region(
                application.queue, application.queue, self.generations[index],
                message["element_bytes"], message["elements"], message["postable"], fds[0], ring,
            )  # fmt: skip
            answer = {"ok": True, "region": index, "generation": self.generations[index]}
            self._send(application.control, answer | {"step": "seal"})
        elif message["op"] == "activate":
            region = self.regions[message["region"]]
            if memory.get_seals(region.fd) & memory.PAYLOAD_SEALS != memory.PAYLOAD_SEALS:
                self._send(application.control, {"ok": False, "error": "the pool is not sealed"})
                return
            region.live = True
            queue = self.queues[application.queue]
            queue.post = message["region"], region.ring[0], region.ring[1] // 8
            queue.post_consumer, queue.posted, queue.posts_on = 0, [], True
            queue.owner = application.queue
            self._tell_region(message["region"], region)
            self._send(application.control, {"ok": True})
        elif message["op"] == "revoke":
            self._revoke(message["region"])
            self._send(application.control, {"ok": True})

    def revoke_access(self, index):
        """The card touches a region no more."""
        if self.regions[index]:
            self.regions[index].live = False
            queue = self.queues[self.regions[index].queue]
            queue.posted = [cell for cell in queue.posted if cell[0] != index]

    def _revoke(self, index):
        self.revoke_access(index)
        region, self.regions[index] = self.regions[index], None
        os.close(region.fd)
        if self.stack:
            self._send(self.stack, {"notice": "revoked", "region": index})

    def _leave(self, application):
        self.applications.remove(application)
        application.control.close()
        application.wake.close()
        queue = self.queues[application.queue]
        queue.posts_on, queue.posted, queue.owner = False, [], 0
        for index, region in enumerate(self.regions):
            if region and region.queue == application.queue:
                self._revoke(index)
        if self.stack:
            q = application.queue
            self._send(self.stack, {"notice": "gone", "queue": q, "owner": q})

    # -- registers ---------------------------------------------------------------------------

    def _mailbox(self):
        words = self.pages
        sequence = load_acquire(words, 0)
        if sequence == self.mailbox:
            return False
        self.mailbox = sequence
        operation, address, value = (int(words[n]) for n in (1, 2, 3))
        if operation == 2:
            self._write(address, value)
        else:
            words[3] = self._read(address)
        words[5] = 0
        store_release(words, 4, sequence)
        return True

    def _read(self, address):
        for register, value in PARAMETERS.items():
            if address == register.offset:
                return value
        return {
            C.MAGIC.offset: abi.MAGIC,
            C.ABI_VERSION.offset: self.version,
            C.IRQ_STATUS.offset: self.status,
            C.FENCE.offset: 0,
            C.COMMAND_CONSUMER.offset: self.commands.consumer,
        }.get(address, self.registers.get(address, 0))

    def _write(self, address, value):
        self.registers[address] = value
        if address == C.IRQ_STATUS.offset:
            self.status &= ~value
        elif address == C.LISTENER_STORE.offset:
            rule = C.LISTENER_STORE.unpack(value)
            ports = C.LISTENER_PORTS.unpack(self.registers.get(C.LISTENER_PORTS.offset, 0))
            if rule["valid"]:
                ranged = rule["index"] < PARAMETERS[C.RANGE_LISTENERS]
                last = ports["last"] if ranged else ports["first"]
                self.rules[rule["index"]] = ports["first"], last, rule["queue"]
                self.rule_kinds[rule["index"]] = rule["udp"], rule["rss"]
                self.log.append(("rule", ports["first"], last, rule["queue"]))
            else:
                self.rules.pop(rule["index"], None)
        elif address == C.FENCE.offset:
            self.log.append(("fence",))
        elif address == C.COMMAND_RING.offset:
            self.commands.set_ring(value)
        elif address == C.RESET.offset and value == abi.RESET_WORD:
            self._reset()
        elif address == C.RSS_KEY_STORE.offset:
            words = [self.registers.get(C.RSS_KEY_WORD.at(k), 0) for k in range(10)]
            key = b"".join(word.to_bytes(4, "little") for word in words)
            self.scaling[value & 0xFF] = key, self._scaling(value & 0xFF)[1]
        elif address == C.RSS_TABLE_STORE.offset:
            entry = C.RSS_TABLE_STORE.unpack(value)
            self._scaling(entry["context"])[1][entry["entry"]] = entry["queue"]
        elif C.RX_RING.offset <= address < C.QUEUE_MODE.offset:
            index, kind = divmod(address - C.RX_RING.offset, 16)
            queue = self.queues[index]
            if kind == 8:
                queue.on = bool(value & 1)
                if queue.on:
                    rx, tx = (self.registers[address - n] for n in (8, 4))
                    queue.rx = (rx & 0xFFFFFF) * 4096, 1 << (rx >> 24)
                    queue.tx = (tx & 0xFFFFFF) * 4096, 1 << (tx >> 24)
                    queue.rx_producer = queue.rx_consumer = queue.tx_consumer = 0
                    self.commands.completed[index] = 0

    def _scaling(self, context):
        return self.scaling.setdefault(context, (bytes(40), [0] * abi.RSS_ENTRIES))

    def _reset(self):
        for queue in self.queues:
            queue.on = False
        self.rules.clear()
        self.commands.exact.clear()
        self.commands.set_ring(0)
        kept = {C.IRQ_STATUS.offset, C.ERROR.offset}
        self.registers = {a: v for a, v in self.registers.items() if a in kept}

    def _mode(self, queue):
        return C.QUEUE_MODE.unpack(self.registers.get(C.QUEUE_MODE.at(queue), 0))

    def publish(self, q, word, value):
        """Write an index of queue `q` back: word of its index slot."""
        store_release(self.slots, q * 16 + word, value & 0xFFFFFFFF)
        if self.status & self.registers.get(C.IRQ_ENABLE.offset, 0):
            self.status |= 1 << q
            return
        self.status |= 1 << q
        if self.status & self.registers.get(C.IRQ_ENABLE.offset, 0):  # the level rises
            with contextlib.suppress(OSError):
                self.irq.send(b"\0", socket.MSG_DONTWAIT)

    # -- transmit ----------------------------------------------------------------------------

    def ring_bytes(self, ring, at, size):
        """`size` bytes of a ring (base, size) from free-running byte `at` on."""
        base, total = ring
        at %= total
        first = self.header[base + at : base + min(at + size, total)].tobytes()
        return first + self.header[base : base + size - len(first)].tobytes()

    def _transmit(self, q, queue):
        producer = load_acquire(self.pages, (1 + q) * 1024)
        done = False
        for _ in range(64):
            if queue.tx_consumer == producer:
                break
            at = queue.tx_consumer * RING_CELL
            fields = abi.DESCRIPTOR.unpack(self.ring_bytes(queue.tx, at, 16))
            references = [
                {n[4:]: v for n, v in fields.items() if n.startswith("ref_")}
            ][: fields["references"]]  # fmt: skip
            start = at + 16
            tag = b""
            if fields["vlan"]:
                word = abi.VLAN_TAG.unpack(self.ring_bytes(queue.tx, start, 8))
                tag = b"\x81\x00" + word["tci"].to_bytes(2, "big")
                start += 8
            for _ in range(max(fields["references"] - 1, 0)):
                references.append(abi.REFERENCE.unpack(self.ring_bytes(queue.tx, start, 8)))
                start += 8
            header = self.ring_bytes(queue.tx, start, fields["header_length"])
            payload = bytearray()
            good = True
            for r in references:
                region = self.regions[r["region"]]
                good = good and bool(region and region.live) and r["length"] > 0
                good = good and region.generation == r["generation"]
                good = good and region.owner == queue.owner
                if good:
                    payload += region.memory[r["offset"] : r["offset"] + r["length"]]
            if good:
                self._send_frames(fields, header, bytes(payload), tag)
            else:
                self.drop("bad_reference")
            cells = abi.descriptor_cells(
                fields["header_length"], fields["references"], bool(fields["vlan"])
            )
            queue.tx_consumer = (queue.tx_consumer + cells) & 0xFFFFFFFF
            done = True
        if done:
            self.publish(q, 2, queue.tx_consumer)
        return done

    def _send_frames(self, fields, header, payload, tag):
        l3, l4 = fields["l3_offset"], fields["l4_offset"]
        if fields["tso"]:
            frames = segments(header, payload, fields["mss"], l3, l4)
        else:
            frame = bytearray(header + payload)
            at = 16 if fields["tcp_checksum"] else 6 if fields["udp_checksum"] else None
            insert_checksums(frame, l3, l4, bool(fields["ipv4_checksum"]), at)
            frames = [frame]
        for frame in frames:
            self.sent += 1
            self.wire(bytes(frame[:12] + tag + frame[12:]))

    # -- receive -----------------------------------------------------------------------------

    def drop(self, why):
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def deliver(self, frame: bytes):
        """A frame from the wire; it is handled at the card's next turn."""
        self.incoming.append(frame.ljust(60, b"\0"))

    def _posts(self, queue, page_words):
        region, offset, cells = queue.post
        producer = load_acquire(page_words, 0)
        if (producer - queue.post_consumer) & 0xFFFFFFFF > cells:
            self.drop("bad_doorbell")
            return
        pool = self.regions[region]
        while queue.post_consumer != producer:
            at = offset + queue.post_consumer % cells * 8
            cell = abi.POST_CELL.unpack(pool.memory[at : at + 8])
            queue.post_consumer = (queue.post_consumer + 1) & 0xFFFFFFFF
            key = cell["region"], cell["element"], cell["generation"]
            owner = self.regions[key[0]] if key[0] < 16 else None
            good = owner and owner.live and owner.owner == queue.owner
            good = good and owner.generation == key[2] and key[1] < owner.postable
            if good and key not in queue.posted:
                queue.posted.append(key)
            else:
                self.drop("bad_post")

    def _steer(self, parsed):
        """Queue, tag and hash of a frame that a rule matches, or None."""
        remote, remote_port, local, local_port = parsed.flow
        target = None
        for slot in flow_slots(4, 512, remote, remote_port, local, local_port):
            rule = self.commands.exact.get(slot)
            if rule and parsed.flow == (
                rule["remote"].to_bytes(16, "little")[: len(remote)], rule["remote_port"],
                rule["local"].to_bytes(16, "little")[: len(local)], rule["local_port"],
            ) and (rule["udp"], rule["ipv6"]) == (parsed.udp, parsed.ipv6):  # fmt: skip
                target = rule["queue"], rule["rss"], abi.EXACT_TAG + slot
        for index, (first, last, queue) in sorted(self.rules.items()):
            udp, rss = self.rule_kinds[index]
            if target is None and first <= local_port <= last and udp == parsed.udp:
                target = queue, rss, index
        if target is None:
            return None
        queue, rss, tag = target
        if not rss:
            return queue, tag, 0
        key, table = self._scaling(queue)
        ports = struct.pack(">HH", remote_port, local_port)
        hashed = toeplitz(key, remote + local + ports)
        return table[hashed % abi.RSS_ENTRIES], tag, hashed

    def _receive_frame(self, frame):
        parsed = parse(frame)
        if parsed.drop:
            return self.drop(parsed.drop)
        fields = {"ipv6": parsed.ipv6, "checksum_good": 1}
        if parsed.reason is None:
            steered = self._steer(parsed)
            if steered is None:
                parsed.reason = RxOutcome.NO_RULE
            elif parsed.udp and not self._mode(steered[0])["udp_split"]:
                parsed.reason = RxOutcome.UDP_WHOLE
        if parsed.reason is not None:
            return self._record(0, parsed.whole, b"", fields | {"reason": int(parsed.reason)})
        queue, fields["tag"], fields["hash"] = steered
        reason = RxOutcome.SPLIT if parsed.payload else RxOutcome.HEADER_ONLY
        header = parsed.whole[: parsed.split]
        return self._record(queue, header, parsed.payload, fields | {"reason": int(reason)})

    def place(self, queue, data, cookie):
        """PLACE: `data` goes to posted buffers of a queue."""
        self._record(queue, b"", data, {"reason": int(RxOutcome.PLACED), "hash": cookie})

    def _record(self, q, header, payload, fields):
        queue = self.queues[q]
        if not queue.on:
            return self.drop("disabled")
        buffers = []
        if payload:
            if not queue.posted:
                return self.drop("no_buffer")
            size = self.regions[queue.posted[0][0]].element_bytes
            parts = [payload[at : at + size] for at in range(0, len(payload), size)]
            buffers = list(zip(queue.posted, parts, strict=False))
            if len(buffers) * size < len(payload):
                return self.drop("no_buffer")
        stamped = self._mode(q)["time_stamps"]
        extensions = stamped + max(0, len(buffers) - 1)
        cells = abi.record_cells(len(header), extensions)
        consumer = load_acquire(self.pages, (1 + q) * 1024 + 1)
        if (queue.rx_producer - consumer) % (1 << 32) + cells > queue.rx[1] // RING_CELL:
            return self.drop("no_ring_space")
        more = abi.TIME_STAMP.pack(cycles=time.monotonic_ns()) if stamped else b""
        for k, ((region, element, _), part) in enumerate(buffers):
            pool = self.regions[region]
            at = element * pool.element_bytes
            pool.memory[at : at + len(part)] = part
            if k:
                more += abi.CHAINED_BUFFER.pack(element=element, region=region, length=len(part))
            else:
                fields |= {"element": element, "region": region}
        del queue.posted[: len(buffers)]
        record = abi.RECORD.pack(
            header_length=len(header), payload_length=len(payload), extensions=extensions,
            time_stamp=stamped, posted_left=min(len(queue.posted), 255), **fields,
        )  # fmt: skip
        record += more + header
        base, size = queue.rx
        at = queue.rx_producer * RING_CELL % size
        first = min(len(record), size - at)
        self.header[base + at : base + at + first] = np.frombuffer(record[:first], np.uint8)
        self.header[base : base + len(record) - first] = np.frombuffer(record[first:], np.uint8)
        queue.rx_producer += cells
        self.publish(q, 0, queue.rx_producer)
        return None

    # -- turns -------------------------------------------------------------------------------

    def step(self) -> bool:
        """One turn; whether anything was done."""
        work = False
        if self.pages is None:
            return False
        while self._mailbox():
            work = True
        for application in self.applications:
            if self.queues[application.queue].posts_on:
                self._posts(self.queues[application.queue], application.words)
        for q, queue in enumerate(self.queues):
            if queue.on:
                work |= self._transmit(q, queue)
        work |= self.commands.step()
        frames, self.incoming = self.incoming, []
        for frame in frames:
            self._receive_frame(frame)
        return work or bool(frames)

    def need_wake(self, value):
        if self.pages is not None:
            store_release(self.pages, 16, value)
        for application in self.applications:
            store_release(application.words, 16, value)


class Host:
    """Runs cards, in this thread (`run`) or in one of its own (`start`, `stop`)."""

    def __init__(self, *cards):
        self.cards = cards
        self.stopping = False
        self.thread = None
        self.poke, self._poked = socket.socketpair()

    def _step(self):
        return sum(card.step() for card in self.cards) > 0

    def run(self):
        warm()
        looked = 0.0
        while not self.stopping:
            work = self._step()
            now = time.monotonic()
            if work and now - looked < 0.001:
                continue
            looked = now
            for card in self.cards:
                card.serve()
            if work or self._step():
                continue
            for card in self.cards:
                card.need_wake(1)
            fence()
            if not self._step():
                ends = [end for card in self.cards for end in card.sockets()]
                ready, _, _ = select.select([*ends, self._poked], [], [], 0.2)
                if self._poked in ready:
                    self._poked.recv(64)
            for card in self.cards:
                card.need_wake(0)
        for card in self.cards:
            for end in card.sockets():
                end.close()

    def start(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def stop(self):
        self.stopping = True
        self.poke.send(b"x")
        if self.thread:
            self.thread.join(10)


def join(a: Card, b: Card):
    """A cable between two cards."""
    a.wire, b.wire = b.deliver, a.deliver


if __name__ == "__main__":
    made = [Card(directory) for directory in sys.argv[1:]]
    if len(made) == 2:
        join(*made)
    print("ready", flush=True)
    Host(*made).run()
