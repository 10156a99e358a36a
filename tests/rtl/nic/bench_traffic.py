"""Random traffic over the whole card: a case from the seed in HDSNIC_CASE."""

import os

import cocotb
from rtl.nic.traffic import events, setup
from rtl.nic.traffic.case import Case


@cocotb.test()
async def random_traffic_keeps_every_promise(dut):
    case = Case(int(os.environ["HDSNIC_CASE"]))
    await case.start(dut)
    await setup.set_up(case)
    await events.traffic(case)
