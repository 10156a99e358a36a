"""The state of TCP: one structured row `s` that holds every table, in memory of the caller.

One row, since compiled code then passes one pointer. Everything that a successor needs to go on
is here: connections, sends, pieces out of order, listeners, neighbours, secrets, deadlines (ns of
the caller's clock). All integers are int64; sequence numbers are unwrapped to 64 bits (the low
32 bits are those on the wire), so that no comparison has to think of wrapping. "None" is -1.

An address is two integers, `high` and `address`: the halves of an IPv6 address as signed numbers,
or 0 and the 32 bits of an IPv4 address. (No IPv6 address that begins with 64 zero bits is ever on
a wire that we look at.)

Each queue (application) has its own part of the rows of connections, sends and pieces, so that
none can use up another's.
"""

import ipaddress

import numpy as np

from .. import errors
from ..udp import tables as udp
from . import counters, sizes, states
from .events import EVENT, REQUEST

__all__ = [
    "CUBIC", "NEVER", "NEWRENO", "STATE", "STATE_BYTES", "add_address", "add_route", "allocate",
    "connection_rows", "initialise", "join_address", "split_address", "split_network",
]  # fmt: skip

QUEUES = 16
REGIONS = 16
DATAGRAMS = 32
OWN_MOVES = 16
MOVES = OWN_MOVES * (QUEUES - 1)
HOLDS = DATAGRAMS + MOVES
"""What lies in the stack's area of header memory: datagrams that are put together from fragments,
then whole frames whose payload waits to be moved, so many of each application."""
DATAGRAM_BYTES = 17 * 4096
MOVE_BYTES = 9 * 1024
HEAD_BYTES = 512
"""Before the data of a datagram: room for the headers of its first fragment."""
AREA_BYTES = DATAGRAMS * DATAGRAM_BYTES + MOVES * MOVE_BYTES
UNITS = 1 << 13
"""Of 8 bytes, the measure of fragments, in the largest datagram."""
LISTENERS = 64
NEIGHBOURS = 64
FRAMES = 64
"""Of the stack's own, on their way out; the largest answer to an echo takes 46 of them."""
LOCALS = 8
ROUTES = 16
PATHS = 64
CONNECTIONS_PER_QUEUE = sizes.connections_per_queue()
SENDS_PER_QUEUE = 1024
PIECES_PER_QUEUE = 512
PIECES_PER_CONNECTION = 128
RANGES_PER_QUEUE = 1024
RANGES_PER_CONNECTION = 64
"""Ranges that peers report as received (SACK); what goes beyond is forgotten, and sent again."""
SACK_BLOCKS = 4
"""Of one segment; three beside a time stamp (RFC 2018 section 3)."""
EVENTS_PER_QUEUE = 1024
SEGMENTS_PER_QUEUE = 256
MAX_REFERENCES = 8
CHAIN_MOST = 16
"""Buffers of a record after the first; a card has no more (R9)."""
FRAME_BYTES = 1514
CONNECTIONS = QUEUES * CONNECTIONS_PER_QUEUE
ENDPOINTS = QUEUES * udp.ENDPOINTS_PER_QUEUE
INDEX_BITS = max(16, (CONNECTIONS - 1).bit_length())
"""Of the number by which an application knows a connection; the rest changes with each use."""
BLOCKS = CONNECTIONS // sizes.BLOCK
BUCKETS = 1 << (CONNECTIONS - 1).bit_length()

EVENTS_MARGIN = PIECES_PER_CONNECTION + 32
"""Events that one record or request can cause at most, with room to spare."""
EVENTS_RESERVE = PIECES_PER_CONNECTION + 16
"""Deliveries and releases stop here and go on later, so that a close always has room."""
SEGMENTS_MARGIN = 16
"""Segments without data that one record or request can cause at most, with room to spare."""
SEGMENTS_RESERVE = 24
"""Data segments stop here, so that acknowledgements still have room."""

TSO_MOST = 61440
"""With its headers it fits the 16 bits of an IP length."""

