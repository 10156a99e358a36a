"""The text of a segment script, read into steps. README.md of this folder has the grammar.

Nothing runs here. What cannot be read raises `ScriptError` with file, line, what was wrong and what
would be right.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hdstack.tcp.events import Option

__all__ = [
    "ANY", "APPLICATION", "CONFIGURATION", "ICMP6_KINDS", "ICMP_KINDS", "Call", "Icmp", "Script",
    "ScriptError", "SegmentText", "Step", "When", "format_segment", "load", "parse",
]  # fmt: skip

SECOND = 1_000_000_000
ANY = "*"

FLAG_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128}

ICMP_KINDS = {
    "net_unreachable": (3, 0),
    "host_unreachable": (3, 1),
    "protocol_unreachable": (3, 2),
    "port_unreachable": (3, 3),
    "frag_needed": (3, 4),
    "source_route_failed": (3, 5),
    "admin_prohibited": (3, 13),
    "source_quench": (4, 0),
    "ttl_exceeded": (11, 0),
    "parameter_problem": (12, 0),
}

ICMP6_KINDS = {
    "no_route": (1, 0),
    "admin_prohibited": (1, 1),
    "address_unreachable": (1, 3),
    "port_unreachable": (1, 4),
    "packet_too_big": (2, 0),
    "hop_limit_exceeded": (3, 0),
    "header_field": (4, 0),
    "next_header": (4, 1),
}

EXTENSIONS = ("hop", "routing", "destination", "fragment", "unknown")
"""Extension headers of IPv6 that a peer may put before TCP."""

APPLICATION = {
    "listen": "listen [port N] [backlog N]",
    "unlisten": "unlisten",
    "connect": "connect",
    "accept": "accept",
    "send": "send BYTES [urgent]",
    "read": "read BYTES",
    "drain": "drain",
    "shutdown": "shutdown",
    "close": "close [linger SECONDS]",
    "set": "set OPTION N [refused REASON]",
    "abort": "abort",
    "closed": "closed [REASON]",
    "die": "die",
    "peer": "peer NUMBER",
    "flood": "flood NUMBER",
    "expect": "expect readable BYTES | urgent BYTES | finished | silence | state NAME | gone"
    " | counter NAME OP N | failed REASON | problem REASON (or none) | FIELD OP N",
}
"""Words that begin a line of the application (or of the scene), with their form."""

BLOCKING = ("accept", "connect", "read", "drain", "closed")

CONFIGURATION = {
    "mss": 1460,
    "buffers": 64,
    "tolerance_ms": 1,
    "peer_isn": 1000,
    "isn": None,
    "peer_address": 0x0A4D0001,
    "ipv6": 0,
    "newreno": 0,
    "timestamps": 1,
    "sack": 1,
}
"""Names of the `config` line with what they are where it is silent."""

RFC = re.compile(r"RFC \d+ (section|appendix) [\dA-Z]")


class ScriptError(Exception):
    """A script that cannot be read, or that the stack does not follow."""

    def __init__(self, script, line, wrong, right=""):
        self.path, self.line, self.wrong, self.right = script, line, wrong, right
        super().__init__(f"{script}:{line}: {wrong}" + (f"; {right}" if right else ""))


@dataclass
class When:
    """Time of a step in ns: `+a`, `a`, `+a~+b` (at some time within) or `*` (at any time)."""

    relative: bool = True
    start: int = 0
    window: int | None = None
    blocks: int | None = None
    """How long the call of the application blocks."""
    any: bool = False


@dataclass
class SegmentText:
    """`S. 0:0(0) ack 1 win 65535 <mss 1460>`. Options: None (not named), ANY, or a list."""

    flags: int
    seq: int
    length: int
    ack: int | None = None
    window: int | None = None
    urgent: int = 0
    options: object = None
    hops: int | None = None
    """TTL or hop limit, looked at where a script names it; so too the traffic class."""
    traffic_class: int | None = None
    extensions: tuple = ()


@dataclass
class Icmp:
    """`icmp frag_needed mtu 1200 [1:1461(1460)]`: the message quotes a segment of ours."""

    kind: str
    mtu: int
    seq: int
    length: int


@dataclass
class Call:
    """A word of APPLICATION with its arguments."""

    name: str
    arguments: list = field(default_factory=list)


@dataclass
class Step:
    line: int
    when: When
    kind: str
    """`in`, `out`, `icmp` or `call`."""
    what: object


@dataclass
class Script:
    path: Path
    lines: list
    config: dict
    steps: list
    sections: list
    """RFC sections that the head names."""


def _time(text, fail):
    match = re.fullmatch(r"(\d+(\.\d*)?|\.\d+)", text)
    if not match:
        fail(f"'{text}' is no time", "times are seconds: 0, .25, 1.5")
    return round(float(text) * SECOND)


def _when(text, fail):
    if text == ANY:
        return When(any=True)
    if "..." in text:
        first, last = text.split("...", 1)
        when = _when(first, fail)
        when.blocks = _time(last.removeprefix("+"), fail)
        return when
    if "~" in text:
        first, last = text.split("~", 1)
        when = _when(first, fail)
        when.window = _time(last.removeprefix("+"), fail)
        if when.window < when.start:
            fail(f"'{text}' ends before it begins", "write the earlier time first")
        return when
    relative = text.startswith("+")
    return When(relative, _time(text.removeprefix("+"), fail))


def _number(text, what, fail):
    try:
        value = int(text, 0)
    except ValueError:
        fail(f"'{text}' is no number for {what}", f"as in: {what} 1460")
    if value < 0:
        fail(f"{what} is {value}", "zero or more")
    return value


def _option(text, fail):
    """One option of a list, as (name, values...)."""
    words = text.split()
    known = "mss N, wscale N, sackOK, TS val N ecr N, sack A:B .., nop, eol, hex DIGITS"
    if not words:
        fail("an option between two commas is empty", f"options are: {known}")
    name = words[0]
    if name in ("nop", "eol", "sackOK") and len(words) == 1:
        return (name,)
    if name in ("mss", "wscale") and len(words) == 2:
        return (name, _number(words[1], name, fail))
    if name == "TS" and len(words) == 5 and words[1] == "val" and words[3] == "ecr":
        value = [ANY if w == ANY else _number(w, "TS", fail) for w in (words[2], words[4])]
        return ("TS", *value)
    if name == "sack" and len(words) > 1:
        blocks = []
        for block in words[1:]:
            match = re.fullmatch(r"(\d+):(\d+)", block)
            if not match:
                fail(f"'{block}' is no SACK block", "as in: sack 1461:2921")
            blocks.append((int(match[1]), int(match[2])))
        return ("sack", *blocks)
    if name == "hex" and len(words) == 2 and re.fullmatch(r"([0-9a-fA-F]{2})+", words[1]):
        return ("hex", bytes.fromhex(words[1]))
    fail(f"'{text}' is no option", f"options are: {known}")


def _range(text, fail):
    match = re.fullmatch(r"(\d+):(\d+)\((\d+)\)", text)
    if not match:
        fail(f"'{text}' is no range of numbers", "as in: 1:1461(1460)")
    first, last, length = (int(part) for part in match.groups())
    if (last - first) & 0xFFFFFFFF != length:
        fail(
            f"'{text}' has {last - first} numbers but says {length}",
            f"{first}:{last}({(last - first) & 0xFFFFFFFF})",
        )
    return first, length


def _segment(text, inbound, fail):
    options = None
    match = re.search(r"<(.*)>\s*$", text)
    if match:
        inside = match[1].strip()
        if inside == "...":
            options = ANY
        else:
            options = [_option(part, fail) for part in inside.split(",")] if inside else []
        text = text[: match.start()]
    words = text.split()
    if len(words) < 2:
        fail("a segment needs flags and a range", "as in: S. 0:0(0) ack 1 win 65535 <mss 1460>")
    flags = 0
    for letter in words[0] if words[0] != "-" else "":
        if letter not in FLAG_BITS:
            fail(
                f"'{letter}' in '{words[0]}' is no flag",
                "flags are F S R P U E(CE) W(CWR), a dot for ACK, - for none",
            )
        flags |= FLAG_BITS[letter]
    seq, length = _range(words[1], fail)
    made = SegmentText(flags, seq, length, options=options)
    rest = words[2:]
    while rest:
        name = rest.pop(0)
        if name not in ("ack", "win", "urg", "hops", "class", "ext") or not rest:
            fail(
                f"'{name}' does not belong here",
                "after the range come: ack N, win N, urg N, hops N, class N, ext NAME,NAME, <..>",
            )
        value = rest.pop(0)
        if name == "ext":
            made.extensions = tuple(value.split(","))
            if not inbound or not set(made.extensions) <= set(EXTENSIONS):
                fail(f"'ext {value}' cannot be", f"of a peer: {', '.join(EXTENSIONS)}")
            continue
        if name == "ack":
            made.ack = _number(value, name, fail)
        elif name == "win":
            made.window = _number(value, name, fail)
        elif name == "hops":
            made.hops = _number(value, name, fail)
        elif name == "class":
            made.traffic_class = _number(value, name, fail)
        else:
            made.urgent = _number(value, name, fail)
    if bool(flags & FLAG_BITS["."]) != (made.ack is not None):
        fail(
            "the flag for ACK and the number do not agree",
            "with a dot in the flags write 'ack N', without it do not",
        )
    if not inbound and any(o[0] == "hex" for o in options or [] if options != ANY):
        fail("hex options cannot be expected", "name the options")
    return made


def _icmp(text, kinds, fail):
    match = re.fullmatch(r"icmp (\w+)(?: mtu (\d+))?\s*\[(.*)\]", text.strip())
    if not match or match[1] not in kinds:
        fail(
            f"'{text.strip()}' is no ICMP message",
            f"as in: icmp frag_needed mtu 1200 [1:1461(1460)]; kinds are {', '.join(kinds)}",
        )
    seq, length = _range(match[3].strip(), fail)
    return Icmp(match[1], int(match[2] or 0), seq, length)


def _call(text, fail):
    words = text.split()
    if words[0] not in APPLICATION:
        fail(
            f"'{words[0]}' is no word of a script",
            f"'<' for the peer, '>' for the stack, or one of {', '.join(APPLICATION)}",
        )
    name, arguments = words[0], words[1:]
    form = APPLICATION[name]
    least = len(form.partition("[")[0].split()) - 1 if name != "expect" else 1
    if len(arguments) < least or (len(form.split()) == 1 and arguments):
        fail(f"'{text}' is incomplete or has too much", f"the form is: {form}")
    if name in ("send", "read", "peer", "flood"):
        if arguments[1:] not in ([], ["urgent"] if name == "send" else []):
            fail(f"'{text}' has too much", f"the form is: {form}")
        arguments = [_number(arguments[0], name, fail), *arguments[1:]]
    if name == "set" and arguments[0].upper() not in Option.__members__:
        known = ", ".join(option.name.lower() for option in Option)
        fail(f"'{arguments[0]}' is no option", f"options are: {known}")
    if name == "expect":
        _check_expect(arguments, form, fail)
    return Call(name, arguments)


def _check_expect(arguments, form, fail):
    words = {"readable": 2, "finished": 1, "silence": 1, "state": 2, "gone": 1, "failed": 2,
             "problem": 2, "urgent": 2}  # fmt: skip
    what = arguments[0]
    size = words.get(what, 4 if what == "counter" else 3)
    operators = ("==", "!=", "<", "<=", ">", ">=")
    if len(arguments) != size or (what not in words and arguments[-2] not in operators):
        fail(f"'expect {' '.join(arguments)}' cannot be read", f"the form is: {form}")
    if what in ("readable", "urgent") or what not in words:
        _number(arguments[-1], what, fail)


def _config(text, config, fail):
    for part in text.split():
        name, equals, value = part.partition("=")
        if name not in CONFIGURATION or not equals:
            fail(
                f"'{part}' is no setting",
                f"as in: config mss=1460; settings are {', '.join(CONFIGURATION)}",
            )
        config[name] = _number(value, name, fail)


def parse(text, path="script"):
    """Read the text of a script."""
    lines = text.splitlines()
    config, steps, sections = dict(CONFIGURATION), [], []
    for at, raw in enumerate(lines, 1):

        def fail(wrong, right="", at=at):
            raise ScriptError(path, at, wrong, right)

        if raw.lstrip().startswith("#") and not steps:
            sections += re.findall(r"RFC \d+ (?:section|appendix) [\w.]*\w", raw)
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        if line.startswith("config "):
            if steps:
                fail("config comes after the first step", "write it above")
            _config(line.removeprefix("config "), config, fail)
            continue
        first, _, rest = line.partition(" ")
        rest = rest.strip()
        if not re.match(r"[+.\d*]", first) or not rest:
            fail(f"'{line}' does not begin with a time", "as in: +0 accept, +.2 > . 1:1(0) ack 1")
        when = _when(first, fail)
        if rest.startswith("<") and "icmp" in rest:
            kinds = ICMP6_KINDS if config["ipv6"] else ICMP_KINDS
            kind, what = "icmp", _icmp(rest[1:], kinds, fail)
        elif rest.startswith(("<", ">")):
            kind = "in" if rest[0] == "<" else "out"
            what = _segment(rest[1:], kind == "in", fail)
        else:
            kind, what = "call", _call(rest, fail)
        if kind != "out" and (when.any or when.window is not None):
            fail("only what the stack sends can come within a window of time", "write one time")
        if when.blocks is not None and (kind != "call" or what.name not in BLOCKING):
            fail("this does not block", f"a...b is for {', '.join(BLOCKING)}")
        steps.append(Step(at, when, kind, what))
    if not sections:
        raise ScriptError(
            path, 1, "the head names no RFC section", "begin with: # RFC 9293 section 3.5: ..."
        )
    if not steps:
        raise ScriptError(path, len(lines), "the script has no steps", "as in: +0 listen")
    return Script(Path(path), lines, config, steps, sections)


def load(path):
    """Read the script at `path`."""
    return parse(Path(path).read_text(), path)


def _format_option(option):
    name, *values = option
    if name == "TS":
        return f"TS val {values[0]} ecr {values[1]}"
    if name == "sack":
        return "sack " + " ".join(f"{a}:{b}" for a, b in values)
    if name == "hex":
        return f"hex {values[0].hex()}"
    return " ".join(str(v) for v in option)


def format_segment(segment):
    """A segment as a script writes it."""
    flags = "".join(c for c in "FSRPUEW." if segment.flags & FLAG_BITS[c]) or "-"
    text = f"{flags} {segment.seq}:{(segment.seq + segment.length) & 0xFFFFFFFF}({segment.length})"
    if segment.ack is not None:
        text += f" ack {segment.ack}"
    if segment.window is not None:
        text += f" win {segment.window}"
    if segment.urgent:
        text += f" urg {segment.urgent}"
    if segment.hops not in (None, 64):
        text += f" hops {segment.hops}"
    if segment.traffic_class:
        text += f" class {segment.traffic_class}"
    if segment.extensions:
        text += f" ext {','.join(segment.extensions)}"
    if segment.options == ANY:
        text += " <...>"
    elif segment.options is not None:
        text += f" <{','.join(map(_format_option, segment.options))}>"
    return text
