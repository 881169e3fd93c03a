"""Colour fixes against their usual definitions, scikit-image's CIELAB, and a bound on their memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import color, data

from creative_upscaler.pipelines.color import fix_color, lab_to_rgb, rgb_to_lab
from creative_upscaler.pipelines.parameters import COLOR_FIXES
from peak_memory import peak_growth


def photograph(height=150, width=133):
    picture = torch.from_numpy(data.astronaut()[:height, :width].copy())
    return picture.movedim(-1, 0)[None].float() / 255


def tinted(picture):
    return (picture * torch.tensor([0.7, 1.1, 0.8]).view(1, 3, 1, 1) + 0.1).clamp(0, 1)


def published_low_band(image):
    """The wavelet colour fix of StableSR and CCSR, as their papers' code defines it."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for level in range(5):
        padded = F.pad(image, (2**level,) * 4, mode="replicate")
        image = F.conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3, dilation=2**level)
    return image


@pytest.mark.parametrize("shape", [(150, 133), (64, 64), (65, 3), (1, 1), (300, 7), (2, 90)])
def test_wavelet_takes_the_low_band_of_the_source(shape):
    source, image = torch.rand(2, 2, 3, *shape, generator=torch.manual_seed(0)) * 0.5 + 0.25
    expected = image - published_low_band(image) + published_low_band(source)
    torch.testing.assert_close(fix_color(image, source, "wavelet"), expected.clamp(0, 1), atol=2e-6, rtol=0)


def test_adain_takes_mean_and_deviation_of_every_channel():
    source, image = torch.rand(2, 2, 3, 90, 70, generator=torch.manual_seed(0)) * 0.2 + 0.4
    image *= torch.tensor([0.5, 0.7, 1.0]).view(3, 1, 1)
    fixed = fix_color(image, source, "adain")
    torch.testing.assert_close(fixed.mean(dim=(2, 3)), source.mean(dim=(2, 3)))
    torch.testing.assert_close(fixed.std(dim=(2, 3)), source.std(dim=(2, 3)), atol=1e-3, rtol=0)


def test_lab_takes_mean_and_deviation_in_scikit_images_lab():
    source = photograph() * 0.4 + 0.3
    fixed = fix_color(photograph(150, 133).flip(3) * 0.3 + 0.3, source, "lab")
    lab, source_lab = (color.rgb2lab(x[0].movedim(0, -1).numpy()) for x in (fixed, source))
    np.testing.assert_allclose(lab.mean(axis=(0, 1)), source_lab.mean(axis=(0, 1)), atol=0.05)
    np.testing.assert_allclose(lab.std(axis=(0, 1)), source_lab.std(axis=(0, 1)), atol=0.1)


def test_lab_conversion_equals_scikit_images():
    colors = torch.cat([torch.rand(3, 20, 50), torch.eye(3).view(3, 1, 3).expand(3, 20, 3)], dim=2)
    colors[:, 0, 0], colors[:, 0, 1], colors[:, 0, 2] = 0.0, 1.0, 0.02
    lab = rgb_to_lab(colors)
    np.testing.assert_allclose(
        lab.movedim(0, -1).numpy(), color.rgb2lab(colors.movedim(0, -1).double().numpy()), atol=2e-3
    )
    torch.testing.assert_close(lab_to_rgb(lab), colors, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ["wavelet", "adain", "lab", "back_projection"])
def test_a_tint_is_removed(method):
    source = photograph()
    image = tinted(source)
    shift = (image.mean(dim=(2, 3)) - source.mean(dim=(2, 3))).abs().max()
    fixed = fix_color(image, source, method)
    assert (fixed.mean(dim=(2, 3)) - source.mean(dim=(2, 3))).abs().max() < 0.1 * shift
    assert fixed.min() >= 0
    assert fixed.max() <= 1


@pytest.mark.parametrize("size", [(75, 70), (110, 90)])
def test_back_projection_gives_what_shrinks_to_the_source_and_keeps_finer_detail(size):
    truth = photograph(150, 140) * 0.8 + 0.1
    small = reduced(truth, size)
    drawn = truth + 0.05 * torch.randn(truth.shape, generator=torch.manual_seed(0))
    image = tinted(drawn)
    before = distance(reduced(image, size), small)
    fine = image - reduced(reduced(image, size), truth.shape[2:])
    fixed = fix_color(image, small, "back_projection")
    assert distance(reduced(fixed, size), small) < 0.1 * before
    kept = fixed - reduced(reduced(fixed, size), truth.shape[2:])
    assert float(torch.corrcoef(torch.stack([fine.flatten(), kept.flatten()]))[0, 1]) > 0.9


def reduced(image, size):
    """By a filter other than the one that corrects."""
    return F.interpolate(image, tuple(size), mode="bicubic", antialias=True)


def distance(image, other):
    return float((image - other).square().mean().sqrt())


@pytest.mark.parametrize("method", ["wavelet", "adain", "lab", "back_projection"])
def test_batch_position_does_not_change_a_picture(method):
    source = torch.cat([photograph(), photograph().flip(2)])
    batch = fix_color(tinted(source), source, method)
    for position in range(2):
        alone = fix_color(tinted(source[position : position + 1]), source[position : position + 1], method)
        assert torch.equal(batch[position : position + 1], alone)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_the_image_is_corrected_in_place(method):
    source = photograph(20, 20)
    image = tinted(source)
    assert fix_color(image, source, method) is image


@pytest.mark.parametrize("method", ["wavelet", "adain", "lab"])
def test_a_crop_of_a_larger_tensor_is_corrected_in_place(method):
    source = photograph(20, 30)
    larger = torch.zeros(2, 3, 32, 40)
    larger[:, :, :20, :30] = tinted(source)
    fix_color(larger[:, :, :20, :30], source.expand(2, -1, -1, -1), method)
    alone = fix_color(tinted(source), source, method)
    torch.testing.assert_close(larger[:, :, :20, :30], alone.expand(2, -1, -1, -1), atol=1e-6, rtol=0)


def test_none_changes_nothing():
    image = photograph(20, 20)
    assert torch.equal(fix_color(image.clone(), 1 - image, "none"), image)


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_one_pixel_and_flat_images_stay_finite(method):
    for size in (1, 5):
        fixed = fix_color(torch.full((1, 3, size, size), 0.2), torch.full((1, 3, size, size), 0.6), method)
        torch.testing.assert_close(
            fixed, torch.full_like(fixed, 0.2 if method == "none" else 0.6), atol=1e-4, rtol=0
        )


def test_another_size_or_method_is_refused():
    with pytest.raises(ValueError, match="resize the source"):
        fix_color(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 1, 4), "wavelet")
    with pytest.raises(ValueError, match="wavelet, adain, lab, back_projection, none"):
        fix_color(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), "hsv")


@pytest.mark.parametrize(
    ("methods", "source", "share"),
    [(("wavelet", "adain", "lab"), (4096, 1024), 1 / 3), (("back_projection",), (2048, 512), 1)],
)
def test_memory_stays_below_a_share_of_the_image(methods, source, share):
    prepare = f"""
from creative_upscaler.pipelines.color import fix_color
for method in {methods}:  # what is allocated once is no part of the measurement
    fix_color(torch.rand(1, 3, 128, 1024), torch.rand(1, 3, 128, 1024), method)
image, source = torch.rand(1, 3, 4096, 1024), torch.rand(1, 3, *{source})
"""
    work = f"for method in {methods}: fix_color(image, source, method)"
    assert peak_growth(prepare, work) < 4096 * 1024 * 3 * 4 * share
