"""Registers, settings, the region table and counters."""

from .control import CommandControl, RegisterBlock
from .counters import ByteCounter, CounterBank
from .fence import FENCES
from .regions import RegionTable

__all__ = [
    "FENCES",
    "ByteCounter",
    "CommandControl",
    "CounterBank",
    "RegionTable",
    "RegisterBlock",
]
