"""Error responses that a case asks for, and the queues that each may have hurt."""

from rtl.nic.traffic.history import NEVER
from rtl.nic.traffic.memory import now


class Errors:
    """Armed errors strike the next access of their kind; they hurt the queues it was for.

    A kind is (port, is_write); `pending` holds those that are armed.
    """

    def __init__(self):
        self.pending = set()
        self.hurt = []  # (queue, from, until)
        self.struck = 0

    @property
    def any(self):
        return bool(self.struck)

    def strike(self, port, is_write, queues):
        """Whether this access is answered by an error; `queues` it was for (none: never)."""
        kind = port, is_write
        if kind not in self.pending or not queues:
            return False
        self.pending.discard(kind)
        self.struck += 1
        self.hurt += [[queue, now(), NEVER] for queue in queues]
        return True

    def hurts(self, queue):
        """Whether the queue is still to be set up anew."""
        return any(h[0] == queue and h[2] == NEVER for h in self.hurt)

    def healed(self, queue, asked):
        """The queue's rings were stored anew, which was asked for at `asked`."""
        for entry in self.hurt:
            if entry[0] == queue and entry[1] <= asked and entry[2] == NEVER:
                entry[2] = now()

    def touched(self, queue, begin, end):
        """Whether an error may have been felt by `queue` at some time from `begin` to `end`."""
        return any(q == queue and t <= end and until >= begin for q, t, until in self.hurt)
