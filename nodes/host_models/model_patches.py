"""Control pictures that are patched into a MODEL (Qwen-Image's and Z-Image's), cropped to tiles.

Such a patch encodes its picture for the size of what the network is given, so that every tile would be shown
the whole picture, squeezed. A tile is given a copy whose encoded picture is a crop of the canvas's. The
network adds one encoded picture to all it evaluates at once, so tiles are evaluated one by one then.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_management as management
import comfy.utils
from torch import Tensor

from ...pipelines.tiling import Job

PICTURES = ("image", "inpaint_image")
"""Attributes of a patch that hold pictures `[B,H,W,C]`."""


class CanvasPatches:
    """All such patches among a model's options, prepared for one canvas."""

    def __init__(self, options: dict[str, Any], canvas: Tensor) -> None:
        self._size, self._device = canvas.shape[-2:], canvas.device
        patches = options.get("transformer_options", {}).get("patches", {})
        found = {id(patch): patch for kind in patches.values() for patch in kind if _shows_a_picture(patch)}
        self.found = bool(found)
        self._prepared = {key: (patch, *self._prepare(patch)) for key, patch in found.items()}

    def for_tile(self, options: dict[str, Any], job: Job) -> dict[str, Any]:
        """The options for one tile."""
        copies = {key: self._crop(job, *parts) for key, parts in self._prepared.items()}
        transformer = options["transformer_options"]
        patches = {
            name: [copies.get(id(patch), patch) for patch in kind]
            for name, kind in transformer["patches"].items()
        }
        return {**options, "transformer_options": {**transformer, "patches": patches}}

    def _prepare(self, patch: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """Its pictures in the canvas's size, `[B,C,H,W]`, and what they are encoded to, if it says how."""
        factor = patch.vae.spacial_compression_encode()
        height, width = (factor * side for side in self._size)
        pictures = {
            name: comfy.utils.common_upscale(picture.movedim(-1, 1), width, height, "area", "center")
            for name in PICTURES
            if isinstance(picture := getattr(patch, name, None), Tensor)
        }
        if not hasattr(patch, "encode_latent_cond"):
            return pictures, None
        loaded = management.loaded_models(only_currently_used=True)
        shown = [pictures[name].movedim(1, -1) if name in pictures else None for name in PICTURES]
        encoded = patch.encode_latent_cond(*shown[: 2 if hasattr(patch, "inpaint_image") else 1])
        management.load_models_gpu(loaded)
        return pictures, encoded

    def _crop(self, job: Job, patch: Any, pictures: dict[str, Tensor], encoded: Tensor | None) -> Any:
        factor = patch.vae.spacial_compression_encode()
        tiled = copy.copy(patch)
        for name, picture in pictures.items():
            setattr(tiled, name, job.tile.crop(picture, factor).movedim(1, -1))
        tiled.encoded_image = None
        if hasattr(tiled, "temp_data"):
            tiled.temp_data = None
        if encoded is not None:
            latents = job.tile.crop(encoded).to(self._device, copy=True)
            embed = getattr(patch.model_patch.model, "process_input_latent_image", None)
            tiled.encoded_image = embed(latents) if embed else latents
            tiled.encoded_image_size = factor * job.tile.height, factor * job.tile.width
        return tiled


def _shows_a_picture(patch: Any) -> bool:
    return hasattr(patch, "encoded_image") and hasattr(patch, "model_patch") and hasattr(patch, "vae")
