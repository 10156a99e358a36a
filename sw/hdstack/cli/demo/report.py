"""What the demo found: figures of the processes, a verdict on each, and tables for people."""

import re
from dataclasses import asdict, dataclass, field

from rich.console import Console, Group
from rich.table import Table

from hdsnic import abi

from ..common import format_bytes, format_count

__all__ = [
    "Figures", "Row", "describe_memory", "drops_by_reason", "judge_card", "judge_memory",
    "payload_touched", "show",
]  # fmt: skip

_FAULTS = {
    "bad_fcs", "runt", "oversize", "ip_header", "ip_checksum", "tcp_header", "l4_checksum",
    "payload_too_large", "bad_region", "port_error",
}  # fmt: skip
"""Drops that mean a fault of ours where the peer is a sound kernel on a sound wire."""


_MEMORIES = {
    "pool": "payload pool of", "header": "header memory", "channel": "event and request rings of",
    "post": "post doorbell page of", "stack-pages": "stack's doorbell pages and mailbox",
    "state": "TCP state",
}  # fmt: skip


@dataclass
class Row:
    """A line of the transfer table."""

    title: str
    bytes: int
    seconds: float
    mb_per_second: float
    digest: str
    good: bool


@dataclass
class Figures:
    """All that the demo tells; `problems` is empty if all is as it should be."""

    peer: str = ""
    transfers: list[Row] = field(default_factory=list)
    cards: dict[str, dict] = field(default_factory=dict)
    """Card -> "harness" (cycles, frames, ...), "counters" (of the card), "seconds" measured."""
    stacks: dict[str, dict] = field(default_factory=dict)
    copied_bytes: dict[str, int] = field(default_factory=dict)
    memory: list[dict] = field(default_factory=list)
    isolation: list[tuple[str, bool, str]] = field(default_factory=list)
    capture: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        return asdict(self)


# -- memory ----------------------------------------------------------------------------------------


def describe_memory(maps: dict[str, list]) -> list[dict]:
    """A row for each shared memory: name, bytes, the permissions of each process ("rw", "r", or
    absent), and the bytes of pages that it ever touched. Memories are told apart by inode: names
    prove nothing."""
    rows: dict[int, dict] = {}
    for process, entries in maps.items():
        for entry in entries:
            row = rows.setdefault(
                entry["inode"], {"name": entry["name"], "bytes": 0, "seen": {}, "touched": {}}
            )
            seen, touched = row["seen"], row["touched"]
            seen[process] = max(seen.get(process, ""), entry["permissions"], key=len)
            touched[process] = touched.get(process, 0) + entry["resident"]
            row["bytes"] = max(row["bytes"], entry["bytes"])
    return sorted(rows.values(), key=lambda row: (row["name"], sorted(row["seen"])))


def payload_touched(rows: list[dict], process: str) -> int:
    """Bytes of pages of payload pools that a process ever touched, by the kernel's page tables:
    no process has copied more than that."""
    return sum(row["touched"].get(process, 0) for row in rows if _kind(row) == "pool")


def _kind(row: dict) -> str:
    """What a memory is for, by its name: "pool", "header", "post" (of a queue) and so on."""
    return re.sub(r"-\d+$", "", row["name"].removeprefix("hdsnic-"))


def judge_memory(rows: list[dict], applications: list[str]) -> list[str]:
    """Sentences about every memory that somebody sees who should not, or as he should not."""
    problems = []
    kinds: dict[str, list[dict]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)

    def expect(kind: str, common: dict[str, str], each_application: str | None) -> None:
        found = kinds.get(kind, [])
        wanted = (
            [common | {name: each_application} for name in applications]
            if each_application
            else [common]
        )
        for row in found:
            if row["seen"] not in wanted:
                problems.append(f"{row['name']} is mapped as {row['seen']}; allowed is {wanted}")
        for want in wanted:
            if not any(row["seen"] == want for row in found):
                problems.append(f"no memory {kind!r} is mapped as {want}")

    expect("header", {"device": "rw", "stack": "rw"}, None)
    expect("state", {"stack": "rw"}, None)
    expect("pool", {"device": "rw", "stack": "r"}, "rw")
    expect("channel", {"stack": "rw"}, "rw")
    expect("stack-pages", {"device": "rw", "stack": "rw"}, None)
    expect("post", {"device": "rw"}, "rw")
    return problems


# -- the card --------------------------------------------------------------------------------------


def drops_by_reason(counters: dict) -> dict[str, int]:
    """Dropped frames of all queues and the port, by reason; and refused descriptors and posts."""
    kinds = (
        ("rx", [o.label for o in abi.RxOutcome if o >= abi.RX_RECORDS]),
        ("tx", [o.label for o in abi.TxOutcome if o]),
        ("post", [o.label for o in abi.PostOutcome if o]),
    )
    out: dict[str, int] = {}
    for kind, labels in kinds:
        for row in counters.get(kind, {}).values():
            for label, count in row.items():
                if label in labels and count:
                    name = f"{kind} {label}"
                    out[name] = out.get(name, 0) + count
    return out


def _outcomes(counters: dict) -> int:
    """Of frames that came over the wire: what PLACE moved has been counted as that before."""
    rows = counters.get("rx", {}).values()
    return sum(sum(row.values()) - row.get("placed", 0) for row in rows)