NEWRENO = 0
CUBIC = 1

NEVER = 1 << 62
NONE = -1

HOPS = 64
"""TTL, or hop limit, of what is sent unless an application wants another (RFC 1700)."""

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def _integers(text):
    return [(name, "<i8") for name in text.split()]


CONTROL = np.dtype(
    _integers(
        "now address prefix gateway mac mss listeners_version next_deadline waiting_neighbour"
        " reset_tokens reset_filled challenge_left challenge_second echo_tokens echo_filled"
        " frame_next neighbour_at locals_at tso_bytes paths locals routes congestion timestamps"
        " sack udp_deadline udp_waiting holds_due moving place_bytes identification"
    )
    + [("secret", "<i8", (4,))]
)
QUEUE = np.dtype(
    _integers(
        "live port_first port_last port_next connections half_open free_connection free_send"
        " free_piece free_range pending_head pending_tail waiting_head starved_head old_head"
        " old_tail events_head events_tail segments_head segments_tail tx_done"
        " waiting posted saturated average promised starved postable"
    )
)
REGION = np.dtype(_integers("live generation queue element_bytes bytes postable"))
LISTENER = np.dtype(
    _integers("state queue port socket connections half_open backlog flags cookie_at")
)
LOCAL = np.dtype(_integers("high address bits state tries at mac defend_at"))
"""`state` as in `hdstack.net.duplicates`; `mac` is of whom else has the address."""
ROUTE = np.dtype(_integers("high address bits hop_high hop"))
"""`hop` 0: the hosts are on the link."""
PATH = np.dtype(_integers("high address mtu until"))
NEIGHBOUR = np.dtype(_integers("state high address mac updated asked confirmed tries at"))
CONNECTION = np.dtype(
    _integers(
        # identity
        "state reuse queue listener socket local_high local_address local_port remote_high"
        " remote_address remote_port mac mac_known hop"
        " hash_next bucket announced attached reason rst_due fin_told closed_due"
        # sending
        " iss snd_una snd_nxt snd_max snd_end snd_wnd snd_wl1 snd_wl2 max_wnd snd_shift mss fin"
        " snd_up snd_up_due send_head send_tail send_cursor sends"
        # congestion and time-outs
        " cwnd ssthresh acked_bytes dup_acks recover recovery srtt rttvar rto backoff"
        " timing_seq timing_at retries progress_at heard_at sent_at persist"
        # loss recovery (RFC 6675): what the peer has reported, what was sent again
        " sack_ok ranges_head ranges sacked_bytes high_rxt rescue_rxt"
        # CUBIC (RFC 9438)
        " algorithm epoch cubic_k w_max w_est w_rest cwnd_prior"
        # time stamps (RFC 7323)
        " ts_ok ts_offset ts_recent ts_recent_at last_ack"
        # acknowledging, Nagle
        " quick pingpong rcv_mss data_at nodelay snd_sml"
        # keep-alive, close
        " keep_on keep_idle keep_every keep_count keep_tries keep_sent keep_at user_timeout closing"
        " told_problem"
        " challenge_tokens challenge_filled"
        # the path
        " hops traffic_class mss_agreed option_bytes path_at path_until soft_error"
        # receiving
        " irs rcv_nxt rcv_adv rcv_shift rcv_fin rcv_up piece_head pieces unacked promised starved"
        " received dsack_start dsack_end"
        # timers and lists
        " retransmit_at ack_at state_at pending pending_next waiting waiting_listed waiting_next"
        " starved_listed starved_next old_next old_before"
        # a reduction that may prove to have been for nothing (RFC 3522, RFC 3708, RFC 4015)
        " undo undo_cwnd undo_pipe undo_stamp undo_start undo_end undo_bytes undo_w_max"
        " undo_cwnd_prior undo_epoch undo_k"
        # slow start (RFC 9406)
        " round_end round_rtt last_rtt rtt_samples css css_rtt css_rounds"
    )
    + [("sack_recent", "<i8", (SACK_BLOCKS,))]
)
SEND = np.dtype(_integers("seq region generation offset length next last_tx untaken"))
PIECE = np.dtype(_integers("seq length region offset next"))
RANGE = np.dtype(_integers("start end next"))
REFERENCE = np.dtype(_integers("send region generation offset length"))
SEGMENT = np.dtype(
    _integers(
        "kind frame connection mac high address remote_high remote_address local_port remote_port"
        " seq ack flags urgent cut hops traffic_class"
        " window mss shift sack_ok ts tsval tsecr sacks payload references"
        " datagram total fragment more identification checksum"
    )
    + [("sack", "<i8", (2 * SACK_BLOCKS,)), ("ref", REFERENCE, (MAX_REFERENCES,))]
)
TCP_SEGMENT = 0
"""With `cut` the card makes segments of so many bytes of it (TSO); 0: it is one."""
ARP_PACKET = 1
"""`mac` is the target or 0, `remote_address` the target, `flags` the operation."""
WHOLE_FRAME = 2
"""The bytes are in row `frame` of `frames`."""
UDP_DATAGRAM = 3
"""Row `datagram` of `datagrams`, of `total` bytes of payload, or a part of it: `fragment` is its
place in the IP payload (-1: whole), `more` is 1 if others follow, `checksum` that of all."""
CHAINED = np.dtype(_integers("region offset length"))
PARSED = np.dtype(
    _integers(
        "queue mac remote_high remote_address remote_port local_high local_address local_port seq"
        " ack flags window urgent mss shift length"
        " region offset chained sack_ok ts tsval tsecr sacks"
    )
    + [("sack", "<i8", (2 * SACK_BLOCKS,)), ("chain", CHAINED, (CHAIN_MOST,))]
)
"""`chained`: further buffers of the payload, in `chain`."""
WHOLE = np.dtype(
    _integers("queue protocol ip transport header start length identification offset more")
)
"""What `net.input` found in a frame that is not done with, offsets from its first byte: a fragment
(its data begins at `start`), or payload to be moved to `queue` (behind `header` bytes, its
transport's header at `transport`)."""
HOLD = np.dtype(
    _integers(
        "state use queue since due protocol remote_high remote_address local_high local_address"
        # of a datagram: what it has
        " identification ip transport header first end top got"
        # of what is moved: its frame in the area, payload in pieces, a PLACE each
        " start length seq flags urgent pieces piece_bytes sent answered arrived"
    )
)
PLACE = np.dtype(_integers("cookie queue offset length"))
"""A PLACE for the driver to send; `offset` in the area."""
FRAME = np.dtype([("length", "<i8"), ("bytes", "u1", (FRAME_BYTES,))], align=True)
PENDING_EVENT = np.dtype([("queue", "<i8"), ("row", EVENT)])

