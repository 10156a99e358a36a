"""A case of random traffic: the card's set-up from a seed, the hooks of the checkers, the end.

`Case` is what a bench drives: `start`, then the processes of `events`, then `finish`. Every check
that a memory access sets off is made at that access; the first that fails ends the case.
"""

import random
import traceback

import cocotb
from cocotb.triggers import ClockCycles, Event, First, Timer
from cocotbext.axi import AxiStreamFrame
from rtl.nic.host import COMMAND_RING, HEADER_BYTES, PAYLOAD_BYTES, SMALL_RING_BYTES, Host
from rtl.nic.traffic.arrivals import PORT, Arrivals
from rtl.nic.traffic.commands import Commands
from rtl.nic.traffic.departures import Departures
from rtl.nic.traffic.errors import Errors
from rtl.nic.traffic.history import NEVER, History
from rtl.nic.traffic.memory import CYCLE_NS, AwkwardRam, now
from rtl.nic.traffic.posts import Posts
from setting import Setting

from hdsnic import abi
from hdsnic.abi import CompletionKind, PostOutcome, RxOutcome, TxOutcome
from hdsnic.parameters import Parameters

SLOTS = 16 * abi.INDEX_SLOT_BYTES
QUIET_CYCLES = 200
WAIT_CYCLES = 60_000
"""The longest that anything may take."""


