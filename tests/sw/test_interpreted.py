"""NUMBA_DISABLE_JIT=1: the whole stack is plain Python, for a debugger."""

import os
import subprocess
import sys


def test_the_stack_imports_and_runs_interpreted():
    code = (
        "import types; from hdstack import service; from hdstack.service.burst import burst;"
        "assert isinstance(burst, types.FunctionType); service.warm()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
