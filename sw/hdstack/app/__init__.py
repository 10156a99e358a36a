"""What applications import: `await hdstack.connect(...)`, then streams in the manner of asyncio.

`pool` is the application's memory and its registration, `channel` its rings with the stack,
`streams` reading and writing, `runtime` joins them on an asyncio loop.
"""

from .runtime import Runtime, Server, connect
from .streams import NoResources, SendBuffer, StreamReader, StreamWriter, View

__all__ = [
    "NoResources", "Runtime", "SendBuffer", "Server", "StreamReader", "StreamWriter", "View",
    "connect", "warm",
]  # fmt: skip


def warm() -> None:
    """Load all code, also what the library loads late: to be called before privileges are dropped.

    Afterwards the process may be unable to read the files that it was started from.
    """
    import asyncio.sslproto
    import concurrent.futures.thread
    import encodings.idna  # noqa: F401

    from .. import atomic
    from . import runtime  # noqa: F401

    atomic.warm()
