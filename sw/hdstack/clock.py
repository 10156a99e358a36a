"""The monotonic clock and the scheduler, for compiled code.

A compiled loop that runs for some time has to know how late it is, and to let others run while it
has nothing to do; both calls go to the C library (POSIX `clock_gettime`, `sched_yield`).
"""

import os
import time

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .native import compiled

__all__ = ["monotonic_ns", "yield_processor"]

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def _clock_gettime(typing_context):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [_I32, _I64.as_pointer()])
        call = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        now = cgutils.alloca_once(builder, _I64, 2)  # struct timespec
        builder.call(call, [_I32(time.CLOCK_MONOTONIC), now])
        seconds = builder.load(now)
        nanoseconds = builder.load(builder.gep(now, [_I32(1)]))
        return builder.add(builder.mul(seconds, _I64(1_000_000_000)), nanoseconds)

    return types.int64(), codegen


@intrinsic
def _sched_yield(typing_context):
    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I32, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


if numba.config.DISABLE_JIT:

    def monotonic_ns():
        return time.monotonic_ns()

    def yield_processor():
        os.sched_yield()
else:

    @compiled
    def monotonic_ns():
        """CLOCK_MONOTONIC in ns, as `time.monotonic_ns` tells it."""
        return _clock_gettime()

    @compiled
    def yield_processor():
        """Let another process run, if one waits for this processor."""
        _sched_yield()
