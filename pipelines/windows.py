"""Where the windows of a large canvas lie, and the crops on which its statistics are measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CROP, CONTEXT = 8, 2
"""Side of a crop on which statistics are measured, and how much of it, at each side, is context only.

Many small crops beat few large ones by more than the short context spoils, on random and on fitted weights.
"""

BAND = 4
"""Width of the border of a canvas that is represented apart: zero padding gives it features of its own."""

RIDGE = 0.03
"""How much, relative to a channel's variance, calibration yields to leaving the weights as they are."""


class Core(NamedTuple):
    """The part of a window that counts, as fractions of its height and width; the rest is context."""

    top: float
    bottom: float
    left: float
    right: float

    def of(self, window: Tensor) -> Tensor:
        """The core of a feature map `[...,h,w]`, whatever its resolution."""
        height, width = window.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        return window[..., rows, round(self.left * width) : round(self.right * width)]


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


def plan_crops(height: int, width: int, *, tile: int) -> tuple[list[Window], Tensor]:
    """Crops of one size, about `tile`² positions in all, and how much each of their positions counts.

    They lie in all corners, along all borders, and over the whole canvas on a Fibonacci lattice, which is
    even along both axes. The weights, `[N,1,h,w]`, make each border, corner and the rest count by area.
    """
    size = min(CROP, height), min(CROP, width)
    count = tile * tile // (size[0] * size[1])
    golden = (math.sqrt(5) - 1) / 2
    along = [(i + 0.5) / (count // 16 + 1) for i in range(count // 16 + 1)]
    centres = [
        *product((0.0, 1.0), (0.0, 1.0)),
        *product((0.0, 1.0), along),
        *product(along, (0.0, 1.0)),
        *(((i + 0.5) / count, (i + 0.5) * golden % 1) for i in range(count)),
    ]
    crops = [Window(_around(y, height, size[0]), _around(x, width, size[1])) for y, x in centres]
    regions = 3 * _bands(height)[:, None] + _bands(width)
    seen = torch.stack([crop.cut(regions[None], 1) for crop in crops])
    counts = torch.zeros(seen.shape)
    for crop, counting in zip(crops, counts, strict=True):
        crop.core.of(counting).fill_(1)
    area = torch.bincount(regions.flatten(), minlength=9)
    weights = area / torch.bincount(seen.flatten(), counts.flatten(), minlength=9)
    return crops, counts * weights[seen]


def calibrate(weights: Tensor, crops: Tensor, canvas: Tensor) -> Tensor:
    """The weights of crops, changed no more than makes each channel's mean over them that of the canvas.

    `weights` `[N,1,h,w]`, as planned, for the crops `[N,C,H,W]` of the canvas `[C,...]`. What is like the
    canvas on average has like statistics some layers later: measured in decoders, the error is often several
    times smaller. A calibration estimator (Deville and Särndal 1992), with a ridge.
    """
    finer = F.interpolate(weights.to(crops.device), crops.shape[-2:])
    share = finer.sum((1, 2, 3))
    means = (crops.float() * finer).sum((2, 3)) / share[:, None]
    # Channel by channel, because a float32 copy of the canvas may be large.
    moments = torch.stack([torch.stack(torch.std_mean(channel.float())) for channel in canvas])
    deviation, mean = moments.to(crops.device).T
    distance = ((means - mean) / deviation.clamp_min(1e-6)).double().cpu()
    share = share.double().cpu() / share.sum().item()
    covariance = distance.T @ (share[:, None] * distance)
    ridge = RIDGE * torch.eye(len(covariance), dtype=torch.double)
    factors = 1 - distance @ torch.linalg.solve(covariance + ridge, distance.T @ share)
    return weights * factors.clamp(0.1, 5).float()[:, None, None, None]


def _around(centre: float, length: int, size: int) -> Span:
    """A span around a fraction of the canvas; it counts for a border only where it touches that."""
    start = min(max(round(centre * length - size / 2), 0), length - size)
    stop = start + size
    core_start = max(start + CONTEXT, BAND) if start else 0
    core_stop = min(stop - CONTEXT, length - BAND) if stop < length else length
    return Span(start, stop, core_start, core_stop)


def _bands(length: int) -> Tensor:
    """`[length]`: 0 in the band at the start, 2 in that at the end, 1 between."""
    bands = torch.ones(length, dtype=torch.long)
    bands[-BAND:] = 2
    bands[:BAND] = 0
    return bands
