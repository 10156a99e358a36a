"""Shared memory as the project uses it: memfds, their seals, mappings, and what guards a process.

A memory that comes from another process is checked before it is mapped: a memfd of the expected
size, sealed against shrinking (a truncation under a live mapping would kill its reader) and
growing. Rings are mapped twice in a row, so that a record that wraps is one contiguous piece.
"""

import ctypes
import fcntl
import mmap
import os
import signal
import stat
from collections import namedtuple

import numpy as np

from .errors import ConfigurationError, HdstackError, MemoryRefused

__all__ = [
    "PAGE", "PAYLOAD_SEALS", "SEAL_FUTURE_WRITE", "SEAL_GROW", "SEAL_SEAL", "SEAL_SHRINK",
    "SIZE_SEALS", "MapEntry", "Mapping", "RingMapping", "SlotMapping", "add_seals", "check",
    "create", "die_with_parent", "drop_to", "get_seals", "harden", "own_maps",
]  # fmt: skip

PAGE = 4096

SEAL_SEAL = 0x01
SEAL_SHRINK = 0x02
SEAL_GROW = 0x04
SEAL_FUTURE_WRITE = 0x10  # Python 3.11 has no name for it
SIZE_SEALS = SEAL_SHRINK | SEAL_GROW
PAYLOAD_SEALS = SIZE_SEALS | SEAL_FUTURE_WRITE | SEAL_SEAL
"""Seals of a live payload pool: nobody can make a writable mapping any more."""

_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_MFD_NOEXEC_SEAL = 0x08
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_MADV_DONTFORK = 10
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_EMPTY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def create(name: str, size: int) -> int:
    """A new memfd of `size` bytes that can be sealed; its name shows in /proc/PID/maps.

    It cannot be executed, and its mode keeps other users from opening it through /proc.
    """
    if size <= 0 or size % PAGE:
        raise ConfigurationError(f"memory {name!r}: {size} bytes; a multiple of {PAGE} is needed")
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:  # a kernel before 6.3 does not know the flag
        fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, size)
        os.fchmod(fd, 0o600)
    except OSError:
        os.close(fd)
        raise
    return fd


def add_seals(fd: int, seals: int) -> None:
    """Add seals; they can never be taken away."""
    fcntl.fcntl(fd, _F_ADD_SEALS, seals)


def get_seals(fd: int) -> int:
    """The seals of a memfd. Raises OSError for any other kind of file."""
    return fcntl.fcntl(fd, _F_GET_SEALS)


def check(fd: int, size: int | None = None, needed: int = SIZE_SEALS) -> int:
    """Refuse a memory that is not safe to map; returns its size in bytes.

    Raises MemoryRefused unless it is a memfd with all of the seals `needed` and, where `size` is
    given, exactly that many bytes.
    """
    try:
        seals = get_seals(fd)
        status = os.fstat(fd)
    except OSError as error:
        raise MemoryRefused(f"the descriptor is not a memfd ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise MemoryRefused("the descriptor is not a memfd but another kind of file")
    if seals & needed != needed:
        raise MemoryRefused(f"the memory has the seals {seals:#x}, but needs {needed:#x}")
    if size is not None and status.st_size != size:
        raise MemoryRefused(f"the memory has {status.st_size} bytes, but {size} were expected")
    return status.st_size


class Mapping:
    """A shared mapping of a memfd, not inherited by children.

    `array` is its bytes (uint8), `words` its 32-bit words, `memory` the mmap object; a read-only
    mapping gives arrays that cannot be written. `close` is refused by Python while views live
    elsewhere: then the mapping stays until they are gone.
    """

    def __init__(self, fd: int, size: int, offset: int = 0, writable: bool = True):
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.size = size
        self.memory = mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)
        self.memory.madvise(_MADV_DONTFORK)
        self.array = np.frombuffer(self.memory, np.uint8)
        self.words = np.frombuffer(self.memory, np.uint32)

    def close(self) -> bool:
        """Drop the arrays and unmap; False where views still hold the mapping."""
        self.array = self.words = None
        try:
            self.memory.close()
        except BufferError:
            return False
        return True


