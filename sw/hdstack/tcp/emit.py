"""Segments out: one row each in the ring of the connection's queue, in full, ready to be encoded.

A row holds all that `hdstack.net.output` writes, so it outlives its connection.
"""

from ..compile import part
from . import acks, counters, states
from .reassembly import block_of
from .rows import count, low32, own_mss, segment_room, set_pending, set_starved
from .sequence import keyed_hash, refill, time_stamp
from .tables import HOPS, NEVER, NONE, SACK_BLOCKS, SECOND, SEGMENTS_PER_QUEUE, TCP_SEGMENT
from .timers import update_deadline
from .window import WINDOW_SHIFT, offered_edge, set_edge

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20

RESETS_PER_SECOND = 200
"""To strangers, who may be forged."""
CHALLENGES_PER_SECOND = 1000
"""Of all connections: half of it at least, and a random part of it more, so that the count tells
nothing about what others sent (RFC 5961 section 7 as it is attacked off the path)."""
CHALLENGES_BURST = 10
CHALLENGES_RATE = 2
"""Of one connection: ten in five seconds (RFC 5961 section 7)."""


@part
def take_segment(s, queue):
    """The next row of the queue's segments; the caller made sure of room."""
    q = s["queues"][queue]
    row = s["segments"][queue, q["segments_head"] % SEGMENTS_PER_QUEUE]
    q["segments_head"] += 1
    row["kind"] = TCP_SEGMENT
    row["frame"] = NONE
    row["references"] = 0
    row["payload"] = 0
    row["cut"] = 0
    row["urgent"] = 0
    row["mss"] = 0
    row["shift"] = NONE
    row["sack_ok"] = 0
    row["ts"] = 0
    row["sacks"] = 0
    row["high"] = 0
    row["address"] = s["control"]["address"]
    row["remote_high"] = 0
    return row


@part
def sack_bytes(c):
    """Bytes of the SACK option that the next ACK will carry at most."""
    blocks = c["pieces"] + (1 if c["dsack_end"] > c["dsack_start"] else 0)
    if blocks == 0 or c["sack_ok"] == 0:
        return 0
    return 4 + 8 * min(blocks, SACK_BLOCKS - c["ts_ok"])


@part
def put_sacks(s, c, row):
    """Report what came out of order, the newest first (RFC 2018 section 4), before it what came
    twice (RFC 2883), once."""
    used = 0
    if c["dsack_end"] > c["dsack_start"]:
        row["sack"][0] = low32(c["dsack_start"])
        row["sack"][1] = low32(c["dsack_end"])
        c["dsack_end"] = c["dsack_start"]
        used = 1
    first = used
    for slot in range(SACK_BLOCKS):
        if used >= SACK_BLOCKS - c["ts_ok"] or c["pieces"] == 0:
            break
        seq = c["sack_recent"][slot]
        if seq <= c["rcv_nxt"]:
            continue
        start, end = block_of(s, c, seq)
        if start <= c["rcv_nxt"]:
            continue  # given back, or in order already and only not yet delivered
        new = True
        for at in range(first, used):
            if row["sack"][2 * at] == low32(start):
                new = False
        if new:
            row["sack"][2 * used] = low32(start)
            row["sack"][2 * used + 1] = low32(end)
            used += 1
    row["sacks"] = used


@part
def put_options(s, c, row, flags):
    """The options that Linux would send on this segment."""
    control = s["control"]
    opening = flags & (SYN | ACK) == SYN
    if flags & SYN:
        row["mss"] = own_mss(s, c["remote_high"])
        row["sack_ok"] = control["sack"] if opening else c["sack_ok"]
        if opening or c["rcv_shift"]:
            row["shift"] = WINDOW_SHIFT
    if c["ts_ok"] or (opening and control["timestamps"]):
        row["ts"] = 1
        row["tsval"] = time_stamp(c, control["now"])
        row["tsecr"] = c["ts_recent"] if flags & ACK else 0
    if c["sack_ok"] and flags & (SYN | RST) == 0:
        put_sacks(s, c, row)


