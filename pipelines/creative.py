"""The creative upscale: an image goes in and is redrawn larger, as the settings say.

    image ─► size guard ─► passes of at most 2x, each:
             pre-upscale ─► resize ─► encode ─► noise ─► tiled denoising ─► decode ─► colour fix

The method is tiled ControlNet image-to-image (clarity-upscaler, refiners' MultiUpscaler), with the noise
level, not a step count, as the measure of creativity.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetUnionModel
from torch import Tensor

from .autoencoding import LatentCodec
from .color import fix_color
from .control import TileControl, embed_hint
from .denoisers import DiffusersDenoiser
from .detail import flatness_mask, lie_amounts, with_detail
from .errors import ParameterError
from .models import CreativeModels
from .parameters import MAX_SEED, UpscaleParameters
from .pre_upscaling import pre_upscale
from .prompting import TextConditioning, encode_prompts
from .resizing import check_image, join_alpha, pass_sizes, reflect_pad, resize, split_alpha, target_size
from .runtime import Runtime
from .samplers import sample
from .schedules import spread_sigmas
from .tiled_diffusion import TiledDenoiser
from .tiling import Grid, padded_length, plan_grid

CREATIVITY_PER_PASS = 0.8
"""Each later pass has this much of the creativity of the one before (clarity-upscaler)."""

ACTIVATION_FEATURES = 60
"""Feature maps of the first block's width that a network holds at once for one sample; an upper estimate."""

MOST_TILES = 8
"""Tiles in a batch at most when it follows from free memory; more gains little on any device."""

CPU_BATCH_BYTES = 2**29
"""Activations of a batch of tiles on a CPU, which gains nothing from more than keeps its cores busy."""


@dataclass(frozen=True)
class Upscaled:
    """The result of `upscale`."""

    image: Tensor
    """`[B,3,H,W]`, or `[B,4,H,W]` for an input with alpha; float32 in 0..1 on the CPU."""
    seed: int
    """The seed used: the one given, or the one drawn."""
    prompts: list[str]
    """The prompt of each picture as it was encoded, suffix included; empty where nothing was redrawn."""
    evaluations: int
    """Tiles denoised, over all passes and pictures."""
    models: dict[str, str]
    """File names of the models used, by role."""


@torch.inference_mode()
def upscale(
    image: Tensor,
    parameters: UpscaleParameters,
    models: CreativeModels | None = None,
    *,
    upscaler: Any = None,
    runtime: Runtime | None = None,
) -> Upscaled:
    """Enlarge and redraw a batch of pictures.

    `image` is `[B,1|3|4,H,W]` float in 0..1, from 1x1 upward; every picture of the batch is independent of
    the others and has the noise of `seed + its index`. The settings are taken as they stand: a `preset` is
    resolved by `UpscaleParameters.with_preset` or `.from_mapping`. `models` may be None at creativity 0.
    `upscaler` is an optional spandrel model that enlarges before each exact resize.

    Raises `PictureError` and `SizeLimitError` for the picture, `ParameterError` for settings that do not fit
    the models, `MemoryLimitError` when not even one tile fits, and what `runtime.progress` raises to stop.
    """
    runtime = runtime or Runtime()
    image = check_image(image)
    size = target_size(image.shape[2], image.shape[3], parameters)
    seed = secrets.randbelow(2**32) if parameters.seed is None else parameters.seed
    color, alpha = split_alpha(image)
    redraw = None
    if parameters.creativity > 0:
        redraw = Redraw.prepare(parameters, models, len(image), seed, runtime)
    # Only redrawing goes in steps of 2x; a plain enlargement is best done at once.
    sizes = pass_sizes((image.shape[2], image.shape[3]), size) if redraw else [size]
    for number, pass_size in enumerate(sizes):
        parts = _groups(len(image), redraw.group_size(pass_size) if redraw else 1)
        enlarged = torch.empty(len(image), 3, *pass_size) if len(parts) > 1 else None
        for group in parts:
            part = pre_upscale(color[group], pass_size, upscaler, runtime)
            if redraw:
                part = redraw(part, number, group)
            if enlarged is None:
                color = part
            else:
                enlarged[group] = part
        if enlarged is not None:
            color = enlarged
    return Upscaled(
        image=color if alpha is None else join_alpha(color, resize(alpha, size)),
        seed=seed,
        prompts=redraw.prompts if redraw else [""] * len(image),
        evaluations=redraw.evaluations if redraw else 0,
        models=redraw.names if redraw else {},
    )


