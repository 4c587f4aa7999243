"""``carcls monitor`` as a process, for tests; as a command it takes a picture of the live page:

python tests/live_monitor.py RUN_FOLDER PICTURE.png
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import browser

CURVES = "document.querySelectorAll('#measures .chart:first-child [data-colour]').length"


class Monitor:
    """It follows run folders that need not exist yet."""

    def __init__(self, folder: Path, runs: Sequence[Path]) -> None:
        self.runs, self.url, self._folder = runs, "", folder

    def start(self) -> None:
        """Serve; again at the same address if it did before."""
        port = self.url.split("/")[2].rpartition(":")[2] if self.url else "0"
        command = [sys.executable, "-m", "carcls", "monitor", "--port", port]
        self._process = subprocess.Popen(
            [*command, "--folder", str(self._folder), *map(str, self.runs)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.url = self._process.stdout.readline().split()[1]

    def stop(self) -> None:
        """At once."""
        with self._process:
            self._process.kill()


def take_picture(run: Path, path: Path) -> None:
    """The first screen of the newest run in a folder, as PNG."""
    with tempfile.TemporaryDirectory() as folder, browser.browser() as chromium:
        monitor = Monitor(Path(folder), [run])
        monitor.start()
        try:
            chromium.look(1280, 900)
            chromium.open(monitor.url)
            chromium.wait(f"{CURVES} > 0")
            chromium.picture(path)
        finally:
            monitor.stop()


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]), Path(sys.argv[2]))
