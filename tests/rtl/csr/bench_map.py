"""The register block on its AXI4-Lite port: every register's reset value and access, as the
contract (`hdsnic.abi`) has them, and that doorbells reach their block.
"""

import cocotb
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiLiteBus, AxiLiteMaster
from rtl.blocks import parameters
from rtl.drivers import Strobe, pauses, start, until

from hdsnic import abi
from hdsnic.abi import CONTROL, MANAGEMENT
from hdsnic.abi.layout import Access, Register
from hdsnic.nic import FEATURES

OKAY, SLVERR = 0, 2
PAGES = {CONTROL: abi.CONTROL_PAGE, MANAGEMENT: abi.MANAGEMENT_PAGE}
SPECIAL = (
    CONTROL.FENCE, CONTROL.COMMAND_RING, CONTROL.QUEUE_SWITCH, MANAGEMENT.REVOKE,
    MANAGEMENT.QUEUE_OWNER, MANAGEMENT.REGION_STATE,
)  # fmt: skip
"""RW, but what is read is a state and not what was written."""


def registers(page):
    """(register, its least number of elements on the card) of a page, in address order."""
    found = [value for value in vars(page).values() if isinstance(value, Register)]
    return sorted(found, key=lambda register: register.offset)


def count_of(register, p):
    """Elements that the card has: arrays are as long as the largest card's."""
    if register.name.startswith("REGION_"):
        return p.regions if register.count > 1 else 1
    return p.queues if register.count == abi.QUEUES_MAX else register.count


def reset_value(register, p):
    """What a register reads after reset."""
    features = CONTROL.FEATURES.pack(**dict.fromkeys(FEATURES, 1))
    known = {
        "MAGIC": abi.MAGIC, "ABI_VERSION": abi.ABI_VERSION, "FEATURES": features,
        "PORT_TIMEOUT": 1 << 20,
    }  # fmt: skip
    sizes = {name: getattr(p, name.lower()) for name in vars(CONTROL) if hasattr(p, name.lower())}
    return (known | sizes).get(register.name, 0)


class Host:
    @classmethod
    async def start(cls, dut):
        self = cls()
        self.dut = dut
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "axil"), dut.clk, dut.rst)
        dut.idle.value = 1
        for name in ("exact_busy", "element_busy", "commands_busy"):
            getattr(dut, name).value = 0
        for name in ("commands_consumer", "commands_revoke", "commands_queue_off", "tx_stopped"):
            getattr(dut, name).value = 0
        for name in ("commands_fence", "looked_up", "injected", "completed", "mac_stalled",
                     "completion_lost", "port_errors", "port_failed"):  # fmt: skip
            getattr(dut, name).value = 0
        dut.element_clear_ready.value, dut.counter_data.value = 1, 0
        self.rng = rng = await start(dut)
        self.p = parameters(int(await self.word(CONTROL.BUS_BYTES)))
        for side in (self.lite.write_if, self.lite.read_if):
            for channel in ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel"):
                if hasattr(side, channel):
                    chance = rng.choice((0, 0.3, 0.7))
                    getattr(side, channel).set_pause_generator(pauses(rng, chance))
        return self

    async def word(self, register, index=0, page=abi.CONTROL_PAGE):
        """A register's value; it must be readable."""
        response, value = await self.read(page + register.at(index))
        assert response == OKAY, f"read of {register.name}[{index}]"
        return value

    async def read(self, address):
        answer = await self.lite.read(address, 4)
        return int(answer.resp), int.from_bytes(answer.data, "little")

    async def write(self, address, value):
        return int((await self.lite.write(address, value.to_bytes(4, "little"))).resp)


@cocotb.test()
async def every_register_has_its_reset_value_and_its_access(dut):
    host = await Host.start(dut)
    p, rng = host.p, host.rng
    for page, base in PAGES.items():
        for register in registers(page):
            there = count_of(register, p)
            some = {0, there - 1, rng.randrange(there)}
            for index in sorted(some):
                await _one(host, register, index, base)
            if register.count > there:
                address = base + register.at(there)
                assert (await host.read(address))[0] == SLVERR, f"{register.name}[{there}]"
                assert await host.write(address, 0) == SLVERR, f"{register.name}[{there}]"


async def _one(host, register, index, base):
    address, name = base + register.at(index), f"{register.name}[{index}]"
    response, value = await host.read(address)
    if register.access == Access.WO:
        assert response == SLVERR, f"{name} was read"
        return
    assert response == OKAY, f"read of {name}"
    if not register.name.startswith("CYCLES"):
        # ERROR tells of writes that were refused here before, and of nothing else.
        wanted = {reset_value(register, host.p)} | ({1} if register is CONTROL.ERROR else set())
        assert value in wanted, f"{name} is {value:#x} after reset"
    if register.access == Access.RO:
        assert await host.write(address, value) == SLVERR, f"{name} was written"
    elif register.access == Access.W1C:
        assert await host.write(address, 0xFFFFFFFF) == OKAY
        assert (await host.read(address)) == (OKAY, 0)
    elif register not in SPECIAL:
        word = host.rng.getrandbits(32)
        assert await host.write(address, word) == OKAY, f"write of {name}"
        bits = sum(field.bits for field in register.fields) or 32
        got = (await host.read(address))[1]
        mask = (1 << bits) - 1
        assert got & mask == word & mask, f"{name} does not keep what is written"
        assert await host.write(address, reset_value(register, host.p)) == OKAY


