"""The register map: pages of 4 KiB behind the AXI4-Lite port.

A page is what one party may reach: the stack has the control page, the counters and the stack
doorbell pages; an application has the post doorbell page of its queue and nothing else; the
registration service (on a board: the privileged driver) alone has the management page.
"""

from .layout import Access, Field, Register
from .outcomes import PostOutcome, RxOutcome, TxOutcome

__all__ = [
    "ABI_VERSION", "ADDRESS_BITS", "CONTROL", "CONTROL_PAGE", "COUNTERS_PAGE", "COUNTER_BYTES",
    "DOORBELLS_PAGE", "EXACT_TAG", "LISTENERS_MAX", "LOCAL_ADDRESSES_MAX", "MAGIC", "MANAGEMENT",
    "MANAGEMENT_PAGE", "PAGE_BYTES", "PORT_COUNTERS", "POST_DOORBELL", "QUEUES_MAX",
    "REGIONS_MAX", "RESET_WORD", "RSS_CONTEXTS_MAX", "RSS_ENTRIES", "RSS_KEY_BYTES",
    "STACK_DOORBELL", "port_counter", "post_counter", "post_doorbell_page",
    "rx_counter", "rx_port_row", "stack_doorbell_page", "tx_counter",
]  # fmt: skip

MAGIC = 0x4E534448
"""The bytes `HDSN` at the start of the control page."""

ABI_VERSION = 2
"""Raised with every change of this contract that an older driver would misread."""

PAGE_BYTES = 4096
ADDRESS_BITS = 18
"""Width of the AXI4-Lite address."""

QUEUES_MAX = 16
REGIONS_MAX = 16
LISTENERS_MAX = 64
LOCAL_ADDRESSES_MAX = 8
RSS_CONTEXTS_MAX = 16
RSS_ENTRIES = 128
"""Entries of an indirection table of receive-side scaling."""
RSS_KEY_BYTES = 40
RESET_WORD = 0x52455345
"""What RESET takes for a reset; a stray write is none."""
EXACT_TAG = 1024
"""A record's `tag` from here on names an exact rule: EXACT_TAG + slot, modulo 4096."""

CONTROL_PAGE = 0x0000
MANAGEMENT_PAGE = 0x1000
COUNTERS_PAGE = 0x4000
DOORBELLS_PAGE = 0x10000


def post_doorbell_page(queue: int) -> int:
    """Address of the application's doorbell page of `queue`."""
    return DOORBELLS_PAGE + 2 * queue * PAGE_BYTES


def stack_doorbell_page(queue: int) -> int:
    """Address of the stack's doorbell page of `queue`."""
    return DOORBELLS_PAGE + (2 * queue + 1) * PAGE_BYTES


