"""The parameters from which one source makes every size of the card."""

from dataclasses import dataclass

from . import abi

__all__ = ["ParameterError", "Parameters"]


class ParameterError(ValueError):
    """A parameter is out of range; the message names it, what was given and what is allowed."""


@dataclass(frozen=True)
class Parameters:
    """Size of a card. Every field is told to software by a register of the control page.

    Parameters
    ----------
    bus_bytes:
        Width of streams and memory ports in bytes: 8 (10G class) to 64 (100G class).
    queues, regions:
        Queues (receive, post and transmit ring each) and regions.
    listeners, range_listeners:
        Listener rules, and how many of them (from index 0) match a port range.
    exact_ways, exact_rows:
        Exact rules: ways, each of so many rows, in block RAM.
    rss_contexts:
        Keys and indirection tables of receive-side scaling.
    chain_max:
        Most buffers that one payload may take.
    tso_bytes_max:
        Most payload that one descriptor may have segmented.
    postable_max:
        Largest number of elements of a region that may be posted; two state bits each.
    frame_bytes_max:
        Largest frame without FCS.
    rx_buffer_bytes, tx_buffer_bytes:
        Frame buffers in front of the split and behind the gather.
    references_max:
        Most pieces of payload in a transmit descriptor.
    post_prefetch:
        Buffers kept ready for each queue, or on their way; hides the latency of the payload port: a
        frame every 2 cycles uses 100 in 200 cycles, and a quarter is fetched at a time.
    outstanding:
        Memory transactions in flight on a port and direction, for reads of each block; 256 hides
        200 cycles of latency at a burst a cycle.
    address_bits, id_bits:
        Of the memory ports.
    """

    bus_bytes: int = 64
    queues: int = 16
    regions: int = 16
    listeners: int = 64
    range_listeners: int = 8
    local_addresses: int = 8
    exact_ways: int = 4
    exact_rows: int = 512
    rss_contexts: int = 16
    chain_max: int = 10
    tso_bytes_max: int = 65536
    postable_max: int = 4096
    frame_bytes_max: int = 9018
    rx_buffer_bytes: int = 32768
    tx_buffer_bytes: int = 32768
    references_max: int = 64
    post_prefetch: int = 256
    outstanding: int = 256
    address_bits: int = 40
    id_bits: int = 4

    def __post_init__(self):
        def check(name, allowed, text):
            value = getattr(self, name)
            if value not in allowed:
                raise ParameterError(f"{name} is {value!r}; it must be {text}")

        check("bus_bytes", (8, 16, 32, 64), "8, 16, 32 or 64")
        check("queues", range(1, abi.QUEUES_MAX + 1), f"1 to {abi.QUEUES_MAX}")
        check("regions", range(1, abi.REGIONS_MAX + 1), f"1 to {abi.REGIONS_MAX}")
        check("listeners", range(1, abi.LISTENERS_MAX + 1), f"1 to {abi.LISTENERS_MAX}")
        check("range_listeners", range(0, self.listeners + 1), "0 to `listeners`")
        check(
            "local_addresses",
            range(1, abi.LOCAL_ADDRESSES_MAX + 1),
            f"1 to {abi.LOCAL_ADDRESSES_MAX}",
        )
        powers = [1 << n for n in range(31)]
        check("exact_ways", (1, 2, 4), "1, 2 or 4")
        check("exact_rows", powers[4:12], "a power of two, 16 to 2048")
        check("rss_contexts", range(1, abi.RSS_CONTEXTS_MAX + 1), f"1 to {abi.RSS_CONTEXTS_MAX}")
        check("chain_max", range(1, 15), "1 to 14")
        check("tso_bytes_max", range(1460, 262145), "1460 to 262144")
        check("postable_max", powers[4:17], "a power of two, 16 to 65536")
        check("frame_bytes_max", range(1514, 9019), "1514 to 9018")
        check("rx_buffer_bytes", powers[14:21], "a power of two, 16 KiB to 1 MiB")
        check("tx_buffer_bytes", powers[14:21], "a power of two, 16 KiB to 1 MiB")
        check("references_max", range(1, 129), "1 to 128")
        check("post_prefetch", powers[2:9], "a power of two, 4 to 256")
        check("outstanding", powers[1:9], "a power of two, 2 to 256")
        check("address_bits", range(32, 65), "32 to 64")
        check("id_bits", range(2, 9), "2 to 8")
