"""One pass of the stack over all rings, in one compiled call.

For each queue: transmits done, records in, requests in; what TCP answers goes out as descriptors
and events. Then timers, then doorbells. Nothing here waits, and no queue gets more than its share
of a pass. Every index that an application writes is checked here; one that lies is marked with
`fault` and left alone, for the control side to end it.
"""

from hdsnic import abi

from ..atomic import fence, load_acquire, store_release
from ..compile import entry, part
from ..driver.device import NEED_WAKE_WORD, PAGE_WORDS
from ..driver.rings import (
    CELL,
    ELEMENT,
    EXTENSIONS,
    HASH,
    HEADER_LENGTH,
    NO_CHECKSUM,
    PAYLOAD_LENGTH,
    POSTED_LEFT,
    REASON,
    REGION,
    TCP_CHECKSUM,
    TIME_STAMP,
    UDP_CHECKSUM,
    put_descriptor,
    put_reference,
    receive_base,
    transmit_base,
)  # fmt: skip
from ..net.checksums import put_checksums
from ..net.input import take_chain
from ..net.output import encode_segment
from ..net.receive import on_deadline, on_receive
from ..tcp.core import (
    event_taken,
    next_event,
    next_segment,
    on_output,
    on_request,
    on_timers,
    on_transmitted,
    ready,
    segment_queued,
)  # fmt: skip
from ..tcp.events import CloseReason, EventKind, RequestKind
from ..tcp.tables import MAX_REFERENCES, REGIONS, TCP_SEGMENT, UDP_DATAGRAM
from .state import (
    CHANNEL_WORDS,
    EVENT_CONSUMER,
    EVENT_PRODUCER,
    EVENT_ROWS,
    EVENTS_AT,
    NEED_SPACE,
    NEED_WAKE_APPLICATION,
    REQUEST_CONSUMER,
    REQUEST_PRODUCER,
    REQUEST_ROWS,
    REQUESTS_AT,
    Range,
    Work,
)  # fmt: skip

__all__ = ["burst"]

_QUEUES = abi.QUEUES_MAX
_MASK = 0xFFFFFFFF
_SLOT_WORDS = abi.INDEX_SLOT_BYTES // 4
_RX_PRODUCER = abi.INDEX_SLOT.offsets["rx_producer"] // 32
_TX_CONSUMER = abi.INDEX_SLOT.offsets["tx_consumer"] // 32
_TX_DOORBELL = abi.STACK_DOORBELL.TX_PRODUCER.offset // 4
_RX_DOORBELL = abi.STACK_DOORBELL.RX_CONSUMER.offset // 4

_SHARE = 64
"""Records, and requests, of one queue in one pass."""
_FRAME_CELLS = abi.descriptor_cells(1514, 0)
_SEGMENT_CELLS = abi.descriptor_cells(14 + 40 + 60, MAX_REFERENCES)

_CONNECT, _FAILED = int(RequestKind.CONNECT), int(EventKind.FAILED)
_NO_RESOURCES = int(CloseReason.NO_RESOURCES)
_RANGE_WANTED = Range.WANTED
_RANGE_READY, _RANGE_REFUSED = Range.READY, Range.REFUSED
_DONE, _WAKE_DEVICE = Work.DONE.value, Work.WAKE_DEVICE.value
_WAKE_APPLICATIONS = Work.WAKE_APPLICATIONS.value
_CONTROL, _DEVICE_SEEN = Work.CONTROL.value, Work.DEVICE_SEEN.value
_PLACE = Work.PLACE.value

_W_HEADER, _S_HEADER, _M_HEADER = HEADER_LENGTH
_W_PAYLOAD, _S_PAYLOAD, _M_PAYLOAD = PAYLOAD_LENGTH
_W_EXTENSIONS, _S_EXTENSIONS, _M_EXTENSIONS = EXTENSIONS
_W_ELEMENT, _S_ELEMENT, _M_ELEMENT = ELEMENT
_W_REGION, _S_REGION, _M_REGION = REGION
_W_REASON, _S_REASON, _M_REASON = REASON
_W_HASH, _S_HASH, _M_HASH = HASH
_W_LEFT, _S_LEFT, _M_LEFT = POSTED_LEFT
_W_STAMP, _S_STAMP, _M_STAMP = TIME_STAMP


