"""An application's ends of a connection: what is read, given back and sent is kept, for tests."""


class View:
    """A received buffer, as an application's reader gives it."""

    def __init__(self, data: bytes):
        self.data = memoryview(data).toreadonly()
        self.released = 0

    def __len__(self):
        return len(self.data)

    def release(self):
        self.released += 1
        self.data.release()  # fails where a piece of it is still held

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


class Reader:
    def __init__(self, *parts: bytes):
        self.views = [View(part) for part in parts]
        self._left = list(self.views)

    async def read_views(self):
        return [self._left.pop(0)] if self._left else []


class Buffer:
    def __init__(self, size: int):
        self.data = memoryview(bytearray(size))

    def release(self):
        pass


class Runtime:
    send_bytes_max = 1 << 20
    copied_bytes = 0

    def __init__(self):
        self.buffers = 0

    async def buffer(self, size):
        self.buffers += 1
        return Buffer(size)


class Writer:
    def __init__(self):
        self.sent, self.ended, self.aborted = b"", False, False

    async def send_buffer(self, buffer, length):
        self.sent += bytes(buffer.data[:length])

    def write_eof(self):
        self.ended = True

    def close(self):
        pass

    def abort(self):
        self.aborted = True

    async def wait_closed(self):
        pass