class CONTROL:
    """Control page: identity, switches, steering and ring set-up. For the stack."""

    MAGIC = Register("MAGIC", 0x000, Access.RO, "0x4E534448 ('HDSN')")
    ABI_VERSION = Register("ABI_VERSION", 0x004, Access.RO, "version of this contract")
    BUS_BYTES = Register("BUS_BYTES", 0x008, Access.RO, "width of streams and memory ports")
    QUEUES = Register("QUEUES", 0x00C, Access.RO, "number of queues")
    REGIONS = Register("REGIONS", 0x010, Access.RO, "number of regions")
    LISTENERS = Register("LISTENERS", 0x014, Access.RO, "number of listener rules")
    RANGE_LISTENERS = Register(
        "RANGE_LISTENERS", 0x018, Access.RO, "the first so many listener rules match port ranges"
    )
    LOCAL_ADDRESSES = Register("LOCAL_ADDRESSES", 0x01C, Access.RO, "size of the address table")
    REFERENCES_MAX = Register("REFERENCES_MAX", 0x020, Access.RO, "references in a descriptor")
    FRAME_BYTES_MAX = Register("FRAME_BYTES_MAX", 0x024, Access.RO, "largest frame without FCS")
    POSTABLE_MAX = Register("POSTABLE_MAX", 0x028, Access.RO, "largest REGION_POSTABLE")
    FEATURES = Register(
        "FEATURES", 0x02C, Access.RO, "what the device can do",
        (
            Field("exact_rules", 1, "exact 5-tuple rules"),
            Field("rss", 1, "receive-side scaling"),
            Field("udp_split", 1, "UDP split by queue mode"),
            Field("chains", 1, "payload over several buffers"),
            Field("time_stamps", 1, "time stamps in records"),
            Field("tso", 1, "segmentation of TCP"),
            Field("vlan_insertion", 1, "VLAN tag insertion"),
            Field("commands", 1, "command and completion rings"),
            Field("tx_rate", 1, "transmit shares and rate limits"),
            Field("moderation", 1, "interrupt moderation"),
        ),
    )  # fmt: skip
    CYCLES_LO = Register("CYCLES_LO", 0x030, Access.RO, "cycle count; reading it latches CYCLES_HI")
    CYCLES_HI = Register("CYCLES_HI", 0x034, Access.RO, "high half of the cycle count last read")
    SWITCHES = Register(
        "SWITCHES", 0x038, Access.RW, "what is switched on; all off after reset",
        (
            Field("receive", 1, "take frames from the MAC"),
            Field("transmit", 1, "serve transmit rings"),
            Field("promiscuous", 1, "pass frames for other MAC addresses"),
            Field("deliver_malformed", 1, "frames of wrong length or checksum go whole to queue 0"),
        ),
    )  # fmt: skip
    MAC_LO = Register(
        "MAC_LO", 0x040, Access.RW, "MAC address, first four bytes, first in bits 7:0"
    )
    MAC_HI = Register("MAC_HI", 0x044, Access.RW, "MAC address, last two bytes")
    IRQ_STATUS = Register(
        "IRQ_STATUS", 0x050, Access.W1C, "bit q: queue q had an index written back since cleared"
    )
    IRQ_ENABLE = Register("IRQ_ENABLE", 0x054, Access.RW, "bit q: let queue q raise `irq`")
    INDEX_BASE = Register("INDEX_BASE", 0x058, Access.RW, "offset of the index slots, in 4 KiB")
    FENCE = Register(
        "FENCE", 0x05C, Access.RW,
        "write: begin a fence; read: 1 until every frame looked up before it has completed, and the"
        " receive indices that show it are written (R15)",
    )  # fmt: skip
    ERROR = Register(
        "ERROR", 0x060, Access.W1C, "refused settings and failures since cleared",
        (
            Field(
                "setting_refused", 1, "a register write was refused (R29, beyond limits, locked)"
            ),
            Field("header_write", 1, "header port: error response to a write"),
            Field("header_read", 1, "header port: error response to a read"),
            Field("payload_write", 1, "payload port: error response to a write"),
            Field("payload_read", 1, "payload port: error response to a read"),
            Field("header_write_failed", 1, "header port: no answer in PORT_TIMEOUT; out of use"),
            Field("header_read_failed", 1, "the same for its reads"),
            Field("payload_write_failed", 1, "payload port: likewise"),
            Field("payload_read_failed", 1, "the same for its reads"),
            Field("mac_stalled", 1, "the MAC took nothing for PORT_TIMEOUT; frames were flushed"),
            Field("completion_lost", 1, "a completion found no room in its ring"),
        ),
    )  # fmt: skip
    EXACT_WAYS = Register("EXACT_WAYS", 0x064, Access.RO, "slots in which a flow may stand")
    EXACT_ROWS = Register(
        "EXACT_ROWS", 0x068, Access.RO, "rows of each way; slot = way x EXACT_ROWS + row"
    )
    RSS_CONTEXTS = Register("RSS_CONTEXTS", 0x06C, Access.RO, "contexts of receive-side scaling")
    CHAIN_MAX = Register("CHAIN_MAX", 0x070, Access.RO, "most buffers of one payload")
    TSO_BYTES_MAX = Register("TSO_BYTES_MAX", 0x074, Access.RO, "most payload to be segmented")
    RX_WATERMARK = Register(
        "RX_WATERMARK", 0x078, Access.RW,
        "when frames wait in the frame buffer beyond this many bytes, those of a queue that holds"
        " more than its share are dropped first; 0 after reset: never",
        (
            Field("watermark", 16, "64 bytes"),
            Field("share", 16, "64 bytes"),
        ),
    )  # fmt: skip
    PORT_TIMEOUT = Register(
        "PORT_TIMEOUT", 0x07C, Access.RW,
        "cycles without an answer after which a memory port counts as failed, and without a beat"
        " taken after which the MAC counts as stalled; 0: never. After reset: 1,048,576",
    )  # fmt: skip
    RESET = Register(
        "RESET", 0x080, Access.WO,
        "writing 0x52455345 resets the device once all that is in flight has ended (R28): queues"
        " and commands are off with their indices final, waiting frames DISABLED, rules and"
        " addresses gone, this page as after reset but for IRQ_STATUS and ERROR, failed ports in"
        " use again, if their memory has answered all that it owed."
        " The management page, posts, counters, keys and tables of receive-side scaling stay."
        " QUEUE_SWITCH reads `busy`, and writes of this page are refused, until it is done",
    )  # fmt: skip
    ADDRESS_WORD = Register(
        "ADDRESS_WORD", 0x100, Access.WO,
        "four words: the local address to be stored, network byte order, first byte in bits 7:0"
        " of word 0; IPv4 takes word 0",
        count=4,
    )  # fmt: skip
    ADDRESS_STORE = Register(
        "ADDRESS_STORE", 0x110, Access.WO, "store ADDRESS_WORD in the address table",
        (
            Field("index", 8, "entry"),
            Field("valid", 1, "0 clears the entry"),
            Field("ipv6", 1, "IP version 6"),
        ),
    )  # fmt: skip
    LISTENER_PORTS = Register(
        "LISTENER_PORTS", 0x120, Access.WO, "local ports of the listener rule to be stored",
        (
            Field("first", 16, "port"),
            Field("last", 16, "last port; ignored by rules that take no range"),
        ),
    )  # fmt: skip
    LISTENER_STORE = Register(
        "LISTENER_STORE", 0x124, Access.WO,
        "store a listener rule; where several match, the lowest index wins",
        (
            Field("index", 8, "rule"),
            Field("valid", 1, "0 clears the rule"),
            Field("udp", 1, "1: UDP, 0: TCP"),
            Field("any_address", 1, "match every local address"),
            Field("rss", 1, "1: `queue` is a context of receive-side scaling"),
            Field("address", 4, "index of the local address"),
            Field("queue", 8, "queue of matching frames, or context"),
        ),
    )  # fmt: skip
    COMMAND_RING = Register(
        "COMMAND_RING", 0x130, Access.RW,
        "command ring; writing it switches commands on (or, with `log2_bytes` 0, off), indices"
        " start at zero. Refused while it is on; reads zero once it is off and no command is under"
        " way",
        (
            Field("base", 24, "offset in header memory, in 4 KiB; aligned to the ring's size"),
            Field("log2_bytes", 8, "12 to 22, or 0: off"),
        ),
    )  # fmt: skip
    COMMAND_CONSUMER = Register(
        "COMMAND_CONSUMER", 0x134, Access.RO, "command ring: cells that the device has read"
    )
    RSS_KEY_WORD = Register(
        "RSS_KEY_WORD", 0x140, Access.WO,
        "the hash key to be stored: first byte of the key in bits 7:0 of word 0",
        count=RSS_KEY_BYTES // 4,
    )  # fmt: skip
    RSS_KEY_STORE = Register(
        "RSS_KEY_STORE", 0x168, Access.WO, "store RSS_KEY_WORD as the key of a context",
        (Field("context", 8, "context"),),
    )  # fmt: skip
    RSS_TABLE_STORE = Register(
        "RSS_TABLE_STORE", 0x16C, Access.WO, "store an entry of an indirection table",
        (
            Field("context", 8, "context"),
            Field("entry", 8, "entry: the low 7 bits of the hash"),
            Field("queue", 8, "queue"),
        ),
    )  # fmt: skip
    RX_RING = Register(
        "RX_RING", 0x400, Access.RW, "receive ring of a queue; refused while the queue is enabled",
        (
            Field("base", 24, "offset in header memory, in 4 KiB; aligned to the ring's size"),
            Field("log2_bytes", 8, "12 to 22"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    TX_RING = Register(
        "TX_RING", 0x404, Access.RW, "transmit ring of a queue; refused while the queue is enabled",
        (
            Field("base", 24, "offset in header memory, in 4 KiB; aligned to the ring's size"),
            Field("log2_bytes", 8, "12 to 22"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    QUEUE_SWITCH = Register(
        "QUEUE_SWITCH", 0x408, Access.RW,
        "1: enabled, indices start at zero; 0: disabled. Reads `busy` until it has taken effect",
        (
            Field("enable", 1, ""),
            Field("spare", 15, "zero"),
            Field("busy", 1, "quiescing: indices are not yet final"),
            Field("stopped", 1, "transmit stopped after an OVERRUN or a port error"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    COMPLETION_RING = Register(
        "COMPLETION_RING", 0x40C, Access.RW,
        "completion ring of a queue; refused while the queue is enabled; `log2_bytes` 0: none",
        (
            Field("base", 24, "offset in header memory, in 4 KiB; aligned to the ring's size"),
            Field("log2_bytes", 8, "12 to 22, or 0"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    QUEUE_MODE = Register(
        "QUEUE_MODE", 0x800, Access.RW, "modes of a queue; refused while the queue is enabled",
        (
            Field("udp_split", 1, "split UDP, too"),
            Field("time_stamps", 1, "a time stamp in every record"),
            Field("stop_on_refusal", 1, "a refused descriptor stops the queue, as an error does"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    IRQ_MODERATION = Register(
        "IRQ_MODERATION", 0x804, Access.RW,
        "an interrupt of a queue waits for so many index updates, or so long after the first; zero"
        " of one is no such limit (the last updates may then wait for more), of both: at once",
        (Field("updates", 8, "index updates"), Field("cycles", 24, "cycles")),
        count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    TX_SHARE = Register(
        "TX_SHARE", 0x808, Access.RW, "deficit round robin of transmission",
        (
            Field("quantum", 16, "64 bytes that the queue may send a round; 0: 64 (4 KiB)"),
            Field("burst", 16, "64 bytes that a rate limit lets through at once; 0: 256 (16 KiB)"),
        ), count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    TX_RATE = Register(
        "TX_RATE", 0x80C, Access.RW, "bytes that a queue may send in 65,536 cycles; 0: no limit",
        count=QUEUES_MAX, stride=16,
    )  # fmt: skip


class MANAGEMENT:
    """Management page: memory and ownership. For the registration service alone."""

    HEADER_BASE_LO = Register(
        "HEADER_BASE_LO", 0x000, Access.RW, "bus address of header memory, 4 KiB aligned"
    )
    HEADER_BASE_HI = Register("HEADER_BASE_HI", 0x004, Access.RW, "its upper half")
    HEADER_PAGES = Register(
        "HEADER_PAGES", 0x008, Access.RW,
        "size of the header memory in 4 KiB; 0 (after reset) refuses every ring. Refused while a"
        " queue is enabled",
    )  # fmt: skip
    REVOKE = Register(
        "REVOKE",
        0x010,
        Access.RW,
        "write: bit r revokes region r; read: the bits not yet acknowledged (I6)",
    )
    REGION_BASE_LO = Register(
        "REGION_BASE_LO", 0x400, Access.RW, "bus address of a region, 4 KiB aligned",
        count=REGIONS_MAX, stride=32,
    )  # fmt: skip
    REGION_BASE_HI = Register(
        "REGION_BASE_HI", 0x404, Access.RW, "its upper half", count=REGIONS_MAX, stride=32
    )
    REGION_SHAPE = Register(
        "REGION_SHAPE", 0x408, Access.RW, "elements of a region",
        (
            Field("elements", 24, "number of elements"),
            Field("log2_element_bytes", 8, "8 to 14: 256 bytes to 16 KiB"),
        ), count=REGIONS_MAX, stride=32,
    )  # fmt: skip
    REGION_POSTABLE = Register(
        "REGION_POSTABLE", 0x40C, Access.RW,
        "elements from 0 that may be posted; a post ring lies above them",
        count=REGIONS_MAX, stride=32,
    )  # fmt: skip
    REGION_STATE = Register(
        "REGION_STATE", 0x410, Access.RW,
        "writing `live` = 1 makes the region live; then all its registers are locked until REVOKE",
        (
            Field("owner", 8, "owner; 0 is the stack and owns no region"),
            Field("generation", 8, "number of this registration; posts and references repeat it"),
            Field("nic_write", 1, "the device may write (receive)"),
            Field("nic_read", 1, "the device may read (transmit, post ring)"),
            Field("spare", 12, "zero"),
            Field("live", 1, "accesses are granted"),
            Field("busy", 1, "read: element states are being cleared, or a revoke drains"),
        ), count=REGIONS_MAX, stride=32,
    )  # fmt: skip
    QUEUE_OWNER = Register(
        "QUEUE_OWNER", 0x800, Access.RW, "owner of a queue; refused while posts are enabled",
        (
            Field("owner", 8, "0: nobody's, or the stack's"),
            Field("spare", 22, "zero"),
            Field("busy", 1, "read: the change has not yet taken effect"),
            Field("posts", 1, "1: read the post ring; indices start at zero"),
        ),
        count=QUEUES_MAX, stride=16,
    )  # fmt: skip
    POST_RING = Register(
        "POST_RING", 0x804, Access.RW, "post ring of a queue; refused while posts are enabled",
        (
            Field("offset", 20, "offset in the region, in 4 KiB"),
            Field("region", 8, "region"),
            Field("log2_pages", 4, "size as a power of two of 4 KiB, 0 to 7"),
        ),
        count=QUEUES_MAX, stride=16,
    )  # fmt: skip


class POST_DOORBELL:
    """Post doorbell page: one for each queue, for its application."""

    POST_PRODUCER = Register(
        "POST_PRODUCER", 0x000, Access.WO, "post ring: cells written; beyond the ring: ignored"
    )


class STACK_DOORBELL:
    """Stack doorbell page: one for each queue, for the stack."""

    TX_PRODUCER = Register("TX_PRODUCER", 0x000, Access.WO, "transmit ring: cells written")
    RX_CONSUMER = Register("RX_CONSUMER", 0x004, Access.WO, "receive ring: cells handed back")
    COMPLETION_CONSUMER = Register(
        "COMPLETION_CONSUMER", 0x008, Access.WO, "completion ring: cells handed back"
    )
    COMMAND_PRODUCER = Register(
        "COMMAND_PRODUCER", 0x00C, Access.WO, "on the page of queue 0: command ring, cells written"
    )


# Counters: 64 bits each; reading the low word latches the high word.
COUNTER_BYTES = 8
_RX_COLUMNS = 32
_TX_COLUMNS = 8
_POST_COLUMNS = 8
_TX_BASE = 0x2000
_POST_BASE = 0x2800
_PORT_BASE = 0x3000

rx_port_row = QUEUES_MAX
"""Row of the receive counters for frames that ended before a queue was known."""

PORT_COUNTERS = (
    ("header_write_bytes", "bytes that the header port wrote"),
    ("header_read_bytes", "bytes that the header port read"),
    ("payload_write_bytes", "bytes that the payload port wrote"),
    ("payload_read_bytes", "bytes that the payload port read"),
    ("rx_frames", "frames that the MAC delivered, good or bad"),
    ("rx_bytes", "their bytes, without FCS"),
    ("tx_frames", "frames handed to the MAC"),
    ("tx_bytes", "their bytes, without FCS"),
    ("tx_flushed", "of these, frames lost while the MAC took nothing for PORT_TIMEOUT"),
)
"""Counters of the ports, in address order: name and meaning."""


def rx_counter(row: int, outcome: RxOutcome) -> int:
    """Address of a receive counter; `row` is a queue, or `rx_port_row`."""
    return COUNTERS_PAGE + (row * _RX_COLUMNS + int(outcome)) * COUNTER_BYTES


def tx_counter(queue: int, outcome: TxOutcome) -> int:
    """Address of a transmit counter."""
    return COUNTERS_PAGE + _TX_BASE + (queue * _TX_COLUMNS + int(outcome)) * COUNTER_BYTES


def post_counter(queue: int, outcome: PostOutcome) -> int:
    """Address of a counter of post cells."""
    return COUNTERS_PAGE + _POST_BASE + (queue * _POST_COLUMNS + int(outcome)) * COUNTER_BYTES


def port_counter(name: str) -> int:
    """Address of a counter of the ports."""
    return COUNTERS_PAGE + _PORT_BASE + [n for n, _ in PORT_COUNTERS].index(name) * COUNTER_BYTES