@part
def _put_event(channels, base, producer, kind, port, socket, connection, address, region, reason,
               offset, length, spare):  # fmt: skip
    at = base + EVENTS_AT // 4 + (producer % EVENT_ROWS) * 8
    channels[at] = kind | port << 16
    channels[at + 1] = socket
    channels[at + 2] = connection
    channels[at + 3] = address
    channels[at + 4] = region | reason << 16
    channels[at + 5] = offset
    channels[at + 6] = length
    channels[at + 7] = spare


@part
def _event_room(queue, channels, base):
    """Free rows of the ring of events; -1 marks an application whose index lies."""
    used = (queue["event_producer"] - load_acquire(channels, base + EVENT_CONSUMER)) & _MASK
    if used > EVENT_ROWS:
        queue["fault"] = 1
        return -1
    return EVENT_ROWS - used


@part
def _events_out(s, io, channels, q):
    queue = io["queues"][q]
    index = next_event(s, q)
    if index < 0:
        return 0
    if queue["attached"] == 0:  # nobody is there to be told
        while index >= 0:
            event_taken(s, q)
            index = next_event(s, q)
        return 0
    base = q * CHANNEL_WORDS
    room = _event_room(queue, channels, base)
    moved = 0
    while index >= 0 and moved < room:
        row = s["events"][q, index]["row"]
        _put_event(
            channels, base, queue["event_producer"], int(row["kind"]), int(row["port"]),
            int(row["socket"]), int(row["connection"]), int(row["address"]), int(row["region"]),
            int(row["reason"]), int(row["offset"]), int(row["length"]), int(row["spare"]),
        )  # fmt: skip
        event_taken(s, q)
        queue["event_producer"] = (queue["event_producer"] + 1) & _MASK
        moved += 1
        index = next_event(s, q)
    if moved > 0:
        store_release(channels, base + EVENT_PRODUCER, queue["event_producer"])
        queue["notify"] = 1
        queue["events"] += moved
    return moved


