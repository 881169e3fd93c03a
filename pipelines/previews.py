"""Colours of latents that no program knows: a small picture of them without the VAE's decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoding import LatentCodec

SAMPLE_SIDE = 32
"""Side in latents of the pattern that is encoded to find out what latents look like."""


def fit_colors(codec: LatentCodec) -> tuple[Tensor, Tensor]:
    """Factors `[C,3]` and bias `[3]` that take latents to RGB in -1..1, as closely as a linear map can.

    By least squares over the latents of a pattern with patches of every colour, small and large.
    """
    generator = torch.Generator().manual_seed(0)
    side = SAMPLE_SIDE * codec.scale_factor
    patches = [torch.rand(1, 3, size, size, generator=generator) for size in (4, SAMPLE_SIDE // 2)]
    layers = [F.interpolate(patch, (side, side), mode="bilinear") for patch in patches]
    pattern = torch.stack(layers).mean(0)
    latents = codec.encode(pattern)[0].flatten(1).T
    colors = F.avg_pool2d(pattern, codec.scale_factor)[0].flatten(1).T * 2 - 1
    solution = torch.linalg.lstsq(F.pad(latents, (0, 1), value=1.0).double(), colors.double(), driver="gelsd")
    return solution.solution[:-1].float(), solution.solution[-1].float()
