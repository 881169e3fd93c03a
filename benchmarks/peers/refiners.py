"""Finegrain's refiners: `MultiUpscaler` at its default tiles."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from jobs import (
    CONTROL_WEIGHT,
    CREATIVITY,
    GUIDANCE,
    Job,
    Program,
    UnavailableError,
    make_picture,
    torch_dtype,
)
from networks import fill, uninitialised
from torch import Tensor
from torchvision.transforms.functional import to_pil_image, to_tensor


def prepare(job: Job) -> Program:
    if job.family != "sd15":
        raise UnavailableError("MultiUpscaler is for SD1.5 at its full size only")
    sys.path.insert(0, str(job.checkout("refiners") / "src"))
    with patch("importlib.metadata.version", return_value="checkout"):  # it looks itself up as installed
        sd1 = importlib.import_module("refiners.foundationals.latent_diffusion.stable_diffusion_1")
        multi_upscaler = importlib.import_module(f"{sd1.__name__}.multi_upscaler")
        controlnets = importlib.import_module(f"{sd1.__name__}.controlnet")

    class Upscaler(multi_upscaler.MultiUpscaler):
        """Random weights where it would load files."""

        def load_stable_diffusion(self, checkpoints: Any) -> Any:
            models = sd1.StableDiffusion_1(device=self.device, dtype=self.dtype)
            for network in (models.unet, models.lda, models.clip_text_encoder):
                fill(network)
            return models

        def load_controlnet(self, checkpoints: Any) -> Any:
            adapter = controlnets.SD1ControlnetAdapter(target=self.sd.unet, name="tile").inject()
            fill(adapter.controlnet)
            return adapter

    no_files = SimpleNamespace(loras=None, negative_embedding=None, negative_embedding_key=None)
    with uninitialised():
        upscaler = Upscaler(no_files, device=torch.device(job.device), dtype=torch_dtype(job))
    picture = to_pil_image(make_picture(job.size)[0])

    def run() -> Tensor:
        result = upscaler.upscale(
            picture,
            upscale_factor=job.scale,
            denoise_strength=CREATIVITY,
            condition_scale=GUIDANCE,
            controlnet_scale=CONTROL_WEIGHT,
            num_inference_steps=round(job.steps / CREATIVITY),
            generator=torch.Generator(job.device).manual_seed(0),
        )
        return to_tensor(result)[None]

    return Program(
        run=run,
        networks={
            "text": [upscaler.sd.clip_text_encoder],
            "encode": [upscaler.sd.lda[0]],
            "sample": [upscaler.sd.unet],
            "decode": [upscaler.sd.lda[1]],
        },
        settings="tiles of 144 x 112 latents, overlap 8, VAE tiles of 1024 px",
    )
