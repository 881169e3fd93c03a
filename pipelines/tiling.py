"""Equal tiles over a canvas, with smooth weights that sum to one and borders that move between steps.

The canvas is sampled as one: at every step the denoiser sees equally sized tiles, and its predictions are
averaged with smooth weights (MultiDiffusion, Bar-Tal et al. 2023, eq. 5; smooth weights as in Mixture of
Diffusers, Jiménez 2023). Moving the borders from step to step (SpotDiffusion, Frolov et al. 2024) keeps
what little disagreement is left from adding up in one place, and costs no evaluation here: inner tiles
shift within the slack of their overlaps, and the crossing from one tile to the next wanders inside each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, cover an interval evenly however many are taken."""

LEAST_OVERLAP = 0.75
"""Part of the planned overlap that a moved border leaves at least."""

RAMP = 0.75
"""Part of an overlap over which weights rise; the rest is room for the crossing to move."""

FLOPS_GROWTH = 1 / 340
"""How much dearer a latent becomes per latent of either tile side beyond 64, from attention (SD1.5 with
ControlNet, square tiles: 264 MFLOP at 64, 276 at 72, 317 at 96, 390 at 128; SDXL grows less)."""


class Tile(NamedTuple):
    """A rectangle of the canvas, in latents."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, canvas: Tensor, factor: int = 1) -> Tensor:
        """This part of `canvas` `[...,h,w]`, whose sides are `factor` times the latents'; a view."""
        top, left, height, width = (factor * side for side in self)
        return canvas[..., top : top + height, left : left + width]


class Job(NamedTuple):
    """One tile of one picture of the batch."""

    image: int
    tile: Tile


@dataclass(frozen=True)
class Axis:
    """Equal tiles along one side of the canvas: `count` of size `tile`, spread evenly over `length`."""

    length: int
    tile: int
    count: int
    overlap: int
    """The least overlap asked for."""

    def starts(self, phase: float = 0.0) -> list[int]:
        """Where each tile begins; inner tiles are shifted by up to their slack for `phase` in -1..1."""
        if self.count == 1:
            return [0]
        stride = (self.length - self.tile) / (self.count - 1)
        starts = [round(i * stride) for i in range(self.count)]
        tightest = min(a + self.tile - b for a, b in pairwise(starts))
        slack = min(tightest - math.ceil(LEAST_OVERLAP * self.overlap), self.tile // 4)
        shift = round(phase * max(slack, 0))
        return [starts[0], *(start + shift for start in starts[1:-1]), starts[-1]]

    def weights(self, starts: list[int], phase: float = 0.0) -> Tensor:
        """`[count, tile]`: each tile's share along this axis; at every position the shares sum to 1."""
        position = torch.arange(self.tile, dtype=torch.float64)
        shares = torch.ones(self.count, self.tile, dtype=torch.float64)
        for i, (start, following) in enumerate(pairwise(starts)):
            overlap = start + self.tile - following
            ramp = RAMP * min(overlap, 2 * self.overlap)
            center = following + overlap / 2 + phase * (min(overlap, 2 * self.overlap) - ramp) / 2
            shares[i] *= 1 - _rise((start + position + 0.5 - center) / ramp)
            shares[i + 1] *= _rise((following + position + 0.5 - center) / ramp)
        total = torch.zeros(self.length, dtype=torch.float64)
        for start, share in zip(starts, shares, strict=True):
            total[start : start + self.tile] += share
        for start, share in zip(starts, shares, strict=True):
            share /= total[start : start + self.tile]
        return shares.float()


def _rise(x: Tensor) -> Tensor:
    """0 below -1/2, 1 above 1/2, half a cosine between."""
    return 0.5 - 0.5 * torch.cos(math.pi * (x + 0.5).clamp(0, 1))


@dataclass(frozen=True)
class Arrangement:
    """The tiles of one step with their weights, each `[tile height, tile width]`."""

    tiles: list[Tile]
    row_weights: Tensor
    column_weights: Tensor

    def weighted(self) -> Iterator[tuple[Tile, Tensor]]:
        """Each tile with its weights; over all tiles the weights of a position sum to 1."""
        columns = len(self.column_weights)
        for i, tile in enumerate(self.tiles):
            yield tile, self.row_weights[i // columns][:, None] * self.column_weights[i % columns][None, :]


@dataclass(frozen=True)
class Grid:
    """The plan of a whole canvas of `rows.length` x `columns.length` latents."""

    rows: Axis
    columns: Axis

    def __len__(self) -> int:
        return self.rows.count * self.columns.count

    def at_step(self, step: int) -> Arrangement:
        """The arrangement of step 0, 1, ...; a pure function of the step, the same for every picture."""
        phases = [2 * ((step + 1) * GOLDEN_RATIO * k % 1) - 1 for k in (1, 2, 3, 4)]
        row_starts, column_starts = self.rows.starts(phases[0]), self.columns.starts(phases[1])
        return Arrangement(
            [
                Tile(top, left, self.rows.tile, self.columns.tile)
                for top in row_starts
                for left in column_starts
            ],
            self.rows.weights(row_starts, phases[2]),
            self.columns.weights(column_starts, phases[3]),
        )


def padded_length(length: int, largest: int, multiple: int) -> int:
    """The side, in latents, that a canvas of `length` latents must be padded to.

    A side that fits into one tile becomes that tile, which must be a `multiple` of what the network
    divides by; a longer one is covered by several tiles and stays as it is.
    """
    return length if length > largest else math.ceil(length / multiple) * multiple


def plan_grid(
    height: int,
    width: int,
    *,
    smallest: int,
    largest: int,
    overlap: int,
    multiple: int = 8,
    growth: float = FLOPS_GROWTH,
) -> Grid:
    """Cover a canvas of `height` x `width` latents, padded by `padded_length`, at the least cost.

    Each axis takes the tile side between `smallest` and `largest`, in steps of `multiple`, whose tiles
    need the fewest operations; all tiles of the canvas have one shape. `growth` is how much dearer larger
    tiles are by that count, as `FLOPS_GROWTH`; with 0 the least area wins, and so few and large tiles.
    Raises `ValueError` for an overlap of more than half the largest tile.
    """
    if overlap > largest // 2:
        raise ValueError(f"an overlap of {overlap} latents needs tiles of {2 * overlap}, not {largest}")
    smallest = max(smallest, math.ceil(2 * overlap / multiple) * multiple)
    return Grid(*(_plan_axis(side, smallest, largest, overlap, multiple, growth) for side in (height, width)))


def _plan_axis(length: int, smallest: int, largest: int, overlap: int, multiple: int, growth: float) -> Axis:
    if length <= largest:
        return Axis(length, length, 1, overlap)

    def cost(tile: int) -> float:
        return _count(length, tile, overlap) * tile * (1 + growth * (tile - 64))

    tile = min(range(smallest, largest + 1, multiple), key=cost)
    return Axis(length, tile, _count(length, tile, overlap), overlap)


def _count(length: int, tile: int, overlap: int) -> int:
    return math.ceil((length - tile) / (tile - overlap)) + 1
