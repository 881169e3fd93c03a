"""Noise that belongs to a picture, whatever else is in its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PictureNoise:
    """Standard normal canvases; each picture has a CPU generator of its own, so none depends on another."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Fresh noise of the shape `[B,C,h,w]` of `x`, on the CPU, one generator per picture."""
        return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in self.generators])
