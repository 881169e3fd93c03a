"""Images to latents and back through a VAE, exactly where memory allows and in windows where it does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

from .errors import MemoryLimitError, UpscalerError
from .levels import Layer, Level, LevelNetwork, Run
from .norm_statistics import prepare
from .runtime import Runtime


class LatentCodec:
    """Encodes images into the scaled latents a diffusion model works in, and decodes them.

    A picture of up to `tile`² latents is evaluated as it is, identically to `AutoencoderKL`. Of a larger one,
    those resolution levels are evaluated in windows whose features would take more memory than that. Windows
    overlap by the receptive field and hold the group-norm statistics of the whole picture (estimated on a
    sample, see `norm_statistics`), so they meet without a seam. The lower resolutions, and the attention, see
    the whole picture. All this depends on sizes only; if the device runs out of memory, tiles are halved.

    The module runs in the floating point type it has; a picture that overflows half precision is computed
    again in float32. The pictures of a batch do not affect each other.
    """

    def __init__(self, vae: AutoencoderKL, runtime: Runtime, *, tile: int = 128) -> None:
        kinds = {*vae.config.down_block_types, *vae.config.up_block_types}
        if kinds != {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
            raise ValueError(f"This VAE is built of {sorted(kinds)}; only convolutional blocks are known.")
        self.vae = vae
        self.runtime = runtime
        self.tile = tile
        self.scale_factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        prepare(vae)
        for module in vae.modules():
            if isinstance(module, nn.SiLU):
                module.inplace = True  # it follows a norm, whose output nobody else reads
        halo = 2 * vae.config.layers_per_block + 3
        self._encoder = LevelNetwork(
            "encode", vae.encoder, self._encoder_levels(), finest_first=True, halo=halo
        )
        self._decoder = LevelNetwork(
            "decode", vae.decoder, self._decoder_levels(), finest_first=False, halo=halo
        )

    def encode(self, image: Tensor) -> Tensor:
        """The mode of the posterior of each image, scaled and shifted as the VAE's configuration says.

        `image`: `[B,3,H,W]` in 0..1, H and W multiples of `scale_factor`.
        Returns `[B,C,H/scale_factor,W/scale_factor]`, float32 on the CPU.
        Raises ValueError for other sizes, MemoryLimitError, and UpscalerError where the result is not finite.
        """
        height, width = image.shape[-2:]
        if height % self.scale_factor or width % self.scale_factor:
            raise ValueError(
                f"The image is {width}x{height} pixels, but this VAE takes multiples of {self.scale_factor}. "
                "Pad it, and crop the result."
            )
        size = height // self.scale_factor, width // self.scale_factor
        return self._convert(
            self._encoder, image, torch.empty(len(image), self.vae.config.latent_channels, *size)
        )

    def decode(self, latents: Tensor, *, clip: bool = True) -> Tensor:
        """The images of scaled latents: the inverse of `encode`.

        `latents`: `[B,C,h,w]`. Returns `[B,3,h*scale_factor,w*scale_factor]`, float32 on the CPU, in 0..1,
        or, without `clip`, as the network gives them, some values beyond that.
        Raises MemoryLimitError, and UpscalerError where the result is not finite.
        """
        height, width = (side * self.scale_factor for side in latents.shape[-2:])
        image = torch.empty(len(latents), self.vae.config.out_channels, height, width)
        image = self._convert(self._decoder, latents, image)
        return image.clamp_(0, 1) if clip else image

    def _encoder_levels(self) -> list[Level]:
        encoder, widths = self.vae.encoder, self.vae.config.block_out_channels
        levels = []
        for i, block in enumerate(encoder.down_blocks):
            layers = [*_resnets(block), *(block.downsamplers or ())]
            # At one resolution, features are first as wide as the level before left them.
            levels.append(self._level(layers, 2**i, max(widths[max(i - 1, 0) : i + 1])))
        levels[0].layers[:0] = [self._from_pixels, encoder.conv_in]
        quant_conv = [self.vae.quant_conv or nn.Identity()]
        levels[-1].layers.extend(
            [
                encoder.mid_block,
                encoder.conv_norm_out,
                encoder.conv_act,
                encoder.conv_out,
                *quant_conv,
                self._to_latents,
            ]
        )
        return levels

    def _decoder_levels(self) -> list[Level]:
        decoder, widths = self.vae.decoder, self.vae.config.block_out_channels[::-1]
        levels: list[Level] = []
        upsamplers: list[Layer] = []
        for i, block in enumerate(decoder.up_blocks):
            layers = [*upsamplers, *_resnets(block)]
            levels.append(self._level(layers, self.scale_factor // 2**i, max(widths[max(i - 1, 0) : i + 1])))
            upsamplers = list(block.upsamplers or ())
        post_quant_conv = self.vae.post_quant_conv or nn.Identity()
        levels[0].layers[:0] = [self._from_latents, post_quant_conv, decoder.conv_in, decoder.mid_block]
        levels[-1].layers.extend([decoder.conv_norm_out, decoder.conv_act, decoder.conv_out, _to_pixels])
        return levels

    def _level(self, layers: list[Layer], pixels: int, width: int) -> Level:
        """`pixels`: side of what one position of its features covers; `width`: channels of the widest."""
        return Level(layers, values_per_latent=width * (self.scale_factor // pixels) ** 2)

    def _from_pixels(self, image: Tensor) -> Tensor:
        return self._to_module(image * 2 - 1)

    def _to_latents(self, features: Tensor) -> Tensor:
        mean, deviation = self._latent_moments()
        return (features.chunk(2, dim=1)[0].float().cpu() - mean) * (
            self.vae.config.scaling_factor / deviation
        )

    def _from_latents(self, latents: Tensor) -> Tensor:
        mean, deviation = self._latent_moments()
        return self._to_module(latents * deviation / self.vae.config.scaling_factor + mean)

    def _latent_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and relative deviation of the latents as the VAE gives them, `[C,1,1]` or `[1,1,1]`."""
        config = self.vae.config
        mean = torch.tensor(config.latents_mean or [config.shift_factor or 0.0])
        return mean[:, None, None], torch.tensor(config.latents_std or [1.0])[:, None, None]

    def _to_module(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.vae.device, self.vae.dtype)

    def _convert(self, network: LevelNetwork, source: Tensor, target: Tensor) -> Tensor:
        """Fill `target`, picture by picture, and return it."""
        for index, (picture, result) in enumerate(zip(source.float().cpu(), target, strict=True)):
            finite = self._convert_picture(network, picture, result, index, len(source))
            if not finite and self.vae.dtype != torch.float32:
                with self._in_float32():
                    finite = self._convert_picture(network, picture, result, index, len(source))
            if not finite:
                given = "finite" if picture.isfinite().all() else "not finite either"
                raise UpscalerError(
                    f"The VAE's {network.stage} gave values that are not finite, in float32; "
                    f"its input is {given}. Use another VAE file, or look at the step before."
                )
        return target

    @torch.no_grad()
    def _convert_picture(
        self, network: LevelNetwork, picture: Tensor, result: Tensor, index: int, pictures: int
    ) -> bool:
        """`LevelNetwork.evaluate`, with smaller tiles while there is not enough memory."""
        # A first failure may come from a fragmented cache: the same size gets a second chance.
        for tile in (self.tile, self.tile, self.tile // 2, self.tile // 4):
            try:
                return network.evaluate(
                    picture, result, tile=tile, run=self._runner(network.stage, index, pictures)
                )
            except Exception as error:
                if not self.runtime.memory.is_out_of_memory(error):
                    raise
            self.runtime.memory.release()
        raise MemoryLimitError(
            f"The device has not enough memory to {network.stage} in tiles of {tile}x{tile} latents. "
            "Free memory on it, or load the VAE in half precision."
        )

    def _runner(self, stage: str, index: int, pictures: int) -> Run:
        """Evaluates levels of one picture, after making room and before reporting."""
        done = itertools.count(1)

        def run(levels: Sequence[Level], batch: Tensor, latents: float, evaluations: int) -> Tensor:
            # Input, output and one more of the widest features are alive at once.
            values = 3 * latents * max(level.values_per_latent for level in levels)
            self.runtime.memory.load(self.vae, activation_bytes=int(values) * self.vae.dtype.itemsize)
            for layer in itertools.chain.from_iterable(level.layers for level in levels):
                batch = layer(batch)
            self.runtime.progress(stage, index * evaluations + next(done), pictures * evaluations)
            return batch

        return run

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        dtype = self.vae.dtype
        self.vae.float()
        try:
            yield
        finally:
            self.vae.to(dtype)


def _resnets(block: DownEncoderBlock2D | UpDecoderBlock2D) -> list[Layer]:
    # Its second argument, a time embedding, has no default and is not used in a VAE.
    return [partial(resnet, temb=None) for resnet in block.resnets]


def _to_pixels(features: Tensor) -> Tensor:
    return features.float().cpu() / 2 + 0.5
