"""Commands of the stack, and completions: of commands, and of what went wrong."""

from .completion import CommandDone, CompletionWriter
from .engine import CommandEngine
from .indices import TransmitIndices

__all__ = ["CommandDone", "CommandEngine", "CompletionWriter", "TransmitIndices"]
