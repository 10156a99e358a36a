"""The life of a command that is an application: warm up, become another user, connect, be asked.

An application whose parent gave it a control socket (SOCK_SEQPACKET, JSON) answers `{"op":
"stats"}` and `{"op": "maps"}` on it: that is how the demo reads what applications see and did.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from .common import say
from .errors import CommandError

__all__ = ["Control", "run_application", "tell_ready"]

_LAST_WORDS_SECONDS = 1.0
"""For what a body has to say or to put away once the stack is gone."""


def tell_ready(ready_fd: int | None) -> None:
    """Tell the parent, by a line on its pipe, that all is set up."""
    if ready_fd is not None:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)


class Control:
    """Answers the parent on the control socket; `stats` gives the figures of the application."""

    def __init__(self, fd: int, stats: Callable[[], dict], maps: Callable[[], list]):
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._answers = {
            "stats": lambda: {"stats": stats()},
            "maps": lambda: {"maps": maps()},
        }
        asyncio.get_running_loop().add_reader(self._socket, self._serve)

    def _serve(self) -> None:
        try:
            message = self._socket.recv(4096)
        except BlockingIOError:
            return
        if not message:
            asyncio.get_running_loop().remove_reader(self._socket)
            return
        answer = self._answers.get(json.loads(message).get("op"))
        reply = {"ok": True, **answer()} if answer else {"ok": False, "error": "no such op"}
        with contextlib.suppress(BlockingIOError):
            self._socket.send(json.dumps(reply).encode())


def run_application(
    body: Callable[[object], Awaitable[None]],
    run_directory: Path,
    pool_bytes: int,
    uid: int | None,
    parent_pid: int | None,
    control_fd: int | None = None,
    stats: Callable[[object], dict] = lambda runtime: {},
) -> None:
    """Connect to the stack of `run_directory`, and run `body(runtime)` until it returns.

    All code is loaded before the user changes: the new one may not be able to read it.
    """
    from .. import app, memory

    app.warm()
    asyncio.run(asyncio.to_thread(int))  # asyncio itself loads parts of it late
    if uid is not None:
        memory.drop_to(uid)
    memory.harden()
    if parent_pid is not None:
        memory.die_with_parent(parent_pid)

    async def life() -> None:
        async with await app.connect(run_directory, pool_bytes=pool_bytes) as runtime:
            if control_fd is not None:
                Control(
                    control_fd,
                    lambda: {"copied_bytes": runtime.copied_bytes, **stats(runtime)},
                    lambda: [entry._asdict() for entry in memory.own_maps()],
                )
            task = asyncio.ensure_future(body(runtime))
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.cancel)
            lost = asyncio.ensure_future(runtime.until_lost())
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():  # it may well have heard of it, and have a better sentence
                await asyncio.wait({task}, timeout=_LAST_WORDS_SECONDS)
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_LAST_WORDS_SECONDS)
                raise CommandError(lost.result())
            lost.cancel()
            await task

    try:
        asyncio.run(life())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (ConnectionError, TimeoutError) as error:
        raise CommandError(f"the connection failed: {error or type(error).__name__}") from None
    finally:
        say.file.flush()
