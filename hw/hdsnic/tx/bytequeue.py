"""Byte queue: payload as one stream of bytes, whatever the pieces and alignments it came in.

Between the payload port and the gather, which takes as many bytes a cycle as its beat has room for.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..interfaces import ReadClient, count_bits, lanes_below

__all__ = ["ByteQueue", "turned"]

_ROWS = 16
"""Beats that fit in: three are on their way in, and a reader that stops need not stop the port."""


def turned(value, turn, bits, unit=8):
    """`value` turned left by as many units as the given bits of `turn` say."""
    for bit in bits:
        value = Mux(turn[bit], value.rotate_left(unit << bit), value)
    return value


class ByteQueue(wiring.Component):
    """FIFO of bytes: a beat's wanted bytes in, 0 to `bus_bytes` bytes out a cycle.

    `level` bytes are there; the first is on lane `head` of `data`, the next on the lane after it,
    and so on around. `errors` says for each lane whether its byte came with an error response.
    `take` removes that many, at most `level`.

    A beat a cycle; four cycles from beat to `level`. A reader that takes nothing fills it, and then
    stops the port.

    Parameters: `bus_bytes`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        width = p.bus_bytes
        super().__init__(
            {
                "beats": ReadClient(p).members["beats"],
                "level": Out(range(_ROWS * width)),
                "head": Out(range(width)),
                "data": Out(8 * width),
                "errors": Out(width),
                "take": In(range(width + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.parameters.bus_bytes
        steps = width.bit_length() - 1
        bits = (_ROWS * width - 1).bit_length()
        beat = self.beats.payload

        head = Signal(bits)  # positions of bytes, around and around
        tail = Signal(bits)  # accepted
        settled = Signal(bits)  # written
        accepted = Signal(bits)
        count = Signal(count_bits(width))
        taken = Signal()
        m.d.comb += [
            accepted.eq(tail - head),
            # One byte less than all, so that full and empty differ.
            self.beats.ready.eq(accepted < (_ROWS - 1) * width),
            taken.eq(self.beats.valid & self.beats.ready),
            count.eq(beat.end - beat.begin),
        ]
        with m.If(taken):
            m.d.sync += tail.eq(tail + count)
        m.d.sync += head.eq(head + self.take)

        # -- turn each byte to the lane of its position, in two stages --
        stage_shape = StructLayout(
            {
                "data": 8 * width,
                "turn": steps,
                "at": bits,
                "count": count_bits(width),
                "error": 1,
                "valid": 1,
            }
        )
        placed, half, whole = (Signal(stage_shape, name=n) for n in ("placed", "half", "whole"))
        m.d.sync += [
            placed.data.eq(beat.data),
            placed.turn.eq(tail - beat.begin),
            placed.at.eq(tail),
            placed.count.eq(count),
            placed.error.eq(beat.error),
            placed.valid.eq(taken),
            half.eq(placed),
            half.data.eq(turned(placed.data, placed.turn, range(steps // 2))),
            whole.eq(half),
            whole.data.eq(turned(half.data, half.turn, range(steps // 2, steps))),
        ]
        with m.If(whole.valid):
            m.d.sync += settled.eq(whole.at + whole.count)

        # -- even and odd rows, since a beat and what is taken may lie in two adjacent ones --
        lane = whole.at[:steps]
        end = Signal(range(2 * width + 1))
        m.d.comb += end.eq(lane + whole.count)
        ends = lanes_below(end, 2 * width)
        first_row = ends[:width] & ~lanes_below(lane, width)
        next_row = ends[width:]
        bytes_in = Cat(Cat(whole.data.word_select(k, 8), whole.error) for k in range(width))
        rows = []
        for odd in (0, 1):
            memory = Memory(shape=9 * width, depth=_ROWS // 2, init=[])
            m.submodules[f"rows_{odd}"] = memory
            write = memory.write_port(granularity=9)
            read = memory.read_port(domain="comb")
            mine = Signal(name=f"mine_{odd}")  # the beat begins in one of these rows
            m.d.comb += [
                mine.eq(whole.at[steps] == odd),
                write.addr.eq((whole.at >> (steps + 1)) + (~mine & whole.at[steps])),
                write.data.eq(bytes_in),
                write.en.eq(Mux(whole.valid, Mux(mine, first_row, next_row), 0)),
                read.addr.eq((head >> (steps + 1)) + ((head[steps] != odd) & head[steps])),
            ]
            rows.append(read.data)
        here = Signal(9 * width)
        behind = Signal(9 * width)
        chosen = [
            Mux(head[:steps] <= k, here.word_select(k, 9), behind.word_select(k, 9))
            for k in range(width)
        ]
        m.d.comb += [
            here.eq(Mux(head[steps], rows[1], rows[0])),
            behind.eq(Mux(head[steps], rows[0], rows[1])),
            self.level.eq(settled - head),
            self.head.eq(head),
            self.data.eq(Cat(byte[:8] for byte in chosen)),
            self.errors.eq(Cat(byte[8] for byte in chosen)),
        ]
        return m
