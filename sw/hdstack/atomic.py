"""Acquire, release and fence on 32-bit words of shared memory, for compiled code and for Python.

Python has no fence, and a compiled loop may keep a plain load in a register; so every index that
another process writes or reads goes through here. `words` is a C-contiguous uint32 array over the
shared memory, `at` the number of the word in it; values are 0 to 2**32 - 1.

The sleeping protocol of both sides (a wake-up is never lost):

- to sleep: `prepare_sleep` (need-wake = 1, fence, read the index), block only if nothing is new;
- to wake: `publish` (write the index, fence, read need-wake), send a byte if it is not zero.
"""

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .native import compiled

__all__ = ["fence", "load_acquire", "prepare_sleep", "publish", "store_release", "warm"]


def _pointer(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return cgutils.get_item_pointer(
        context, builder, signature.args[0], array, [args[1]], wraparound=False
    )


def _check(words):
    if not (isinstance(words, types.Array) and words.dtype == types.uint32 and words.ndim == 1):
        raise numba.TypingError(f"atomics take a one-dimensional uint32 array, not {words}")


@intrinsic
def _load(typing_context, words, at):
    _check(words)

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        return builder.zext(builder.load_atomic(pointer, "acquire", align=4), ir.IntType(64))

    return types.int64(words, types.intp), codegen


@intrinsic
def _store(typing_context, words, at, value):
    _check(words)

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        builder.store_atomic(
            builder.trunc(args[2], ir.IntType(32)), pointer, ordering="release", align=4
        )
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), codegen


@intrinsic
def _fence(typing_context):
    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


if numba.config.DISABLE_JIT:  # interpreted, for tests in one process: the interpreter orders all

    def load_acquire(words, at):
        return int(words[at])

    def store_release(words, at, value):
        words[at] = value & 0xFFFFFFFF

    def fence():
        pass
else:

    @compiled
    def load_acquire(words, at):
        """The word; nothing that follows in program order is read before it."""
        return _load(words, at)

    @compiled
    def store_release(words, at, value):
        """Write the word after everything that precedes in program order (the low 32 bits)."""
        _store(words, at, value)

    @compiled
    def fence():
        """Order all loads and stores before against all after it (sequentially consistent)."""
        _fence()


@compiled
def publish(words, at, value, wake_at):
    """Publish index `value`; returns the need-wake word: if not 0, wake the other side."""
    store_release(words, at, value)
    fence()
    return load_acquire(words, wake_at)


@compiled
def prepare_sleep(words, wake_at, at):
    """Ask to be woken, then read the index again: block only if it shows nothing new."""
    store_release(words, wake_at, 1)
    fence()
    return load_acquire(words, at)


def warm():
    """Compile, or load from the cache, everything here for uint32 arrays."""
    import numpy as np

    words = np.zeros(4, np.uint32)
    store_release(words, 0, 1)
    fence()
    load_acquire(words, 0)
    publish(words, 0, 1, 1)
    prepare_sleep(words, 1, 0)
