"""The creative upscale: an image goes in and is redrawn larger, as the settings say.

    image ─► size guard ─► passes of at most 2x, each:
             pre-upscale ─► resize ─► encode ─► noise ─► tiled denoising ─► decode ─► colour fix

The method is tiled ControlNet image-to-image (clarity-upscaler, refiners' MultiUpscaler), with the noise
level, not a step count, as the measure of creativity.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .models import CreativeModels
from .parameters import UpscaleParameters
from .planning import plan_sizes
from .pre_upscaling import pre_upscale
from .redrawing import Redraw
from .resizing import Size, check_image, join_alpha, resize, split_alpha
from .runtime import Runtime

Restore = Callable[[Tensor, Size, int], Tensor]
"""Enlarges `[B,3,H,W]` to a size (height, width), with the noise of a seed: what CCSR does."""


@dataclass(frozen=True)
class Upscaled:
    """The result of `upscale`."""

    image: Tensor
    """`[B,3,H,W]`, or `[B,4,H,W]` for an input with alpha; float32 in 0..1 on the CPU."""
    seed: int
    """The seed used: the one given, or the one drawn."""
    prompts: list[str]
    """The prompt of each picture as it was encoded, suffix included; empty where nothing was redrawn."""
    evaluations: int
    """Tiles denoised, over all passes and pictures."""
    models: dict[str, str]
    """File names of the models used, by role."""


@torch.inference_mode()
def upscale(
    image: Tensor,
    parameters: UpscaleParameters,
    models: CreativeModels | None = None,
    *,
    prompts: Sequence[str] | None = None,
    upscaler: Any = None,
    restore: Restore | None = None,
    runtime: Runtime | None = None,
) -> Upscaled:
    """Enlarge and redraw a batch of pictures.

    `image` is `[B,1|3|4,H,W]` float in 0..1, from 1x1 upward; every picture of the batch is independent of
    the others and has the noise of `seed + its index`. The settings are taken as they stand: a `preset` is
    resolved by `UpscaleParameters.with_preset` or `.from_mapping`. `models` may be None at creativity 0.
    `prompts` are those of the pictures, in place of `parameters.prompt`; the suffix is added to each.
    `upscaler` is an optional spandrel model that enlarges before each exact resize. `restore` takes its place
    in the first pass. Nothing is captioned or checked for safety here; `stages.run_stages` does.

    Raises `PictureError` and `SizeLimitError` for the picture, `ParameterError` for settings that do not fit
    the models, `MemoryLimitError` when not even one tile fits, and what `runtime.progress` raises to stop.
    """
    runtime = runtime or Runtime()
    image = check_image(image)
    sizes = plan_sizes((image.shape[2], image.shape[3]), parameters)
    seed = secrets.randbelow(2**32) if parameters.seed is None else parameters.seed
    color, alpha = split_alpha(image)
    redraw = None
    if parameters.creativity > 0:
        texts = [prompt + parameters.prompt_suffix for prompt in prompts or [parameters.prompt] * len(image)]
        redraw = Redraw.prepare(parameters, models, texts, seed, runtime)
    for number, pass_size in enumerate(sizes):
        parts = _groups(len(image), redraw.group_size(pass_size) if redraw else 1)
        enlarged = torch.empty(len(image), 3, *pass_size) if len(parts) > 1 else None
        for group in parts:
            before = color[group]
            if restore and number == 0:
                part = restore(before, pass_size, seed + group.start)
                before = resize(part, (before.shape[2], before.shape[3]))
            else:
                part = pre_upscale(before, pass_size, upscaler, runtime)
            if redraw:
                part = redraw(part, number, group, before)
            if enlarged is None:
                color = part
            else:
                enlarged[group] = part
        if enlarged is not None:
            color = enlarged
    return Upscaled(
        image=color if alpha is None else join_alpha(color, resize(alpha, sizes[-1])),
        seed=seed,
        prompts=redraw.prompts if redraw else [""] * len(image),
        evaluations=redraw.evaluations if redraw else 0,
        models=redraw.names if redraw else {},
    )


def _groups(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
