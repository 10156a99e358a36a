"""Sizes of the tables that an installation may choose, by environment variables.

They are part of the type of the tables, so compiled code of other sizes is never taken for it. A
stack and its successor must be started with the same ones.
"""

import os

from ..errors import ConfigurationError

__all__ = ["BLOCK", "connections_per_queue"]

BLOCK = 64
"""Rows of connections come in blocks of so many, for the timers."""
_LEAST, _MOST, _DEFAULT = 64, 8192, 1024


def connections_per_queue() -> int:
    """Connections of an application: HDSNIC_CONNECTIONS, a multiple of 64 from 64 to 8192."""
    text = os.environ.get("HDSNIC_CONNECTIONS", str(_DEFAULT))
    if not text.isdigit() or int(text) % BLOCK or not _LEAST <= int(text) <= _MOST:
        raise ConfigurationError(
            f"HDSNIC_CONNECTIONS is {text!r}: connections of an application, a multiple of {BLOCK}"
            f" from {_LEAST} to {_MOST}, are needed"
        )
    return int(text)
