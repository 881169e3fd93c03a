"""shape_preservation: a tile ControlNet whose hint is embedded once for the whole canvas.

The hint encoder is a small stack of convolutions, so a tile's embedded hint is a crop of the canvas's. That
lets tile borders move without embedding anything again, and leaves no edge effects at the borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from torch import Tensor, nn

from .parameters import UpscaleParameters
from .runtime import Runtime
from .tiling import Job, Tile

UNION_TILE_MODE = 6
"""Index of the tile task among those of a Union ControlNet (xinsir's controlnet-union-sdxl-1.0)."""

HINT_TILE = 96
"""Side, in latents, of the pieces the canvas is embedded in."""

HINT_HALO = 4
"""Latents of context around a piece. The encoder of diffusers' `ControlNetConditioningEmbedding` for a factor
f sees 3f - 1 pixels to each side, so 4 make the pieces exact."""

FADING_WINDOWS = ((0.55, 1.0), (0.85, 0.214 / 0.625), (1.0, 0.0))
"""InvokeAI's upscaling at its neutral setting: until which part of the steps, which share of the weight."""


class EmbeddedHint(nn.Module):
    """Stands where a ControlNet embeds its hint: passes on what is embedded already, embeds pictures."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hint: Tensor) -> Tensor:
        return self.encoder(hint) if hint.shape[1] == 3 else hint


def shape_weight(parameters: UpscaleParameters, progress: float) -> float:
    """Weight of the ControlNet after the part `progress` in 0..1 of the steps."""
    if progress >= parameters.shape_end:
        return 0.0
    windows = FADING_WINDOWS if parameters.shape_schedule == "fading" else ((1.0, 1.0),)
    return parameters.shape_preservation * next(share for end, share in windows if progress < end)


@dataclass(frozen=True)
class TileControl:
    """A ControlNet bound to the hint of one canvas."""

    network: Any
    """The ControlNet, or a compiled form of it."""
    union: bool
    hint: Tensor
    """Embedded hint `[B,E,h,w]` of the canvas in the network's type."""
    parameters: UpscaleParameters

    def residuals(
        self,
        x: Tensor,
        timestep: Tensor,
        hidden: Tensor,
        added: dict[str, Tensor] | None,
        jobs: Sequence[Job],
        progress: float,
    ) -> dict[str, Any]:
        """What to pass to the UNet for these tiles; nothing while the weight is 0."""
        weight = shape_weight(self.parameters, progress)
        if weight == 0:
            return {}
        hint = torch.stack([job.tile.crop(self.hint[job.image]) for job in jobs]).to(x.device)
        control: dict[str, Any] = {"controlnet_cond": hint}
        if self.union:
            kinds = torch.zeros(
                len(jobs), self.network.config.num_control_type, device=x.device, dtype=x.dtype
            )
            kinds[:, UNION_TILE_MODE] = 1
            control = {
                "controlnet_cond": [hint],
                "control_type": kinds,
                "control_type_idx": [UNION_TILE_MODE],
            }
        down, mid = self.network(
            x, timestep, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False, **control
        )
        # The deepest layer has the full weight, each shallower one the next one's times the decay.
        decay = self.parameters.shape_decay
        down = [residual * (weight * decay ** (len(down) - i)) for i, residual in enumerate(down)]
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid * weight}


def embed_hint(
    controlnet: ControlNetModel | ControlNetUnionModel, image: Tensor, factor: int, runtime: Runtime
) -> Tensor:
    """Embed a canvas `[B,3,H,W]` in 0..1 as the hint of all its tiles: `[B,E,H/factor,W/factor]`.

    Equal to embedding the canvas in one go; the result stays on the CPU, since only tiles are needed.
    """
    if not isinstance(controlnet.controlnet_cond_embedding, EmbeddedHint):
        controlnet.controlnet_cond_embedding = EmbeddedHint(controlnet.controlnet_cond_embedding)
    encoder = controlnet.controlnet_cond_embedding.encoder
    dtype = next(encoder.parameters()).dtype
    batch, height, width = image.shape[0], image.shape[2] // factor, image.shape[3] // factor
    result: Tensor | None = None
    pieces = [(b, top, left) for b in range(batch) for top in _steps(height) for left in _steps(width)]
    runtime.memory.load(controlnet)
    for done, (b, top, left) in enumerate(pieces):
        runtime.progress("embed hint", done, len(pieces))
        bottom, right = min(top + HINT_TILE, height), min(left + HINT_TILE, width)
        y, x = max(top - HINT_HALO, 0), max(left - HINT_HALO, 0)
        around = Tile(y, x, min(bottom + HINT_HALO, height) - y, min(right + HINT_HALO, width) - x)
        piece = around.crop(image[b : b + 1], factor).to(runtime.memory.device, dtype)
        embedded = encoder(piece)[:, :, top - y : bottom - y, left - x : right - x].cpu()
        if result is None:
            result = torch.empty(batch, embedded.shape[1], height, width, dtype=dtype)
        result[b : b + 1, :, top:bottom, left:right] = embedded
    assert result is not None
    return result


def _steps(length: int) -> list[int]:
    return [i * HINT_TILE for i in range(math.ceil(length / HINT_TILE))]
