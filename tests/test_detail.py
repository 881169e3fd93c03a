"""The detail setting without a LoRA, on denoisers whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from creative_upscaler.pipelines.detail import flatness_mask, lie_amounts, with_detail
from creative_upscaler.pipelines.parameters import SAMPLERS
from creative_upscaler.pipelines.samplers import sample
from creative_upscaler.pipelines.schedules import scaled_linear_alphas, spread_sigmas

SIDE = 64
SWEEP = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
LEFT = (..., slice(8, -8), slice(8, SIDE // 2 - 8))
RIGHT = (..., slice(8, -8), slice(SIDE // 2 + 8, -8))
SIGMAS = spread_sigmas(scaled_linear_alphas(), 0.5, 20, "karras")
STEPS = len(SIGMAS) - 1


def normal(seed: int, shape: tuple[int, ...] = (2, 1, SIDE, SIDE)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(x: Tensor, size: int = 3) -> Tensor:
    return F.avg_pool2d(F.pad(x, (size // 2,) * 4, mode="circular"), size, stride=1)


def spectrum() -> Tensor:
    """Power of natural pictures over frequency, 1/f^2, of variance 1."""
    frequency = torch.fft.fftfreq(SIDE)
    power = 1 / (frequency[:, None] ** 2 + frequency[None] ** 2).clamp(min=SIDE**-2)
    return power / power.mean()


def texture() -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(normal(1)) * spectrum().sqrt()).real


def gaussian(x: Tensor, sigma: float, index: int = 0) -> Tensor:
    """The exact mean of x0 for a normal prior with that spectrum (Wiener's filter)."""
    gain = spectrum() / (spectrum() + sigma**2)
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


BAND_NOISE = 8 / 9
"""Variance of white noise of variance 1 less its mean over 3 x 3."""


def adaptive(x: Tensor, sigma: float, index: int = 0) -> Tensor:
    """Wiener's filter on the finest band with the variance measured in place, as networks adapt to content.

    Unlike the normal prior it takes noise that it was not told of for texture, also where all is flat.
    """
    coarse = smooth(x)
    fine = x - coarse
    noise = BAND_NOISE * sigma**2
    power = (smooth(fine.square(), 9) - noise).clamp(min=0)
    return gaussian(coarse, sigma) + fine * power / (power + noise)


def exact_lie(denoise, amounts: Sequence[float], mask: Tensor, clean: Tensor) -> Callable[..., Tensor]:
    """The lower sigma in the masked part and the true one elsewhere, by two evaluations (Selective Sigma)."""

    def lied(x: Tensor, sigma: float, index: int) -> Tensor:
        return torch.where(
            mask > 0, denoise(x, sigma * (1 - amounts[index]), index), denoise(x, sigma, index)
        )

    return lied


def redraw(denoise, sampler: str, detail: float, method=with_detail, mask: Tensor | None = None) -> Tensor:
    """Left half textured and blurred, right half flat; the mask covers the left."""
    if mask is None:
        mask = torch.zeros(2, 1, SIDE, SIDE)
        mask[..., : SIDE // 2] = 1
    clean = smooth(texture(), 5) * (torch.arange(SIDE) < SIDE // 2)
    x = clean + float(SIGMAS[0]) * normal(2)
    generator = torch.Generator().manual_seed(3)
    return sample(
        sampler,
        method(denoise, lie_amounts(detail, STEPS), mask, clean),
        x,
        SIGMAS,
        lambda: torch.randn(x.shape, generator=generator),
    )


def fine_energy(x: Tensor, where: tuple) -> float:
    return (x - smooth(x, 5))[where].square().mean().item()


@pytest.mark.parametrize("denoise", [gaussian, adaptive])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "uni_pc"])
def test_texture_rises_with_detail_as_by_the_lie_itself(denoise, sampler):
    off = fine_energy(redraw(denoise, sampler, 0), LEFT)
    energies = [fine_energy(redraw(denoise, sampler, detail), LEFT) for detail in SWEEP]
    assert off < energies[0]
    assert all(less < more for less, more in pairwise(energies))
    lied = fine_energy(redraw(denoise, sampler, 1, exact_lie), LEFT)
    ours = fine_energy(redraw(denoise, sampler, 1), LEFT)
    assert 0.5 < (ours - off) / (lied - off) < 1.5


@pytest.mark.parametrize("denoise", [gaussian, adaptive])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde"])
def test_flat_areas_stay_as_they_are_without_detail(denoise, sampler):
    off = redraw(denoise, sampler, 0)
    contrast = (off - smooth(off, 5))[LEFT].std()
    for detail in SWEEP:
        change = (redraw(denoise, sampler, detail) - off)[RIGHT]
        # What is left reaches over from the other half through the denoiser's neighbourhood.
        assert change.square().mean().sqrt() < 5e-3 * contrast


def test_blending_by_one_noise_prediction_would_not_spare_flat_areas():
    """Why the canvas and not the estimate is changed: the cheaper-looking form fails the test above."""

    def blended(denoise, amounts, mask, clean):
        def detailed(x: Tensor, sigma: float, index: int) -> Tensor:
            told = sigma * (1 - amounts[index])
            lied = denoise(x, told, index)
            return mask * lied + (1 - mask) * (x - sigma / told * (x - lied))

        return detailed

    off = fine_energy(redraw(adaptive, "dpmpp_2m", 0), RIGHT)
    ours = fine_energy(redraw(adaptive, "dpmpp_2m", 4), RIGHT)
    theirs = fine_energy(redraw(adaptive, "dpmpp_2m", 4, blended), RIGHT)
    assert ours == pytest.approx(off, rel=1e-3)
    assert theirs > 1.1 * off


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_detail_zero_is_bit_identical_to_off(sampler):
    off = redraw(adaptive, sampler, 0, method=lambda denoise, *_: denoise)
    assert torch.equal(redraw(adaptive, sampler, 0), off)
    assert not torch.equal(redraw(adaptive, sampler, 1), off)
    nowhere = torch.zeros(2, 1, SIDE, SIDE)
    assert torch.equal(redraw(adaptive, sampler, 4, mask=nowhere), off)


def test_there_is_one_evaluation_at_the_true_sigma_with_the_enlarged_noise():
    calls = []
    clean, noise = texture(), normal(2)

    def denoise(x: Tensor, sigma: float, index: int) -> Tensor:
        calls.append((x, sigma, index))
        return 0.5 * x

    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    detailed = with_detail(denoise, [0.1, 0.0, 0.2], mask, clean)
    x = clean + 2.0 * noise
    detailed(x, 2.0, 0)
    seen = calls[-1][0]
    torch.testing.assert_close(seen[LEFT], (clean + 2.0 / 0.9 * noise)[LEFT])
    assert torch.equal(seen[RIGHT], x[RIGHT])
    assert detailed(x, 1.0, 1).equal(0.5 * x)
    assert calls[-1][0] is x
    # From then on the noise is what lies between the canvas and the last estimate.
    detailed(x, 0.5, 2)
    torch.testing.assert_close(calls[-1][0][LEFT], (0.5 * x + 0.5 * x / 0.8)[LEFT])
    assert [call[1:] for call in calls] == [(2.0, 0), (1.0, 1), (0.5, 2)]


@pytest.mark.parametrize("n", [1, 2, 4, 10, 20, 200])
def test_amounts_are_a_bump_over_the_middle_steps_with_the_stated_peak(n):
    assert lie_amounts(0, n) == [0.0] * n
    for detail, peak in [(0.5, 0.015), (1, 0.03), (2, 0.06), (4, 0.12), (5, 0.12)]:
        amounts = lie_amounts(detail, n)
        assert len(amounts) == n
        assert 0.3 * peak < max(amounts) <= peak
        assert all(amount >= 0 for amount in amounts)
        middles = [(step + 0.5) / n for step in range(n)]
        assert all((amount > 0) == (0.1 < at < 0.8) for at, amount in zip(middles, amounts, strict=True))
        rising = [at for at in middles if at < 0.45]
        assert amounts[: len(rising)] == sorted(amounts[: len(rising)])
    assert max(lie_amounts(1, 200)) == pytest.approx(0.03, rel=1e-3)


def photograph() -> Tensor:
    """A rocket against an evening sky, 424 x 640."""
    return torch.from_numpy(skimage.data.rocket()[:424]).permute(2, 0, 1)[None].float() / 255


def test_the_sky_of_a_photograph_is_spared_and_its_towers_are_not():
    mask = flatness_mask(photograph(), (53, 80))
    assert mask.shape == (1, 1, 53, 80)
    assert mask.min() >= 0 and mask.max() <= 1
    sky, towers = mask[..., 2:10, 15:25], mask[..., 15:45, 2:9]
    assert sky.mean() < 0.05
    assert towers.mean() > 0.9


def test_smooth_shading_is_flat_and_noise_of_texture_strength_is_not():
    ramp = torch.linspace(0, 1, 512).expand(2, 3, 512, 512).clone()
    ramp[1] += 0.1 * torch.rand(512, 512, generator=torch.Generator().manual_seed(1))
    mask = flatness_mask(ramp, (64, 64))
    assert mask[0].max() == 0
    assert mask[1].min() > 0.9


def test_a_mask_of_any_size_is_made_of_any_picture():
    for height, width, size in [(1, 1, (1, 1)), (8, 8, (3, 5)), (67, 131, (9, 17)), (600, 8, (100, 1))]:
        mask = flatness_mask(torch.rand(1, 3, height, width), size)
        assert mask.shape == (1, 1, *size)
        assert mask.isfinite().all()


def test_the_mask_takes_little_memory_beside_a_large_picture():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() != storage:
                self.numbers = max(self.numbers, result.numel())
            return result

    image = torch.rand(1, 3, 2048, 64)
    storage = image.untyped_storage().data_ptr()
    with Largest() as largest:
        flatness_mask(image, (256, 8))
    assert 0 < largest.numbers <= image.numel() / 8
