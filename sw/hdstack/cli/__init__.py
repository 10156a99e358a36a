"""The command line `hdsnic`: a thin shell over the packages, one module for each command."""

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 if all is well, else non-zero with one clear sentence."""
    from .app import run

    raise SystemExit(run(arguments))
