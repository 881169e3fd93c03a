"""One run of a sampler over one canvas: each evaluation of ComfyUI's as batches of tiles."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pipelines.batching import fitting_batch
from ...pipelines.runtime import Runtime
from ...pipelines.tiled_diffusion import Plan, TiledDenoiser
from ...pipelines.tiling import Arrangement, Job
from .batches import TileBatches
from .conditioning import CanvasEntry, unknown_keys
from .controls import CanvasControls
from .model_patches import CanvasPatches

MOST_ENTRIES = 64
"""Entries of conditionings kept prepared; those of a step are few, unless something makes new ones."""


@dataclass(frozen=True)
class Still:
    """A plan whose borders stay where they are."""

    plan: Plan

    def at_step(self, step: int) -> Arrangement:
        return self.plan.at_step(0)


class Canvas:
    """What is prepared once for all evaluations of a canvas: its tiles, conditionings and hints."""

    def __init__(
        self,
        *,
        model: Any,
        grid: Plan,
        tiles: int,
        tile: tuple[int, int],
        batch: int,
        runtime: Runtime,
        sigmas: Tensor | None,
    ) -> None:
        self.model = model
        self.tiles, self.tile = tiles, tile
        self.batch = batch
        self.runtime = runtime
        self.sigmas = None if sigmas is None else sigmas.detach().float().cpu()
        self.shape: torch.Size | None = None
        self.apart = False
        """Whether memory has run out on one tile, so that its conditionings are evaluated one by one."""
        self.patches: CanvasPatches | None = None
        self.evaluations = self.calls = 0
        self._grid = grid
        self._tiled: TiledDenoiser | None = None
        self._step, self._sigma = -1, None
        self._entries: dict[int, CanvasEntry] = {}
        self._controls = CanvasControls()
        self._warned = False

    def fits(self, x: Tensor, model: Any) -> bool:
        """Whether this was prepared for canvases of the shape of `x`."""
        return self.model is model and self.shape in (None, x.shape)

    def close(self) -> None:
        """Let go of the model: what evaluates tiles refers back to this, and a cycle would keep it loaded."""
        self._tiled = None
        self._entries.clear()

    def evaluate(
        self, execute: Any, conds: Sequence[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        """The clean estimates of `x` `[B,C,...,h,w]`, one per conditioning; zeros for None, as ComfyUI does.

        `execute` is ComfyUI's own evaluation, with or without what others have added to it.
        """
        self.shape = x.shape
        level = float(sigma[0])
        # All evaluations at one noise level see the same tiles, so that guidance compares like with like.
        if level != self._sigma:
            self._step, self._sigma = self._step + 1, level
        if self.tiles == 1:
            self.runtime.progress("redraw", *self._steps_done())
            self.evaluations, self.calls = self.evaluations + len(x), self.calls + 1
            return execute(self.model, conds, x, sigma, options)
        self._warn(conds)
        if self.patches is None:
            self.patches = CanvasPatches(options, x)
        present = [index for index, entries in enumerate(conds) if entries is not None]
        batches = TileBatches(self, execute, conds, x, sigma, options)
        if self._tiled is None:
            self._tiled = TiledDenoiser(
                denoiser=batches,
                grid=self._grid,
                steps=max(len(self.sigmas) - 1, 1) if self.sigmas is not None else 1,
                batch=1 if self.patches.found else self.batch or self._fitting_batch(conds, x),
                runtime=Runtime(self.runtime.memory, self._report),
            )
        self._tiled.denoiser = batches
        before = self._tiled.evaluations
        blended = self._tiled(x, level, self._step)
        self.evaluations += self._tiled.evaluations - before
        estimates = [torch.zeros_like(x) for _ in conds]
        for index, estimate in zip(present, blended.chunk(len(present), dim=1), strict=True):
            estimates[index] = estimate
        return estimates

    def entry(self, entry: dict[str, Any], x: Tensor, sigma: Tensor) -> CanvasEntry:
        """An entry of a conditioning, prepared for this canvas."""
        known = self._entries.get(id(entry))
        if known is None:
            if len(self._entries) >= MOST_ENTRIES:
                self._entries.clear()
            known = self._entries[id(entry)] = CanvasEntry.prepare(entry, x, sigma)
        return known

    def control(self, control: Any, jobs: Sequence[Job], x: Tensor, sigma: Tensor) -> Any:
        """A control for a batch of tiles."""
        return self._controls.for_tiles(control, jobs, x, sigma)

    def patched(self, options: dict[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
        """ComfyUI's options with what is patched into the model for a batch of tiles."""
        if self.patches is None or not self.patches.found:
            return options
        (job,) = jobs
        return self.patches.for_tile(options, job)

    def _fitting_batch(self, conds: Sequence[Any], x: Tensor) -> int:
        """Tiles that fit into the memory that ComfyUI says is free, by its own estimate for this model."""
        entries = [entry for group in conds for entry in group or ()]
        shapes = defaultdict(list)
        for entry in entries:
            for name, cond in entry.get("model_conds", {}).items():
                shapes[name].append(cond.size())
        shape = [max(len(entries), 1), *x.shape[1:-2], *self.tile]
        one = max(int(self.model.memory_required(shape, cond_shapes=shapes)), 1)
        return fitting_batch(one, self.runtime.memory)

    def _steps_done(self) -> tuple[int, int]:
        """Which of the steps an evaluation belongs to, by its noise level, and how many there are."""
        if self.sigmas is None:
            return 0, 1
        total = max(len(self.sigmas) - 1, 1)
        later = int((self.sigmas >= self._sigma * (1 - 1e-6)).sum()) - 1
        return min(max(later, 0), total - 1), total

    def _report(self, stage: str, done: int, total: int, preview: Tensor | None = None) -> None:
        step, steps = self._steps_done()
        tiles = total // self._tiled.steps
        self.runtime.progress(stage, step * tiles + done % tiles, steps * tiles)

    def _warn(self, conds: Sequence[Any]) -> None:
        if self._warned:
            return
        self._warned = True
        unknown = unknown_keys(conds)
        if unknown:
            logging.warning(
                "Tiled diffusion passes %s of the conditioning to every tile whole; places of the picture "
                "that it refers to are then those of each tile.",
                ", ".join(unknown),
            )
