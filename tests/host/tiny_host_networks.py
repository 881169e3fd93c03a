"""Networks of random weights in ComfyUI's own classes, for `tiny_host_models`; imported inside a ComfyUI."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ldm.wan.vae
import comfy.ops
import comfy.sd
import torch
from comfy import model_management
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine
from comfy.model_patcher import ModelPatcher
from torch import nn

CPU = torch.device("cpu")
LOUDNESS = 2.0
"""What brings the latents of `picture` to about unit variance."""

KL = {
    "double_z": True,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def diffusion_model(family: Any) -> ModelPatcher:
    family.set_inference_dtype(torch.float32, None)
    model = family.get_model({}, "")
    fill(model.diffusion_model)
    return ModelPatcher(model, load_device=CPU, offload_device=CPU)


def unet_controlnet(config: dict[str, Any]) -> comfy.controlnet.ControlNet:
    unknown = ("out_channels", "transformer_depth_output", "disable_unet_model_creation")
    known = {key: value for key, value in config.items() if key not in unknown}
    network = comfy.cldm.cldm.ControlNet(**{**known, "hint_channels": 3, "operations": layers()})
    return comfy.controlnet.ControlNet(fill(network), load_device=CPU)


def kl_vae(scale: float) -> comfy.sd.VAE:
    """The autoencoder of SD1.5 and SDXL, whose latents the model multiplies by `scale`."""
    parameters = {"embed_dim": 4, "ddconfig": KL | {"z_channels": 4}}
    network = AutoencoderKL(**parameters)
    fill(network)
    network.quant_conv.weight.mul_(LOUDNESS / scale)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": parameters})


def engine_vae(channels: int, scale: float) -> comfy.sd.VAE:
    """The autoencoder of SD3, Flux and Z-Image, without quantising convolutions."""
    parts = {"params": KL | {"z_channels": channels}}
    network = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", **parts},
        decoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Decoder", **parts},
    )
    fill(network).encoder.conv_out.weight.mul_(LOUDNESS / scale)
    # The host's own loader knows one width only; the rest of what it sets up is the same.
    vae = kl_vae(1.0)
    vae.first_stage_model = network.to(vae.vae_dtype)
    vae.patcher = ModelPatcher(network, load_device=vae.device, offload_device=CPU)
    vae.latent_channels = channels
    return vae


def wan_vae() -> comfy.sd.VAE:
    """The autoencoder of Qwen-Image, made for videos."""
    network = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, num_res_blocks=2, temperal_downsample=[False, True, True]
    )
    fill(network).encoder.head[-1].weight.mul_(LOUDNESS)
    # Older loaders know one width only.
    with patch.object(comfy.ldm.wan.vae, "WanVAE", lambda **_: network):
        return comfy.sd.VAE(sd=network.state_dict())


def layers() -> Any:
    return comfy.ops.disable_weight_init


@torch.no_grad()
def fill(network: nn.Module) -> Any:
    """Random weights that keep the variance of features; norms are near neutral."""
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2 and not name.endswith(("gamma", "pos_embed")):
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif name.endswith(("weight", "gamma", "scale")):
            parameter.normal_(1, 0.1)
        else:
            parameter.normal_(0, 0.1)
    for name, buffer in network.named_buffers():
        if name.endswith("pos_embed"):
            buffer.normal_(0, 0.3)
    return network.eval().requires_grad_(False)


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """The same random numbers every time, and the state of those outside as before."""
    state = torch.get_rng_state()
    torch.manual_seed(zlib.crc32(name.encode()))
    try:
        yield
    finally:
        torch.set_rng_state(state)


assert model_management.get_torch_device() == CPU, "start ComfyUI with --cpu"
