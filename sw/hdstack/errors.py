"""The exception family of hdstack: whatever the package raises of its own is an `HdstackError`."""

__all__ = ["ConfigurationError", "DeviceError", "HdstackError", "MemoryRefused", "ServiceError"]


class HdstackError(Exception):
    """Root of the family. The message says what was given, what is allowed, where to look."""


class ConfigurationError(HdstackError, ValueError):
    """A value given by the caller is out of range."""


class MemoryRefused(HdstackError):
    """A shared memory lacks the seals, the size or the kind that makes it safe to map."""


class DeviceError(HdstackError):
    """The device refused something, speaks another version, or does not answer."""


class ServiceError(HdstackError):
    """The stack process refused something, or is gone."""
