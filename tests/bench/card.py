"""The card of the benchmark: the native model between memories of this process.

The host's side is the contract alone (`hdsnic.abi`): the card is set up by registers, rings and
regions are laid out here, filled before a run and read after it.
"""

import ctypes
from pathlib import Path

import numpy as np

from hdsim.build import native_model
from hdsnic import abi
from hdsnic.parameters import Parameters

__all__ = ["MAC", "PORT", "BenchCard", "BenchError", "Region"]

MAC = bytes.fromhex("026864730002")
ADDRESS = bytes([10, 77, 0, 2])
PORT = 80
"""Port of the listener rule of the first queue; the next queue has the next port."""

RING_BYTES = 1 << 22
SOURCE = Path(__file__).parent / "native" / "bench.cpp"
WAIT_READS = 10_000
"""Most reads of a register until it tells what is awaited."""

_U32, _U64, _INT = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
_HANDLE, _POINTER = ctypes.c_void_p, ctypes.c_void_p
_CALLS = {
    "hb_open": (_HANDLE, []),
    "hb_close": (None, [_HANDLE]),
    "hb_access": (_INT, [_HANDLE, _INT, _U32, ctypes.POINTER(_U32)]),
    "hb_map": (None, [_HANDLE, _U32, _POINTER, _U64]),
    "hb_latency": (None, [_HANDLE, _U32]),
    "hb_begin": (None, [_HANDLE, _POINTER, _U64]),
    "hb_watch": (None, [_HANDLE, _U32, _U32, _U32]),
    "hb_receive": (None, [_HANDLE, _POINTER, _POINTER, _U64, _U64, _U64, _U64, _POINTER]),
    "hb_run": (_INT, [_HANDLE, _U64, _U64, _U64]),
    "hb_sent": (_U64, [_HANDLE, *(ctypes.POINTER(_POINTER),) * 3, ctypes.POINTER(_U64)]),
    "hb_stat_names": (ctypes.c_char_p, []),
    "hb_stats": (ctypes.POINTER(_U64), [_HANDLE]),
}


class BenchError(Exception):
    """The card did not do what it must; the message says what was seen and what was expected."""


