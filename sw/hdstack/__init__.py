"""The user-space stack above the hdsnic card: driver, TCP, stack process, application library.

An application needs only this package: `await hdstack.connect(...)` reaches the stack, then
`start_server` and `open_connection` work in the manner of asyncio streams. Importing it is cheap:
the names below are loaded on first use.
"""

from importlib import import_module

_HOMES = {
    "HdstackError": ".errors",
    "Runtime": ".app",
    "connect": ".app",
}

__all__ = ["HdstackError", "Runtime", "connect"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")


def __dir__():
    return __all__
