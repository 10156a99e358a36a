"""Scripts that cannot be read, or that the stack does not follow: what the reader is told."""

import pytest
from script_language import ScriptError, format_segment, parse
from script_runner import Mismatch, Runner
from tcp_host import load as load_modules

HEAD = "# RFC 9293 section 3.5: opening\n"
OPENED = """+0 listen
+0 < S 0:0(0) win 65535 <mss 1460>
+0 > S. 0:0(0) ack 1 <mss 1460>
+0 < . 1:1(0) ack 1 win 65535
"""


def error_of(text):
    with pytest.raises(ScriptError) as caught:
        parse(HEAD + text, "some.script")
    return caught.value


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("listen", "does not begin with a time", "as in: +0 accept"),
        ("+x listen", "is no time", "times are seconds"),
        ("+0 lisen", "'lisen' is no word", "listen"),
        ("+0 send", "incomplete", "send BYTES"),
        ("+0 send 5 soon", "has too much", "send BYTES [urgent]"),
        ("+0 send many", "'many' is no number", "send 1460"),
        ("+0 accept 3", "incomplete or has too much", "accept"),
        ("+0 < X 0:0(0)", "'X' in 'X' is no flag", "flags are F S R P"),
        ("+0 < S 0:5(4)", "has 5 numbers but says 4", "0:5(5)"),
        ("+0 < S 0-5", "is no range", "1:1461(1460)"),
        ("+0 < S 0:0(0) ack 1", "do not agree", "ack N"),
        ("+0 < . 1:1(0)", "do not agree", "ack N"),
        ("+0 < S 0:0(0) wnd 4", "'wnd' does not belong here", "win N"),
        ("+0 < S 0:0(0) <mss>", "'mss' is no option", "wscale N"),
        ("+0 < S 0:0(0) <mss 1460,,nop>", "is empty", "options are"),
        ("+0 < . 1:1(0) ack 1 <sack 5>", "is no SACK block", "sack 1461:2921"),
        ("+0 > . 1:1(0) ack 1 <hex 0101>", "cannot be expected", "name the options"),
        ("+0~+1 < S 0:0(0)", "only what the stack sends", "write one time"),
        ("+2~+1 > S 0:0(0)", "ends before it begins", "earlier time first"),
        ("+0...+1 send 5", "does not block", "accept"),
        ("+0 < icmp odd [1:2(1)]", "is no ICMP message", "frag_needed"),
        ("config ipv6=1\n+0 < icmp frag_needed [1:2(1)]", "is no ICMP message", "packet_too_big"),
        ("+0 < . 1:1(0) ack 1 ext hop,odd", "'ext hop,odd' cannot be", "routing"),
        ("+0 > . 1:1(0) ack 1 ext hop", "cannot be", "of a peer"),
        ("+0 > . 1:1(0) ack 1 hops many", "'many' is no number", "hops"),
        ("+0 expect cwnd 5", "cannot be read", "FIELD OP N"),
        ("+0 expect counter timeouts = 5", "cannot be read", "counter NAME OP N"),
        ("config mtu=4\n+0 listen", "'mtu=4' is no setting", "mss=1460"),
        ("+0 listen\nconfig mss=600", "config comes after", "above"),
        ("", "has no steps", "+0 listen"),
    ],
)
def test_a_script_that_cannot_be_read_says_what_is_wrong_and_what_is_right(text, wrong, right):
    error = error_of(text)
    assert str(error).startswith(f"some.script:{error.line}: ")
    second = text.startswith(("+0 listen\nconfig", "config ipv6"))
    assert error.line == 1 + (second + 1 if text else 0)
    assert wrong in error.wrong and right in error.right


def test_a_script_without_an_rfc_section_is_refused():
    with pytest.raises(ScriptError, match="names no RFC section"):
        parse("# opening\n+0 listen\n")


@pytest.mark.parametrize(
    "text",
    [
        "S 0:0(0) win 65535 <mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7>",
        "FP. 1:11(10) ack 77 win 5 urg 3",
        ". 1:1(0) ack 1 win 9 <nop,nop,sack 5:9 20:30>",
        "- 1:1(0) <...>",
        "R. 4294967295:0(1) ack 4294967295",
        "P. 1:11(10) ack 1 hops 7 class 32 ext hop,routing <nop>",
    ],
)
def test_segments_are_written_as_they_are_read(text):
    assert format_segment(parse(f"{HEAD}+0 < {text}").steps[0].what) == text


