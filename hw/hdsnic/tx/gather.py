"""Gather: header bytes and pieces of payload, at any alignment, packed into beats of a frame.

Between header FIFO and payload port on one side, frame buffer and checksum on the other. Here a
descriptor's reads end, so here it retires.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import ReadClient, Strobe, count_bits
from .layouts import BeatOfFrame, HeaderBeat, Job, Retirement

__all__ = ["Gather"]


class Gather(wiring.Component):
    """Byte packer.

    Takes the jobs in order: of each, the beats of its header, then the beats of as many payload
    requests as it has references. Puts out the frame on `beats`, which are always taken (room was
    reserved), and `retire` with each descriptor's end. A refused job moves nothing; its header
    beats are dropped. If a beat came with an error the frame's last beat is not `good`, and the
    verdict is PORT_ERROR; all of its beats are taken first all the same.

    A beat in is a cycle, and one cycle more where the last beat of a frame fills two. Four cycles
    from beat in to beat out. A refused job takes a cycle, or its header beats.

    Parameters: `bus_bytes`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "jobs": In(stream.Signature(Job(p))),
                "header": In(stream.Signature(HeaderBeat(p.bus_bytes))),
                "payload": ReadClient(p).members["beats"],
                "beats": Out(Strobe(BeatOfFrame(p))),
                "retire": Out(Strobe(Retirement(p))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        width = p.bus_bytes
        steps = width.bit_length() - 1
        outcome = abi.TxOutcome
        job = self.jobs.payload
        header = self.header.payload
        payload = self.payload.payload

        # -- select: one beat of the frame's bytes, wherever they come from --
        data = Signal(8 * width)
        begin = Signal(range(width))
        count = Signal(count_bits(width))
        taken = Signal()
        final = Signal()  # the frame's last beat
        error = Signal()
        void = Signal()  # a refused job ends
        in_payload = Signal()
        piece = Signal(8)
        flush = Signal()  # the last beat filled two; the second is still to come
        refused = Signal()
        m.d.comb += refused.eq(job.verdict != outcome.SENT)
        with m.If(self.jobs.valid & ~flush):
            with m.If(refused):
                m.d.comb += [
                    self.header.ready.eq(job.header),
                    void.eq(~job.header | (self.header.valid & header.last)),
                ]
            with m.Elif(~in_payload):
                m.d.comb += [
                    self.header.ready.eq(1),
                    data.eq(header.data),
                    count.eq(header.count),
                    taken.eq(self.header.valid),
                    final.eq(header.last & (job.references == 0)),
                    error.eq(header.error),
                ]
                with m.If(taken & header.last & ~final):
                    m.d.sync += in_payload.eq(1)
            with m.Else():
                m.d.comb += [
                    self.payload.ready.eq(1),
                    data.eq(payload.data),
                    begin.eq(payload.begin),
                    count.eq(payload.end - payload.begin),
                    taken.eq(self.payload.valid),
                    final.eq(payload.last & (piece == job.references - 1)),
                    error.eq(payload.error),
                ]
                with m.If(taken & payload.last):
                    m.d.sync += piece.eq(piece + 1)
                with m.If(taken & final):
                    m.d.sync += [piece.eq(0), in_payload.eq(0)]

        # -- place: where in the beat do they go --
        fill = Signal(range(width))
        total = Signal(range(2 * width + 1))
        overflow = Signal()
        bad = Signal()  # an error since the frame's start
        m.d.comb += [total.eq(fill + count), overflow.eq(taken & final & (total > width))]
        m.d.comb += self.jobs.ready.eq((taken & final & ~overflow) | flush | void)
        spill = Signal(range(width))
        m.d.sync += [flush.eq(overflow), spill.eq(total - width)]
        with m.If(taken):
            m.d.sync += [fill.eq(Mux(final, 0, total)), bad.eq(bad | error)]
        with m.If(self.jobs.ready):
            m.d.sync += bad.eq(0)

        stage_shape = StructLayout(
            {
                "data": 8 * width,
                "turn": steps,  # lanes to turn the data left by
                "keep": count_bits(width),  # lanes that come from the beats before
                "valid": 1,
                "emit": 1,
                "count": count_bits(width),
                "last": 1,
                "ends": 1,
                "verdict": 3,
                "job": Job(p),
            }
        )
        placed = Signal(stage_shape)
        m.d.sync += [
            placed.data.eq(data),
            placed.turn.eq(fill - begin),
            placed.keep.eq(Mux(flush, width, fill)),
            placed.valid.eq(taken),
            placed.emit.eq((taken & (final | (total >= width))) | flush),
            placed.count.eq(Mux(flush, spill, Mux(final & ~overflow, total, width))),
            placed.last.eq((taken & final & ~overflow) | flush),
            placed.ends.eq(self.jobs.ready),
            placed.verdict.eq(
                Mux(refused, job.verdict, Mux(bad | (taken & error), outcome.PORT_ERROR, 0))
            ),
            placed.job.eq(job),
        ]

        # -- turn: in two stages --
        def turned(value, turn, bits):
            for bit in bits:
                value = Mux(turn[bit], value.rotate_left(8 << bit), value)
            return value

        half = Signal(stage_shape)
        whole = Signal(stage_shape)
        m.d.sync += [
            half.eq(placed),
            half.data.eq(turned(placed.data, placed.turn, range(steps // 2))),
            whole.eq(half),
            whole.data.eq(turned(half.data, half.turn, range(steps // 2, steps))),
        ]

        # -- merge with what was left of the beats before --
        rest = Signal(8 * width)
        merged = [
            Mux(whole.keep > lane, rest.word_select(lane, 8), whole.data.word_select(lane, 8))
            for lane in range(width)
        ]
        with m.If(whole.valid):
            m.d.sync += rest.eq(Mux(whole.emit, whole.data, Cat(merged)))
        out = self.beats.payload
        m.d.sync += [
            self.beats.valid.eq(whole.emit),
            # Lanes beyond the end are bytes of memory that nobody asked for: they go no further.
            out.data.eq(Cat(Mux(whole.count > k, byte, 0) for k, byte in enumerate(merged))),
            out.count.eq(whole.count),
            out.last.eq(whole.last),
            out.good.eq(whole.verdict == outcome.SENT),
            out.l3_offset.eq(whole.job.l3_offset),
            out.l4_offset.eq(whole.job.l4_offset),
            out.ipv4_checksum.eq(whole.job.ipv4_checksum),
            out.tcp_checksum.eq(whole.job.tcp_checksum),
            out.udp_checksum.eq(whole.job.udp_checksum),
            self.retire.valid.eq(whole.ends),
            self.retire.payload.queue.eq(whole.job.queue),
            self.retire.payload.verdict.eq(whole.verdict),
            self.retire.payload.consumer.eq(whole.job.consumer),
            self.retire.payload.advance.eq(whole.job.advance),
            self.retire.payload.beats.eq(whole.job.beats),
        ]
        return m
