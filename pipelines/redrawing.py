"""The redraw of an enlarged canvas: noise, tiled denoising under a tile ControlNet, decoding, colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetUnionModel
from torch import Tensor

from .autoencoding import LatentCodec
from .batching import fitting_batch
from .color import fix_color
from .control import TileControl, embed_hint
from .denoisers import DiffusersDenoiser
from .detail import flatness_mask, lie_amounts, with_detail
from .errors import ParameterError
from .models import CreativeModels
from .noise import PictureNoise
from .parameters import BACK_PROJECTION, UpscaleParameters
from .planning import pass_creativity, pass_tile_bytes, plan_tiles
from .prompting import TextConditioning, encode_prompts
from .resizing import Size, reflect_pad
from .runtime import Runtime
from .samplers import sample
from .schedules import spread_sigmas
from .settings import MAX_SEED
from .tiled_diffusion import TiledDenoiser
from .tiling import Grid


@dataclass(kw_only=True)
class Redraw:
    """One request's image-to-image stage, with what all its passes and pictures share."""

    parameters: UpscaleParameters
    models: CreativeModels
    runtime: Runtime
    seed: int
    codec: LatentCodec
    prompts: list[str]
    positive: list[TextConditioning]
    negative: list[TextConditioning]
    evaluations: int = 0

    @classmethod
    def prepare(
        cls,
        parameters: UpscaleParameters,
        models: CreativeModels | None,
        prompts: Sequence[str],
        seed: int,
        runtime: Runtime,
    ) -> Redraw:
        """For pictures with these prompts, suffix included."""
        _check_models(parameters, models)
        assert models is not None
        models.apply_loras(parameters.detail)
        texts = encode_prompts(models, [*prompts, parameters.negative_prompt], runtime)
        return cls(
            parameters=parameters,
            models=models,
            runtime=runtime,
            seed=seed,
            codec=LatentCodec(models.vae, runtime),
            prompts=list(prompts),
            positive=texts[:-1],
            negative=[texts[-1]] * len(prompts),
        )

    @property
    def names(self) -> dict[str, str]:
        """File names by role of the models that have a part in the result."""
        unused = set() if self.parameters.shape_preservation else {"controlnet"}
        names = {role: name for role, name in self.models.names.items() if role not in unused}
        if self.models.applied:
            names["loras"] = ", ".join(f"{lora.path.name}:{weight:g}" for lora, weight in self.models.applied)
        return names

    def plan(self, size: Size) -> Grid:
        """The tiles for pictures of `size` (height, width) in pixels."""
        return plan_tiles(size, self.parameters, self.models.shape)

    def group_size(self, size: Size) -> int:
        """How many pictures to redraw together: enough to fill a batch of tiles."""
        grid = self.plan(size)
        return max(self._tile_batch(grid) // len(grid), 1)

    def __call__(self, canvas: Tensor, number: int, pictures: slice, before: Tensor) -> Tensor:
        """Redraw `canvas` `[B,3,H,W]`, the pictures `pictures` of the request, in pass `number`.

        `before` is what they were before that pass enlarged them.
        """
        sigmas = spread_sigmas(
            self.models.alphas_cumprod,
            pass_creativity(self.parameters, number),
            self.parameters.num_inference_steps,
            self.parameters.scheduler,
        )
        seeds = [
            (self.seed + number + index) % (MAX_SEED + 1) for index in range(pictures.start, pictures.stop)
        ]
        latents = self.redraw_latents(canvas, sigmas, PictureNoise(seeds), pictures)
        height, width = canvas.shape[-2:]
        redrawn = self.codec.decode(latents)[:, :, :height, :width]
        self.runtime.progress("fix colours", 0, 1)
        method = self.parameters.color_fix
        return fix_color(redrawn, before if method == BACK_PROJECTION else canvas, method)

    def redraw_latents(self, canvas: Tensor, sigmas: Tensor, noise: PictureNoise, pictures: slice) -> Tensor:
        """Noise the canvas to `sigmas[0]` and denoise it along `sigmas`: `[B,C,h,w]` of the padded canvas."""
        grid = self.plan((canvas.shape[2], canvas.shape[3]))
        factor, device = self.models.scale_factor, self.runtime.memory.device
        padded = reflect_pad(canvas, (factor * grid.rows.length, factor * grid.columns.length))
        clean = self.codec.encode(padded).to(device)
        control = self._control(padded)
        batch = self._tile_batch(grid)
        networks = [self.models.unet, *([self.models.controlnet] if control else [])]
        self.runtime.memory.load(*networks, activation_bytes=batch * self._bytes_per_tile(grid))
        tiled = TiledDenoiser(
            denoiser=DiffusersDenoiser(
                models=self.models,
                unet=self._compiled(self.models.unet),
                positive=self.positive[pictures],
                negative=self.negative[pictures],
                guidance=self.parameters.guidance_scale,
                guidance_interval=self.parameters.guidance_interval,
                control=control,
            ),
            grid=grid,
            steps=len(sigmas) - 1,
            batch=batch,
            runtime=self.runtime,
            fixed_batch=self.parameters.compile_networks,
        )
        denoise: Callable[[Tensor, float, int], Tensor] = tiled
        if self.models.detail_lora is None and self.parameters.detail > 0:
            mask = flatness_mask(padded, (grid.rows.length, grid.columns.length)).to(device)
            denoise = with_detail(tiled, lie_amounts(self.parameters.detail, tiled.steps), mask, clean)
        x = clean + float(sigmas[0]) * noise.like(clean).to(device)
        x = sample(self.parameters.sampler, denoise, x, sigmas, lambda: noise.like(x).to(device))
        self.evaluations += tiled.evaluations
        return x.cpu()

    def _control(self, padded: Tensor) -> TileControl | None:
        controlnet = self.models.controlnet
        if controlnet is None or self.parameters.shape_preservation == 0 or self.parameters.shape_end == 0:
            return None
        return TileControl(
            network=self._compiled(controlnet),
            union=isinstance(controlnet, ControlNetUnionModel),
            hint=embed_hint(controlnet, padded, self.models.scale_factor, self.runtime),
            parameters=self.parameters,
        )

    def _compiled(self, network: torch.nn.Module) -> Any:
        return torch.compile(network, dynamic=False) if self.parameters.compile_networks else network

    def _tile_batch(self, grid: Grid) -> int:
        return self.parameters.tile_batch or fitting_batch(self._bytes_per_tile(grid), self.runtime.memory)

    def _bytes_per_tile(self, grid: Grid) -> int:
        unet = self.models.unet
        itemsize = next(unet.parameters()).element_size()
        return pass_tile_bytes(grid, self.parameters, unet.config.block_out_channels[0], itemsize)


def _check_models(parameters: UpscaleParameters, models: CreativeModels | None) -> None:
    if models is None:
        raise ParameterError(
            "creativity",
            f"{parameters.creativity:g} needs a base model; load one, or set it to 0 to resize only",
        )
    if models.model_type != parameters.model_type:
        raise ParameterError(
            "model_type",
            f"is {parameters.model_type}, but the loaded base model {models.names.get('base', '')} is "
            f"{models.model_type}; set it to {models.model_type} or load another model",
        )
    if parameters.shape_preservation > 0 and models.controlnet is None:
        raise ParameterError(
            "shape_preservation",
            f"{parameters.shape_preservation:g} needs a tile ControlNet; load one, or set it to 0 for none",
        )