@part
def begin_segment(s, index, seq, flags):
    """A segment of the connection of row `index`, with the newest ACK and window; no payload."""
    c = s["connections"][index]
    row = take_segment(s, c["queue"])
    row["connection"] = index
    row["mac"] = c["mac"]
    row["hops"] = c["hops"]
    row["traffic_class"] = c["traffic_class"]
    row["high"] = c["local_high"]
    row["address"] = c["local_address"]
    row["remote_high"] = c["remote_high"]
    row["remote_address"] = c["remote_address"]
    row["local_port"] = c["local_port"]
    row["remote_port"] = c["remote_port"]
    row["seq"] = low32(seq)
    row["flags"] = flags
    row["ack"] = 0
    row["window"] = 0
    if flags & RST == 0 and c["fin_told"] == 0:
        window = max(offered_edge(s, c) - c["rcv_nxt"], 0)
        shift = 0 if flags & SYN else c["rcv_shift"]
        # rounded up: the edge that was promised never moves back by a rounding
        field = min((window + (1 << shift) - 1) >> shift, 0xFFFF)
        row["window"] = field
        set_edge(s, c, c["rcv_nxt"] + (field << shift))
    put_options(s, c, row, flags)
    if c["snd_up"] > max(seq, c["snd_una"]) and flags & (SYN | RST) == 0:
        row["flags"] = flags | URG
        row["urgent"] = min(c["snd_up"] - seq, 0xFFFF)
        c["snd_up_due"] = 0
    if flags & ACK:
        row["ack"] = low32(c["rcv_nxt"])
        c["last_ack"] = c["rcv_nxt"]
        acks.on_ack_sent(c)
        if c["ack_at"] != NEVER:
            c["ack_at"] = NEVER
            update_deadline(s, index)
        if c["state"] >= states.ESTABLISHED and c["state"] <= states.FIN_WAIT_2:
            small = c["rcv_adv"] - c["rcv_nxt"] < s["control"]["mss"]
            set_starved(s, index, 1 if small and c["fin_told"] == 0 else 0)
    count(s, counters.SEGMENTS_OUT)
    return row


@part
def newest_acceptable(c):
    """The highest number sent that is inside the peer's window: segments without data bear it."""
    return min(c["snd_max"], c["snd_una"] + c["snd_wnd"])


@part
def emit_ack(s, index):
    """A segment without payload that acknowledges all that came in order."""
    c = s["connections"][index]
    if segment_room(s, c["queue"]) > 0:
        begin_segment(s, index, newest_acceptable(c), ACK)
    else:
        acks.urgent(c)
        set_pending(s, index)


@part
def emit_reset(s, index):
    """RST of a connection that is synchronised, at the next number that the peer expects."""
    c = s["connections"][index]
    if c["mac_known"]:
        begin_segment(s, index, newest_acceptable(c), RST | ACK)
        count(s, counters.RESETS_OUT)


@part
def take_reset(s, now):
    """Whether another RST to a stranger may be sent at `now`."""
    control = s["control"]
    tokens = refill(
        control["reset_tokens"], control["reset_filled"], now, RESETS_PER_SECOND, RESETS_PER_SECOND
    )
    control["reset_filled"] = now
    control["reset_tokens"] = tokens - SECOND if tokens >= SECOND else tokens
    if tokens < SECOND:
        count(s, counters.RESETS_WITHHELD)
        return False
    return True


@part
def take_challenge(s, c, now):
    """Whether the connection may send another challenge ACK at `now`."""
    control = s["control"]
    second = now // SECOND
    if second != control["challenge_second"]:
        control["challenge_second"] = second
        more = keyed_hash(s, low32(second), control["secret"][2], control["secret"][3])
        control["challenge_left"] = CHALLENGES_PER_SECOND // 2 + more % CHALLENGES_PER_SECOND
    tokens = refill(
        c["challenge_tokens"], c["challenge_filled"], now, CHALLENGES_RATE, CHALLENGES_BURST
    )
    c["challenge_filled"] = now
    c["challenge_tokens"] = tokens
    if tokens < SECOND or control["challenge_left"] <= 0:
        count(s, counters.RESETS_WITHHELD)
        return False
    c["challenge_tokens"] = tokens - SECOND
    control["challenge_left"] -= 1
    return True


@part
def challenge(s, index, now):
    """RFC 5961: answer a doubtful segment by an ACK, at a limited rate."""
    if take_challenge(s, s["connections"][index], now):
        count(s, counters.CHALLENGE_ACKS)
        emit_ack(s, index)


@part
def answer_segment(s, queue):
    """A segment back to where the parsed one came from, for no connection."""
    p = s["parsed"]
    row = take_segment(s, queue)
    row["connection"] = NONE
    row["hops"] = HOPS
    row["traffic_class"] = 0
    row["mac"] = p["mac"]
    row["high"] = p["local_high"]
    row["address"] = p["local_address"]
    row["remote_high"] = p["remote_high"]
    row["remote_address"] = p["remote_address"]
    row["local_port"] = p["local_port"]
    row["remote_port"] = p["remote_port"]
    row["window"] = 0
    return row


@part
def reset_stranger(s, now):
    """RST for the parsed segment, which belongs to no connection (RFC 9293 section 3.10.7.1)."""
    p = s["parsed"]
    if p["flags"] & RST:
        return
    if segment_room(s, p["queue"]) <= 0 or not take_reset(s, now):
        return
    row = answer_segment(s, p["queue"])
    if p["flags"] & ACK:
        row["seq"] = p["ack"]
        row["ack"] = 0
        row["flags"] = RST
    else:
        length = p["length"]
        length += 1 if p["flags"] & SYN else 0
        length += 1 if p["flags"] & FIN else 0
        row["seq"] = 0
        row["ack"] = low32(p["seq"] + length)
        row["flags"] = RST | ACK
    count(s, counters.RESETS_OUT)
    count(s, counters.SEGMENTS_OUT)
