"""What is shown on standard error while pictures are made."""

from __future__ import annotations

import sys

from torch import Tensor
from tqdm import tqdm


class Display:
    """A bar with picture, stage and remaining time on a terminal; elsewhere a line per finished picture."""

    def __init__(self, count: int, *, quiet: bool) -> None:
        self.count = count
        self.quiet = quiet
        self._number = 0
        self._name = ""
        self._stage = ""
        # tqdm's own test for a terminal is `disable=None`.
        self._bar = tqdm(
            file=sys.stderr,
            disable=True if quiet else None,
            leave=False,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt}, {remaining} left",
            total=1,
        )

    def start(self, name: str) -> None:
        """The next picture begins."""
        self._number += 1
        self._stage = ""
        self._name = name

    def __call__(self, stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        """The engine's `Progress`."""
        if stage != self._stage or done < self._bar.n or total != self._bar.total:
            self._stage = stage
            self._bar.set_description_str(f"{self._number}/{self.count} {self._name}: {stage}", refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)

    def line(self, text: str) -> None:
        """What became of a picture."""
        if not self.quiet:
            self.note(f"{self._number}/{self.count} {text}")

    def note(self, text: str) -> None:
        """Something to be told however quiet the display is."""
        with tqdm.external_write_mode(file=sys.stderr):
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()
