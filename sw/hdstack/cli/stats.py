"""`hdsnic stats`: every counter of the device and the stack that run, with meaning and remedy."""

import json
from pathlib import Path

from rich.table import Table

from hdsnic import abi

from .common import console, format_count

__all__ = ["gather", "show_stats"]

_OUTCOMES = {
    "rx": ("Received frames", abi.RxOutcome),
    "tx": ("Transmit descriptors", abi.TxOutcome),
    "post": ("Posted buffers", abi.PostOutcome),
}


def gather(run_directory: Path) -> dict:
    """All counters: "device" (of the card), "simulation" (of its process), "stack"."""
    from .. import driver, service

    stack = service.observe(run_directory, "stats")
    simulation = driver.observe(run_directory, "stats")
    return {
        "device": stack.pop("device"),
        "simulation": simulation["stats"],
        "stack": {name: value for name, value in stack.items() if name != "ok"},
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(
            column, justify="right" if column == "count" else "left", no_wrap=not number
        )
    return table


def _counters(kind: str, rows: dict, everything: bool) -> Table:
    title, outcomes = _OUTCOMES[kind]
    table = _table(title, "queue", "outcome", "count", "meaning", "remedy")
    for queue, counts in rows.items():
        for outcome in outcomes:
            count = counts.get(outcome.label, 0)
            if count or everything:
                table.add_row(
                    queue, outcome.label, format_count(count), outcome.doc, outcome.remedy
                )
    return table


def show_stats(run_directory: Path, as_json: bool, everything: bool) -> None:
    """Print them; zeros only where `everything` is asked for (JSON has what the stack gives)."""
    figures = gather(run_directory)
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    device = figures["device"]
    ports = _table("Ports", "counter", "count", "meaning")
    for name, doc in abi.PORT_COUNTERS:
        ports.add_row(name, format_count(device["port"][name]), doc)
    console.print(ports)
    for kind in _OUTCOMES:
        table = _counters(kind, device[kind], everything)
        if table.row_count:
            console.print(table)

    from ..tcp import counters

    tcp = _table("Stack", "counter", "count", "meaning", "remedy")
    for name, doc, remedy in counters.TABLE:
        count = figures["stack"]["tcp"].get(name, 0)
        if count or everything:
            tcp.add_row(name, format_count(count), doc, remedy)
    console.print(tcp)
    queues = _table("Queues", "queue", "counter", "count")
    for queue, counts in figures["stack"]["queues"].items():
        for name, count in counts.items():
            queues.add_row(queue, name, str(count))
    console.print(queues)
    simulation = _table("Simulation", "counter", "count")
    for name, count in figures["simulation"].items():
        if count or everything:
            text = format_count(count) if isinstance(count, int) else str(count)
            simulation.add_row(name, text)
    console.print(simulation)
