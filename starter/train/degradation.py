"""What happens to pictures before somebody wants them larger, in torch: blur, resizing, noise, JPEG.

A lighter form of Real-ESRGAN's second-order degradation (Wang et al. 2021, section 3). A batch shares the way
it is resized; all strengths are each picture's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CLEAN_SHARE = 0.35
"""Pictures that are only made smaller."""
KERNEL = 13
JPEG_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
"""ITU-T T.81, table K.1."""
JPEG_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
"""ITU-T T.81, table K.2."""
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Degraded:
    """Low-resolution pictures and how each came about (`[B]`, each 0 for none)."""

    image: Tensor
    blur: Tensor
    """Deviation of the blur, pixels of the large picture."""
    noise: Tensor
    """Deviation of the noise, 0..1."""
    jpeg: Tensor
    """JPEG quality, 100 for none."""


def shrink(image: Tensor, scale: float, mode: str = "bicubic") -> Tensor:
    """`[B,3,H,W]` to 1/scale of the size, antialiased, clipped to 0..1."""
    size = (round(image.shape[2] / scale), round(image.shape[3] / scale))
    if mode == "area":
        return F.interpolate(image, size, mode="area")
    return F.interpolate(image, size, mode=mode, antialias=True).clamp(0, 1)


def degrade(
    image: Tensor, scale: float, generator: torch.Generator, *, clean: float = CLEAN_SHARE
) -> Degraded:
    """Make `[B,3,H,W]` smaller by `scale`, a share `clean` of the pictures without other harm, 8-bit levels.

    `generator` is a CPU generator: the same seed gives the same harm on every device.
    """
    count, device = len(image), image.device

    def draw(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(device)

    harmed = draw(0, 1) >= clean
    blur = torch.where(harmed & (draw(0, 1) < 0.7), draw(0.2, 2.5) * min(1.0, scale / 2), 0)
    blurred = _blur(image, blur, draw(0.5, 1), draw(0, math.pi))
    modes = ("bicubic", "bicubic", "area", "bilinear")
    small = shrink(blurred, scale, modes[int(torch.randint(4, (), generator=generator))])
    noise = torch.where(harmed & (draw(0, 1) < 0.6), draw(1, 15) / 255, 0)
    small = _add_noise(small, noise, draw(0, 1) < 0.4, generator)
    quality = torch.where(harmed & (draw(0, 1) < 0.6), draw(40, 95), 100)
    small = jpeg(small, quality)
    again = harmed & (draw(0, 1) < 0.25)
    if again.any():
        second = _blur(small[again], draw(0.2, 1)[again], draw(0.6, 1)[again], draw(0, math.pi)[again])
        size = small.shape[2:]
        second = F.interpolate(shrink(second, 1.25), size, mode="bicubic", antialias=True)
        quality_again = draw(50, 95)[again]
        small[again] = jpeg(second.clamp(0, 1), quality_again)
        quality[again] = torch.minimum(quality[again], quality_again)
        blur = blur + 0.7 * again
    return Degraded((small * 255).round() / 255, blur, noise, quality)


def _blur(image: Tensor, sigma: Tensor, ratio: Tensor, angle: Tensor) -> Tensor:
    """Gaussian of deviation `sigma` along `angle`, `sigma * ratio` across it, each `[B]`; 0 is none."""
    blurred = sigma > 0.15
    if not blurred.any():
        return image
    sigma, ratio, angle = sigma[blurred, None, None], ratio[blurred, None, None], angle[blurred, None, None]
    grid = torch.arange(KERNEL, device=image.device) - KERNEL // 2
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = torch.exp(-0.5 * ((along / sigma) ** 2 + (across / (sigma * ratio)) ** 2))
    kernel = (kernel / kernel.sum((1, 2), keepdim=True)).repeat_interleave(3, 0)[:, None]
    source = F.pad(image[blurred], (KERNEL // 2,) * 4, mode="reflect")
    smooth = F.conv2d(source.flatten(0, 1)[None], kernel, groups=len(kernel))[0]
    image = image.clone()
    image[blurred] = smooth.view(-1, *image.shape[1:])
    return image


def _add_noise(image: Tensor, sigma: Tensor, grey: Tensor, generator: torch.Generator) -> Tensor:
    shape = image.shape
    noise = torch.randn(shape, generator=generator).to(image.device)
    noise = torch.where(grey[:, None, None, None], noise[:, :1], noise)
    return (image + sigma[:, None, None, None] * noise).clamp(0, 1)


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """What a 4:2:0 baseline JPEG of each `quality` `[B]` (1..100; 100 is none) leaves of `[B,3,H,W]`."""
    lossy = quality < 99.5
    if not lossy.any():
        return image
    source = image[lossy]
    height, width = source.shape[2:]
    padded = F.pad(source, (0, -width % 16, 0, -height % 16), mode="replicate")
    matrix = torch.tensor(TO_YCBCR, device=image.device)
    planes = torch.einsum("ij,bjhw->bihw", matrix, padded * 255)
    planes[:, :1] -= 128
    q = quality[lossy]
    factor = torch.where(q < 50, 50 / q, 2 - q / 50)
    luma = _quantise(planes[:, :1], torch.tensor(JPEG_LUMA, device=image.device), factor)
    chroma = _quantise(F.avg_pool2d(planes[:, 1:], 2), torch.tensor(JPEG_CHROMA, device=image.device), factor)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    decoded = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix), torch.cat([luma + 128, chroma], 1))
    image = image.clone()
    image[lossy] = (decoded[:, :, :height, :width] / 255).clamp(0, 1)
    return image


def _quantise(plane: Tensor, table: Tensor, factor: Tensor) -> Tensor:
    """Round the 8x8 DCT of `[B,C,H,W]` to multiples of `table * factor[B]`."""
    n = torch.arange(8, device=plane.device)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) * 0.5
    basis[0] = math.sqrt(1 / 8)
    step = (table * factor[:, None, None]).clamp(min=1)[:, None, None, None]
    blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T
    blocks = basis.T @ ((coefficients / step).round() * step) @ basis
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
