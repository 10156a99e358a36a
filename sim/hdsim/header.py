"""The C header of the native harness, from the contract: `abi.h`.

Register addresses, page addresses and the parameters of the card, so that the harness types none
of them by hand.
"""

import dataclasses

from hdsnic import abi
from hdsnic.parameters import Parameters

__all__ = ["c_header"]


def c_header(parameters: Parameters) -> str:
    """Text of `abi.h` for a card of these parameters."""
    counters_bytes = abi.DOORBELLS_PAGE - abi.COUNTERS_PAGE
    last_counter = abi.port_counter(abi.PORT_COUNTERS[-1][0]) + abi.COUNTER_BYTES
    used = last_counter - abi.COUNTERS_PAGE
    counters_bytes = min(counters_bytes, -(-used // abi.PAGE_BYTES) * abi.PAGE_BYTES)
    constants = {
        "MAGIC": abi.MAGIC,
        "VERSION": abi.ABI_VERSION,
        "PAGE_BYTES": abi.PAGE_BYTES,
        "CONTROL_PAGE": abi.CONTROL_PAGE,
        "MANAGEMENT_PAGE": abi.MANAGEMENT_PAGE,
        "COUNTERS_PAGE": abi.COUNTERS_PAGE,
        "COUNTERS_BYTES": counters_bytes,
        "DOORBELLS_PAGE": abi.DOORBELLS_PAGE,
    }
    for page in (abi.POST_DOORBELL, abi.STACK_DOORBELL):
        for name, register in _registers(page):
            constants[name] = register.offset
    for base, page in ((abi.CONTROL_PAGE, abi.CONTROL), (abi.MANAGEMENT_PAGE, abi.MANAGEMENT)):
        for name, register in _registers(page):
            constants["REG_" + name] = base + register.offset
    for field in dataclasses.fields(parameters):
        constants[field.name.upper()] = getattr(parameters, field.name)
    lines = [f"constexpr uint32_t {name} = {value:#x};" for name, value in constants.items()]
    return "\n".join(
        [
            "// Made from hdsnic.abi and the parameters of the card by hdsim.header; do not edit.",
            "#pragma once",
            "#include <cstdint>",
            "namespace abi {",
            *lines,
            "}  // namespace abi",
            "",
        ]
    )


def _registers(page):
    return [(n, r) for n, r in vars(page).items() if isinstance(r, abi.Register)]
