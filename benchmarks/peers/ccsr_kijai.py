"""The CCSR node of kijai/ComfyUI-CCSR, inside ComfyUI, without the training libraries that it imports."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from .ccsr_official import TEXT, build_model, stand_in_for_libraries
from .comfyui import enter

PACK = "ComfyUI-CCSR"
"""The only name under which it finds its own modules."""

ABSOLUTE = (
    "util",
    "xformers_state",
    "modules.diffusionmodules.util",
    "modules.attention",
    "modules.diffusionmodules.model",
    "modules.distributions.distributions",
    "modules.ema",
    "models.autoencoder",
)
"""What of its package `ldm` it imports as if that were on the path, in an order in which it can."""

WHOLE_VAE = 1024
"""Its default tile of the VAE in pixels, made larger for larger pictures: the others decode them whole."""


def prepare(
    checkout: Path, comfyui: Path, tensors: dict[str, Tensor], settings: dict[str, Any], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Its node's tiled diffusion with Gaussian weights, as a function of picture and first noise.

    It is given the others' text in place of the two tokens that it comes with, and their noise. The
    result has 8 bits: the node resizes by way of PIL.
    """
    enter(comfyui, device.type)
    for name in ("nodes", "comfy.utils", "comfy.model_management"):
        importlib.import_module(name)
    stand_in_for_libraries()
    node = _load_pack(checkout).NODE_CLASS_MAPPINGS["CCSR_Upscale"]()
    sys.modules["ldm.xformers_state"].disable_xformers()
    model = build_model(tensors, settings, package=f"{PACK}.")
    text = {"empty_text_embed": tensors[TEXT]}
    draw = torch.randn
    # All noise but the first from the CPU's generator, which is the same for all programs.
    torch.randn_like = lambda like, **_: draw(like.shape).to(like)  # type: ignore[assignment]

    def run(image: Tensor, noise: Tensor) -> Tensor:
        with (
            patch("comfy.utils.load_torch_file", lambda *_, **__: text),
            patch("torch.randn", lambda *_, **__: noise.to(device)),
        ):
            (result,) = node.process(
                ccsr_model={"model": model, "dtype": torch.float32},
                image=image.movedim(1, -1),
                resize_method="bilinear",
                scale_by=1.0,
                steps=settings["steps"],
                t_max=0.6667,
                t_min=0.3333,
                sampling_method="ccsr_tiled_vae_gaussian_weights",
                tile_size=settings["tile"],
                tile_stride=settings["stride"],
                vae_tile_size_encode=max(WHOLE_VAE, settings["side"]),
                vae_tile_size_decode=max(WHOLE_VAE, settings["side"]),
                color_fix_type="adain",
                keep_model_loaded=True,
                seed=torch.initial_seed(),  # the others' too: the node seeds anew
            )
        return result.movedim(-1, 1)

    return run


def _load_pack(folder: Path) -> Any:
    """Import it under its name, with its package `ldm` also as `ldm`: ComfyUI has another on the path."""
    spec = importlib.util.spec_from_file_location(
        PACK, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no node pack")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    sys.modules["ldm"] = importlib.import_module(f"{PACK}.ldm")
    for name in ABSOLUTE:
        sys.modules[f"ldm.{name}"] = importlib.import_module(f"{PACK}.ldm.{name}")
    spec.loader.exec_module(pack)
    return pack
