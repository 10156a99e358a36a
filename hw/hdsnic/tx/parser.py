"""Descriptor parser: from words of a transmit ring to references, header bytes and verdicts.

Between the byte window and the reference check. What a descriptor says is believed only as far as
it can be followed without harm: each length bounds a count that falls with every word taken.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import abi
from ..interfaces import ReadClient, Strobe, count_bits
from .layouts import (
    CELL_BITS,
    PAYLOAD_BITS,
    TAG_BYTES,
    Begun,
    CheckItem,
    Close,
    Finish,
    TaggedHeader,
    Visit,
    queue_bits,
)
from .window import Window

__all__ = ["HEADER_BYTES_MIN", "MSS_MIN", "TSO_HEADER_BYTES_MAX", "DescriptorParser"]

HEADER_BYTES_MIN = 14
"""The Ethernet header stands in the descriptor, so an application cannot write one."""

MSS_MIN = 64
"""Least payload of a segment; so each but the last of a descriptor has two beats or more."""

TSO_HEADER_BYTES_MAX = 256
"""Largest header template of segments."""

_TCP_BYTES, _UDP_BYTES, _IPV4_BYTES = 20, 8, 20


class DescriptorParser(wiring.Component):
    """Cuts visits into descriptors.

    For each descriptor: its references go out on `items`, one a cycle, the last with `finish` and
    the descriptor's job; then its header bytes on `header`, with the VLAN tag to be put into them.
    A descriptor that can be refused by its fixed part alone (BAD_DESCRIPTOR, OVERRUN, PORT_ERROR)
    gives one item with that verdict, no references and no header bytes. OVERRUN, and an error
    response in the fixed part, the tag or a reference, stop the queue: `stop` is 1 for a cycle, and
    the rest of the visit is discarded.

    A descriptor is begun only while `room` is 1 and `hold` and `leave` are 0; `begun` tells what it
    counts in its queue's share. At `hold` or `leave` the rest of the visit is discarded at the next
    boundary, and read again later. So it is where a visit was closed within a descriptor.
    `available` is that of the visit which the scheduler has open.

    Cycles a descriptor: 2 + references beyond the first (+ 1 if there are any) + 2 for a VLAN tag
    + header beats - 1 and, for a bus of 8 bytes, one more. Back-pressure of `header` stops it;
    `items` is never refused (room was asked for before).

    Parameters: `bus_bytes`, `frame_bytes_max`, `references_max`.
    """

    def __init__(self, parameters):
        self.parameters = p = parameters
        super().__init__(
            {
                "hold": In(1),
                "leave": In(1),
                "room": In(1),
                "stopped": In(p.queues),
                "beats": ReadClient(p).members["beats"],
                "visit": In(stream.Signature(Visit(p))),
                "available": In(CELL_BITS),
                "close": In(stream.Signature(Close())),
                "claim": Out(Strobe(CELL_BITS)),
                "abort": Out(1),
                "finish": Out(Strobe(Finish(p))),
                "stop": Out(Strobe(queue_bits(p))),
                "items": Out(Strobe(CheckItem(p))),
                "begun": Out(Strobe(Begun(p))),
                "header": Out(stream.Signature(TaggedHeader(p.bus_bytes))),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        p = self.parameters
        unit = p.bus_bytes // 8
        outcome = abi.TxOutcome
        m.submodules.window = window = Window(p)
        wiring.connect(m, wiring.flipped(self.beats), window.beats)

        visit = self.visit.payload
        taken = Signal(CELL_BITS + 1)  # words of this visit
        done = Signal(CELL_BITS)  # cells of this visit before the descriptor at hand
        need = Signal(CELL_BITS)
        fixed = Signal(abi.DESCRIPTOR.as_amaranth())
        failed = Signal()  # the fixed part came with an error response
        with m.If(~window.drop):
            m.d.sync += taken.eq(taken + window.take)

        def error_of(words):
            """1 if one of the next `words` words came with an error response."""
            return window.errors[0] | (window.errors[1] & (words > window.held))

        # -- judgement of the fixed part --
        further = Signal(8)  # references after the first
        cells = Signal(14)
        end = Signal(CELL_BITS)
        header_words = Signal(14)
        pad = Signal()  # the descriptor's words are odd: one more to the next cell
        header_bytes = Signal(17)  # with the tag
        length = Signal(18)  # of a segment, or of the frame; exact for up to one reference
        bad = Signal()
        bad_tso = Signal()
        l4_end = fixed.l4_offset + Mux(fixed.udp_checksum, _UDP_BYTES, _TCP_BYTES)
        l3_end = fixed.l3_offset + _IPV4_BYTES
        l3_used = fixed.ipv4_checksum | fixed.tso
        l4_used = fixed.tcp_checksum | fixed.udp_checksum | fixed.tso
        first_length = Mux(fixed.references == 0, 0, fixed.ref_length)
        m.d.comb += [
            further.eq(Mux(fixed.references == 0, 0, fixed.references - 1)),
            cells.eq(
                (abi.DESCRIPTOR.bytes + 8 * (further + fixed.vlan) + fixed.header_length + 15) >> 4
            ),
            end.eq(done + cells),
            header_words.eq((fixed.header_length + 7) >> 3),
            pad.eq(header_words[0] ^ further[0] ^ fixed.vlan),
            header_bytes.eq(fixed.header_length + Mux(fixed.vlan, TAG_BYTES, 0)),
            length.eq(header_bytes + Mux(fixed.tso, fixed.mss, first_length)),
            bad_tso.eq(
                (fixed.references == 0)
                | (fixed.mss < MSS_MIN)
                | (l3_end > fixed.l4_offset)
                | (fixed.header_length > TSO_HEADER_BYTES_MAX)
            ),
            bad.eq(
                (fixed.header_length < HEADER_BYTES_MIN)
                | (length > p.frame_bytes_max)
                | (fixed.references > p.references_max)
                | ((fixed.references != 0) & (fixed.ref_length == 0))
                | (fixed.spare != 0)
                | (fixed.udp_checksum & (fixed.tcp_checksum | fixed.tso))
                | (l3_used & (fixed.l3_offset[0] | (l3_end > fixed.header_length)))
                | (l4_used & (fixed.l4_offset[0] | (l4_end > fixed.header_length)))
                | Mux(fixed.tso, bad_tso, fixed.mss != 0)
            ),
        ]
        closed = self.close.valid
        available = Signal(CELL_BITS)
        at_end = Signal()  # all cells of the visit were taken
        cut = Signal()  # the visit was closed within this descriptor
        overrun = Signal()
        m.d.comb += [
            available.eq(Mux(closed, self.close.payload.available, self.available)),
            at_end.eq(closed & (taken >= (self.close.payload.issued << 1))),
            cut.eq(closed & (end > self.close.payload.issued)),
            overrun.eq(end > available),
        ]

        # -- what goes out --
        item = self.items.payload
        payload_held = Signal(PAYLOAD_BITS)
        payload = Signal(PAYLOAD_BITS)  # bytes of the references so far
        offset_step = Mux(fixed.vlan, TAG_BYTES, 0)
        m.d.comb += [
            item.job.queue.eq(visit.queue),
            item.job.payload_length.eq(payload),
            item.job.header_length.eq(header_bytes),
            item.job.l3_offset.eq(fixed.l3_offset + offset_step),
            item.job.l4_offset.eq(fixed.l4_offset + offset_step),
            item.job.ipv4_checksum.eq(fixed.ipv4_checksum),
            item.job.tcp_checksum.eq(fixed.tcp_checksum),
            item.job.udp_checksum.eq(fixed.udp_checksum),
            item.job.tso.eq(fixed.tso),
            item.job.mss.eq(fixed.mss),
            item.job.position.eq(visit.position + done),
            item.job.consumer.eq(visit.position + end),
            self.begun.payload.queue.eq(visit.queue),
            self.begun.payload.bytes.eq(item.job.header_length + payload),
            self.claim.payload.eq(end),
            self.stop.payload.eq(visit.queue),
            self.finish.payload.queue.eq(visit.queue),
            self.finish.payload.need.eq(need),
            self.abort.eq(0),
        ]
        m.d.sync += payload_held.eq(payload)

        def finish(cells):
            """Ends the visit; the queue goes on `cells` behind its start."""
            m.d.comb += [
                self.finish.valid.eq(1),
                self.finish.payload.position.eq(visit.position + cells),
                self.visit.ready.eq(1),
                self.close.ready.eq(1),
                window.drop.eq(~window.whole),
            ]
            m.next = "VISIT"

        def refuse(verdict, *, advance=0):
            """The descriptor's last item; from here on nothing of it is believed."""
            m.d.comb += [
                self.items.valid.eq(1),
                item.finish.eq(1),
                item.has_reference.eq(0),
                item.job.verdict.eq(verdict),
                item.job.advance.eq(advance),
                item.job.header.eq(0),
                item.job.header_length.eq(0),
                item.job.payload_length.eq(0),
            ]

        def stop():
            m.d.comb += self.stop.valid.eq(1)
            m.next = "DISCARD"

        references_left = Signal(8)
        header_left = Signal(range(p.frame_bytes_max + 1))
        skip_left = Signal(16)  # words of a bad descriptor that are still to be taken

        tci = Signal(16)
        m.d.comb += [self.header.payload.vlan.eq(fixed.vlan), self.header.payload.tci.eq(tci)]

        def accept(finish):
            """An item of a descriptor that its fixed part does not refuse."""
            m.d.comb += [
                self.items.valid.eq(1),
                item.finish.eq(finish),
                item.job.header.eq(1),
                item.job.advance.eq(1),
                self.begun.valid.eq(finish),
            ]

        def accept_first():
            m.d.comb += [
                item.reference.eq(
                    Cat(
                        fixed.ref_offset,
                        fixed.ref_length,
                        fixed.ref_region,
                        fixed.ref_generation,
                    )
                ),
                item.has_reference.eq(fixed.references != 0),
                payload.eq(first_length),
            ]
            accept(further == 0)

        def take_header(left):
            """A beat of inline header, the last one with the padding behind it."""
            words_left = Signal(14)
            count = Signal(count_bits(unit + 1))
            last = Signal()
            header = self.header.payload.beat
            m.d.comb += [
                words_left.eq((left + 7) >> 3),
                last.eq(words_left <= unit),
                count.eq(Mux(last, words_left + pad, unit)),
                header.data.eq(window.words),
                header.last.eq(last),
                header.count.eq(Mux(last, left, p.bus_bytes)),
                header.error.eq(error_of(count)),
                self.header.valid.eq(window.level >= count),
            ]
            m.d.sync += header_left.eq(left)
            m.next = "HEADER"
            with m.If(self.header.valid & self.header.ready):
                m.d.comb += window.take.eq(count)
                m.d.sync += header_left.eq(left - p.bus_bytes)
                with m.If(last):
                    m.next = "FIXED"

        with m.FSM():
            with m.State("VISIT"):
                m.d.comb += self.quiet.eq(~self.visit.valid)
                m.d.sync += [taken.eq(0), need.eq(0)]
                with m.If(self.visit.valid & (window.held != 0)):
                    m.d.comb += window.align.eq(1)
                    m.next = "FIXED"
            with m.State("FIXED"):
                m.d.sync += [
                    done.eq(taken >> 1),
                    fixed.eq(window.words[:128]),
                    failed.eq(error_of(2)),
                ]
                with m.If(at_end):
                    finish(taken >> 1)
                with m.Elif(self.hold | self.leave | self.stopped.bit_select(visit.queue, 1)):
                    m.next = "DISCARD"
                # Words beyond what is available are the rest of the last beat, not a descriptor.
                with m.Elif((window.level >= 2) & self.room & ((taken >> 1) < available)):
                    m.d.comb += window.take.eq(2)
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.sync += [
                    references_left.eq(further),
                    skip_left.eq((cells << 1) - 2),
                    header_left.eq(fixed.header_length),
                ]
                with m.If(failed):
                    refuse(outcome.PORT_ERROR)
                    stop()
                with m.Elif(overrun):
                    refuse(outcome.OVERRUN)
                    stop()
                with m.Elif(cut):
                    m.d.sync += need.eq(cells)
                    m.next = "DISCARD"
                with m.Else():
                    m.d.comb += self.claim.valid.eq(~closed)
                    with m.If(bad):
                        refuse(outcome.BAD_DESCRIPTOR, advance=1)
                        m.next = "SKIP"
                    with m.Else():
                        with m.If(fixed.vlan):
                            m.next = "TAG"
                        with m.Else():
                            accept_first()
                            with m.If(further != 0):
                                m.next = "REFERENCES"
                            with m.Else():
                                take_header(fixed.header_length)
            with m.State("TAG"):
                m.d.sync += tci.eq(abi.VLAN_TAG.as_amaranth()(window.words[:64]).tci)
                with m.If(window.level >= 1):
                    with m.If(error_of(1)):
                        refuse(outcome.PORT_ERROR)
                        stop()
                    with m.Else():
                        m.d.comb += window.take.eq(1)
                        accept_first()
                        m.next = "HEADER"
                        with m.If(further != 0):
                            m.next = "REFERENCES"
            with m.State("REFERENCES"):
                # not `item.reference`: a simulator would see a loop through the whole of `item`
                reference = abi.REFERENCE.as_amaranth()(window.words[:64])
                m.d.comb += [
                    item.reference.eq(reference),
                    item.has_reference.eq(1),
                    payload.eq(payload_held),
                ]
                with m.If(window.level >= 1):
                    with m.If(error_of(1)):
                        refuse(outcome.PORT_ERROR)
                        stop()
                    with m.Else():
                        accept(references_left == 1)
                        m.d.comb += [
                            window.take.eq(1),
                            payload.eq(payload_held + reference.length),
                        ]
                        m.d.sync += references_left.eq(references_left - 1)
                        with m.If(references_left == 1):
                            m.next = "HEADER"
            with m.State("HEADER"):
                take_header(header_left)
            with m.State("SKIP"):
                with m.If(skip_left == 0):
                    m.next = "FIXED"
                with m.Elif(window.level != 0):
                    m.d.comb += window.take.eq(Mux(window.held < skip_left, window.held, skip_left))
                    m.d.sync += skip_left.eq(skip_left - window.take)
            with m.State("DISCARD"):
                # Beats are dropped even before the close: the next read may wait for their room.
                # Once this visit is closed, the scheduler is at another one, which must go on.
                m.d.comb += self.abort.eq(~closed)
                with m.If(at_end):
                    finish(done)
                with m.Elif(window.held != 0):
                    m.d.comb += window.drop.eq(1)
                    m.d.sync += taken.eq(taken + window.held)
        return m
