"""Applications' side: buffers posted well and badly, what must become of each cell (I4, R23)."""

from dataclasses import dataclass

from rtl.nic.traffic.history import NEVER, Region
from rtl.nic.traffic.matching import explain, named
from rtl.nic.traffic.memory import now

from hdsnic import abi
from hdsnic.abi import PostOutcome

RING_CELLS = 512


@dataclass(eq=False)
class Ring:
    """A post ring from its store to the next one; `region`: the registration in which it lies."""

    queue: int
    region: Region
    offset: int
    begun: int
    unasked: int = NEVER  # when it was asked to be given up
    gone: int = NEVER  # when its handles were certainly flushed
    producer: int = 0
    bad_doorbells: int = 0


@dataclass(eq=False)
class Cell:
    """A cell of a post ring: what it says, and what happened to it when."""

    ring: Ring
    index: int
    region: int
    generation: int
    element: int
    rung: int
    processed: int = NEVER  # the index slot said so
    used: int = NEVER  # a record named its buffer
    told: PostOutcome | None = None
    doubled: bool = False  # the card may have met it while a frame lay there that nobody knew of

    @property
    def buffer(self):
        return self.region, self.generation, self.element


class Posts:
    """Post rings of all queues: `post` and its abuses, then `settle` against the counters."""

    def __init__(self, case):
        self.case = case
        self.rings = {}  # queue -> Ring in force
        self.all_rings, self.cells = [], []
        self.by_buffer = {}  # buffer -> cells that name it
        self.free = {}  # Region -> elements that the application may post
        self.held = {}  # queue -> posts that the card still holds, as of `settle`
        self.maybe_bad_doorbells = {}  # queue -> doorbells that may have met a ring out of use

    def ring_begins(self, ring):
        """A post ring is in use."""
        self.rings[ring.queue] = ring
        self.all_rings.append(ring)

    # -- what applications do --

    async def post(self, queue, wanted):
        """Write cells (region, generation, element) and ring the doorbell."""
        ring = self.rings.get(queue)
        if ring is None:
            return
        done = self._unprocessed(ring)
        wanted = wanted[: RING_CELLS - 8 - done]
        for region, generation, element in wanted:
            at = ring.region.base + ring.offset + ring.producer % RING_CELLS * abi.POST_CELL.bytes
            self.case.host.payload.write(
                at, abi.POST_CELL.pack(element=element, region=region, generation=generation)
            )
            cell = Cell(ring, ring.producer, region, generation, element, now())
            self.cells.append(cell)
            self.by_buffer.setdefault(cell.buffer, []).append(cell)
            ring.producer += 1
        await self.ring_doorbell(queue, ring.producer)

    async def ring_doorbell(self, queue, index):
        """A doorbell of the ring in force, good or bad."""
        ring = self.rings[queue]
        good = index == ring.producer
        if not good:
            ring.bad_doorbells += 1
        else:
            self.maybe_bad_doorbells[queue] = self.maybe_bad_doorbells.get(queue, 0) + 1
        page = abi.post_doorbell_page(queue)
        await self.case.host.doorbell(page, abi.POST_DOORBELL.POST_PRODUCER, index)

    def _unprocessed(self, ring):
        return sum(c.ring is ring and c.processed == NEVER for c in self.cells)

    async def misbehave(self, queue, rng):
        """Cells and doorbells that no sound application writes."""
        ring = self.rings.get(queue)
        if ring is None:
            return
        region = self.case.regions[ring.region.number].state or ring.region
        kind = rng.randrange(8)
        element = rng.randrange(region.postable)
        good = (region.number, region.generation, element)
        others = [r for r in self.case.live_regions() if r.owner != region.owner]
        if kind == 0:  # a storm of doubles: buffers that may be posted, or just completed
            posted = [c.buffer for c in self.cells[-20:] if c.ring is ring]
            await self.post(queue, [rng.choice(posted or [good]) for _ in range(rng.randrange(9))])
        elif kind == 1 and others:  # a neighbour's buffer
            other = rng.choice(others)
            await self.post(queue, [(other.number, other.generation, rng.randrange(8))])
        elif kind == 2:
            beyond = rng.choice((region.postable, region.elements - 1, 0xFFFFFF, 4096))
            await self.post(queue, [(region.number, region.generation, beyond)])
        elif kind == 3:
            await self.post(
                queue, [(region.number, region.generation ^ rng.randrange(1, 4), element)]
            )
        elif kind == 4:
            await self.post(queue, [(rng.choice((14, 15, 16, 200, 255)), 1, element)])
        elif kind == 5:  # beyond the ring: at least all of it is not there
            await self.ring_doorbell(queue, ring.producer + RING_CELLS + rng.randrange(1, 1 << 30))
        elif kind == 6 and ring.producer:  # backwards: far enough to be behind what was read
            await self.ring_doorbell(queue, (ring.producer - rng.randrange(1, 1 << 20)) % (1 << 32))
        else:
            cells = [
                (rng.randrange(256), rng.randrange(256), rng.getrandbits(24)) for _ in range(5)
            ]
            await self.post(queue, cells)

    # -- what the card says --

    def processed(self, queue, index):
        """The index slot of `queue` shows that the cells before `index` were read."""
        ring = self.rings.get(queue)
        if ring is None:
            return
        assert index <= ring.producer, f"post_consumer of queue {queue} is beyond the doorbell"
        time = now()
        for cell in reversed(self.cells):
            if cell.ring is ring and cell.index < index:
                if cell.processed != NEVER:
                    break
                cell.processed = time

    def holders(self, region, element, queue=None):
        """The cells by which the card may hold a buffer, for `queue` if that is given, in order."""
        for cell in self.by_buffer.get((region.number, region.generation, element), ()):
            held = cell.ring.gone == NEVER and cell.used == NEVER and cell.told is None
            mine = queue is None or cell.ring.queue == queue
            if held and mine and PostOutcome.ACCEPTED in self.verdicts(cell):
                yield cell

    def doubled(self, queue, region, element):
        """Whether the buffer of a record of `queue` that shows now was posted again before."""
        cells = list(self.holders(region, element))
        if len(cells) > 1:
            for cell in cells:
                cell.doubled = True
        return any(c.doubled for c in cells if c.ring.queue == queue)

    def use(self, queue, region, element):
        """A record of `queue` names a buffer: its post has completed, once."""
        cell = next(self.holders(region, element, queue), None)
        assert cell, (
            f"a record of queue {queue} names element {element} of region {region.number}, which"
            " is not posted there"
        )
        cell.used = now()
        self.free[region].add(element)
        return cell

    def told(self, queue, index, outcome):
        """A POST_FAULT completion."""
        for cell in reversed(self.cells):
            if (cell.ring.queue, cell.index) != (queue, index) or cell.told is not None:
                continue
            moved = self._pass_on(cell, set()) if cell.used != NEVER else []
            if cell.used == NEVER and outcome in self.allowed(cell):
                cell.told = outcome
                return
            for other, used in moved:
                other.used = used
        ended = [r for r in self.all_rings if r.queue == queue and self._may_be_refused(r)]
        assert ended and outcome in (PostOutcome.BAD_REGION, PostOutcome.BAD_OWNER), (
            f"queue {queue} is told that post {index} was {outcome!r}, which fits none of "
            + "; ".join(
                f"{self.describe(c)} ({named(self.allowed(c))})"
                for c in self.cells
                if (c.ring.queue, c.index) == (queue, index)
            )
        )

    def _pass_on(self, cell, asked):
        """Of posts of one buffer it was another one that a record used: `cell` passes its use on,
        and that one its own if it had any. The cells that changed, with what they said before;
        empty if no other post can have been used then."""
        asked.add(cell)
        for other in self.by_buffer[cell.buffer]:
            same = other.ring.queue == cell.ring.queue and other.told is None
            there = other.rung <= cell.used <= other.ring.gone
            if other in asked or not (same and there):
                continue
            moved = self._pass_on(other, asked) if other.used != NEVER else [(other, NEVER)]
            if moved:
                before = cell.used
                other.used, cell.used = before, NEVER
                return [*moved, (cell, before)]
        return []

    # -- what must be --

    def alone(self, cell):
        """Whether no other post of the same buffer may have met this one."""
        return not any(
            c is not cell and c.rung <= cell.used and c.used >= cell.rung
            for c in self.by_buffer[cell.buffer]
        )

    def verdicts(self, cell):
        """Outcomes of a cell by itself, for each row that its region may have had."""
        rows = self.case.rows(cell.region, cell.rung, cell.processed)
        owner = self.case.owners[cell.ring.queue]
        out = set()
        for row in rows:
            if row is None or row.generation != cell.generation or not row.nic_write:
                out.add(PostOutcome.BAD_REGION)
            elif row.owner != owner:
                out.add(PostOutcome.BAD_OWNER)
            elif cell.element >= row.postable:
                out.add(PostOutcome.BAD_ELEMENT)
            else:
                out.add(PostOutcome.ACCEPTED)
        return out

    def allowed(self, cell):
        """Outcomes of a cell beside those for the same buffer."""
        if cell.used != NEVER:
            return {PostOutcome.ACCEPTED}
        if cell.told is not None:
            return {cell.told}
        out = self.verdicts(cell)
        if self.case.errors.touched(cell.ring.queue, cell.rung, cell.processed):
            out = out | {PostOutcome.PORT_ERROR}
        if PostOutcome.ACCEPTED not in out:
            return out
        others = [
            c for c in self.by_buffer[cell.buffer] if c is not cell and not self._given_up(c, cell)
        ]
        if any(
            c.rung <= cell.processed
            and c.used >= cell.rung
            and PostOutcome.ACCEPTED in self.verdicts(c)
            for c in others
        ):
            out = out | {PostOutcome.DOUBLE_POST}
        if any(
            c.processed <= cell.rung
            and c.used == NEVER
            and c.ring.unasked == NEVER
            and self.verdicts(c) == {PostOutcome.ACCEPTED}
            and len(self.by_buffer[cell.buffer]) == 2
            and not self.case.errors.any
            for c in others
        ):
            out = out - {PostOutcome.ACCEPTED}
        return out

    def describe(self, cell):
        """A cell in words."""
        return (
            f"the post at {cell.index} of queue {cell.ring.queue} (element {cell.element} of region"
            f" {cell.region}, generation {cell.generation}; rung in cycle {cell.rung}, read by"
            f" {cell.processed}, used in {cell.used}, told {cell.told}; its ring: {cell.ring})"
        )

    def _given_up(self, cell, later):
        """Whether `cell` was certainly flushed before `later` was posted."""
        return cell.ring.gone <= later.rung

    def certain(self, queue, before, until):
        """Cells that the card surely holds ready for `queue`, read before `before`, and which
        nothing but frames with a record takes away until `until`."""
        return [
            c
            for c in self.possible(queue, before, until)
            if c.processed < before
            and c.ring.unasked > until
            and self.verdicts(c) == {PostOutcome.ACCEPTED}
            and self.case.surely_live(c.region, c.generation, c.rung, until)
            and self.alone(c)
            and self.allowed(c) == {PostOutcome.ACCEPTED}
            and not self.case.errors.touched(queue, c.rung, until)
        ]

    def possible(self, queue, begin, until):
        """Cells that the card may hold ready for `queue` at some time from `begin` to `until`."""
        return [
            c
            for c in self.cells
            if c.ring.queue == queue
            and c.rung <= until
            and c.used >= begin
            and c.ring.gone >= begin
            and PostOutcome.ACCEPTED in self.allowed(c)
        ]

    def _may_be_refused(self, ring):
        """Whether the ring itself may have been found in no live region."""
        return not self.case.surely_live(
            ring.region.number, ring.region.generation, ring.begun, min(ring.unasked, now())
        )

    def settle(self, counters):
        """All that was posted against the counters: by queue, outcome -> number."""
        end = now()
        for queue, counts in counters.items():
            certain, possible = [], []
            for ring in (r for r in self.all_rings if r.queue == queue):
                whole = not self._may_be_refused(ring) and ring.unasked == NEVER
                for cell in (c for c in self.cells if c.ring is ring):
                    item = self.allowed(cell), self.describe(cell)
                    read = whole or cell.processed != NEVER or cell.used != NEVER
                    (certain if read or cell.told is not None else possible).append(item)
                if self._may_be_refused(ring):
                    possible.append(({PostOutcome.BAD_REGION, PostOutcome.BAD_OWNER}, "a ring"))
            counts = dict(counts)
            flushed = counts.pop(PostOutcome.FLUSHED, 0)
            bad = counts.pop(PostOutcome.BAD_DOORBELL, 0)
            least = sum(r.bad_doorbells for r in self.all_rings if r.queue == queue)
            most = least
            if any(
                r.unasked != NEVER or self._may_be_refused(r)
                for r in self.all_rings
                if r.queue == queue
            ):
                most += self.maybe_bad_doorbells.get(queue, 0)
            assert least <= bad <= most, (
                f"queue {queue}: {bad} bad doorbells counted; there were {least} to {most}"
            )
            explain(certain, possible, counts, f"posts of queue {queue}")
            self._settle_flushed(queue, flushed, counts.get(PostOutcome.ACCEPTED, 0), end)

    def _settle_flushed(self, queue, flushed, accepted, end):
        """What was accepted is used, flushed, or still held."""
        mine = [c for c in self.cells if c.ring.queue == queue]
        used = sum(c.used != NEVER for c in mine)
        lost = [c for c in mine if c.used == NEVER and PostOutcome.ACCEPTED in self.allowed(c)]
        may = sum(
            c.ring.unasked != NEVER
            or not self.case.surely_live(c.region, c.generation, c.rung, end)
            or self.case.errors.touched(queue, c.rung, end)
            for c in lost
        )
        must = sum(
            (c.ring.gone != NEVER or self.case.registered_anew(c.region, c.generation))
            and c.processed < c.ring.unasked
            and self.allowed(c) == {PostOutcome.ACCEPTED}
            for c in lost
        )
        assert must <= flushed <= may, (
            f"queue {queue}: {flushed} posts flushed; of those that no record names {must} must be,"
            f" and {may} may be"
        )
        assert used + flushed <= accepted, (
            f"queue {queue}: {accepted} posts accepted, but {used} used and {flushed} flushed"
        )
        self.held[queue] = accepted - used - flushed
