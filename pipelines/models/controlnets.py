"""Tile ControlNets: for SD1.5 `control_v11f1e_sd15_tile`, for SDXL plain ones and the Union ControlNet."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel

from ..errors import ModelFileError
from .architectures import load_config
from .files import read_header
from .layouts import Kind, identify, identify_folder
from .networks import load_controlnet_network
from .parts import Part

_KINDS = {
    Kind.CONTROLNET_SD15: ("sd15", "controlnet"),
    Kind.CONTROLNET_SDXL: ("sdxl", "controlnet"),
    Kind.CONTROLNET_UNION_SDXL: ("sdxl", "controlnet_union"),
}


def load_controlnet(
    path: Path, unet: UNet2DConditionModel, dtype: torch.dtype
) -> ControlNetModel | ControlNetUnionModel:
    """Load a ControlNet that fits `unet`, from a file in ldm's or diffusers' layout or a diffusers folder.

    Raises ModelFileError if it is of another family, incomplete, or of no kind that is used here.
    """
    header = {} if path.is_dir() else read_header(path)
    kind = identify_folder(path) if path.is_dir() else identify(header)
    family = "sdxl" if unet.config.addition_embed_type == "text_time" else "sd15"
    if kind not in _KINDS:
        raise ModelFileError(path, f"is {kind.value}; choose a tile ControlNet")
    if _KINDS[kind][0] != family:
        model = {"sd15": "SD 1.5", "sdxl": "SDXL"}[family]
        raise ModelFileError(
            path, f"is {kind.value}, and the base model is {model}; choose one made for {model}"
        )
    if path.is_dir():
        part = Part.of_folder(path)
    else:
        prefix = "control_model."
        part = Part.of_file(path, prefix if any(key.startswith(prefix) for key in header) else "")
    controlnet = load_controlnet_network(part, load_config(*_KINDS[kind]), dtype)
    for name in ("block_out_channels", "cross_attention_dim", "in_channels"):
        theirs, ours = _plain(controlnet.config[name]), _plain(unet.config[name])
        if theirs != ours:
            raise ModelFileError(path, f"does not fit the base model: its {name} are {theirs}, not {ours}")
    return controlnet


def _plain(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting
