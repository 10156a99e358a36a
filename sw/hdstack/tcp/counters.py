"""What the stack counts: everything that it drops or refuses, and the rare events of TCP.

The integers index `s["counters"]`; `TABLE` gives each its name, meaning and remedy for
`hdsnic stats` and the documentation.
"""

TABLE = (
    ("segments_in", "TCP segments received", "none"),
    ("segments_out", "TCP segments sent", "none"),
    ("retransmits", "data segments sent again", "loss on the path, if many"),
    ("timeouts", "retransmission timers that fired", "loss on the path, if many"),
    ("fast_retransmits", "losses found by three duplicate ACKs", "loss on the path, if many"),
    ("duplicate_acks", "duplicate ACKs received", "loss or reordering, if many"),
    ("out_of_order", "segments kept until a hole before them is filled", "reordering or loss"),
    ("duplicates", "segments that held nothing new; buffer returned", "retransmission by a peer"),
    ("beyond_window", "segments, or their tails, beyond the window", "peer at fault, or a probe"),
    ("no_piece", "out-of-order segments beyond the limits; buffer returned", "post more buffers"),
    (
        "whole_payload",
        "data that came in header memory; not deliverable",
        "steering raced; retried",
    ),
    ("foreign_payload", "payload in a buffer of another application", "a faulty rule"),
    ("after_close", "data after the peer's FIN or the local reset", "peer at fault"),
    ("bad_ack", "ACK outside what was sent (RFC 5961)", "old segments, or an attack"),
    ("challenge_acks", "ACKs sent in doubt about RST, SYN or ACK (RFC 5961)", "an attack, if many"),
    ("resets_in", "connections reset by the peer", "see the peer"),
    ("resets_out", "RST segments sent", "scans, if many"),
    ("resets_withheld", "RST or challenge ACK not sent: rate limit", "a scan or an attack"),
    ("no_listener", "SYN to a port where nobody listens", "a scan, or a service is down"),
    ("syn_dropped", "SYN dropped: rows or half-open connections used up", "a SYN flood"),
    ("not_ready", "frames dropped: the application's rings are full", "the application is late"),
    ("bad_segment", "TCP header with impossible lengths or flags", "find the sender"),
    ("timed_out", "connections given up", "peer gone"),
    ("bad_request", "requests of applications that were refused", "application at fault"),
    ("stale_request", "requests for connections that were over", "none: a race with CLOSED"),
    ("zero_window_probes", "probes of a closed window", "the peer's application is late"),
    ("lost_buffers", "buffers whose region was gone at return", "none: the application left"),
    ("not_ip", "frames neither ARP nor IPv4", "none"),
    ("not_ours", "packets for another address", "promiscuous mode, or a wrong route"),
    ("fragments", "IP fragments", "lower the path MTU"),
    ("bad_ip", "IPv4 header with impossible lengths", "find the sender"),
    ("other_protocol", "neither TCP nor ICMP echo", "none"),
    ("arp_in", "ARP packets for us", "none"),
    ("arp_out", "ARP packets sent", "none"),
    ("bad_arp", "ARP packets malformed, or answers never asked for", "an attack, if many"),
    ("echo_replies", "ICMP echo requests answered", "none"),
    ("bad_icmp", "ICMP with a wrong checksum or length", "find the sender"),
    ("icmp_withheld", "ICMP echo not answered: rate limit or no room", "a ping flood"),
    ("duplicates_reported", "D-SACK: peers got bytes twice", "reordering, if many"),
    ("old_timestamp", "segments dropped by PAWS (RFC 7323)", "old duplicates, or an attack"),
    ("no_timestamp", "segments dropped for want of the agreed time stamp", "a middlebox at fault"),
    ("keepalive_probes", "idle peers asked whether they live", "none"),
    ("closed_data", "data for a connection that its application closed: reset", "none"),
    ("cookies_sent", "SYN answered by a cookie (RFC 4987): too many are half open", "a SYN flood"),
    ("cookies_taken", "connections opened by a cookie", "none"),
    (
        "cookies_wrong",
        "ACK without connection or cookie while cookies are sent",
        "an attack, if many",
    ),
    ("errors_taken", "ICMP errors that ended a connection not yet established", "see the peer"),
    ("errors_soft", "ICMP errors noted for a connection that goes on", "see the path"),
    (
        "errors_ignored",
        "ICMP errors about nothing in flight, or unlikely",
        "an attack, if many",
    ),
    ("path_mtu", "smaller path MTU learnt (RFC 1191)", "none"),
    ("unreachables_out", "ICMP unreachable sent", "a scan, if many"),
    ("ndp_in", "neighbour discovery for us", "none"),
    ("ndp_out", "neighbour discovery sent", "none"),
    ("bad_ndp", "neighbour discovery malformed, or answers never asked for", "an attack, if many"),
    ("payload_read_bytes", "payload that the stack read to make checksums", "let the card do it"),
    ("connections_opened", "connections that reached ESTABLISHED", "none"),
    ("connections_closed", "connections that ended, in whatever way", "none"),
)

NAMES = tuple(name for name, _, _ in TABLE)
COUNTERS = len(TABLE)

(
    SEGMENTS_IN, SEGMENTS_OUT, RETRANSMITS, TIMEOUTS, FAST_RETRANSMITS, DUPLICATE_ACKS,
    OUT_OF_ORDER, DUPLICATES, BEYOND_WINDOW, NO_PIECE, WHOLE_PAYLOAD, FOREIGN_PAYLOAD,
    AFTER_CLOSE, BAD_ACK, CHALLENGE_ACKS, RESETS_IN, RESETS_OUT, RESETS_WITHHELD, NO_LISTENER,
    SYN_DROPPED, NOT_READY, BAD_SEGMENT, TIMED_OUT, BAD_REQUEST, STALE_REQUEST,
    ZERO_WINDOW_PROBES, LOST_BUFFERS, NOT_IP, NOT_OURS, FRAGMENTS, BAD_IP, OTHER_PROTOCOL,
    ARP_IN, ARP_OUT, BAD_ARP, ECHO_REPLIES, BAD_ICMP, ICMP_WITHHELD, DUPLICATES_REPORTED,
    OLD_TIMESTAMP, NO_TIMESTAMP, KEEPALIVE_PROBES, CLOSED_DATA,
    COOKIES_SENT, COOKIES_TAKEN, COOKIES_WRONG,
    ERRORS_TAKEN, ERRORS_SOFT, ERRORS_IGNORED, PATH_MTU, UNREACHABLES_OUT, NDP_IN, NDP_OUT, BAD_NDP,
    PAYLOAD_READ_BYTES, CONNECTIONS_OPENED, CONNECTIONS_CLOSED,
) = range(COUNTERS)  # fmt: skip

assert all(globals()[name.upper()] == at for at, name in enumerate(NAMES))
