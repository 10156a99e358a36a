"""A reader whose views fail when they are given back too soon, and count when."""


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
