"""The creative upscale keeps its promises: sizes, independence, reproducibility, memory, errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from creative_upscaler.pipelines.creative import upscale
from creative_upscaler.pipelines.errors import (
    Cancelled,
    MemoryLimitError,
    ParameterError,
    PictureError,
    SizeLimitError,
)
from creative_upscaler.pipelines.models import load_models
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.runtime import LocalMemory, Runtime
from photographs import photograph

SMALL = photograph("chelsea")[:, :, 90:186, 120:248]
"""A cat's face, 96 x 128 pixels."""

TILED = {"tile_size": 128, "tile_overlap": 32, "num_inference_steps": 4}
"""192 x 256 pixels in 2 x 3 tiles, two evaluations each at creativity .5."""


@pytest.fixture(scope="module")
def exact(sd15_files):
    """The SD1.5 models in float64.

    Kernels round differently for each batch size, and an untrained network magnifies that; what is left in
    float64 would be a real dependence.
    """
    memory = LocalMemory(torch.device("cpu"), diffusion_dtype=torch.float64)
    return load_models(sd15_files[0], controlnet=sd15_files[1], memory=memory)


def run(image, models, *, progress=None, memory=None, **values):
    parameters = UpscaleParameters.from_mapping(
        {"seed": 5, "model_type": models.model_type, **TILED, **values}
    )
    default = Runtime()
    runtime = Runtime(memory or default.memory, progress or default.progress)
    return upscale(image, parameters, models, runtime=runtime)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_picture_is_redrawn_at_the_asked_size(request, family):
    models = request.getfixturevalue(family)
    result = run(SMALL, models, prompt="a cat")
    assert result.image.shape == (1, 3, 192, 256)
    assert result.image.dtype == torch.float32
    assert result.image.min() >= 0 and result.image.max() <= 1
    assert result.seed == 5
    assert result.prompts == ["a cat high quality, highly detailed, high resolution, sharp"]
    assert result.evaluations == 2 * 6
    assert set(result.models) == {"base", "controlnet"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 100), st.integers(1, 100))
def test_any_input_gives_exactly_the_asked_size(sd15, height, width, to_height, to_width):
    image = SMALL[:, :, :height, :width]
    result = run(
        image,
        sd15,
        width=to_width,
        height=to_height,
        creativity=0.1,
        guidance_scale=1.0,
        shape_preservation=0.0,
    )
    assert result.image.shape == (1, 3, to_height, to_width)
    assert result.image.isfinite().all()


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(sd15):
    first, again, other = (run(SMALL, sd15, seed=seed).image for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 1e-3


def test_a_seed_that_was_drawn_is_returned_and_repeats_the_picture(sd15):
    drawn = run(SMALL, sd15, seed=None)
    assert torch.equal(drawn.image, run(SMALL, sd15, seed=drawn.seed).image)
    assert drawn.seed != run(SMALL, sd15, seed=None, creativity=0.0).seed


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_the_picture_does_not_depend_on_the_tile_batch(exact, sampler):
    one, three, all_at_once = (
        run(SMALL, exact, tile_batch=batch, sampler=sampler).image for batch in (1, 3, 64)
    )
    torch.testing.assert_close(three, one, atol=1e-5, rtol=0)
    torch.testing.assert_close(all_at_once, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_a_picture_does_not_depend_on_the_others_in_its_batch(exact, sampler):
    other = photograph("coffee")[:, :, 90:186, 120:248]
    together = run(torch.cat([SMALL, other, SMALL]), exact, sampler=sampler).image
    torch.testing.assert_close(together[0], run(SMALL, exact, sampler=sampler).image[0], atol=1e-5, rtol=0)
    # The noise is that of seed + index, so the second picture is that of the next seed.
    torch.testing.assert_close(
        together[1], run(other, exact, sampler=sampler, seed=6).image[0], atol=1e-5, rtol=0
    )
    assert (together[2] - together[0]).abs().mean() > 1e-3, (
        "equal pictures of a batch need noise of their own"
    )


class ScarceMemory(LocalMemory):
    """Has room for `most` samples in the denoising network."""

    def __init__(self, unet, most):
        super().__init__(torch.device("cpu"))
        self.most, self.failures = most, 0
        self.hook = unet.register_forward_pre_hook(self.check)

    def check(self, module, arguments):
        if len(arguments[0]) > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("simulated")


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(exact):
    plenty = run(SMALL, exact, tile_batch=8)
    memory = ScarceMemory(exact.unet, 2)
    try:
        scarce = run(SMALL, exact, tile_batch=8, memory=memory)
    finally:
        memory.hook.remove()
    assert memory.failures > 0
    assert scarce.evaluations == plenty.evaluations
    torch.testing.assert_close(scarce.image, plenty.image, atol=1e-5, rtol=0)


def test_a_tile_that_does_not_fit_alone_is_an_error_that_says_so(sd15):
    memory = ScarceMemory(sd15.unet, 0)
    try:
        with pytest.raises(MemoryLimitError, match="smaller tile_size"):
            run(SMALL, sd15, memory=memory)
    finally:
        memory.hook.remove()


def test_progress_is_reported_in_order_with_previews_and_at_least_once_an_evaluation(sd15):
    seen = []
    calls = []
    hook = sd15.unet.register_forward_pre_hook(lambda *_: calls.append(len(seen)))
    run(SMALL, sd15, tile_batch=1, progress=lambda *report: seen.append(report))
    hook.remove()
    stages = list(dict.fromkeys(stage for stage, *_ in seen))
    assert stages == ["encode prompt", "encode", "embed hint", "redraw", "decode", "fix colours"]
    for stage in stages:
        done = [(report[1], report[2]) for report in seen if report[0] == stage]
        assert done == sorted(done) and all(0 <= d <= total for d, total in done), stage
    assert len(set(calls)) == len(calls), "an evaluation ran without a report before it"
    previews = [report[3] for report in seen if report[0] == "redraw" and report[3] is not None]
    assert previews and all(preview.shape == (1, 4, 24, 32) for preview in previews)


@pytest.mark.parametrize(
    "stage", ["encode prompt", "encode", "embed hint", "redraw", "decode", "fix colours"]
)
def test_cancelling_stops_before_the_next_evaluation_and_leaves_the_models_usable(sd15, stage):
    before = run(SMALL, sd15).image
    evaluations = []
    hook = sd15.unet.register_forward_pre_hook(lambda *_: evaluations.append(1))

    def cancel(name, *_):
        if name == stage:
            evaluations.clear()
            raise Cancelled

    with pytest.raises(Cancelled):
        run(SMALL, sd15, progress=cancel)
    hook.remove()
    assert not evaluations
    assert torch.equal(run(SMALL, sd15).image, before)


def test_no_global_generator_is_touched(sd15):
    state = torch.get_rng_state()
    run(SMALL, sd15, seed=None, sampler="euler_ancestral")
    assert torch.equal(torch.get_rng_state(), state)


def test_the_input_is_left_as_it_was(sd15):
    image = SMALL.clone()
    run(image, sd15)
    assert torch.equal(image, SMALL)


def test_large_scales_are_made_in_passes_of_at_most_two_with_less_creativity_each(sd15):
    noise_levels = []
    hook = sd15.unet.register_forward_pre_hook(lambda _, arguments: noise_levels.append(float(arguments[1])))
    result = run(SMALL[:, :, :32, :48], sd15, scale=5, num_inference_steps=2, creativity=0.5)
    hook.remove()
    assert result.image.shape == (1, 3, 160, 240)
    assert sorted({round(t) for t in noise_levels}, reverse=True) == [500, 400, 320]


def test_alpha_is_kept_and_upscaled_on_its_own(sd15):
    alpha = torch.zeros(1, 1, 96, 128)
    alpha[..., 64:] = 1
    result = run(torch.cat([SMALL, alpha], 1), sd15)
    assert result.image.shape == (1, 4, 192, 256)
    assert result.image[0, 3, :, :122].max() < 0.01 and result.image[0, 3, :, 134:].min() > 0.99


def test_grey_pictures_become_coloured_ones(sd15):
    assert run(SMALL[:, :1], sd15).image.shape == (1, 3, 192, 256)


def test_creativity_zero_needs_no_models_and_is_a_plain_resize():
    parameters = UpscaleParameters(creativity=0.0, scale=3)
    result = upscale(SMALL, parameters)
    assert result.image.shape == (1, 3, 288, 384)
    assert result.evaluations == 0 and result.models == {}
    back = torch.nn.functional.interpolate(result.image, SMALL.shape[2:], mode="area")
    assert (back - SMALL).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (torch.rand(1, 5, 8, 8), "5"),
        (torch.full((1, 3, 8, 8), torch.nan), "(?i)nan|finite"),
        (torch.rand(0, 3, 8, 8), "(?i)empty|no picture"),
        (torch.rand(1, 3, 0, 8), "(?i)empty|no pixel"),
        (torch.rand(3, 8, 8), "(?i)B"),
    ],
)
def test_pictures_that_cannot_be_upscaled_are_refused(sd15, image, complaint):
    with pytest.raises(PictureError, match=complaint):
        run(image, sd15)


