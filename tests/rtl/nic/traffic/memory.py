"""Memory behind an AXI port, made as awkward as the bus allows, with a hook on every access.

The other side of the port is cocotbext-axi's `AxiRam`; here stands what a real memory may do more:
answer late, show data no sooner than it acknowledges them, and answer with an error.
"""

from collections import deque

import cocotb
from cocotb.triggers import Event, Timer
from cocotb.utils import get_sim_time

CYCLE_NS = 4


def now():
    """Cycles since the simulation began."""
    return int(get_sim_time("ns")) // CYCLE_NS


class AwkwardRam:
    """An `AxiRam` whose answers take `latency()` cycles more, and stay in order.

    Written data show when their burst is acknowledged; where `at_once(address)` is true, as soon as
    they came. So software that believes an index too early reads what was there before (I3).

    `on_write(address, data)` and `on_read(address, length)` see each beat as it comes, `shown
    (address, length)` each write as it shows. `fail(is_write, address)`: whether this access is to
    be answered by an error; a write that is does not show.
    """

    def __init__(self, ram, *, latency, at_once, on_write, on_read, shown, fail):
        self.ram = ram
        self.latency, self.at_once = latency, at_once
        self.on_write, self.on_read, self.shown, self.fail = on_write, on_read, shown, fail
        self._burst, self._failed = [], False
        write, read = ram.write_if, ram.read_if
        write._write, read._read = self._write, self._read
        self._answers = {}
        for channel in (write.b_channel, read.r_channel):
            self._delay(channel)
        self.last_access = self.last_write = 0

    def _delay(self, channel):
        """Answers of `channel` wait in a line for their time."""
        send, line, wake = channel.send, deque(), Event()
        is_write = channel is self.ram.write_if.b_channel

        async def put(answer):
            burst = []
            if is_write:
                burst, self._burst = self._burst, []
                if self._failed:
                    burst, self._failed = [], False
                    answer.bresp = 2
            line.append((now() + self.latency(), burst, answer))
            wake.set()

        async def release():
            while True:
                while line:
                    due, burst, answer = line.popleft()
                    if due > now():
                        await Timer((due - now()) * CYCLE_NS, unit="ns")
                    self._show(burst)
                    await send(answer)
                wake.clear()
                await wake.wait()

        channel.send = put
        cocotb.start_soon(release())

    def _show(self, burst):
        for address, data in burst:
            self.ram.write(address, data)
            self.shown(address, len(data))

    async def _write(self, address, data):
        self.last_access = self.last_write = now()
        self.on_write(address, data)
        if self.fail(True, address):
            self._failed = True
        elif self.at_once(address):
            self._show([(address, data)])
        else:
            self._burst.append((address, data))

    async def _read(self, address, length):
        self.last_access = now()
        self.on_read(address, length)
        if self.fail(False, address):
            raise OSError("an error response, as the case asks for")  # AxiRam answers SLVERR
        return self.ram.read(address, length)
