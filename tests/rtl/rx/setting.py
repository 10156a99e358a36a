"""What a card is set to for the receive path: addresses, rules, modes. Plain data, no hardware."""

from dataclasses import dataclass, field

from hdsnic.abi.flow_hash import flow_slots

OWN_MAC = bytes.fromhex("026864730002")
OWN_IPV4 = "10.77.0.2"
OWN_IPV6 = "fd00:77::2"
PORT = 80
QUEUE = 3


@dataclass(frozen=True)
class Listener:
    index: int
    first: int
    queue: int
    last: int = 0
    address: int | None = None  # None: any
    udp: bool = False
    rss: bool = False
    valid: bool = True


@dataclass(frozen=True)
class Exact:
    """An exact rule: addresses as bytes; `way` of those in which the flow may stand."""

    remote: bytes
    remote_port: int
    local: bytes
    local_port: int
    queue: int
    way: int = 0
    udp: bool = False
    rss: bool = False
    valid: bool = True

    def slot(self, parameters):
        return flow_slots(
            parameters.exact_ways, parameters.exact_rows,
            self.remote, self.remote_port, self.local, self.local_port,
        )[self.way]  # fmt: skip


@dataclass
class Setting:
    """What the card is set to; the default has one listener on all addresses.

    `rss`: for each context its key, and the queues that its table repeats.
    """

    receive: bool = True
    promiscuous: bool = False
    addresses: tuple[bytes, ...] = (
        bytes([10, 77, 0, 2]),
        bytes.fromhex("fd000077000000000000000000000002"),
    )
    listeners: tuple[Listener, ...] = (Listener(5, PORT, QUEUE),)
    exact: tuple[Exact, ...] = ()
    rss: dict[int, tuple[bytes, tuple[int, ...]]] = field(default_factory=dict)
    udp_split: int = 0
    deliver_malformed: bool = False
    watermark: int = 0
    share: int = 0
