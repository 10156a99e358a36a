"""Scenes for tests of driver, stack process and applications over the software card."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


class Scene:
    """Processes of a test; all are ended with it."""

    stack_code = (
        "import sys; from hdstack import service;"
        "service.main(sys.argv[1], sys.argv[2], sys.argv[3], ready_fd=1, addresses=sys.argv[4:])"
    )

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path
        self.processes = []

    def directory(self, name):
        path = self.tmp_path / name
        path.mkdir()
        return path

    def start(self, *arguments):
        """Start a Python process and wait for its ready line; returns the process."""
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        line = process.stdout.readline()
        assert line == "ready\n", f"{arguments} said {line!r}, returned {process.poll()}"
        return process

    def cards(self, *names):
        """A process with a software card for each name; two cards are joined by a cable."""
        directories = [self.directory(name) for name in names]
        self.card_process = self.start(HERE / "standin.py", *directories)
        return directories

    def stack(self, directory, number=1):
        """A stack process with addresses 10.9.0.`number` and fd00:9::`number`."""
        mac = f"02:00:00:00:00:{number:02x}"
        return self.start(
            "-c", self.stack_code, directory, f"10.9.0.{number}/24", mac, f"fd00:9::{number}/64"
        )

    def pair(self):
        """Two cards joined by a cable, a stack on each: run directories of 10.9.0.1 and .2."""
        a, b = self.cards("a", "b")
        self.stack(a, 1)
        self.stack(b, 2)
        return a, b

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            process.stdout.close()


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two cards joined by a cable, a stack on each, for all tests of a module."""
    scene = Scene(tmp_path_factory.mktemp("pair"))
    try:
        yield scene.pair()
    finally:
        scene.close()
