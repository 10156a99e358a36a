"""Fragments and PLACE: compiled and interpreted do the same, row by row and byte by byte."""

import random

import numpy as np
from fragment_host import (
    NO_RULE,
    PEER,
    PEER6,
    US,
    US6,
    FragmentHost,
    cut,
    ethernet,
    opened,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Raw
from tcp_host import MS

DATA = random.Random(3).randbytes(70_000)


def traffic(script, seed, steps):
    """What comes, step by step: ("frames", frames, reason), ("wait", ns, 0) or ("card", how, 0)."""
    chance = random.Random(seed)
    at = number = 0
    for _ in range(steps):
        number += 1
        size = chance.choice([10, 500, 1460, 3000, 6000])
        kind = chance.choice(
            ["segment", "segment", "whole", "ping", "ping6", "udp", "wait", "card"]
        )
        if kind == "wait":
            yield "wait", chance.choice([1, 300, 6000, 61000]) * MS, 0
            continue
        if kind == "card":
            yield "card", chance.choice(["lost", "refuses"]), 0
            continue
        tcp = TCP(sport=script.sport, dport=script.port, seq=script.iss + 1 + at,
                  ack=script.irs + 1, flags="PA", window=60000)  # fmt: skip
        packet = {
            "segment": IP(src=PEER, dst=US) / tcp / Raw(DATA[at : at + size]),
            "whole": IP(src=PEER, dst=US) / tcp / Raw(DATA[at : at + min(size, 1460)]),
            "ping": IP(src=PEER, dst=US) / ICMP(id=1) / Raw(DATA[:size]),
            "ping6": IPv6(src=PEER6, dst=US6) / ICMPv6EchoRequest(data=DATA[:size]),
            "udp": IP(src=PEER, dst=US) / UDP(dport=9) / Raw(DATA[:size]),
        }[kind]
        if kind == "whole":
            at += min(size, 1460)
            yield "frames", [bytes(ethernet() / packet)], NO_RULE
            continue
        at += size if kind == "segment" else 0
        frames = cut(packet, chance.choice([200, 600, 1400]), number)
        chance.shuffle(frames)
        if chance.random() < 0.2:
            frames.pop()
        if chance.random() < 0.2:
            damaged = bytearray(chance.choice(frames)) if frames else bytearray(60)
            damaged[chance.randrange(14, len(damaged))] ^= chance.randrange(1, 256)
            frames.append(bytes(damaged))
        yield "frames", frames, 3


def run(host, steps):
    script = opened(host)
    sent = []
    for kind, what, reason in traffic(script, 5, steps):
        if kind == "wait":
            host.now += what
            host.deadline()
            host.timers()
        elif kind == "card":
            host.lost, host.refuses = what == "lost", what == "refuses"
        else:
            sent += [bytes(frame) for frame in host.give(*what, reason=reason)]
            host.lost = host.refuses = False
        host.check_holds()
    return sent


def test_both_forms_do_the_same():
    plain, fast = FragmentHost(compiled=False), FragmentHost(compiled=True)
    assert run(plain, 150) == run(fast, 150)
    assert plain.s.tobytes() == fast.s.tobytes()
    assert np.array_equal(plain.area, fast.area)
    assert plain.commands == fast.commands and plain.app.events == fast.app.events
    counted = {name: plain.count(name) for name in plain.m.tcp_counters.NAMES}
    for name in ("reassembled", "placed", "place_lost", "place_refused", "echo_replies",
                 "fragments_timed_out", "whole_payload"):  # fmt: skip
        assert counted[name] > 0, f"{name} was never tried"
