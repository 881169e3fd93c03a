"""More texture without a detail LoRA: the network sees more noise than it is told of, except in flat areas.

A network that is told too little noise keeps the rest as texture ("lying sigma", "Detail Daemon"). A lower
sigma acts on the whole canvas, though, and its estimate cannot be set right afterwards where the picture is
flat: of a denoiser that adapts to the local variance, blending by the one noise prediction leaves nearly
all of the added texture there. So sigma stays true and the noise of the canvas is enlarged instead, where
the mask says so: the same ratio of actual to told noise, at one evaluation, and no difference at all
elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .samplers import Denoise

LIE_PER_DETAIL, LARGEST_LIE = 0.03, 0.12
"""Part of the noise kept from the network at detail 1, and at most. Advised for "multiply sigmas" are .01 to
.05, for "lying sigma" up to .1; Detail Daemon's limit for SDXL is .19."""

LIE_STEPS = (0.1, 0.8)
"""Part of the steps between which the network is lied to: not while the layout forms, nor at the end."""

FLAT, TEXTURED = 0.006, 0.02
"""Standard deviations of luma within a latent, up to which nothing and from which everything is added. The
first is above that of the full range of brightness over 512 px (.0045) and of noise of one level of 255
(.0039)."""


def lie_amounts(detail: float, n: int) -> list[float]:
    """The part of the noise to keep from the network in each of `n` steps, for `detail` in 0..5.

    A smooth bump with the peak `min(.03 * detail, .12)`; 0 gives zeros.
    """
    peak, (first, last) = min(LIE_PER_DETAIL * detail, LARGEST_LIE), LIE_STEPS
    phases = [((step + 0.5) / n - first) / (last - first) for step in range(n)]
    return [peak * math.sin(math.pi * phase) ** 2 if 0 < phase < 1 else 0.0 for phase in phases]


def with_detail(denoise: Denoise, amounts: Sequence[float], mask: Tensor, clean: Tensor) -> Denoise:
    """A denoise function for one run of a sampler that adds texture where `mask` is 1.

    `amounts` as from `lie_amounts`; `mask` `[B,1,h,w]` as from `flatness_mask`; `clean` `[B,C,h,w]` the
    latents to which the noise of the canvas was added. Where the amount is 0 the call is passed on as it
    is; where the mask is 0 so is the canvas, bit for bit.

    The noise of the canvas, taken as its distance from the last clean estimate, grows to `sigma / (1 -
    amount)` while the network is told `sigma`.
    """

    def detailed(x: Tensor, sigma: float, index: int) -> Tensor:
        nonlocal clean
        amount = amounts[index]
        if amount > 0:
            x = x + amount / (1 - amount) * mask * (x - clean)
        clean = denoise(x, sigma, index)
        return clean

    return detailed


def flatness_mask(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Where texture may be added, `[B,1,h,w]` in 0..1 on the image's device: 0 where flat, 1 where textured.

    `image` `[B,3,H,W]` in 0..1 is the picture to redraw, `size` the (height, width) of its latents. Measures
    the variance of luma within each latent, so that slopes count little, then widens and softens.
    """
    deviation = _average(_variance(image, size)).sqrt()
    mask = ((deviation - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)
    return _average(F.max_pool2d(mask, 3, stride=1, padding=1))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _variance(image: Tensor, size: tuple[int, int], rows: int = 32) -> Tensor:
    """Variance of luma under each latent, `[B,1,h,w]`, from `rows` rows of them at a time to bound memory."""
    luma = image.new_tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    height, (h, w) = image.shape[-2], size
    strips = []
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        pixels = image[:, :, top * height // h : -(-bottom * height // h)]
        gray = (pixels * luma).sum(dim=1, keepdim=True)
        mean, mean_square = (F.adaptive_avg_pool2d(x, (bottom - top, w)) for x in (gray, gray.square()))
        strips.append((mean_square - mean.square()).clamp(min=0))
    return torch.cat(strips, dim=2)
