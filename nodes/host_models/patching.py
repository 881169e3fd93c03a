"""A MODEL that any sampler of ComfyUI samples in tiles whose borders move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pipelines.runtime import Runtime
from ...pipelines.tiling import FLOPS_GROWTH, Grid, plan_grid
from ..host import HostMemory, check_interrupted
from .canvas import Canvas, Still

KEY = "creative_upscaler_tiling"
"""Under which a model holds what is added to it; a second tiling takes the first one's place."""

MULTIPLE, MULTIPLE_PIXELS = 8, 64
"""Sides of tiles are multiples of so many latents, as the deepest networks need, and of so many pixels."""

STABLE_DIFFUSION_TILES, OTHER_TILES = (512, 1088), (768, 1152)
"""Sides of the smallest and the largest tile, in pixels: of Stable Diffusion 1 and 2, trained at 512 and 768,
which follow a picture that is there at twice that, and of all others, trained at 1024 and on many aspects
around it. Two of the largest cover 2048 pixels with room to overlap."""

QUICK_STABLE_DIFFUSION_TILES = (512, 768)
"""Those of Stable Diffusion 1 and 2 where time counts: attention makes their larger tiles dearer by the pixel
(four tiles of 72 latents cover what one of 128 does, with nine tenths of the operations)."""

LARGE_FACTOR = 32
"""Pixels per latent of models that were trained at twice the resolution of `OTHER_TILES`."""


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How a canvas is tiled; sizes in pixels."""

    tile_size: int = 0
    """Side of a tile; 0 picks the cheapest that suits the model."""
    tile_overlap: int = 64
    """Least overlap of neighbours; at most half a tile is used."""
    tile_batch: int = 0
    """Tiles evaluated at once; 0 follows from free memory."""
    moving_borders: bool = True
    fewest: bool = True
    """Without a `tile_size`, as few tiles as cover a canvas; else those that need the fewest operations."""

    def side_range(self, model: Any, factor: int) -> tuple[int, int]:
        """Sides in latents of the smallest and the largest tile for a `BaseModel`, `factor` px per latent."""
        multiple = latent_multiple(factor)
        if self.tile_size:
            side = max(round(self.tile_size / factor / multiple), 1) * multiple
            return side, side
        small = STABLE_DIFFUSION_TILES if self.fewest else QUICK_STABLE_DIFFUSION_TILES
        smallest, largest = small if _is_small(model) else OTHER_TILES
        scale = 2 if factor >= LARGE_FACTOR else 1
        smallest, largest = (scale * side // factor // multiple * multiple for side in (smallest, largest))
        return max(smallest, multiple), max(largest, multiple)

    def plan(self, height: int, width: int, model: Any, factor: int) -> Grid:
        """The tiles of a canvas of `height` x `width` latents.

        As few as cover it are the least area, at which larger tiles are also better used by a GPU, and see
        more; the operations of most models hardly grow with the tile.
        """
        smallest, largest = self.side_range(model, factor)
        overlap = min(math.ceil(self.tile_overlap / factor), largest // 2)
        return plan_grid(
            height,
            width,
            smallest=smallest,
            largest=largest,
            overlap=overlap,
            multiple=latent_multiple(factor),
            growth=FLOPS_GROWTH if _is_small(model) and not self.fewest else 0.0,
        )


Change = Callable[[Tensor, Tensor, Any], Tensor]
"""What may be done to a canvas before it is evaluated: canvas, sigmas `[B]`, `BaseModel` to canvas."""


class Tiling:
    """What `tile_model` adds to a model; lives as long as any clone of it."""

    def __init__(self, options: TileOptions, factor: int | None, runtime: Runtime | None) -> None:
        self.options = options
        self.factor = factor
        self.runtime = runtime
        self.change: Change | None = None
        self.evaluations = 0
        """Tiles denoised since the last run began; all conditionings of a tile are counted once."""
        self.calls = 0
        """Batches of tiles given to ComfyUI since the last run began."""
        self._canvas: Canvas | None = None

    def sample(self, execute: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Around one run of a sampler, with the arguments of `CFGGuider.outer_sample`."""
        before, self._canvas = self._canvas, None
        self.evaluations = self.calls = 0
        try:
            return execute(*args, **kwargs)
        finally:
            if self._canvas is not None:
                self._canvas.close()
            self._canvas = before

    def prepare(
        self, execute: Any, model: ModelPatcher, noise_shape: Sequence[int], *args: Any, **kwargs: Any
    ) -> Any:
        """Around ComfyUI's estimate of the memory of a run: what has to fit is one tile, not the canvas."""
        if len(noise_shape) in (4, 5):
            grid = self._plan(noise_shape[-2], noise_shape[-1], model.model)
            if len(grid) > 1:
                noise_shape = [1, *noise_shape[1:-2], grid.rows.tile, grid.columns.tile]
        return execute(model, noise_shape, *args, **kwargs)

    def evaluate(
        self, execute: Any, model: Any, conds: list[Any], x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        """Around one evaluation of the canvas `x` `[B,C,...,h,w]`: clean estimates, one per conditioning."""
        if self.change is not None:
            x = self.change(x, sigma, model)
        if x.ndim not in (4, 5):
            raise ValueError(
                f"this model's latents have the shape {list(x.shape)}; only pictures and films can be tiled: "
                "leave out Tiled Diffusion for it"
            )
        canvas = self._canvas
        if canvas is None or not canvas.fits(x, model):
            if canvas is not None:
                canvas.close()
            grid = self._plan(x.shape[-2], x.shape[-1], model)
            canvas = self._canvas = Canvas(
                model=model,
                grid=grid if self.options.moving_borders else Still(grid),
                tiles=len(grid),
                tile=(grid.rows.tile, grid.columns.tile),
                batch=self.options.tile_batch,
                runtime=self.runtime or Runtime(HostMemory(), check_interrupted),
                sigmas=options.get("transformer_options", {}).get("sample_sigmas"),
            )
        done = canvas.evaluations, canvas.calls
        try:
            return canvas.evaluate(execute, conds, x, sigma, options)
        finally:
            self.evaluations += canvas.evaluations - done[0]
            self.calls += canvas.calls - done[1]

    def _plan(self, height: int, width: int, model: Any) -> Grid:
        return self.options.plan(height, width, model, self.factor or pixels_per_latent(model.latent_format))


def tile_model(
    model: ModelPatcher,
    *,
    tile_size: int = 0,
    tile_overlap: int = 64,
    tile_batch: int = 0,
    moving_borders: bool = True,
    fewest: bool = True,
    factor: int | None = None,
    runtime: Runtime | None = None,
) -> ModelPatcher:
    """A clone of a MODEL that any sampler of ComfyUI samples in tiles; the model itself stays as it is.

    The options are those of `TileOptions`. `factor` is the pixels per latent along each side, where the VAE
    is known to say other than the model. Without a `runtime` memory is ComfyUI's, and only interrupts are
    looked for: the sampler reports progress.

    Evaluations are intercepted where ComfyUI divides them into conditionings (`CALC_COND_BATCH`), above
    ControlNets and hooks and below guidance, so that also guiders with three conditionings, and guidance that
    evaluates once more, are tiled.
    """
    options = TileOptions(
        tile_size=tile_size,
        tile_overlap=tile_overlap,
        tile_batch=tile_batch,
        moving_borders=moving_borders,
        fewest=fewest,
    )
    tiling = Tiling(options, factor, runtime)
    tiled = model.clone()
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, tiling.sample),
        (WrappersMP.PREPARE_SAMPLING, tiling.prepare),
        (WrappersMP.CALC_COND_BATCH, tiling.evaluate),
    ):
        tiled.remove_wrappers_with_key(kind, KEY)
        tiled.add_wrapper_with_key(kind, KEY, wrapper)
    return tiled