class Region:
    """A live region: postable elements, then its post ring, then payload to be sent."""

    def __init__(self, number: int, element_bytes: int, postable: int, send_bytes: int):
        self.number, self.element_bytes, self.postable = number, element_bytes, postable
        self.generation = 1
        self.ring_pages_log2 = max(0, (-(-postable * abi.POST_CELL.bytes // 4096) - 1).bit_length())
        self.ring = -(-postable * element_bytes // 4096) * 4096
        self.send = self.ring + (4096 << self.ring_pages_log2)
        self.elements = -(-(self.send + send_bytes) // element_bytes)
        self.memory = np.full(self.elements * element_bytes, 0xA5, np.uint8)
        self.base = (number + 1) << 32  # as the memory port of the harness finds it


class BenchCard:
    """A card after reset, with header memory and the rings of `queues`, everything switched on."""

    def __init__(self, bus_bytes: int, latency: int, queues: tuple[int, ...]):
        self.parameters = p = Parameters(bus_bytes=bus_bytes)
        self._library = ctypes.CDLL(str(native_model(p, api=SOURCE)))
        for name, (result, arguments) in _CALLS.items():
            call = getattr(self._library, name)
            call.restype, call.argtypes = result, arguments
        self._handle = self._library.hb_open()
        self.queues, self.regions = queues, {}
        self.header = np.zeros((2 * max(queues) + 3) * RING_BYTES, np.uint8)
        self._library.hb_latency(self._handle, latency)
        self._map(0, self.header)
        self._set_up()

    def close(self):
        self._library.hb_close(self._handle)
        self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- registers ---------------------------------------------------------------------------------

    def read(self, register, index=0, page=abi.CONTROL_PAGE) -> int:
        return self._access(0, page + register.at(index), 0)

    def write(self, register, value, index=0, page=abi.CONTROL_PAGE):
        self._access(1, page + register.at(index), value)

    def features(self) -> dict[str, int]:
        return abi.CONTROL.FEATURES.unpack(self.read(abi.CONTROL.FEATURES))

    def counter(self, address: int) -> int:
        return self._access(0, address, 0) | self._access(0, address + 4, 0) << 32

    def port_counters(self) -> dict[str, int]:
        return {name: self.counter(abi.port_counter(name)) for name, _ in abi.PORT_COUNTERS}

    def doorbell(self, page: int, register, index: int):
        self._access(1, page + register.offset, index)

    def _access(self, write, address, value):
        word = _U32(value)
        answer = self._library.hb_access(self._handle, write, address, ctypes.byref(word))
        if answer:
            what = "refused" if answer == 1 else "did not answer"
            raise BenchError(f"the card {what} {'a write' if write else 'a read'} at {address:#x}")
        return word.value

    def _await(self, what, register, index, page, good):
        for _ in range(WAIT_READS):
            if good(register.unpack(self.read(register, index, page))):
                return
        raise BenchError(f"{what}: not after {WAIT_READS} reads of {register.name}[{index}]")

    # -- set-up ------------------------------------------------------------------------------------

    def _map(self, slot, memory):
        self._library.hb_map(self._handle, slot, memory.ctypes.data, memory.nbytes)

    def rx_ring(self, queue: int) -> int:
        """Byte of header memory at which the receive ring of `queue` begins."""
        return (2 * queue + 1) * RING_BYTES

    def tx_ring(self, queue: int) -> int:
        return (2 * queue + 2) * RING_BYTES

    def _set_up(self):
        c, m, management = abi.CONTROL, abi.MANAGEMENT, abi.MANAGEMENT_PAGE
        self.write(m.HEADER_PAGES, self.header.nbytes // 4096, page=management)
        self.write(c.INDEX_BASE, 0)
        self.write(c.MAC_LO, int.from_bytes(MAC[:4], "little"))
        self.write(c.MAC_HI, int.from_bytes(MAC[4:], "little"))
        self.write(c.ADDRESS_WORD, int.from_bytes(ADDRESS, "little"))
        self.write(c.ADDRESS_STORE, c.ADDRESS_STORE.pack(index=0, valid=1))
        log2 = RING_BYTES.bit_length() - 1
        for number, queue in enumerate(self.queues):
            for register, base in (
                (c.RX_RING, self.rx_ring(queue)),
                (c.TX_RING, self.tx_ring(queue)),
            ):
                self.write(register, register.pack(base=base // 4096, log2_bytes=log2), queue)
            self.write(c.QUEUE_SWITCH, 1, queue)
            self._await(
                f"queue {queue} enabled", c.QUEUE_SWITCH, queue, abi.CONTROL_PAGE,
                lambda state: state["enable"] and not state["busy"],
            )  # fmt: skip
            port = PORT + number
            self.write(c.LISTENER_PORTS, c.LISTENER_PORTS.pack(first=port, last=port))
            rule = c.LISTENER_STORE.pack(index=number, valid=1, any_address=1, queue=queue)
            self.write(c.LISTENER_STORE, rule)
        self.write(c.SWITCHES, c.SWITCHES.pack(receive=1, transmit=1))

    def add_region(self, queue: int, region: Region):
        """Make `region` live and give it, and `queue`, to an application of that number."""
        m, page, number = abi.MANAGEMENT, abi.MANAGEMENT_PAGE, region.number
        self.regions[queue] = region
        self._map(number + 1, region.memory)
        self.write(m.REGION_BASE_LO, region.base & 0xFFFFFFFF, number, page)
        self.write(m.REGION_BASE_HI, region.base >> 32, number, page)
        shape = m.REGION_SHAPE.pack(
            elements=region.elements, log2_element_bytes=region.element_bytes.bit_length() - 1
        )
        self.write(m.REGION_SHAPE, shape, number, page)
        self.write(m.REGION_POSTABLE, region.postable, number, page)
        state = m.REGION_STATE.pack(
            owner=queue, generation=region.generation, nic_write=1, nic_read=1, live=1
        )
        self.write(m.REGION_STATE, state, number, page)
        self._await(
            f"region {number} live", m.REGION_STATE, number, page,
            lambda state: state["live"] and not state["busy"],
        )  # fmt: skip
        ring = m.POST_RING.pack(
            offset=region.ring // 4096, region=number, log2_pages=region.ring_pages_log2
        )
        self.write(m.POST_RING, ring, queue, page)
        self.write(m.QUEUE_OWNER, m.QUEUE_OWNER.pack(owner=queue, posts=1), queue, page)
        self._await(
            f"owner of queue {queue}", m.QUEUE_OWNER, queue, page,
            lambda state: not state["busy"],
        )  # fmt: skip

    def post_all(self, queue: int):
        """Post every element of the queue's region, in order."""
        region = self.regions[queue]
        cells = b"".join(
            abi.POST_CELL.pack(element=k, region=region.number, generation=region.generation)
            for k in range(region.postable)
        )
        region.memory[region.ring : region.ring + len(cells)] = np.frombuffer(cells, np.uint8)
        page = abi.post_doorbell_page(queue)
        self.doorbell(page, abi.POST_DOORBELL.POST_PRODUCER, region.postable)

    # -- running -----------------------------------------------------------------------------------

    def begin(self, room: int, cells: int):
        """Log, from here on, up to `room` records of `cells` cells as they become visible."""
        self._visible = np.zeros(room, np.uint64)
        self._library.hb_begin(self._handle, self._visible.ctypes.data, room)
        for queue in self.queues:
            self._library.hb_watch(self._handle, queue, cells, abi.INDEX_SLOT_BYTES)

    def receive(self, frames: list[bytes], payload: int, window: int, interval: int = 0):
        """Put frames on the wire, `interval` cycles apart; at most `window` are not yet written."""
        self._wire = np.frombuffer(b"".join(frames) + bytes(64), np.uint8)
        self._offsets = np.cumsum([0, *map(len, frames)]).astype(np.uint64)
        self._taken = np.zeros(len(frames), np.uint64)
        self._library.hb_receive(
            self._handle, self._wire.ctypes.data, self._offsets.ctypes.data, len(frames),
            payload, window, interval, self._taken.ctypes.data,
        )  # fmt: skip

    def run(self, received: int, sent: int, cycles: int) -> bool:
        """Until so many records are visible and so many frames have left; False: too slow."""
        return bool(self._library.hb_run(self._handle, received, sent, cycles))

    def settle(self, cycles: int):
        """Let so many cycles pass."""
        self._library.hb_run(self._handle, 1 << 62, 0, cycles)

    @property
    def taken(self) -> np.ndarray:
        """Cycle at which the card took the last beat of each frame."""
        return self._taken

    @property
    def visible(self) -> np.ndarray:
        """Cycle at which each record became visible, in the order of their queues' rings."""
        return self._visible

    def sent(self) -> tuple[list[bytes], np.ndarray]:
        """The frames that left, and the cycle of each one's last beat."""
        pointers = [_POINTER() for _ in range(3)]
        bad = _U64()
        count = self._library.hb_sent(
            self._handle, *(ctypes.byref(x) for x in pointers), ctypes.byref(bad)
        )
        if bad.value:
            raise BenchError(f"{bad.value} frames left with an error mark or a gap in tkeep")
        if not count:
            return [], np.zeros(0, np.uint64)
        ends, cycles = (
            np.ctypeslib.as_array(ctypes.cast(x, ctypes.POINTER(_U64)), (count,)).copy()
            for x in pointers[1:]
        )
        data = ctypes.string_at(pointers[0], int(ends[-1]))
        begins = [0, *map(int, ends[:-1])]
        return [data[a : int(b)] for a, b in zip(begins, ends, strict=True)], cycles

    def stats(self) -> dict[str, int]:
        """Counters of the harness by name (`sim/hdsim/native/stats.h`)."""
        names = self._library.hb_stat_names().decode().split()
        values = self._library.hb_stats(self._handle)
        return {name: values[k] for k, name in enumerate(names)}
