"""A host of `tcp_host` with UDP: its card splits datagrams into chains of posted buffers, its
applications bind, send and receive. Frames come from and go to scapy."""

import ipaddress
import struct

import numpy as np
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from standin_frames import checksum, insert_checksums, parse
from tcp_host import ELEMENT, GENERATION, QUEUE, Host

from hdsnic import abi
from hdstack.tcp import tables
from hdstack.tcp.events import IPV6, CloseReason, EventKind, Family, RequestKind

OUR_MAC, PEER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"
US, PEER = "10.77.0.2", "10.77.0.1"
US6, PEER6 = "fd00:77::2", "fd00:77::1"
PENDING, BOUND = 1, 2


def words(text):
    """The four words of an address, the last one first (0s of IPv4), and `region`."""
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return (int(address), 0, 0, 0), 0
    return tuple(reversed(struct.unpack(">4I", address.packed))), IPV6


def datagram(payload, sport=5000, dport=7000, v6=False, source=None, destination=None, **udp):
    """A frame from the peer to us."""
    network = (
        IPv6(src=source or PEER6, dst=destination or US6)
        if v6
        else IP(src=source or PEER, dst=destination or US)
    )
    layers = Ether(src=PEER_MAC, dst=OUR_MAC) / network / UDP(sport=sport, dport=dport, **udp)
    return bytes(layers / payload)


