"""What a creative upscale will do, from numbers alone: sizes, passes, tiles, network evaluations, memory.

The engine plans its own work with these functions, and an interface can show the same before a run. They
need no weights, only the `ModelShape`, and import nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .batching import fitting_batch, tile_bytes
from .parameters import UpscaleParameters
from .resizing import Size, pass_sizes, target_size
from .runtime import Memory
from .schedules import count_steps
from .tiling import Grid, padded_length, plan_grid

CREATIVITY_PER_PASS = 0.8
"""Each later pass has this much of the creativity of the one before (clarity-upscaler)."""

MOST_FAITHFUL, MOST_SHAPE = 0.6, 1.5
"""Creativity and shape preservation above which the peers' users report things that change into others, and
stiff, oversharpened edges."""

CODEC_TILE = 128
"""Side, in latents, of the largest picture that the VAE sees whole: the default of `LatentCodec`."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a plan depends on of a base model."""

    scale_factor: int
    """Pixels per latent, along each side."""
    latent_multiple: int
    """Sides of the UNet's input, in latents, are multiples of this."""
    tile_range: Size
    """Sides of the smallest and the largest tile, in latents, that the UNet draws well."""
    unet_width: int
    """Channels of the UNet's first block."""
    vae_widths: tuple[int, ...]
    """Channels of the VAE's blocks, the finest first."""

    @classmethod
    def of_configs(cls, model_type: str, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> ModelShape:
        """From the networks' configurations in diffusers' terms.

        SD1.5 was trained at 64 and SDXL at 128 latents, SDXL on many aspects and so also on shorter sides.
        Without self-attention a UNet sees only its surroundings, so that larger tiles are only cheaper.
        """
        if model_type == "SDXL":
            tiles = 96, 128
        else:
            side = unet["sample_size"]
            middle = unet.get("mid_block_type", "UNetMidBlock2DCrossAttn")
            blocks = (middle, *unet.get("down_block_types", ()))
            local = unet.get("only_cross_attention") is True or not any("Attn" in str(b) for b in blocks)
            tiles = side, 8 * side if local else round(1.5 * side / 8) * 8
        return cls(
            scale_factor=2 ** (len(vae["block_out_channels"]) - 1),
            latent_multiple=2 ** (len(unet["block_out_channels"]) - 1),
            tile_range=tiles,
            unet_width=unet["block_out_channels"][0],
            vae_widths=tuple(vae["block_out_channels"]),
        )


@dataclass(frozen=True)
class PassPlan:
    """One pass of the redraw over one picture."""

    size: Size
    grid: Grid
    """Its tiles, in latents."""
    steps: int

    @property
    def evaluations(self) -> int:
        """Tiles denoised, each with and without prompt where there is guidance."""
        return self.steps * len(self.grid)


@dataclass(frozen=True)
class UpscalePlan:
    """What an upscale of one picture does."""

    size: Size
    """Of the result."""
    passes: tuple[PassPlan, ...]
    """None at creativity 0, which only resizes."""

    @property
    def evaluations(self) -> int:
        """As `Upscaled.evaluations` of a run with one picture."""
        return sum(part.evaluations for part in self.passes)


@dataclass(frozen=True)
class MemoryNeed:
    """Estimated bytes on the device, at the most demanding moment of an upscale."""

    least: int
    """With one tile at a time."""
    expected: int
    """With `batch` tiles at a time."""
    batch: int
    """Tiles evaluated at once, as the settings or the free memory say."""


def plan_upscale(source: Size, parameters: UpscaleParameters, shape: ModelShape) -> UpscalePlan:
    """For a picture of `source` (height, width) in pixels.

    CCSR, captions and the safety check are not part of it. Raises `SizeLimitError`.
    """
    sizes = plan_sizes(source, parameters)
    if parameters.creativity == 0:
        return UpscalePlan(sizes[-1], ())
    return UpscalePlan(
        sizes[-1],
        tuple(
            PassPlan(
                size,
                plan_tiles(size, parameters, shape),
                count_steps(parameters.num_inference_steps, pass_creativity(parameters, number)),
            )
            for number, size in enumerate(sizes)
        ),
    )


def plan_sizes(source: Size, parameters: UpscaleParameters) -> list[Size]:
    """Sizes after each pass; the last is that of the result. Raises `SizeLimitError`.

    Only redrawing goes in steps of 2x; a plain enlargement is best done at once.
    """
    target = target_size(*source, parameters)
    return pass_sizes(source, target) if parameters.creativity > 0 else [target]


def pass_creativity(parameters: UpscaleParameters, number: int) -> float:
    """The creativity of pass 0, 1, ..."""
    return parameters.creativity * CREATIVITY_PER_PASS**number


def plan_tiles(size: Size, parameters: UpscaleParameters, shape: ModelShape) -> Grid:
    """The tiles for a canvas of `size` (height, width) in pixels."""
    factor, multiple = shape.scale_factor, shape.latent_multiple
    smallest, largest = shape.tile_range
    if parameters.tile_size:
        side = max(round(parameters.tile_size / factor / multiple), 1) * multiple
        smallest = largest = side
    overlap = min(math.ceil(parameters.tile_overlap / factor), largest // 2)
    height, width = (padded_length(math.ceil(side / factor), largest, multiple) for side in size)
    return plan_grid(height, width, smallest=smallest, largest=largest, overlap=overlap, multiple=multiple)


def estimate_memory(
    plan: UpscalePlan,
    parameters: UpscaleParameters,
    shape: ModelShape,
    memory: Memory,
    *,
    weights: int,
    itemsize: int,
    vae_itemsize: int,
) -> MemoryNeed:
    """What the device of `memory` has to hold: denoising networks and a batch of tiles, or the VAE at work.

    `weights` are the bytes of UNet and ControlNet, `itemsize` and `vae_itemsize` those of one of their
    numbers. Without passes nothing is needed.
    """
    least = expected = batch = 0
    for part in plan.passes:
        one = pass_tile_bytes(part.grid, parameters, shape.unet_width, itemsize)
        tiles = min(parameters.tile_batch or fitting_batch(one, memory), len(part.grid))
        vae = _codec_bytes(shape, part.grid.rows.length * part.grid.columns.length, vae_itemsize)
        least = max(least, weights + one, vae)
        expected = max(expected, weights + tiles * one, vae)
        batch = max(batch, tiles)
    return MemoryNeed(least, expected, batch)


def pass_tile_bytes(grid: Grid, parameters: UpscaleParameters, width: int, itemsize: int) -> int:
    """Of activations, for one tile of the grid, in a UNet whose first block has `width` channels."""
    samples = 1 if parameters.guidance_scale == 1 else 2
    return tile_bytes(width, itemsize, grid.rows.tile, grid.columns.tile, samples=samples)


def find_risks(parameters: UpscaleParameters) -> list[str]:
    """Warnings about settings that are allowed and rarely wanted."""
    risks = []
    if parameters.creativity > MOST_FAITHFUL:
        risks.append(
            f"creativity {parameters.creativity:g}: above {MOST_FAITHFUL:g} things start to change into "
            "others"
        )
    if parameters.creativity > 0 and parameters.shape_preservation > MOST_SHAPE:
        risks.append(
            f"shape_preservation {parameters.shape_preservation:g}: above {MOST_SHAPE:g} the result stiffens "
            "and edges are overdrawn"
        )
    return risks


def _codec_bytes(shape: ModelShape, latents: int, itemsize: int) -> int:
    """Activations of `LatentCodec` for a canvas of so many latents: three of the widest features it holds.

    Levels whose features would take more room than those of `CODEC_TILE`² latents work in windows, whose
    margins (up to a fifth) are not counted; the coarsest never does.
    """
    widths = shape.vae_widths[::-1]
    values = [widths[0], *(max(pair) * 4**level for level, pair in enumerate(pairwise(widths), 1))]
    room = CODEC_TILE**2 * max(values)
    whole = max([latents * values[0], *(latents * v for v in values if latents * v <= room)])
    return 3 * itemsize * max(whole, min(latents * max(values), room))