def run(text):
    Runner(parse(HEAD + text, "some.script"), load_modules(False)).run()


def mismatch_of(text):
    with pytest.raises(Mismatch) as caught:
        run(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("+0 > S. 0:0(0) ack 1 <mss 1461>", 4, "options"),
        ("+0 > S. 0:0(0) ack 1", 4, "options, of which none is expected"),
        ("+0 > S. 0:0(0) ack 2 <mss 1460>", 4, "ack"),
        ("+0 > S. 0:1(1) ack 1 <mss 1460>", 4, "length"),
        ("+0 > SF. 0:0(0) ack 1 <mss 1460>", 4, "flags"),
        ("+0 > S. 0:0(0) ack 1 win 7 <mss 1460>", 4, "window"),
        ("+0 > S. 0:0(0) ack 1 hops 63 <mss 1460>", 4, "hops"),
        ("+0 > S. 0:0(0) ack 1 class 4 <mss 1460>", 4, "traffic_class"),
        ("+.1 > S. 0:0(0) ack 1 <mss 1460>", 4, "time"),
        ("+.1 expect silence", 4, "the stack sent a segment that the script does not expect"),
        ("+0 peer 2\n+0 > S. 0:0(0) ack 1 <mss 1460>", 5, "peer"),
    ],
)
def test_each_difference_of_a_segment_is_found(text, line, words):
    error = mismatch_of("+0 listen\n+0 < S 0:0(0) win 65535 <mss 1460>\n" + text)
    assert error.line == line and words in error.wrong.splitlines()[0]


def test_a_segment_that_does_not_come_and_one_too_many_are_found():
    assert "sent nothing" in mismatch_of(OPENED + "+.1 > . 1:1(0) ack 1").wrong
    error = mismatch_of("+0 listen\n+0 < S 0:0(0) win 65535 <mss 1460>")
    assert "does not expect" in error.wrong


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("+0 listen\n+0 accept", "'accept' would block"),
        (OPENED + "+0 accept\n+0 read 1", "'read' would block"),
        (OPENED + "+0 accept\n+0...+.1 read 5", "'read' still blocks"),
        (OPENED + "+0...+.1 accept", "'accept' returned early"),
        (OPENED + "+0 expect state CLOSING", "'state' is another"),
        (OPENED + "+0 expect finished", "'finished' is another"),
        (OPENED + "+0 expect problem TIMED_OUT", "'problem' is another"),
        (OPENED + "+0 expect readable 1", "'readable' is another"),
        (OPENED + "+0 expect cwnd < 5", "'cwnd' is another"),
        (OPENED + "+0 expect colour == 5", "no field 'colour'"),
        (OPENED + "+0 expect gone", "'state' is another"),
        (OPENED + "+0 < R 1:1(0)\n+0 closed NORMAL", "ended for another reason"),
    ],
)
def test_an_application_that_is_told_something_else_is_found(text, words):
    assert words in mismatch_of(text).wrong


def test_a_mismatch_shows_the_line_both_segments_and_the_trace():
    text = str(mismatch_of(OPENED + "+0 accept\n+0 send 10\n+0 > . 1:11(10) ack 1\n+0 accept\n"))
    assert "--> " in text and "8 +0 > . 1:11(10) ack 1" in text
    assert "expected  0.000000 > . 1:11(10) ack 1" in text
    assert "got       0.000000 > P. 1:11(10) ack 1 win" in text
    assert "> S. 0:0(0) ack 1 win 5840 <mss 1460>" in text.partition("trace")[2]


def test_wrong_bytes_of_the_stream_are_found(monkeypatch):
    text = OPENED + "+0 accept\n+0 send 10\n+0 > P. 1:11(10) ack 1"
    run(text)
    monkeypatch.setattr(
        "script_wire.Peer.our_stream", lambda peer, start, n: bytes([start & 255]) * n
    )
    run(text)
    monkeypatch.setattr("script_runner.Runner.call_send", spoiled_send)
    assert "is not what was sent" in mismatch_of(text).wrong


def spoiled_send(runner, length):
    runner.host.send(runner.peer.connection, bytes(length))
