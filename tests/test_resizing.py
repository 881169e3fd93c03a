"""What may come in, how large it gets, and resizing, padding and alpha against Pillow and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from creative_upscaler.pipelines.errors import PictureError, SizeLimitError
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.resizing import (
    SIZE_LIMIT,
    check_image,
    join_alpha,
    pass_sizes,
    reflect_pad,
    resize,
    split_alpha,
    target_size,
)
from peak_memory import peak_growth


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (torch.rand(3, 8, 8), r"\[3, 8, 8\].*\[batch, channels, height, width\]"),
        (np.zeros((1, 3, 8, 8)), "ndarray"),
        (torch.rand(1, 5, 8, 8), "5 channels.*1 .grey., 3 .colour. and 4"),
        (torch.rand(1, 2, 8, 8), "2 channels"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8.*divide"),
        (torch.rand(1, 3, 0, 8), "empty"),
        (torch.rand(0, 3, 8, 8), "empty"),
        (torch.full((1, 3, 2, 2), math.nan), "NaN"),
        (torch.tensor([[[[0.0, math.inf]]]]), "infinite"),
        (torch.rand(1, 3, 8, 8) * 255, "rescale"),
        (torch.rand(1, 3, 8, 8) * 2 - 1, "rescale"),
    ],
)
def test_an_unusable_image_is_refused_saying_what_it_is(image, complaint):
    with pytest.raises(PictureError, match=complaint):
        check_image(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_image_from_one_pixel_upward_is_taken(dtype):
    for channels, delivered in ((1, 3), (3, 3), (4, 4)):
        image = check_image(torch.full((2, channels, 1, 1), 0.5, dtype=dtype))
        assert image.dtype == torch.float32
        assert image.shape == (2, delivered, 1, 1)
        assert bool((image == 0.5).all())


def test_overshoot_is_clipped():
    assert check_image(torch.tensor([[[[-0.1, 1.2]]]])).aminmax() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("source", "settings", "size"),
    [
        ((100, 200), {"scale": 2.0}, (200, 400)),
        ((3, 5), {"scale": 1.5}, (5, 8)),  # 4.5 and 7.5: halves go up
        ((1, 1), {"scale": 1.0}, (1, 1)),
        ((100, 200), {"width": 333}, (167, 333)),  # 166.5
        ((100, 200), {"height": 50}, (50, 100)),
        ((100, 200), {"height": 51, "width": 7, "scale": 3.0}, (51, 7)),
        ((1, 1000), {"width": 10}, (1, 10)),
        ((512, 512), {"scale": 5.0}, (2560, 2560)),
    ],
)
def test_target_size_follows_scale_or_the_exact_sides(source, settings, size):
    assert target_size(*source, UpscaleParameters(**settings)) == size


def test_the_size_limit_names_size_and_switch_and_can_be_lifted():
    assert target_size(2048, 2048, UpscaleParameters(scale=2.0)) == (4096, 4096)
    too_large = {"width": 4097, "height": 4096}
    with pytest.raises(SizeLimitError, match=r"4097 x 4096 px.*16.*override_size_limits"):
        target_size(8, 8, UpscaleParameters(**too_large))
    lifted = UpscaleParameters(**too_large, override_size_limits=True)
    assert math.prod(target_size(8, 8, lifted)) == SIZE_LIMIT + 4096


@pytest.mark.parametrize(
    ("source", "target", "passes"),
    [
        ((10, 20), (20, 40), [(20, 40)]),
        ((10, 20), (50, 100), [(20, 40), (40, 80), (50, 100)]),
        ((10, 20), (40, 80), [(20, 40), (40, 80)]),
        ((10, 20), (10, 20), [(10, 20)]),
        ((10, 20), (5, 5), [(5, 5)]),
        ((10, 10), (11, 35), [(11, 20), (11, 35)]),
        ((1, 1), (3, 9), [(2, 2), (3, 4), (3, 8), (3, 9)]),
    ],
)
def test_passes_double_first_and_end_exactly(source, target, passes):
    assert pass_sizes(source, target) == passes


SHAPES = [
    ((37, 53), (97, 61)),
    ((64, 64), (17, 9)),
    ((1, 1), (5, 7)),
    ((2, 300), (1, 1200)),
    ((100, 90), (100, 31)),
    ((3, 3), (400, 1)),
    ((129, 257), (258, 300)),
    ((16, 16), (16, 16)),
]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_resize_equals_pillows_lanczos(old, new):
    image = torch.rand(2, 3, *old, generator=torch.manual_seed(1))
    resized = resize(image, new)
    assert resized.shape == (2, 3, *new)
    for plane, source in zip(resized.flatten(0, 1), image.flatten(0, 1), strict=True):
        pillow = Image.fromarray(source.numpy()).resize((new[1], new[0]), Image.Resampling.LANCZOS)
        np.testing.assert_allclose(plane.numpy(), np.asarray(pillow).clip(0, 1), atol=1e-6)


def test_resize_delivers_a_new_float_tensor():
    image = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    for size in ((4, 4), (8, 8)):
        resized = resize(image, size)
        assert resized.dtype == torch.float32
        assert resized.data_ptr() != image.data_ptr()
    single = image.float()
    assert resize(single, (4, 4)).data_ptr() != single.data_ptr()


def test_resize_needs_little_memory_beyond_its_result():
    prepare = """
from creative_upscaler.pipelines.resizing import resize
resize(torch.rand(1, 3, 256, 1024), (300, 1100))  # what is allocated once is no part of the measurement
image = torch.rand(1, 3, 1024, 1024)
"""
    assert peak_growth(prepare, "resize(image, (4096, 4096))") < 1.3 * 4096 * 4096 * 3 * 4


@pytest.mark.parametrize("old", [(1, 1), (1, 5), (2, 3), (7, 4)])
@pytest.mark.parametrize("new", [(7, 5), (8, 23), (40, 41)])
def test_reflect_pad_equals_numpy_at_any_ratio(old, new):
    image = torch.rand(2, 3, *old)
    pad = [(0, 0), (0, 0), (0, new[0] - old[0]), (0, new[1] - old[1])]
    np.testing.assert_array_equal(reflect_pad(image, new).numpy(), np.pad(image.numpy(), pad, mode="reflect"))


def test_alpha_survives_and_visible_colors_are_untouched():
    image = torch.rand(2, 4, 9, 13)
    color, alpha = split_alpha(image)
    assert torch.equal(join_alpha(color, alpha), image)
    resized = join_alpha(resize(color, (18, 26)), alpha)
    assert torch.equal(resized[:, 3:], resize(image[:, 3:], (18, 26)))
    opaque, none = split_alpha(image[:, :3])
    assert none is None
    assert join_alpha(opaque, none) is opaque


def test_what_transparent_pixels_hide_does_not_bleed_into_the_visible():
    image = torch.zeros(1, 4, 15, 22)  # hidden black
    image[..., 4:9, 5:17] = torch.tensor([0.9, 0.5, 0.1, 1.0]).view(1, 4, 1, 1)
    color, _ = split_alpha(image)
    torch.testing.assert_close(
        resize(color, (30, 44)), torch.tensor([0.9, 0.5, 0.1]).view(1, 3, 1, 1).expand(1, 3, 30, 44)
    )
    nothing_visible = torch.cat([torch.rand(1, 3, 5, 5), torch.zeros(1, 1, 5, 5)], dim=1)
    assert bool((split_alpha(nothing_visible)[0] == 0).all())
