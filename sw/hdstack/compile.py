"""How functions over the stack's rows are compiled, and how the same ones run interpreted.

`entry` marks what is called from Python: compiled at first use and kept in the cache directory of
`hdstack.native`. `part` marks what only other compiled functions call: it has no cache file of
its own, since its code is linked into each entry. Inside `interpreted()` both leave the function
as it is, so modules imported there are separate copies that run in the interpreter: for a
debugger, and for tests that hold both against each other.

Rules for such functions: state is one structured row `s`, fields are int64, values read from
unsigned memory pass through `np.int64` before arithmetic, no clock, no I/O, no allocation.
"""

import sys
from contextlib import contextmanager

import numba
from numba import types

from . import native

__all__ = ["entry", "interpreted", "part"]

_COPIED = ("hdstack.tcp", "hdstack.net", "hdstack.udp")
_interpreting = False


def entry(function):
    """Decorator: compiled, kept in the cache; for functions that Python calls."""
    if _interpreting or numba.config.DISABLE_JIT:
        return function
    return _without_literals(native.compiled(function))


def part(function):
    """Decorator: compiled into the entries that call it."""
    if _interpreting or numba.config.DISABLE_JIT:
        return function
    made = numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return _without_literals(made)


def _without_literals(dispatcher):
    """Compile once for integers, not once for each constant that callers pass (a third of all)."""
    original = dispatcher.get_call_template

    def get_call_template(args, kws):
        return original(tuple(map(types.unliteral, args)), kws)

    dispatcher.get_call_template = get_call_template
    return dispatcher


def _loaded():
    return {
        name: module
        for name, module in sys.modules.items()
        if name in _COPIED or name.startswith(tuple(f"{folder}." for folder in _COPIED))
    }


@contextmanager
def interpreted():
    """While this lasts, `import hdstack.tcp...`, `.net...` and `.udp...` make interpreted copies.

    Modules imported before are back in place afterwards. Not for use by several threads at once.
    """
    global _interpreting
    import hdstack

    before = _loaded()
    attributes = {name: vars(hdstack).get(name) for name in ("tcp", "net", "udp")}
    for name in before:
        del sys.modules[name]
    _interpreting = True
    try:
        yield
    finally:
        _interpreting = False
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)
        for name, module in attributes.items():
            if module is not None:
                setattr(hdstack, name, module)
