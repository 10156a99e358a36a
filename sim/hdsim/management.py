"""The card's registers as the registration service uses them: what only it may do.

On a board this is the privileged driver. Every method returns when the card has carried it out;
each raises DeviceError where the card refuses, or does not finish within some seconds of
simulation.
"""

from hdsnic import abi
from hdsnic.parameters import Parameters

from .card import Card
from .errors import DeviceError

__all__ = ["Management", "region_base"]

_M, _C = abi.MANAGEMENT, abi.CONTROL
_QUEUE_BUSY = _C.QUEUE_SWITCH.pack(busy=1)
_OWNER_BUSY = _M.QUEUE_OWNER.pack(busy=1)
_REGION_BUSY = _M.REGION_STATE.pack(busy=1)
_REGION_LIVE = _M.REGION_STATE.pack(live=1)


def region_base(region: int) -> int:
    """Bus address of a region's memory on the payload port."""
    return (region + 1) << 32


class Management:
    """Register access for ownership, regions and the reset of what a stack leaves behind."""

    def __init__(self, card: Card, parameters: Parameters):
        self._card, self._parameters = card, parameters

    def _at(self, register, index=0):
        return abi.MANAGEMENT_PAGE + register.at(index)

    def check_identity(self):
        """Raise DeviceError unless the model is the card that it was built for."""
        for register, wanted in (
            (_C.MAGIC, abi.MAGIC),
            (_C.ABI_VERSION, abi.ABI_VERSION),
            (_C.BUS_BYTES, self._parameters.bus_bytes),
        ):
            found = self._card.read(abi.CONTROL_PAGE + register.offset)
            if found != wanted:
                raise DeviceError(f"the card's {register.name} is {found:#x}, not {wanted:#x}")

    # -- header memory and what belongs to the stack -----------------------------------------------

    def open_header(self, size: int):
        """Let the stack set rings in `size` bytes of header memory from bus address 0 on."""
        self._card.write(self._at(_M.HEADER_BASE_LO), 0)
        self._card.write(self._at(_M.HEADER_BASE_HI), 0)
        self._card.write(self._at(_M.HEADER_PAGES), size // abi.PAGE_BYTES)

    def queue_enabled(self, queue: int) -> bool:
        """Whether the stack has the rings of a queue switched on."""
        return bool(self._card.read(_C.QUEUE_SWITCH.at(queue)) & _C.QUEUE_SWITCH.pack(enable=1))

    def stop_stack(self):
        """Bring the control page to where reset leaves it, and take the header memory away."""
        write, wait = self._card.write, self._card.wait
        wait(_C.QUEUE_SWITCH.offset, _QUEUE_BUSY, 0)  # a reset that the stack began
        write(_C.RESET.offset, abi.RESET_WORD)
        wait(_C.QUEUE_SWITCH.offset, _QUEUE_BUSY, 0)
        write(_C.IRQ_STATUS.offset, (1 << self._parameters.queues) - 1)
        write(self._at(_M.HEADER_PAGES), 0)

    # -- queues and their owners -------------------------------------------------------------------

    def give_queue(self, queue: int, owner: int):
        """Make `owner` (0: nobody) the owner of a queue; its posts are off afterwards."""
        address = self._at(_M.QUEUE_OWNER, queue)
        self._card.wait(address, _OWNER_BUSY, 0)
        self._card.write(address, _M.QUEUE_OWNER.pack(owner=owner))
        self._card.wait(address, _OWNER_BUSY, 0)

    def start_posts(self, queue: int, owner: int, region: int, offset: int, size: int):
        """Read the post ring of `size` bytes at `offset` of a live region."""
        pages = (size // abi.PAGE_BYTES).bit_length() - 1
        ring = _M.POST_RING.pack(offset=offset // abi.PAGE_BYTES, region=region, log2_pages=pages)
        self._card.write(self._at(_M.POST_RING, queue), ring)
        address = self._at(_M.QUEUE_OWNER, queue)
        self._card.write(address, _M.QUEUE_OWNER.pack(owner=owner, posts=1))
        self._card.wait(address, _OWNER_BUSY, 0)
        if not self._card.read(address) & _M.QUEUE_OWNER.pack(posts=1):
            raise DeviceError(f"the card refused the post ring of queue {queue}")

    # -- regions -----------------------------------------------------------------------------------

    def activate(
        self, region: int, generation: int, owner: int, element_bytes: int, elements: int,
        postable: int,
    ):  # fmt: skip
        """Make a region live; the card may then read and write it for `owner`."""
        base, log2 = region_base(region), element_bytes.bit_length() - 1
        write = self._card.write
        write(self._at(_M.REGION_BASE_LO, region), base & 0xFFFFFFFF)
        write(self._at(_M.REGION_BASE_HI, region), base >> 32)
        shape = _M.REGION_SHAPE.pack(elements=elements, log2_element_bytes=log2)
        write(self._at(_M.REGION_SHAPE, region), shape)
        write(self._at(_M.REGION_POSTABLE, region), postable)
        state = self._at(_M.REGION_STATE, region)
        write(
            state,
            _M.REGION_STATE.pack(
                owner=owner, generation=generation, nic_write=1, nic_read=1, live=1
            ),
        )
        self._card.wait(state, _REGION_BUSY, 0)
        if not self._card.read(state) & _REGION_LIVE:
            raise DeviceError(f"the card refused region {region}: its shape is beyond the limits")

    def revoke(self, region: int):
        """Return when the card will never again access the region (I6)."""
        self._card.write(self._at(_M.REVOKE), 1 << region)
        self._card.wait(self._at(_M.REVOKE), 1 << region, 0)
