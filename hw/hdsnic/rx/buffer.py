"""Frame buffer with commit and rollback: beats go in as they come, frames come out if kept (I5).

Third in the receive path, behind `verify`. Pointer invariants, modulo twice the number of rows:
read <= commit <= write <= read + rows. Rows from read to commit belong to frames that were kept,
rows from commit to write to the frame that is arriving.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, Strobe, count_bits
from .verify import VerifiedBeat

__all__ = ["FrameBuffer", "buffer_frames"]

FRAME_BYTES_MIN = 64


def buffer_frames(parameters):
    """Frames that may be in the buffer or announced and not yet taken: one for each 64 bytes."""
    return parameters.rx_buffer_bytes // FRAME_BYTES_MIN


class FrameBuffer(wiring.Component):
    """Holds frames from their arrival to the split.

    Takes a beat every cycle, whether there is room or not: a kept frame that lost a beat is rolled
    back and reported by `overflow`. Gives a beat every cycle, two cycles after the last beat of its
    frame came in at the earliest. A block RAM of `rx_buffer_bytes` with synchronous read; a frame
    takes whole rows of `bus_bytes`.

    Interface attributes
    --------------------
    i: beats with the verdict on the last.
    kept: with the last beat of a frame: it is committed. overflow: it was to be kept, and is lost.
    announced: pulse as a kept frame's SteeredFrame is taken; bounds the frames that are kept.
    beats: beats of the kept frames; `error` stays 0.
    """

    def __init__(self, parameters):
        self.p = parameters
        super().__init__(
            {
                "i": In(Strobe(VerifiedBeat(parameters))),
                "kept": Out(1),
                "overflow": Out(1),
                "announced": In(1),
                "beats": Out(stream.Signature(FrameBeat(parameters.bus_bytes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        rows = p.rx_buffer_bytes // p.bus_bytes
        row = data.StructLayout(
            {"data": 8 * p.bus_bytes, "count": count_bits(p.bus_bytes), "last": 1}
        )
        m.submodules.rows = ram = memory.Memory(
            shape=row, depth=rows, init=[], attrs={"ram_style": "block"}
        )
        write_port, read_port = ram.write_port(), ram.read_port()

        pointer = range(2 * rows)
        write, commit, read = Signal(pointer), Signal(pointer), Signal(pointer)
        frames = Signal(range(buffer_frames(p) + 1))
        lost = Signal()  # the arriving frame has lost a beat

        incoming = self.i.payload
        index_bits = count_bits(rows - 1)
        room = Signal()
        last, whole = Signal(), Signal()
        m.d.comb += [
            room.eq((write ^ read) != rows),
            last.eq(self.i.valid & incoming.last),
            whole.eq(room & ~lost & (frames != buffer_frames(p))),
            self.kept.eq(last & incoming.keep & whole),
            self.overflow.eq(last & incoming.keep & ~whole),
            write_port.en.eq(self.i.valid & room),
            write_port.addr.eq(write[:index_bits]),
            write_port.data.data.eq(incoming.data),
            write_port.data.count.eq(incoming.count),
            write_port.data.last.eq(incoming.last),
        ]
        with m.If(self.i.valid):
            with m.If(~incoming.last):
                m.d.sync += lost.eq(lost | ~room)
                with m.If(room):
                    m.d.sync += write.eq(write + 1)
            with m.Else():
                m.d.sync += lost.eq(0)
                with m.If(self.kept):
                    m.d.sync += [write.eq(write + 1), commit.eq(write + 1)]
                with m.Else():
                    m.d.sync += write.eq(commit)
        with m.If(self.kept & ~self.announced):
            m.d.sync += frames.eq(frames + 1)
        with m.Elif(~self.kept & self.announced):
            m.d.sync += frames.eq(frames - 1)

        step = Signal()  # the next row goes to the output register of the RAM
        m.d.comb += [
            step.eq((read != commit) & (~self.beats.valid | self.beats.ready)),
            read_port.en.eq(step),
            read_port.addr.eq(read[:index_bits]),
            self.beats.payload.data.eq(read_port.data.data),
            self.beats.payload.count.eq(read_port.data.count),
            self.beats.payload.last.eq(read_port.data.last),
        ]
        with m.If(step):
            m.d.sync += [read.eq(read + 1), self.beats.valid.eq(1)]
        with m.Elif(self.beats.ready):
            m.d.sync += self.beats.valid.eq(0)
        return m
