"""The canvas denoiser: tiles in batches, predictions blended, one estimate for the solver.

Averaging the network's clean estimate and advancing the canvas with one solver is the same map as
averaging the tiles' own first-order steps (MultiDiffusion), and also right for multistep and stochastic
solvers, whose state and noise belong to the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .errors import MemoryLimitError
from .runtime import Runtime
from .tiling import Arrangement, Job


class Denoiser(Protocol):
    """Predicts clean latents of tiles.

    Everything outside works in sigma space: a canvas is `x = x0 + sigma * noise`, a prediction is `x0`. So
    the engine's networks and a host's own can be put behind this.
    """

    def denoise(self, x: Tensor, sigma: float, jobs: Sequence[Job], progress: float) -> Tensor:
        """The clean estimate, guidance included, of `x` `[N,C,h,w]` at noise level `sigma`.

        `jobs` says, for each of the N, which picture and which tile it is; `progress` in 0..1 is the part
        of the steps already done. Float32 in and out, on the device of the networks. The result for one
        tile does not depend on which others are in the call.
        """


class Plan(Protocol):
    """Where the tiles of every step lie, such as `tiling.Grid`."""

    def at_step(self, step: int) -> Arrangement:
        """The arrangement of step 0, 1, ..."""


@dataclass(kw_only=True)
class TiledDenoiser:
    """Denoises a whole canvas through a `Denoiser` that sees tiles.

    The result does not depend on `batch` beyond the rounding of kernels. When memory runs out, `batch` is
    halved and the same tiles are evaluated again.
    """

    denoiser: Denoiser
    grid: Plan
    steps: int
    """Network evaluations to come for every tile, for the progress."""
    batch: int
    """Most tiles evaluated at once."""
    runtime: Runtime
    fixed_batch: bool = False
    """Fill the last batch up, so that compiled networks see one shape."""
    stage: str = "redraw"
    """What the progress calls it."""
    evaluations: int = field(default=0, init=False)
    """Tiles evaluated so far."""
    _estimate: Tensor | None = field(default=None, init=False, repr=False)

    def __call__(self, x: Tensor, sigma: float, index: int) -> Tensor:
        """The clean estimate of the canvas `x` `[B,C,h,w]` at noise level `sigma` in step `index`.

        Raises `MemoryLimitError` when a single tile does not fit, and what the progress raises.
        """
        arrangement = self.grid.at_step(index)
        weighted = [
            (Job(image, tile), weight.to(x.device))
            for image in range(len(x))
            for tile, weight in arrangement.weighted()
        ]
        estimate: Tensor | None = None
        done = 0
        while done < len(weighted):
            total = self.steps * len(weighted)
            self.runtime.progress(self.stage, index * len(weighted) + done, total, self._estimate)
            # Spread evenly: 9 tiles at most 4 at a time are 3 + 3 + 3.
            remaining = len(weighted) - done
            size = math.ceil(remaining / math.ceil(remaining / self.batch))
            chunk = weighted[done : done + size]
            predictions = self._evaluate(x, sigma, [job for job, _ in chunk], index / self.steps)
            if predictions is None:
                continue
            if estimate is None:
                estimate = predictions.new_zeros(len(x), *predictions.shape[1:-2], *x.shape[-2:])
            for (job, weight), prediction in zip(chunk, predictions, strict=False):
                job.tile.crop(estimate[job.image]).add_(prediction * weight)
            done += len(chunk)
            self.evaluations += len(chunk)
        assert estimate is not None
        self._estimate = estimate
        return estimate

    def _evaluate(self, x: Tensor, sigma: float, jobs: Sequence[Job], progress: float) -> Tensor | None:
        """One network evaluation; None after making it smaller because memory ran out."""
        if self.fixed_batch:
            jobs = [*jobs, *[jobs[-1]] * (self.batch - len(jobs))]
        try:
            tiles = torch.stack([job.tile.crop(x[job.image]) for job in jobs])
            return self.denoiser.denoise(tiles, sigma, jobs, progress)
        except Exception as error:
            if not self.runtime.memory.is_out_of_memory(error):
                raise
            if len(jobs) == 1:
                _, tile = jobs[0]
                raise MemoryLimitError(
                    f"out of memory on a single tile of {tile.height} x {tile.width} latents; choose a "
                    "smaller tile_size, a smaller type for the networks, or free memory"
                ) from error
            self.batch = len(jobs) // 2
        # Outside the handler, whose traceback would keep the failed attempt's tensors alive.
        self.runtime.memory.release()
        return None
