"""Control messages between processes: one JSON object a packet, descriptors beside it.

All control sockets are Unix sockets of the kind SOCK_SEQPACKET. What comes from the other side is
checked here for form (size, JSON, an object) and by the caller for meaning.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from .errors import HdstackError, ServiceError

__all__ = [
    "ANSWER_BYTES",
    "MESSAGE_BYTES",
    "BadMessage",
    "close_all",
    "connect",
    "listen",
    "receive",
    "request",
    "send",
]

MESSAGE_BYTES = 8192
ANSWER_BYTES = 128 * 1024
"""Largest answer to an observer; everything else keeps to MESSAGE_BYTES."""
_DESCRIPTORS = 8


class BadMessage(HdstackError):
    """The other side sent something that is not a message."""


def close_all(descriptors) -> None:
    """Close descriptors that came with a message nobody wants."""
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)


def connect(path, what: str, timeout: float = 5.0) -> socket.socket:
    """Connect to the control socket at `path`; `what` names the process for the error message."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.settimeout(timeout)
    try:
        control.connect(str(path))
    except OSError as error:
        control.close()
        raise ServiceError(
            f"cannot reach the {what} at {path}: {error.strerror}; is it running, and is this the"
            " right run directory?"
        ) from None
    return control


def listen(path: Path, what: str) -> socket.socket:
    """The control socket of the process `what` at `path`; one that a dead process left is replaced.

    Anybody may connect: who may do what is decided by credentials. Unlink it before it is closed,
    or that may hit the socket of a process that has replaced it. Raises ServiceError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.setblocking(False)
        # Of two that start at a time, one finds the socket of the other, listening.
        with _locked(path.parent, what):
            _clear(path, what)
            listener.bind(str(path))
            path.chmod(0o666)
            listener.listen(64)
    except OSError as error:
        listener.close()
        raise ServiceError(f"the control socket {path} cannot be made: {error.strerror}") from None
    except ServiceError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _locked(directory: Path, what: str):
    """While this lasts, nobody else makes a socket in `directory`; waits for a second at most."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for attempt in range(51):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 50:
                    raise ServiceError(
                        f"another process holds the lock of {directory}, so no {what} can start"
                        " there; end it, or choose another run directory"
                    ) from None
                time.sleep(0.02)  # a lock can only be polled with a bound
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path, what: str) -> None:
    """Make sure that nobody listens at `path`; remove a socket that a dead process left."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its backlog is full
            pass
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():
                path.unlink()
            return
    raise ServiceError(f"a {what} runs already at {path}; choose another run directory")


def send(control, message: dict, descriptors=(), limit: int = MESSAGE_BYTES) -> None:
    """Send one message; raises OSError as `socket.sendmsg` does."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > limit:
        raise BadMessage(f"a message of {len(data)} bytes; at most {limit} are allowed")
    socket.send_fds(control, [data], list(descriptors))


def receive(control, limit: int = MESSAGE_BYTES) -> tuple[dict, list[int]] | None:
    """One message and its descriptors (the caller closes them); None at the end of the stream.

    Raises BadMessage, with the descriptors closed, for what is not a message; BlockingIOError or
    TimeoutError where nothing has come.
    """
    data, descriptors, flags, _ = socket.recv_fds(
        control, limit + 1, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not data and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(data) > limit:
            raise BadMessage(f"a message is longer than {limit} bytes, or has more than"
                             f" {_DESCRIPTORS} descriptors")  # fmt: skip
        message = json.loads(data)
        if not isinstance(message, dict):
            raise BadMessage("a message is not a JSON object")
    except (ValueError, RecursionError) as error:
        close_all(descriptors)
        raise BadMessage(f"a message is not JSON ({error})") from None
    except BadMessage:
        close_all(descriptors)
        raise
    return message, descriptors


def request(control: socket.socket, message: dict, descriptors=(), what="service", expect=0,
            limit=MESSAGE_BYTES):  # fmt: skip
    """Send a message, wait for its answer; returns (answer, descriptors), `expect` of them.

    Raises ServiceError with the other side's sentence if it refuses, or if it does not answer
    within the socket's timeout.
    """
    try:
        send(control, message, descriptors)
        got = receive(control, limit)
    except TimeoutError:
        raise ServiceError(f"the {what} did not answer within {control.gettimeout()} s") from None
    except OSError as error:
        raise ServiceError(f"the connection to the {what} broke: {error.strerror}") from None
    if got is None:
        raise ServiceError(f"the {what} closed the connection")
    answer, received = got
    if answer.get("ok") is not True:
        close_all(received)
        raise ServiceError(str(answer.get("error", f"the {what} refused {message}")))
    if len(received) != expect:
        close_all(received)
        raise ServiceError(f"the {what} sent {len(received)} descriptors, {expect} were expected")
    return answer, received
