"""The receive ingress behind its MAC adapter: random frames and rules, the fate that scapy says."""

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSource
from frame_oracle import expected
from ingress_bench import OWN_MAC, RSS_ENTRIES
from random_frames import random_frame, random_setting
from rtl.blocks import parameters
from rtl.drivers import Sink, Strobe, pauses, start, until

from hdsnic.abi import RxOutcome

FRAMES = 120


async def set_up(dut, setting, p):
    """Switches and tables as `setting` has them."""
    dut.mac_address.value = int.from_bytes(OWN_MAC, "little")
    for name in ("receive", "promiscuous", "udp_split", "deliver_malformed", "watermark", "share"):
        getattr(dut, name).value = int(getattr(setting, name))
    dut.cycles.value = 0
    for index, address in enumerate(setting.addresses):
        value = {"ipv6": int(len(address) == 16), "address": int.from_bytes(address, "little")}
        await Strobe.pulse(dut, "address_store", index=index, valid=1, **value)
    for rule in setting.listeners:
        await Strobe.pulse(
            dut, "listener_store", index=rule.index, valid=1, udp=rule.udp, rss=rule.rss,
            any_address=rule.address is None, address=rule.address or 0, queue=rule.queue,
            first=rule.first, last=rule.last,
        )  # fmt: skip
    for context, (key, queues) in setting.rss.items():
        key = int.from_bytes(key, "little")
        await Strobe.pulse(dut, "rss_key_store", context=context, key=key)
        for entry in range(RSS_ENTRIES):
            queue = queues[entry % len(queues)]
            await Strobe.pulse(dut, "rss_table_store", context=context, entry=entry, queue=queue)
    await until(dut, lambda: not int(dut.exact_busy.value), "the table of exact rules")
    for rule in setting.exact:
        await Strobe.pulse(
            dut, "exact_store", slot=rule.slot(p), valid=1, ipv6=len(rule.remote) == 16,
            udp=rule.udp, rss=rule.rss, queue=rule.queue, remote_port=rule.remote_port,
            local_port=rule.local_port, remote=int.from_bytes(rule.remote, "little"),
            local=int.from_bytes(rule.local, "little"),
        )  # fmt: skip


class Taken:
    """What the ingress gave: announced frames, their bytes, outcomes of dropped ones."""

    def __init__(self, dut, rng, chance):
        self.width = len(dut.s_axis_tkeep)
        self.frames = Sink(dut, "frames", rng, chance).taken
        self.data, self.bytes = [], b""
        Sink(dut, "beats", rng, chance, self._beat)
        self.outcomes = Strobe.watch(dut, "outcome").seen

    def _beat(self, beat):
        assert beat["last"] or beat["count"] == self.width
        self.bytes += beat["data"].to_bytes(self.width, "little")[: beat["count"]]
        if beat["last"]:
            self.data.append(self.bytes)
            self.bytes = b""

    @property
    def ended(self):
        return len(self.data) + len(self.outcomes)


async def random_traffic(dut, chance, idle):
    source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
    rng = await start(dut)
    p = parameters(len(dut.s_axis_tkeep))
    setting = random_setting(rng, p)
    await set_up(dut, setting, p)
    taken = Taken(dut, rng, chance)
    source.set_pause_generator(pauses(rng, idle))
    frames = [(random_frame(rng), rng.random() < 0.05) for _ in range(FRAMES)]
    for data, error in frames:
        user = [0] * (len(data) - 1) + [int(error)]
        await source.send(AxiStreamFrame(data, tuser=user))
    await until(dut, lambda: taken.ended >= len(frames), "every frame's end", cycles=40_000)
    for _ in range(60):
        await RisingEdge(dut.clk)
    wanted = [expected(data, error, setting, p) for data, error in frames]
    outcomes = [RxOutcome(told["value"]) for told in taken.outcomes]
    assert outcomes == [outcome for outcome, fields in wanted if fields is None]
    kept = [fields for _, fields in wanted if fields is not None]
    assert len(taken.frames) == len(taken.data) == len(kept)
    for told, data, want in zip(taken.frames, taken.data, kept, strict=True):
        told = told | {"bytes": data}
        assert {name: told[name] for name in want} == want


@cocotb.test()
async def random_frames_have_the_fate_and_the_split_that_scapy_says(dut):
    await random_traffic(dut, 0.95, 0)


@cocotb.test()
async def a_wire_with_gaps_and_a_slow_reader_change_no_fate(dut):
    await random_traffic(dut, 0.7, 0.4)
