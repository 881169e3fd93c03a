"""TiledDiffusion's node (Mixture of Diffusers) at its default tiles, inside ComfyUI."""

from __future__ import annotations

import torch
from jobs import CREATIVITY, GUIDANCE, Job, Program
from torch import Tensor

from .comfyui import start
from .ultimate import load_pack

LARGEST_WHOLE = 1536
"""Sides in pixels up to which the VAE is run whole, which is faster; above, in the pack's own tiles."""


def prepare(job: Job) -> Program:
    host = start(job)
    nodes = load_pack(job, "tiled-diffusion").NODE_CLASS_MAPPINGS
    (model,) = nodes["TiledDiffusion"]().apply(host.model, "Mixture of Diffusers", 768, 768, 64, 4)
    tiled = job.side > LARGEST_WHOLE

    @torch.inference_mode()
    def run() -> Tensor:
        if tiled:
            (latent,) = nodes["VAEEncodeTiled_TiledDiffusion"]().process(
                host.canvas, host.vae, tile_size=2048, fast=True, color_fix=True
            )
        else:
            (latent,) = host.nodes.VAEEncode().encode(host.vae, host.canvas)
        (latent,) = host.nodes.common_ksampler(
            model,
            0,
            job.steps,
            GUIDANCE,
            "dpmpp_2m",
            "karras",
            host.positive,
            host.negative,
            latent,
            denoise=CREATIVITY,
        )
        if tiled:
            (image,) = nodes["VAEDecodeTiled_TiledDiffusion"]().process(
                latent, host.vae, tile_size=1024, fast=True
            )
        else:
            (image,) = host.nodes.VAEDecode().decode(host.vae, latent)
        return image.movedim(-1, 1)

    vae = "in its own tiles" if tiled else "whole"
    return Program(
        run=run,
        networks=host.networks,
        settings=f"tiles of 96 latents, overlap 8, 4 in a batch, VAE {vae}, no text",
    )
