"""packetdrill plays our scripts on the stack, as docs/packetdrill.md says."""

from pathlib import Path

import pytest
from drill_build import run

SCRIPTS = Path(__file__).parent / "scripts"
NAMES = sorted(str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*.pkt"))


@pytest.mark.parametrize("name", NAMES)
def test_script(packetdrill, library, name):
    done = run(packetdrill, library, SCRIPTS / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "wrong", "words"),
    [
        ("+0  > P. 1001:1501(500) ack 501", "+0  > P. 1001:1502(501) ack 501", "tcp_seq"),
        ("+0  > . 1:1(0) ack 501", "+.1 > . 1:1(0) ack 501", "timing error"),
        ("+0  read(4, ..., 1000) = 500", "+0  read(4, ..., 1000) = 400", "Expected result 400"),
        ("+0  > . 1:1(0) ack 501", "+0  > . 1:1(0) ack 500", "tcp_ack_seq"),
        ("+0  > . 1:1(0) ack 501", "+0  > R. 1:1(0) ack 501", "tcp_rst"),
        ("<mss 1460,", "<mss 1400,", "mss 1400"),
    ],
)
def test_what_is_not_so_fails(packetdrill, library, tmp_path, line, wrong, words):
    text = (SCRIPTS / "passive.pkt").read_text()
    assert line in text
    script = tmp_path / "wrong.pkt"
    script.write_text(text.replace(line, wrong))
    done = run(packetdrill, library, script)
    assert done.returncode != 0 and words in done.stdout + done.stderr, done.stdout + done.stderr


def test_a_script_that_expects_what_never_comes_ends(packetdrill, library, tmp_path):
    script = tmp_path / "silence.pkt"
    text = (SCRIPTS / "passive.pkt").read_text()
    script.write_text(text + "+.1 > . 1501:1501(0) ack 501\n")
    done = run(packetdrill, library, script)
    assert done.returncode != 0
    assert "the stack has nothing to do and no timer is set" in done.stderr
