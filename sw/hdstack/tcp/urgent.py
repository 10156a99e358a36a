"""The urgent mechanism: a mark in the stream that travels ahead of the bytes before it.

RFC 9293 section 3.8.5, in the sense of RFC 6093: the pointer names the octet after the urgent data,
the data itself stays in the stream, and the application hears where the mark is. New protocols
should not use it; what was written for telnet, rlogin or FTP's ABOR does.
"""

from ..compile import part
from . import states
from .emit import ACK, RST, SYN, URG, emit_ack
from .events import EventKind
from .rows import connection_event

URGENT = int(EventKind.URGENT)


@part
def mark_sent(s, index):
    """All that was handed in so far is urgent: segments say so until it is acknowledged, the next
    one even where windows let no byte of it go."""
    c = s["connections"][index]
    c["snd_up"] = c["snd_end"]


@part
def tell_peer(s, index):
    """The peer hears of a new mark by an ACK where no data could bear it."""
    c = s["connections"][index]
    lives = c["state"] >= states.ESTABLISHED and c["state"] <= states.LAST_ACK
    if lives and c["mac_known"] and c["snd_nxt"] < c["snd_up"]:
        emit_ack(s, index)


@part
def on_urgent(s, index, seq):
    """URG of an acceptable segment that begins at `seq`: the application hears of a mark that is
    ahead of what it was given, before the bytes of this segment."""
    c = s["connections"][index]
    p = s["parsed"]
    state = c["state"]
    if p["flags"] & (URG | ACK | SYN | RST) != URG | ACK:
        return
    if state < states.ESTABLISHED or state > states.FIN_WAIT_2 or c["fin_told"]:
        return
    mark = seq + p["urgent"]
    if mark <= c["rcv_up"] or mark <= c["rcv_nxt"]:
        return
    c["rcv_up"] = mark
    if c["attached"] and c["closing"] == 0:
        connection_event(s, c, index, URGENT, 0, 0, 0, mark - c["rcv_nxt"])
