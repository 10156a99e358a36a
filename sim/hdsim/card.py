"""The simulated card as a Python object: a thin cover of the shared library's C interface.

Between the device process (above) and the native harness (below). One thread at a time may use a
card; `run` releases the interpreter's lock while it simulates.
"""

import ctypes
import os
from pathlib import Path

from .errors import DeviceError
from .links import Impairment

__all__ = ["Card"]

STACK = 0
"""Party number of the stack for `set_wake`; the application of queue q is 1 + q."""

_U32, _U64, _INT, _TEXT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p
_HANDLE = ctypes.c_void_p
_CALLS = {
    "hd_open": (_HANDLE, [_INT]),
    "hd_close": (None, [_HANDLE]),
    "hd_run": (_INT, [_HANDLE]),
    "hd_access": (_INT, [_HANDLE, _INT, _U32, ctypes.POINTER(_U32)]),
    "hd_await": (_INT, [_HANDLE, _U32, _U32, _U32, _U64]),
    "hd_map": (_INT, [_HANDLE, _U32, _INT, _U64]),
    "hd_unmap": (None, [_HANDLE, _U32]),
    "hd_attach_stack": (_INT, [_HANDLE, _INT]),
    "hd_detach_stack": (None, [_HANDLE]),
    "hd_attach_post": (_INT, [_HANDLE, _U32, _INT]),
    "hd_detach_post": (None, [_HANDLE, _U32]),
    "hd_switch_post": (None, [_HANDLE, _U32, _INT]),
    "hd_set_wake": (_INT, [_HANDLE, _U32, _INT]),
    "hd_set_link": (None, [_HANDLE, _INT]),
    "hd_hold_link": (None, [_HANDLE]),
    "hd_impair": (None, [_HANDLE, ctypes.POINTER(ctypes.c_double), _U64, _U64]),
    "hd_capture": (_INT, [_HANDLE, _INT, _TEXT]),
    "hd_flush": (None, [_HANDLE]),
    "hd_memory": (None, [_HANDLE, _INT, _U32, _U32]),
    "hd_stat_names": (_TEXT, []),
    "hd_stats": (ctypes.POINTER(_U64), [_HANDLE]),
    "hd_waves": (_INT, [_HANDLE, _TEXT]),
}


