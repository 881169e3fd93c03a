"""How CCSR cuts a canvas: windows at a fixed stride, weighted evenly or towards their middle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tiling import Arrangement, Tile

SPREAD = 0.1
"""Standard deviation of the Gaussian weights, in tiles (as in both official programs)."""


@dataclass(frozen=True)
class TileWindows:
    """The same arrangement of tiles at every step; all tiles have one shape."""

    arrangement: Arrangement

    def at_step(self, step: int) -> Arrangement:
        """Of every step, the same."""
        return self.arrangement

    @property
    def tiles(self) -> list[Tile]:
        return self.arrangement.tiles


def plan_windows(
    height: int, width: int, *, tile: int, stride: int, gaussian: bool, official: bool = False
) -> TileWindows:
    """Cover `height` x `width` latents with tiles of side `tile`, or of the canvas's where that is shorter.

    `official` puts the middle of the Gaussian weights half a latent too low, as the official programs do.
    """
    tile_height, tile_width = min(tile, height), min(tile, width)
    rows, columns = _starts(height, tile_height, stride), _starts(width, tile_width, stride)
    tiles = [Tile(top, left, tile_height, tile_width) for top in rows for left in columns]
    middle = tile_height / 2 if official else (tile_height - 1) / 2
    return TileWindows(
        Arrangement(
            tiles,
            _shares(rows, height, _weights(tile_height, middle, gaussian)),
            _shares(columns, width, _weights(tile_width, (tile_width - 1) / 2, gaussian)),
        )
    )


def _starts(length: int, tile: int, stride: int) -> list[int]:
    starts = list(range(0, length - tile + 1, stride))
    return starts if (length - tile) % stride == 0 else [*starts, length - tile]


def _weights(length: int, middle: float, gaussian: bool) -> Tensor:
    if not gaussian:
        return torch.ones(length, dtype=torch.float64)
    position = torch.arange(length, dtype=torch.float64)
    return torch.exp(-(((position - middle) / (SPREAD * length)) ** 2) / 2)


def _shares(starts: list[int], length: int, weights: Tensor) -> Tensor:
    """`[tiles, tile]`: weights along one axis, divided so that at every position they sum to 1."""
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + len(weights)] += weights
    return torch.stack([weights / total[start : start + len(weights)] for start in starts]).float()
