"""Errors of the command line: one clear sentence each, told by `main` without a traceback."""

from ..errors import HdstackError

__all__ = ["CommandError"]


class CommandError(HdstackError):
    """A command cannot do what was asked; the message is all that the user sees.

    `notes` are further lines, such as the end of a child's log.
    """

    def __init__(self, message: str, notes: str = ""):
        super().__init__(message)
        self.notes = notes
