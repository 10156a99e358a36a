"""What should become of any frame, byte strings without sense included.

Dissection and checksums are scapy's; the order of the checks is that of `Verify` and `Steer`.
"""

import ipaddress
import socket

from scapy.layers.inet import IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    in6_chksum,
)
from scapy.utils import checksum
from setting import OWN_MAC, Setting
from toeplitz import toeplitz

from hdsnic.abi import EXACT_TAG, RSS_ENTRIES, RxOutcome

ENDING_EXTENSIONS = {0, 135, 139, 140, 253, 254}
TUNNELS = {4, 41, 47, 50, 51, 97, 115, 137}
PASSED_OVER = {
    socket.IPPROTO_HOPOPTS: IPv6ExtHdrHopByHop,
    socket.IPPROTO_ROUTING: IPv6ExtHdrRouting,
    socket.IPPROTO_DSTOPTS: IPv6ExtHdrDestOpt,
}
FRAME_BYTES_MAX = 9018
HEADER_BYTES_MAX = 256
PRIVATE = {RxOutcome.BAD_FCS, RxOutcome.OVERSIZE, RxOutcome.MAC_FILTER, RxOutcome.DISABLED}


def expected(raw, error=False, setting=None, parameters=None):
    """(outcome, fields of the SteeredFrame or None); by default with the bench's setting.

    `parameters` are needed for settings with exact rules.
    """
    setting = setting or Setting()
    found = _dropped_or_found(raw, error, setting, parameters)
    whole = {
        "bytes": raw,
        "length": len(raw),
        "header_length": len(raw),
        "payload_length": 0,
        "queue": 0,
        "tag": 0,
        "hash": 0,
        "checksum_good": 0,
    }
    if isinstance(found, tuple):  # dropped, with what was known of it
        outcome, fields = found
        delivered = setting.deliver_malformed and outcome not in PRIVATE and len(raw) >= 14
        if not delivered:
            return outcome, None
        return RxOutcome.MALFORMED, whole | fields | {
            "reason": RxOutcome.MALFORMED, "tag": int(outcome),
        }  # fmt: skip
    return found["reason"], whole | found


