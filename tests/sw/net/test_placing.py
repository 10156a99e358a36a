"""Payload that came whole is moved by PLACE: not acknowledged before, lost where it finds no
buffer, and no other application's business."""

import functools

import pytest
from fragment_host import (
    NO_RULE,
    PEER6,
    QUEUE,
    US6,
    FragmentHost,
    cut,
    ethernet,
    opened,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Raw
from tcp_host import ACK, ELEMENT, MS, PSH, S, Script

from hdstack.tcp.events import EventKind

BYTES = bytes(k * 13 & 255 for k in range(70000))
OTHER = QUEUE + 1


@pytest.fixture
def host():
    return FragmentHost(apps=2)


def segment(script, offset, payload, flags="PA", ack=1, **fields):
    """The packet of a segment of the peer, by relative numbers."""
    tcp = TCP(
        sport=script.sport, dport=script.port, seq=script.iss + 1 + offset,
        ack=(script.irs + ack) & 0xFFFFFFFF, flags=flags, window=60000, **fields,
    )  # fmt: skip
    return IP(src="10.77.0.1", dst="10.77.0.2") / tcp / Raw(payload)


def received(script, queue=QUEUE):
    return bytes(script.host.apps[queue].streams.get(script.connection, b""))


def acked(script, answers):
    """The newest number that TCP acknowledged, relative, or None."""
    numbers = [f[TCP].ack - script.iss - 1 for f in answers if TCP in f]
    return numbers[-1] if numbers else None


@pytest.mark.parametrize("size", [8, 500, 1460, 2048, 2049, 4000])
def test_a_segment_in_fragments_reaches_its_application(host, size):
    script = opened(host)
    answers = host.give(*cut(segment(script, 0, BYTES[:size]), 400 if size > 400 else 24))
    assert received(script) == BYTES[:size] and acked(script, answers) == size
    pieces = -(-size // ELEMENT)
    assert host.count("placed") == pieces and host.count("reassembled") == 1
    host.check_holds()
    host.check_whole()


@pytest.mark.parametrize("mark", [1, 2048, 2049, 4500, 9000])
def test_an_urgent_mark_stays_where_it_is_in_each_piece(host, mark):
    script = opened(host)
    whole = segment(script, 0, BYTES[:5000], "UPA", urgptr=mark)
    host.give(*cut(whole, 400))
    assert received(script) == BYTES[:5000]
    told = [e["length"] for e in host.app.events if e["kind"] == EventKind.URGENT]
    assert told == [mark]


@pytest.mark.parametrize("later", [False, True])
def test_no_piece_behind_an_urgent_mark_moves_it(host, later):
    """Neither where the bytes before are missing, nor where a piece finds no buffer."""
    script = opened(host)
    first = 1000 if later else 0
    host.give(*cut(segment(script, first, BYTES[first : first + 5000], "UPA", urgptr=10), 400))
    if later:
        host.give(*cut(segment(script, 0, BYTES[:first]), 400))
    assert received(script) == BYTES[: first + 5000]
    told = [e["length"] for e in host.app.events if e["kind"] == EventKind.URGENT]
    assert told == [first + 10]


def test_an_urgent_mark_is_right_when_the_first_piece_comes_again(host):
    script = opened(host)
    host.app.posted.clear()
    frames = cut(segment(script, 0, BYTES[:5000], "UPA", urgptr=10), 400)
    host.give(*frames)
    host.app.posted += range(8)
    host.give(*frames)
    assert received(script) == BYTES[:5000]
    told = [e["length"] for e in host.app.events if e["kind"] == EventKind.URGENT]
    assert told == [10]


def test_a_datagram_of_64_kib_comes_in_pieces_and_its_fin_last(host):
    script = opened(host)
    host.s["connections"]["rcv_adv"] += 70000  # as if so much had been promised
    frames = cut(segment(script, 0, BYTES[:65000], "FPA"), 1400)
    host.hand_in(frames[-1])
    for frame in frames[:-1]:
        host.hand_in(frame)
        assert received(script) == b"" and script.connection not in host.app.finished
    host.place()
    host.step()
    assert received(script) == BYTES[:65000]
    assert script.connection in host.app.finished
    assert len(host.commands) == 32 and {queue for _, queue, _ in host.commands} == {QUEUE}


def test_a_whole_segment_of_a_known_connection_is_moved(host):
    """R32: it landed on queue 0 although its connection is known."""
    script = opened(host)
    frame = bytes(ethernet() / segment(script, 0, BYTES[:1000]))
    host.hand_in(frame, NO_RULE)
    host.step()
    assert host.transmit() == [] and script.row["rcv_nxt"] == script.iss + 1
    assert received(script) == b"", "nothing is known of it before it is in a buffer"
    host.place()
    assert acked(script, host.give()) == 1000 and received(script) == BYTES[:1000]
    assert host.count("whole_payload") == host.count("placed") == 1
    assert host.count("copied_bytes") == len(frame)
    host.check_whole()


def test_extension_headers_that_the_card_does_not_split_and_a_wrong_sum_behind_them(host):
    host.listen(80)
    seq = 5000

    def over(flags, seq, ack, payload=b"", **fields):
        packet = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrFragment(id=5) / IPv6ExtHdrDestOpt()
        tcp = TCP(sport=4, dport=80, flags=flags, seq=seq, ack=ack, window=60000, **fields)
        return ethernet() / packet / tcp / Raw(payload)

    (answer,) = host.give(over("S", seq, 0))
    host.give(over("A", seq + 1, answer[TCP].seq + 1))
    host.give(over("PA", seq + 1, answer[TCP].seq + 1, b"wrong", chksum=0x1234))
    assert host.count("bad_checksum") == 1 and host.count("placed") == 0
    host.give(over("PA", seq + 1, answer[TCP].seq + 1, b"right"))
    (stream,) = host.app.streams.values()
    assert bytes(stream) == b"right" and host.count("placed") == 1


def test_a_wrong_sum_over_fragments_is_dropped_before_place(host):
    script = opened(host)
    assert host.give(*cut(segment(script, 0, BYTES[:900], chksum=0x1234))) == []
    assert host.count("bad_checksum") == 1 and host.commands == []
    assert host.holds(0) == host.tables.HOLDS


def test_without_a_posted_buffer_the_segment_is_lost_and_comes_again(host):
    script = opened(host)
    kept, host.app.posted = host.app.posted, []
    assert host.give(*cut(segment(script, 0, BYTES[:900]))) == []
    assert host.dropped_no_buffer == 1 and host.holds(3) == 1
    assert script.row["rcv_nxt"] == script.iss + 1
    host.now += 250 * MS
    host.deadline()
    assert host.holds(0) == host.tables.HOLDS and host.count("place_dropped") == 1
    host.app.posted = kept
    assert acked(script, host.give(*cut(segment(script, 0, BYTES[:900]), number=78))) == 900
    assert received(script) == BYTES[:900]
    host.check_whole()


def test_a_refused_command_frees_its_hold(host):
    script = opened(host)
    host.refuses = True
    assert host.give(*cut(segment(script, 0, BYTES[:3000]))) == []
    assert host.count("place_refused") == 2 and host.holds(0) == host.tables.HOLDS
    host.refuses = False
    host.give(*cut(segment(script, 0, BYTES[:3000]), number=78))
    assert received(script) == BYTES[:3000]


def test_a_lost_command_times_out_and_what_comes_of_it_late_goes_back(host):
    script = opened(host)
    host.lost = True
    host.give(*cut(segment(script, 0, BYTES[:900])))
    ((cookie, queue, length),) = host.commands
    assert host.deadline() == host.now + 5 * S
    host.now += 5 * S
    host.deadline()
    assert host.count("place_lost") == 1 and host.holds(0) == host.tables.HOLDS
    host.lost = False
    host.move(queue, bytes(length), cookie)
    assert received(script) == b"" and host.count("place_late") == 1
    host.m.net_placing.place_answered(host.s, cookie, False, host.now)
    host.give(*cut(segment(script, 0, BYTES[:900]), number=78))
    assert received(script) == BYTES[:900]
    host.move(queue, bytes(length), cookie)
    host.move(queue, bytes(length), cookie & 0x7FFFFFFF)
    assert host.count("place_late") == 3 and received(script) == BYTES[:900]
    host.check_whole()


def test_records_that_do_not_fit_their_command_carry_nothing(host):
    script = opened(host)
    host.lost = True
    host.give(*cut(segment(script, 0, BYTES[:900])))
    ((cookie, _, length),) = host.commands
    host.move(QUEUE, bytes(length - 1), cookie)
    host.move(QUEUE, bytes(length), cookie + 1)
    host.move(OTHER, bytes(length), cookie)
    assert host.count("place_late") == 3 and received(script) == b""
    host.check_whole()


def test_one_application_leaves_room_for_the_moves_of_another(host):
    one, two = opened(host, 80), Script(host, port=81, sport=41000)
    host.listen(81, queue=OTHER)
    two.open(mss=1460)
    two.connection = host.apps[OTHER].events[-1]["connection"]
    host.lost = True
    for k in range(40):
        frame = bytes(ethernet() / segment(one, 10 * k, BYTES[:10]))
        host.hand_in(frame, NO_RULE)
        for part in cut(segment(one, 10 * k, BYTES[:900]), number=k):
            host.hand_in(part)
    assert host.holds(3) == 16 and host.count("place_no_room") == 80 - 16
    for k in range(3):  # larger than the room for a frame: moved from where they were made
        for part in cut(segment(one, 10 * k, BYTES[:10000]), number=50 + k):
            host.hand_in(part)
    assert host.holds(3) == 16 + 1 and host.count("place_no_room") == 80 - 16 + 2
    host.lost = False
    host.give(*cut(segment(two, 0, BYTES[:900])))
    host.give(ethernet() / segment(two, 900, BYTES[900:1000]), reason=NO_RULE)
    assert received(two, OTHER) == BYTES[:1000]


def test_an_application_that_leaves_is_sent_nothing_more(host):
    script = opened(host)
    host.hand_in(bytes(ethernet() / segment(script, 0, BYTES[:100])), NO_RULE)
    for part in cut(segment(script, 0, BYTES[:900])):
        host.hand_in(part)
    assert host.holds(3) == 2
    host.core.drop_owner(host.s, QUEUE, host.now)
    host.m.net_placing.drop_queue(host.s, QUEUE)
    host.place()
    assert host.commands == [] and host.holds(0) == host.tables.HOLDS
    host.check_holds()


def test_strangers_in_fragments_are_reset_and_a_fragmented_syn_opens(host):
    host.listen(80)
    stranger = IP(src="10.77.0.1", dst="10.77.0.2") / TCP(sport=9, dport=80, flags="PA", ack=5)
    (answer,) = host.give(*cut(stranger / Raw(BYTES[:900])))
    assert answer[TCP].flags == "R" and host.commands == []
    syn = IP(src="10.77.0.1", dst="10.77.0.2") / TCP(sport=9, dport=80, flags="S", seq=7)
    (answer,) = host.give(*cut(syn / Raw(BYTES[:900]), number=78))
    assert answer[TCP].flags == "SA" and answer[TCP].ack == 8


def test_a_cookie_that_comes_back_with_data_in_fragments_opens(host):
    """The listener's application gets what nobody has a connection for yet (R32)."""
    host.listen(80)
    rows = host.s["listeners"]
    rows["backlog"][rows["port"] == 80] = 0
    syn = IP(src="10.77.0.1", dst="10.77.0.2") / TCP(sport=9, dport=80, flags="S", seq=7)
    (answer,) = host.give(ethernet() / syn, reason=NO_RULE)
    assert host.count("cookies_sent") == 1
    data = IP(src="10.77.0.1", dst="10.77.0.2") / TCP(
        sport=9, dport=80, flags="PA", seq=8, ack=answer[TCP].seq + 1, window=60000
    )
    host.give(*cut(data / Raw(BYTES[:900])))
    (stream,) = host.app.streams.values()
    assert bytes(stream) == BYTES[:900] and host.count("cookies_taken") == 1


@functools.cache
def only_host():
    return FragmentHost()


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_stream_in_fragments_arrives_whole(data):
    """Segments cut into fragments, mixed with whole and with split ones, in any order within a
    window, some of them without an answer of the card: the stream is the peer's."""
    host = only_host().renew()
    sport = host.next_port = getattr(host, "next_port", 20000) + 1
    script = opened(host, 80, sport) if sport == 20001 else Script(host, sport=sport)
    if script.connection is None:
        script.open(mss=1460)
    sizes = data.draw(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
    total, jobs = sum(sizes), []
    at = 0
    for number, size in enumerate(sizes):
        jobs.append((number, at, size, data.draw(st.sampled_from(["cut", "whole", "split"]))))
        at += size
    number = 100
    for _ in range(6):
        for _, start, size, how in data.draw(st.permutations(jobs)):
            payload = BYTES[start : start + size]
            number += 1
            if how == "split" and size <= ELEMENT:
                script.give(PSH | ACK, seq=1 + start, ack=1, payload=payload)
            elif how == "whole":
                host.give(ethernet() / segment(script, start, payload), reason=NO_RULE)
            else:
                frames = cut(segment(script, start, payload), 600, number)
                if len(frames) > 1 and data.draw(st.booleans()):
                    frames.pop(data.draw(st.integers(0, len(frames) - 1)))
                host.give(*frames)
        if script.row["rcv_nxt"] == script.iss + 1 + total:
            break
        host.now += S
        host.deadline()
    got = received(script)
    assert got == BYTES[: len(got)]
    assert script.row["rcv_nxt"] == script.iss + 1 + len(got)
    host.check_holds()
