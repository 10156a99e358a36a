"""Records a second that the compiled TCP takes on one core: data in order, and ACKs of data.

    PYTHONPATH=hw:sw python tools/tcp_rate.py

No rings and no card: headers in an array, events and segments taken and forgotten.
"""

import struct
import time

import numpy as np

from hdstack.compile import entry
from hdstack.net.input import on_frame
from hdstack.net.output import encode_segment
from hdstack.tcp import core, tables
from hdstack.tcp.core import (
    event_taken,
    next_event,
    next_segment,
    on_request,
    on_timers,
    on_transmitted,
    segment_queued,
)
from hdstack.tcp.events import REQUEST, EventKind, RequestKind

QUEUE, REGION, PORT, PEER_PORT, PEER, OWN = 1, 3, 80, 40000, 0x0A4D0001, 0x0A4D0002
MAC, PEER_MAC = b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x01"
SYN, ACK = 2, 16
HEADER = 54
ROUNDS = 200_000


@entry
def drain(s, out):
    """Take and forget all that TCP has to say; the number of segments."""
    while next_event(s, QUEUE) >= 0:
        event_taken(s, QUEUE)
    sent = 0
    at = next_segment(s, QUEUE)
    while at >= 0:
        encode_segment(s, QUEUE, at, out, 0)
        segment_queued(s, QUEUE, 0)
        sent += 1
        at = next_segment(s, QUEUE)
    return sent


@entry
def receive(s, memory, out, seq, size, rounds, now):
    """`rounds` segments of `size` bytes in order."""
    sent = 0
    for step in range(rounds):
        number = seq + step * size
        for k in range(4):
            memory[38 + k] = (number >> (24 - 8 * k)) & 255
        on_frame(s, QUEUE, memory, 0, HEADER, size, REGION, 0, 255, 0, now + step * 1000)
        sent += drain(s, out)
        on_timers(s, now + step * 1000)
    return sent


@entry
def acknowledge(s, memory, out, request, ack, size, rounds, now):
    """`rounds` sends of `size` bytes, each acknowledged."""
    sent = 0
    for step in range(rounds):
        on_request(s, QUEUE, request, now + step * 1000)
        sent += drain(s, out)
        on_transmitted(s, QUEUE, 0)
        number = ack + (step + 1) * size
        for k in range(4):
            memory[42 + k] = (number >> (24 - 8 * k)) & 255
        on_frame(s, QUEUE, memory, 0, HEADER, 0, -1, 0, 255, 1, now + step * 1000)
        sent += drain(s, out)
        on_timers(s, now + step * 1000)
    return sent


def header(seq, ack, flags, size):
    """Ethernet, IPv4 and TCP of a segment of the peer."""
    tcp = struct.pack(">HHIIBBHHH", PEER_PORT, PORT, seq, ack, 0x50, flags, 65535, 0, 0)
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 40 + size, 0, 0, 64, 6, 0, PEER, OWN)
    return np.frombuffer(MAC + PEER_MAC + b"\x08\x00" + ip + tcp, np.uint8).copy()


def opened():
    """Tables with one connection; our initial number and the connection's."""
    s = tables.allocate()
    tables.initialise(s, MAC, OWN, 24, 0, bytes(range(16)))
    core.set_queue(s, QUEUE, 50000, 50999)
    core.set_region(s, REGION, 1, QUEUE, 2048, 1 << 20, 255)
    request = np.zeros(1, REQUEST)[0]
    request["kind"], request["port"] = int(RequestKind.LISTEN), PORT
    core.on_request(s, QUEUE, request, 1)
    core.listener_ready(s, 0, 1)
    out = np.zeros(2048, np.uint8)
    on_frame(s, QUEUE, header(999, 0, SYN, 0), 0, HEADER, 0, -1, 0, 255, 1, 2)
    row = next(c for c in s["connections"] if c["state"])
    iss = int(row["iss"]) & 0xFFFFFFFF
    drain(s, out)
    on_frame(s, QUEUE, header(1000, iss + 1, ACK, 0), 0, HEADER, 0, -1, 0, 255, 1, 3)
    event = s["events"][QUEUE, core.next_event(s, QUEUE)]["row"]
    while event["kind"] != EventKind.ACCEPTED:
        core.event_taken(s, QUEUE)
        event = s["events"][QUEUE, core.next_event(s, QUEUE)]["row"]
    connection = int(event["connection"])
    drain(s, out)
    return s, out, iss, connection


def main():
    """Print both rates in CPU time, the best of five runs."""
    best = [0.0, 0.0]
    for turn in range(6):
        rounds = ROUNDS if turn else 10
        s, out, iss, _ = opened()
        memory = header(1000, iss + 1, ACK, 1460)
        start = time.process_time()
        receive(s, memory, out, 1000, 1460, rounds, 10**6)
        taken = time.process_time() - start
        assert int(s["connections"]["rcv_nxt"].max()) == 1000 + 1460 * rounds
        best[0] = max(best[0], rounds / taken if turn else 0)
        s, out, iss, connection = opened()
        memory = header(1000, 0, ACK, 0)
        request = np.zeros(1, REQUEST)[0]
        request["kind"], request["connection"] = int(RequestKind.SEND), connection
        request["region"], request["generation"], request["length"] = REGION, 1, 1000
        start = time.process_time()
        acknowledge(s, memory, out, request, iss + 1, 1000, rounds, 10**6)
        taken = time.process_time() - start
        assert int(s["queues"][QUEUE]["free_send"]) >= 0
        best[1] = max(best[1], rounds / taken if turn else 0)
    print(f"data segments in order: {best[0] / 1e6:.2f} million records a second")
    print(f"sends and their ACKs:   {best[1] / 1e6:.2f} million records a second")


if __name__ == "__main__":
    main()
