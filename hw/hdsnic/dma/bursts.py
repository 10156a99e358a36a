"""A request cut into bursts: at aligned blocks, and around the end of a ring.

Shared by the write and the read port. A burst never crosses a block; a block is at most 4 KiB (the
AXI4 boundary) and at most `beats_max` beats. Since a ring is aligned to its size and at least
4 KiB, the same cut is where a ring wraps.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from ..interfaces import WriteRequest

__all__ = ["Burst", "BurstSplitter"]


class Burst(StructLayout):
    """One burst of a request; `begin` and `end` are lanes: of its first byte, behind its last."""

    def __init__(self, parameters, tag_bits):
        lane_bits = (parameters.bus_bytes - 1).bit_length()
        super().__init__(
            {
                "address": parameters.address_bits,
                "beats_less_one": 8,
                "first": 1,  # of its request
                "last": 1,  # of its request
                "begin": lane_bits,  # first byte's lane (of the burst)
                "end": lane_bits + 1,  # 1 + lane of the last byte (of the burst)
                "length": 16,  # bytes
                "tag": tag_bits,
            }
        )


class BurstSplitter(wiring.Component):
    """Requests in, bursts out.

    Latency one cycle; one burst a cycle; a request within one block costs one cycle. Holds its
    burst while `bursts.ready` is 0.

    Parameters
    ----------
    beats_max:
        Longest burst in beats, a power of two up to 256.
    tag_bits:
        Width of a tag that travels from a request to its bursts.
    """

    def __init__(self, parameters, *, beats_max=256, tag_bits=1):
        self.parameters = parameters
        self.block_bytes = min(4096, beats_max * parameters.bus_bytes)
        request = WriteRequest(parameters)
        super().__init__(
            {
                "requests": In(
                    stream.Signature(StructLayout({"request": request, "tag": tag_bits}))
                ),
                "bursts": Out(stream.Signature(Burst(parameters, tag_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        block_bits = self.block_bytes.bit_length() - 1
        lane_bits = (p.bus_bytes - 1).bit_length()

        busy = Signal()
        first = Signal()
        left = Signal(16)
        now = Signal.like(self.requests.payload)
        out = self.bursts.payload

        in_block = Signal(block_bits + 1)  # bytes up to the end of the block
        length = Signal(block_bits + 1)
        last = Signal()
        m.d.comb += [
            in_block.eq(self.block_bytes - now.request.address[:block_bits]),
            last.eq(left <= in_block),
            length.eq(Mux(last, left, in_block)),
        ]
        lane = now.request.address[:lane_bits]
        span = Signal(block_bits + 2)  # bytes from lane 0 of the first beat to the last byte
        m.d.comb += [
            span.eq(lane + length),
            out.address.eq(now.request.address),
            out.beats_less_one.eq((span - 1) >> lane_bits),
            out.first.eq(first),
            out.last.eq(last),
            out.begin.eq(lane),
            out.end.eq(((span - 1)[:lane_bits]) + 1),
            out.length.eq(length),
            out.tag.eq(now.tag),
            self.bursts.valid.eq(busy),
        ]

        # The block that follows, with the bits of the address above the ring held.
        following = Signal(p.address_bits)
        straight = Signal(p.address_bits)
        m.d.comb += [
            straight.eq(((now.request.address >> block_bits) + 1) << block_bits),
            following.eq(straight),
        ]
        with m.Switch(now.request.wrap_log2):
            for log2 in range(12, 23):
                with m.Case(log2):
                    m.d.comb += following.eq(Cat(straight[:log2], now.request.address[log2:]))

        moving = Signal()
        m.d.comb += [
            moving.eq(busy & self.bursts.ready),
            self.requests.ready.eq(~busy | (moving & last)),
        ]
        with m.If(moving):
            m.d.sync += [
                left.eq(left - length),
                now.request.address.eq(following),
                first.eq(0),
            ]
            with m.If(last):
                m.d.sync += busy.eq(0)
        with m.If(self.requests.valid & self.requests.ready):
            m.d.sync += [
                busy.eq(1),
                first.eq(1),
                left.eq(self.requests.payload.request.length),
                now.eq(self.requests.payload),
            ]
        return m
