"""What was in force when, as far as software can know: settings, regions, queues.

A change begins to count at some time between the moment it was asked for and the moment it was
acknowledged. Between the two either state is right, outside only one is.
"""

from dataclasses import dataclass, field

NEVER = 1 << 60


@dataclass(eq=False)
class Span:
    """A state: in force at the earliest from `asked`, surely from `sure`; surely until `unasked`,
    at the latest until `gone`."""

    state: object
    asked: int
    sure: int
    unasked: int = NEVER
    gone: int = NEVER
    fenced: int = NEVER  # no frame that saw this state is on its way from then on

    def possible(self, begin, end):
        """Whether it may have been in force at some time from `begin` to `end`."""
        return self.asked <= end and self.gone >= begin

    def certain(self, begin, end):
        """Whether it surely was in force all the time from `begin` to `end`."""
        return self.sure <= begin and self.unasked >= end


class History:
    """Spans of one thing, in order; each change is one of `begin` and `done`."""

    def __init__(self, state, time=0):
        self.spans = [Span(state, time, time)]

    @property
    def state(self):
        """The newest one."""
        return self.spans[-1].state

    def begin(self, state, time):
        """The change to `state` was asked for; it is not known to count yet."""
        self.spans[-1].unasked = time
        self.spans.append(Span(state, time, NEVER))

    def done(self, time):
        """The last change counts from now on."""
        self.spans[-1].sure = time
        self.spans[-2].gone = time

    def fenced(self, time):
        """Frames that were looked up before the last change have completed."""
        for span in self.spans[:-1]:
            span.fenced = min(span.fenced, time)

    def possible(self, begin, end):
        """States that may have been in force at some time from `begin` to `end`."""
        return [span.state for span in self.spans if span.possible(begin, end)]


@dataclass(eq=False)
class Region:
    """A registration of a region: its row, and what the bench uses each part of it for.

    From 0: `postable` elements for receive; `stock` bytes from `stock_at` on that are sent; post
    rings in the last pages.
    """

    number: int
    base: int
    element_bytes: int
    elements: int
    postable: int
    generation: int
    owner: int
    nic_write: int = 1
    nic_read: int = 1
    stock_at: int = 0
    stock: bytes = field(default=b"", repr=False)
    writes: dict = field(
        default_factory=dict, repr=False
    )  # element -> [(time, offset, data)] of no record yet

    @property
    def bytes(self):
        return self.elements * self.element_bytes

    def address(self, element):
        return self.base + element * self.element_bytes
