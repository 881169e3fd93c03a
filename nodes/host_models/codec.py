"""Pictures to latents and back through a ComfyUI VAE."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
from torch import Tensor

from ...pipelines.errors import ModelFileError
from ...pipelines.planning import CODEC_TILE
from ...pipelines.runtime import Runtime
from ..host import HostMemory, total_bytes

if TYPE_CHECKING:
    from ...pipelines.autoencoding import LatentCodec

TILE, OVERLAP = 64, 16
"""In latents, of ComfyUI's own tiled methods."""


class HostCodec:
    """A VAE as ComfyUI runs it; on large canvases by the engine's exact method where it has the architecture.

    Small canvases are seen whole. Larger ones are too where the architecture is another and memory allows;
    else ComfyUI's tiled methods are used.
    """

    def __init__(self, vae: Any, runtime: Runtime) -> None:
        self.vae = vae
        self.runtime = runtime
        self.factor: int = vae.spacial_compression_encode()
        self._exact: LatentCodec | None = None
        self._tried = False

    def encode(self, image: Tensor) -> Tensor:
        """Latents `[1,C,h,w]`, or `[1,C,1,h,w]` of a VAE for films, unscaled as ComfyUI has them, on the CPU.

        `image` is `[1,3,H,W]` in 0..1, H and W multiples of `factor`.
        """
        height, width = (side // self.factor for side in image.shape[-2:])
        exact = self._exact_for(height * width)
        if exact is not None:
            return exact.encode(image)
        self.runtime.progress("encode", 0, 1)
        pixels = image.movedim(1, -1)
        shape = image.unsqueeze(2).shape if self.vae.latent_dim == 3 else image.shape
        if self._fits(self.vae.memory_used_encode(shape, self.vae.vae_dtype)):
            latents = self.vae.encode(pixels)
        else:
            side, overlap = self.factor * TILE, self.factor * OVERLAP
            latents = self.vae.encode_tiled(pixels, tile_x=side, tile_y=side, overlap=overlap)
        return latents.float().cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """The picture `[1,3,H,W]` in 0..1, float32 on the CPU, of what `encode` gives."""
        exact = self._exact_for(latents.shape[-2] * latents.shape[-1]) if latents.ndim == 4 else None
        if exact is not None:
            return exact.decode(latents)
        self.runtime.progress("decode", 0, 1)
        if self._fits(self.vae.memory_used_decode(latents.shape, self.vae.vae_dtype)):
            pixels = self.vae.decode(latents)
        else:
            pixels = self.vae.decode_tiled(latents, tile_x=TILE, tile_y=TILE, overlap=OVERLAP)
        # Films have one dimension more, of which a picture is the first.
        pixels = pixels.reshape(-1, *pixels.shape[-3:])[:1, :, :, :3]
        return pixels.movedim(-1, 1).float().cpu().clamp(0, 1)

    def _fits(self, needed: float) -> bool:
        memory = self.runtime.memory
        # What other models occupy can be made free for a VAE; ComfyUI does so.
        if memory.device.type == "cpu":
            return needed < memory.free_bytes()
        return needed < 0.8 * total_bytes(memory.device)

    def _exact_for(self, latents: int) -> LatentCodec | None:
        if latents <= CODEC_TILE**2:
            return None
        if not self._tried:
            self._tried = True
            self._exact = exact_codec(self.vae, self.runtime)
        return self._exact


def exact_codec(vae: Any, runtime: Runtime) -> LatentCodec | None:
    """The engine's codec with the weights of a ComfyUI VAE, unscaled; None for another architecture."""
    network = vae.first_stage_model
    if (
        type(network) not in (AutoencoderKL, AutoencodingEngine)
        or type(network.encoder) is not Encoder
        or type(network.decoder) is not Decoder
        or getattr(network, "bn", None) is not None
        or vae.patcher.patches
    ):
        return None
    from ...pipelines.autoencoding import LatentCodec  # noqa: PLC0415  diffusers takes seconds to import
    from ...pipelines.models.networks import load_vae  # noqa: PLC0415

    weights = _Weights(network)
    try:
        module = load_vae(weights, weights.template, vae.vae_dtype)
    except ModelFileError as error:
        logging.info("The VAE is run by ComfyUI's own methods: %s", error)
        return None
    if isinstance(runtime.memory, HostMemory):
        runtime.memory.adopt(module)
    return LatentCodec(module, runtime, tile=CODEC_TILE)


class _Weights:
    """Stands where the engine reads a network's tensors from a file (`pipelines.models.parts.Part`)."""

    config = None

    def __init__(self, network: Any) -> None:
        self.path = Path(type(network).__name__)
        self._tensors = {
            name: tensor.detach().cpu()
            for name, tensor in network.state_dict().items()
            if name.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
        }

    @property
    def template(self) -> dict[str, Any]:
        """The configuration in diffusers' terms, as far as shapes do not say it."""
        levels = self._count("encoder.down.{}.block.0.conv1.weight")
        quantizes = "quant_conv.weight" in self._tensors
        return {
            "act_fn": "silu",
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": [0] * levels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": self._count("encoder.down.0.block.{}.conv1.weight"),
            "norm_num_groups": 32,
            "sample_size": 512,
            "scaling_factor": 1.0,
            "use_quant_conv": quantizes,
            "use_post_quant_conv": quantizes,
        }

    def shapes(self) -> dict[str, Tensor]:
        return {name: tensor.to("meta") for name, tensor in self._tensors.items()}

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._tensors)

    def _count(self, name: str) -> int:
        return next(n for n in range(100) if name.format(n) not in self._tensors)
