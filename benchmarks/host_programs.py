"""Programs that upscale with ComfyUI's own MODEL, CONDITIONING, VAE and CONTROL_NET, each inside ComfyUI."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jobs import CONTROL_WEIGHT, CREATIVITY, GUIDANCE, Job, Program, make_picture
from peers import ultimate
from peers.comfyui import Host, start
from peers.ultimate import load_pack
from torch import Tensor, nn

METHODS = {
    "multidiffusion": "MultiDiffusion",
    "mixture": "Mixture of Diffusers",
    "spot": "SpotDiffusion",
}
"""Of TiledDiffusion."""

SAMPLER, SCHEDULER = "dpmpp_2m", "karras"


def prepare_ours(job: Job) -> Program:
    """Our node "Creative Upscale (ComfyUI model)", as its execution calls it."""
    host = start_painting(job)
    upscaling, parameters = ours("nodes.host_models.upscaling"), ours("pipelines.parameters")
    settings = parameters.UpscaleParameters(
        scale=job.scale,
        creativity=CREATIVITY,
        num_inference_steps=round(job.steps / CREATIVITY),
        guidance_scale=GUIDANCE,
        shape_preservation=CONTROL_WEIGHT,
        seed=0,
        override_size_limits=True,
    )
    picture = make_picture(job.size)

    @torch.inference_mode()
    def run() -> Tensor:
        return upscaling.creative_upscale(
            picture,
            settings,
            model=host.model,
            positive=host.prompts[0],
            negative=host.prompts[1],
            vae=host.vae,
            control_net=host.control,
            sampler=SAMPLER,
            schedule=SCHEDULER,
        ).image

    tiles = f"overlap {settings.tile_overlap} px"
    return Program(run=run, networks=host.networks, settings=f"{tiles}, colour fix, detail control, resizing")


def prepare_patch(job: Job) -> Program:
    """Our node "Tiled Diffusion (moving borders)" before ComfyUI's KSampler."""
    host = start_painting(job)
    model = ours("nodes.host_models.patching").tile_model(host.model)
    return sampling(host, job, model, "tiles of 512 to 768 px, overlap 64 px, VAE whole")


def prepare_untiled(job: Job, seed: int = 0) -> Program:
    """ComfyUI's KSampler on the whole canvas."""
    host = start_painting(job)
    return sampling(host, job, host.model, "one tile", seed=seed)


def prepare_other_noise(job: Job) -> Program:
    """The same with another seed: what figures of seams are where there are none."""
    return prepare_untiled(job, seed=1)


def prepare_ultimate(job: Job) -> Program:
    return ultimate.prepare(job, start_painting(job))


def prepare_half_tile(job: Job) -> Program:
    return ultimate.prepare(job, start_painting(job), seam_fix="Half Tile")


def prepare_method(method: str) -> Callable[[Job], Program]:
    def prepare(job: Job) -> Program:
        host = start_painting(job)
        nodes = load_pack(job, "tiled-diffusion").NODE_CLASS_MAPPINGS
        (model,) = nodes["TiledDiffusion"]().apply(host.model, METHODS[method], 768, 768, 64, 4)
        return sampling(host, job, model, "tiles of 768 px, overlap 64 px, 4 in a batch, VAE whole")

    return prepare


PROGRAMS: dict[str, Callable[[Job], Program]] = {
    "untiled": prepare_untiled,
    "other noise": prepare_other_noise,
    "ours": prepare_ours,
    "our patch": prepare_patch,
    "ultimate": prepare_ultimate,
    "ultimate half-tile": prepare_half_tile,
    **{method: prepare_method(method) for method in METHODS},
}


def start_painting(job: Job) -> Host:
    """ComfyUI with a model that paints smoothly, with a tint that differs by tile.

    Random weights alone give noise, in which no seam can be seen.
    """
    host = start(job)
    model = host.model.clone()
    kind = importlib.import_module("comfy.patcher_extension").WrappersMP.APPLY_MODEL
    model.add_wrapper(kind, paint_smoothly)
    return dataclasses.replace(host, model=model)


def paint_smoothly(execute: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Around one evaluation: the clean estimate without its noise, and more of its mean."""
    clean = execute(*args, **kwargs)
    padded = nn.functional.pad(clean, (4, 4, 4, 4), mode="reflect")
    return nn.functional.avg_pool2d(padded, 9, stride=1) + 2 * clean.mean((-2, -1), keepdim=True)


def sampling(host: Host, job: Job, model: Any, settings: str, seed: int = 0) -> Program:
    """ComfyUI's VAE and KSampler around a model that something has patched."""

    @torch.inference_mode()
    def run() -> Tensor:
        (latent,) = host.nodes.VAEEncode().encode(host.vae, host.canvas)
        (latent,) = host.nodes.common_ksampler(
            model,
            seed,
            job.steps,
            GUIDANCE,
            SAMPLER,
            SCHEDULER,
            host.positive,
            host.negative,
            latent,
            denoise=CREATIVITY,
        )
        (image,) = host.nodes.VAEDecode().decode(host.vae, latent)
        return image.movedim(-1, 1)

    return Program(run=run, networks=host.networks, settings=settings)


def ours(module: str) -> ModuleType:
    """A module of this checkout, imported as ComfyUI imports a pack."""
    name, root = "our-pack", Path(__file__).resolve().parent.parent
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return importlib.import_module(f"{name}.{module}")
