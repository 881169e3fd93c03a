"""Tiny models of random weights built from ComfyUI's own classes; imported inside a ComfyUI process.

Each family has what its users wire: MODEL, VAE, CONDITIONING and, where one is known, a CONTROL_NET. Layers
are few and narrow, but of the published kinds, so that tiles, hints and conditioning go the ways they go in
the real models. Weights keep the variance of features; nothing is zero, as what is zero has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.cldm.mmdit
import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.sd
import torch
from comfy import latent_formats, supported_models
from comfy.model_patcher import ModelPatcher
from tiny_host_networks import (
    CPU,
    diffusion_model,
    engine_vae,
    fill,
    kl_vae,
    layers,
    seeded,
    unet_controlnet,
    wan_vae,
)
from torch import Tensor, nn

TEXT = 48
"""Width of the text features, in all families but SDXL."""
TOKENS = 11
POOLED = 32

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "legacy": False,
}


@dataclass
class Models:
    """What a user of one family has; all on the CPU in float32."""

    family: str
    model: ModelPatcher
    vae: comfy.sd.VAE
    positive: list[Any]
    negative: list[Any]
    control: comfy.controlnet.ControlNet | None
    """Without a hint, as its loader gives it."""

    def latents(self, height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
        """Random ones as the host's VAE node gives them, `height` x `width`."""
        form = self.model.model.latent_format
        depth = (1,) * (form.latent_dimensions - 2)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(batch, form.latent_channels, *depth, height, width, generator=generator)
        return form.process_out(noise)


def families() -> list[str]:
    """The families this ComfyUI knows."""
    return [name for name in BUILDERS if name != "zimage" or hasattr(supported_models, "ZImage")]


def build(family: str) -> Models:
    """The models of one of `families`, always the same."""
    with seeded(family):
        return BUILDERS[family]()


def build_inpainting() -> Models:
    """SD1.5 that also sees a mask and a masked picture, in five more channels."""
    with seeded("inpainting"):
        return build_sd15(in_channels=9)


def build_sd15(in_channels: int = 4) -> Models:
    config = UNET | {
        "in_channels": in_channels,
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 2],
        "transformer_depth": [1, 1, 0],
        "transformer_depth_output": [1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "context_dim": TEXT,
    }
    family = supported_models.SD15(config)
    return assemble("sd15", family, kl_vae(0.18215), unet_controlnet(family.unet_config))


def build_sdxl() -> Models:
    config = UNET | {
        "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [0, 0, 1, 1, 2, 2],
        "transformer_depth_middle": 2,
        "use_linear_in_transformer": True,
        "context_dim": 2 * TEXT,
        "num_classes": "sequential",
        "adm_in_channels": POOLED + 6 * 256,
    }
    family = supported_models.SDXL(config)
    # The real class would look into a state dict for the kind of prediction.
    family.model_type = lambda state_dict, prefix="": comfy.model_base.ModelType.EPS
    return assemble("sdxl", family, kl_vae(0.13025), unet_controlnet(family.unet_config), text=2 * TEXT)


def build_sd3() -> Models:
    side = 96
    depth = 2
    config = {
        "input_size": None,
        "patch_size": 2,
        "in_channels": 16,
        "depth": depth,
        "adm_in_channels": POOLED,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": TEXT, "out_features": 64 * depth},
        },
        "pos_embed_scaling_factor": None,
        "pos_embed_max_size": side,
        "num_patches": side**2,
    }
    family = supported_models.SD3(config)
    network = fill(
        comfy.cldm.mmdit.ControlNet(
            num_blocks=1, control_latent_channels=16, operations=layers(), dtype=torch.float32, **config
        )
    )
    form = latent_formats.SD3()
    form.shift_factor = 0  # as the host's loader sets it
    control = comfy.controlnet.ControlNet(network, compression_ratio=1, latent_format=form, load_device=CPU)
    return assemble("sd3", family, engine_vae(16, 1.5305), control)


