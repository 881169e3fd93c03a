"""How an enlarged picture compares with the truth: fidelity, structure, and what became of fine detail.

All of it on luma, `[H,W]` float64 in 0..255, as `luma` makes it; `truth` first.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 4
"""Pixels at the border that no figure counts, as usual for 2x."""

LUMA = (65.481, 128.553, 24.966)
"""ITU-R BT.601 in studio swing (16 to 235), in which super-resolution papers measure."""

SSIM_CONSTANTS = ((0.01 * 255) ** 2, (0.03 * 255) ** 2)
GMSD_CONSTANT = 170.0

DETAIL_BAND = 0.25
"""Cycles per pixel from which on detail is fine: half of the Nyquist frequency."""

FLAT = 1.5
"""Largest standard deviation of the truth, of 255, in the surroundings of a flat pixel."""


def luma(image: Tensor) -> Tensor:
    """Studio-swing luma `[H,W]` of a picture `[3,H,W]` in 0..1 as 8 bits hold it, without its border."""
    weights = torch.tensor(LUMA, dtype=torch.float64)[:, None, None]
    stored = (image.double().clamp(0, 1) * 255).round() / 255
    return 16 + (stored * weights).sum(0)[BORDER:-BORDER, BORDER:-BORDER]


def compare(truth: Tensor, result: Tensor) -> dict[str, float]:
    """Every figure of a result `[3,H,W]` in 0..1 beside the truth `[3,H,W]`."""
    x, y = luma(truth), luma(result)
    energy, correlation = detail_band(x, y)
    return {
        "psnr": psnr(x, y),
        "ssim": ssim(x, y),
        "gmsd": gmsd(x, y),
        "detail_energy": energy,
        "detail_amplitude": math.sqrt(energy),
        "detail_correlation": correlation,
        "spectrum_distance": spectrum_distance(x, y),
        "grain": grain(x, y),
    }


def psnr(truth: Tensor, result: Tensor) -> float:
    """Peak signal to noise ratio in dB, peak 255."""
    return 10 * math.log10(255**2 / max(float((truth - result).square().mean()), 1e-12))


def ssim(truth: Tensor, result: Tensor) -> float:
    """Structural similarity, Wang et al. 2004: Gaussian windows of 11 pixels, sigma 1.5."""

    def mean(x: Tensor) -> Tensor:
        return blur(x, 1.5, 5)

    a, b = SSIM_CONSTANTS
    mean_x, mean_y = mean(truth), mean(result)
    variance_x = mean(truth**2) - mean_x**2
    variance_y = mean(result**2) - mean_y**2
    covariance = mean(truth * result) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + a) * (2 * covariance + b)
    return float((likeness / ((mean_x**2 + mean_y**2 + a) * (variance_x + variance_y + b))).mean())


def gmsd(truth: Tensor, result: Tensor) -> float:
    """Gradient magnitude similarity deviation, Xue et al. 2014, section III; 0 is equal, lower is better."""
    prewitt = torch.tensor([[1.0, 0, -1]] * 3, dtype=torch.float64) / 3
    kernels = torch.stack([prewitt, prewitt.T])[:, None]

    def gradient(x: Tensor) -> Tensor:
        halved = F.avg_pool2d(x[None, None], 2)
        return F.conv2d(halved, kernels, padding=1).square().sum(1).sqrt()

    x, y = gradient(truth), gradient(result)
    likeness = (2 * x * y + GMSD_CONSTANT) / (x**2 + y**2 + GMSD_CONSTANT)
    return float(likeness.std(correction=0))


def detail_band(truth: Tensor, result: Tensor) -> tuple[float, float]:
    """Energy above half of Nyquist relative to the truth's, and its correlation with the truth's (-1..1)."""
    x, y = spectrum(truth), spectrum(result)
    band = frequencies(truth) > DETAIL_BAND
    x, y = x[band], y[band]
    energy_x, energy_y = float(x.abs().square().sum()), float(y.abs().square().sum())
    product = float((x * y.conj()).real.sum())
    return energy_y / max(energy_x, 1e-9), product / max(math.sqrt(energy_x * energy_y), 1e-9)


def spectrum_distance(truth: Tensor, result: Tensor, bins: int = 32) -> float:
    """Mean distance in dB of the power spectra, averaged over rings of equal frequency up to Nyquist."""
    ring = (frequencies(truth) / 0.5 * bins).long().flatten()
    inside = ring < bins

    def power(x: Tensor) -> Tensor:
        total = torch.zeros(bins, dtype=torch.float64)
        return total.index_add(0, ring[inside], spectrum(x).abs().square().flatten()[inside])

    levels = [10 * power(x).clamp_min(1e-9).log10() for x in (truth, result)]
    return float((levels[0] - levels[1]).abs().mean())


def grain(truth: Tensor, result: Tensor) -> float:
    """How much more noise than the truth flat areas have: difference of standard deviations, of 255.

    Flat is where the truth varies little; nan where nothing is.
    """
    radius = 5
    inner = (slice(radius, -radius), slice(radius, -radius))
    mean = blur(truth, 2, radius)
    deviation = (blur(truth**2, 2, radius) - mean**2).clamp_min(0).sqrt()
    flat = deviation < FLAT
    if flat.double().mean() < 0.005:
        return math.nan
    fine = [(x[inner] - blur(x, 2, radius))[flat] for x in (truth, result)]
    return float(fine[1].std() - fine[0].std())


def blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Gaussian blur of `[H,W]`, without the `radius` pixels at the border that it has no surroundings for."""
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = (-0.5 * (distance / sigma) ** 2).exp()
    kernel /= kernel.sum()
    rows = F.conv2d(x[None, None], kernel[None, None, :, None])
    return F.conv2d(rows, kernel[None, None, None, :])[0, 0]


def spectrum(x: Tensor) -> Tensor:
    """Fourier transform `[H,W]` under a Hann window, without which opposite borders would be an edge."""
    rows, columns = (torch.hann_window(side, periodic=False, dtype=torch.float64) for side in x.shape)
    return torch.fft.fft2((x - x.mean()) * rows[:, None] * columns[None, :])


def frequencies(x: Tensor) -> Tensor:
    """Of every coefficient of `spectrum`, in cycles per pixel."""
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in x.shape)
    return (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()
