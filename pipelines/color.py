"""Colour correction: gives a redrawn image the colours of the picture it was made from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .parameters import BACK_PROJECTION, COLOR_FIXES
from .resizing import resize

WAVELET_LEVELS = 5
WAVELET_REACH = 2**WAVELET_LEVELS - 1
"""Pixels to each side that the low band of a pixel depends on: 1 + 2 + 4 + 8 + 16."""
BLOCK = 64
"""Rows (and columns) corrected at a time, which bounds the memory; not fewer than `WAVELET_REACH`."""
BACK_PROJECTIONS = 2
VARIANCE_FLOOR = 1e-5
"""Keeps flat channels finite, as in CCSR's and StableSR's colour fix."""

# CIE 1931 2 degree observer, illuminant D65, as in IEC 61966-2-1 (sRGB) and scikit-image.
RGB_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)


def fix_color(image: Tensor, source: Tensor, method: str, *, clip: bool = True) -> Tensor:
    """Move the colours of `image` to those of `source`; both float32 `[B,3,H,W]` in 0..1 of the same size.

    For "back_projection" `source` is the picture before it was enlarged.

    `image` is overwritten and returned, clipped to 0..1 unless `clip` is off ("lab" always is); beyond that,
    memory for some rows is used.

    - "wavelet": low frequencies (five levels of the a trous wavelet, blurs up to 31 px away) of `source` and
      high ones of `image` (StableSR, Wang et al. 2023, section 3.3)
    - "adain": mean and standard deviation of every channel of `source` (Huang and Belongie 2017, equation 8)
    - "lab": the same in CIELAB, so that hue and lightness are moved separately (Reinhard et al. 2001)
    - "back_projection": what `image` made small lacks of `source` is added, twice (Irani and Peleg 1991)
    - "none": `image` as it is
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"got colour fix {method!r}; allowed is one of {', '.join(COLOR_FIXES)}")
    if image.shape != source.shape and method != BACK_PROJECTION:
        raise ValueError(
            f"image is {list(image.shape)} and source {list(source.shape)}; resize the source first"
        )
    for picture, source_picture in zip(image, source, strict=True):
        if method == "wavelet":
            _take_low_band(picture, source_picture)
        elif method == "adain":
            _match_statistics(picture, source_picture)
        elif method == "lab":
            _match_lab(picture, source_picture)
        elif method == BACK_PROJECTION:
            _project_back(picture, source_picture)
    return image.clamp_(0, 1) if clip and method != "none" else image


def _take_low_band(image: Tensor, source: Tensor) -> None:
    """Overwrite `image` `[3,H,W]` with image + low(source - image) = image - low(image) + low(source)."""
    columns = _low_band_kernels(image.shape[2], image.device)
    finished: tuple[slice, Tensor] | None = None
    for rows, reach, kernel in _low_band_kernels(image.shape[1], image.device):
        difference = kernel @ (source[:, reach] - image[:, reach])
        corrected = image[:, rows].clone()
        for block, taps, weights in columns:
            corrected[..., block] += difference[..., taps] @ weights.T
        # A strip is written only after the next one has read the rows the two share.
        if finished:
            image[:, finished[0]] = finished[1]
        finished = rows, corrected
    if finished:
        image[:, finished[0]] = finished[1]


