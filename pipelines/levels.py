"""Evaluating a network of several resolutions on a large canvas: in windows where it is too large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .norm_statistics import held_statistics, measured_on
from .windows import Window, calibrate, plan_crops, plan_windows

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Level:
    """The layers of a network that work at one resolution, and what brings their input there."""

    layers: list[Layer]
    values_per_latent: int
    """How many numbers its widest features take for each position of the coarsest level."""


class Run(Protocol):
    """Evaluates levels, one after the other."""

    def __call__(self, levels: Sequence[Level], batch: Tensor, latents: float, evaluations: int) -> Tensor:
        """`latents`: area of the batch at the coarsest level; `evaluations`: all calls for a picture."""


@dataclass(frozen=True)
class LevelNetwork:
    """One of a VAE's two networks: its levels, each of twice the resolution of the one before, or of half."""

    stage: str
    module: nn.Module
    levels: Sequence[Level]
    finest_first: bool
    """True for an encoder, False for a decoder."""

    halo: int
    """Positions of context that a window's core depends on, at the coarser end of the window."""

    def evaluate(self, picture: Tensor, result: Tensor, *, tile: int, run: Run) -> bool:
        """Fill `result` `[C,H,W]` from `picture` `[C,H,W]`; False, at once, where something is not finite.

        The levels at which its features take more room than those of `tile`² latents do anywhere are
        evaluated in windows; the coarsest never is.
        """
        height, width = (result if self.finest_first else picture).shape[-2:]
        latents = height * width
        fine = self._count_too_large(latents, tile)
        coarse = len(self.levels) - fine
        # Windows and the rest meet where a position of the features is 2**fine positions of the finest level.
        scale = 2 ** (coarse - 1)
        canvas = height * scale, width * scale
        windows = plan_windows(*canvas, tile=tile * scale, halo=self.halo) if fine else []
        sample = plan_crops(*canvas, tile=tile * scale) if len(windows) > 1 else None
        evaluations = coarse + len(windows) + (sample is not None)

        def whole(levels: Sequence[Level], batch: Tensor) -> Tensor:
            for level in levels:
                batch = run([level], batch, latents, evaluations)
            return batch

        def in_windows(levels: Sequence[Level], source: Tensor, target: Tensor | None) -> Tensor | None:
            """Fills `target`, or a new tensor like the first outcome; None if an outcome is not finite."""
            source_scale, target_scale = (2**fine, 1) if self.finest_first else (1, 2**fine)

            def cut(parts: Sequence[Window]) -> Tensor:
                return torch.stack([part.cut(source, source_scale) for part in parts])

            with held_statistics(self.module) as norms:
                if sample is not None:
                    crops, weights = sample
                    batch = cut(crops)
                    with measured_on(norms, calibrate(weights, batch, source)):
                        run(levels, batch, sum(crop.area for crop in crops) / scale**2, evaluations)
                    del batch
                for window in windows:
                    part = run(levels, cut([window]), window.area / scale**2, evaluations)[0]
                    if not part.isfinite().all():
                        return None
                    if target is None:
                        target = part.new_empty(len(part), *canvas)
                    window.paste(part, target, target_scale)
            return target

        if not fine:
            outcome = whole(self.levels, picture[None])
        elif self.finest_first:
            features = in_windows(self.levels[:fine], picture, None)
            if features is None:
                return False
            outcome = whole(self.levels[fine:], features[None])
        else:
            features = whole(self.levels[:coarse], picture[None])[0]
            return in_windows(self.levels[coarse:], features, result) is not None
        result.copy_(outcome[0])
        return bool(result.isfinite().all())

    def _count_too_large(self, latents: int, tile: int) -> int:
        """How many levels, from the finest, are to be evaluated in windows."""
        finest_first = self.levels if self.finest_first else self.levels[::-1]
        values = [level.values_per_latent for level in finest_first]
        room = tile * tile * max(values)
        too_large = [index for index, value in enumerate(values[:-1]) if latents * value > room]
        return max(too_large, default=-1) + 1
