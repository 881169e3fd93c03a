"""Networks of the published sizes with random weights, as diffusers and transformers modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CONFIGURATIONS = Path(__file__).parent.parent / "pipelines" / "models" / "configs"

TINY: dict[str, dict[str, Any]] = {
    # One head, since attention of narrow heads costs as much as that of wide ones.
    "unet": {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 64, "attention_head_dim": 1},
    "vae": {"block_out_channels": [32, 32, 32, 32]},
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    },
}
"""Where the family `tiny` differs from SD1.5."""

NARROW: dict[str, dict[str, Any]] = {
    "unet": {"block_out_channels": [64, 128, 256, 256], "cross_attention_dim": 128, "attention_head_dim": 2},
    "vae": {"block_out_channels": [32, 32, 64, 64]},
    "text_encoder": TINY["text_encoder"],
}
"""Where the family `narrow` differs from SD1.5: a twentieth of the cost, shared alike by its parts."""

SMALLER = {"tiny": TINY, "narrow": NARROW}


def configuration(family: str, role: str) -> dict[str, Any]:
    """The configuration of a network in diffusers' terms: the published one, or that of a smaller family."""
    file = CONFIGURATIONS / f"{'sd15' if family in SMALLER else family}.json"
    return json.loads(file.read_text())[role] | SMALLER.get(family, {}).get(role, {})


def make_unet(family: str) -> UNet2DConditionModel:
    with uninitialised():
        return fill(UNet2DConditionModel.from_config(configuration(family, "unet")))


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    with uninitialised():
        return fill(ControlNetModel.from_unet(unet, load_weights_from_unet=False, conditioning_channels=3))


def make_vae(family: str) -> AutoencoderKL:
    with uninitialised():
        return fill(AutoencoderKL.from_config(configuration(family, "vae")))


def make_text_encoders(family: str) -> list[CLIPTextModel | CLIPTextModelWithProjection]:
    with uninitialised():
        encoders = [CLIPTextModel(CLIPTextConfig(**configuration(family, "text_encoder")))]
        if family == "sdxl":
            second = CLIPTextConfig(**configuration(family, "text_encoder_2"))
            encoders.append(CLIPTextModelWithProjection(second))
    return [fill(encoder) for encoder in encoders]


@contextmanager
def uninitialised() -> Iterator[None]:
    """Layers made inside keep whatever their memory holds, which `fill` overwrites faster."""
    layers = (nn.Linear, nn.Conv2d, nn.Embedding)
    patches = [patch.object(layer, "reset_parameters", lambda self: None) for layer in layers]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


@torch.no_grad()
def fill(module: Any) -> Any:
    """Give `module` repeatable random weights that keep the variance of its features; norms are neutral."""
    # Drawing billions of numbers takes minutes; one block is repeated, its length prime, so that no rows are.
    block = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1 if name.endswith("weight") else 0)
            continue
        scale = parameter[0].numel() ** -0.5
        for chunk in parameter.view(-1).split(len(block)):
            chunk.copy_(block[: len(chunk)]).mul_(scale)
    return module.eval().requires_grad_(False)
