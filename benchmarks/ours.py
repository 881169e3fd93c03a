"""This repository's engine."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import torch
from jobs import CONTROL_WEIGHT, CREATIVITY, GUIDANCE, PROMPT, Job, Program, make_picture, torch_dtype
from networks import make_controlnet, make_text_encoders, make_unet, make_vae
from torch import Tensor, nn

PACK = "creative_upscaler"


def prepare(job: Job) -> Program:
    load_pack()
    models, tokenizer, noise_levels, loras, autoencoding, creative, parameters, runtime = (
        importlib.import_module(f"{PACK}.pipelines.{name}")
        for name in (
            "models",
            "models.tokenizer",
            "models.noise_levels",
            "models.loras",
            "autoencoding",
            "creative",
            "parameters",
            "runtime",
        )
    )
    dtype, device = torch_dtype(job), torch.device(job.device)
    memory = runtime.LocalMemory(device=device, diffusion_dtype=dtype)
    unet = make_unet(job.family)
    layer = "penultimate" if job.family == "sdxl" else "last"
    networks = models.CreativeModels(
        model_type="SDXL" if job.family == "sdxl" else "SD_1_5",
        unet=unet,
        vae=make_vae(job.family),
        text_encoders=tuple(
            models.TextEncoder(tokenizer.make_tokenizer(pad), module.to(dtype), layer)
            for module, pad in zip(make_text_encoders(job.family), ("<|endoftext|>", "!"), strict=False)
        ),
        controlnet=make_controlnet(unet),
        alphas_cumprod=noise_levels.make_alphas_cumprod(Path(), {}),
        prediction_type="epsilon",
        loras=loras.LoraStack({}),
    )
    for network in (networks.unet, networks.controlnet, networks.vae):
        network.to(dtype=dtype, memory_format=torch.channels_last)  # as `load_models` leaves them
    settings = parameters.UpscaleParameters(
        model_type=networks.model_type,
        prompt=PROMPT,
        scale=job.scale,
        creativity=CREATIVITY,
        num_inference_steps=round(job.steps / CREATIVITY),
        guidance_scale=GUIDANCE,
        shape_preservation=CONTROL_WEIGHT,
        seed=0,
        override_size_limits=True,
    )
    picture = make_picture(job.size)

    def run() -> Tensor:
        return creative.upscale(picture, settings, networks, runtime=runtime.Runtime(memory=memory)).image

    autoencoding.LatentCodec(
        networks.vae, runtime.Runtime(memory=memory)
    )  # swaps layers, which are hooked here
    # Embedding the hint is work of the ControlNet, done outside of its forward.
    sampling: list[nn.Module] = [
        networks.unet,
        networks.controlnet,
        networks.controlnet.controlnet_cond_embedding,
    ]
    return Program(
        run=run,
        networks={
            "text": [encoder.module for encoder in networks.text_encoders],
            "encode": vae_parts(networks.vae.encoder),
            "sample": sampling,
            "decode": vae_parts(networks.vae.decoder),
        },
        settings="everything at its defaults, text encoders included",
    )


def vae_parts(network: nn.Module) -> list[nn.Module]:
    """The layers of a VAE's encoder or decoder that `LatentCodec` calls one by one."""
    parts = [child for child in network.children() if not isinstance(child, nn.ModuleList)]
    for block in getattr(network, "down_blocks", None) or network.up_blocks:
        for layers in block.children():
            parts.extend(layers)
    return parts


def load_pack() -> None:
    """Import this checkout as the package it is after `pip install`, whatever its folder is called."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        PACK, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