STATE = np.dtype(
    [
        ("control", CONTROL),
        ("counters", "<i8", (counters.COUNTERS,)),
        ("queues", QUEUE, (QUEUES,)),
        ("regions", REGION, (REGIONS,)),
        ("listeners", LISTENER, (LISTENERS,)),
        ("locals", LOCAL, (LOCALS,)),
        ("routes", ROUTE, (ROUTES,)),
        ("paths", PATH, (PATHS,)),
        ("neighbours", NEIGHBOUR, (NEIGHBOURS,)),
        ("buckets", "<i8", (BUCKETS,)),
        ("deadlines", "<i8", (CONNECTIONS,)),
        ("blocks", "<i8", (BLOCKS,)),
        ("connections", CONNECTION, (CONNECTIONS,)),
        ("sends", SEND, (QUEUES * SENDS_PER_QUEUE,)),
        ("pieces", PIECE, (QUEUES * PIECES_PER_QUEUE,)),
        ("ranges", RANGE, (QUEUES * RANGES_PER_QUEUE,)),
        ("events", PENDING_EVENT, (QUEUES, EVENTS_PER_QUEUE)),
        ("segments", SEGMENT, (QUEUES, SEGMENTS_PER_QUEUE)),
        ("frames", FRAME, (FRAMES,)),
        ("parsed", PARSED),
        ("whole", WHOLE),
        ("holds", HOLD, (HOLDS,)),
        ("units", "<i8", (DATAGRAMS, UNITS // 64)),
        ("place", PLACE),
        ("request", REQUEST),
        ("endpoints", udp.ENDPOINT, (ENDPOINTS,)),
        ("datagrams", udp.DATAGRAM, (QUEUES * udp.DATAGRAMS_PER_QUEUE,)),
        ("udp", udp.UDP_QUEUE, (QUEUES,)),
    ],
    align=True,
)
STATE_BYTES = STATE.itemsize


def allocate(buffer=None):
    """The row `s` over `buffer` (writable, at least STATE_BYTES), or over memory of its own."""
    if buffer is None:
        return np.zeros(1, STATE)[0]
    view = memoryview(buffer)
    if view.nbytes < STATE_BYTES or view.readonly:
        raise errors.ConfigurationError(
            f"the buffer for TCP's tables has {view.nbytes} bytes"
            f"{', read-only' if view.readonly else ''}; {STATE_BYTES} writable bytes are needed"
        )
    return np.frombuffer(view, STATE, 1)[0]


def initialise(s, mac: bytes, address: int, prefix: int, gateway: int, secret: bytes, mss=1460,
               *, congestion=CUBIC, timestamps=True, sack=True, tso_bytes=0,
               place_bytes=0):  # fmt: skip
    """Empty every table and set who we are.

    Parameters
    ----------
    mac: six bytes.
    address, gateway: IPv4 in host byte order; gateway 0 where there is none.
    prefix: bits of the network, 0 to 32.
    secret: 16 random bytes; sequence numbers, ports and the hash depend on them (RFC 6528).
    mss: largest payload of a segment, in bytes: the link's MTU less 40.
    congestion: NEWRENO or CUBIC, for connections that begin from now on.
    tso_bytes: most payload that the card cuts into segments by itself; 0: it does not.
    place_bytes: most bytes that the card moves by one PLACE; 0: it knows no such command.
    timestamps, sack: whether these options are offered and taken (RFC 7323, RFC 2018).
    """
    if len(mac) != 6 or len(secret) != 16:
        raise errors.ConfigurationError(
            f"mac has {len(mac)} bytes and secret {len(secret)}; 6 and 16 are needed"
        )
    if not (0 <= prefix <= 32 and 0 < address < 1 << 32 and 0 <= gateway < 1 << 32):
        raise errors.ConfigurationError(
            f"address {address:#x}/{prefix}, gateway {gateway:#x}: IPv4 and 0 to 32 are allowed"
        )
    if congestion not in (NEWRENO, CUBIC):
        raise errors.ConfigurationError(
            f"congestion control {congestion!r}: NEWRENO ({NEWRENO}) or CUBIC ({CUBIC})"
        )
    if not 536 <= mss <= 8960:
        raise errors.ConfigurationError(f"mss is {mss}; 536 to 8960 bytes are allowed")
    for name in STATE.names:
        if STATE[name].shape:
            s[name].view(np.uint8).fill(0)
        else:
            s[name] = np.zeros((), STATE[name])
    control = s["control"]
    control["address"], control["prefix"], control["gateway"] = address, prefix, gateway
    control["mac"], control["mss"] = int.from_bytes(mac, "big"), mss
    control["secret"][:] = np.frombuffer(secret, "<u4")
    control["next_deadline"] = control["neighbour_at"] = control["locals_at"] = NEVER
    control["holds_due"] = NEVER
    control["congestion"], control["timestamps"] = congestion, int(timestamps)
    control["sack"], control["tso_bytes"] = int(sack), min(tso_bytes, TSO_MOST)
    control["place_bytes"] = place_bytes
    add_address(s, 0, address, prefix)
    if gateway:
        add_route(s, 0, 0, 0, 0, gateway)
    s["buckets"][:] = NONE
    s["deadlines"][:] = NEVER
    s["blocks"][:] = NEVER
    for name, each in (
        ("connections", CONNECTIONS_PER_QUEUE),
        ("sends", SENDS_PER_QUEUE),
        ("pieces", PIECES_PER_QUEUE),
        ("ranges", RANGES_PER_QUEUE),
    ):
        rows = s[name]
        link = "hash_next" if name == "connections" else "next"
        following = np.arange(1, len(rows) + 1)
        following[each - 1 :: each] = NONE
        rows[link] = following
        s["queues"]["free_" + name[:-1]] = np.arange(QUEUES) * each
    for name in ("pending_head", "pending_tail", "waiting_head", "starved_head", "old_head",
                 "old_tail"):  # fmt: skip
        s["queues"][name] = NONE
    control["udp_deadline"] = NEVER
    each = udp.DATAGRAMS_PER_QUEUE
    following = np.arange(1, QUEUES * each + 1)
    following[each - 1 :: each] = NONE
    s["datagrams"]["next"] = following
    s["udp"]["free_datagram"] = np.arange(QUEUES) * each
    for name in ("waiting", "pending", "flight"):
        s["udp"][f"{name}_head"] = NONE
        s["udp"][f"{name}_tail"] = NONE
    s["connections"]["listener"] = NONE
    s["connections"]["pending_next"] = NONE
    s["regions"]["queue"] = NONE


def add_address(s, high: int, address: int, bits: int):
    """One more address of ours; the `bits` first ones are common to all hosts on the link."""
    control = s["control"]
    at = int(control["locals"])
    if at >= LOCALS:
        raise errors.ConfigurationError(f"{at + 1} addresses; {LOCALS} at most are allowed")
    s["locals"][at] = (high, address, bits, 0, 0, NEVER, 0, 0)
    control["locals"] = at + 1
    add_route(s, high, address, bits, 0, 0)


def add_route(s, high: int, address: int, bits: int, hop_high: int, hop: int):
    """Hosts whose first `bits` are those of the address are reached by the neighbour `hop`."""
    control = s["control"]
    at = int(control["routes"])
    if at >= ROUTES:
        raise errors.ConfigurationError(f"{at + 1} routes; {ROUTES} at most are allowed")
    s["routes"][at] = (high, address, bits, hop_high, hop)
    control["routes"] = at + 1


def split_address(address) -> tuple[int, int]:
    """`high` and `address` of an `ipaddress` address."""
    if address.version == 4:
        return 0, int(address)
    words = np.frombuffer(address.packed, ">i8")
    if words[0] == 0:
        raise errors.ConfigurationError(f"{address} begins with 64 zero bits, as no host's does")
    return int(words[0]), int(words[1])


def split_network(address) -> tuple[int, int]:
    """As `split_address`, for the address of a network, which may be zero."""
    return (0, 0) if int(address) == 0 else split_address(address)


def join_address(high: int, address: int):
    """The `ipaddress` address of its two integers."""
    if high == 0:
        return ipaddress.IPv4Address(address)
    return ipaddress.IPv6Address((high % (1 << 64)) << 64 | address % (1 << 64))


def connection_rows(s) -> list[dict]:
    """The live connections, for people to read (addresses as text)."""
    found = []
    for index in np.flatnonzero(s["connections"]["state"]):
        row = s["connections"][index]
        found.append(
            {
                "connection": int(index),
                "state": states.NAMES[row["state"]],
                "remote": str(join_address(int(row["remote_high"]), int(row["remote_address"]))),
            }
            | {
                name: int(row[name])
                for name in ("queue", "local_port", "remote_port", "snd_una", "snd_nxt", "snd_end",
                             "snd_wnd", "cwnd", "ssthresh", "srtt", "rto", "rcv_nxt", "rcv_adv",
                             "pieces", "sends")
            }
        )  # fmt: skip
    return found
