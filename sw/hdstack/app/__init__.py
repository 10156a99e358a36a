"""What applications import: `await hdstack.connect(...)`, then streams in the manner of asyncio.

`pool` is the application's memory and its registration, `channel` its rings with the stack,
`streams` reading and writing over one `connection`, `datagrams` UDP with asyncio's `transport` over
it; `runtime` joins them on an asyncio loop.
"""

from .buffers import SendBuffer, View
from .connection import NoResources
from .datagrams import DatagramSocket
from .runtime import Runtime, Server, connect
from .streams import StreamReader, StreamWriter
from .transport import DatagramTransport

__all__ = [
    "DatagramSocket", "DatagramTransport", "NoResources", "Runtime", "SendBuffer", "Server",
    "StreamReader", "StreamWriter", "View", "connect", "warm",
]  # fmt: skip


def warm() -> None:
    """Load all code, also what the library loads late: to be called before privileges are dropped.

    Afterwards the process may be unable to read the files that it was started from.
    """
    import asyncio.sslproto  # noqa: F401
    import concurrent.futures.thread  # noqa: F401
    import encodings.idna  # noqa: F401

    from .. import atomic
    from . import runtime  # noqa: F401

    atomic.warm()
