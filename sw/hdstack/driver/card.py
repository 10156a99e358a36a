"""The card's settings: who it is, its queues, addresses, steering rules, commands, counters.

Everything here is rare control work over registers (`Device.read`, `Device.write`); records and
descriptors never pass through here (see `rings`).
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from hdsnic import abi
from hdsnic.abi import CONTROL

from ..atomic import store_release
from ..errors import ConfigurationError, DeviceError
from .commands import Commands
from .device import PAGE_WORDS, Device
from .exact import ExactRules

__all__ = ["Card", "CardParameters"]

_BUSY_SECONDS = 5.0


@dataclass(frozen=True)
class CardParameters:
    """What the card tells about itself in its control page."""

    bus_bytes: int
    queues: int
    regions: int
    listeners: int
    range_listeners: int
    local_addresses: int
    references_max: int
    frame_bytes_max: int
    postable_max: int
    exact_ways: int
    exact_rows: int
    rss_contexts: int
    chain_max: int
    tso_bytes_max: int
    features: tuple[str, ...]
    """Names of the FEATURES bits that are set."""


_ALLOWED = {
    "bus_bytes": (8, 64),
    "queues": (1, abi.QUEUES_MAX),
    "regions": (1, abi.REGIONS_MAX),
    "listeners": (1, abi.LISTENERS_MAX),
    "range_listeners": (0, abi.LISTENERS_MAX),
    "local_addresses": (1, abi.LOCAL_ADDRESSES_MAX),
    "references_max": (1, 255),
    "frame_bytes_max": (1514, 1 << 14),
    "postable_max": (1, 1 << 24),
    "exact_ways": (1, 16),
    "exact_rows": (1, 1 << 16),
    "rss_contexts": (1, abi.RSS_CONTEXTS_MAX),
    "chain_max": (1, 14),
    "tso_bytes_max": (1460, 1 << 18),
}
_DOORBELLS = [r.offset // 4 for r in vars(abi.STACK_DOORBELL).values() if hasattr(r, "offset")]


class Card:
    """The card behind `device`.

    Raises DeviceError for a card of another ABI version, or with parameters beyond what this
    driver knows.
    """

    def __init__(self, device: Device):
        self.device = device
        magic, version = self._get(CONTROL.MAGIC), self._get(CONTROL.ABI_VERSION)
        if magic != abi.MAGIC:
            raise DeviceError(f"not an hdsnic card: its first register reads {magic:#010x}")
        if version != abi.ABI_VERSION:
            raise DeviceError(
                f"the card speaks version {version} of the register contract, this driver version"
                f" {abi.ABI_VERSION}; use card and driver of the same release"
            )
        told = {name: self._get(getattr(CONTROL, name.upper())) for name in _ALLOWED}
        for name, (low, high) in _ALLOWED.items():
            if not low <= told[name] <= high:
                raise DeviceError(
                    f"the card tells {name} = {told[name]}; this driver knows {low} to {high}"
                )
        features = CONTROL.FEATURES.unpack(self._get(CONTROL.FEATURES))
        self.parameters = p = CardParameters(
            **told, features=tuple(f for f in features if features[f])
        )
        self._layout = device.header.layout
        self._irq_enable = 0
        self.commands = Commands(device)
        self.exact_rules = ExactRules(self.commands, p.exact_ways, p.exact_rows)

    def _get(self, register, index: int = 0) -> int:
        return self.device.read(abi.CONTROL_PAGE + register.at(index))

    def _put(self, register, value: int = 0, at: int = 0, **fields: int) -> None:
        value = register.pack(**fields) if fields else value
        self.device.write(abi.CONTROL_PAGE + register.at(at), value)

    def _wait(self, register, index: int, done, what: str) -> None:
        deadline = time.monotonic() + _BUSY_SECONDS
        while not done(self._get(register, index)):
            if time.monotonic() > deadline:
                raise DeviceError(f"{what} took more than {_BUSY_SECONDS} s")

    # -- the card as a whole ---------------------------------------------------------------

    def start(self, mac: bytes, address: int) -> None:
        """Set the MAC address (6 bytes) and local address 0 (IPv4, host order); switch traffic on.

        All queues are off afterwards.
        """
        self.reset()
        self._put(CONTROL.MAC_LO, int.from_bytes(mac[:4], "little"))
        self._put(CONTROL.MAC_HI, int.from_bytes(mac[4:6], "little"))
        self.store_address(0, address.to_bytes(4, "big"))
        self._put(CONTROL.INDEX_BASE, 0)
        self._put(CONTROL.SWITCHES, receive=1, transmit=1)

    def stop(self) -> None:
        """No more traffic: every switch and every queue off, commands too."""
        self._put(CONTROL.SWITCHES, 0)
        self.commands.stop()
        for queue in range(self.parameters.queues):
            self.disable_queue(queue)

    def reset(self) -> None:
        """Reset the card, but for regions, owners and post rings (R28): no queue, no rule is left.

        Ports that failed are in use again if their memory has answered all that it owed.
        """
        self.commands.stop()
        self._put(CONTROL.RESET, abi.RESET_WORD)
        self._wait_queue(0)
        self._irq_enable = 0
        for queue in range(self.parameters.queues):
            self._zero_doorbells(queue)
        self.exact_rules = ExactRules(
            self.commands, self.parameters.exact_ways, self.parameters.exact_rows
        )

    def errors(self) -> list[str]:
        """Names of the ERROR bits that are set; they are cleared."""
        value = self._get(CONTROL.ERROR)
        self._put(CONTROL.ERROR, value)
        return [name for name, bit in CONTROL.ERROR.unpack(value).items() if bit]

    def arm(self) -> None:
        """Clear the interrupt status: the next index write raises `irq` anew.

        Then read the indices again, and block only if they show nothing new.
        """
        self._put(CONTROL.IRQ_STATUS, 0xFFFFFFFF)

    # -- queues ----------------------------------------------------------------------------

    def enable_queue(self, queue: int) -> None:
        """Give a queue its rings, empty, and switch it on with its interrupt."""
        if not 0 <= queue < self.parameters.queues:
            raise ConfigurationError(f"queue {queue}; the card has {self.parameters.queues}")
        layout, log2 = self._layout, self._layout.ring_bytes.bit_length() - 1
        self._zero_doorbells(queue)
        slot = layout.index_slot(queue) // 4
        self.device.header.slots[slot : slot + abi.INDEX_SLOT_BYTES // 4] = 0
        receive, transmit = layout.receive_ring(queue), layout.transmit_ring(queue)
        page = abi.PAGE_BYTES
        self._put(CONTROL.RX_RING, at=queue, base=receive // page, log2_bytes=log2)
        self._put(CONTROL.TX_RING, at=queue, base=transmit // page, log2_bytes=log2)
        self._put(CONTROL.COMPLETION_RING, self.commands.open_ring(queue), queue)
        self._put(CONTROL.QUEUE_SWITCH, at=queue, enable=1)
        self._wait_queue(queue)
        if not self._get(CONTROL.QUEUE_SWITCH, queue) & 1:
            raise DeviceError(f"the card did not enable queue {queue}")
        self._irq_enable |= 1 << queue
        self._put(CONTROL.IRQ_ENABLE, self._irq_enable)

    def disable_queue(self, queue: int) -> None:
        """Switch a queue off; returns when the card touches its rings no more."""
        self._irq_enable &= ~(1 << queue)
        self._put(CONTROL.IRQ_ENABLE, self._irq_enable)
        if self._get(CONTROL.QUEUE_SWITCH, queue) & 1:
            self._put(CONTROL.QUEUE_SWITCH, 0, queue)
            self._wait_queue(queue)
        self._zero_doorbells(queue)

    def set_mode(self, queue: int, **modes: bool) -> None:
        """Set all modes of a queue that is off: fields of QUEUE_MODE, those not named become 0."""
        self._put(CONTROL.QUEUE_MODE, CONTROL.QUEUE_MODE.pack(**modes), queue)

    def set_moderation(self, queue: int, updates: int, cycles: int) -> None:
        """Let an interrupt of a queue wait for so many index updates, or so long after the first.

        Zero is no limit; both zero: at once.
        """
        self._put(CONTROL.IRQ_MODERATION, at=queue, updates=updates, cycles=cycles)

    def set_share(self, queue: int, quantum: int = 0, burst: int = 0, rate: int = 0) -> None:
        """A queue's share of transmission: bytes a round, bytes at once, bytes in 65,536 cycles.

        The first two are rounded up to 64 bytes; 0 is the card's default, a rate of 0 no limit.
        """
        self._put(CONTROL.TX_RATE, rate, queue)
        self._put(CONTROL.TX_SHARE, at=queue, quantum=-(-quantum // 64), burst=-(-burst // 64))

    def set_watermark(self, watermark: int, share: int) -> None:
        """Drop frames of queues that hold more than `share` bytes of the frame buffer first, when
        it holds more than `watermark`; both are rounded down to 64 bytes, 0: never."""
        self._put(CONTROL.RX_WATERMARK, watermark=watermark // 64, share=share // 64)

    def _wait_queue(self, queue):
        field = CONTROL.QUEUE_SWITCH
        self._wait(
            field, queue, lambda value: not field.unpack(value)["busy"], f"switching queue {queue}"
        )

    def _zero_doorbells(self, queue):
        # The device looks for changes of these words: a value left from the queue's last life
        # would hide an equal one of its next. The register accesses that follow give it its turn.
        for word in _DOORBELLS:
            store_release(self.device.doorbells, (1 + queue) * PAGE_WORDS + word, 0)
        for _ in range(1 + len(_DOORBELLS)):
            self._get(CONTROL.MAGIC)

    # -- steering --------------------------------------------------------------------------

    def store_address(self, index: int, address: bytes) -> None:
        """Local address `index`: 4 or 16 bytes in network order."""
        self._check("local address", index, self.parameters.local_addresses)
        for k in range(0, len(address), 4):
            self._put(CONTROL.ADDRESS_WORD, int.from_bytes(address[k : k + 4], "little"), k // 4)
        entry = CONTROL.ADDRESS_STORE.pack(index=index, valid=1, ipv6=len(address) == 16)
        self._put(CONTROL.ADDRESS_STORE, entry)

    def clear_address(self, index: int) -> None:
        """Take local address `index` away."""
        self._put(CONTROL.ADDRESS_STORE, CONTROL.ADDRESS_STORE.pack(index=index))

    def store_listener(
        self, index: int, queue: int, first: int, last: int | None = None, *, udp: bool = False,
        rss: bool = False, address: int | None = 0,
    ) -> None:  # fmt: skip
        """Frames to port `first` (or `first` to `last`) of a local address go to `queue`.

        TCP, or UDP with `udp`; `address` is its index, None: every one. With `rss`, `queue` is a
        context of receive-side scaling. Committed when this returns and `fence` has returned (R15).
        Ranges need an index below `range_listeners`. Lowest index wins.
        """
        p = self.parameters
        last = first if last is None else last
        limit = p.range_listeners if last != first else p.listeners
        if not 0 <= index < limit:
            raise ConfigurationError(f"listener rule {index}; for this kind below {limit}")
        self._put(CONTROL.LISTENER_PORTS, first=first, last=last)
        rule = CONTROL.LISTENER_STORE.pack(
            index=index, valid=1, udp=udp, rss=rss, any_address=address is None,
            address=address or 0, queue=queue,
        )  # fmt: skip
        self._put(CONTROL.LISTENER_STORE, rule)

    def clear_listener(self, index: int) -> None:
        """Take listener rule `index` away."""
        self._put(CONTROL.LISTENER_STORE, CONTROL.LISTENER_STORE.pack(index=index))

    def store_scaling(self, context: int, key: bytes, queues: list[int]) -> None:
        """Receive-side scaling: a context's key (40 bytes) and the queues among which it chooses.

        The queues are dealt out over the indirection table in turn.
        """
        self._check("context", context, self.parameters.rss_contexts)
        if len(key) != abi.RSS_KEY_BYTES or not queues:
            raise ConfigurationError(
                f"a key of {len(key)} bytes, {len(queues)} queues; {abi.RSS_KEY_BYTES} bytes and a"
                " queue at least are needed"
            )
        for k in range(abi.RSS_KEY_BYTES // 4):
            word = int.from_bytes(key[4 * k : 4 * k + 4], "little")
            self._put(CONTROL.RSS_KEY_WORD, word, k)
        self._put(CONTROL.RSS_KEY_STORE, CONTROL.RSS_KEY_STORE.pack(context=context))
        for entry in range(abi.RSS_ENTRIES):
            queue = queues[entry % len(queues)]
            word = CONTROL.RSS_TABLE_STORE.pack(context=context, entry=entry, queue=queue)
            self._put(CONTROL.RSS_TABLE_STORE, word)

    @staticmethod
    def _check(what, index, limit):
        if not 0 <= index < limit:
            raise ConfigurationError(f"{what} {index}; the card has {limit}")

    def fence(self) -> None:
        """Wait until every frame looked up before has completed, and shows (R15)."""
        self._put(CONTROL.FENCE, 1)
        self._wait(CONTROL.FENCE, 0, lambda value: value == 0, "a fence")

    # -- counters --------------------------------------------------------------------------

    def read_counters(self, queues: list[int]) -> Iterator[dict | None]:
        """Read all counters of `queues` and of the ports, a few at a time.

        Yields None after each few registers, so that the caller can serve traffic in between, and
        at last {"rx": {queue or "port": {outcome: n}}, "tx": .., "post": .., "port": {name: n}}
        with the zeros left out of the first three.
        """
        out = {"rx": {}, "tx": {}, "post": {}, "port": {}, "card": asdict(self.parameters)}
        plan = [("port", None, name, abi.port_counter(name)) for name, _ in abi.PORT_COUNTERS]
        rows = [(str(queue), queue) for queue in queues] + [("port", abi.rx_port_row)]
        for label, row in rows:
            plan += [("rx", label, o.label, abi.rx_counter(row, o)) for o in abi.RxOutcome]
        for queue in queues:
            plan += [
                ("tx", str(queue), o.label, abi.tx_counter(queue, o)) for o in abi.TxOutcome
            ] + [("post", str(queue), o.label, abi.post_counter(queue, o)) for o in abi.PostOutcome]
        for done, (kind, label, name, address) in enumerate(plan):
            value = self.device.read(address) | self.device.read(address + 4) << 32
            if kind == "port":
                out[kind][name] = value
            elif value:
                out[kind].setdefault(label, {})[name] = value
            if done % 8 == 7:
                yield None
        yield out
