"""`make bench-hw`: cycles a frame of the whole card, every byte checked, against its targets.

Writes build/bench/hw.json, {"rows": [...], "latency": [...]}; each row with its target. Ends with
1 if a delivered byte is wrong or a count does not add up, and, with --check, if a figure is beyond
its target.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.card import BenchCard, BenchError
from bench.scenes import Load, Result, run, time_one
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
JSON = ROOT / "build" / "bench" / "hw.json"
PAGE = ROOT / "docs" / "results" / "hardware.md"
MSS = 1460
TSO_BYTES = 65536
LATENCY_LIMIT = 30
"""Cycles from the last byte in to the record, beside the beats of the longer port's write."""
_RECORD_BYTES = 70


@dataclass(frozen=True)
class Case:
    """A load, how it is called, and the most cycles that a frame may take.

    `direction` is `rx`, `tx` or `rx+tx` for the loads of the requirement, alone; others say what
    is different about them.
    """

    direction: str
    load: Load
    needs: str = ""  # feature bit without which the card cannot do it

    def target(self, bus_bytes: int) -> float:
        beats = -(-self.load.frame_bytes // bus_bytes)
        if self.load.tso_bytes:
            return segmented_beats(bus_bytes) / -(-TSO_BYTES // MSS)
        if self.load.frame_bytes == 60:
            if bus_bytes == 64:
                return 2.1
            return 10.5 if self.load.sent else 9.5
        if self.load.frame_bytes == 1514:
            return {8: 191, 64: 26}[bus_bytes]
        return beats + 1


def segmented_beats(bus_bytes: int) -> int:
    """Beats of the segments of TSO_BYTES, headers included."""
    sizes = [min(MSS, TSO_BYTES - at) + 54 for at in range(0, TSO_BYTES, MSS)]
    return sum(-(-size // bus_bytes) for size in sizes)


CASES = (
    Case("rx", Load(60, received=3000)),
    Case("tx", Load(60, sent=3000)),
    Case("rx+tx", Load(60, received=3000, sent=3000)),
    Case("rx, 4 queues", Load(60, received=3000, queues=4)),
    Case("tx, 4 queues", Load(60, sent=3000, queues=4)),
    Case("rx", Load(1514, received=400)),
    Case("tx", Load(1514, sent=400)),
    Case("rx+tx", Load(1514, received=400, sent=400)),
    Case("rx", Load(9018, received=120, element_bytes=16384)),
    Case("tx", Load(9018, sent=120)),
    Case("rx+tx", Load(9018, received=120, sent=120, element_bytes=16384)),
    Case("rx, chains of 2 KiB buffers", Load(9018, received=120), needs="chains"),
    Case("tx, TSO of 64 KiB", Load(MSS + 54, sent=12, tso_bytes=TSO_BYTES), needs="tso"),
)


def measure(case: Case, bus_bytes: int, latency: int) -> dict:
    """A row of hw.json; `error` says what was wrong, or None."""
    row = {
        "direction": case.direction, "bus_bytes": bus_bytes,
        "frame_bytes": case.load.frame_bytes, "memory_latency_cycles": latency,
        "queues": case.load.queues, "cycles_per_frame": None,
        "target_cycles_per_frame": round(case.target(bus_bytes), 3), "met": False, "error": None,
    }  # fmt: skip
    try:
        result = run(bus_bytes, latency, case.load)
    except BenchError as error:
        row["error"] = str(error)
        return row
    return row | figures(result, row["target_cycles_per_frame"])


def figures(result: Result, target: float) -> dict:
    """What a run adds to its row; the slower direction decides."""
    cycles = max(result.cycles.values())
    each = {f"{name}_cycles_per_frame": round(c, 3) for name, c in result.cycles.items()}
    traffic = {name: round(value, 2) for name, value in result.traffic.items()}
    shown = round(cycles, 3)
    return {"cycles_per_frame": shown, **each, **traffic, "met": shown <= target}


def latency_row(bus_bytes: int, frame_bytes: int, latency: int) -> dict:
    """An entry of hw.json's `latency`."""
    beats = max(-(-_RECORD_BYTES // bus_bytes), -(-(frame_bytes - 54) // bus_bytes))
    # The limit is for ports of one cycle; others add what their memory takes, once for the data
    # and its acknowledgement.
    target = LATENCY_LIMIT + beats + latency - 1
    row = {
        "bus_bytes": bus_bytes, "frame_bytes": frame_bytes, "memory_latency_cycles": latency,
        "cycles_to_record": None, "target_cycles": target, "met": False, "error": None,
    }  # fmt: skip
    try:
        cycles = round(time_one(bus_bytes, frame_bytes, latency), 2)
    except BenchError as error:
        return row | {"error": str(error)}
    return row | {"cycles_to_record": cycles, "met": cycles <= target}


def features(bus_bytes: int) -> dict[str, int]:
    with BenchCard(bus_bytes, 1, (1,)) as card:
        return card.features()


def measure_all(widths, latencies, say) -> dict:
    rows, latency = [], []
    for bus_bytes in widths:
        able = features(bus_bytes)
        for case in CASES:
            if case.needs and not able[case.needs]:
                say(f"{bus_bytes}-byte bus: no {case.direction}, the card has no `{case.needs}`")
                continue
            for cycles in latencies:
                rows.append(measure(case, bus_bytes, cycles))
        latency += [latency_row(bus_bytes, n, c) for c in latencies for n in (60, 1514)]
    return {"rows": rows, "latency": latency}


# -- what people read ------------------------------------------------------------------------------

ROW_HEADS = (
    "bus", "direction", "frame", "memory", "cycles a frame", "target", "rx", "tx",
    "header port +", "payload port +", "",
)  # fmt: skip
LATENCY_HEADS = ("bus", "frame", "memory", "last byte in to record", "target", "")


def row_cells(row: dict) -> list[str]:
    def number(name, digits=2):
        value = row.get(name)
        return "" if value is None else f"{value:,.{digits}f}"

    verdict = f"FAILED: {row['error']}" if row["error"] else "" if row["met"] else "beyond"
    return [
        str(row["bus_bytes"]), row["direction"], f"{row['frame_bytes']:,}",
        str(row["memory_latency_cycles"]), number("cycles_per_frame"),
        number("target_cycles_per_frame"), number("rx_cycles_per_frame"),
        number("tx_cycles_per_frame"), number("header_port_overhead_bytes", 1),
        number("payload_port_overhead_bytes", 1), verdict,
    ]  # fmt: skip


def latency_cells(row: dict) -> list[str]:
    seen = row["cycles_to_record"]
    verdict = f"FAILED: {row['error']}" if row["error"] else "" if row["met"] else "beyond"
    return [
        str(row["bus_bytes"]), f"{row['frame_bytes']:,}", str(row["memory_latency_cycles"]),
        "" if seen is None else f"{seen:.1f}", str(row["target_cycles"]), verdict,
    ]  # fmt: skip


def show(results: dict, console: Console):
    tables = (
        ("Cycles a frame", ROW_HEADS, map(row_cells, results["rows"]), results["rows"]),
        ("Latency", LATENCY_HEADS, map(latency_cells, results["latency"]), results["latency"]),
    )
    for title, heads, cells, rows in tables:
        table = Table(title=title)
        for head in heads:
            table.add_column(head, justify="left" if head in ("direction", "") else "right")
        for texts, row in zip(cells, rows, strict=True):
            table.add_row(*texts, style=None if row["met"] else "red")
        console.print(table)


_PAGE = """\
# Speed of the card, in cycles

Made by `make bench-hw ARGS=--write-docs`. `make bench-hw` prints the same tables and writes
`build/bench/hw.json`; with `ARGS=--check` a figure beyond its target is a failure. How it is
measured: [tests/bench](../../tests/bench/README.md).

## Sustained load

Bus and frame (without FCS) in bytes, memory latency in cycles. Frames of 60 bytes are split into
54 bytes of header and 6 of payload. `header port +` and `payload port +`: bytes that the port moved
for a frame beside the frame's own (record, descriptor, index, post cell). `beyond`: over target.

{rows}

## From the last byte in to the record

Cycles from the last beat at the MAC to the write of the producer index in header memory, the card
idle before. Target: {limit} cycles, the beats of the longer port's write, and the memory's latency
beyond one cycle.

{latency}
"""


def page(results: dict) -> str:
    """docs/results/hardware.md."""

    def table(heads, rows):
        lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
        return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])

    return _PAGE.format(
        rows=table(ROW_HEADS, map(row_cells, results["rows"])),
        latency=table(LATENCY_HEADS, map(latency_cells, results["latency"])),
        limit=LATENCY_LIMIT,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="beyond target is a failure")
    parser.add_argument("--write-docs", action="store_true", help="write docs/results/hardware.md")
    parser.add_argument("--bus-bytes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--latency", type=int, nargs="+", default=[1, 200], help="cycles")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = measure_all(options.bus_bytes, options.latency, console.print)
    show(results, console)
    JSON.parent.mkdir(parents=True, exist_ok=True)
    JSON.write_text(json.dumps(results, indent=1) + "\n")
    if options.write_docs:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(results))
    everything = results["rows"] + results["latency"]
    wrong = [row for row in everything if row["error"]]
    beyond = [row for row in everything if not row["met"] and not row["error"]]
    console.print(
        f"{len(everything)} figures, {len(beyond)} beyond target, {len(wrong)} failed;"
        f" {JSON.relative_to(ROOT)} written"
    )
    return 1 if wrong or (options.check and beyond) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
