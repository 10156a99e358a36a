"""The driver: how the stack reaches the card.

`device` carries registers, doorbells and notices, `card` knows what the registers mean, `layout`
says where things lie in header memory, `rings` reads records and writes descriptors in place.
"""

from .card import Card, CardParameters
from .commands import Commands
from .device import Device, DeviceProcess, HeaderMemory, observe
from .exact import ExactRules, Flow
from .layout import AREA_BYTES, RING_BYTES, HeaderLayout

__all__ = [
    "AREA_BYTES", "RING_BYTES", "Card", "CardParameters", "Commands", "Device", "DeviceProcess",
    "ExactRules", "Flow", "HeaderLayout", "HeaderMemory", "observe",
]  # fmt: skip