def _groups(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


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
        count: int,
        seed: int,
        runtime: Runtime,
    ) -> Redraw:
        _check_models(parameters, models)
        assert models is not None
        models.apply_loras(parameters.detail)
        prompts = [parameters.prompt + parameters.prompt_suffix] * count
        texts = encode_prompts(models, [*prompts, parameters.negative_prompt], runtime)
        return cls(
            parameters=parameters,
            models=models,
            runtime=runtime,
            seed=seed,
            codec=LatentCodec(models.vae, runtime),
            prompts=prompts,
            positive=texts[:-1],
            negative=[texts[-1]] * count,
        )

    @property
    def names(self) -> dict[str, str]:
        """File names by role of the models that have a part in the result."""
        unused = set() if self.parameters.shape_preservation else {"controlnet"}
        names = {role: name for role, name in self.models.names.items() if role not in unused}
        if self.models.applied:
            names["loras"] = ", ".join(f"{lora.path.name}:{weight:g}" for lora, weight in self.models.applied)
        return names

    def plan(self, size: tuple[int, int]) -> Grid:
        """The tiles for pictures of `size` (height, width) in pixels."""
        factor, settings = self.models.scale_factor, self.parameters
        smallest, largest = self.models.tile_range
        multiple = self.models.latent_multiple
        if settings.tile_size:
            side = max(round(settings.tile_size / factor / multiple), 1) * multiple
            smallest = largest = side
        overlap = min(math.ceil(settings.tile_overlap / factor), largest // 2)
        height, width = (padded_length(math.ceil(side / factor), largest, multiple) for side in size)
        return plan_grid(
            height, width, smallest=smallest, largest=largest, overlap=overlap, multiple=multiple
        )

    def group_size(self, size: tuple[int, int]) -> int:
        """How many pictures to redraw together: enough to fill a batch of tiles."""
        grid = self.plan(size)
        return max(self._tile_batch(grid) // len(grid), 1)

    def __call__(self, canvas: Tensor, number: int, pictures: slice) -> Tensor:
        """Redraw `canvas` `[B,3,H,W]`, the pictures `pictures` of the request, in pass `number`."""
        creativity = self.parameters.creativity * CREATIVITY_PER_PASS**number
        sigmas = spread_sigmas(
            self.models.alphas_cumprod,
            creativity,
            self.parameters.num_inference_steps,
            self.parameters.scheduler,
        )
        seeds = [
            (self.seed + number + index) % (MAX_SEED + 1) for index in range(pictures.start, pictures.stop)
        ]
        latents = self.redraw_latents(canvas, sigmas, CanvasNoise(seeds), pictures)
        height, width = canvas.shape[-2:]
        redrawn = self.codec.decode(latents)[:, :, :height, :width]
        self.runtime.progress("fix colours", 0, 1)
        return fix_color(redrawn, canvas, self.parameters.color_fix)

    def redraw_latents(self, canvas: Tensor, sigmas: Tensor, noise: CanvasNoise, pictures: slice) -> Tensor:
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
        if self.parameters.tile_batch:
            return self.parameters.tile_batch
        memory = self.runtime.memory
        # Half of what is free: the estimate is rough, and the networks may not be resident yet.
        room = CPU_BATCH_BYTES if memory.device.type == "cpu" else memory.free_bytes() // 2
        return int(min(max(room // self._bytes_per_tile(grid), 1), MOST_TILES))

    def _bytes_per_tile(self, grid: Grid) -> int:
        samples = 1 if self.parameters.guidance_scale == 1 else 2
        width = self.models.unet.config.block_out_channels[0]
        size = next(self.models.unet.parameters()).element_size()
        return samples * grid.rows.tile * grid.columns.tile * width * size * ACTIVATION_FEATURES


class CanvasNoise:
    """Standard normal canvases; each picture has a CPU generator of its own, so none depends on another."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def like(self, x: Tensor) -> Tensor:
        """Fresh noise of the shape `[B,C,h,w]` of `x`, one generator per picture."""
        return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in self.generators])


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
