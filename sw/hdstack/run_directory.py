"""The run directory: where device and stack have their sockets, and applications find them."""

import os
import tempfile
from pathlib import Path

__all__ = ["default_run_directory"]


def default_run_directory() -> Path:
    """HDSNIC_RUN, else a directory of this user."""
    if given := os.environ.get("HDSNIC_RUN"):
        return Path(given)
    if home := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(home) / "hdsnic"
    return Path(tempfile.gettempdir()) / f"hdsnic-{os.getuid()}"
