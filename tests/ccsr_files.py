"""CCSR's files in the published layouts: the networks of the reference outputs, and tiny ones for a host.

The reference outputs' weights follow from the tensors' names (tests/fixtures/ccsr/README.md).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_layout import clip_g_to_open_clip, controlnet_to_ldm, unet_to_ldm, vae_to_ldm

FIXTURES = Path(__file__).parent / "fixtures" / "ccsr"
HEAD_WIDTH = 8
"""Channels per attention head in the reference networks; in the published ones, 64."""

UNET = {
    "block_out_channels": (32, 64, 128, 128),
    "attention_head_dim": (4, 8, 16, 16),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "layers_per_block": 2,
}

SMALL = {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": (4, 4, 8, 8)}
"""In place of the same settings, for where the reference weights do not matter."""


def golden(version: str) -> dict[str, Tensor]:
    """The arrays of a reference file, `v1` or `v2`."""
    with np.load(FIXTURES / f"golden_{version}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def make_networks(
    vae_channels: tuple[int, ...] = (), **unet: object
) -> tuple[UNet2DConditionModel, ControlNetModel, AutoencoderKL]:
    """UNet, ControlNet with `condition_conv_in` in place of its hint encoder, and VAE, not initialised.

    The VAE is as wide as the UNet, or has `vae_channels`.
    """
    settings = {**UNET, **unet}
    with torch.device("meta"):
        network = UNet2DConditionModel(**settings)
        controlnet = ControlNetModel(**settings)
        controlnet.controlnet_cond_embedding = nn.Identity()
        controlnet.condition_conv_in = nn.Conv2d(4, settings["block_out_channels"][0], 3, padding=1)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=vae_channels or settings["block_out_channels"],
            layers_per_block=2,
            scaling_factor=0.18215,
            sample_size=512,
        )
    return network, controlnet, vae


def reference_tensor(name: str, shape: torch.Size) -> Tensor:
    """The weights of a reference network's tensor."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    normal = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
    if len(shape) == 1:
        return 1 + 0.05 * normal if name.endswith("weight") else 0.02 * normal
    return 0.7 * normal / normal[0].numel() ** 0.5


def v1_shapes(**unet: object) -> dict[str, torch.Size]:
    """Names and shapes of a version 1 checkpoint, without its text tower and its schedule."""
    network, controlnet, vae = make_networks(**unet)
    control = dict(controlnet.state_dict())
    joined = torch.cat([control["conv_in.weight"], control.pop("condition_conv_in.weight")], dim=1)
    del control["condition_conv_in.bias"]
    control["conv_in.weight"] = joined
    autoencoder = vae_to_ldm(vae.state_dict())
    diffusion = unet_to_ldm(network.state_dict())
    tensors = {f"model.diffusion_model.{key}": value for key, value in diffusion.items()}
    tensors |= controlnet_to_ldm(control)
    tensors |= {f"first_stage_model.{key}": value for key, value in autoencoder.items()}
    encoder = {k: v for k, v in autoencoder.items() if k.startswith(("encoder.", "quant_conv."))}
    tensors |= {f"cond_encoder.{key}": value for key, value in encoder.items()}
    return {key: value.shape for key, value in tensors.items()}


def v1_tensors(**unet: object) -> dict[str, Tensor]:
    """A version 1 checkpoint with the reference weights, without its text."""
    shapes = v1_shapes(**unet)
    return {
        key: reference_tensor(key.replace("cond_encoder.", "first_stage_model."), shape)
        for key, shape in shapes.items()
    }


def training_leftovers() -> dict[str, Tensor]:
    """Some of what a training leaves in a version 1 checkpoint."""
    return {
        "betas": torch.zeros(1000),
        "sqrt_recipm1_alphas_cumprod_inter": torch.zeros(45),
        "logvar": torch.zeros(1000),
        "decoder_loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4),
    }


def write_v1(path: Path, text: Mapping[str, Tensor], **unet: object) -> None:
    """Write `.safetensors`, or `.ckpt` as Lightning does, with these tensors of the text."""
    tensors = {**v1_tensors(**unet), **training_leftovers(), **text}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "optimizer_states": [{"state": {0: torch.zeros(3)}}]}, path)


def write_v2(folder: Path, **unet: object) -> None:
    """Write the folders `controlnet`, `vae` and `base` with the reference weights."""
    network, controlnet, vae = make_networks(**unet)
    for role, module, place in (
        ("unet", network, folder / "base" / "unet"),
        ("controlnet", controlnet, folder / "controlnet"),
        ("vae", vae, folder / "vae"),
    ):
        place.mkdir(parents=True)
        module.register_to_config(use_vae_encode_condition=True) if role == "controlnet" else None
        (place / "config.json").write_text(module.to_json_string())
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        tensors = {key: reference_tensor(f"{role}.{key}", shape) for key, shape in shapes.items()}
        save_file(tensors, place / "diffusion_pytorch_model.safetensors")
    base = folder / "base"
    (base / "vae").symlink_to(folder / "vae")
    text_tower(UNET["cross_attention_dim"]).save_pretrained(base / "text_encoder")
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def text_tower(width: int, layers: int = 3) -> CLIPTextModel:
    """A tiny text encoder of Stable Diffusion 2's kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=width,
                intermediate_size=2 * width,
                projection_dim=width,
                num_hidden_layers=layers,
                num_attention_heads=max(width // HEAD_WIDTH, 1),
                hidden_act="gelu",
            )
        ).eval()


def open_clip_tensors(tower: CLIPTextModel) -> dict[str, Tensor]:
    """A text tower under the names that Stable Diffusion 2's single files have for it."""
    width = tower.config.hidden_size
    tensors = clip_g_to_open_clip({**tower.state_dict(), "text_projection.weight": torch.zeros(width, width)})
    return {f"cond_stage_model.model.{key}": value for key, value in tensors.items()}