class UdpHost(Host):
    """`chain_elements`: buffers that the card may take for one payload."""

    def __init__(self, modules, **configuration):
        super().__init__(modules, **configuration)
        tables.add_address(self.s, *tables.split_address(address_of(US6)), 64)
        self.rules_left = 64
        for app in self.apps.values():
            self.equip(app)
        for each in (PEER, PEER6):
            self.know(each)

    def add_app(self, *arguments, **more):
        return self.equip(super().add_app(*arguments, **more))

    @staticmethod
    def equip(app):
        app.datagrams, app.sent, app.bound, app.unbound, app.errors = [], [], {}, [], []
        app.coming = None
        app.auto = True
        return app

    def know(self, text, mac=0x020000000001):
        """The neighbour table has this host."""
        high, address = tables.split_address(address_of(text))
        row = next(r for r in self.s["neighbours"] if r["state"] == 0)
        row["state"], row["high"], row["address"] = 2, high, address
        row["mac"], row["updated"], row["asked"] = mac, self.now, self.now

    # the card

    def steer_udp(self, port):
        for row in self.s["endpoints"]:
            if row["state"] in (PENDING, BOUND) and row["local_port"] == port:
                return int(row["queue"])
        return None

    def receive(self, frame: bytes):
        parsed = parse(frame.ljust(60, b"\0"))
        if parsed.drop or not parsed.udp or parsed.reason is not None:
            return super().receive(frame) if not parsed.drop else None
        queue = self.steer_udp(parsed.flow[3])
        if queue is None:
            return self.record(0, parsed.whole, b"", [])
        app, payload = self.apps[queue], parsed.payload
        length = int.from_bytes(parsed.whole[parsed.split - 4 : parsed.split - 2], "big") - 8
        payload = payload[:length]
        parts = [payload[at : at + ELEMENT] for at in range(0, len(payload), ELEMENT)]
        if not self.core.ready(self.s, queue):
            self.dropped_not_ready += 1
            return None
        if len(parts) > len(app.posted):
            self.dropped_no_buffer += 1
            return None
        buffers = []
        for part in parts:
            element = app.posted.pop(0)
            assert element not in app.held, "a delivered buffer would be overwritten"
            app.pool[element * ELEMENT : element * ELEMENT + len(part)] = part
            buffers.append((app.region, element, len(part)))
        return self.record(queue, parsed.whole[: parsed.split], payload, buffers)

    def record(self, queue, header, payload, buffers):
        """A record as the card writes it: a chain, then the header."""
        assert self.core.ready(self.s, queue)
        more = b"".join(
            abi.CHAINED_BUFFER.pack(region=region, element=element, length=length)
            for region, element, length in buffers[1:]
        )
        at = 64
        data = np.frombuffer(more + header, np.uint8)
        self.memory[at : at + len(data)] = data
        self.m.net_input.take_chain(self.s, self.memory, at, len(buffers[1:]))
        region, element, _ = buffers[0] if buffers else (-1, 0, 0)
        left = min(len(self.apps[queue].posted), 255) if queue else 0
        self.m.net_input.on_frame(
            self.s, queue, self.memory, at + len(more), len(header), len(payload), region,
            element * ELEMENT, left, 0, self.now,
        )  # fmt: skip
        self.step()

    def gather(self, queue, index):
        row = self.s["segments"][queue, index]
        if row["kind"] != 3:
            return super().gather(queue, index)
        length = self.m.net_output.encode_segment(self.s, queue, index, self.out, 0)
        frame = bytearray(self.out[:length].tobytes())
        app = self.apps[queue]
        for k in range(row["references"]):
            ref = row["ref"][k]
            assert ref["region"] == app.region and ref["generation"] == app.generation
            assert ref["length"] > 0 and ref["offset"] + ref["length"] <= len(app.pool)
            frame += app.pool[int(ref["offset"]) : int(ref["offset"] + ref["length"])]
        ipv4 = frame[12:14] == b"\x08\x00"
        insert_checksums(frame, 14, 34 if ipv4 else 54, ipv4, 6 if row["fragment"] < 0 else None)
        return bytes(frame)

    def sent_frames(self):
        """What went out, read by scapy, right in every checksum that scapy can make."""
        found = []
        for frame in self.transmit():
            packet = Ether(frame)
            again = Ether(frame)
            fragment = IPv6ExtHdrFragment in again or (
                IP in again and (again[IP].frag or again[IP].flags.MF)
            )
            if IP in again:
                del again[IP].chksum
            if UDP in again and not fragment:
                del again[UDP].chksum
            assert bytes(again) == frame
            found.append(packet)
        self.step()
        return found

    # the service and the application

    def step(self):
        for at, row in enumerate(self.s["endpoints"]):
            if row["state"] == PENDING:
                self.core.endpoint_ready(self.s, at, int(self.rules_left > 0))
        super().step()

    def apply(self, app, event, consumed):
        kind, number = event["kind"], event["connection"]
        if kind == EventKind.BOUND:
            app.bound[event["socket"]] = event
        elif kind == EventKind.DATAGRAM:
            assert app.coming is None
            source = self.text_of(event), event["port"]
            app.coming = [number, source, [], event["reason"]]
        elif kind == EventKind.PIECE:
            start, length = event["offset"], event["length"]
            element = start // ELEMENT
            assert event["region"] == app.region and element < app.buffers and length > 0
            assert start % ELEMENT == 0 and length <= ELEMENT
            assert element not in app.held and element not in app.posted
            assert app.coming[0] == number
            app.coming[2].append((element, bytes(app.pool[start : start + length])))
            app.held[element] = (number, length)
        elif kind == EventKind.SENT:
            app.sent.append((event["socket"], CloseReason(event["reason"])))
        elif kind == EventKind.UNBOUND:
            app.unbound.append(number)
        elif kind == EventKind.SOCKET_ERROR:
            app.errors.append((number, CloseReason(event["reason"])))
        else:
            super().apply(app, event, consumed)
        if app.coming and len(app.coming[2]) == app.coming[3]:
            number, source, pieces, _ = app.coming
            app.coming = None
            assert number not in app.unbound
            app.datagrams.append((number, source, b"".join(p for _, p in pieces)))
            if app.auto:
                consumed.append((number, [e for e, _ in pieces], None))

    def release(self, number, elements, length, queue=QUEUE):
        if length is not None:
            return super().release(number, elements, length, queue)
        app = self.apps[queue]
        for element in elements:
            app.held.pop(element)
            app.posted.append(element)
        return self.request(
            RequestKind.TAKEN, queue, connection=number, length=max(len(elements), 1),
            offset=len(elements),
        )  # fmt: skip

    @staticmethod
    def text_of(event):

        if event["region"] != IPV6:
            return str(ipaddress.IPv4Address(event["address"]))
        packed = struct.pack(
            ">4I", event["spare"], event["length"], event["offset"], event["address"]
        )
        return str(ipaddress.IPv6Address(packed))

    def bind(self, port=7000, local=None, family=Family.BOTH, socket=1, queue=QUEUE, silent=0):
        """The number of a new socket, or the reason why there is none."""
        (last, second, third, first), region = words(local) if local else ((0, 0, 0, 0), family)
        before = len(self.apps[queue].events)
        self.request(
            RequestKind.BIND, queue, socket=socket, port=port, region=region, address=last,
            connection=second, length=third, spare=first, offset=silent,
        )  # fmt: skip
        return self.answer(queue, before, socket)

    def answer(self, queue, before, socket):
        for event in self.apps[queue].events[before:]:
            if event["socket"] == socket and event["kind"] == EventKind.BOUND:
                return event["connection"]
            if event["socket"] == socket and event["kind"] == EventKind.FAILED:
                return CloseReason(event["reason"])
        raise AssertionError("no answer")

    def where(self, kind, number, text, port, queue=QUEUE, **more):
        (last, second, third, first), region = words(text)
        self.request(
            kind, queue, connection=number, port=port, region=region, address=last, offset=second,
            length=third, spare=first, **more,
        )  # fmt: skip

    def peer(self, number, text=PEER, port=5000, queue=QUEUE, socket=1):
        before = len(self.apps[queue].events)
        self.where(RequestKind.PEER, number, text, port, queue)
        return self.answer(queue, before, socket)

    def to(self, number, text=PEER, port=5000, queue=QUEUE):
        self.where(RequestKind.TO, number, text, port, queue)

    def send_to(self, number, payload=b"", cookie=9, queue=QUEUE, given=False, at=0, **changes):
        app = self.apps[queue]
        offset = app.buffers * ELEMENT + at
        app.pool[offset : offset + len(payload)] = payload
        fields = {
            "region": app.region, "generation": GENERATION, "offset": offset,
            "length": len(payload), "spare": sum_of(payload) if given else 0,
        } | changes  # fmt: skip
        self.request(RequestKind.SEND_TO, queue, connection=number, socket=cookie, **fields)

    def unbind(self, number, queue=QUEUE):
        self.request(RequestKind.UNBIND, queue, connection=number)

    def check_udp(self, quiet=False):
        """No row is lost, no buffer, and counts are what the rows say."""
        s, each = self.s, 256
        for queue in range(16):
            u = s["udp"][queue]
            seen = []
            for name in ("free_datagram", "waiting_head", "pending_head", "flight_head"):
                at = int(u[name])
                while at >= 0:
                    assert at // each == queue and at not in seen
                    seen.append(at)
                    at = int(s["datagrams"][at]["next"])
                if name == "free_datagram":
                    free = len(seen)
            assert len(seen) == each
            rows = s["endpoints"][queue * 16 : queue * 16 + 16]
            live = rows[(rows["state"] == 1) | (rows["state"] == 2)]
            assert u["endpoints"] == len(live) and u["held"] == live["held"].sum()
            assert rows["sends"][rows["state"] != 0].sum() == each - free
            if quiet:
                assert free == each
        self.check_whole()


def sum_of(payload):

    return 0x10000 | checksum(bytes(payload))


def address_of(text):

    return ipaddress.ip_address(text)