def _dropped_or_found(raw, error, setting, parameters):
    rx = RxOutcome
    fields = {"vlan_tags": 0, "ipv6": 0}
    if error:
        return rx.BAD_FCS, fields
    if len(raw) > FRAME_BYTES_MAX:
        return rx.OVERSIZE, fields
    if len(raw) < 14:
        return rx.RUNT, fields
    if not setting.receive:
        return rx.DISABLED, fields
    if raw[:6] != OWN_MAC and not raw[0] & 1:
        return rx.MAC_FILTER, fields
    at, tags = 12, 0
    while tags < 2 and raw[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at, tags = at + 4, tags + 1
    if len(raw) < at + 2:
        return rx.RUNT, {}  # the fields of a frame that was cut mean nothing
    kind = raw[at : at + 2]
    fields = {"vlan_tags": tags, "ipv6": int(kind == b"\x86\xdd")}
    steer = Steering(setting, parameters)
    if kind == b"\x08\x00":
        return _ipv4(raw[at + 2 :], at + 2, fields, steer)
    if kind == b"\x86\xdd":
        return _ipv6(raw[at + 2 :], at + 2, fields, steer)
    return fields | {"reason": rx.NOT_IP}


def _ipv4(packet, at, fields, steer):
    rx = RxOutcome
    if len(packet) < 20:
        return rx.RUNT, fields
    ip = IP(packet[:20])
    header = 4 * ip.ihl
    if ip.version != 4 or ip.ihl < 5 or not header <= ip.len <= len(packet):
        return rx.IP_HEADER, fields
    if checksum(packet[:header]) != 0:
        return rx.IP_CHECKSUM, fields
    if ip.flags.MF or ip.frag:
        return fields | {"reason": rx.FRAGMENT}
    pseudo = IP(src=ip.src, dst=ip.dst)
    steer.source, steer.destination = packet[12:16], packet[16:20]
    return _transport(
        packet[header : ip.len],
        at + header,
        fields,
        ip.proto,
        lambda data: in4_chksum(ip.proto, pseudo, data),
        steer,
    )


def _ipv6(packet, at, fields, steer):
    rx = RxOutcome
    if len(packet) < 40:
        return rx.RUNT, fields
    ip = IPv6(packet[:40])
    end = 40 + ip.plen
    if ip.version != 6 or end > len(packet):
        return rx.IP_HEADER, fields
    kind, start, more_to_go, headers = ip.nh, 40, False, 0
    while kind in PASSED_OVER and not (kind == socket.IPPROTO_HOPOPTS and headers):
        if at + start > HEADER_BYTES_MAX:
            break
        if end < start + 2:
            return rx.IP_HEADER, fields
        header = packet[start : start + 8].ljust(8, b"\0")
        segments = PASSED_OVER[kind](header)
        if kind == socket.IPPROTO_ROUTING and segments.segleft:
            more_to_go = True
        kind, start, headers = segments.nh, start + 8 * (segments.len + 1), headers + 1
    if start > end:
        return rx.IP_HEADER, fields
    if kind == socket.IPPROTO_FRAGMENT:
        return fields | {"reason": rx.FRAGMENT}
    if kind in ENDING_EXTENSIONS or more_to_go:
        return fields | {"reason": rx.EXTENSION}
    pseudo = IPv6(src=ip.src, dst=ip.dst)
    steer.source, steer.destination = packet[8:24], packet[24:40]
    return _transport(
        packet[start:end],
        at + start,
        fields,
        kind,
        lambda data: in6_chksum(kind, pseudo, data),
        steer,
    )


def _transport(segment, at, fields, protocol, sum_of, steer):
    rx = RxOutcome
    if protocol in TUNNELS:
        return fields | {"reason": rx.TUNNEL}
    if at > HEADER_BYTES_MAX:
        return fields | {"reason": rx.LONG_HEADER}
    if protocol == socket.IPPROTO_UDP:
        if len(segment) < 8:
            return rx.RUNT, fields
        udp = UDP(segment[:8])
        if not 8 <= udp.len <= len(segment):
            return rx.RUNT, fields
        if udp.chksum or fields["ipv6"]:
            if not udp.chksum or sum_of(segment[: udp.len]) not in (0, 0xFFFF):
                return rx.L4_CHECKSUM, fields
            fields["checksum_good"] = 1
        return steer(fields, True, udp, at + 8, udp.len - 8)
    if protocol != socket.IPPROTO_TCP:
        return fields | {"reason": rx.NOT_TCP}
    if len(segment) < 20:
        return rx.TCP_HEADER, fields
    tcp = TCP(segment[:20])
    header = 4 * tcp.dataofs
    if not 20 <= header <= len(segment):
        return rx.TCP_HEADER, fields
    if sum_of(segment) not in (0, 0xFFFF):
        return rx.L4_CHECKSUM, fields
    fields["checksum_good"] = 1
    return steer(fields, False, tcp, at + header, len(segment) - header)


class Steering:
    """Rules of a setting applied to a frame whose addresses are known."""

    def __init__(self, setting, parameters):
        self.setting, self.parameters = setting, parameters
        self.source = self.destination = b""

    def __call__(self, fields, is_udp, l4, header, payload):
        rx = RxOutcome
        if header > HEADER_BYTES_MAX:
            return fields | {"reason": rx.LONG_HEADER}
        if self.destination not in [a for a in self.setting.addresses if a is not None]:
            return fields | {"reason": rx.NOT_LOCAL}
        if not is_udp and l4.flags.S and payload:
            return fields | {"reason": rx.SYN_PAYLOAD}
        found = self.exact(is_udp, l4) or self.listener(is_udp, l4)
        if found is None:
            return fields | {"reason": rx.NO_RULE}
        rule, tag = found
        fields |= {"queue": rule.queue, "tag": tag}
        if rule.rss:
            key, queues = self.setting.rss[rule.queue]
            flow = self.source + self.destination
            flow += l4.sport.to_bytes(2, "big") + l4.dport.to_bytes(2, "big")
            fields["hash"] = toeplitz(key, flow)
            fields["queue"] = queues[fields["hash"] % RSS_ENTRIES % len(queues)]
        if is_udp and payload and not self.setting.udp_split >> fields["queue"] & 1:
            return fields | {"reason": rx.UDP_WHOLE, "queue": 0}
        fields |= {"header_length": header, "payload_length": payload}
        return fields | {"reason": rx.SPLIT if payload else rx.HEADER_ONLY}

    def exact(self, is_udp, l4):
        flow = (self.source, l4.sport, self.destination, l4.dport, is_udp)
        for rule in self.setting.exact:
            if flow == (rule.remote, rule.remote_port, rule.local, rule.local_port, rule.udp):
                return rule, (EXACT_TAG + rule.slot(self.parameters)) % 4096
        return None

    def listener(self, is_udp, l4):
        for rule in sorted(self.setting.listeners, key=lambda rule: rule.index):
            ports = range(rule.first, max(rule.first, rule.last) + 1)
            address = None if rule.address is None else self.setting.addresses[rule.address]
            if (
                (rule.valid, rule.udp) == (True, is_udp)
                and l4.dport in ports
                and address in (None, self.destination)
            ):
                return rule, rule.index
        return None


def packed(address):
    """Bytes of an address in text."""
    return ipaddress.ip_address(address).packed
