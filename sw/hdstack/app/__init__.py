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
    """Load all compiled code: to be called before privileges are dropped."""
    from .. import atomic

    atomic.warm()
