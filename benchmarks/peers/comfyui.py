"""ComfyUI in this process, with models of random weights: what its peers run in."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jobs import CONTROL_WEIGHT, Job, UnavailableError, make_picture, torch_dtype
from networks import configuration, fill, uninitialised
from torch import Tensor, nn


@dataclass(frozen=True)
class Host:
    """ComfyUI's objects as its nodes exchange them."""

    nodes: Any
    """ComfyUI's module of core nodes."""
    model: Any
    vae: Any
    positive: list[Any]
    """With the ControlNet, as its node applies it."""
    negative: list[Any]
    prompts: tuple[list[Any], list[Any]]
    """Both without it."""
    control: Any
    canvas: Tensor
    """The enlarged picture `[1,H,W,3]`, also the ControlNet's hint."""

    networks: Mapping[str, list[nn.Module]]


def start(job: Job) -> Host:
    """Import ComfyUI from its checkout and build the models; the ControlNet is in the conditioning."""
    if job.dry:
        raise UnavailableError("ComfyUI's programs are measured, not counted")
    enter(job.checkout("comfyui"), job.device)
    nodes, controlnets, cldm, ops, patcher, sd, supported, management = (
        importlib.import_module(name)
        for name in (
            "nodes",
            "comfy.controlnet",
            "comfy.cldm.cldm",
            "comfy.ops",
            "comfy.model_patcher",
            "comfy.sd",
            "comfy.supported_models",
            "comfy.model_management",
        )
    )
    dtype, device = torch_dtype(job), management.get_torch_device()
    published = configuration(job.family, "unet")
    config = unet_config(published)
    if job.family == "sdxl":
        family = supported.SDXL(config)
    else:
        family = supported.SD15(config)
        family.unet_config["num_heads"] = published["attention_head_dim"]  # diffusers' name for their number
    family.set_inference_dtype(dtype, None)
    with uninitialised():
        model = family.get_model({}, "")
        fill(model.diffusion_model)
        control = cldm.ControlNet(
            **{key: value for key, value in family.unet_config.items() if key not in NOT_CONTROL},
            hint_channels=3,
            device=management.unet_offload_device(),
            operations=ops.disable_weight_init,
        )
        fill(control)
        vae = sd.VAE(
            sd={},
            config={"params": vae_config(configuration(job.family, "vae")["block_out_channels"])},
            dtype=dtype,
        )
        fill(vae.first_stage_model)
    hint = F.interpolate(make_picture(job.size), scale_factor=job.scale, mode="bicubic", antialias=True)
    canvas = hint.clamp(0, 1).movedim(1, -1)
    prompts = conditionings(config["context_dim"])
    loaded = controlnets.ControlNet(control, load_device=device)
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        *prompts,
        loaded,
        canvas,
        CONTROL_WEIGHT,
        0.0,
        1.0,
    )
    return Host(
        nodes=nodes,
        model=patcher.ModelPatcher(model, device, management.unet_offload_device()),
        vae=vae,
        positive=positive,
        negative=negative,
        prompts=prompts,
        control=loaded,
        canvas=canvas,
        networks={
            "encode": [vae.first_stage_model.encoder],
            "sample": [model.diffusion_model, control],
            "decode": [vae.first_stage_model.decoder],
        },
    )


def enter(checkout: Path, device: str) -> None:
    """Make ComfyUI's modules importable, set up for a device: `cpu` or `cuda`."""
    sys.path.insert(0, str(checkout))
    sys.argv = ["main.py", "--use-pytorch-cross-attention", *(["--cpu"] if device == "cpu" else [])]
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("utils.extra_config")  # before another package takes the name
    logging.disable(logging.WARNING)


NOT_CONTROL = ("out_channels", "transformer_depth_output", "disable_unet_model_creation")
"""What ComfyUI's UNet takes and its ControlNet does not."""


def unet_config(diffusers: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers UNet's configuration in ComfyUI's terms."""
    channels, layers = diffusers["block_out_channels"], diffusers["transformer_layers_per_block"]
    depths = [
        depth if block.startswith("CrossAttn") else 0
        for block, depth in zip(diffusers["down_block_types"], layers, strict=True)
    ]
    xl = "addition_embed_type" in diffusers
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "num_res_blocks": [2] * len(channels),
        "channel_mult": [width // channels[0] for width in channels],
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_output": [depth for depth in depths for _ in range(3)],
        "transformer_depth_middle": layers[-1],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": xl,
        "context_dim": diffusers["cross_attention_dim"],
        "num_classes": "sequential" if xl else None,
        "adm_in_channels": diffusers.get("projection_class_embeddings_input_dim"),
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "legacy": False,
    }


def vae_config(channels: list[int]) -> dict[str, Any]:
    """The configuration of an SD VAE in ComfyUI's terms."""
    return {
        "embed_dim": 4,
        "ddconfig": {
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": channels[0],
            "ch_mult": [width // channels[0] for width in channels],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }


def conditionings(width: int) -> tuple[list[Any], list[Any]]:
    """Two random prompts as ComfyUI's CONDITIONING, with SDXL's summary."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        [[torch.randn(1, 77, width, generator=generator), {"pooled_output": torch.randn(1, 1280)}]]
        for _ in range(2)
    )
    return first, second
