"""Frame buffer with commit and rollback: beats go in as they come, frames come out if kept (I5).

Third in the receive path, behind `verify`. Pointer invariants, modulo twice the number of rows:
read <= commit <= write <= read + rows. Rows from read to commit belong to frames that were kept,
rows from commit to write to the frame that is arriving.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..interfaces import FrameBeat, SteeredFrame, Strobe, count_bits
from .verify import VerifiedBeat

__all__ = ["Announcer", "FrameBuffer", "buffer_frames"]

FRAME_BYTES_MIN = 64


def buffer_frames(parameters):
    """Frames that may be in the buffer, or announced and not yet taken: one for each 64 bytes."""
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
    over: with the last beat: the frame's queue is over its share. Of such a frame only the last
    beat is kept, in one row; none (`refused`) when seven eighths of rows or frames are taken, or a
    quarter of the frames is of that kind: who waits behind them must not wait long.
    kept, rows: with the last beat of a frame: it is committed, and takes so many rows.
    overflow: it was to be kept, and is lost. refused: it was over its share, and is lost.
    announced: pulse as a kept frame's SteeredFrame is taken; bounds the frames that are kept.
    passed: with it: the frame was over its share.
    beats: beats of the kept frames; `error` stays 0. left: pulse as a frame's last beat is taken.
    used: rows of kept frames.
    """

    def __init__(self, parameters):
        self.p = parameters
        self._depth = parameters.rx_buffer_bytes // parameters.bus_bytes
        super().__init__(
            {
                "i": In(Strobe(VerifiedBeat(parameters))),
                "over": In(1),
                "kept": Out(1),
                "rows": Out(count_bits(self._depth)),
                "overflow": Out(1),
                "refused": Out(1),
                "announced": In(1),
                "passed": In(1),
                "beats": Out(stream.Signature(FrameBeat(parameters.bus_bytes))),
                "left": Out(1),
                "used": Out(count_bits(self._depth)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.p
        rows, most = self._depth, buffer_frames(p)
        row = data.StructLayout(
            {"data": 8 * p.bus_bytes, "count": count_bits(p.bus_bytes), "last": 1}
        )
        m.submodules.ram = ram = memory.Memory(
            shape=row, depth=rows, init=[], attrs={"ram_style": "block"}
        )
        write_port, read_port = ram.write_port(), ram.read_port()

        pointer = range(2 * rows)
        write, commit, read = Signal(pointer), Signal(pointer), Signal(pointer)
        unannounced, resident, marked = (
            Signal(range(most + 1), name=name) for name in ("unannounced", "resident", "marked")
        )
        lost = Signal()  # the arriving frame has lost a beat
        crowded = Signal()
        m.d.comb += self.used.eq(commit - read)
        m.d.sync += crowded.eq(
            (self.used >= rows - rows // 8)
            | (unannounced >= most - most // 8)
            | (resident >= most - most // 8)
            | (marked >= most // 4)
        )

        incoming = self.i.payload
        index_bits = count_bits(rows - 1)
        last, good = Signal(), Signal()
        room, place, target = Signal(), Signal(), Signal(pointer)
        m.d.comb += [
            last.eq(self.i.valid & incoming.last),
            good.eq(last & incoming.keep),
            target.eq(Mux(last & self.over, commit, write)),
            room.eq((target ^ read) != rows),
            place.eq(room & (~lost | self.over) & (unannounced != most) & (resident != most)),
            self.refused.eq(good & self.over & crowded),
            self.kept.eq(good & place & ~self.refused),
            self.overflow.eq(good & ~place & ~self.refused),
            self.rows.eq((target - commit)[: len(self.rows)] + 1),
            write_port.en.eq(self.i.valid & room),
            write_port.addr.eq(target[:index_bits]),
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
                    m.d.sync += [write.eq(target + 1), commit.eq(target + 1)]
                with m.Else():
                    m.d.sync += write.eq(commit)
        for count, come, done in (
            (unannounced, self.kept, self.announced),
            (resident, self.kept, self.left),
            (marked, self.kept & self.over, self.announced & self.passed),
        ):
            with m.If(come & ~done):
                m.d.sync += count.eq(count + 1)
            with m.Elif(~come & done):
                m.d.sync += count.eq(count - 1)

        step = Signal()  # the next row goes to the output register of the RAM
        m.d.comb += [
            step.eq((read != commit) & (~self.beats.valid | self.beats.ready)),
            read_port.en.eq(step),
            read_port.addr.eq(read[:index_bits]),
            self.beats.payload.data.eq(read_port.data.data),
            self.beats.payload.count.eq(read_port.data.count),
            self.beats.payload.last.eq(read_port.data.last),
            self.left.eq(self.beats.valid & self.beats.ready & self.beats.payload.last),
        ]
        with m.If(step):
            m.d.sync += [read.eq(read + 1), self.beats.valid.eq(1)]
        with m.Elif(self.beats.ready):
            m.d.sync += self.beats.valid.eq(0)
        return m


class Announcer(wiring.Component):
    """Frames that wait for the placer, in block RAM; an empty queue is passed by.

    Latency one cycle, a frame a cycle. Has room for all frames that the buffer lets in: always
    takes.

    Interface attributes
    --------------------
    i: kept frames. o: the same, in order.
    """

    def __init__(self, parameters):
        self.p = parameters
        frame = SteeredFrame(parameters)
        super().__init__({"i": In(Strobe(frame)), "o": Out(stream.Signature(frame))})

    def elaborate(self, platform):
        m = Module()
        frame = SteeredFrame(self.p)
        m.submodules.waiting = waiting = fifo.SyncFIFOBuffered(
            width=frame.size, depth=buffer_frames(self.p) + 1
        )
        free, direct = Signal(), Signal()
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            direct.eq(free & (waiting.level == 0)),
            waiting.w_en.eq(self.i.valid & ~direct),
            waiting.w_data.eq(self.i.payload),
            waiting.r_en.eq(free),
        ]
        with m.If(free):
            m.d.sync += self.o.valid.eq(waiting.r_rdy | (direct & self.i.valid))
            with m.If(waiting.r_rdy):
                m.d.sync += self.o.payload.eq(waiting.r_data)
            with m.Elif(direct & self.i.valid):
                m.d.sync += self.o.payload.eq(self.i.payload)
        return m
