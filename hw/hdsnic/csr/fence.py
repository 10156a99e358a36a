"""Fences: when every frame that was looked up before has completed, and shows (R15)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FENCES", "Fence"]

FENCES = 2
"""By the register, and by commands."""
_FRAMES_BITS = 16  # many more frames than the buffer and the commit queue hold


class Fence(wiring.Component):
    """Counts frames in flight; `users` of it may each wait for those that are there when it begins.

    Frames complete in the order in which egress takes them, so a count is enough. A frame that a
    command injects may overtake frames that wait in the frame buffer: it is added to every wait
    that is under way, which then ends no sooner than it must. Then the receive indices catch up, so
    that software that sees the fence end finds all their records.

    Parameters
    ----------
    users: how many may wait at a time. lookup_cycles: from the first table that is read for a frame
    to its `looked_up`; so long after `begin`, frames that saw older tables have been counted.

    Ports
    -----
    looked_up, completed: pulse for each frame from the wire once it was looked up, and for each
    frame as its outcome is known. injected: pulse for each frame of a command as egress takes it.
    catch_up, behind: of `IndexWriter`.
    begin: begins a fence, anew if one is under way. waiting: from the next cycle, until it is done.
    """

    def __init__(self, users, lookup_cycles):
        self.users, self.lookup_cycles = users, lookup_cycles
        super().__init__(
            {
                "looked_up": In(1),
                "injected": In(1),
                "completed": In(1),
                "catch_up": Out(1).array(users),
                "behind": In(1).array(users),
                "begin": In(1).array(users),
                "waiting": Out(1).array(users),
            }
        )

    def elaborate(self, platform):
        m = Module()
        in_flight, now = Signal(_FRAMES_BITS), Signal(_FRAMES_BITS)
        m.d.comb += now.eq(in_flight + self.looked_up + self.injected - self.completed)
        m.d.sync += in_flight.eq(now)
        for k in range(self.users):
            left = Signal(_FRAMES_BITS, name=f"left_{k}")
            ahead = Signal(range(self.lookup_cycles + 2), name=f"ahead_{k}")
            counting, counted = Signal(name=f"counting_{k}"), Signal(name=f"counted_{k}")
            m.d.sync += counted.eq(counting)
            m.d.comb += [
                counting.eq((ahead != 0) | (left != 0)),
                self.catch_up[k].eq(counted & ~counting),
                self.waiting[k].eq(counting | counted | self.behind[k]),
            ]
            with m.If(self.begin[k]):
                m.d.sync += ahead.eq(self.lookup_cycles + 1)
            with m.Elif(ahead != 0):
                m.d.sync += [ahead.eq(ahead - 1), left.eq(now)]
            with m.Elif(left != 0):
                m.d.sync += left.eq(left + self.injected - self.completed)
        return m