@cocotb.test()
async def what_names_no_register_is_refused_and_told(dut):
    host = await Host.start(dut)
    known = {
        base + register.at(index)
        for page, base in PAGES.items()
        for register in registers(page)
        for index in range(count_of(register, host.p))
    }
    assert await host.word(CONTROL.ERROR) == 0
    for _ in range(80):
        address = host.rng.choice((0, 0x1000)) + 4 * host.rng.randrange(0x400)
        if address not in known:
            assert (await host.read(address))[0] == SLVERR, f"read at {address:#x}"
            assert await host.write(address, 1) == SLVERR, f"write at {address:#x}"
    assert await host.word(CONTROL.ERROR) == CONTROL.ERROR.pack(setting_refused=1)


@cocotb.test()
async def doorbells_go_to_their_block_with_their_queue(dut):
    host = await Host.start(dut)
    stack, rng = abi.STACK_DOORBELL, host.rng
    bells = {
        "post_producer": (abi.post_doorbell_page, abi.POST_DOORBELL.POST_PRODUCER),
        "tx_producer": (abi.stack_doorbell_page, stack.TX_PRODUCER),
        "rx_consumer": (abi.stack_doorbell_page, stack.RX_CONSUMER),
        "completion_consumer": (abi.stack_doorbell_page, stack.COMPLETION_CONSUMER),
    }
    seen = {name: Strobe.watch(dut, name).seen for name in bells}
    commands = Strobe.watch(dut, "commands_producer").seen
    wanted = {name: [] for name in bells}
    for _ in range(60):
        name, queue = rng.choice(list(bells)), rng.randrange(host.p.queues)
        page, register = bells[name]
        index = rng.getrandbits(32)
        address = page(queue) + register.at()
        assert await host.write(address, index) == OKAY
        assert (await host.read(address))[0] == SLVERR
        wanted[name].append({"queue": queue, "index": index})
    assert await host.write(abi.stack_doorbell_page(0) + stack.COMMAND_PRODUCER.at(), 77) == OKAY
    assert await host.write(abi.stack_doorbell_page(1) + stack.COMMAND_PRODUCER.at(), 9) == SLVERR
    assert seen == wanted and commands == [{"value": 77}]


@cocotb.test()
async def a_ring_is_stored_while_the_card_holds_still_and_locked_from_then_on(dut):
    host = await Host.start(dut)
    rng = host.rng
    names = ("rx_ring_store", "tx_ring_store", "completion_ring_store")
    paused, seen = [], {name: [] for name in names}

    def watch(name):
        def see(told):
            paused.append(int(dut.pause.value))
            seen[name].append(told)

        Strobe.watch(dut, name, see)

    for name in names:
        watch(name)
    header = rng.randrange(1 << 16) << 20
    for register, word in (
        (MANAGEMENT.HEADER_BASE_LO, header & 0xFFFFFFFF),
        (MANAGEMENT.HEADER_BASE_HI, header >> 32), (MANAGEMENT.HEADER_PAGES, 256),
    ):  # fmt: skip
        assert await host.write(abi.MANAGEMENT_PAGE + register.at(), word) == OKAY
    queue = rng.randrange(host.p.queues)
    rings = {}
    for name, register in zip(
        names, (CONTROL.RX_RING, CONTROL.TX_RING, CONTROL.COMPLETION_RING), strict=True
    ):
        log2 = rng.randrange(12, 16)
        base = rng.randrange(200 >> (log2 - 12)) << (log2 - 12)
        rings[name] = {"enable": 1, "base": header + (base << 12), "log2_bytes": log2}
        word = register.pack(base=base, log2_bytes=log2)
        assert await host.write(register.at(queue), word) == OKAY
    dut.idle.value = 0
    assert await host.write(CONTROL.QUEUE_SWITCH.at(queue), 1) == OKAY
    await ClockCycles(dut.clk, rng.randrange(20, 200))
    assert not paused, "a ring was stored while the card was not idle"
    dut.idle.value = 1
    await until(dut, lambda: seen[names[2]], "the stores", cycles=200)
    assert {n: told for n, (told,) in seen.items()} == {
        n: {"queue": queue, **ring} for n, ring in rings.items()
    }
    assert paused == [1] * 3
    assert await host.write(CONTROL.RX_RING.at(queue), 0) == SLVERR
    switch = CONTROL.QUEUE_SWITCH.unpack(await host.word(CONTROL.QUEUE_SWITCH, queue))
    assert (switch["enable"], switch["busy"]) == (1, 0)