def tiling_of(model: ModelPatcher) -> Tiling | None:
    """What `tile_model` added to this model or to one that it is a clone of."""
    wrappers = model.get_wrappers(WrappersMP.CALC_COND_BATCH, KEY)
    return wrappers[-1].__self__ if wrappers else None


def latent_multiple(factor: int) -> int:
    """What sides of tiles are multiples of, in latents of `factor` pixels."""
    return max(MULTIPLE, MULTIPLE_PIXELS // factor)


def pixels_per_latent(latent_format: Any) -> int:
    """Along each side, of a ComfyUI latent format; newer versions say it, for older ones it is known here."""
    said = getattr(latent_format, "spacial_downscale_ratio", None)
    if said is not None:
        return int(said)
    by_name = {
        "ChromaRadiance": 1,
        "SD_X4": 4,
        "SC_Prior": 32,
        "SC_B": 4,
        "LTXV": 32,
        "Wan22": 16,
        "Flux2": 16,
        "HunyuanImage21": 32,
        "HunyuanImage21Refiner": 16,
        "HunyuanVideo15": 16,
    }
    return by_name.get(type(latent_format).__name__, 8)


def _is_small(model: Any) -> bool:
    """Whether a `BaseModel` is a Stable Diffusion 1 or 2."""
    return type(model.latent_format).__name__ == "SD15"
