"""The registration service: who owns which queue and which memory the card may touch.

Applications bring their pools here themselves, so the stack cannot hand one application's memory
to another. A pool comes in two steps: it is checked and mapped while its owner can still map it
for writing, then sealed for good by the owner, checked again, and only then live and shown to the
stack. Everything that a party has ends with its connection.
"""

import contextlib
import ctypes
import os
import secrets
from collections import deque
from dataclasses import dataclass, field

from hdsnic import abi
from hdsnic.parameters import Parameters
from hdstack import memory
from hdstack.errors import HdstackError

from .card import STACK, Card
from .errors import DeviceError
from .management import Management

__all__ = ["Application", "Refused", "Registration"]

REGIONS_PER_APPLICATION = 4
"""Most pools of one application at a time; bounds what a greedy one takes from the others."""

POOL_BYTES_MAX = 1 << 32
HEADER_BYTES_MAX = 1 << 32
POST_RING_BYTES_MAX = abi.PAGE_BYTES << 7
ELEMENT_BYTES = tuple(256 << n for n in range(7))
_TMPFS_MAGIC = 0x01021994
_libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """A request that breaks a rule; the message goes to whoever asked."""


@dataclass
class Region:
    """A pool in the card's region table, from its registration to the end of its revoke."""

    number: int
    generation: int
    fd: int
    element_bytes: int
    elements: int
    postable: int
    ring_offset: int
    ring_bytes: int
    offered: bool = False
    """Its row in the card's table was written, so a revoke is needed."""
    live: bool = False

    def notice(self, queue: int) -> dict:
        return {
            "notice": "region", "queue": queue, "region": self.number,
            "generation": self.generation, "element_bytes": self.element_bytes,
            "elements": self.elements, "postable": self.postable,
        }  # fmt: skip


@dataclass
class Application:
    """An application that has a queue; `owner` is its number in the card's tables."""

    queue: int
    owner: int
    token: str
    pid: int
    uid: int
    page_fd: int
    regions: dict[int, Region] = field(default_factory=dict)

    def notice(self) -> dict:
        return {
            "notice": "application", "queue": self.queue, "owner": self.owner,
            "token": self.token, "pid": self.pid, "uid": self.uid,
        }  # fmt: skip


