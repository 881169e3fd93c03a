"""Where the windows of a large canvas lie, and the crops on which its statistics are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

from torch import Tensor

from .norm_statistics import Core

CROP, CORE = 8, 4
"""Sides of a crop on which statistics are measured, and of the part of it that counts.

Measured on random and on fitted weights: many small crops beat few large ones by more than what the shorter
context spoils.
"""


@dataclass(frozen=True)
class Span:
    """One axis of a window, in positions of the canvas: what it covers and, of that, what counts."""

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def core(self) -> tuple[float, float]:
        """What counts, as fractions of what is covered."""
        return (self.core_start - self.start) / self.length, (self.core_stop - self.start) / self.length


@dataclass(frozen=True)
class Window:
    """A part of the canvas. A tensor may have `scale` times the canvas's positions per axis."""

    rows: Span
    columns: Span

    @property
    def area(self) -> int:
        return self.rows.length * self.columns.length

    @property
    def core(self) -> Core:
        return Core(*self.rows.core, *self.columns.core)

    def cut(self, canvas: Tensor, scale: int) -> Tensor:
        """The window of `[C,H,W]`."""
        rows = slice(self.rows.start * scale, self.rows.stop * scale)
        return canvas[:, rows, self.columns.start * scale : self.columns.stop * scale]

    def paste(self, outcome: Tensor, canvas: Tensor, scale: int) -> None:
        """Write what counts of a window's outcome into `[C,H,W]`."""
        rows = slice(self.rows.core_start * scale, self.rows.core_stop * scale)
        columns = slice(self.columns.core_start * scale, self.columns.core_stop * scale)
        canvas[:, rows, columns] = self.core.of(outcome)


def plan_windows(height: int, width: int, *, tile: int, halo: int) -> list[Window]:
    """Windows of one size, up to a tile and two halos per side, whose cores partition the canvas."""
    spans = _spread(height, tile, halo), _spread(width, tile, halo)
    return [Window(rows, columns) for rows, columns in product(*spans)]


def _spread(length: int, tile: int, halo: int) -> list[Span]:
    """Spans of one length with at least a halo around each core, except at the canvas's ends."""
    count = math.ceil((length - 2 * halo) / tile)
    if count <= 1:
        return [Span(0, length, 0, length)]
    size = math.ceil((length + 2 * halo * (count - 1)) / count)
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    seams = [0, *((before + size + after) // 2 for before, after in pairwise(starts)), length]
    return [Span(start, start + size, *seams[i : i + 2]) for i, start in enumerate(starts)]


def plan_crops(height: int, width: int, *, tile: int) -> list[Window]:
    """Crops of one size, `tile`² positions in all, spread over the canvas so that their cores stand for it.

    Their centres are a Fibonacci lattice, which covers both axes evenly.
    """
    size = min(CROP, height), min(CROP, width)
    count = max(1, tile * tile // (size[0] * size[1]))
    golden = (math.sqrt(5) - 1) / 2
    rows = (_around((i + 0.5) / count, height, size[0]) for i in range(count))
    columns = (_around((i + 0.5) * golden % 1, width, size[1]) for i in range(count))
    return [Window(*spans) for spans in zip(rows, columns, strict=True)]


def _around(centre: float, length: int, size: int) -> Span:
    """A span around a fraction of the canvas."""
    start = min(max(round(centre * length - size / 2), 0), length - size)
    context = (size - CORE) // 2 if size == CROP else 0
    return Span(start, start + size, start + context, start + size - context)
