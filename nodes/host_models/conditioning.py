"""CONDITIONING for tiles: what belongs to a place of the canvas is cropped, the rest is passed on as it is.

ComfyUI prepares conditionings for the whole canvas before it samples. Areas and masks become weights of a
canvas here, by ComfyUI's own rules, so that a tile is always seen whole, also where an area ends within it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.conds
import comfy.samplers
import torch
from torch import Tensor

from ...pipelines.tiling import Job, Tile

PLACED = ("area", "mask", "mask_strength", "strength", "set_area_to_bounds")
"""What says where on the canvas a conditioning counts, and how much."""

SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")
"""What tells SDXL and others the size of the picture; a tile is presented as a picture of its own size.

Real positions within a large canvas would be crop offsets that the network never saw in training.
"""

KNOWN = frozenset(
    [
        *PLACED,
        *SIZES,
        *("cross_attn", "model_conds", "uuid", "hooks", "default", "pooled_output", "attention_mask"),
        *("control", "control_apply_to_uncond", "prompt_type", "seed", "device", "noise"),
        *("start_percent", "end_percent", "timestep_start", "timestep_end"),
        *("clip_start_percent", "clip_end_percent", "guidance", "aesthetic_score", "cross_attn_controlnet"),
        *("concat_latent_image", "concat_mask", "concat_image", "noise_concat", "reference_latents"),
        *("reference_latents_method", "denoise_mask", "unclip_conditioning", "noise_augmentation"),
        *("conditioning_llama3", "t5xxl_ids", "t5xxl_weights", "attention_mask_img_shape", "prompt_text"),
        *("cond_t5xxl", "conditioning_byt5small", "attn_mask", "add_dict", "lumina_conditions"),
    ]
)
"""Keys that are cropped, or have nothing to do with a place. Any other is passed whole, with a warning."""


class CanvasEntry:
    """One entry of a conditioning, prepared by ComfyUI for a canvas, as entries for tiles of it."""

    def __init__(self, entry: dict[str, Any], canvas: Tensor, weights: Tensor | None) -> None:
        self.entry = entry
        self.control = entry.get("control")
        self.weights = weights
        """`[b,...,h,w]` float32 on the CPU: how much it counts; None for the same everywhere."""
        self._size = canvas.shape[-2:]
        self._of_tile: dict[str, Any] | None = None

    @classmethod
    def prepare(cls, entry: dict[str, Any], canvas: Tensor, sigma: Tensor) -> CanvasEntry:
        """For a canvas like `canvas` `[B,C,...,h,w]`."""
        weights = None
        if "area" in entry or "mask" in entry:
            placed = {key: entry[key] for key in PLACED if key in entry}
            blank = torch.zeros_like(canvas[:, :1])
            shared = {**placed, "model_conds": {}, "uuid": entry.get("uuid")}
            part = comfy.samplers.get_area_and_mult(shared, blank, sigma)
            weights = blank
            _narrow(weights, part.area).copy_(part.mult)
            weights = weights[:, 0].float().cpu()
        return cls(entry, canvas, weights)

    def counts_in(self, job: Job) -> bool:
        """Whether this entry has any weight in a tile."""
        return self.weights is None or bool(self._crop(self.weights, job).any())

    def for_tiles(self, jobs: Sequence[Job], model: Any, device: torch.device, kind: str) -> dict[str, Any]:
        """The entry for a batch of tiles, without its control; `kind` is "positive" or "negative"."""
        tile = jobs[0].tile
        conds = dict(self.entry.get("model_conds", {}))
        if self._of_tile is None:
            self._of_tile = self._encode_for_tile(conds, tile, model, device, kind)
        conds.update(self._of_tile)
        entry = {key: value for key, value in self.entry.items() if key not in ("control", "model_conds")}
        entry["model_conds"] = {name: self._place(cond, jobs) for name, cond in conds.items()}
        if self.weights is not None:
            for key in PLACED:
                entry.pop(key, None)
            entry["mask"] = torch.stack([self._crop(self.weights, job) for job in jobs]).to(device)
        return entry

    def _place(self, cond: Any, jobs: Sequence[Job]) -> Any:
        """A `comfy.conds.CONDRegular` or what is like it, for the tiles of a batch."""
        content = getattr(cond, "cond", None)
        if isinstance(content, Tensor):
            placed = self._place_tensor(content, jobs)
        elif isinstance(content, list):
            placed = [self._place_tensor(c, jobs) if isinstance(c, Tensor) else c for c in content]
        else:
            return cond
        changed = copy.copy(cond)
        changed.cond = placed
        return changed

    def _place_tensor(self, tensor: Tensor, jobs: Sequence[Job]) -> Tensor:
        """Crops what has the canvas's size or a multiple of it, and picks what belongs to each picture."""
        height, width = self._size
        factor = tensor.shape[-1] // width if tensor.ndim >= 4 else 0
        if factor and tensor.shape[-2:] == (factor * height, factor * width):
            return torch.stack([self._crop(tensor, job, factor) for job in jobs])
        if tensor.ndim and len(tensor) > 1:
            return tensor[[job.image % len(tensor) for job in jobs]]
        return tensor

    def _crop(self, canvas: Tensor, job: Job, factor: int = 1) -> Tensor:
        return job.tile.crop(canvas[job.image % len(canvas)], factor)

    def _encode_for_tile(
        self, conds: Mapping[str, Any], tile: Tile, model: Any, device: torch.device, kind: str
    ) -> dict[str, Any]:
        """What a model derives from the size of a picture, such as SDXL's `y`, for one of a tile's."""
        if not conds.keys() - {"c_crossattn", "crossattn_controlnet", "guidance", "c_concat"}:
            return {}
        arguments = {key: value for key, value in self.entry.items() if key not in (*SIZES, "control")}
        noise = torch.zeros(1, *self._channels(model), tile.height, tile.width, device=device)
        # ComfyUI counts 8 pixels for a latent here, whatever the VAE.
        arguments |= {"width": 8 * tile.width, "height": 8 * tile.height, "device": device, "noise": noise}
        arguments |= {"latent_image": torch.zeros_like(noise), "denoise_mask": None}
        arguments.setdefault("prompt_type", kind)
        arguments.setdefault("seed", None)
        encoded = model.extra_conds(**arguments)
        return {
            name: cond
            for name, cond in encoded.items()
            if name in conds and not self._is_placed(conds[name]) and type(cond) is type(conds[name])
        }

    def _is_placed(self, cond: Any) -> bool:
        """Whether something has to be cropped from what was made for the canvas."""
        content = getattr(cond, "cond", None)
        tensors = content if isinstance(content, list) else [content]
        return isinstance(cond, comfy.conds.CONDNoiseShape | comfy.conds.CONDList) or any(
            isinstance(t, Tensor) and t.ndim >= 4 for t in tensors
        )

    @staticmethod
    def _channels(model: Any) -> tuple[int, ...]:
        shown = model.latent_format
        return (shown.latent_channels, 1) if shown.latent_dimensions == 3 else (shown.latent_channels,)


def unknown_keys(conds: Sequence[Sequence[Mapping[str, Any]] | None]) -> list[str]:
    """The keys of these conditionings of which this module does not know whether they belong to a place."""
    return sorted({key for entries in conds for entry in entries or () for key in entry if key not in KNOWN})


def _narrow(canvas: Tensor, area: Sequence[int] | None) -> Tensor:
    """The part of `[B,C,...]` that an area, its sizes followed by its starts, covers; a view."""
    if area is not None:
        dims = len(area) // 2
        for dim, (size, start) in enumerate(zip(area[:dims], area[dims:], strict=True)):
            canvas = canvas.narrow(dim + 2, start, size)
    return canvas