class Registration:
    """State of the service. `notify(message, fds)` tells the stack, if one is attached."""

    def __init__(self, card: Card, parameters: Parameters, notify):
        self._card, self._parameters, self._notify = card, parameters, notify
        self._management = Management(card, parameters)
        self._management.check_identity()
        self.applications: dict[int, Application] = {}
        self.stuck: list[str] = []
        """What the card did not give back; its numbers are never used again."""
        self._free_queues = deque(range(1, parameters.queues))  # queue 0 is the stack's own
        self._used_queues: set[int] = set()  # had an application since the stack attached
        self._free_regions = deque(range(parameters.regions))
        self._generations = [0] * parameters.regions
        self._owner = 0
        self._stack_attached = False

    # -- the stack ---------------------------------------------------------------------------------

    def attach_stack(self, header_fd: int, wake_fd: int) -> int:
        """Take the header memory; returns the descriptor of the stack's pages, for the stack."""
        size = _check_memory(header_fd, HEADER_BYTES_MAX)
        pages = memory.create("hdsnic-stack-pages", (1 + self._parameters.queues) * abi.PAGE_BYTES)
        try:
            memory.add_seals(pages, memory.SIZE_SEALS | memory.SEAL_SEAL)
            self._card.map_header(header_fd, size)
            self._management.open_header(size)
            self._card.attach_stack(pages)
            self._card.set_wake(STACK, wake_fd)
        except BaseException:
            os.close(pages)
            self.detach_stack()
            raise
        self._stack_attached = True
        return pages

    def detach_stack(self):
        """Stop the card's work for the stack, then let go of its memory."""
        self._stack_attached = False
        self._card.detach_stack()
        self._card.set_wake(STACK, -1)
        self._management.stop_stack()
        self._card.unmap_header()
        self._used_queues = set(self.applications)

    def tell_all(self):
        """Tell a stack that attached late of everything that lives."""
        for application in self.applications.values():
            self._notify(application.notice(), ())
            for region in application.regions.values():
                if region.live:
                    self._notify(region.notice(application.queue), (region.fd,))

    # -- applications ------------------------------------------------------------------------------

    def add_application(self, pid: int, uid: int, wake_fd: int) -> Application:
        """Give a queue to an application."""
        queue = self._take_queue()
        try:
            owner = self._next_owner()
            page = memory.create(f"hdsnic-post-{queue}", abi.PAGE_BYTES)
            application = Application(queue, owner, secrets.token_hex(16), pid, uid, page)
            self.applications[queue] = application
        except BaseException:
            self._free_queues.append(queue)
            raise
        try:
            memory.add_seals(page, memory.SIZE_SEALS | memory.SEAL_SEAL)
            self._card.attach_post(queue, page)
            self._card.set_wake(1 + queue, wake_fd)
            self._management.give_queue(queue, owner)
        except BaseException:
            self.remove_application(application)
            raise
        self._used_queues.add(queue)
        self._notify(application.notice(), ())
        return application

    def remove_application(self, application: Application):
        """Take everything back; when this returns the card does not touch its memory (I6)."""
        queue = application.queue
        if self.applications.pop(queue, None) is not application:
            return
        self._card.switch_post(queue, False)
        self._card.detach_post(queue)
        self._card.set_wake(1 + queue, -1)
        os.close(application.page_fd)
        try:
            self._management.give_queue(queue, 0)
            self._free_queues.append(queue)
        except DeviceError as error:
            self.stuck.append(f"queue {queue}: {error}")
        for region in list(application.regions.values()):
            with contextlib.suppress(DeviceError):
                self._drop(application, region)
        self._notify({"notice": "gone", "queue": queue, "owner": application.owner}, ())

    def register(self, application: Application, request: dict, pool_fd: int) -> Region:
        """First step: check and map a pool. The service keeps a copy of `pool_fd`."""
        element_bytes = _integer(request, "element_bytes", 1, POOL_BYTES_MAX)
        elements = _integer(request, "elements", 1, (1 << 24) - 1)
        postable = _integer(request, "postable", 0, self._parameters.postable_max)
        ring_offset = _integer(request, "post_ring_offset", 0, POOL_BYTES_MAX, 0)
        ring_bytes = _integer(request, "post_ring_bytes", 0, POST_RING_BYTES_MAX, 0)
        if element_bytes not in ELEMENT_BYTES:
            raise Refused(f"element_bytes is {element_bytes}; it must be one of {ELEMENT_BYTES}")
        if postable > elements:
            raise Refused(f"postable is {postable}, more than the {elements} elements")
        size = _check_memory(pool_fd, POOL_BYTES_MAX)
        used = elements * element_bytes
        if used > size:
            raise Refused(f"{elements} elements of {element_bytes} bytes take {used} bytes, but the"
                          f" pool has {size}")  # fmt: skip
        if ring_bytes:
            _check_ring(application, ring_offset, ring_bytes, postable * element_bytes, used)
        limit = min(REGIONS_PER_APPLICATION, self._parameters.regions)
        if len(application.regions) >= limit:
            raise Refused(f"an application may have at most {limit} pools at a time")
        if not self._free_regions:
            raise Refused(f"all {self._parameters.regions} regions are in use")
        number = self._free_regions.popleft()
        try:
            self._card.map_region(number, pool_fd, size)
            self._generations[number] = generation = self._generations[number] % 255 + 1
            region = Region(
                number, generation, os.dup(pool_fd), element_bytes, elements, postable,
                ring_offset, ring_bytes,
            )  # fmt: skip
        except BaseException:
            self._card.unmap_region(number)
            self._free_regions.append(number)
            raise
        application.regions[number] = region
        return region

    def activate(self, application: Application, number: int) -> None:
        """Second step: the pool is sealed now, so the card may use it and the stack see it."""
        region = self._of(application, number)
        if region.live:
            raise Refused(f"region {number} is live already")
        _check_memory(region.fd, POOL_BYTES_MAX, memory.PAYLOAD_SEALS)
        region.offered = True
        self._management.activate(
            number, region.generation, application.owner, region.element_bytes, region.elements,
            region.postable,
        )  # fmt: skip
        region.live = True
        if region.ring_bytes:
            self._management.start_posts(
                application.queue, application.owner, number, region.ring_offset, region.ring_bytes
            )
            self._card.switch_post(application.queue, True)
        self._notify(region.notice(application.queue), (region.fd,))

    def revoke(self, application: Application, number: int) -> None:
        """Take one pool back, with the post ring if it lay there."""
        region = self._of(application, number)
        if region.live and region.ring_bytes:
            self._card.switch_post(application.queue, False)
            self._management.give_queue(application.queue, application.owner)
        self._drop(application, region)

    def close(self):
        """Let go of every memory; the card does not run any more."""
        for application in self.applications.values():
            os.close(application.page_fd)
            for region in application.regions.values():
                os.close(region.fd)
        self.applications.clear()

    def _drop(self, application, region):
        del application.regions[region.number]
        try:
            if region.offered:
                self._management.revoke(region.number)
        except DeviceError as error:
            # The memory stays mapped and the region is never given out again: an access may come.
            self.stuck.append(f"region {region.number}: {error}")
            raise
        finally:
            os.close(region.fd)
            if region.live:
                self._notify({"notice": "revoked", "region": region.number}, ())
        self._card.unmap_region(region.number)
        self._free_regions.append(region.number)

    def _of(self, application, number) -> Region:
        if type(number) is not int or number not in application.regions:
            raise Refused(f"region {number!r} is not one of yours: {sorted(application.regions)}")
        return application.regions[number]

    def _take_queue(self) -> int:
        """The queue that is free for longest.

        One that had an application before is given out only once the stack has switched it off:
        until then its steering rules may still send it frames of the former owner.
        """
        for queue in self._free_queues:
            fresh = not self._stack_attached or queue not in self._used_queues
            if fresh or not self._management.queue_enabled(queue):
                self._free_queues.remove(queue)
                return queue
        if self._free_queues:
            raise Refused("every free queue is still switched on by the stack; try again")
        raise Refused(f"all {self._parameters.queues - 1} queues for applications are in use")

    def _next_owner(self) -> int:
        """An owner number (1 to 255) that nobody has, the longest unused first."""
        taken = {application.owner for application in self.applications.values()}
        while True:
            self._owner = self._owner % 255 + 1
            if self._owner not in taken:
                return self._owner