def _low_band_kernels(length: int, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """The low band along one axis as small matrices, one for every block of `BLOCK` samples.

    Each entry is the block, the samples it depends on, and its weights `[block, samples]`. The matrices are
    those of five blurs in turn, level i with the kernel [1,2,1]/4 dilated by 2^i and the border replicated;
    the blurs are separable, so rows and columns may be taken one after the other.
    """
    kernels = []
    for first in range(0, length, BLOCK):
        block = slice(first, min(first + BLOCK, length))
        taps = slice(max(0, first - WAVELET_REACH), min(block.stop + WAVELET_REACH, length))
        # Where the cut is not the border of the image, what the replication spoils lies outside the block.
        weights = torch.eye(taps.stop - taps.start, dtype=torch.float64)
        for level in range(WAVELET_LEVELS):
            padded = F.pad(weights.T[None], (2**level, 2**level), mode="replicate")[0].T
            weights = (padded[: len(weights)] + 2 * weights + padded[-len(weights) :]) / 4
        weights = weights[first - taps.start : block.stop - taps.start]
        kernels.append((block, taps, weights.float().to(device)))
    return kernels


def _project_back(image: Tensor, source: Tensor) -> None:
    """Add to `image` `[3,H,W]` what it lacks of `source` `[3,h,w]` when it is resized to that."""
    # A channel at a time, which bounds the memory.
    for channel, source_channel in zip(image[:, None, None], source[:, None, None], strict=True):
        for _ in range(BACK_PROJECTIONS):
            lacking = source_channel - resize(channel, (source.shape[1], source.shape[2]))
            # A resize keeps to 0..1, and a difference is in -1..1.
            channel.add_(resize((lacking + 1) / 2, (image.shape[1], image.shape[2])), alpha=2).sub_(1)


def _match_statistics(image: Tensor, source: Tensor) -> None:
    """Overwrite `image` `[3,H,W]` with its values moved to each channel's mean and deviation in `source`."""
    # One pixel has no deviation; the unbiased estimate of more is what the published colour fixes use.
    correction = min(1, image[0].numel() - 1)
    variance, mean = torch.var_mean(image, dim=(1, 2), correction=correction, keepdim=True)
    source_variance, source_mean = torch.var_mean(source, dim=(1, 2), correction=correction, keepdim=True)
    gain = ((source_variance + VARIANCE_FLOOR) / (variance + VARIANCE_FLOOR)).sqrt()
    image.sub_(mean).mul_(gain).add_(source_mean)


def _match_lab(image: Tensor, source: Tensor) -> None:
    """`_match_statistics` for the L, a and b of `image` `[3,H,W]`, in strips."""
    mean, variance = _lab_statistics(image)
    source_mean, source_variance = _lab_statistics(source)
    gain = ((source_variance + VARIANCE_FLOOR) / (variance + VARIANCE_FLOOR)).sqrt()
    offset = source_mean - mean * gain
    for strip in image.split(BLOCK, dim=1):
        lab = rgb_to_lab(strip) * gain.float().view(3, 1, 1) + offset.float().view(3, 1, 1)
        strip.copy_(lab_to_rgb(lab))


def _lab_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance `[3]`, float64, of L, a and b over `image` `[3,H,W]`."""
    total = torch.zeros(2, 3, dtype=torch.float64, device=image.device)
    for strip in image.split(BLOCK, dim=1):
        lab = rgb_to_lab(strip).flatten(1)
        total += torch.stack([lab.sum(dim=1, dtype=total.dtype), lab.square().sum(dim=1, dtype=total.dtype)])
    mean, mean_square = total / image[0].numel()
    return mean, (mean_square - mean.square()).clamp(min=0)


def rgb_to_lab(image: Tensor) -> Tensor:
    """sRGB `[3,H,W]` in 0..1 to CIELAB under D65: L in 0..100, a and b roughly -128..127."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    to_xyz = torch.tensor(RGB_TO_XYZ, device=image.device) / torch.tensor(WHITE, device=image.device)[:, None]
    xyz = torch.einsum("ij,jhw->ihw", to_xyz, linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIELAB under D65 `[3,H,W]` to sRGB clipped to 0..1, the inverse of `rgb_to_lab`."""
    y = (lab[0] + 16) / 116
    xyz = torch.stack([lab[1] / 500 + y, y, y - lab[2] / 200])
    xyz = torch.where(xyz > 0.2068966, xyz**3, (xyz - 16 / 116) / 7.787)
    to_xyz = torch.tensor(RGB_TO_XYZ, dtype=torch.float64) / torch.tensor(WHITE, dtype=torch.float64)[:, None]
    linear = torch.einsum("ij,jhw->ihw", torch.linalg.inv(to_xyz).float().to(lab.device), xyz).clamp_(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92).clamp_(0, 1)
