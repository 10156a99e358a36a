"""Registers, settings, the region table and counters."""

from .control import CommandControl, RegisterBlock
from .counters import ByteCounter, CounterBank
from .regions import RegionTable

__all__ = ["ByteCounter", "CommandControl", "CounterBank", "RegionTable", "RegisterBlock"]