class RingMapping:
    """Several rings of one memfd, each mapped twice in a row, side by side.

    `array` has a row for each ring of 2 x `ring_bytes` (uint8): byte `at` + n of a row, for `at`
    below `ring_bytes`, is byte n of whatever begins at `at`, wrap or not.
    """

    def __init__(self, fd: int, bases: list[int], ring_bytes: int):
        if ring_bytes < PAGE or ring_bytes & (ring_bytes - 1):
            raise ConfigurationError(f"a ring of {ring_bytes} bytes; a power of two, 4096 or more")
        if any(base % PAGE for base in bases):
            raise ConfigurationError(f"ring bases {bases} are not multiples of {PAGE}")
        self._bytes = 2 * ring_bytes * len(bases)
        self._address = _map(0, self._bytes, 0, _EMPTY, -1, 0)
        try:
            at = self._address
            for base in bases:
                for _ in range(2):
                    _map(at, ring_bytes, 3, mmap.MAP_SHARED | _MAP_FIXED, fd, base)
                    at += ring_bytes
            _libc.madvise(self._address, self._bytes, _MADV_DONTFORK)
        except OSError:
            _libc.munmap(self._address, self._bytes)
            raise
        raw = (ctypes.c_uint8 * self._bytes).from_address(self._address)
        self.array = np.frombuffer(raw, np.uint8).reshape(len(bases), 2 * ring_bytes)

    def close(self) -> None:
        """Unmap. Every array taken from this object must be gone: they would point nowhere."""
        if self._address:
            self.array = None
            _libc.munmap(self._address, self._bytes)
            self._address = 0


class SlotMapping:
    """`slots` places of `size` bytes side by side, where memfds come and go.

    `words` (uint32) spans all of them, so that compiled code gets one array; an empty slot reads
    as zeros that belong to nobody else. Not `writable`: for reading alone, as `bytes` (uint8).
    """

    def __init__(self, slots: int, size: int, writable: bool = True):
        self.slots, self.size = slots, size
        self._access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._address = _map(0, slots * size, self._access, _EMPTY, -1, 0)
        raw = (ctypes.c_uint8 * (slots * size)).from_address(self._address)
        self.words = np.frombuffer(raw, np.uint32)
        self.bytes = self.words.view(np.uint8)

    def attach(self, slot: int, fd: int, size: int | None = None) -> None:
        """Map `size` bytes of a memfd (None: as many as the slot has) into a slot."""
        at, size = self._address + slot * self.size, self.size if size is None else size
        if not 0 < size <= self.size:
            raise ValueError(f"{size} bytes are mapped into a slot of {self.size}")
        _map(at, size, self._access, mmap.MAP_SHARED | _MAP_FIXED, fd, 0)
        _libc.madvise(at, size, _MADV_DONTFORK)

    def detach(self, slot: int) -> None:
        """Empty a slot."""
        at = self._address + slot * self.size
        _map(at, self.size, self._access, _EMPTY | _MAP_FIXED, -1, 0)

    def close(self) -> None:
        """Unmap all; no array taken from this object may be in use any more."""
        if self._address:
            self.words = self.bytes = None
            _libc.munmap(self._address, self.slots * self.size)
            self._address = 0


def _map(at, size, protection, flags, fd, offset):
    address = _libc.mmap(at or None, size, protection, flags, fd, offset)
    if address is None or address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"mmap of {size} bytes: {os.strerror(number)}")
    return address


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def harden() -> None:
    """No core dumps, no ptrace, no /proc/PID/mem for other processes of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent(parent: int | None = None) -> None:
    """SIGTERM when the parent (process `parent`) ends; raises HdstackError if it is gone already.

    To be called after `drop_to`: the kernel forgets the request when the user changes.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != parent:
        raise HdstackError(f"the parent process {parent} has ended")


def drop_to(uid: int, gid: int | None = None) -> None:
    """Become user `uid` for good: no supplementary groups, no way back. Needs root."""
    gid = uid if gid is None else gid
    if uid == os.getuid() and gid == os.getgid():
        return
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        raise HdstackError(f"only root can become user {uid}; this is user {os.getuid()}") from None
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        raise HdstackError(f"user {uid} was set, but the system reports {os.getresuid()}")


MapEntry = namedtuple("MapEntry", "name inode permissions bytes resident")
"""A memfd in a process's memory map: its name, its inode (who shares it has the same), its
permissions ("rw", "r"), the bytes mapped, and the bytes of pages that the process ever touched."""


def own_maps() -> list[MapEntry]:
    """The memfds that this process has mapped, as the kernel reports them (/proc/self/smaps)."""
    found: dict[tuple, list[int]] = {}
    sizes = None
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            parts = line.split(maxsplit=5)
            if "-" in parts[0]:  # the first line of a mapping
                sizes = None
                if len(parts) == 6 and parts[5].startswith("/memfd:"):
                    name = parts[5].strip().removeprefix("/memfd:").removesuffix(" (deleted)")
                    low, high = (int(x, 16) for x in parts[0].split("-"))
                    key = name, int(parts[4]), parts[1][:3].replace("-", "")
                    sizes = found.setdefault(key, [0, 0])
                    sizes[0] += high - low
            elif sizes is not None and parts[0] == "Rss:":
                sizes[1] += int(parts[1]) << 10
    return [MapEntry(*key, *sizes) for key, sizes in found.items()]
