"""What should become of any frame, byte strings without sense included.

Dissection and checksums are scapy's; the order of the checks is that of `Verify` and `Steer`.
"""

import socket

from ingress_bench import OWN_IPV4, OWN_IPV6, OWN_MAC, PORT, QUEUE
from scapy.layers.inet import IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.utils import checksum

from hdsnic.abi import RxOutcome

EXTENSIONS = {0, 43, 50, 51, 60, 135, 139, 140, 253, 254}
FRAME_BYTES_MAX = 9018


def expected(raw, error=False):
    """(outcome, fields of the SteeredFrame or None), with the bench's default setting."""
    found = _dropped_or_found(raw, error)
    if isinstance(found, RxOutcome):
        return found, None
    fields = {
        "bytes": raw,
        "length": len(raw),
        "header_length": len(raw),
        "payload_length": 0,
        "queue": 0,
        "tag": 0,
        "checksum_good": 0,
    } | found
    return fields["reason"], fields


def _dropped_or_found(raw, error):
    rx = RxOutcome
    if error:
        return rx.BAD_FCS
    if len(raw) > FRAME_BYTES_MAX:
        return rx.OVERSIZE
    if len(raw) < 14:
        return rx.RUNT
    if raw[:6] != OWN_MAC and not raw[0] & 1:
        return rx.MAC_FILTER
    at, tags = 12, 0
    while tags < 2 and raw[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at, tags = at + 4, tags + 1
    if len(raw) < at + 2:
        return rx.RUNT
    kind = raw[at : at + 2]
    packet = raw[at + 2 :]
    fields = {"vlan_tags": tags, "ipv6": int(kind == b"\x86\xdd")}
    if kind == b"\x08\x00":
        return _ipv4(packet, at + 2, fields)
    if kind == b"\x86\xdd":
        return _ipv6(packet, at + 2, fields)
    return fields | {"reason": rx.NOT_IP}


def _ipv4(packet, at, fields):
    rx = RxOutcome
    if len(packet) < 20:
        return rx.RUNT
    ip = IP(packet[:20])
    header = 4 * ip.ihl
    if ip.version != 4 or ip.ihl < 5 or not header <= ip.len <= len(packet):
        return rx.IP_HEADER
    if checksum(packet[:header]) != 0:
        return rx.IP_CHECKSUM
    if ip.flags.MF or ip.frag:
        return fields | {"reason": rx.FRAGMENT}
    pseudo = IP(src=ip.src, dst=ip.dst)
    return _transport(
        packet[header : ip.len],
        at + header,
        fields,
        ip.proto,
        lambda data: in4_chksum(ip.proto, pseudo, data),
        ip.dst == OWN_IPV4,
    )


def _ipv6(packet, at, fields):
    rx = RxOutcome
    if len(packet) < 40:
        return rx.RUNT
    ip = IPv6(packet[:40])
    if ip.version != 6 or 40 + ip.plen > len(packet):
        return rx.IP_HEADER
    if ip.nh == 44:
        return fields | {"reason": rx.FRAGMENT}
    if ip.nh in EXTENSIONS:
        return fields | {"reason": rx.EXTENSION}
    pseudo = IPv6(src=ip.src, dst=ip.dst)
    return _transport(
        packet[40 : 40 + ip.plen],
        at + 40,
        fields,
        ip.nh,
        lambda data: in6_chksum(ip.nh, pseudo, data),
        ip.dst == OWN_IPV6,
    )


def _transport(segment, at, fields, protocol, sum_of, is_local):
    rx = RxOutcome
    if protocol == socket.IPPROTO_UDP:
        if len(segment) < 8:
            return rx.RUNT
        udp = UDP(segment[:8])
        if not 8 <= udp.len <= len(segment):
            return rx.RUNT
        if udp.chksum or fields["ipv6"]:
            if not udp.chksum or sum_of(segment[: udp.len]) not in (0, 0xFFFF):
                return rx.L4_CHECKSUM
            fields["checksum_good"] = 1
        return fields | {"reason": rx.NOT_TCP}
    if protocol != socket.IPPROTO_TCP:
        return fields | {"reason": rx.NOT_TCP}
    if len(segment) < 20:
        return rx.TCP_HEADER
    tcp = TCP(segment[:20])
    header = 4 * tcp.dataofs
    if not 20 <= header <= len(segment):
        return rx.TCP_HEADER
    if sum_of(segment) not in (0, 0xFFFF):
        return rx.L4_CHECKSUM
    fields["checksum_good"] = 1
    payload = len(segment) - header
    if not is_local:
        return fields | {"reason": rx.NOT_LOCAL}
    if tcp.flags.S and payload:
        return fields | {"reason": rx.SYN_PAYLOAD}
    if tcp.dport != PORT:
        return fields | {"reason": rx.NO_RULE}
    fields |= {"queue": QUEUE, "tag": 5, "header_length": at + header, "payload_length": payload}
    return fields | {"reason": rx.SPLIT if payload else rx.HEADER_ONLY}
