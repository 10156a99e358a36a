"""The exceptions of the simulation; messages say what was given and what is allowed."""

__all__ = ["BuildError", "DeviceError", "LinkError", "SimulationError"]


class SimulationError(Exception):
    """Base of all of them."""


class BuildError(SimulationError):
    """The native model could not be made; the message names the log or the missing tool."""


class DeviceError(SimulationError):
    """The device process could not start, or the card did not answer."""


class LinkError(SimulationError):
    """A link could not be opened."""
