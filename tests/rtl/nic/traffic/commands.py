"""The command ring: each command completes once, in its order, with the status that is due."""

from collections import deque

from cocotb.triggers import Event
from rtl.nic.traffic.arrivals import Arrival
from rtl.nic.traffic.memory import now

from hdsnic import abi
from hdsnic.abi import CommandKind

DONE, REFUSED = 0, 1
STAGE, STAGE_BYTES = 0x80000, 0x8000
"""Header memory that no ring uses; PLACE takes its bytes from here."""
RANGES_MAX = 16


class Commands:
    """Submits commands, and checks their completions as they come."""

    def __init__(self, case):
        self.case = case
        self.waiting = deque()  # (cookie, status, event, arrival of a PLACE)
        self.stage = b""
        self.placed = 0

    def set_up(self, rng):
        self.stage = rng.randbytes(STAGE_BYTES)
        self.case.host.header.write(STAGE, self.stage)

    async def submit(self, kind, tail=b"", *, status=DONE, arrival=None, **fields):
        """Put a command into the ring; returns an event that is set with its completion."""
        host, event = self.case.host, Event()
        cookie = host.cookie + 1
        if arrival:
            arrival.serial, arrival.start = cookie, now()
            self.case.arrivals.places[cookie] = arrival
        self.waiting.append((cookie, status, event, arrival))
        await host.submit(kind, tail, **fields)
        return event

    async def run(self, kind, tail=b"", **fields):
        """Submit a command and wait for its completion."""
        event = await self.submit(kind, tail, **fields)
        await self.case.bounded(event, f"the completion of a {kind!r}")

    def told(self, fields):
        """A COMMAND completion."""
        assert self.waiting, f"a completion of cookie {fields['cookie']}, but no command waits"
        cookie, status, event, arrival = self.waiting.popleft()
        got = fields["cookie"], fields["status"]
        assert got == (cookie, status), (
            f"command {cookie} is to complete with status {status}; a completion says cookie"
            f" {got[0]}, status {got[1]}"
        )
        if arrival:
            arrival.end = now()
            self.placed += 1
        event.set()

    async def place(self, queue, rng):
        """A PLACE of random ranges, for buffers of `queue`."""
        sizes = rng.choice(((1,), (64,), (300, 5), (700, 700, 48), (7,) * 16, (4000,), (1500,) * 5))
        ranges = [(rng.randrange(STAGE_BYTES - size), size) for size in sizes]
        data = b"".join(self.stage[at : at + size] for at, size in ranges)
        (at, size), *more = ranges
        tail = b"".join(abi.COMMAND_RANGE.pack(offset=STAGE + o, length=n) for o, n in more)
        await self.submit(
            CommandKind.PLACE, tail, arrival=Arrival(0, data, placed=queue), queue=queue,
            ranges=len(ranges), offset=STAGE + at, length=size,
        )  # fmt: skip

    async def refused(self, rng):
        """A command that the card must refuse, and nothing else may come of it."""
        pages = self.case.header_bytes
        ranges = {"ranges": 1, "offset": STAGE, "length": 64}
        kind, fields = rng.choice((
            (rng.choice((0, 6, 77, 255)), {}),
            (CommandKind.FENCE, {"spare": 1}),
            (CommandKind.FENCE, {"ranges": 3}),
            (CommandKind.REVOKE, {"offset": 1 << rng.randrange(16, 32)}),
            (CommandKind.QUEUE_RESET, {"queue": 0}),
            (CommandKind.QUEUE_RESET, {"queue": rng.choice((16, 200))}),
            (CommandKind.PLACE, ranges | {"queue": rng.choice((16, 255))}),
            (CommandKind.PLACE, ranges | {"length": 0}),
            (CommandKind.PLACE, ranges | {"ranges": 0}),
            (CommandKind.PLACE, ranges | {"offset": pages - 63}),
            (CommandKind.PLACE, ranges | {"offset": 0xFFFFFFF0}),
            (CommandKind.PLACE, ranges | {"length": 9019}),
            (CommandKind.PLACE, ranges | {"spare_2": 5}),
        ))  # fmt: skip
        await self.submit(kind, status=REFUSED, **fields)
