"""The stack under packetdrill: layer-3 packets in and out, virtual time, neighbours that answer.

packet ── Ethernet header added ── card (split, steer) ── hdstack's net and tcp
packet ── Ethernet header removed ── what the stack sends; ARP and ND are answered here
"""

import errno
import ipaddress
import struct
from collections import deque

import numpy as np
from tcp_host import ELEMENT, SYN, Host, inet_sum

PEER_MAC = b"\x02\0\0\0\0\x01"
US_NS = 1000
FOREVER_NS = 3 * 3600 * 1_000_000_000
"""How long to wait for a packet while the stack still has timers: longer than its longest."""
TIMER_STEPS = 20000
ROUTER6 = "fd3d:fa7b:d17d:8888::"
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
__all__ = ["DrillHost", "Silence"]


class Silence(Exception):
    """Nothing comes out of the stack, and nothing will."""


def _layers(packet: bytes):
    """Protocol, and where its header begins; lengths and the IPv4 checksum are right, or None."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start, total = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)[0]
        if start < 20 or not start <= total <= len(packet) or inet_sum(packet[:start]) != 0xFFFF:
            return None
        return packet[9], start, total, packet[12:20]
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        total = 40 + struct.unpack_from(">H", packet, 4)[0]
        return (packet[6], 40, total, packet[8:40]) if total <= len(packet) else None
    return None


class DrillHost(Host):
    """One stack with one application, in virtual time. Packets have no Ethernet header."""

    def __init__(self, modules, addresses, **configuration):
        first, *others = [ipaddress.ip_interface(text) for text in addresses]
        super().__init__(modules, int(first.ip), **configuration)
        for other in others:
            self.add_address(other.ip, other.network.prefixlen)
        self.tables.add_route(self.s, 0, 0, 0, *self.tables.split_address(
            ipaddress.ip_address(ROUTER6)))  # fmt: skip
        self.outbox = deque()
        """(time in ns, packet) in the order in which they were sent."""
        self.bad_packets = 0
        self.alarm = self.tables.NEVER
        """A moment at which time has to stop besides the stack's own, once."""
        self.progress = lambda: None
        """Called after each step, at the time at which it happened."""

    def add_address(self, address, bits: int):
        """One more address of ours."""
        self.tables.add_address(self.s, *self.tables.split_address(address), bits)

    def has_address(self, address) -> bool:
        high, low = self.tables.split_address(address)
        rows = self.s["locals"][: int(self.s["control"]["locals"])]
        return any(row["high"] == high and row["address"] == low for row in rows)

    # the wire

    def packet_in(self, packet: bytes):
        """A packet from the peer; the card drops what has wrong lengths or checksums."""
        found = _layers(packet)
        if found is None:
            self.bad_packets += 1
            return
        protocol, start, total, addresses = found
        packet = packet[:total]
        if total > ELEMENT:
            raise OSError(errno.EMSGSIZE, f"a packet of {total} bytes; {ELEMENT} at most")
        queue, payload_at = 0, total
        if protocol == 6 and total - start >= 20:
            pseudo = addresses + struct.pack(">HH", 6, total - start)
            if inet_sum(pseudo + packet[start:]) != 0xFFFF:
                self.bad_packets += 1
                return
            steered = self.steer(struct.unpack_from(">H", packet, start + 2)[0])
            at = start + (packet[start + 12] >> 4) * 4
            if steered is not None and at <= total and not (
                packet[start + 13] & SYN and at < total
            ):  # fmt: skip
                queue, payload_at = steered, at
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        self._record(queue, self.mac + PEER_MAC + kind + packet, 14 + payload_at)
        self.settle()

    def _record(self, queue: int, frame: bytes, split: int):
        """What the card makes of a frame: header to the stack, payload to a posted buffer."""
        header, payload = frame[:split], frame[split:]
        region, offset, left, reason = -1, 0, 0, 7
        if queue:
            app = self.apps[queue]
            if payload and not app.posted:
                self.dropped_no_buffer += 1
                return
            if payload:
                offset, region = app.posted.pop(0) * ELEMENT, app.region
                app.pool[offset : offset + len(payload)] = payload
            left, reason = min(len(app.posted), 255), 0 if payload else 1
        if not self.core.ready(self.s, queue):
            self.dropped_not_ready += 1
            return
        self.memory[64 : 64 + len(header)] = np.frombuffer(header, np.uint8)
        self.m.net_input.on_frame(
            self.s, queue, self.memory, 64, len(header), len(payload), region, offset, left,
            reason, self.now,
        )  # fmt: skip

    def settle(self):
        """Everything that follows from what just happened, at this moment."""
        for _ in range(1000):
            self.step()
            frames = self.transmit()
            self.progress()
            if not frames:
                return
            for frame in frames:
                self._frame_out(frame)
        raise AssertionError("the stack does not stop sending")

    def _frame_out(self, frame: bytes):
        kind, packet = frame[12:14], frame[14:]
        if kind == b"\x08\x06":
            # a probe or an announcement of an address of its own (RFC 5227) wants no answer
            if packet[7] == 1 and packet[14:18] not in (bytes(4), packet[24:28]):
                self._record(0, self._arp_answer(packet), 42)
        elif kind == b"\x86\xdd" and packet[6] == 58 and 133 <= packet[40] <= 137:
            if packet[40] == NEIGHBOUR_SOLICITATION and packet[8:24] != bytes(16):
                answer = self._neighbour_answer(packet)
                self._record(0, answer, len(answer))
        else:
            self.outbox.append((self.now, packet))

    def _arp_answer(self, question: bytes) -> bytes:
        """Whoever is asked for has the peer's address (RFC 826)."""
        sender, target = question[8:18], question[24:28]
        head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2)
        return self.mac + PEER_MAC + b"\x08\x06" + head + PEER_MAC + target + sender

    def _neighbour_answer(self, question: bytes) -> bytes:
        """A solicited advertisement of the target (RFC 4861 section 4.4)."""
        asker, target = question[8:24], question[48:64]
        body = struct.pack(">BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, 0x60000000) + target
        body += b"\x02\x01" + PEER_MAC
        total = inet_sum(target + asker + struct.pack(">II", len(body), 58) + body)
        body = body[:2] + struct.pack(">H", total ^ 0xFFFF) + body[4:]
        head = struct.pack(">IHBB", 0x60000000, len(body), 58, 255) + target + asker
        return self.mac + PEER_MAC + b"\x86\xdd" + head + body

    # time

    def _timers(self) -> int:
        following = int(self.core.on_timers(self.s, self.now))
        self.settle()
        if self.alarm <= self.now:
            self.alarm = self.tables.NEVER
        return min(following, self.alarm)

    def pass_until(self, until: int):
        """Let time pass to `until` (ns), in the steps of the stack's own deadlines."""
        for _ in range(TIMER_STEPS):
            following = self._timers()
            if following > until:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, following)
        raise AssertionError("timers do not come to rest")

    def wait_for(self, done, what: str):
        """Let time pass until `done()`; raises Silence where that does not happen."""
        end = self.now + FOREVER_NS
        for _ in range(TIMER_STEPS):
            if done():
                return
            following = self._timers()
            if done():
                return
            if following >= self.tables.NEVER:
                raise Silence(f"{what}: the stack has nothing to do and no timer is set")
            if following > end:
                raise Silence(f"{what}: nothing within {FOREVER_NS // 10**9} s of virtual time")
            self.now = max(self.now, following)
        raise Silence(f"{what}: nothing within {TIMER_STEPS} timers of the stack")

    def packet_out(self) -> tuple[int, bytes]:
        """The next packet that the stack sends, now or when a timer makes it, and when (ns)."""
        self.wait_for(lambda: self.outbox, "a packet is expected")
        return self.outbox.popleft()
