"""A checkpoint and a ControlNet that ComfyUI's own loaders take for Stable Diffusion 1.5.

They know it by its widths, so those are the published ones; the UNet has one level of four.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_layout import clip_key, controlnet_to_ldm, unet_to_ldm, vae_to_ldm

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def write_host_models(checkpoint: Path, controlnet: Path) -> None:
    """Half precision, half a gigabyte; weights are random, but those of the text encoder nought."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        tile = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        text = CLIPTextModel(CLIPTextConfig(**CLIP_L)).state_dict()
    parts = {
        "model.diffusion_model.": unet_to_ldm(filled(unet)),
        "first_stage_model.": vae_to_ldm(filled(vae)),
        "cond_stage_model.transformer.": {
            clip_key(key): torch.zeros(value.shape, dtype=torch.half) for key, value in text.items()
        },
    }
    save_file(
        {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}, checkpoint
    )
    save_file(controlnet_to_ldm(filled(tile)), controlnet)


def filled(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights that keep the variance of features, from one stretch of noise: drawing so many takes longer."""
    noise = torch.randn(2**16 + 1, generator=torch.Generator().manual_seed(0)).half()
    state = {}
    for key, value in network.state_dict().items():
        if value.ndim < 2:
            state[key] = torch.full(value.shape, float("norm" in key and key.endswith("weight"))).half()
        else:
            scale = (value.shape[0] / value.numel()) ** 0.5
            repeated = noise.repeat(value.numel() // len(noise) + 1)[: value.numel()]
            state[key] = (repeated * scale).reshape(value.shape)
    return state