def test_a_result_over_the_size_limit_needs_the_switch_before_anything_is_computed(sd15):
    huge = torch.zeros(1, 3, 10, 10)
    with pytest.raises(SizeLimitError, match="override_size_limits"):
        run(huge, sd15, width=5000, height=5000, creativity=0.0)
    assert run(huge, sd15, width=5000, height=5000, creativity=0.0, override_size_limits=True).image.shape[
        2:
    ] == (
        5000,
        5000,
    )


def test_settings_that_do_not_fit_the_models_are_refused(sd15, sdxl):
    with pytest.raises(ParameterError, match=r"model_type.*SDXL"):
        run(SMALL, sdxl, model_type="SD_1_5")
    with pytest.raises(ParameterError, match=r"shape_preservation.*ControlNet"):
        run(SMALL, dataclasses.replace(sd15, controlnet=None))
    with pytest.raises(ParameterError, match="creativity"):
        upscale(SMALL, UpscaleParameters())


def test_shape_preservation_zero_never_runs_the_controlnet(sd15):
    calls = []
    hook = sd15.controlnet.register_forward_pre_hook(lambda *_: calls.append(1))
    run(SMALL, sd15, shape_preservation=0.0)
    run(SMALL, dataclasses.replace(sd15, controlnet=None), shape_preservation=0.0)
    hook.remove()
    assert not calls


def test_guidance_one_evaluates_no_negative_branch(sd15):
    samples = []
    hook = sd15.unet.register_forward_pre_hook(lambda _, arguments: samples.append(len(arguments[0])))
    result = run(SMALL, sd15, guidance_scale=1.0)
    hook.remove()
    assert sum(samples) == result.evaluations


def test_text_is_encoded_once_and_the_hint_once_a_canvas(sd15):
    texts, hints = [], []
    encoder = sd15.controlnet.controlnet_cond_embedding
    hooks = [
        sd15.text_encoders[0].module.register_forward_pre_hook(lambda *_: texts.append(1)),
        getattr(encoder, "encoder", encoder).register_forward_pre_hook(lambda *_: hints.append(1)),
    ]
    result = run(SMALL, sd15, num_inference_steps=8)
    for hook in hooks:
        hook.remove()
    assert result.evaluations == 24
    assert len(texts) <= 3 and len(hints) == 1
