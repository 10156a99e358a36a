"""Pieces of the pool in the hands of the program: received views, and buffers to send."""

from contextlib import suppress

__all__ = ["SendBuffer", "View"]


class View:
    """A received piece of payload, in the pool itself: `data` is a read-only memoryview.

    Its buffer stays with the application until every view of it is released: by `release`, at the
    end of `with`, or when the view is forgotten. `data` cannot be used afterwards.
    """

    __slots__ = ("_connection", "_length", "_start", "data")

    def __init__(self, connection, start: int, data: memoryview):
        self._connection, self._start, self._length = connection, start, len(data)
        self.data = data

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def release(self) -> None:
        """Give the buffer back. Raises BufferError while a part of `data` is exported elsewhere."""
        if self._connection is None:
            return
        self.data.release()
        connection, self._connection = self._connection, None
        connection.released(self._start, self._length)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def __del__(self):
        with suppress(Exception):
            self.release()


class SendBuffer:
    """A piece of the pool to be filled and sent: `data` is a writable memoryview of it.

    It goes back to the pool by itself once its bytes are acknowledged and free of DMA; until then
    a change of `data` may still reach the peer. `release` gives back one that is never sent.
    """

    __slots__ = ("_runtime", "_sent", "_size", "_start", "data")

    def __init__(self, runtime, start: int, size: int):
        self._runtime, self._start, self._size = runtime, start, size
        self._sent = False
        self.data = runtime.pool.view[start : start + size]

    def __len__(self) -> int:
        return self._size

    def release(self) -> None:
        """Give it back unsent; nothing happens where it was sent or given back."""
        if not self._sent:
            self.done()

    def done(self) -> None:
        """Give it back to the pool, once."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            self._sent = True
            runtime.free(self._start, self._size)

    def __del__(self):
        with suppress(Exception):
            self.release()
