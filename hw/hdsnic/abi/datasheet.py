"""The tables of the datasheet, made from the contract: `make datasheet` writes docs/datasheet.md.

A test holds the committed page against this module, so the page cannot fall behind.
"""

import sys
from enum import IntEnum
from pathlib import Path

from . import layouts, outcomes, registers
from .layout import Layout, Register

__all__ = ["generate"]

_PAGES = (
    (registers.CONTROL_PAGE, registers.CONTROL),
    (registers.MANAGEMENT_PAGE, registers.MANAGEMENT),
    (registers.post_doorbell_page(0), registers.POST_DOORBELL),
    (registers.stack_doorbell_page(0), registers.STACK_DOORBELL),
)
_LAYOUTS = (
    layouts.RECORD, layouts.TIME_STAMP, layouts.CHAINED_BUFFER, layouts.DESCRIPTOR,
    layouts.VLAN_TAG, layouts.REFERENCE, layouts.POST_CELL, layouts.INDEX_SLOT, layouts.COMMAND,
    layouts.COMMAND_RANGE, layouts.EXACT_RULE, layouts.COMPLETION,
)  # fmt: skip


def _table(heads: tuple[str, ...], rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


def _bits(at: int, width: int) -> str:
    return f"{at}" if width == 1 else f"{at + width - 1}:{at}"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _registers(page: type) -> list[Register]:
    found = [value for value in vars(page).values() if isinstance(value, Register)]
    return sorted(found, key=lambda register: register.offset)


def _register_rows(page: type) -> list[tuple]:
    rows = []
    for register in _registers(page):
        offset = f"`0x{register.offset:03x}`"
        if register.count > 1:
            offset += f" + {register.stride} n, n < {register.count}"
        rows.append((offset, f"`{register.name}`", register.access.value, _sentence(register.doc)))
        at = 0
        for field in register.fields:
            if not field.name.startswith("spare"):
                rows.append(
                    ("", f"&nbsp;&nbsp;`{field.name}` [{_bits(at, field.bits)}]", "", field.doc)
                )
            at += field.bits
    return rows


def _layout_section(layout: Layout) -> str:
    rows = [
        (
            f"{layout.offsets[f.name] // 32}",
            _bits(layout.offsets[f.name] % 32, f.bits) if f.bits <= 32 else "31:0 and on",
            f"`{f.name}`",
            f.doc,
        )
        for f in layout.fields
    ]
    name = layout.name.replace("_", " ").capitalize()
    return f"### {name}: {layout.bytes} bytes\n\n{_sentence(layout.doc)}\n\n" + _table(
        ("word", "bits", "field", "meaning"), rows
    )


def _outcome_section(title: str, intro: str, outcome: type[IntEnum]) -> str:
    rows = [(int(m), f"`{m.label}`", m.doc, m.remedy) for m in outcome]
    return f"### {title}\n\n{intro}\n\n" + _table(("value", "name", "meaning", "remedy"), rows)


def generate() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Datasheet",
        "Made from `hw/hdsnic/abi` by `make datasheet`; not edited by hand. All registers are 32"
        " bits wide and all values little-endian, unless a line says otherwise. Version of this"
        f" contract: {registers.ABI_VERSION}.",
        "## Address map",
        _table(
            ("address", "page", "for whom"),
            [
                (f"`0x{registers.CONTROL_PAGE:05x}`", "control", "the stack"),
                (f"`0x{registers.MANAGEMENT_PAGE:05x}`", "management", "the registration service"),
                (f"`0x{registers.COUNTERS_PAGE:05x}`", "counters, 64 bits each", "the stack"),
                (
                    f"`0x{registers.DOORBELLS_PAGE:05x}` + 0x2000 q",
                    "post doorbell page of queue q",
                    "the application",
                ),
                (
                    f"`0x{registers.stack_doorbell_page(0):05x}` + 0x2000 q",
                    "stack doorbell page of queue q",
                    "the stack",
                ),
            ],
        ),
        "## Registers",
    ]
    for base, page in _PAGES:
        title, _, rest = _sentence(page.__doc__).partition(":")
        parts.append(f"### {title} (`0x{base:05x}`)\n\n{rest.strip() or title}")
        parts.append(
            _table(("offset", "register, field", "access", "meaning"), _register_rows(page))
        )
    parts.append("## Layouts in memory")
    parts.append(
        f"Receive and transmit rings count in cells of {layouts.CELL_BYTES} bytes, post rings in"
        f" cells of {layouts.POST_CELL.bytes} bytes. A ring is a power of two of at least"
        f" {layouts.RING_BYTES_MIN} bytes, aligned to its size. Indices are free-running 32-bit"
        " counts of cells."
    )
    parts.extend(_layout_section(layout) for layout in _LAYOUTS)
    parts.append("## Outcomes and their counters")
    parts.append(
        "Every frame, descriptor and post has exactly one outcome, and each outcome has a counter:"
        " what went in is what came out plus what was counted."
    )
    rx, tx = outcomes.RxOutcome, outcomes.TxOutcome
    post = outcomes.PostOutcome
    tables = (
        (
            "Received frames",
            f"Below {outcomes.RX_RECORDS} a record exists and the value is its `reason`; from"
            f" {outcomes.RX_RECORDS} on the frame was dropped. Counter of queue q and outcome o:"
            f" `0x{registers.rx_counter(0, rx(0)):05x}` + 256 q + 8 o; row"
            f" {registers.rx_port_row} is for frames that ended before a queue was known.",
            rx,
        ),
        (
            "Transmit descriptors",
            f"Counter: `0x{registers.tx_counter(0, tx(0)):05x}` + 64 q + 8 o.",
            tx,
        ),
        (
            "Cells of post rings",
            f"Counter: `0x{registers.post_counter(0, post(0)):05x}` + 64 q + 8 o.",
            post,
        ),
    )
    parts.extend(_outcome_section(*table) for table in tables)
    ports = [
        (f"`0x{registers.port_counter(name):05x}`", f"`{name}`", doc)
        for name, doc in registers.PORT_COUNTERS
    ]
    parts.append("### Ports\n\n" + _table(("address", "name", "meaning"), ports))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
