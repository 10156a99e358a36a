"""Bursts one after the other, in one compiled call, for as long as they need nobody.

So what stands around a burst in the interpreter is paid once for many, and the poll before sleep is
compiled as well.
"""

from ..clock import monotonic_ns, yield_processor
from ..compile import entry
from .burst import burst
from .state import Work

__all__ = ["bursts"]

_DONE, _IDLE = Work.DONE.value, Work.IDLE.value
_NOBODY = Work.DONE.value | Work.DEVICE_SEEN.value
"""Flags of a burst that need no answer at once."""


@entry
def bursts(s, io, slots, doorbells, rings, words, area, channels, pools, version, busy_ns, idle_ns):
    """Bursts until one needs an answer; returns the flags of `Work` of all of them.

    Also ends when the listeners are no longer those of `version`, after `busy_ns` of work, and with
    IDLE after `idle_ns` without any. The other parameters are those of `burst`.
    """
    began = now = monotonic_ns()
    idle_since = 0
    work = 0
    while True:
        last = burst(s, io, slots, doorbells, rings, words, area, channels, pools, now)
        work |= last
        if last & ~_NOBODY or s["control"]["listeners_version"] != version:
            return work
        now = monotonic_ns()
        if last & _DONE:
            idle_since = 0
            if now - began >= busy_ns:
                return work
        elif idle_since == 0:
            idle_since = now
        elif now - idle_since >= idle_ns:
            return work | _IDLE
        else:
            yield_processor()