def _integer(request: dict, name: str, least: int, most: int, default: int | None = None) -> int:
    value = request.get(name, default)
    if type(value) is not int or not least <= value <= most:  # True is no number here
        raise Refused(f"{name} is {value!r:.40}; it must be an integer from {least} to {most}")
    return value


def _check_memory(fd: int, most: int, seals: int = memory.SIZE_SEALS) -> int:
    """Size of a memory file that is safe to map for the device's whole life."""
    try:
        size = memory.check(fd, needed=seals)
    except HdstackError as error:
        raise Refused(str(error)) from None
    if _file_system(fd) != _TMPFS_MAGIC:  # huge pages can run out under a mapping
        raise Refused("the memory is not a memfd of ordinary pages")
    if not 0 < size <= most or size % abi.PAGE_BYTES:
        raise Refused(f"the memory has {size} bytes; a multiple of {abi.PAGE_BYTES} up to {most}"
                      " is needed")  # fmt: skip
    return size


def _file_system(fd: int) -> int:
    buffer = (ctypes.c_long * 32)()
    return buffer[0] if _libc.fstatfs(fd, buffer) == 0 else 0


def _check_ring(application, offset, size, least, end):
    if size < abi.RING_BYTES_MIN or size & (size - 1):
        raise Refused(f"post_ring_bytes is {size}; it must be a power of two from"
                      f" {abi.RING_BYTES_MIN} to {POST_RING_BYTES_MAX}")  # fmt: skip
    if offset % size:
        raise Refused(f"post_ring_offset is {offset}; it must be a multiple of the ring's {size}")
    if offset < least or offset + size > end:
        raise Refused(f"the post ring must lie between the postable elements and the end, bytes"
                      f" {least} to {end}, not at {offset} to {offset + size}")  # fmt: skip
    if any(region.ring_bytes for region in application.regions.values()):
        raise Refused("another of your pools has the post ring already")
