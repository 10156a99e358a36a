"""States of a connection (RFC 9293 section 3.3.2) and of a listener, as plain integers.

Plain, since compiled code freezes them as constants (`states.ESTABLISHED`).
"""

FREE = 0
SYN_SENT = 1
SYN_RECEIVED = 2
ESTABLISHED = 3
FIN_WAIT_1 = 4
FIN_WAIT_2 = 5
CLOSE_WAIT = 6
CLOSING = 7
LAST_ACK = 8
TIME_WAIT = 9
DEAD = 10
"""Over for the peer; the row waits until its RST is out and no transmit of its payload is."""

NAMES = (
    "FREE", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED", "FIN_WAIT_1", "FIN_WAIT_2", "CLOSE_WAIT",
    "CLOSING", "LAST_ACK", "TIME_WAIT", "DEAD",
)  # fmt: skip

LISTENER_FREE = 0
LISTENER_PENDING = 1
"""The steering rule is not yet in the device; answered by `core.listener_ready`."""
LISTENER_LISTENING = 2
LISTENER_CLOSING = 3
"""Accepts nothing; the rule stays as long as connections of the port live."""
