"""The seams between the blocks of the card: what flows over each, and in which order.

Receive: MAC -> FrameBeat -> [rx ingress] -> SteeredFrame + FrameBeat -> [rx egress] -> WriteClient.
Transmit: ReadClient -> [tx] -> FrameBeat -> MAC. All handshakes are `amaranth.lib.stream`s.
"""

from amaranth.hdl import Cat, Const, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from . import abi

__all__ = [
    "AddressStore", "Doorbell", "ExactStore", "Fault", "FrameBeat", "IndexUpdate", "ListenerStore",
    "PostRingStore", "QueueStore", "ReadBeat", "ReadClient", "ReadRequest", "RegionLookup",
    "RegionRow", "RssKeyStore", "RssTableStore", "SteeredFrame", "Strobe", "TxShareStore",
    "WriteBeat", "WriteClient", "WriteRequest", "count_bits", "lanes_below",
]  # fmt: skip


def count_bits(most: int) -> int:
    """Bits that hold 0 to `most`."""
    return most.bit_length()


def lanes_below(count, lanes: int, lane_bits: int = 1):
    """A mask of `lanes` lanes: ones in those below `count`, an unsigned value of at most `lanes`.

    As a shift of ones, which a simulator does at once for all lanes. `lane_bits`: a power of two.
    """
    every = Const((1 << lanes * lane_bits) - 1, lanes * lane_bits)
    above = (lanes - count)[: count_bits(lanes)]
    return every >> Cat(Const(0, lane_bits.bit_length() - 1), above)


class Strobe(wiring.Signature):
    """A value that is there for the cycle in which `valid` is 1 and is always taken."""

    def __init__(self, shape):
        super().__init__({"valid": Out(1), "payload": Out(shape)})


class FrameBeat(data.StructLayout):
    """A beat of a frame. All `bus_bytes` are valid but on the last beat, where `count` are.

    `error` on the last beat marks a frame that the MAC found bad.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": unsigned(8 * bus_bytes),
                "count": unsigned(count_bits(bus_bytes)),
                "last": unsigned(1),
                "error": unsigned(1),
            }
        )


class SteeredFrame(data.StructLayout):
    """All that was decided about a verified frame whose beats are in the frame buffer.

    `reason` is an RxOutcome. With SPLIT, `header_length` bytes go to `queue`'s ring and the
    `payload_length` bytes after them into buffers of the application; the rest is padding. With
    HEADER_ONLY, `header_length` bytes go to `queue`'s ring. With PLACED (`rx.inject`) the whole
    frame is payload for `queue`, `header_length` is 0 and `hash` the command's cookie. From
    RX_RECORDS on (FAIR_SHARE) the frame has one beat, its last, which is passed over and counted
    under `queue`. Else the whole frame goes to queue 0: `queue` is 0, `header_length` is `length`,
    `payload_length` is 0.
    `time_stamp` is the cycle count at the frame's last beat from the MAC.
    """

    def __init__(self, parameters):
        length = count_bits(parameters.frame_bytes_max)
        super().__init__(
            {
                "length": unsigned(length),
                "header_length": unsigned(length),
                "payload_length": unsigned(length),
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "hash": unsigned(32),
                "time_stamp": unsigned(64),
                "tag": unsigned(12),
                "reason": unsigned(5),
                "vlan_tags": unsigned(2),
                "ipv6": unsigned(1),
                "checksum_good": unsigned(1),
            }
        )


# -- set-up, from the registers to the blocks ------------------------------------------------------


class AddressStore(data.StructLayout):
    """A write into the table of local addresses."""

    def __init__(self, parameters):
        super().__init__(
            {
                "index": unsigned(max(1, (parameters.local_addresses - 1).bit_length())),
                "valid": unsigned(1),
                "ipv6": unsigned(1),
                "address": unsigned(128),  # first byte of the address in bits 7:0
            }
        )


class ListenerStore(data.StructLayout):
    """A write into the table of listener rules."""

    def __init__(self, parameters):
        super().__init__(
            {
                "index": unsigned(max(1, (parameters.listeners - 1).bit_length())),
                "valid": unsigned(1),
                "udp": unsigned(1),
                "any_address": unsigned(1),
                "rss": unsigned(1),  # `queue` is a context of receive-side scaling
                "address": unsigned(max(1, (parameters.local_addresses - 1).bit_length())),
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "first": unsigned(16),
                "last": unsigned(16),
            }
        )


class ExactStore(data.StructLayout):
    """A write into the table of exact rules; see `abi.EXACT_RULE`."""

    def __init__(self, parameters):
        p = parameters
        super().__init__(
            {
                "slot": unsigned(max(1, (p.exact_ways * p.exact_rows - 1).bit_length())),
                "valid": unsigned(1),
                "ipv6": unsigned(1),
                "udp": unsigned(1),
                "rss": unsigned(1),
                "queue": unsigned(max(1, (p.queues - 1).bit_length())),  # or context
                "remote_port": unsigned(16),
                "local_port": unsigned(16),
                "remote": unsigned(128),  # first byte of the address in bits 7:0
                "local": unsigned(128),
            }
        )


class RssKeyStore(data.StructLayout):
    """The key of a context of receive-side scaling; its first byte in bits 7:0."""

    def __init__(self, parameters):
        super().__init__(
            {
                "context": unsigned(max(1, (parameters.rss_contexts - 1).bit_length())),
                "key": unsigned(8 * abi.RSS_KEY_BYTES),
            }
        )


class RssTableStore(data.StructLayout):
    """An entry of a context's indirection table."""

    def __init__(self, parameters):
        super().__init__(
            {
                "context": unsigned(max(1, (parameters.rss_contexts - 1).bit_length())),
                "entry": unsigned((abi.RSS_ENTRIES - 1).bit_length()),
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
            }
        )


