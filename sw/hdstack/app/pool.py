"""The payload pool of an application: its memory, its registration, posts, and send buffers.

    0            postable x element_bytes                       ring           end
    | buffers for the card to fill | buffers to send from | ... | post ring    |

The pool goes straight to the device, never through the stack. Two steps of seals: sizes before the
device maps it, writing before it is live. From then on the mapping here is the only writable one.
"""

import contextlib
import os
import socket
from pathlib import Path

import numpy as np

from hdsnic import abi

from .. import memory
from ..atomic import publish
from ..errors import ConfigurationError, ServiceError
from ..messages import connect, request

__all__ = ["ELEMENT_BYTES", "POOL_BYTES", "DeviceLink", "Pool"]

POOL_BYTES = 16 << 20
ELEMENT_BYTES = 2048
_POSTABLE_MAX = 4096
_CELL = abi.POST_CELL.bytes
_REGION_SHIFT = abi.POST_CELL.offsets["region"]
_GENERATION_SHIFT = abi.POST_CELL.offsets["generation"]
_NEED_WAKE_WORD = 16


class DeviceLink:
    """The application's connection with the device: who we are there, and the post doorbell."""

    def __init__(self, run_directory):
        self.wake, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wake.setblocking(False)
        far.setblocking(False)
        self.control = connect(Path(run_directory) / "device.sock", "device process")
        try:
            hello = {"role": "application", "abi": abi.ABI_VERSION}
            self.hello, (page,) = request(
                self.control, hello, (far.fileno(),), "device process", expect=1
            )
        except BaseException:
            self.wake.close()
            self.control.close()
            raise
        finally:
            far.close()
        try:
            memory.check(page, memory.PAGE)
            self.page = memory.Mapping(page, memory.PAGE)
        finally:
            os.close(page)
        self.queue, self.token = int(self.hello["queue"]), str(self.hello["token"])

    def ask(self, message: dict, descriptors=()) -> dict:
        """Ask the registration service; raises ServiceError with its reason."""
        return request(self.control, message, descriptors, "device process")[0]

    def ring_doorbell(self, producer: int) -> None:
        """Tell the card the post ring's producer index; wake the device if it sleeps."""
        if publish(self.page.words, 0, producer, _NEED_WAKE_WORD):
            # An error is no harm. Full: a wake is on its way; gone: the control socket tells.
            with contextlib.suppress(OSError):
                self.wake.send(b"\0", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Leave the device: it revokes all regions of this application."""
        self.control.close()
        self.wake.close()
        self.page.close()


class Pool:
    """A registered pool.

    Parameters
    ----------
    link: connection with the device.
    pool_bytes: size; a multiple of 4 KiB, and large enough for a few elements.
    element_bytes: size of a buffer, a power of two from 256 to 16384; a received payload must fit.
    """

    def __init__(self, link: DeviceLink, pool_bytes: int, element_bytes: int):
        if element_bytes not in [1 << n for n in range(8, 15)]:
            raise ConfigurationError(
                f"element_bytes is {element_bytes}; a power of two, 256 to 16384, is needed"
            )
        if pool_bytes % memory.PAGE or pool_bytes // element_bytes < 16:
            raise ConfigurationError(
                f"pool_bytes is {pool_bytes}; a multiple of {memory.PAGE} and at least 16 elements"
                f" of {element_bytes} bytes are needed"
            )
        self.element_bytes, self.pool_bytes = element_bytes, pool_bytes
        limit = int(link.hello.get("postable_max", _POSTABLE_MAX))
        self.postable = min(pool_bytes // element_bytes // 2, limit)
        cells = memory.PAGE // _CELL
        while cells < self.postable:
            cells *= 2
        ring_bytes = cells * _CELL
        self._ring_at = (pool_bytes - ring_bytes) // ring_bytes * ring_bytes
        area = self.postable * element_bytes
        if self._ring_at <= area:
            raise ConfigurationError(
                f"pool_bytes is {pool_bytes}: nothing is left to send from; use a larger pool"
            )
        self.send_bytes_max = self._ring_at - area
        self._free = [(area, self.send_bytes_max)]
        self._link = link
        self._fd = memory.create("hdsnic-pool", pool_bytes)
        self._mapping = None
        try:
            os.posix_fallocate(self._fd, 0, pool_bytes)
            self._mapping = memory.Mapping(self._fd, pool_bytes)
            self.file = self._mapping.memory
            self.view = memoryview(self.file)
            self._register(ring_bytes)
        except BaseException:
            self.close()
            raise
        self._cells = np.frombuffer(self.file, np.uint64, cells, self._ring_at)
        self._mask = cells - 1
        self._producer = 0
        self._users = [0] * self.postable
        self._returned: list[int] = list(range(self.postable))
        self.flush()

    def _register(self, ring_bytes):
        memory.add_seals(self._fd, memory.SIZE_SEALS)
        answer = self._link.ask(
            {
                "op": "register",
                "element_bytes": self.element_bytes,
                "elements": self.pool_bytes // self.element_bytes,
                "postable": self.postable,
                "post_ring_offset": self._ring_at,
                "post_ring_bytes": ring_bytes,
            },
            (self._fd,),
        )
        self.region, self.generation = int(answer["region"]), int(answer["generation"])
        memory.add_seals(self._fd, memory.SEAL_FUTURE_WRITE | memory.SEAL_SEAL)
        self._link.ask({"op": "activate", "region": self.region})

    # -- received payload --------------------------------------------------------------------

    def take(self, region: int, offset: int, length: int) -> None:
        """A range was delivered: its element gets one more user.

        Raises ServiceError for a range that is not within one postable element of this pool.
        """
        element, at = divmod(offset, self.element_bytes)
        if region != self.region or element >= self.postable or at + length > self.element_bytes:
            raise ServiceError(
                f"the stack delivered {length} bytes at {offset} of region {region}, which is no"
                " buffer of this application"
            )
        self._users[element] += 1

    def share(self, offset: int) -> None:
        """One more user of the element around `offset`, which was taken."""
        self._users[offset // self.element_bytes] += 1

    def release(self, offset: int) -> None:
        """One user less; the last one gives the element back, to be posted by the next `flush`."""
        element = offset // self.element_bytes
        self._users[element] -= 1
        if not self._users[element]:
            self._returned.append(element)

    def returned(self, region: int, offset: int) -> None:
        """A buffer came back without anything in it: post it again."""
        element = offset // self.element_bytes
        if region == self.region and element < self.postable and not self._users[element]:
            self._returned.append(element)

    def flush(self) -> None:
        """Post every element that has come back."""
        if not self._returned:
            return
        # Never full: it has a cell for each element, and an element is posted once at a time.
        cells = np.array(self._returned, np.uint64)
        cells |= np.uint64(self.region << _REGION_SHIFT | self.generation << _GENERATION_SHIFT)
        at = np.arange(self._producer, self._producer + len(cells)) & self._mask
        self._cells[at] = cells
        self._producer = (self._producer + len(cells)) & 0xFFFFFFFF
        self._returned.clear()
        self._link.ring_doorbell(self._producer)

    # -- send buffers ------------------------------------------------------------------------

    def allocate(self, size: int) -> int | None:
        """Offset of `size` bytes in a row to send from; None where there is no such gap now."""
        size = -(-size // 64) * 64
        for index, (start, length) in enumerate(self._free):
            if length >= size:
                if length == size:
                    del self._free[index]
                else:
                    self._free[index] = start + size, length - size
                return start
        return None

    def free(self, start: int, size: int) -> None:
        """Give back what `allocate` gave."""
        end = start + -(-size // 64) * 64
        free = self._free
        index = 0
        while index < len(free) and free[index][0] < start:
            index += 1
        if index < len(free) and free[index][0] == end:
            end += free.pop(index)[1]
        if index and sum(free[index - 1]) == start:
            start = free.pop(index - 1)[0]
            index -= 1
        free.insert(index, (start, end - start))

    def close(self) -> None:
        """Unmap the pool once nobody holds a view of it."""
        self._cells = None
        if self._mapping is not None:
            with contextlib.suppress(AttributeError, BufferError):
                self.view.release()
            self._mapping.close()
            self._mapping = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
