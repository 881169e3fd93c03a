"""Sizes and resizing: what may come in, how large it gets, in which passes, and the exact Lanczos resize."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import PictureError, SizeLimitError

Size = tuple[int, int]
"""Height and width in pixels, in this order, as in a tensor's shape."""

SIZE_LIMIT = 16 * 2**20
"""Largest result in pixels without `override_size_limits`: 4096 x 4096."""

# Overshoot of an earlier resize or sharpening is clipped; values beyond these are another range altogether.
PLAUSIBLE_VALUES = (-0.5, 2.0)

LANCZOS_RADIUS = 3
STRIP_ROWS = 128
"""Rows of the result made at a time, which bounds the memory of a resize."""
BLOCK_COLUMNS = 64


class Sizing(Protocol):
    """Settings that say how large a result is, such as `UpscaleParameters`."""

    @property
    def scale(self) -> float: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def override_size_limits(self) -> bool: ...


def check_image(image: Tensor) -> Tensor:
    """Return `image` as float32 `[B,3,H,W]` or `[B,4,H,W]` in 0..1, whatever device it is on.

    Takes any floating point `[B,C,H,W]` from 1x1 upward; C is 1 (grey, repeated to three equal channels),
    3 (colour) or 4 (colour and alpha). Values slightly beyond 0..1 are clipped.
    Raises `PictureError` for anything else: another rank, type, channel count or range, no pixels, NaN.
    """
    if not isinstance(image, Tensor) or image.ndim != 4:
        given = f"shape {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise PictureError(f"got {given}; an image is a tensor [batch, channels, height, width]")
    if image.shape[1] not in (1, 3, 4):
        raise PictureError(
            f"got {image.shape[1]} channels; allowed are 1 (grey), 3 (colour) and 4 (colour and alpha); "
            "split or merge the channels first"
        )
    if not image.is_floating_point():
        raise PictureError(f"got values of type {image.dtype}; divide by their maximum to get floats in 0..1")
    if image.numel() == 0:
        raise PictureError(f"got an empty image of shape {list(image.shape)}; at least 1 x 1 pixel is needed")
    low, high = (float(value) for value in image.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PictureError("some pixels are NaN or infinite; repair or replace the image")
    if low < PLAUSIBLE_VALUES[0] or high > PLAUSIBLE_VALUES[1]:
        raise PictureError(f"values run from {low:g} to {high:g}; rescale or tone-map the image to 0..1")
    image = image.float().clamp(0, 1)
    return image.repeat(1, 3, 1, 1) if image.shape[1] == 1 else image


def target_size(height: int, width: int, parameters: Sizing) -> Size:
    """Height and width of the result for a source of `height` x `width` pixels.

    `parameters.width` and `height` are exact; if one of them is 0 it follows from the other in proportion;
    if both are, `parameters.scale` applies. Halves are rounded up, and no side gets below 1 px.
    Raises `SizeLimitError` above `SIZE_LIMIT` pixels unless `override_size_limits` is set.
    """
    wanted_height, wanted_width = parameters.height, parameters.width
    if not wanted_height and not wanted_width:
        wanted_height = math.floor(height * parameters.scale + 0.5)
        wanted_width = math.floor(width * parameters.scale + 0.5)
    wanted_height = wanted_height or max(1, (2 * height * wanted_width + width) // (2 * width))
    wanted_width = wanted_width or max(1, (2 * width * wanted_height + height) // (2 * height))
    if wanted_height * wanted_width > SIZE_LIMIT and not parameters.override_size_limits:
        raise SizeLimitError(
            f"the result would be {wanted_width} x {wanted_height} px "
            f"({wanted_width * wanted_height / 2**20:.1f} megapixels); allowed are {SIZE_LIMIT // 2**20} "
            "(4096 x 4096); lower scale, width or height, or set override_size_limits"
        )
    return wanted_height, wanted_width


def pass_sizes(source: Size, target: Size) -> list[Size]:
    """Sizes after each pass from `source` to `target`: 2x passes first, then what remains; the last is exact.

    At least one pass, and none enlarges a side more than twice (clarity-upscaler's scheme). A side that needs
    less than the other stops at its target early.
    """
    sizes: list[Size] = []
    factor = 1
    while not sizes or sizes[-1] != target:
        factor *= 2
        sizes.append((min(source[0] * factor, target[0]), min(source[1] * factor, target[1])))
    return sizes


def resize(image: Tensor, size: Size) -> Tensor:
    """Resize `[B,C,H,W]` to exactly `size` with the Lanczos-3 filter; a new float32 tensor in 0..1.

    The kernel widens when shrinking (antialiasing) and is renormalised at the borders, as in Pillow's
    `Image.resize`. Beyond the result this needs about `STRIP_ROWS` rows of memory.
    """
    image = image.float()
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image.clamp(0, 1)
    result = image.new_empty(*image.shape[:2], *size)
    columns = [] if width == size[1] else lanczos_kernels(width, size[1], BLOCK_COLUMNS, image.device)
    for block, rows, kernel in lanczos_kernels(height, size[0], STRIP_ROWS, image.device):
        strip = image[..., rows, :]
        if columns:
            strip = torch.cat([strip[..., taps] @ weights.T for _, taps, weights in columns], dim=-1)
        result[..., block, :] = (kernel @ strip).clamp_(0, 1)
    return result


def lanczos_kernels(
    old: int, new: int, block: int, device: torch.device
) -> list[tuple[slice, slice, Tensor]]:
    """Lanczos weights that take `old` samples to `new`, for `block` results at a time.

    Each entry is a block of results, the samples it depends on, and their weights `[results, samples]`.
    Sample positions and the truncation of the kernel are those of Pillow.
    """
    stretch = max(1.0, old / new)
    kernels = []
    for first in range(0, new, block):
        results = slice(first, min(first + block, new))
        center = (torch.arange(first, results.stop, dtype=torch.float64) + 0.5) * (old / new)
        begin = (center - LANCZOS_RADIUS * stretch + 0.5).floor().clamp(0, old)
        end = (center + LANCZOS_RADIUS * stretch + 0.5).floor().clamp(0, old)
        taps = slice(int(begin[0]), int(end[-1]))
        sample = torch.arange(taps.start, taps.stop, dtype=torch.float64)
        distance = (sample + 0.5 - center[:, None]) / stretch
        weights = torch.sinc(distance) * torch.sinc(distance / LANCZOS_RADIUS)
        weights[(distance.abs() >= LANCZOS_RADIUS) | (sample < begin[:, None]) | (sample >= end[:, None])] = 0
        weights /= weights.sum(dim=1, keepdim=True)
        kernels.append((results, taps, weights.float().to(device)))
    return kernels


def reflect_pad(image: Tensor, size: Size) -> Tensor:
    """Extend `[B,C,H,W]` at the bottom and the right to `size` by mirroring it, as often as it takes.

    The border itself is not repeated (`mode="reflect"` of `numpy.pad`), except that of a 1 px side.
    """
    for dim, length in zip((-2, -1), size, strict=True):
        old = image.shape[dim]
        if length > old:
            period = max(1, 2 * (old - 1))
            index = torch.arange(length, device=image.device) % period
            image = image.index_select(dim, torch.minimum(index, period - index))
    return image


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Separate `[B,4,H,W]` into colours `[B,3,H,W]` and alpha `[B,1,H,W]`; `[B,3,H,W]` has no alpha (None).

    Alpha is straight, not premultiplied. What is hidden under fully transparent pixels (often black) would
    bleed into the visible edges when enlarged or redrawn, so it is replaced by visible colours near by.
    A wholly transparent image becomes black.
    """
    if image.shape[1] == 3:
        return image, None
    color, alpha = image[:, :3], image[:, 3:]
    return torch.where(alpha > 0, color, _spread_visible(color, alpha)), alpha


def join_alpha(image: Tensor, alpha: Tensor | None) -> Tensor:
    """Put alpha `[B,1,h,w]`, resized to the size of the colours `[B,3,H,W]`, back: `[B,4,H,W]`."""
    if alpha is None:
        return image
    return torch.cat([image, resize(alpha, (image.shape[-2], image.shape[-1]))], dim=1)


def _spread_visible(color: Tensor, alpha: Tensor) -> Tensor:
    """Colours in which invisible pixels take the mean of visible ones near by (a pull-push pyramid)."""
    if max(color.shape[-2:]) == 1 or bool((alpha > 0).all()):
        return color
    coarse_alpha = F.avg_pool2d(alpha, 2, ceil_mode=True)
    coarse = F.avg_pool2d(color * alpha, 2, ceil_mode=True) / coarse_alpha.clamp(min=1e-6)
    pushed = F.interpolate(_spread_visible(coarse, coarse_alpha), size=color.shape[-2:], mode="nearest")
    return torch.where(alpha > 0, color, pushed)
