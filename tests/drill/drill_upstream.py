"""Plays packetdrill's own scripts, which are of Linux's TCP, on this stack.

    python drill_upstream.py packetdrill/gtests/net/tcp [NAME...]

A line each: ok, or FAILED with what the tool said. docs/packetdrill.md says what to think of it.
Scripts are played as they are but for: shell commands (they would set up the kernel of this
machine) and blocks of code, which go; the window scale of our SYN; and PSH, which an RFC leaves to
the sender: where the stack's is another one, the script is given it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from drill_build import ROOT, build, find_packetdrill, run

COMMAND = re.compile(r"^([ \t+.0-9]*)`[^`]*`", re.M)
CODE = re.compile(r"^[ \t]*[+.0-9]*[ \t]*%\{.*?\}%", re.M | re.S)
OUR_SYN = re.compile(r"^(\s*[-+*.~0-9]*\s*>\s*S\S*\s.*?)(<[^>]*>)(.*)$", re.M)
WRONG_PSH = re.compile(r":(\d+): .*tcp_psh: expected: (\d)")
SETTINGS = {
    "tcp_timestamps=0": "timestamps=0",
    "tcp_sack=0": "sack=0",
    "congestion_control=reno": "congestion=reno",
}
PSH_MOST = 60
__all__ = ["adapt", "play"]


def adapt(text: str) -> tuple[str, str]:
    """A script for this stack, and the flags that stand for its kernel settings."""
    flags = ",".join(flag for setting, flag in SETTINGS.items() if setting in text)
    text = CODE.sub("", COMMAND.sub("", text))
    text = OUR_SYN.sub(
        lambda found: found[1] + re.sub(r"wscale \d+", "wscale 4", found[2]) + found[3], text
    )
    return text, flags


def turn_psh(line: str, expected: bool) -> str:
    """The line of a segment of ours without PSH where that was expected, else with it."""
    if expected:
        return re.sub(r">(\s*)(F?)P", r">\1\2", line)
    return re.sub(r">(\s*)(F?)\.", r">\1\2P.", line)


def play(packetdrill: str, library: Path, script: Path, folder: Path) -> tuple[bool, str, int]:
    """Whether the script passes, what the tool said, and how often PSH was another one."""
    text, flags = adapt(script.read_text())
    lines, turned = text.splitlines(), 0
    version = "ipv6" if "v6" in script.name else "ipv4"
    played = folder / script.name
    while True:
        played.write_text("\n".join(lines) + "\n")
        try:
            done = run(packetdrill, library, played, flags, version)
        except subprocess.TimeoutExpired as error:
            return False, f"no end within {error.timeout} s", turned
        said = (done.stdout + done.stderr).strip()
        wrong = WRONG_PSH.search(said)
        if not wrong or turned == PSH_MOST:
            return done.returncode == 0, said, turned
        at = int(wrong[1]) - 1
        before, lines[at] = lines[at], turn_psh(lines[at], wrong[2] == "1")
        if before == lines[at]:
            return False, said, turned
        turned += 1


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    packetdrill = find_packetdrill()
    if packetdrill is None:
        raise SystemExit("no packetdrill: docs/packetdrill.md says how to build it")
    top = Path(sys.argv[1])
    names = sys.argv[2:] or sorted(str(path.relative_to(top)) for path in top.rglob("*.pkt"))
    library = build(ROOT / "build" / "drill")
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            good, said, turned = play(packetdrill, library, top / name, Path(folder))
            passed += good
            lines = [line for line in said.splitlines() if line.startswith(Path(name).name)]
            first = "" if good else (lines or [said or "no word"])[0][:200]
            note = f" (PSH in {turned} segments)" if turned else ""
            print(f"{'ok' if good else 'FAILED':6} {name}{note} {first}".rstrip(), flush=True)
    print(f"{passed} of {len(names)}")


if __name__ == "__main__":
    main()
