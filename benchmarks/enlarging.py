"""What makes a small picture twice as large: resampling, networks, and the creative upscale."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ours import PACK, load_pack
from PIL import Image
from torch import Tensor

Method = Callable[[Tensor], Tensor]
"""From `[1,3,h,w]` to `[1,3,2h,2w]`, both in 0..1."""

BACK_PROJECTIONS = 2

BLUR, NOISE, JPEG = 0.8, 4.0, 75
"""Of the degraded variant: sigma in pixels of the small picture, deviation of 255, quality."""


def shrink(truth: Tensor) -> Tensor:
    """Half of a picture `[1,3,H,W]` of even sides, as 8 bits hold it: antialiased bicubic, a = -0.5."""
    height, width = truth.shape[-2:]
    small = F.interpolate(truth, (height // 2, width // 2), mode="bicubic", antialias=True)
    return (small.clamp(0, 1) * 255).round() / 255


def degrade(small: Tensor, seed: int) -> Tensor:
    """A small picture with a blur, noise and JPEG's blocks; the same for the same `seed`."""
    distance = torch.arange(-3.0, 4.0)
    kernel = (-0.5 * (distance / BLUR) ** 2).exp()
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(small, (3, 3, 3, 3), mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(seed)) * NOISE / 255
    file = io.BytesIO()
    to_pillow(blurred + noise).save(file, "JPEG", quality=JPEG)
    return from_pillow(Image.open(file))


def resample(image: Tensor) -> Tensor:
    """Lanczos, as the pack resizes."""
    resize = pack("resizing").resize
    return resize(image, (2 * image.shape[2], 2 * image.shape[3]))


def resample_consistently(image: Tensor) -> Tensor:
    """Lanczos, then what the result lacks of the input when shrunk is added to it, twice (Irani 1991)."""
    result = resample(image)
    for _ in range(BACK_PROJECTIONS):
        shrunk = F.interpolate(result, image.shape[-2:], mode="bicubic", antialias=True)
        result = result + F.interpolate(image - shrunk, result.shape[-2:], mode="bicubic")
    return result.clamp(0, 1)


def enlarge_with(file: Path) -> Method:
    """A super-resolution network, through the pack's own pre-upscaling."""
    pre_upscaling, runtime = pack("pre_upscaling"), pack("runtime").Runtime()
    upscaler = pre_upscaling.load_upscaler(file)

    def method(image: Tensor) -> Tensor:
        size = (2 * image.shape[2], 2 * image.shape[3])
        return pre_upscaling.pre_upscale(image, size, upscaler, runtime)

    return method


def load_models(base: Path, controlnet: Path | None = None, vae: Path | None = None) -> Any:
    return pack("models").load_models(base, controlnet=controlnet, vae=vae)


def redraw_with(base: Path, models: Any, upscaler: Path | None, settings: dict[str, Any]) -> Method:
    """The creative upscale with models loaded from `base`.

    What `settings` leave out is as its `limits.json` says, or default.
    """
    creative, starter = pack("creative"), pack("starter")
    parameters = pack("parameters").UpscaleParameters.from_mapping(
        {"seed": 0, "model_type": models.model_type, **settings}
    )
    parameters, _ = starter.Limits.read(base).fit(parameters, {"scale", *settings})
    network = pack("pre_upscaling").load_upscaler(upscaler) if upscaler else None

    def method(image: Tensor) -> Tensor:
        return creative.upscale(image, parameters, models, upscaler=network).image

    method.settings = {name: getattr(parameters, name) for name in SHOWN}  # type: ignore[attr-defined]
    return method


SHOWN = (
    "creativity",
    "detail",
    "shape_preservation",
    "guidance_scale",
    "num_inference_steps",
    "sampler",
    "scheduler",
    "color_fix",
)
"""Settings that a table names."""


def pack(module: str) -> Any:
    """A module of the pack's engine."""
    if PACK not in sys.modules:
        load_pack()
    return importlib.import_module(f"{PACK}.pipelines.{module}")


def from_pillow(picture: Image.Image) -> Tensor:
    """`[1,3,H,W]` in 0..1."""
    array = np.array(picture.convert("RGB"))
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def to_pillow(image: Tensor) -> Image.Image:
    """Of `[1,3,H,W]` in 0..1."""
    array = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(array.numpy())