class Card:
    """A simulated card in this process.

    Parameters
    ----------
    library:
        What `hdsim.build.native_model` gave.
    control_fd:
        `run` returns when this descriptor (an epoll descriptor, say) is readable.
    """

    def __init__(self, library: Path, control_fd: int):
        self._library = ctypes.CDLL(str(library))
        for name, (result, arguments) in _CALLS.items():
            call = getattr(self._library, name)
            call.restype, call.argtypes = result, arguments
        self._stat_names = self._library.hd_stat_names().decode().split()
        self._handle = self._library.hd_open(control_fd)
        if not self._handle:
            raise DeviceError(f"the simulated card of {library} could not be made")

    def close(self):
        """End the simulation; the capture is complete afterwards."""
        if self._handle:
            self._library.hd_close(self._handle)
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def run(self):
        """Simulate, or sleep while there is nothing to do, until the control is readable."""
        if self._library.hd_run(self._handle) != 0:
            raise DeviceError("the simulation stopped: its control descriptor failed")

    # -- registers ---------------------------------------------------------------------------------

    def read(self, address: int) -> int:
        """Value of the register at byte `address`. DeviceError when refused or unanswered."""
        value = _U32(0)
        self._answer(self._access(0, address, value), "read", address)
        return value.value

    def write(self, address: int, value: int):
        """Write a register. DeviceError when refused or unanswered."""
        self._answer(self._access(1, address, _U32(value)), f"write of {value:#x}", address)

    def wait(self, address: int, mask: int, wanted: int, cycles: int = 2_000_000):
        """Read the register until `value & mask == wanted`; DeviceError after so many cycles."""
        answer = self._library.hd_await(self._handle, address, mask, wanted, cycles)
        self._answer(answer, f"wait for {wanted:#x} under {mask:#x}", address)

    def _access(self, write, address, value):
        return self._library.hd_access(self._handle, write, address, ctypes.byref(value))

    @staticmethod
    def _answer(answer, what, address):
        if answer:
            why = {1: "was refused by the card", 2: "was not answered in time"}[answer]
            raise DeviceError(f"the {what} at register {address:#07x} {why}")

    # -- memories, pages, sockets ------------------------------------------------------------------

    def map_header(self, fd: int, size: int):
        """Make a memory file the header memory, from bus address 0 on."""
        self._map(0, fd, size)

    def map_region(self, region: int, fd: int, size: int):
        """Make a memory file the memory of a region, at bus address (region + 1) << 32."""
        self._map(region + 1, fd, size)

    def unmap_header(self):
        self._library.hd_unmap(self._handle, 0)

    def unmap_region(self, region: int):
        self._library.hd_unmap(self._handle, region + 1)

    def _map(self, slot, fd, size):
        if not self._library.hd_map(self._handle, slot, fd, size):
            raise DeviceError(f"a memory of {size} bytes could not be mapped")

    def attach_stack(self, fd: int):
        """Serve the mailbox (page 0) and the stack's doorbells (page 1 + q) of a memory file."""
        if not self._library.hd_attach_stack(self._handle, fd):
            raise DeviceError("the stack's pages could not be mapped")

    def detach_stack(self):
        self._library.hd_detach_stack(self._handle)

    def attach_post(self, queue: int, fd: int):
        """Serve the post doorbell page of a queue, once `switch_post` says so."""
        if not self._library.hd_attach_post(self._handle, queue, fd):
            raise DeviceError(f"the post page of queue {queue} could not be mapped")

    def detach_post(self, queue: int):
        self._library.hd_detach_post(self._handle, queue)

    def switch_post(self, queue: int, on: bool):
        """Pass on the post doorbells of a queue, counted from zero, or no more."""
        self._library.hd_switch_post(self._handle, queue, on)

    def set_wake(self, party: int, fd: int):
        """Wake socket of the stack (0) or of the application of queue q (1 + q); -1: none."""
        if not self._library.hd_set_wake(self._handle, party, fd):
            raise DeviceError("the wake socket could not be duplicated")

    # -- link, capture, settings -------------------------------------------------------------------

    def set_link(self, fd: int, hold: bool = False):
        """The wire; the caller keeps the descriptor open.

        `hold`: frames stay in it until reception is first switched on.
        """
        self._library.hd_set_link(self._handle, fd)
        if hold:
            self._library.hd_hold_link(self._handle)

    def impair(self, impairment: Impairment):
        """Let the wire do to frames, in both directions, what `impairment` says."""
        i = impairment
        shares = (ctypes.c_double * 4)(i.lose, i.duplicate, i.corrupt, i.reorder)
        self._library.hd_impair(self._handle, shares, round(i.delay_ms * 1e6), i.seed)

    def capture(self, fd: int, name: str = "hdsnic"):
        """Write every frame of the wire, in both directions, as pcapng to a copy of `fd`."""
        if not self._library.hd_capture(self._handle, os.dup(fd), name.encode()):
            raise DeviceError("the capture file could not be written")

    def flush(self):
        """Let the capture file hold all frames so far."""
        self._library.hd_flush(self._handle)

    def memory_timing(self, port: str, latency: int = 16, bandwidth: float = 1.0):
        """Timing of the `header` or `payload` port: cycles to an answer, share of beats carried."""
        if port not in ("header", "payload") or latency < 0 or not 0 < bandwidth <= 1:
            raise DeviceError(
                f"memory timing {port!r}, latency {latency}, bandwidth {bandwidth}: the port is"
                " header or payload, latency at least 0, bandwidth above 0 and at most 1"
            )
        rate = max(1, round(bandwidth * 65536))
        self._library.hd_memory(self._handle, port == "payload", latency, rate)

    def waves(self, path: Path) -> bool:
        """Write a waveform (VCD); False if the library was built without."""
        return bool(self._library.hd_waves(self._handle, str(path).encode()))

    def stats(self) -> dict[str, int]:
        """The harness's counters since the start, by the names of native/stats.h."""
        values = self._library.hd_stats(self._handle)
        return {name: values[i] for i, name in enumerate(self._stat_names)}
