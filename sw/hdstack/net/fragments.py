"""Fragments put together: RFC 791 section 3.2, RFC 8200 section 4.5, with the attacks in mind.

`area` is the stack's own part of header memory. A hold is a place in it; those below DATAGRAMS are
for datagrams, each large enough for the largest. Data goes to its final place as it comes, so
order and number of fragments cost nothing; a map with a bit for each 8 bytes tells what is there
(RFC 815 keeps a list of holes for the same end). The first fragment's headers stand before the
data.

A fragment that overlaps another, or contradicts where the datagram ends, is an attack (RFC 1858,
RFC 5722): the datagram is given up, and its later fragments are dropped until its time is over. A
fragment that comes twice, byte by byte, does no harm. Room is bounded, and so is what one source
can have of it; who needs more takes the place of its own oldest datagram, then of the oldest.
"""

from ..compile import part
from ..tcp import counters
from ..tcp.rows import count
from ..tcp.tables import (
    DATAGRAM_BYTES,
    DATAGRAMS,
    HEAD_BYTES,
    MOVE_BYTES,
    NEVER,
    NONE,
    SECOND,
    UNITS,
)
from . import icmp, icmp6, ipv4, ipv6
from .bytesio import checksum, get8, put8, put16

FREE = 0
FILLING = 1
GIVEN_UP = 2
MOVING = 3
"""States of a hold; MOVING is that of `placing`."""

SOURCE_MOST = 8
"""Holds of one source: an IPv4 address, or the 64 bits of an IPv6 network."""
LIFETIME = 30 * SECOND
"""As in common kernels; RFC 1122 section 3.3.2 wants 60 to 120 s, for slower links."""
LIFETIME_IPV6 = 60 * SECOND
TOTAL_MOST = 65535
WORD_UNITS = 64
ALL = -1


@part
def data_at(k):
    """Byte of the area where the data of hold `k` begins; of one to be moved, its frame."""
    if k < DATAGRAMS:
        return k * DATAGRAM_BYTES + HEAD_BYTES
    return DATAGRAMS * DATAGRAM_BYTES + (k - DATAGRAMS) * MOVE_BYTES


@part
def mask_of(first, last, word):
    """The bits of `word` in the map that stand for units `first` to `last`."""
    low = max(first - WORD_UNITS * word, 0)
    high = min(last - WORD_UNITS * word, WORD_UNITS - 1)
    mask = ALL << low
    return mask if high == WORD_UNITS - 1 else mask & ~(ALL << (high + 1))


