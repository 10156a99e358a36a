"""What can become of a frame, a descriptor and a post: one outcome each, one counter each.

Every received frame has exactly one `RxOutcome`, every transmit descriptor one `TxOutcome`, every
cell of a post ring one `PostOutcome` (R16: frames in = records + counted drops). The members'
`label`, `doc` and `remedy` make the tables of the datasheet and of `hdsnic stats`.
"""

from enum import IntEnum

__all__ = ["RX_RECORDS", "PostOutcome", "RxOutcome", "TxOutcome"]


class _Outcome(IntEnum):
    def __new__(cls, value, doc, remedy):
        member = int.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        member.remedy = remedy
        return member

    @property
    def label(self) -> str:
        """Lower-case name, as `hdsnic stats --json` prints it."""
        return self.name.lower()


class RxOutcome(_Outcome):
    """Outcome of a received frame. Below 16: a record exists; from 16 on: dropped and counted.

    The outcomes of a record are also the `reason` field of the record: SPLIT, HEADER_ONLY and
    PLACED go to their queue, the others whole to queue 0.
    """

    SPLIT = 0, "payload written to the application, header to the stack", "none: this is the aim"
    HEADER_ONLY = 1, "steered frame without payload; takes no buffer (R8)", "none"
    NOT_IP = 2, "neither IPv4 nor IPv6 (ARP, LLDP and others)", "none: the stack handles it"
    FRAGMENT = 3, "IPv4 fragment or IPv6 fragment header", "lower the path MTU at the sender"
    NOT_TCP = 4, "IP with another protocol than TCP, UDP and tunnels (ICMP and others)", "none"
    EXTENSION = 5, "IPv6 extension header that is not passed over", "none"
    SYN_PAYLOAD = 6, "SYN with payload (R31)", "none: the stack handles it"
    NO_RULE = 7, "no steering rule matched", "install a rule; expected for scans and late segments"
    LONG_HEADER = 8, "headers of more than 256 bytes", "none"
    NOT_LOCAL = 9, "IP destination is none of the local addresses", "check the local addresses"
    PLACED = 10, "bytes of header memory moved to a buffer on command", "none"
    MALFORMED = 11, "would have been dropped; delivered by the debug switch (R13)", "none"
    UDP_WHOLE = 12, "UDP for a queue whose mode does not split it", "set the queue's `udp_split`"
    TUNNEL = 13, "IP in IP, GRE, ESP or another tunnel", "none: the stack handles it"

    BAD_FCS = 16, "the MAC marked the frame bad (R5)", "check cable, transceiver, clocks"
    RUNT = 17, "shorter than 14 bytes, or than its own headers", "find the sender of the frame"
    OVERSIZE = 18, "longer than the device's largest frame (R10)", "lower the peer's MTU"
    OVERFLOW = 19, "the frame buffer was full", "memory ports too slow, or rings not drained"
    MAC_FILTER = 20, "destination MAC address is not ours", "none, or set promiscuous mode"
    DISABLED = 21, "reception, or the queue, is disabled", "enable it"
    IP_HEADER = 22, "bad IP version, header length or total length (R4)", "find the sender"
    IP_CHECKSUM = 23, "IPv4 header checksum wrong", "find the faulty hop"
    TCP_HEADER = 24, "TCP data offset below 5 or beyond the IP length", "find the sender"
    L4_CHECKSUM = 25, "TCP or UDP checksum wrong (I5)", "find the faulty hop"
    NO_BUFFER = 26, "no posted buffer in the queue (R11)", "the application must post more, sooner"
    NO_RING_SPACE = 27, "no space in the receive ring (R11)", "the stack is late, or a larger ring"
    PAYLOAD_TOO_LARGE = (
        28,
        "payload larger than the longest chain of posted buffers",
        ("register larger elements"),
    )
    BAD_REGION = 29, "the claimed buffer's region was revoked or is not the queue's (I2)", "none"
    PORT_ERROR = 30, "a memory port answered with an error; the record is void", "check the memory"
    FAIR_SHARE = (
        31,
        "frame buffer above the watermark, and the queue over its share (I7)",
        ("this queue's memory or rings are too slow for what it is sent"),
    )


RX_RECORDS = 16
"""RxOutcome values below this leave a record."""


class TxOutcome(_Outcome):
    """Outcome of a transmit descriptor."""

    SENT = 0, "handed to the MAC whole", "none"
    BAD_DESCRIPTOR = 1, "lengths or offsets contradict each other or the limits", "driver fault"
    BAD_REGION = (
        2,
        "reference to a region that is not live or of another generation",
        "driver fault",
    )
    BAD_OWNER = 3, "reference to a region of another owner (R19)", "driver fault, or an attack"
    NO_PERMISSION = 4, "region does not grant NIC_READ", "register with that permission"
    OUT_OF_REGION = 5, "reference beyond the region's end", "driver or application fault"
    PORT_ERROR = 6, "a memory port answered with an error", "check the memory"
    OVERRUN = 7, "descriptor runs beyond the producer index; the queue stopped", "driver fault"


class PostOutcome(_Outcome):
    """Outcome of a cell of a post ring."""

    ACCEPTED = 0, "buffer is ready to be claimed", "none"
    BAD_REGION = 1, "region is not live, of another generation, or grants no NIC_WRITE", "see R23"
    BAD_OWNER = 2, "region of another owner", "application fault, or an attack"
    BAD_ELEMENT = 3, "element beyond the postable ones", "application fault"
    DOUBLE_POST = 4, "element is posted or in flight already (R23)", "application fault"
    BAD_DOORBELL = 5, "doorbell beyond the ring; ignored", "application fault"
    FLUSHED = 6, "was ready, but its region was revoked or its queue disabled", "none"
    PORT_ERROR = (
        7,
        "the memory port answered the read of the cell with an error",
        "check the memory",
    )