def judge_card(name: str, harness: dict, counters: dict) -> list[str]:
    """Sentences about what the counters of a card should not show."""
    problems = []
    for what, meaning in (
        ("header_errors", "accesses outside the header memory"),
        ("payload_errors", "accesses outside the registered pools"),
        ("protocol_errors", "breaches of AXI4"),
        ("tx_errors", "frames that it marked bad"),
        ("capture_errors", "frames missing in the capture"),
    ):
        if harness.get(what):
            problems.append(f"{name}: {harness[what]} {meaning}")
    problems += [f"{name}: stuck: {what}" for what in harness.get("stuck", [])]
    frames, outcomes = counters["port"]["rx_frames"], _outcomes(counters)
    if frames != outcomes:
        problems.append(f"{name}: {frames} frames came, {outcomes} were accounted for")
    for reason, count in drops_by_reason(counters).items():
        kind, label = reason.split()
        if label in _FAULTS or (kind != "rx" and label != "flushed"):
            problems.append(f"{name}: {count} {kind} {label}")
    return problems


# -- tables ----------------------------------------------------------------------------------------


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    return table


def _transfers(figures: Figures) -> Table:
    table = _table("Transfers", "", "bytes", "seconds", "MB/s", "sha256")
    for row in figures.transfers:
        verdict = "[green]equal[/green]" if row.good else "[bold red]DIFFERS[/bold red]"
        table.add_row(
            row.title, format_count(row.bytes), f"{row.seconds:.1f}", f"{row.mb_per_second:.2f}",
            f"{row.digest[:12]}… {verdict}" if row.digest else verdict,
        )  # fmt: skip
    return table


def _card(figures: Figures) -> Table:
    table = _table("Cards and stacks", "", *figures.cards)
    cards = list(figures.cards.values())

    def row(title, value):
        table.add_row(title, *(value(card) for card in cards))

    def counted(name):
        return lambda card: format_count(card["counters"]["port"][name])

    row("frames in", counted("rx_frames"))
    row("frames out", counted("tx_frames"))
    row("simulated cycles", lambda card: format_count(card["harness"]["cycles"]))
    row(
        "cycles per second, awake",
        lambda c: format_count(
            round(c["harness"]["cycles"] * 1e9 / max(1, c["harness"]["awake_ns"]))
        ),
    )
    row("header port: written", lambda c: _traffic(c, "header_write_bytes"))
    row("header port: read", lambda c: _traffic(c, "header_read_bytes"))
    row("payload port: written", lambda c: _traffic(c, "payload_write_bytes"))
    row("payload port: read", lambda c: _traffic(c, "payload_read_bytes"))
    reasons = sorted({r for card in cards for r in drops_by_reason(card["counters"])})
    for reason in reasons:
        row(
            f"dropped or refused: {reason}",
            lambda c, reason=reason: format_count(drops_by_reason(c["counters"]).get(reason, 0)),
        )
    if not reasons:
        row("dropped or refused", lambda _: "0")
    return table


def _traffic(card: dict, name: str) -> str:
    return format_count(card["counters"]["port"][name])


def _copies(figures: Figures) -> Table:
    table = _table("Payload copied by a CPU in our processes", "process", "bytes", "known by")
    table.columns[2].justify = "left"
    for name, count in figures.copied_bytes.items():
        means = (
            "its page table: pages of pools it ever touched" if "stack" in name else "its counter"
        )
        table.add_row(name, format_count(count) if not count else f"[red]{count}[/red]", means)
    total = sum(figures.copied_bytes.values())
    table.add_row("[bold]all[/bold]", f"[bold {'red' if total else 'green'}]{total}[/]", "")
    return table


def _memory(figures: Figures) -> Table:
    names: list[str] = []
    for row in figures.memory:
        names += [name for name in row["seen"] if name not in names]
    names.sort(key=lambda name: (len(name) == 1, name))  # device and stack, then applications
    table = _table("Who maps which memory, by their own maps", "memory", "size", *names)
    for row in figures.memory:
        owners = [name for name in row["seen"] if len(name) == 1]
        title = f"{_MEMORIES.get(_kind(row), _kind(row))} {' '.join(owners)}"
        cells = (row["seen"].get(name, "-") for name in names)
        table.add_row(title, format_bytes(row["bytes"]), *cells)
    return table


def _isolation(figures: Figures) -> Table:
    table = _table("Isolation", "what", "enforced", "by", left=3)
    for what, enforced, means in figures.isolation:
        table.add_row(what, "[green]yes[/green]" if enforced else "[yellow]no[/yellow]", means)
    return table


def show(figures: Figures, console: Console) -> None:
    """Print all tables and the verdict."""
    console.print(
        Group(
            _transfers(figures), _card(figures), _copies(figures), _memory(figures),
            _isolation(figures),
        )
    )  # fmt: skip
    console.print(f"peer: {figures.peer}", highlight=False)
    console.print(f"capture: {figures.capture}", highlight=False, soft_wrap=True)
    if figures.problems:
        for problem in figures.problems:
            console.print("[bold red]not as it should be:[/bold red] ", end="")
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(
            f"[bold green]all is as it should be[/bold green] ({figures.seconds:.0f} s)",
            highlight=False,
        )
