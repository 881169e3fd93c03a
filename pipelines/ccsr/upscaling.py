"""The CCSR upscale: a picture is enlarged to the target and restored there in a few evaluations.

image ─► resize ─► hint latents ─► truncated chain over tiles ─► one decode ─► colour fix ─► exact size
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

from ..autoencoding import LatentCodec
from ..batching import bytes_per_tile, fitting_batch
from ..color import fix_color
from ..models import CreativeModels
from ..noise import PictureNoise
from ..resizing import Size, check_image, join_alpha, reflect_pad, resize, split_alpha, target_size
from ..runtime import Runtime, silent
from ..settings import MAX_SEED
from ..tiled_diffusion import Denoiser, TiledDenoiser
from .denoising import (
    Branch,
    CanvasHint,
    HintLatents,
    LatentHintDenoiser,
    TileHints,
    encode_texts,
    pixel_hint_denoiser,
    predict_in_tiles,
)
from .loading import CcsrModels
from .sampling import Chain, Draw, DrawKind, make_chain_v1, make_chain_v2, sample
from .settings import CcsrSettings
from .tiles import TileWindows, plan_windows

LEAST_SIDE = 512
"""Pixels of the shorter side that the networks get at least (or a tile's): what they were trained at."""


@torch.inference_mode()
def ccsr_upscale(
    image: Tensor,
    settings: CcsrSettings,
    models: CcsrModels | CreativeModels,
    runtime: Runtime | None = None,
    *,
    size: Size | None = None,
) -> Tensor:
    """Enlarge and restore a batch of pictures; float32 `[B,3|4,H,W]` in 0..1 on the CPU.

    `image` is `[B,1|3|4,H,W]` float in 0..1, from 1x1 upward. The result has exactly `size`
    (height, width), or what the settings say. Every picture is independent of the others, with the noise of
    `settings.seed` plus its index. `CreativeModels` go the same way, with their tile ControlNet.

    Raises `PictureError` and `SizeLimitError` for the picture, `ParameterError` for settings that do not fit
    the models, `MemoryLimitError` when not even one tile fits, and what `runtime.progress` raises to stop.
    """
    runtime = runtime or Runtime()
    image = check_image(image)
    target = size or target_size(image.shape[2], image.shape[3], settings)
    settings = settings.resolved(models.version if isinstance(models, CcsrModels) else "v1")
    seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
    color, alpha = split_alpha(image)
    task = Restoration.plan(working_size(target, settings), settings, models, runtime)
    result = torch.empty(len(image), 3, *target)
    for first in range(0, len(image), task.group):
        pictures = slice(first, min(first + task.group, len(image)))
        noise = PictureNoise([(seed + i) % (MAX_SEED + 1) for i in range(pictures.start, pictures.stop)])
        canvas = resize(color[pictures], task.size)
        restored = task.restore(canvas, lambda kind, like, noise=noise: noise.like(like))  # type: ignore[misc]
        result[pictures] = resize(restored, target)
    return join_alpha(result, None if alpha is None else resize(alpha, target))


def working_size(target: Size, settings: CcsrSettings) -> Size:
    """The size restored at: the target, or larger where its shorter side is below what the networks know."""
    least = LEAST_SIDE if settings.tiling == "untiled" else min(LEAST_SIDE, settings.tile_size)
    factor = max(1.0, least / min(target))
    height, width = (math.ceil(round(side * factor, 6)) for side in target)
    return height, width


@dataclass(kw_only=True)
class Restoration:
    """One request at one size, with what all its pictures share."""

    size: Size
    settings: CcsrSettings
    models: CcsrModels | CreativeModels
    runtime: Runtime
    chain: Chain
    windows: TileWindows
    canvas_latents: Size
    """Height and width of the padded canvas in latents."""
    batch: int
    """Tiles evaluated at once."""

    @classmethod
    def plan(
        cls, size: Size, settings: CcsrSettings, models: CcsrModels | CreativeModels, runtime: Runtime
    ) -> Restoration:
        """For pictures of `size`; the settings are `resolved`."""
        official = settings.official
        make = make_chain_v2 if isinstance(models, CcsrModels) and models.version == "v2" else make_chain_v1
        chain = make(models.alphas_cumprod, settings.steps, settings.t_max, settings.t_min, official=official)
        factor, multiple = models.scale_factor, models.latent_multiple
        height, width = (math.ceil(side / factor / multiple) * multiple for side in size)
        tile = max(settings.tile_size // factor // multiple, 1) * multiple
        windows = plan_windows(
            height,
            width,
            tile=max(height, width) if settings.tiling == "untiled" else tile,
            stride=min(max(settings.tile_stride // factor, 1), tile),
            gaussian=settings.tiling == "gaussian",
            official=official,
        )
        return cls(
            size=size,
            settings=settings,
            models=models,
            runtime=runtime,
            chain=chain,
            windows=windows,
            canvas_latents=(height, width),
            batch=settings.tile_batch
            or fitting_batch(_tile_bytes(models, settings, windows), runtime.memory),
        )

    @property
    def group(self) -> int:
        """How many pictures to restore together: enough to fill a batch of tiles."""
        return max(self.batch // len(self.windows.tiles), 1)

    def restore(self, canvas: Tensor, draw: Draw) -> Tensor:
        """Restore `canvas` `[B,3,H,W]` of `size`; the result is not clipped to 0..1.

        `draw` gives the noise, on any device.
        """
        models, runtime = self.models, self.runtime
        device = runtime.memory.device
        height, width = self.canvas_latents
        padded = reflect_pad(canvas, (height * models.scale_factor, width * models.scale_factor))
        denoiser, latents = self._prepare(padded, draw)
        tiled = TiledDenoiser(
            denoiser=denoiser,
            grid=self.windows,
            steps=self.chain.evaluations,
            batch=self.batch,
            runtime=runtime,
            stage="restore",
        )
        networks = [models.unet, *([models.controlnet] if models.controlnet is not None else [])]
        tile_bytes = _tile_bytes(models, self.settings, self.windows)
        runtime.memory.load(*networks, activation_bytes=self.batch * tile_bytes)

        def draw_there(kind: DrawKind, like: Tensor) -> Tensor:
            return draw(kind, like).to(device)

        predict = predict_in_tiles(tiled, models.alphas_cumprod)
        clean = sample(self.chain, predict, draw_there, latents.to(device)).cpu()
        if self.settings.official and self.settings.tiling == "uniform" and self.chain.start == "noise":
            return self._decode_in_tiles(clean, padded)[:, :, : canvas.shape[2], : canvas.shape[3]]
        codec = LatentCodec(models.vae, runtime)
        restored = codec.decode(clean, clip=False)[:, :, : canvas.shape[2], : canvas.shape[3]]
        runtime.progress("fix colours", 0, 1)
        return fix_color(restored, canvas, self.settings.color_fix, clip=False)

    def _prepare(self, padded: Tensor, draw: Draw) -> tuple[Denoiser, Tensor]:
        """What predicts, and the canvas's latents `[B,C,h,w]`, or zeros where the chain needs none."""
        models, settings = self.models, self.settings
        nothing = torch.zeros(len(padded), models.vae.config.latent_channels, *self.canvas_latents)
        if not isinstance(models, CcsrModels):
            models.apply_loras()
            return pixel_hint_denoiser(models, padded, settings, self.runtime), nothing
        positive, negative = encode_texts(models, settings, self.runtime)
        guided = settings.guidance_scale != 1 and not torch.equal(positive, negative)
        hints: list[HintLatents]
        if models.version == "v1":
            quiet = LatentCodec(models.condition_vae, Runtime(self.runtime.memory, silent))
            hint = TileHints.encode(padded, self.windows.tiles, quiet, self.runtime)
            latents, hints = nothing, [hint, hint]
        else:
            samples = self._encode_samples(padded, 2 if guided else 1, draw)
            latents, hints = samples[0], [CanvasHint(samples[0]), CanvasHint(samples[-1])]
        branches = Branch(negative, hints[0]), Branch(positive, hints[1])
        # The official program conditions the extraction by the first half of its batch, the negative one.
        extraction = branches[0] if guided and settings.official else branches[1]
        denoiser = LatentHintDenoiser(
            models=models,
            positive=branches[1],
            negative=branches[0] if guided else None,
            guidance=settings.guidance_scale,
            extraction=extraction,
        )
        return denoiser, latents

    def _encode_samples(self, padded: Tensor, count: int, draw: Draw) -> list[Tensor]:
        """The canvas's latents: the mode of the VAE's posterior, or officially so many samples of it."""
        assert isinstance(self.models, CcsrModels)
        vae = self.models.condition_vae
        codec = LatentCodec(vae, self.runtime)
        if not self.settings.official:
            return [codec.encode(padded)]
        self.runtime.memory.load(vae)
        posterior = vae.encode((padded * 2 - 1).to(vae.device, vae.dtype)).latent_dist
        mean, deviation = posterior.mean.float().cpu(), posterior.std.float().cpu()
        scale = vae.config.scaling_factor
        return [(mean + deviation * draw("posterior", mean)) * scale for _ in range(count)]

    def _decode_in_tiles(self, clean: Tensor, padded: Tensor) -> Tensor:
        """The official way of uniform tiles: decoded and colour-fixed one by one, which leaves seams."""
        factor = self.models.scale_factor
        codec = LatentCodec(self.models.vae, self.runtime)
        total, count = torch.zeros_like(padded), torch.zeros_like(padded[:1, :1])
        for tile in self.windows.tiles:
            restored = codec.decode(tile.crop(clean), clip=False)
            source = tile.crop(padded, factor)
            tile.crop(total, factor).add_(fix_color(restored, source, self.settings.color_fix, clip=False))
            tile.crop(count, factor).add_(1)
        return total / count


def _tile_bytes(models: CcsrModels | CreativeModels, settings: CcsrSettings, windows: TileWindows) -> int:
    tile = windows.tiles[0]
    samples = 1 if settings.guidance_scale == 1 else 2
    return bytes_per_tile(models.unet, tile.height, tile.width, samples=samples)
