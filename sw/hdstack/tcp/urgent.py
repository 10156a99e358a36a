"""The urgent mechanism: a mark in the stream that travels ahead of the bytes before it.

RFC 9293 section 3.8.5, in the sense of RFC 6093: the pointer names the octet after the urgent data,
the data itself stays in the stream, and the application hears where the mark is. New protocols
should not use it; what was written for telnet, rlogin or FTP's ABOR does.
"""

from ..compile import part
from . import counters, states
from .emit import ACK, FIN, RST, SYN, URG, emit_ack
from .events import EventKind
from .rows import connection_event, count

URGENT = int(EventKind.URGENT)


@part
def mark_urgent(s, index, ahead):
    """The stream is urgent up to `ahead` bytes after those handed in; segments say so until all of
    it is acknowledged."""
    c = s["connections"][index]
    if c["fin"] or ahead <= 0:
        count(s, counters.BAD_REQUEST)
        return
    c["snd_up"] = max(c["snd_up"], c["snd_end"] + ahead)
    c["snd_up_due"] = 1


@part
def tell_peer(s, index):
    """Where bytes are held back, and no segment bore the mark yet, an ACK does."""
    c = s["connections"][index]
    lives = c["state"] >= states.ESTABLISHED and c["state"] <= states.LAST_ACK
    if c["snd_up_due"] and lives and c["mac_known"] and c["snd_nxt"] < c["snd_end"]:
        emit_ack(s, index)


@part
def on_urgent(s, index, seq):
    """URG of an acceptable segment that begins at `seq`: the application hears of a mark that is
    ahead of what it was given, before the bytes of this segment. No mark is beyond a FIN."""
    c = s["connections"][index]
    p = s["parsed"]
    state = c["state"]
    if p["flags"] & (URG | ACK | SYN | RST) != URG | ACK:
        return
    if state < states.ESTABLISHED or state > states.FIN_WAIT_2 or c["fin_told"]:
        return
    mark = seq + p["urgent"]
    if p["flags"] & FIN:
        mark = min(mark, seq + p["length"])
    if c["rcv_fin"] >= 0:
        mark = min(mark, c["rcv_fin"])
    if mark <= c["rcv_up"] or mark <= c["rcv_nxt"]:
        return
    c["rcv_up"] = mark
    if c["attached"] and c["closing"] == 0:
        connection_event(s, c, index, URGENT, 0, 0, 0, mark - c["rcv_nxt"])
