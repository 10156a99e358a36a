"""What commands share: where a run lives, the console, and how figures are written."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..run_directory import default_run_directory
from .errors import CommandError

__all__ = [
    "RunDirectory", "console", "format_bytes", "format_count", "say",
]  # fmt: skip

console = Console()
"""Results go here (standard output)."""

say = Console(stderr=True)
"""Progress, remarks and errors go here."""


def make_run_directory(path: Path) -> Path:
    """The run directory, made if need be. Applications of other users may pass through it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the run directory {path}: {error.strerror}") from None
    if path.stat().st_uid not in (os.getuid(), 0):
        raise CommandError(f"the run directory {path} belongs to another user; choose one by --run")
    return path


RunDirectory = Annotated[
    Path,
    typer.Option(
        "--run",
        help="Run directory: where device and stack have their sockets. Also HDSNIC_RUN.",
        show_default="$XDG_RUNTIME_DIR/hdsnic",
        default_factory=default_run_directory,
    ),
]


def format_bytes(count: float) -> str:
    """A number of bytes for people: 33554432 is "32.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def format_count(count: int) -> str:
    """A count for people: 1234567 is "1,234,567"."""
    return f"{count:,}"
