"""Registers, settings, the region table and counters."""

from .control import RegisterBlock
from .counters import ByteCounter, CounterBank
from .regions import RegionTable

__all__ = ["ByteCounter", "CounterBank", "RegionTable", "RegisterBlock"]
