"""What evaluates the tiles of a canvas: CCSR's networks, or those of a creative upscale in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from diffusers import ControlNetUnionModel
from torch import Tensor

from ..autoencoding import LatentCodec
from ..control import TileControl, embed_hint
from ..denoisers import DiffusersDenoiser
from ..errors import ParameterError
from ..models import CreativeModels
from ..models.noise_levels import SMALLEST_SIGNAL
from ..parameters import UpscaleParameters
from ..prompting import encode_prompts
from ..runtime import Runtime
from ..schedules import timestep_of_sigma
from ..tiled_diffusion import Denoiser, TiledDenoiser
from ..tiling import Job, Tile
from .loading import CcsrModels
from .sampling import Predict
from .settings import CcsrSettings


def predict_in_tiles(tiled: TiledDenoiser, alphas: Tensor) -> Predict:
    """A `Predict` by an engine's canvas denoiser, which works in sigma space.

    `alphas` `[T]` may end in 0 (a zero-terminal-SNR schedule), which is then taken for a very small signal.
    """

    def predict(x: Tensor, timestep: int, index: int) -> Tensor:
        alpha = max(float(alphas[timestep]), SMALLEST_SIGNAL)
        return tiled(x / math.sqrt(alpha), math.sqrt((1 - alpha) / alpha), index)

    return predict


class HintLatents(Protocol):
    """The latents that tell the network what to restore."""

    def of(self, jobs: Sequence[Job]) -> Tensor:
        """Those of these tiles, `[N,C,h,w]`."""


@dataclass(frozen=True)
class CanvasHint:
    """Cut from the latents `[B,C,h,w]` of the canvas (version 2)."""

    latents: Tensor

    def of(self, jobs: Sequence[Job]) -> Tensor:
        return torch.stack([job.tile.crop(self.latents[job.image]) for job in jobs])


@dataclass(frozen=True)
class TileHints:
    """Each tile encoded by itself, once for all evaluations (version 1)."""

    latents: Mapping[Job, Tensor]

    @classmethod
    def encode(cls, canvas: Tensor, tiles: Sequence[Tile], codec: LatentCodec, runtime: Runtime) -> TileHints:
        """Encode the tiles of a canvas `[B,3,H,W]`; `codec` reports nothing itself."""
        jobs = [Job(image, tile) for image in range(len(canvas)) for tile in tiles]
        latents = {}
        for done, job in enumerate(jobs):
            runtime.progress("encode hints", done, len(jobs))
            crop = job.tile.crop(canvas[job.image : job.image + 1], codec.scale_factor)
            latents[job] = codec.encode(crop)[0]
        return cls(latents)

    def of(self, jobs: Sequence[Job]) -> Tensor:
        return torch.stack([self.latents[job] for job in jobs])


@dataclass(frozen=True)
class Branch:
    """One side of classifier-free guidance."""

    text: Tensor
    """`[1,77,width]`"""
    hint: HintLatents


@dataclass(frozen=True, kw_only=True)
class LatentHintDenoiser:
    """CCSR's UNet and ControlNet as a `Denoiser`. Evaluations at the last timestep are not guided."""

    models: CcsrModels
    positive: Branch
    negative: Branch | None
    """None: no guidance."""
    guidance: float
    extraction: Branch
    """What conditions the evaluation at the last timestep."""

    def denoise(self, x: Tensor, sigma: float, jobs: Sequence[Job], progress: float) -> Tensor:
        timestep = round(timestep_of_sigma(self.models.alphas_cumprod, sigma))
        if timestep == len(self.models.alphas_cumprod) - 1:
            return self._predict(x, sigma, timestep, jobs, [self.extraction])
        if self.negative is None:
            return self._predict(x, sigma, timestep, jobs, [self.positive])
        both = self._predict(torch.cat([x, x]), sigma, timestep, jobs, [self.negative, self.positive])
        negative, positive = both.chunk(2)
        return negative + self.guidance * (positive - negative)

    def _predict(
        self, x: Tensor, sigma: float, timestep: int, jobs: Sequence[Job], branches: Sequence[Branch]
    ) -> Tensor:
        unet = self.models.unet
        device, dtype = x.device, next(unet.parameters()).dtype
        variance = sigma**2 + 1
        scaled = (x / math.sqrt(variance)).to(dtype)
        hidden = torch.cat([branch.text.expand(len(jobs), -1, -1) for branch in branches]).to(device, dtype)
        hint = torch.cat([branch.hint.of(jobs) for branch in branches]).to(device, dtype)
        down, mid = self.models.controlnet(
            scaled, timestep, encoder_hidden_states=hidden, controlnet_cond=hint, return_dict=False
        )
        output = unet(
            scaled,
            timestep,
            encoder_hidden_states=hidden,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0].float()
        if self.models.prediction_type == "v_prediction":
            # As in `denoisers.DiffusersDenoiser`: Salimans & Ho 2022, equation 10.
            return x / variance - output * (sigma / math.sqrt(variance))
        return x - sigma * output


def encode_texts(models: CcsrModels, settings: CcsrSettings, runtime: Runtime) -> tuple[Tensor, Tensor]:
    """The prompt and the negative prompt, `[1,77*k,width]` each.

    Raises `ParameterError` for a prompt or guidance that these models cannot follow.
    """
    texts = [settings.prompt, settings.negative_prompt]
    for name, text in zip(("prompt", "negative_prompt"), texts, strict=True):
        if text not in models.prompts and not models.text_encoders:
            raise ParameterError(name, f"CCSR {models.version} knows only the empty one; leave it empty")
    if all(text in models.prompts for text in texts):
        return models.prompts[texts[0]], models.prompts[texts[1]]
    # It asks for text encoders and textual inversions, which these models have as well.
    encoded = encode_prompts(cast(Any, models), texts, runtime)
    return encoded[0].hidden, encoded[1].hidden


def pixel_hint_denoiser(
    models: CreativeModels, canvas: Tensor, settings: CcsrSettings, runtime: Runtime
) -> Denoiser:
    """The UNet and tile ControlNet of a creative upscale, for the same truncated pass.

    `canvas` `[B,3,H,W]` is the padded picture. Raises `ParameterError` where there is no ControlNet.
    """
    controlnet = models.controlnet
    if controlnet is None:
        raise ParameterError("models", "have no tile ControlNet, which holds the picture; load one")
    positive, negative = encode_prompts(models, [settings.prompt, settings.negative_prompt], runtime)
    return DiffusersDenoiser(
        models=models,
        unet=models.unet,
        positive=[positive] * len(canvas),
        negative=[negative] * len(canvas),
        guidance=settings.guidance_scale,
        control=TileControl(
            network=controlnet,
            union=isinstance(controlnet, ControlNetUnionModel),
            hint=embed_hint(controlnet, canvas, models.scale_factor, runtime),
            parameters=UpscaleParameters(shape_preservation=1.0),
        ),
    )