def build_flux() -> Models:
    config = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": POOLED,
        "context_in_dim": TEXT,
        "hidden_size": 64,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [8, 12, 12],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
    }
    if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
        config["txt_ids_dims"] = []
    family = supported_models.Flux(config)
    network = fill(
        comfy.ldm.flux.controlnet.ControlNetFlux(
            latent_input=True,
            control_latent_channels=16,
            operations=layers(),
            dtype=torch.float32,
            **config,
        )
    )
    control = comfy.controlnet.ControlNet(
        network,
        compression_ratio=1,
        latent_format=latent_formats.Flux(),
        load_device=CPU,
        extra_conds=["y", "guidance"],
    )
    return assemble("flux", family, engine_vae(16, 0.3611), control)


def build_qwen() -> Models:
    """Qwen-Image, whose latents are those of a video with one frame."""
    config = {
        "image_model": "qwen_image",
        "in_channels": 64,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT,
        "axes_dims_rope": [8, 12, 12],
    }
    family = supported_models.QwenImage(config)
    network = fill(
        comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
            operations=layers(), dtype=torch.float32, **config
        )
    )
    control = comfy.controlnet.ControlNet(
        network, compression_ratio=1, latent_format=latent_formats.Wan21(), load_device=CPU, extra_conds=[]
    )
    return assemble("qwen", family, wan_vae(), control, pooled=False)


def build_zimage() -> Models:
    config = {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 256,
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 8,
        "n_kv_heads": 8,
        "multiple_of": 32,
        "ffn_dim_multiplier": 1.0,
        "qk_norm": True,
        "cap_feat_dim": TEXT,
        "axes_dims": [8, 12, 12],
        "axes_lens": [256, 512, 512],
        "rope_theta": 256.0,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }
    family = supported_models.ZImage(config)
    return assemble("zimage", family, engine_vae(16, 0.3611), None, pooled=False)


def assemble(
    name: str, family: Any, vae: comfy.sd.VAE, control: Any, text: int = TEXT, pooled: bool = True
) -> Models:
    prompts = [conditioning(text, seed=seed, pooled=pooled) for seed in (1, 2)]
    return Models(name, diffusion_model(family), vae, *prompts, control)


BUILDERS: dict[str, Callable[[], Models]] = {
    "sd15": build_sd15,
    "sdxl": build_sdxl,
    "sd3": build_sd3,
    "flux": build_flux,
    "qwen": build_qwen,
    "zimage": build_zimage,
}


def with_lora(models: Models, strength: float = 1.0) -> ModelPatcher:
    """A clone of the model with a LoRA on every third matrix, loaded by the host's own code."""
    weights = models.model.model.diffusion_model.state_dict()
    names = [name for name, weight in weights.items() if name.endswith(".weight") and weight.ndim == 2]
    file = {}
    with seeded("lora"):
        for name in names[::3]:
            rows, columns = weights[name].shape
            stem = "diffusion_model." + name.removesuffix(".weight")
            file[f"{stem}.lora_up.weight"] = torch.randn(rows, 2) / 2
            file[f"{stem}.lora_down.weight"] = torch.randn(2, columns) / math.sqrt(columns)
    model, _ = comfy.sd.load_lora_for_models(models.model, None, file, strength, 0)
    return model


def conditioning(width: int, *, seed: int, pooled: bool = True) -> list[Any]:
    """A random prompt."""
    generator = torch.Generator().manual_seed(seed)
    extra = {"pooled_output": torch.randn(1, POOLED, generator=generator)} if pooled else {}
    return [[torch.randn(1, TOKENS, width, generator=generator), extra]]


def picture(height: int, width: int, seed: int = 0, batch: int = 1) -> Tensor:
    """Something smooth with some texture: IMAGE `[B,H,W,3]` in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    texture = torch.rand(batch, 3, height, width, generator=generator) - 0.5
    return (0.9 * smooth + 0.1 * texture + 0.05).clamp(0, 1).movedim(1, -1).contiguous()
