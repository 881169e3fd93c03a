"""What a base model is, from the names and shapes in its file: enough to plan with, in milliseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..planning import ModelShape
from .architectures import load_config
from .files import read_header
from .parts import Part
from .sources import ModelType, open_base

PUBLISHED_VALUES: dict[ModelType, int] = {"SD_1_5": 859_520_964, "SDXL": 2_567_463_684}
"""Numbers in the UNets of stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0."""


@dataclass(frozen=True)
class Outline:
    """A base model without its weights."""

    model_type: ModelType
    shape: ModelShape
    unet_values: int
    """Numbers in its UNet."""
    controlnet: Path | None
    """The ControlNet that a folder brings along."""


def read_outline(base: Path) -> Outline:
    """Of a single file or a diffusers folder. Raises ModelFileError for all that is no base model."""
    source = open_base(base)
    unet = source.unet.config or load_config(source.family, "unet")
    vae = source.vae.config if source.vae else None
    tensors = source.unet.shapes()
    first = tensors.get("input_blocks.0.0.weight", tensors.get("conv_in.weight"))
    if first is not None:
        unet = {**unet, "block_out_channels": [first.shape[0], *unet["block_out_channels"][1:]]}
    return Outline(
        model_type=source.model_type,
        shape=ModelShape.of_configs(source.model_type, unet, vae or load_config(source.family, "vae")),
        unet_values=sum(tensor.numel() for tensor in tensors.values()),
        controlnet=source.controlnet,
    )


def known_outline(model_type: ModelType) -> Outline:
    """Of a family as it was published, for where no file is at hand."""
    family = "sdxl" if model_type == "SDXL" else "sd15"
    unet, vae = load_config(family, "unet"), load_config(family, "vae")
    shape = ModelShape.of_configs(model_type, unet, vae)
    return Outline(model_type, shape, PUBLISHED_VALUES[model_type], None)


def count_values(network: Path) -> int:
    """Numbers in all tensors of one network's file or folder. Raises ModelFileError."""
    files = Part.of_folder(network).files if network.is_dir() else (network,)
    return sum(math.prod(shape) for file in files for _, shape in read_header(file).values())