@part
def _segments_out(s, io, rings, words, pools, q):
    queue = io["queues"][q]
    ring_bytes = io["ring_bytes"]
    cells = ring_bytes // CELL
    base = transmit_base(q, ring_bytes)
    moved = 0
    index = next_segment(s, q)
    while index >= 0:
        producer = queue["tx_producer"]
        if queue["live"] == 0:  # the queue is off: as if lost on the wire
            segment_queued(s, q, producer)
            index = next_segment(s, q)
            continue
        segment = s["segments"][q, index]
        tcp = segment["kind"] == TCP_SEGMENT
        udp = segment["kind"] == UDP_DATAGRAM
        card_sums = io["checksums"] != 0
        used = (producer - queue["tx_consumer"]) & _MASK
        if used + (_SEGMENT_CELLS if tcp or udp else _FRAME_CELLS) > cells:
            break
        at = base + (producer * CELL) % ring_bytes
        references = segment["references"] if tcp or udp else 0
        more = 8 * (references - 1) if references > 1 else 0
        header = encode_segment(s, q, index, rings, at + CELL + more)
        if tcp or udp:
            ipv4 = segment["remote_high"] == 0
            l4 = 34 if ipv4 else 54
            sums = TCP_CHECKSUM if tcp else UDP_CHECKSUM if segment["fragment"] < 0 else NO_CHECKSUM
            cut = segment["cut"] if tcp else 0
            if not card_sums:
                put_checksums(s, q, index, rings, at + CELL + more, header, pools)
                ipv4, sums = False, NO_CHECKSUM
            put_descriptor(words, at, header, references, 14, l4, ipv4, sums, cut)
        else:
            put_descriptor(words, at, header, 0, 0, 0, False, NO_CHECKSUM, 0)
        for k in range(references):
            piece = segment["ref"][k]
            put_reference(
                words, at, k, piece["region"], piece["generation"], piece["offset"],
                piece["length"],
            )  # fmt: skip
        producer = (producer + (CELL + more + header + CELL - 1) // CELL) & _MASK
        queue["tx_producer"] = producer
        segment_queued(s, q, producer)
        moved += 1
        index = next_segment(s, q)
    queue["segments"] += moved
    return moved


@part
def _records_in(s, io, rings, words, area, channels, pools, q, producer, now_ns):
    queue = io["queues"][q]
    ring_bytes = io["ring_bytes"]
    base = receive_base(q, ring_bytes)
    taken = 0
    while queue["rx_consumer"] != producer and taken < _SHARE:
        if not ready(s, q):
            queue["paused"] += 1
            break
        at = base + (queue["rx_consumer"] * CELL) % ring_bytes
        first, second = words[at >> 3], words[(at >> 3) + 1]
        low = first if _W_HEADER == 0 else second
        header = low >> _S_HEADER & _M_HEADER
        payload = (first if _W_PAYLOAD == 0 else second) >> _S_PAYLOAD & _M_PAYLOAD
        extensions = (first if _W_EXTENSIONS == 0 else second) >> _S_EXTENSIONS & _M_EXTENSIONS
        element = (first if _W_ELEMENT == 0 else second) >> _S_ELEMENT & _M_ELEMENT
        region = (first if _W_REGION == 0 else second) >> _S_REGION & _M_REGION
        reason = (first if _W_REASON == 0 else second) >> _S_REASON & _M_REASON
        cookie = (first if _W_HASH == 0 else second) >> _S_HASH & _M_HASH
        left = (first if _W_LEFT == 0 else second) >> _S_LEFT & _M_LEFT
        offset = 0
        if payload == 0:
            region = -1
        elif region < REGIONS:
            offset = element * s["regions"][region]["element_bytes"]
        stamps = (first if _W_STAMP == 0 else second) >> _S_STAMP & _M_STAMP
        take_chain(s, rings, at + CELL + 8 * stamps, extensions - stamps)
        skip = CELL + 8 * extensions
        on_receive(
            s, area, q, rings, at + skip, header, payload, region, offset, left, reason, cookie,
            now_ns,
        )  # fmt: skip
        cells = (skip + header + CELL - 1) // CELL
        queue["rx_consumer"] = (queue["rx_consumer"] + cells) & _MASK
        taken += 1
        _segments_out(s, io, rings, words, pools, q)
        _events_out(s, io, channels, q)
    queue["records"] += taken
    return taken


@part
def _refuse_connect(io, channels, q, socket):
    """FAILED for a CONNECT that can have no port range; False where the ring has no room."""
    queue = io["queues"][q]
    base = q * CHANNEL_WORDS
    if _event_room(queue, channels, base) <= 0:
        return False
    _put_event(
        channels,
        base,
        queue["event_producer"],
        _FAILED,
        0,
        socket,
        0,
        0,
        0,
        _NO_RESOURCES,
        0,
        0,
        0,
    )
    queue["event_producer"] = (queue["event_producer"] + 1) & _MASK
    store_release(channels, base + EVENT_PRODUCER, queue["event_producer"])
    queue["notify"] = 1
    queue["events"] += 1
    return True


@part
def _requests_in(s, io, rings, words, channels, pools, q, now_ns):
    queue = io["queues"][q]
    base = q * CHANNEL_WORDS
    producer = load_acquire(channels, base + REQUEST_PRODUCER)
    waiting = (producer - queue["request_consumer"]) & _MASK
    if waiting > REQUEST_ROWS:
        queue["fault"] = 1
        return 0
    row = io["request"]
    taken = 0
    while taken < waiting and taken < _SHARE and queue["fault"] == 0:
        if not ready(s, q):
            queue["paused"] += 1
            break
        at = base + REQUESTS_AT // 4 + (queue["request_consumer"] % REQUEST_ROWS) * 8
        # Atomic loads: the compiler may not read a word of an application a second time.
        word = load_acquire(channels, at)
        row["kind"] = word & 0xFFFF
        row["port"] = word >> 16
        row["socket"] = load_acquire(channels, at + 1)
        row["connection"] = load_acquire(channels, at + 2)
        row["address"] = load_acquire(channels, at + 3)
        word = load_acquire(channels, at + 4)
        row["region"] = word & 0xFFFF
        row["generation"] = word >> 16
        row["offset"] = load_acquire(channels, at + 5)
        row["length"] = load_acquire(channels, at + 6)
        row["spare"] = load_acquire(channels, at + 7)
        if row["kind"] == _CONNECT and queue["range"] != _RANGE_READY:
            if queue["range"] != _RANGE_REFUSED:
                queue["range"] = _RANGE_WANTED
                break
            if not _refuse_connect(io, channels, q, int(row["socket"])):
                break
        else:
            on_request(s, q, row, now_ns)
        queue["request_consumer"] = (queue["request_consumer"] + 1) & _MASK
        taken += 1
        _segments_out(s, io, rings, words, pools, q)
        _events_out(s, io, channels, q)
    if taken > 0:
        queue["requests"] += taken
        store_release(channels, base + REQUEST_CONSUMER, queue["request_consumer"])
        queue["notify"] |= 2
    return taken


@entry
def burst(s, io, slots, doorbells, rings, words, area, channels, pools, now_ns):
    """One pass at time `now_ns`; returns flags of `Work`.

    Parameters
    ----------
    s, io: rows of TCP (`tables.STATE`) and of the service (`state.SERVICE`).
    slots, doorbells, channels: uint32: index slots, doorbell pages, all channels in a row.
    rings, words: header memory's rings as uint8 and as int64. area: the stack's own part of it.
    pools: uint8: all regions in a row, only looked at where the stack makes the checksums itself.
    """
    work = 0
    done = 0
    io["bursts"] += 1
    for q in range(_QUEUES):
        queue = io["queues"][q]
        if queue["live"] != 0:
            transmitted = load_acquire(slots, q * _SLOT_WORDS + _TX_CONSUMER)
            if transmitted != queue["tx_consumer"]:
                queue["tx_consumer"] = transmitted
                on_transmitted(s, q, transmitted)
                work |= _DEVICE_SEEN
                done += 1
        done += _segments_out(s, io, rings, words, pools, q)
        done += _events_out(s, io, channels, q)
        if queue["live"] != 0:
            producer = load_acquire(slots, q * _SLOT_WORDS + _RX_PRODUCER)
            if producer != queue["rx_consumer"]:
                work |= _DEVICE_SEEN
                done += _records_in(
                    s, io, rings, words, area, channels, pools, q, producer, now_ns
                )  # fmt: skip
        if queue["attached"] != 0 and queue["fault"] == 0:
            done += _requests_in(s, io, rings, words, channels, pools, q, now_ns)
    io["deadline"] = min(on_timers(s, now_ns), on_deadline(s, area, now_ns))
    rung = False
    for q in range(_QUEUES):
        queue = io["queues"][q]
        on_output(s, q, now_ns)
        done += _segments_out(s, io, rings, words, pools, q)
        done += _events_out(s, io, channels, q)
        if queue["live"] != 0:
            at = (1 + q) * PAGE_WORDS
            if queue["tx_producer"] != queue["tx_told"]:
                queue["tx_told"] = queue["tx_producer"]
                store_release(doorbells, at + _TX_DOORBELL, queue["tx_producer"])
                rung = True
            if queue["rx_consumer"] != queue["rx_told"]:
                queue["rx_told"] = queue["rx_consumer"]
                store_release(doorbells, at + _RX_DOORBELL, queue["rx_consumer"])
                rung = True
        if queue["fault"] == 1 or queue["range"] == _RANGE_WANTED:
            work |= _CONTROL
    if s["control"]["moving"] > 0:
        work |= _PLACE
    fence()
    if rung and load_acquire(doorbells, NEED_WAKE_WORD) != 0:
        work |= _WAKE_DEVICE
    io["wakes"] = 0
    for q in range(_QUEUES):
        queue = io["queues"][q]
        if queue["notify"] != 0:
            base = q * CHANNEL_WORDS
            wake = queue["notify"] & 1 and load_acquire(channels, base + NEED_WAKE_APPLICATION)
            wake = wake or (queue["notify"] & 2 and load_acquire(channels, base + NEED_SPACE))
            if wake:  # the byte follows for certain, so the next burst need not send another
                store_release(channels, base + NEED_WAKE_APPLICATION, 0)
                io["wakes"] |= 1 << q
                work |= _WAKE_APPLICATIONS
            queue["notify"] = 0
    if done > 0:
        work |= _DONE
    return work
