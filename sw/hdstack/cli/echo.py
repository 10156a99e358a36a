"""`hdsnic echo`: whatever comes by UDP goes back to where it came from (RFC 862).

The smallest application of datagrams: it reads each where the card wrote it, and answers out of a
buffer that the card reads. The one copy, from one to the other, is its own.
"""

from pathlib import Path

from .application import run_application, tell_ready
from .common import say

__all__ = ["run_echo"]


async def _answer(runtime, bound, figures: dict) -> None:
    views, source = await bound.recv_views()
    length = sum(map(len, views))
    figures["datagrams"] += 1
    figures["bytes"] += length
    buffer = await runtime.buffer(max(length, 1))
    filled = 0
    for view in views:
        with view:
            buffer.data[filled : filled + len(view)] = view.data
            filled += len(view)
    await bound.send_buffer(buffer, length, source)


def run_echo(
    run_directory: Path,
    port: int,
    pool_bytes: int,
    uid: int | None,
    ready_fd: int | None,
    parent_pid: int | None,
    control_fd: int | None,
) -> None:
    """Echo on UDP `port` until interrupted."""
    figures = {"datagrams": 0, "bytes": 0, "errors": 0}

    async def body(runtime) -> None:
        async with await runtime.bind_datagram(("", port)) as bound:
            if ready_fd is None:
                where = f"{runtime.address}, UDP port {port}"
                say.print(f"echo at {where} ; Ctrl-C ends it", soft_wrap=True)
            tell_ready(ready_fd)
            while True:
                try:
                    await _answer(runtime, bound, figures)
                except OSError:  # of an answer before: whom it was for is gone
                    if bound.closing:
                        raise
                    figures["errors"] += 1

    run_application(
        body, run_directory, pool_bytes, uid, parent_pid, control_fd, lambda _: dict(figures)
    )
