"""Neighbours that may be gone (RFC 4861 section 7.3, RFC 1122 section 2.3.2.1) and addresses that
another host may have (RFC 5227, RFC 4862 section 5.4), for both families; scapy is the oracle."""

import ipaddress

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from tcp_host import MS, QUEUE, Host, S, load

from hdstack.tcp.events import CloseReason, EventKind, Option, RequestKind

OUR_MAC, PEER_MAC, NEW_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:09"
US = {4: "10.77.0.2", 6: "fd00:77::2"}
PEER = {4: "10.77.0.1", 6: "fd00:77::1"}
EVERYBODY = "ff:ff:ff:ff:ff:ff"


class Link:
    """A host of ours and the neighbour on its link, in one family of addresses."""

    def __init__(self, family, compiled=False):
        self.family, self.us, self.peer = family, US[family], PEER[family]
        self.host = Host(load(compiled))
        ours = ipaddress.ip_address(US[6])
        self.host.tables.add_address(self.host.s, *self.host.tables.split_address(ours), 64)
        self.mac = PEER_MAC
        self.seq, self.ack = 1000, 0
        self.connection = None

    def give(self, packet, src=None, dst=OUR_MAC, queue=0):
        frame = bytes(Ether(src=src or self.mac, dst=dst) / packet)
        host = self.host
        host.memory[: len(frame)] = np.frombuffer(frame, np.uint8)
        host.m.net_input.on_frame(
            host.s, queue, host.memory, 0, len(frame), 0, -1, 0, 60, 1, host.now
        )
        host.step()
        return self.sent()

    def sent(self):
        return [Ether(frame) for frame in self.host.transmit()]

    def after(self, ns):
        """Let time pass; all that is sent meanwhile, with its time since now in ms."""
        start, end, found = self.host.now, self.host.now + ns, []
        for _ in range(1000):
            following = self.host.timers()
            found += [((self.host.now - start) // MS, frame) for frame in self.sent()]
            if following > end:
                break
            self.host.now = max(following, self.host.now)
        self.host.now = end
        return found

    # TCP

    def segment(self, flags, ack=None, window=60000):
        layer = IP if self.family == 4 else IPv6
        ack = self.ack if ack is None else ack
        tcp = TCP(sport=40000, dport=80, flags=flags, seq=self.seq, ack=ack, window=window)
        return self.give(layer(src=self.peer, dst=self.us) / tcp, queue=QUEUE)

    def open(self):
        self.host.listen(80)
        (answer,) = self.segment("S")
        self.seq, self.ack = self.seq + 1, answer[TCP].seq + 1
        self.segment("A")
        self.connection = self.host.last(EventKind.ACCEPTED)["connection"]

    def say(self):
        """Send 10 bytes; the segment."""
        self.host.send(self.connection, b"0123456789")
        (segment,) = [f for f in self.sent() if TCP in f]
        self.ack = segment[TCP].seq + 10
        return segment

    def exchange(self):
        self.say()
        assert self.segment("A") == []

    # questions for MAC addresses

    def question(self, frame):
        """Whom the frame asks, if it asks for the peer: its destination, else None."""
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == self.peer:
            assert (frame[ARP].psrc, frame[ARP].hwsrc) == (self.us, OUR_MAC)
            return frame.dst
        if ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == self.peer:
            assert frame[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
            unicast = not frame.dst.startswith("33:33:")
            assert frame[IPv6].dst == (self.peer if unicast else "ff02::1:ff00:1")
            return frame.dst
        return None

    def questions(self, frames):
        return [(at, to) for at, f in frames if (to := self.question(f)) is not None]

    def until_everybody_is_asked(self):
        """Let time pass, a minute at most; all that is sent meanwhile."""
        frames = []
        for _ in range(60):
            frames += self.after(S)
            if self.everybody in [to for _, to in self.questions(frames)]:
                return frames
        raise AssertionError("nobody was asked")

    def answer(self, mac=None, option=True, solicited=1, override=1):
        mac = mac or self.mac
        if self.family == 4:
            packet = ARP(op=2, hwsrc=mac, psrc=self.peer, hwdst=OUR_MAC, pdst=self.us)
            return self.give(packet, src=mac)
        packet = IPv6(src=self.peer, dst=self.us, hlim=255)
        packet /= ICMPv6ND_NA(tgt=self.peer, S=solicited, R=0, O=override)
        return self.give(packet / ICMPv6NDOptDstLLAddr(lladdr=mac) if option else packet, src=mac)

    def ask(self, mac=None):
        """The peer asks for us, so we know it."""
        mac = mac or self.mac
        if self.family == 4:
            return self.give(ARP(hwsrc=mac, psrc=self.peer, pdst=self.us), src=mac)
        packet = IPv6(src=self.peer, dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt=self.us)
        return self.give(
            packet / ICMPv6NDOptSrcLLAddr(lladdr=mac), src=mac, dst="33:33:ff:00:00:02"
        )

    @property
    def everybody(self):
        return EVERYBODY if self.family == 4 else "33:33:ff:00:00:01"

    @property
    def state(self):
        """State of the neighbour's row, with STALE for one that nothing confirmed lately."""
        for row in self.host.s["neighbours"]:
            if str(self.host.tables.join_address(int(row["high"]), int(row["address"]))) == (
                self.peer
            ):
                stale = row["state"] == 2 and self.host.now - row["confirmed"] >= 30 * S
                return "STALE" if stale else ("", "ASKED", "KNOWN", "DELAY", "PROBE")[row["state"]]
        return ""


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def link(request):
    return Link(request.param)


def test_who_asked_us_is_stale_until_tcp_confirms_it(link):
    link.ask()
    assert link.state == "STALE"
    link.open()
    link.host.now += 2 * S
    link.say()
    assert link.state == "DELAY"
    link.segment("A")
    assert link.questions(link.after(6 * S)) == [] and link.state == "KNOWN"
    link.host.now += 30 * S
    assert link.state == "STALE"
    assert link.questions(link.after(3600 * S)) == []  # nothing is sent: nobody needs to know


def test_three_probes_by_unicast_then_three_to_all_then_it_is_forgotten(link):
    link.ask()
    link.host.now += 40 * S
    host = link.host
    at = next(k for k, row in enumerate(host.s["neighbours"]) if row["state"])
    link.host.connect(int(ipaddress.ip_address(link.peer)), 81)
    (syn,) = link.sent()
    assert syn.dst == PEER_MAC and link.state == "DELAY"
    # its SYN is lost and doubts at the first time-out, before the 5 s are over
    questions = link.questions(link.after(9 * S))
    assert questions == [
        (1000, PEER_MAC), (2000, PEER_MAC), (3000, PEER_MAC),
        (4000, link.everybody), (5000, link.everybody), (6000, link.everybody),
    ]  # fmt: skip
    assert host.s["neighbours"][at]["state"] == 0


def test_a_use_that_nothing_confirms_is_probed_after_five_seconds(link):
    link.ask()
    link.open()
    link.host.now += 40 * S
    # an ACK of the peer's FIN is never acknowledged: nothing confirms, and nothing times out
    assert [f[TCP].flags for f in link.segment("FA")] == ["A"]
    assert link.questions(link.after(5 * S - 1)) == [] and link.state == "DELAY"
    assert link.questions(link.after(1)) == [(0, PEER_MAC)]
    assert link.state == "PROBE"
    link.answer(option=link.family == 4)  # an answer to unicast may leave the option out
    assert link.state == "KNOWN"
    assert link.questions(link.after(20 * S)) == []


def test_a_connection_moves_to_the_new_mac_address_of_its_neighbour_after_r1(link):
    link.ask()
    link.open()
    link.host.now += S
    assert link.say().dst == PEER_MAC
    frames = link.after(1399 * MS)
    assert {f.dst for _, f in frames} == {PEER_MAC} and link.questions(frames) == []
    frames = link.after(2 * MS)  # R1: the third time-out
    assert link.questions(frames) == [(1, PEER_MAC)] and link.state == "PROBE"
    frames = link.after(3 * S)  # nobody answers there
    assert link.questions(frames)[-1][1] == link.everybody
    link.answer(NEW_MAC)
    frames = [f for _, f in link.after(7 * S) if TCP in f]
    assert frames[-1].dst == NEW_MAC
    link.mac = NEW_MAC
    link.segment("A")
    assert link.state == "KNOWN" and link.say().dst == NEW_MAC


def test_an_answer_that_leads_nowhere_is_asked_about_again(link):
    nowhere = "02:00:00:00:00:66"
    link.ask()
    link.open()
    link.host.now += S
    link.say()
    link.after(5 * S)  # R1, and nobody answers at the old address
    link.answer(nowhere)
    frames = link.until_everybody_is_asked()
    assert [f.dst for _, f in frames if TCP in f][-1] == nowhere
    link.answer(NEW_MAC)
    frames = link.after(60 * S)
    assert [f.dst for _, f in frames if TCP in f][-1] == NEW_MAC


@pytest.mark.parametrize("how", ["persist", "keep-alive"])
def test_probes_without_an_answer_look_for_the_neighbour(link, how):
    """Of a closed window, and of a peer that is idle: there is nothing that could be sent again."""
    link.ask()
    link.open()
    link.segment("A", window=0 if how == "persist" else 60000)
    if how == "persist":
        link.host.send(link.connection, b"0123456789")
    else:
        for option, value in ((Option.KEEPALIVE, 1), (Option.KEEPALIVE_INTERVAL, 10)):
            link.host.request(
                RequestKind.OPTION, connection=link.connection, port=option, length=value
            )
        link.host.now += 7199 * S
    frames = link.until_everybody_is_asked()
    assert {f.dst for _, f in frames if TCP in f} == {PEER_MAC}
    link.answer(NEW_MAC)
    assert [f.dst for _, f in link.after(60 * S) if TCP in f][-1] == NEW_MAC


def test_a_peer_that_repeats_what_was_acknowledged_is_looked_for(link):
    """Who only acknowledges has no time-out that would tell."""
    link.ask()
    link.open()
    assert [f.dst for f in link.segment("FA") if TCP in f] == [PEER_MAC]
    link.host.now += 2 * S
    frames = link.segment("FA")
    assert [link.question(f) for f in frames if TCP not in f] == [PEER_MAC]
    link.answer(NEW_MAC)
    for _ in range(2):
        link.host.now += 2 * S
        assert NEW_MAC in [f.dst for f in link.segment("FA") if TCP in f]


def test_a_claim_moves_no_connection_that_goes_well(link):
    link.ask()
    link.open()
    link.host.now += S
    link.exchange()
    link.answer(NEW_MAC)
    link.ask(NEW_MAC)
    link.host.now += S
    assert link.say().dst == PEER_MAC


def test_a_neighbour_that_is_gone_is_the_reason_of_the_end(link):
    link.ask()
    link.open()
    link.say()
    link.after(400 * S)
    assert link.host.app.closed[link.connection] == CloseReason.UNREACHABLE
    link.host.check_whole()


def test_nobody_is_asked_for_the_sake_of_a_syn_that_may_be_forged(link):
    link.host.listen(80)
    link.segment("S")
    frames = link.after(100 * S)
    assert sum(TCP in f for _, f in frames) == 5 and link.questions(frames) == []
    assert link.state == ""


def test_a_neighbour_that_others_confirm_is_not_doubted(link):
    """A router that carries other connections is not asked because one peer behind it is silent."""
    link.ask()
    link.open()
    link.host.now += S
    link.say()
    row = link.host.s["neighbours"][0]
    questions = []
    for _ in range(30):
        row["confirmed"] = link.host.now
        questions += link.questions(link.after(100 * MS))
    assert link.host.count("timeouts") >= 4 and questions == []


def test_an_advertisement_that_does_not_override_only_raises_doubt():
    link = Link(6)
    link.ask()
    link.open()
    link.host.now += S
    link.say()
    link.host.now += S
    row = link.host.s["neighbours"][0]
    row["confirmed"] = link.host.now
    assert link.state in ("KNOWN", "DELAY")
    mac = int(row["mac"])
    link.answer(NEW_MAC, override=0)
    assert int(row["mac"]) == mac


# addresses of ours


def probing(family=None):
    """A host that has just begun to look for duplicates, and the time since."""
    link = Link(family or 4)
    link.host.core.probe_addresses(link.host.s, link.host.now)
    return link


def locals_of(link):
    return {
        str(link.host.tables.join_address(int(r["high"]), int(r["address"]))): int(r["state"])
        for r in link.host.s["locals"][: int(link.host.s["control"]["locals"])]
    }


def test_addresses_are_probed_before_they_are_used_and_announced_afterwards():
    link = probing()
    frames = link.after(999 * MS)
    probes = [(at, f) for at, f in frames if ARP in f]
    assert [at for at, _ in probes] == [0, 300, 600]
    for _, frame in probes:
        arp = frame[ARP]
        assert (arp.op, arp.psrc, arp.pdst, arp.hwsrc) == (1, "0.0.0.0", US[4], OUR_MAC)
        assert (frame.dst, arp.hwdst) == (EVERYBODY, "00:00:00:00:00:00")
    ((at, solicitation),) = [(at, f) for at, f in frames if ICMPv6ND_NS in f]
    assert at == 0 and solicitation[ICMPv6ND_NS].tgt == US[6]
    assert (solicitation[IPv6].src, solicitation[IPv6].dst) == ("::", "ff02::1:ff00:2")
    assert solicitation.dst == "33:33:ff:00:00:02" and solicitation[IPv6].hlim == 255
    assert ICMPv6NDOptSrcLLAddr not in solicitation
    assert bytes(solicitation) == bytes(Ether(bytes(solicitation)))
    assert set(locals_of(link).values()) == {1}
    frames = link.after(10 * S)
    told = [(at, f[ARP].psrc, f[ARP].pdst) for at, f in frames if ARP in f]
    assert told == [(1, US[4], US[4]), (2001, US[4], US[4])]
    adverts = [(at, f) for at, f in frames if ICMPv6ND_NA in f]
    assert [at for at, _ in adverts] == [1, 2001]
    advert = adverts[0][1]
    assert (advert[IPv6].dst, advert[ICMPv6ND_NA].S, advert[ICMPv6ND_NA].O) == ("ff02::1", 0, 1)
    assert advert[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    assert set(locals_of(link).values()) == {0}


@pytest.mark.parametrize("family", [4, 6])
def test_a_tentative_address_answers_nobody(family):
    link = probing(family)
    link.after(500 * MS)
    assert link.ask() == []
    assert link.segment("S") == []
    link.after(S)
    assert len(link.ask()) == 1
    assert len(link.segment("S")) == 1


OTHERS = {
    "an answer": lambda: ARP(op=2, hwsrc=NEW_MAC, psrc=US[4], hwdst=OUR_MAC, pdst="0.0.0.0"),
    "a question of its": lambda: ARP(op=1, hwsrc=NEW_MAC, psrc=US[4], pdst="10.77.0.50"),
    "a probe at the same time": lambda: ARP(op=1, hwsrc=NEW_MAC, psrc="0.0.0.0", pdst=US[4]),
    "an advertisement": lambda: (
        IPv6(src=US[6], dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=US[6], S=0, R=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=NEW_MAC)
    ),
    "a solicitation at the same time": lambda: (
        IPv6(src="::", dst="ff02::1:ff00:2", hlim=255) / ICMPv6ND_NS(tgt=US[6])
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_an_address_that_another_host_has_is_never_used(kind):
    link = probing()
    link.after(100 * MS)
    packet = OTHERS[kind]()
    link.give(packet, src=NEW_MAC, dst="33:33:00:00:00:01" if IPv6 in packet else EVERYBODY)
    taken, free = (US[6], US[4]) if IPv6 in packet else (US[4], US[6])
    link.after(20 * S)
    assert locals_of(link) == {taken: 2, free: 0}
    row = next(r for r in link.host.s["locals"] if r["state"] == 2)
    assert int(row["mac"]) == int(NEW_MAC.replace(":", ""), 16)
    assert link.host.count("address_conflicts") == 1


def test_our_own_probes_that_come_back_are_no_conflict():
    link = probing()
    for _, frame in link.after(999 * MS):
        link.give(frame.payload, src=OUR_MAC, dst=frame.dst)
    link.after(S)
    assert set(locals_of(link).values()) == {0}


def test_a_later_conflict_is_counted_and_defended_every_ten_seconds():
    link = Link(4)
    forged = ARP(op=1, hwsrc=NEW_MAC, psrc=US[4], pdst=US[4])
    (defence,) = link.give(forged, src=NEW_MAC, dst=EVERYBODY)
    assert (defence[ARP].psrc, defence[ARP].pdst, defence[ARP].hwsrc) == (US[4], US[4], OUR_MAC)
    assert link.give(forged, src=NEW_MAC, dst=EVERYBODY) == []
    link.host.now += 10 * S
    assert len(link.give(forged, src=NEW_MAC, dst=EVERYBODY)) == 1
    assert link.host.count("address_conflicts") == 3
    assert locals_of(link)[US[4]] == 0
