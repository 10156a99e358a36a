"""`compiled`: numba's njit with one compile cache that notices every change of the sources.

numba's own cache looks at the file of the cached function only, not at the files of the functions
that it calls. So the cache directory is named by a hash of all sources that are ever compiled, and
of the tables' sizes; it lies in `HDSNIC_CACHE`, else in `build/cache` of the checkout, else in the
user's cache directory.
With NUMBA_DISABLE_JIT=1 the same functions run interpreted.
"""

import hashlib
import os
from pathlib import Path

import numba

__all__ = ["cache_directory", "compiled"]

_PACKAGE = Path(__file__).resolve().parent
_COMPILED_FOLDERS = ("driver", "net", "service", "tcp", "udp")
_COMPILED_FILES = ("atomic.py", "clock.py", "native.py")


def _sources() -> list[Path]:
    from hdsnic import abi

    found = [_PACKAGE / name for name in _COMPILED_FILES]
    for folder in _COMPILED_FOLDERS:
        found += (_PACKAGE / folder).rglob("*.py")
    found += Path(abi.__file__).parent.glob("*.py")
    return sorted(found)


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def cache_directory() -> Path | None:
    """Where compiled code is kept; None where no directory can be written."""
    digest = hashlib.sha256(numba.__version__.encode())
    digest.update(os.environ.get("HDSNIC_CONNECTIONS", "").encode())
    for path in _sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    homes = []
    if given := os.environ.get("HDSNIC_CACHE"):
        homes.append(Path(given))
    elif (_PACKAGE.parents[1] / "pyproject.toml").exists():
        homes.append(_PACKAGE.parents[1] / "build" / "cache")
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    homes.append(Path(user) / "hdsnic")
    for home in homes:
        directory = home / f"numba-{digest.hexdigest()[:16]}"
        if _writable(directory):
            return directory
    return None


_CACHE = None if numba.config.DISABLE_JIT else cache_directory()
if _CACHE is not None:
    numba.config.CACHE_DIR = str(_CACHE)


def compiled(function=None, **options):
    """Decorator: compile `function` in numba's subset, without the GIL, and keep the result."""

    def decorate(plain):
        return numba.njit(cache=_CACHE is not None, nogil=True, **options)(plain)

    return decorate if function is None else decorate(function)
