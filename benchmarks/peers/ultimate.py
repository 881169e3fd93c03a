"""UltimateSDUpscale's node at its default tiles, inside ComfyUI."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import torch
from jobs import CREATIVITY, GUIDANCE, Job, Program, UnavailableError
from torch import Tensor

from .comfyui import Host, start

SCRIPT = "repositories/ultimate_sd_upscale"


def prepare(job: Job, host: Host | None = None, seam_fix: str = "None") -> Program:
    """In `host`, by default a fresh one; `seam_fix` is a mode of the node, run at the redraw's strength."""
    if not (job.checkout("ultimate") / SCRIPT).is_dir():
        raise UnavailableError(f"its submodule {SCRIPT} is not checked out")
    host = host or start(job)
    node = load_pack(job, "ultimate").NODE_CLASS_MAPPINGS["UltimateSDUpscaleNoUpscale"]()

    @torch.inference_mode()
    def run() -> Tensor:
        (result,) = node.upscale(
            upscaled_image=host.canvas,
            model=host.model,
            positive=host.positive,
            negative=host.negative,
            vae=host.vae,
            seed=0,
            steps=job.steps,
            cfg=GUIDANCE,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=CREATIVITY,
            mode_type="Linear",
            tile_width=512,
            tile_height=512,
            mask_blur=8,
            tile_padding=32,
            seam_fix_mode=seam_fix,
            seam_fix_denoise=CREATIVITY,
            seam_fix_width=64,
            seam_fix_mask_blur=8,
            seam_fix_padding=16,
            force_uniform_tiles=True,
            tiled_decode=False,
            batch_size=1,
        )
        return result.movedim(-1, 1)

    settings = f"tiles of 512 px, padding 32, seam fix {seam_fix}, no text"
    return Program(run=run, networks=host.networks, settings=settings)


def load_pack(job: Job, name: str) -> ModuleType:
    """Import a node pack from its checkout, as ComfyUI does."""
    folder = job.checkout(name)
    spec = importlib.util.spec_from_file_location(
        name.replace("-", "_"), folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise UnavailableError(f"{folder} is no node pack")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = pack
    spec.loader.exec_module(pack)
    return pack