@part
def already_here(s, k, first, last):
    """Of units `first` to `last`: 0 none, 1 some, 2 all are here."""
    some = False
    every = True
    for word in range(first // WORD_UNITS, last // WORD_UNITS + 1):
        mask = mask_of(first, last, word)
        there = s["units"][k, word] & mask
        some = some or there != 0
        every = every and there == mask
    return 2 if every else (1 if some else 0)


@part
def mark(s, k, first, last):
    for word in range(first // WORD_UNITS, last // WORD_UNITS + 1):
        s["units"][k, word] |= mask_of(first, last, word)


@part
def of_source(row, p):
    """Whether the hold counts for the parsed packet's source."""
    if p["remote_high"] != 0:
        return row["remote_high"] == p["remote_high"]
    return row["remote_high"] == 0 and row["remote_address"] == p["remote_address"]


@part
def find(s):
    """Hold of the datagram that the parsed fragment belongs to, or -1."""
    p = s["parsed"]
    w = s["whole"]
    for k in range(DATAGRAMS):
        row = s["holds"][k]
        if (
            (row["state"] == FILLING or row["state"] == GIVEN_UP)
            and row["identification"] == w["identification"]
            and row["remote_address"] == p["remote_address"]
            and row["remote_high"] == p["remote_high"]
            and row["local_address"] == p["local_address"]
            and row["local_high"] == p["local_high"]
            # RFC 8200: the protocol is told by the first fragment alone
            and (p["remote_high"] != 0 or row["protocol"] == w["protocol"])
        ):
            return k
    return NONE


@part
def choose(s):
    """A hold for a new datagram: a free one, else the oldest; of a source that has its share, its
    own oldest. There always is one, since `placing` takes no more than half of them."""
    p = s["parsed"]
    free = NONE
    oldest = NONE
    own_oldest = NONE
    own = 0
    for k in range(DATAGRAMS):
        row = s["holds"][k]
        if row["state"] == FREE:
            free = k
        elif row["state"] != MOVING:
            if oldest < 0 or row["since"] < s["holds"][oldest]["since"]:
                oldest = k
            if of_source(row, p):
                own += 1
                if own_oldest < 0 or row["since"] < s["holds"][own_oldest]["since"]:
                    own_oldest = k
    if own >= SOURCE_MOST:
        return own_oldest
    return free if free >= 0 else oldest


@part
def take(s, now):
    """A hold for the datagram of the parsed fragment."""
    p = s["parsed"]
    w = s["whole"]
    control = s["control"]
    k = choose(s)
    row = s["holds"][k]
    if row["state"] == FILLING:
        count(s, counters.FRAGMENTS_EVICTED)
    row["state"] = FILLING
    row["since"] = now
    row["due"] = now + (LIFETIME if p["remote_high"] == 0 else LIFETIME_IPV6)
    row["protocol"] = w["protocol"]
    row["identification"] = w["identification"]
    row["remote_high"] = p["remote_high"]
    row["remote_address"] = p["remote_address"]
    row["local_high"] = p["local_high"]
    row["local_address"] = p["local_address"]
    row["header"] = 0
    row["first"] = 0
    row["end"] = NONE
    row["top"] = 0
    row["got"] = 0
    for word in range(UNITS // WORD_UNITS):
        s["units"][k, word] = 0
    control["holds_due"] = min(control["holds_due"], row["due"])
    return k


@part
def give_up(s, k, counter):
    """The datagram is lost, and what comes of it from now on is dropped."""
    if s["holds"][k]["state"] != GIVEN_UP:
        s["holds"][k]["state"] = GIVEN_UP
        count(s, counter)


@part
def least_header(s, memory, at):
    """Bytes that the parsed first fragment must have, to hold all headers; -1: their chain does
    not end in it."""
    w = s["whole"]
    start = at + w["start"]
    end = start + w["length"]
    protocol = w["protocol"]
    l4 = start
    if s["parsed"]["remote_high"] != 0:
        protocol, l4 = ipv6.pass_over(memory, protocol, NONE, start, end)
        if protocol < 0:
            return NONE
    if protocol == ipv4.TCP:
        if l4 + 20 > end:
            return NONE
        return l4 - start + 4 * (get8(memory, l4 + 12) >> 4)
    if protocol == ipv4.UDP or protocol == ipv4.ICMP or protocol == ipv6.ICMP:
        return l4 - start + 8
    return l4 - start


@part
def is_tiny(s, memory, at):
    """RFC 1858, RFC 3128, RFC 7112: the headers must be whole, all of them in the first one."""
    w = s["whole"]
    if w["offset"] > 0:
        return s["parsed"]["remote_high"] == 0 and w["protocol"] == ipv4.TCP and w["offset"] < 20
    least = least_header(s, memory, at)
    return least < 0 or least > w["length"]


@part
def complain(s, memory, at, code, pointer, now):
    """ICMPv6 parameter problem about the parsed fragment; IPv4 knows no such answer."""
    if s["parsed"]["remote_high"] != 0:
        w = s["whole"]
        total = w["start"] + w["length"] - w["ip"]
        icmp6.send_error(
            s, memory, at, at + w["ip"], total, icmp6.PARAMETER_PROBLEM, code, pointer, now
        )


@part
def is_sound(s, memory, at, now):
    """Whether length and offset of the parsed fragment can be; counted, and answered, if not."""
    w = s["whole"]
    ip6 = s["parsed"]["remote_high"] != 0
    before = w["start"] - w["ip"] - (8 + ipv6.HEADER_BYTES if ip6 else 0)
    if w["more"] and w["length"] % 8:
        complain(s, memory, at, icmp6.BAD_FIELD, 4, now)
    elif before + w["offset"] + w["length"] > TOTAL_MOST:
        complain(s, memory, at, icmp6.BAD_FIELD, w["start"] - w["ip"] - 6, now)
    elif w["length"] > 0 and w["start"] <= HEAD_BYTES:
        return True
    count(s, counters.FRAGMENTS_BAD)
    return False


@part
def store(s, area, memory, at, k):
    """Take the bytes of the parsed fragment; False where they contradict what is here."""
    w = s["whole"]
    row = s["holds"][k]
    end = w["offset"] + w["length"]
    if w["more"] == 0:
        if (row["end"] >= 0 and row["end"] != end) or row["top"] > end:
            return False
    elif row["end"] >= 0 and end >= row["end"]:
        return False
    first = w["offset"] // 8
    last = (end - 1) // 8
    here = already_here(s, k, first, last)
    to = data_at(k) + w["offset"]
    start = at + w["start"]
    if here != 0:
        if here == 1:
            return False
        for step in range(w["length"]):
            if area[to + step] != memory[start + step]:
                return False
        count(s, counters.FRAGMENTS_REPEATED)
        return True
    for step in range(w["length"]):
        area[to + step] = memory[start + step]
    mark(s, k, first, last)
    row["got"] += w["length"]
    row["top"] = max(row["top"], end)
    s["counters"][counters.COPIED_BYTES] += w["length"]
    if w["more"] == 0:
        row["end"] = end
    if w["offset"] == 0:
        for step in range(w["start"]):
            area[to - w["start"] + step] = memory[at + step]
        s["counters"][counters.COPIED_BYTES] += w["start"]
        row["header"] = w["start"]
        row["ip"] = w["ip"]
        row["first"] = w["length"]
    return True


@part
def finish(s, area, k):
    """Make the headers of the first fragment those of the whole datagram; False if it is too long.

    Then a frame of `length` bytes is at byte `start` of the area.
    """
    row = s["holds"][k]
    start = data_at(k) - row["header"]
    ip = start + row["ip"]
    if row["remote_high"] == 0:
        total = data_at(k) - ip + row["end"]
        if total > TOTAL_MOST:
            return False
        put16(area, ip + 2, total)
        put16(area, ip + 6, 0)
        put16(area, ip + 10, 0)
        put16(area, ip + 10, checksum(area, ip, data_at(k) - ip))
    else:
        total = data_at(k) - 8 - ip - ipv6.HEADER_BYTES + row["end"]
        if total > TOTAL_MOST:
            return False
        put16(area, ip + 4, total)
        put8(area, ipv6.find_next_header(area, ip, ipv6.FRAGMENT), get8(area, data_at(k) - 8))
        for step in range(row["header"] - 8):  # over the fragment header, the last byte first
            area[data_at(k) - 1 - step] = area[data_at(k) - 9 - step]
        start += 8
        row["header"] -= 8
    row["start"] = start
    row["length"] = row["header"] + row["end"]
    count(s, counters.REASSEMBLED)
    return True


@part
def keep(s, area, memory, at, now):
    """Take the fragment that `s["whole"]` and `s["parsed"]` tell of, of the frame at `at`.

    Gives the hold of the datagram if that is whole now (a frame at `start` of the area), else -1.
    """
    if not is_sound(s, memory, at, now):
        return NONE
    k = find(s)
    if k < 0:
        k = take(s, now)
    row = s["holds"][k]
    if row["state"] == GIVEN_UP:
        count(s, counters.FRAGMENTS_LATE)
        return NONE
    if is_tiny(s, memory, at):
        if s["whole"]["offset"] == 0:
            complain(s, memory, at, icmp6.CHAIN, 0, now)
        give_up(s, k, counters.FRAGMENTS_TINY)
        return NONE
    if not store(s, area, memory, at, k):
        give_up(s, k, counters.FRAGMENTS_OVERLAPPING)
        return NONE
    if row["end"] < 0 or row["got"] < row["end"]:
        return NONE
    if not finish(s, area, k):
        row["state"] = FREE
        count(s, counters.FRAGMENTS_BAD)
        return NONE
    return k


@part
def may_tell(s, area, k):
    """Whether an error about the datagram may be sent: the first fragment came, and it is no error
    itself (RFC 1122 section 3.2.2, RFC 4443 section 2.4)."""
    row = s["holds"][k]
    if row["first"] == 0:
        return False
    if row["remote_high"] == 0:
        if row["protocol"] != ipv4.ICMP:
            return True
        return icmp.is_query(get8(area, data_at(k)))
    protocol = get8(area, data_at(k) - 8)  # as the first fragment's header tells it
    return protocol != ipv6.ICMP or icmp6.is_query(get8(area, data_at(k)))


@part
def time_out(s, area, k, now):
    """The time of the datagram is over; its source is told (RFC 792, RFC 8200 section 4.5)."""
    row = s["holds"][k]
    if row["state"] == FILLING:
        count(s, counters.FRAGMENTS_TIMED_OUT)
        start = data_at(k) - row["header"]
        ip = start + row["ip"]
        total = row["header"] - row["ip"] + row["first"]
        if may_tell(s, area, k):
            if row["remote_high"] == 0:
                icmp.send_error(s, area, start, ip, total, icmp.TIME_EXCEEDED, icmp.REASSEMBLY, now)
            else:
                icmp6.send_error(
                    s, area, start, ip, total, icmp6.TIME_EXCEEDED, icmp6.REASSEMBLY, 0, now
                )
    row["state"] = FREE


@part
def expire(s, area, now):
    """Handle datagrams whose time is over; the next deadline among them."""
    following = NEVER
    for k in range(DATAGRAMS):
        row = s["holds"][k]
        if row["state"] == FILLING or row["state"] == GIVEN_UP:
            if row["due"] <= now:
                time_out(s, area, k, now)
            else:
                following = min(following, row["due"])
    return following