class TxShareStore(data.StructLayout):
    """A queue's share and rate limit of transmission, as TX_SHARE and TX_RATE hold them (0 is not
    yet replaced by its default). Comes at any time."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "quantum": unsigned(16),  # 64 bytes
                "burst": unsigned(16),  # 64 bytes
                "rate": unsigned(32),  # bytes in 65,536 cycles
            }
        )


class Fault(data.StructLayout):
    """Something was refused or failed; becomes a completion of its queue (`abi.COMPLETION`).

    `index` is the cell of the ring that it concerns, `status` the outcome.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "index": unsigned(32),
                "status": unsigned(5),
            }
        )


class QueueStore(data.StructLayout):
    """A ring of a queue (receive or transmit) is set up; its indices start at zero.

    `base` is a bus address of the header port that was checked against the header memory. Comes
    only while the block is paused and idle.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "enable": unsigned(1),
                "base": unsigned(parameters.address_bits),
                "log2_bytes": unsigned(5),
            }
        )


class PostRingStore(data.StructLayout):
    """Owner and post ring of a queue; indices start at zero. Comes only while paused and idle."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "enable": unsigned(1),
                "owner": unsigned(8),
                "region": unsigned(8),
                "offset": unsigned(20),  # in 4 KiB
                "log2_pages": unsigned(3),
            }
        )


class Doorbell(data.StructLayout):
    """A producer or consumer index that software wrote; free-running, in cells. Not trusted."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "index": unsigned(32),
            }
        )


class RegionRow(data.StructLayout):
    """A region as the management page describes it. Not `live`: grant nothing."""

    def __init__(self, parameters):
        super().__init__(
            {
                "live": unsigned(1),
                "base": unsigned(parameters.address_bits),  # 4 KiB aligned
                "elements": unsigned(24),
                "postable": unsigned(24),
                "log2_element_bytes": unsigned(4),
                "owner": unsigned(8),
                "generation": unsigned(8),
                "nic_write": unsigned(1),
                "nic_read": unsigned(1),
            }
        )


class RegionLookup(wiring.Signature):
    """Read port of the region table, from the reader's side; the row comes a cycle after the index.

    An index beyond the table reads as a row that is not live.
    """

    def __init__(self, parameters):
        super().__init__({"index": Out(8), "row": In(RegionRow(parameters))})


# -- memory ----------------------------------------------------------------------------------------


class WriteRequest(data.StructLayout):
    """A write of `length` bytes (at least 1) from bus address `address` on.

    `wrap_log2`: 0, or the ring's size as a power of two (12 to 22): bursts that reach the end of
    the aligned block of that size go on at its start.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "address": unsigned(parameters.address_bits),
                "length": unsigned(16),
                "wrap_log2": unsigned(5),
            }
        )


class WriteBeat(data.StructLayout):
    """Data of a request, already on the byte lanes of its address, with its strobes.

    The first beat carries the bytes up to the next multiple of the bus width, and so on.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": unsigned(8 * bus_bytes),
                "strobe": unsigned(bus_bytes),
                "last": unsigned(1),
            }
        )


class WriteClient(wiring.Signature):
    """A block's connection to the write side of a memory port, from the block's side.

    Requests are served in order; beats may come before, with or after their request. `done` is 1
    for a cycle for each request whose writes have all been acknowledged, in the order of requests;
    `error` beside it says that an acknowledgement was an error response.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "request": Out(stream.Signature(WriteRequest(parameters))),
                "beats": Out(stream.Signature(WriteBeat(parameters.bus_bytes))),
                "done": In(1),
                "error": In(1),
            }
        )


class ReadRequest(data.StructLayout):
    """A read of `length` bytes (at least 1) from `address` on; `wrap_log2` as in WriteRequest."""

    def __init__(self, parameters):
        super().__init__(
            {
                "address": unsigned(parameters.address_bits),
                "length": unsigned(16),
                "wrap_log2": unsigned(5),
            }
        )


class ReadBeat(data.StructLayout):
    """Data of a request as it lay on the byte lanes: bytes `begin` to `end` - 1 are wanted.

    `begin` is 0 but on the first beat, `end` is the bus width but on the `last`.
    """

    def __init__(self, bus_bytes):
        super().__init__(
            {
                "data": unsigned(8 * bus_bytes),
                "begin": unsigned(count_bits(bus_bytes - 1)),
                "end": unsigned(count_bits(bus_bytes)),
                "last": unsigned(1),
                "error": unsigned(1),
            }
        )


class ReadClient(wiring.Signature):
    """A block's connection to the read side of a memory port, from the block's side.

    Requests are answered in order. Room for the answer is set aside before a request goes out, so a
    block that does not take its beats holds up nobody else.
    """

    def __init__(self, parameters):
        super().__init__(
            {
                "request": Out(stream.Signature(ReadRequest(parameters))),
                "beats": In(stream.Signature(ReadBeat(parameters.bus_bytes))),
            }
        )


class IndexUpdate(data.StructLayout):
    """The newest values of one half of a queue's index slot (see `abi.INDEX_SLOT`)."""

    def __init__(self, parameters):
        super().__init__(
            {
                "queue": unsigned(max(1, (parameters.queues - 1).bit_length())),
                "low": unsigned(32),  # rx_producer, or tx_consumer
                "high": unsigned(32),  # post_consumer, or completion_producer
            }
        )


assert abi.CELL_BYTES == 16
