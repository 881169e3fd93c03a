"""The creative upscale with ComfyUI's models: the engine's stages, with the redraw by ComfyUI's samplers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...pipelines.color import fix_color
from ...pipelines.detail import flatness_mask, lie_amounts
from ...pipelines.errors import ParameterError
from ...pipelines.noise import PictureNoise
from ...pipelines.parameters import BACK_PROJECTION, UpscaleParameters
from ...pipelines.planning import pass_creativity, plan_sizes
from ...pipelines.pre_upscaling import pre_upscale
from ...pipelines.resizing import check_image, join_alpha, reflect_pad, resize, split_alpha
from ...pipelines.runtime import Runtime
from ...pipelines.settings import MAX_SEED
from ...pipelines.tiling import padded_length
from ..host import HostMemory, HostProgress
from .codec import HostCodec
from .guiding import Conditioning, Detail, of_picture, percent_after, with_hint
from .noise_levels import creative_sigmas, cut_sigmas
from .patching import Tiling, latent_multiple, tile_model, tiling_of


@dataclass(frozen=True)
class HostUpscaled:
    """The result of `creative_upscale`."""

    image: Tensor
    """`[B,3,H,W]`, or `[B,4,H,W]` for an input with alpha; float32 in 0..1 on the CPU."""
    seed: int
    """The seed used: the one given, or the one drawn."""
    evaluations: int
    """Tiles denoised, over all passes and pictures."""
    notes: list[str] = field(default_factory=list)
    """What the user should know about the run."""


def creative_upscale(
    image: Tensor,
    parameters: UpscaleParameters,
    *,
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    vae: Any,
    control_net: Any = None,
    upscale_model: Any = None,
    sampler: Any = "dpmpp_2m",
    schedule: Any = "karras",
    runtime: Runtime | None = None,
) -> HostUpscaled:
    """Enlarge and redraw a batch of pictures with a ComfyUI MODEL, which stays as it is.

    `image` is `[B,1|3|4,H,W]` float in 0..1; every picture is independent of the others and has the noise of
    `seed + its index`, also that of samplers which draw more. `sampler` is one of ComfyUI's names or a
    SAMPLER, `schedule` one of its names or SIGMAS, of which the part below the noise level of `creativity`
    is run. Of `parameters` those about prompts, presets and the engine's own models are not used.

    Raises what `pipelines.creative.upscale` raises for pictures, sizes and memory, and ComfyUI's own errors
    for models that do not fit together.
    """
    image = check_image(image)
    if runtime is None:
        progress = HostProgress(model.load_device, latent_format=model.get_model_object("latent_format"))
        runtime = Runtime(HostMemory(), progress)
    redraw = Redraw(
        parameters=parameters,
        model=model,
        positive=positive,
        negative=negative,
        codec=HostCodec(vae, runtime),
        control_net=control_net,
        sampler=sampler,
        schedule=schedule,
        runtime=runtime,
        seed=secrets.randbelow(2**32) if parameters.seed is None else parameters.seed,
    )
    color, alpha = split_alpha(image)
    sizes = plan_sizes((image.shape[2], image.shape[3]), parameters)
    result = torch.empty(len(image), 3, *sizes[-1])
    with torch.inference_mode():
        for index in range(len(image)):
            picture = color[index : index + 1]
            for number, size in enumerate(sizes):
                before = picture
                picture = pre_upscale(picture, size, upscale_model, runtime)
                if isinstance(runtime.memory, HostMemory):
                    runtime.memory.dismiss_visitors()
                if parameters.creativity > 0:
                    picture = redraw(picture, number, index, before)
            result[index : index + 1] = picture
        whole = result if alpha is None else join_alpha(result, resize(alpha, sizes[-1]))
    return HostUpscaled(whole, redraw.seed, redraw.evaluations, redraw.notes)


@dataclass(kw_only=True)
class Redraw:
    """The image-to-image stage, with what all passes and pictures share."""

    parameters: UpscaleParameters
    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    codec: HostCodec
    control_net: Any
    sampler: Any
    schedule: Any
    runtime: Runtime
    seed: int
    evaluations: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = self.parameters
        if settings.creativity > 0 and settings.shape_preservation > 0 and self.control_net is None:
            self.notes.append(
                f"shape_preservation {settings.shape_preservation:g} had no effect: no control_net is "
                "connected."
            )

    def __call__(self, canvas: Tensor, number: int, index: int, before: Tensor) -> Tensor:
        """Redraw one picture `[1,3,H,W]`, number `index` of the batch, in pass `number`.

        `before` is what it was before that pass enlarged it.
        """
        height, width = canvas.shape[-2:]
        tiled = self._tiled_model()
        tiling = tiling_of(tiled)
        assert tiling is not None
        padded = reflect_pad(canvas, self._padded_size(height, width, tiling))
        latents = comfy.sample.fix_empty_latent_channels(tiled, self.codec.encode(padded))
        _check_latents(latents, tiled.get_model_object("latent_format"))
        sampling = tiled.get_model_object("model_sampling")
        sigmas = self._sigmas(sampling, pass_creativity(self.parameters, number))
        positive, negative = (of_picture(c, index) for c in (self.positive, self.negative))
        if self.control_net is not None and self.parameters.shape_preservation > 0:
            positive, negative = with_hint(
                positive,
                negative,
                self.control_net,
                padded,
                strength=self.parameters.shape_preservation,
                end=percent_after(sampling, sigmas, self.parameters.shape_end),
                vae=self.codec.vae,
            )
        if self.parameters.detail > 0:
            self._add_detail(tiled, tiling, sigmas, padded, latents)
        seed = (self.seed + number + index) % (MAX_SEED + 1)
        guider = comfy.samplers.CFGGuider(tiled)
        guider.set_conds(positive, negative)
        guider.set_cfg(self.parameters.guidance_scale)
        redrawn = guider.sample(
            PictureNoise([seed]).like(latents),
            latents,
            self._sampler(),
            sigmas,
            callback=self._preview,
            disable_pbar=True,
            seed=seed,
        )
        self.evaluations += tiling.evaluations
        decoded = self.codec.decode(redrawn.to(management.intermediate_device()))[:, :, :height, :width]
        self.runtime.progress("fix colours", 0, 1)
        method = self.parameters.color_fix
        return fix_color(decoded, before if method == BACK_PROJECTION else canvas, method)

    def _tiled_model(self) -> ModelPatcher:
        settings = self.parameters
        return tile_model(
            self.model,
            tile_size=settings.tile_size,
            tile_overlap=settings.tile_overlap,
            tile_batch=settings.tile_batch,
            fewest=False,
            factor=self.codec.factor,
            runtime=self.runtime,
        )

    def _padded_size(self, height: int, width: int, tiling: Tiling) -> tuple[int, int]:
        """In pixels: whole latents, and what fits into one tile becomes one that networks divide."""
        factor = self.codec.factor
        largest = tiling.options.side_range(self.model.model, factor)[1]
        sides = (
            padded_length(-(-side // factor), largest, latent_multiple(factor)) for side in (height, width)
        )
        return tuple(factor * side for side in sides)

    def _sigmas(self, sampling: Any, creativity: float) -> Tensor:
        if isinstance(self.schedule, str):
            name = self.sampler if isinstance(self.sampler, str) else ""
            steps = self.parameters.num_inference_steps
            return creative_sigmas(sampling, creativity, steps, self.schedule, name)
        sigmas = cut_sigmas(sampling, self.schedule, creativity)
        if len(sigmas) < 2:
            raise ParameterError("sigmas", f"got {len(self.schedule)} noise levels; at least 2 are needed")
        return sigmas

    def _sampler(self) -> Any:
        return comfy.samplers.sampler_object(self.sampler) if isinstance(self.sampler, str) else self.sampler

    def _add_detail(
        self, tiled: ModelPatcher, tiling: Tiling, sigmas: Tensor, padded: Tensor, latents: Tensor
    ) -> None:
        mask = flatness_mask(padded, latents.shape[-2:])
        # Films have a dimension of frames.
        mask = mask.reshape(1, 1, *[1] * (latents.ndim - 4), *mask.shape[-2:])
        amounts = lie_amounts(self.parameters.detail, len(sigmas) - 1)
        detail = Detail(amounts, sigmas, mask, tiled.model.process_latent_in(latents))
        tiling.change = detail.change
        tiled.set_model_sampler_post_cfg_function(detail.remember)

    def _preview(self, step: int, clean: Tensor, x: Tensor, total: int) -> None:
        frame = clean[:, :, 0] if clean.ndim == 5 else clean
        self.runtime.progress("redraw", step + 1, total, frame)


def _check_latents(latents: Tensor, expected: Any) -> None:
    """Raise `ParameterError` where a VAE is of another family than the model."""
    if latents.shape[1] != expected.latent_channels:
        raise ParameterError(
            "vae",
            f"its latents have {latents.shape[1]} channels, but the model's have {expected.latent_channels}; "
            "connect the VAE that belongs to the model",
        )
