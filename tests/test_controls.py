"""Each slider moves the picture one way over its whole range."""

from __future__ import annotations

import pytest
import torch

from creative_upscaler.pipelines.control import shape_weight
from creative_upscaler.pipelines.creative import upscale
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.tiling import plan_grid
from photographs import photograph

CAT = photograph("chelsea")[:, :, 60:188, 100:228]


def redraw(models, **values):
    settings = {
        "model_type": models.model_type,
        "seed": 3,
        "scale": 1.0,
        "num_inference_steps": 10,
        "color_fix": "none",
        "shape_preservation": 0.0,
        "detail": 0.0,
        "guidance_scale": 1.0,
    }
    return upscale(CAT, UpscaleParameters.from_mapping({**settings, **values}), models).image


def likeness(image, other):
    """Correlation of two pictures around their channels' means."""
    a, b = ((picture - picture.mean((2, 3), keepdim=True)).flatten() for picture in (image, other))
    return float(a @ b / (a.norm() * b.norm()))


def test_creativity_is_monotonic_in_the_likeness_to_the_input(sd15):
    through_the_vae = redraw(sd15, creativity=0.001)
    sweep = [
        sum(likeness(redraw(sd15, creativity=c, seed=seed), through_the_vae) for seed in range(3)) / 3
        for c in (0.1, 0.25, 0.5, 0.75, 1)
    ]
    assert sweep == sorted(sweep, reverse=True) and sweep[0] > 0.3 and sweep[-1] < 0.05


@pytest.mark.parametrize("scheduler", ["karras", "normal"])
@pytest.mark.parametrize("steps", [4, 10, 30])
def test_creativity_starts_at_the_same_noise_whatever_the_scheduler_and_steps(sd15, scheduler, steps):
    levels = []
    hook = sd15.unet.register_forward_pre_hook(lambda _, arguments: levels.append(float(arguments[1])))
    redraw(sd15, creativity=0.4, scheduler=scheduler, num_inference_steps=steps)
    hook.remove()
    assert levels[0] == pytest.approx(400, abs=0.01)
    assert len(levels) == int(steps * 0.4 + 1e-6)


def test_shape_preservation_is_monotonic_in_the_weight_of_the_controlnet(sd15):
    weights = [0, 0.1, 0.25, 0.5, 1, 2, 3]
    free = redraw(sd15, creativity=0.6)
    distances = [
        float((redraw(sd15, creativity=0.6, shape_preservation=w) - free).pow(2).mean()) for w in weights
    ]
    assert distances[0] == 0
    assert distances == sorted(distances) and len(set(distances)) == len(weights)


def test_shape_decay_weakens_the_shallow_layers_only(sd15):
    seen = {}

    def record(decay):
        def hook(_, __, keywords):
            seen[decay] = [
                *keywords["down_block_additional_residuals"],
                keywords["mid_block_additional_residual"],
            ]

        return hook

    for decay in (1.0, 0.825):
        handle = sd15.unet.register_forward_pre_hook(record(decay), with_kwargs=True)
        redraw(sd15, creativity=0.1, num_inference_steps=10, shape_preservation=0.6, shape_decay=decay)
        handle.remove()
    ratios = [
        float((b.double() * a.double()).sum() / a.double().square().sum())
        for a, b in zip(seen[1.0], seen[0.825], strict=True)
    ]
    # Thirteen layers, each .825 of the next deeper one (A1111's "my prompt is more important").
    assert ratios == pytest.approx([0.825 ** (12 - i) for i in range(13)], abs=1e-4)


def test_shape_weight_ends_and_fades_where_it_says():
    constant = UpscaleParameters(shape_preservation=0.8, shape_end=0.6)
    assert [shape_weight(constant, p) for p in (0, 0.59, 0.6, 0.9)] == [0.8, 0.8, 0, 0]
    fading = UpscaleParameters(preset="invoke").with_preset()
    assert [shape_weight(fading, p) for p in (0, 0.54, 0.55, 0.84, 0.85)] == pytest.approx(
        [0.625, 0.625, 0.214, 0.214, 0]
    )


def test_detail_zero_is_bit_identical_to_off_and_more_is_monotonic(sd15):
    off = redraw(sd15, detail=0.0)
    assert torch.equal(off, redraw(sd15, detail=0.0))
    distances = [float((redraw(sd15, detail=d) - off).pow(2).mean()) for d in (0.25, 1, 2, 3, 4)]
    assert distances[0] > 0 and distances == sorted(distances)


def seam_ratio(image, control, starts_by_axis, tile):
    """Gradient across tile borders over gradient elsewhere, divided by the untiled control's."""
    ratios = []
    for picture in (image, control):
        across, elsewhere = [], []
        for dim, starts in zip((2, 3), starts_by_axis, strict=True):
            gradient = picture.diff(dim=dim).abs().mean(dim=(0, 1, 5 - dim))
            borders = torch.zeros(len(gradient), dtype=torch.bool)
            for start in starts:
                for edge in (start, start + tile):
                    if 0 < 8 * edge <= len(gradient):
                        borders[max(8 * edge - 3, 0) : 8 * edge + 2] = True
            across.append(gradient[borders])
            elsewhere.append(gradient[~borders])
        ratios.append(float(torch.cat(across).mean() / torch.cat(elsewhere).mean()))
    return ratios[0] / ratios[1]


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_tiles_leave_no_seams_and_no_tint(sd15, name):
    image = photograph(name)[:, :, :256, :384]
    values = {
        "seed": 1,
        "scale": 2.0,
        "creativity": 0.5,
        "num_inference_steps": 8,
        "color_fix": "none",
        "detail": 0.0,
        "shape_preservation": 0.5,
        "guidance_scale": 1.0,
    }
    tiled = upscale(image, UpscaleParameters(tile_size=256, tile_overlap=128, **values), sd15).image
    whole = upscale(image, UpscaleParameters(tile_size=4096, **values), sd15).image
    assert not torch.equal(tiled, whole)
    grid = plan_grid(64, 96, smallest=32, largest=32, overlap=16)
    assert len(grid) >= 15
    starts = (grid.rows.starts(), grid.columns.starts())
    ratio = seam_ratio(tiled, whole, starts, 32)
    assert 0.95 <= ratio <= 1.05, ratio
    tint = torch.nn.functional.avg_pool2d(tiled - whole, 64).abs().max()
    assert tint < 0.05, tint
