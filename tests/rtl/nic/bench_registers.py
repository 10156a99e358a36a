"""Registers: identity, locks, refusals, and what the engine refuses."""

from rtl.nic.host import HEADER_BYTES, Host, whole_card_test

from hdsnic import abi

MAC, ADDRESS = bytes.fromhex("026864730002"), bytes([10, 77, 0, 2])


@whole_card_test
async def the_card_tells_what_it_is(dut):
    host = await Host.start(dut)
    assert await host.read(abi.CONTROL.MAGIC) == abi.MAGIC
    assert await host.read(abi.CONTROL.ABI_VERSION) == abi.ABI_VERSION
    assert await host.read(abi.CONTROL.BUS_BYTES) == len(dut.s_axis_rx_tdata) // 8
    first = await host.counter(abi.CONTROL.CYCLES_LO.offset)
    assert await host.counter(abi.CONTROL.CYCLES_LO.offset) > first


@whole_card_test
async def what_names_no_register_is_refused(dut):
    host = await Host.start(dut)
    for address in (0x00C, 0x3FC, 0x2000, abi.MANAGEMENT_PAGE + 0x7FC, 0x3F000):
        answer = await host.lite.write(address, b"\1\0\0\0")
        assert int(answer.resp) == 2, f"write to {address:#x}"
    assert int((await host.lite.read(0x3FC, 4)).resp) == 2
    errors = abi.CONTROL.ERROR.unpack(await host.read(abi.CONTROL.ERROR))
    assert errors["setting_refused"]
    await host.write(abi.CONTROL.ERROR, 1)
    assert await host.read(abi.CONTROL.ERROR) == 0


@whole_card_test
async def rings_outside_the_header_memory_stay_disabled(dut):
    host = await Host.start(dut)
    pages = HEADER_BYTES // 4096
    await host.write(abi.MANAGEMENT.HEADER_PAGES, pages, page=abi.MANAGEMENT_PAGE)
    good = {"base": 4, "log2_bytes": 14}
    for rx, tx in (
        ({"base": pages - 2, "log2_bytes": 14}, good),  # ends beyond
        (good, {"base": pages, "log2_bytes": 12}),  # begins beyond
        ({"base": 6, "log2_bytes": 14}, good),  # not aligned to its size
        (good, {"base": 4, "log2_bytes": 11}),  # too small
        (good, {"base": 0, "log2_bytes": 23}),  # too large
    ):
        await host.write(abi.CONTROL.ERROR, 0xFF)
        await host.write(abi.CONTROL.RX_RING, abi.CONTROL.RX_RING.pack(**rx), 1)
        await host.write(abi.CONTROL.TX_RING, abi.CONTROL.TX_RING.pack(**tx), 1)
        await host.write(abi.CONTROL.QUEUE_SWITCH, 1, 1)

        async def settled():
            state = abi.CONTROL.QUEUE_SWITCH.unpack(await host.read(abi.CONTROL.QUEUE_SWITCH, 1))
            return not state["busy"]

        await host.until(settled, what="queue switch")
        state = abi.CONTROL.QUEUE_SWITCH.unpack(await host.read(abi.CONTROL.QUEUE_SWITCH, 1))
        assert not state["enable"], (rx, tx)
        assert await host.read(abi.CONTROL.ERROR) & 1, (rx, tx)


@whole_card_test
async def what_is_live_is_locked(dut):
    host = await Host.start(dut)
    await host.set_up(MAC, ADDRESS)
    region = await host.add_region(3, 0x10000, owner=1)
    await host.own(1, 1, region)
    page = abi.MANAGEMENT_PAGE
    assert not await host.write(abi.CONTROL.RX_RING, 0, 1)
    assert not await host.write(abi.MANAGEMENT.HEADER_PAGES, 1, page=page)
    assert not await host.write(abi.MANAGEMENT.REGION_BASE_LO, 0, 3, page)
    assert not await host.write(abi.MANAGEMENT.REGION_STATE, 0, 3, page)
    assert not await host.write(abi.MANAGEMENT.POST_RING, 0, 1, page)
    await host.revoke(3)
    assert await host.write(abi.MANAGEMENT.REGION_BASE_LO, 0x20000, 3, page)


@whole_card_test
async def an_unsound_region_does_not_come_to_life(dut):
    host = await Host.start(dut)
    page, m = abi.MANAGEMENT_PAGE, abi.MANAGEMENT
    sound = {"base": 0x10000, "high": 0, "elements": 32, "log2": 11, "postable": 24, "owner": 1}
    for fault in (
        {"base": 0x10800}, {"high": 0x100}, {"elements": 0}, {"log2": 7}, {"log2": 15},
        {"postable": 33}, {"owner": 0}, {"elements": 1 << 16, "postable": 1 << 13},
        {"high": 0xFF, "base": 0xFFFFF000},
    ):  # fmt: skip
        row = sound | fault
        await host.write(m.REGION_BASE_LO, row["base"], 2, page)
        await host.write(m.REGION_BASE_HI, row["high"], 2, page)
        shape = m.REGION_SHAPE.pack(elements=row["elements"], log2_element_bytes=row["log2"])
        await host.write(m.REGION_SHAPE, shape, 2, page)
        await host.write(m.REGION_POSTABLE, row["postable"], 2, page)
        await host.write(m.REGION_STATE, m.REGION_STATE.pack(owner=row["owner"], live=1), 2, page)

        async def settled():
            return not m.REGION_STATE.unpack(await host.read(m.REGION_STATE, 2, page))["busy"]

        await host.until(settled, what="region state")
        state = m.REGION_STATE.unpack(await host.read(m.REGION_STATE, 2, page))
        assert not state["live"], fault