class Case:
    """State of a case. `owners`: queue -> owner (0: the stack)."""

    def __init__(self, seed):
        self.seed = seed
        self.failure, self.failed = None, Event()
        self.settings = History(Setting())
        self.regions, self.queues, self.owners = {}, {}, {}
        self.errors = Errors()
        self.arrivals, self.posts = Arrivals(self), Posts(self)
        self.departures, self.commands = Departures(self), Commands(self)
        self.consumers, self.completion_consumers = {}, {}  # queue -> index handed back
        self.header_bytes = HEADER_BYTES
        self.slow = 0  # latency of memories at most, in cycles

    def random(self, name):
        """A generator of its own for each part, so that one draw moves no other."""
        return random.Random(f"{self.seed} {name}")

    # -- set-up ----------------------------------------------------------------------------------

    async def start(self, dut):
        """Reset the card, and put awkward memories behind its ports."""
        self.dut = dut
        self.host = host = await Host.start(dut, baseline=False)
        self.parameters = Parameters(bus_bytes=host.bus_bytes)
        rng = self.random("memory")
        self.slow = rng.choice((0, 0, 40, 300))  # most cycles of an answer

        def latency():
            return rng.randrange(self.slow + 1)

        self.header = AwkwardRam(
            host.header, latency=latency, at_once=lambda address: address < SLOTS,
            on_write=self.guarded(self.header_written), on_read=self.guarded(self.header_read),
            shown=self.guarded(self.header_shown), fail=self.header_fails,
        )  # fmt: skip
        self.payload = AwkwardRam(
            host.payload, latency=latency, at_once=lambda address: False,
            on_write=self.guarded(self.payload_written), on_read=self.guarded(self.payload_read),
            shown=lambda address, length: None, fail=self.payload_fails,
        )  # fmt: skip
        host.payload.write(0, rng.randbytes(PAYLOAD_BYTES))
        cocotb.start_soon(self._watch_wire())

    def guarded(self, check):
        """`check`, whose failure ends the case: the bus models would take it for a bus error."""

        def run(*arguments):
            try:
                check(*arguments)
            except Exception:
                if self.failure is None:
                    self.failure = f"in cycle {now()}: {traceback.format_exc()}"
                    self.failed.set()

        return run

    async def bounded(self, event, what, cycles=WAIT_CYCLES):
        """Wait for an event, at most so many cycles."""
        if not event.is_set():
            await First(event.wait(), self.failed.wait(), Timer(cycles * CYCLE_NS, unit="ns"))
        self.raise_failure()
        assert event.is_set(), f"{what} did not come within {cycles} cycles"

    async def until(self, condition, what, cycles=WAIT_CYCLES, every=20):
        """Wait for a condition (a function, may be a coroutine), at most so many cycles."""
        end = now() + cycles
        while True:
            self.raise_failure()
            holds = condition()
            if (await holds) if hasattr(holds, "__await__") else holds:
                return
            if now() > end:
                what = what() if callable(what) else what
                raise AssertionError(f"{what} did not come true within {cycles} cycles")
            await ClockCycles(self.dut.clk, every)

    def raise_failure(self):
        if self.failure:
            raise AssertionError(self.failure)

    async def pause(self, rng, least, most):
        """Some cycles of nothing."""
        await Timer(rng.randrange(least, most + 1) * CYCLE_NS, unit="ns")
        self.raise_failure()

    # -- what is in force --------------------------------------------------------------------------

    def live_regions(self):
        """Registrations that were acknowledged, and not asked to go."""
        return [h.state for h in self.regions.values() if h.state and h.spans[-1].sure != NEVER]

    def rows(self, number, begin, end):
        """Registrations (or None) that a lookup of a region may have met from `begin` to `end`."""
        history = self.regions.get(number)
        return history.possible(begin, end) if history else [None]

    def surely_live(self, number, generation, begin, end):
        """Whether that registration is in force until `end` (from `begin`, if given)."""
        for span in self.regions[number].spans if number in self.regions else ():
            if span.state and span.state.generation == generation:
                return span.unasked > end and (begin is None or span.sure <= begin)
        return False

    def registered_anew(self, number, generation):
        """Whether a later registration of that region is acknowledged."""
        spans = self.regions[number].spans if number in self.regions else ()
        return any(s.state and s.state.generation > generation and s.sure != NEVER for s in spans)

    def element_bytes(self, number, generation):
        for span in self.regions[number].spans:
            if span.state and span.state.generation == generation:
                return span.state.element_bytes
        raise AssertionError(f"region {number} has no generation {generation}")

    def region(self, number):
        """The registration of a number that may be in force now, or None."""
        for span in reversed(self.regions[number].spans if number in self.regions else ()):
            if span.state and span.possible(now(), now()):
                return span.state
        return None

    def region_at(self, address):
        """The registration that may be in force where `address` lies, or None."""
        for history in self.regions.values():
            for span in history.spans[-2:]:
                region = span.state
                inside = region and region.base <= address < region.base + region.bytes
                if inside and span.possible(now(), now()):
                    return region
        return None

    # -- hooks: payload memory ---------------------------------------------------------------------

    def payload_written(self, address, data):
        """Every write is into a buffer that the owner of a queue has posted (I2, I6)."""
        region = self.region_at(address)
        assert region, f"a write to {address:#x}, where no region is live"
        element, offset = divmod(address - region.base, region.element_bytes)
        assert element < region.postable and offset + len(data) <= region.element_bytes, (
            f"a write to element {element}, byte {offset}, of region {region.number}"
        )
        holders = [
            q
            for q, owner in self.owners.items()
            if owner == region.owner and any(self.posts.holders(region, element, q))
        ]
        assert holders and region.nic_write, (
            f"a write to element {element} of region {region.number}, which is not posted"
        )
        region.writes.setdefault(element, []).append((now(), offset, data))

    def payload_read(self, address, length):
        """Every read is in a live region."""
        assert self.region_at(address), f"a read of {address:#x}, where no region is live"

    def payload_fails(self, is_write, address):
        region = self.region_at(address)
        queues = [q for q, o in self.owners.items() if region and o == region.owner]
        return self.errors.strike("payload", is_write, queues)

    # -- hooks: header memory ----------------------------------------------------------------------

    def header_place(self, address):
        """(kind, queue, byte of the ring) of an address in header memory; kind "" is no place."""
        host = self.host
        if address < SLOTS:
            return "slot", address // abi.INDEX_SLOT_BYTES, address % abi.INDEX_SLOT_BYTES
        if COMMAND_RING <= address < COMMAND_RING + SMALL_RING_BYTES:
            return "commands", 0, address - COMMAND_RING
        for queue in self.queues:
            for kind, begin, size in (
                ("completions", host.completion_ring(queue), SMALL_RING_BYTES),
                ("rx", host.rx_ring(queue), host.ring_bytes[queue]),
                ("tx", host.tx_ring(queue), host.ring_bytes[queue]),
            ):
                if begin <= address < begin + size:
                    return kind, queue, address - begin
        return "", None, 0

    def header_written(self, address, data):
        """Writes go to index slots and to cells that were handed back, of queues that are on."""
        kind, queue, at = self.header_place(address)
        assert kind in ("slot", "rx", "completions"), f"a write to {address:#x} of header memory"
        assert queue in self.queues, f"a write for queue {queue}"
        on = True in self.queues[queue].possible(now(), now())
        assert on, f"a write to the {kind} of queue {queue}, which is off"
        if kind == "slot":
            return
        host, size = self.host, self.host.ring_bytes[queue] if kind == "rx" else SMALL_RING_BYTES
        begin, end = (
            (self.consumers[queue], host.rx_consumer[queue])
            if kind == "rx"
            else (self.completion_consumers[queue], host.completion_consumer[queue])
        )
        cell = at // abi.CELL_BYTES
        behind = (cell - begin) % (size // abi.CELL_BYTES)
        assert behind >= end - begin, (
            f"a write to cell {cell} of the {kind} ring of queue {queue}, which was not handed back"
        )

    def header_read(self, address, length):
        """Reads are of transmit rings, commands and what PLACE names."""
        kind, _, _ = self.header_place(address)
        stage = 0x80000 <= address < 0x90000
        assert stage or kind in ("tx", "commands"), f"a read of {address:#x} of header memory"

    def header_fails(self, is_write, address):
        kind, queue, _ = self.header_place(address)
        return self.errors.strike("header", is_write, [queue] if kind in ("rx", "tx") else [])

    def header_shown(self, address, length):
        """An index slot changes: what it shows is there, whole, now (I3)."""
        kind, queue, at = self.header_place(address)
        if kind != "slot":
            return
        host, slot = self.host, self.host.index_slot(queue)
        if at < 8:
            for fields, header, payload in host.take_records(queue):
                self.arrivals.take(queue, fields, header, payload)
            self.posts.processed(queue, slot["post_consumer"])
        if at + length > 8:
            self.departures.consumed(queue, slot["tx_consumer"])
            for told in host.take_completions(queue):
                self._completion(told)

    def _completion(self, told):
        kind, queue = told["kind"], told["queue"]
        if kind == CompletionKind.COMMAND:
            self.commands.told(told)
        elif kind == CompletionKind.TRANSMIT_FAULT:
            self.departures.told(queue, told["index"], TxOutcome(told["status"]))
        elif kind == CompletionKind.POST_FAULT:
            self.posts.told(queue, told["index"], PostOutcome(told["status"]))
        else:
            assert kind == CompletionKind.RECEIVE_FAULT and self.errors.any, f"completion {told}"

    # -- wire ------------------------------------------------------------------------------------

    async def send(self, data, bad_fcs):
        """Put a frame on the wire; it begins at some later time."""
        arrival = self.arrivals.add(data, bad_fcs)
        user = [0] * len(data)
        user[-1] = int(bad_fcs)

        def complete(frame):
            arrival.start = int(frame.sim_time_start) // (CYCLE_NS * 1000)
            arrival.end = now()

        await self.host.wire_in.send(AxiStreamFrame(tdata=data, tuser=user, tx_complete=complete))

    async def _watch_wire(self):
        while True:
            frame = await self.host.wire_out.recv(compact=False)
            error = any(frame.tuser) if isinstance(frame.tuser, list) else bool(frame.tuser)
            frame.compact()
            self.guarded(self.departures.leave)(bytes(frame.tdata), error)

    # -- the end ---------------------------------------------------------------------------------

    async def finish(self):
        """What is under way ends, and the ports come to rest. Then `settle`."""
        await self.until(lambda: self.host.wire_in.idle(), "all frames on the wire")
        await self.until(lambda: not self.commands.waiting, "all completions of commands")
        stopped = [q for q in self.queues if await self.stopped(q)]
        departures = self.departures
        await self.until(
            lambda: not departures.busy(stopped),
            lambda: f"the end of {departures.describe(departures.busy(stopped))}",
        )
        await self.quiet()

    async def quiet(self):
        """The ports are at rest, for longer than any memory takes, or any frame that is dropped."""
        since = now()
        # a frame that finds no buffer leaves the card a beat a cycle, and touches no memory
        dropped = self.parameters.frame_bytes_max // self.parameters.bus_bytes

        def at_rest():
            last = max(self.header.last_access, self.payload.last_access, since)
            return now() > last + self.slow + QUIET_CYCLES + dropped

        await self.until(at_rest, "a card that is quiet")

    async def stopped(self, queue):
        """Whether the queue's transmission has stopped."""
        register = abi.CONTROL.QUEUE_SWITCH
        return register.unpack(await self.host.read(register, queue))["stopped"]

    async def counts(self, addresses):
        """Counters by key, of a dict of addresses; all are small, and began with the simulation."""
        lite = self.host.lite
        answers = {key: lite.init_read(address, 4) for key, address in addresses.items()}
        out = {}
        for key, answer in answers.items():
            await self.bounded(answer, f"the counter of {key}")
            out[key] = int.from_bytes(answer.data.data, "little")
        return out

    async def settle(self):
        """All counters against all that is known; the card is quiet."""
        rows = (*self.queues, PORT)
        rx = await self.counts({(r, o): abi.rx_counter(r, o) for r in rows for o in RxOutcome})
        (came,) = (await self.counts({0: abi.port_counter("rx_frames")})).values()
        assert came == len(self.arrivals.frames), f"{came} frames came from the wire"
        ended, shown = sum(rx.values()), sum(n for (_, o), n in rx.items() if o < abi.RX_RECORDS)
        assert ended == came + self.commands.placed, (
            f"{came} frames and {self.commands.placed} PLACEs, but {ended} outcomes"
        )
        assert shown == self.arrivals.total, f"{shown} records counted, {self.arrivals.total} shown"
        self.arrivals.settle(rx)
        error = abi.CONTROL.ERROR.unpack(await self.host.read(abi.CONTROL.ERROR))
        tx = await self.counts(
            {(q, o): abi.tx_counter(q, o) for q in self.queues for o in TxOutcome}
        )
        self.departures.settle(_by_queue(tx), not error["completion_lost"])
        await self.settle_posts()
        (flushed,) = (await self.counts({0: abi.port_counter("tx_flushed")})).values()
        assert flushed == 0, f"{flushed} frames flushed, though the MAC was never stalled for long"
        assert await self.host.read(abi.CONTROL.MAGIC) == abi.MAGIC
        for name in ("header_write", "header_read", "payload_write", "payload_read"):
            assert not error[name] or self.errors.any, f"ERROR.{name} without an error"
            assert not error[f"{name}_failed"], f"ERROR.{name}_failed"
        for history in self.regions.values():
            for region in {span.state for span in history.spans if span.state}:
                self._settle_writes(region)

    async def settle_posts(self):
        """Counters of posts against what applications did."""
        queues = self.posts.rings
        self.posts.settle(
            _by_queue(
                await self.counts(
                    {(q, o): abi.post_counter(q, o) for q in queues for o in PostOutcome}
                )
            )
        )

    def summary(self):
        """What the case was made of, in a line."""
        seen = {}
        for arrival in (*self.arrivals.frames, *self.arrivals.places.values()):
            for _, outcome in self.arrivals.outcomes(arrival):
                seen[outcome.name] = seen.get(outcome.name, 0) + 1
        posts = {}
        for cell in self.posts.cells:
            for outcome in self.posts.allowed(cell):
                posts[outcome.name] = posts.get(outcome.name, 0) + 1
        sent = {}
        for departure in self.departures.all:
            for outcome in self.departures.allowed(departure):
                sent[outcome.name] = sent.get(outcome.name, 0) + 1
        return (
            f"seed {self.seed}: {now()} cycles; frames {seen}; posts {posts}; descriptors {sent};"
            f" {len(self.settings.spans)} settings, {self.errors.struck} bus errors"
        )

    def _settle_writes(self, region):
        """Writes that no record names: only where a record was voided, and payload all the same."""
        hurt = self.errors.any and any(
            self.errors.touched(q, 0, NEVER) for q, o in self.owners.items() if o == region.owner
        )
        for element, written in region.writes.items():
            assert hurt, f"element {element} of region {region.number} was written for no record"
            for _, offset, data in written:
                assert any(data in a.data for a in self.arrivals.frames) or any(
                    data in a.data for a in self.arrivals.places.values()
                ), f"element {element} of region {region.number}, byte {offset}: bytes of no frame"


def _by_queue(counts):
    """(queue, outcome) -> number as queue -> outcome -> number."""
    out = {}
    for (queue, outcome), number in counts.items():
        out.setdefault(queue, {})[outcome] = number
    return out
