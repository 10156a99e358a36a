"""Shared memory: what its seals stop, and that rings are contiguous over their wrap."""

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from hdstack import memory
from hdstack.errors import ConfigurationError, HdstackError, MemoryRefused


@pytest.fixture
def pool():
    fd = memory.create("pool", 8192)
    yield fd
    os.close(fd)


def test_a_sealed_pool_can_be_written_only_through_the_mapping_made_before(pool):
    owner = memory.Mapping(pool, 8192)
    memory.add_seals(pool, memory.SIZE_SEALS)
    memory.add_seals(pool, memory.SEAL_FUTURE_WRITE | memory.SEAL_SEAL)
    owner.array[0] = 7
    with pytest.raises(PermissionError):
        mmap.mmap(pool, 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        os.pwrite(pool, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(pool, 4096)
    with pytest.raises(PermissionError):
        memory.add_seals(pool, 0x08)
    again = os.open(f"/proc/self/fd/{pool}", os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(again, 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(again)
    reader = memory.Mapping(pool, 8192, writable=False)
    assert reader.array[0] == 7
    with pytest.raises(ValueError, match="read-only"):
        reader.array[0] = 8
    libc = ctypes.CDLL(None, use_errno=True)
    at = ctypes.c_void_p(reader.array.ctypes.data)
    assert libc.mprotect(at, ctypes.c_size_t(4096), 3) == -1, "it could be made writable"


def test_a_memory_without_its_seals_is_refused_by_name_of_the_seals(pool):
    with pytest.raises(MemoryRefused, match="needs 0x6"):
        memory.check(pool)
    memory.add_seals(pool, memory.SIZE_SEALS)
    assert memory.check(pool, 8192) == 8192
    with pytest.raises(MemoryRefused, match="8192 bytes, but 4096"):
        memory.check(pool, 4096)
    with pytest.raises(MemoryRefused, match="needs 0x17"):
        memory.check(pool, needed=memory.PAYLOAD_SEALS)


def test_what_is_not_a_memfd_is_refused(tmp_path):
    with open(tmp_path / "file", "wb+") as file:
        file.truncate(4096)
        with pytest.raises(MemoryRefused):
            memory.check(file.fileno(), 4096)
    reader, writer = os.pipe()
    with pytest.raises(MemoryRefused):
        memory.check(reader)
    os.close(reader)
    os.close(writer)


def test_sizes_that_are_not_whole_pages_are_refused():
    with pytest.raises(ConfigurationError, match="multiple of 4096"):
        memory.create("odd", 5000)


def test_what_wraps_in_a_ring_is_one_piece_in_its_mapping():
    fd = memory.create("rings", 3 * 4096)
    rings = memory.RingMapping(fd, [4096, 8192], 4096)
    plain = memory.Mapping(fd, 3 * 4096)
    rings.array[1, 4090:4102] = np.arange(12)
    assert plain.array[8192 + 4090 : 8192 + 4096].tolist() == list(range(6))
    assert plain.array[8192 : 8192 + 6].tolist() == list(range(6, 12))
    assert not plain.array[:8192].any()
    plain.array[4096] = 99
    assert rings.array[0, 0] == rings.array[0, 4096] == 99
    rings.close()
    os.close(fd)


def test_a_slot_reads_as_zero_once_its_memory_is_taken_out():
    fd = memory.create("channel", 4096)
    slots = memory.SlotMapping(4, 4096)
    slots.attach(2, fd)
    slots.words[2 * 1024] = 5
    assert os.pread(fd, 4, 0) == b"\x05\0\0\0"
    slots.detach(2)
    assert slots.words[2 * 1024] == 0
    slots.words[2 * 1024] = 6
    assert os.pread(fd, 4, 0) == b"\x05\0\0\0"
    os.close(fd)
    slots.close()


def test_slots_for_reading_take_sealed_memories_shorter_than_a_slot(pool):
    os.pwrite(pool, b"payload", 4096)
    memory.add_seals(pool, memory.PAYLOAD_SEALS)
    slots = memory.SlotMapping(2, 1 << 32, writable=False)  # address space alone
    slots.attach(1, pool, 8192)
    at = (1 << 32) + 4096
    assert bytes(slots.bytes[at : at + 7]) == b"payload"
    assert ("pool", "r") in {(e.name, e.permissions) for e in memory.own_maps()}
    with pytest.raises(ValueError, match="into a slot"):
        slots.attach(1, pool, (1 << 32) + 4096)
    slots.detach(1)
    assert not slots.bytes[at : at + 7].any()
    slots.close()


def test_own_maps_name_each_memory_with_its_permissions(pool):
    writer, reader = memory.Mapping(pool, 8192), memory.Mapping(pool, 8192, writable=False)
    mine = [entry for entry in memory.own_maps() if entry.inode == os.fstat(pool).st_ino]
    found = {(e.name, e.permissions, e.bytes) for e in mine}
    assert found == {("pool", "rw", 8192), ("pool", "r", 8192)}
    assert writer.close() and reader.close()


def test_a_hardened_process_is_not_dumpable():
    code = (
        "import ctypes; from hdstack import memory; get = lambda: ctypes.CDLL(None).prctl(3);"
        "before = get(); memory.harden(); print(before, get())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1 0\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_that_dropped_its_user_has_no_way_back():
    code = (
        "import os; from hdstack import memory; memory.drop_to(54321);"
        "print(os.getresuid(), os.getresgid(), os.getgroups()); os.setuid(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "(54321, 54321, 54321) (54321, 54321, 54321) []\n"
    assert "PermissionError" in done.stderr


def test_a_plain_user_is_told_that_only_root_can_change_the_user(monkeypatch):
    monkeypatch.setattr(os, "setgroups", lambda _: (_ for _ in ()).throw(PermissionError()))
    with pytest.raises(HdstackError, match="only root"):
        memory.drop_to(os.getuid() + 1)
