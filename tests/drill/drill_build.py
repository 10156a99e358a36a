"""Builds the library that packetdrill loads, and finds packetdrill.

python drill_build.py          builds, prints the library's path
python drill_build.py FILE...  builds, then runs packetdrill on each script
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = [
    "-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra",
    "-Werror", "-pthread",
]  # fmt: skip
COMPILE_SECONDS = 120
SCRIPT_SECONDS = 60
ADDRESSES = {
    "ipv4": ["--local_ip=192.168.0.2", "--remote_ip=192.0.2.1/24", "--gateway_ip=192.168.0.1"],
    "ipv6": [
        "--local_ip=fd3d:fa7b:d17d::2", "--remote_ip=2001:db8::1/32",
        "--gateway_ip=fd3d:fa7b:d17d:8888::",
    ],
}  # fmt: skip
__all__ = ["build", "find_packetdrill", "run"]


def compiler() -> list[str] | None:
    """`$CXX`, else g++ or clang++; None where there is none."""
    words = os.environ.get("CXX", "").split() or [
        name for name in ("g++", "clang++") if shutil.which(name)
    ][:1]  # fmt: skip
    return words if words and shutil.which(words[0]) else None


@functools.cache
def build(folder: Path) -> Path:
    """The library, compiled into `folder`. Raises RuntimeError with the compiler's words."""
    sys.path.insert(0, str(HERE))
    from drill_bridge import Call

    command = compiler()
    if command is None:
        raise RuntimeError("no C++ compiler: install the Debian package g++")
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "libhdsnic_drill.so"
    calls = [f"-DCALL_{call.name}={call.value}" for call in Call]
    paths = [
        f'-DBRIDGE_PYTHON="{sys.executable}"', f'-DBRIDGE_SCRIPT="{HERE / "drill_bridge.py"}"',
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *FLAGS, *calls, *paths, "-o", made, HERE / "drill_client.cpp"],
        timeout=COMPILE_SECONDS, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr}")
    return made


def find_packetdrill() -> str | None:
    """`$PACKETDRILL`, or packetdrill on PATH."""
    return shutil.which(os.environ.get("PACKETDRILL") or "packetdrill")


def run(packetdrill: str, library: Path, script: Path, flags: str = "", version: str = ""):
    """One script, over IPv6 where it lies in a folder `ipv6`; the process, its output as text.

    `flags` are those of drill_bridge.py; a script may have its own in a line `--so_flags=...`.
    """
    version = version or ("ipv6" if script.parent.name == "ipv6" else "ipv4")
    command = [packetdrill, f"--ip_version={version}", *ADDRESSES[version],
               f"--so_filename={library}"]  # fmt: skip
    command += [f"--so_flags={flags}"] * bool(flags) + [script.name]
    return subprocess.run(
        command, cwd=script.parent, timeout=SCRIPT_SECONDS, stdin=subprocess.DEVNULL,
        capture_output=True, text=True,
    )  # fmt: skip


def main():
    library = build(ROOT / "build" / "drill")
    if len(sys.argv) == 1:
        print(library)
        return
    packetdrill = find_packetdrill()
    if packetdrill is None:
        raise SystemExit("no packetdrill: docs/packetdrill.md says how to build it")
    failures = 0
    for name in sys.argv[1:]:
        done = run(packetdrill, library, Path(name).resolve())
        failures += done.returncode != 0
        print(f"{'ok' if done.returncode == 0 else 'FAILED':6} {name}", done.stdout + done.stderr)
    raise SystemExit(failures != 0)


if __name__ == "__main__":
    main()
