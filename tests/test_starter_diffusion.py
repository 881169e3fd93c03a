"""The diffusion set that ships with the pack, on photographs it was not trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionControlNetImg2ImgPipeline
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from creative_upscaler.cli import main
from creative_upscaler.cli.metadata import read_record
from creative_upscaler.pipelines import starter
from creative_upscaler.pipelines.creative import upscale
from creative_upscaler.pipelines.models import load_models
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.pre_upscaling import load_upscaler
from creative_upscaler.pipelines.resizing import resize
from photographs import photograph


@pytest.fixture(scope="module")
def models():
    return load_models(starter.DIFFUSION)


@pytest.fixture(scope="module")
def enlarger():
    return load_upscaler(starter.UPSCALER)


def crop(name):
    """A part of a photograph, 240 pixels a side, and its half."""
    truth = photograph(name)[:, :, -260:-20, 140:380]
    small = F.interpolate(truth, (120, 120), mode="bicubic", antialias=True).clamp(0, 1)
    return truth, (small * 255).round() / 255


def redraw(small, models, enlarger, **settings):
    """With the defaults that suit the set."""
    parameters = UpscaleParameters.from_mapping({"seed": 3, "enable_safety_checks": False, **settings})
    parameters, _ = starter.Limits.read(starter.DIFFUSION).fit(parameters, set(settings))
    return upscale(small, parameters, models, upscaler=enlarger).image


def fine_detail(image):
    """Energy of what a blur of two pixels takes away."""
    return float((image - F.avg_pool2d(image, 3, 1, 1)).square().mean())


def likeness_of_the_reduced(made, small):
    """In dB, by a filter other than the engine's."""
    back = F.interpolate(made, small.shape[2:], mode="bicubic", antialias=True)
    return peak_signal_noise_ratio(small.numpy(), back.numpy(), data_range=1)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_one_step_from_noise_is_nearer_to_the_truth_than_lanczos(name, models, enlarger):
    truth, small = crop(name)
    one_step = {"creativity": 1.0, "num_inference_steps": 1, "guidance_scale": 1.0, "shape_preservation": 1.0}
    made = redraw(small, models, enlarger, **one_step)
    ours, lanczos = (
        peak_signal_noise_ratio(truth.numpy(), picture.numpy(), data_range=1)
        for picture in (made, resize(small, (240, 240)))
    )
    assert ours > lanczos


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_its_defaults_draw_detail_that_lanczos_lacks_and_keep_the_picture(name, models, enlarger):
    truth, small = crop(name)
    made = redraw(small, models, enlarger)
    assert fine_detail(made) > 1.2 * fine_detail(resize(small, (240, 240)))
    assert fine_detail(made) < 1.3 * fine_detail(truth)
    assert likeness_of_the_reduced(made, small) > 40


def test_back_projection_holds_over_passes_and_for_what_restores_first(models, enlarger):
    small = crop("coffee")[1][:, :, :60, :60]
    settings = {"scale": 3.0, "creativity": 0.5, "num_inference_steps": 4}
    assert likeness_of_the_reduced(redraw(small, models, enlarger, **settings), small) > 40
    loose = redraw(small, models, enlarger, **settings, color_fix="wavelet")
    assert likeness_of_the_reduced(loose, small) < 38

    def brighten(pictures, size, seed):
        return (resize(pictures, size) * 0.5 + 0.4).clamp(0, 1)

    parameters = UpscaleParameters(
        seed=3, creativity=0.2, color_fix="back_projection", shape_preservation=1.0
    )
    made = upscale(small, parameters, models, restore=brighten).image
    assert likeness_of_the_reduced(made, small * 0.5 + 0.4) > 40


def test_leading_away_from_blurry_is_sharper_than_leading_away_from_sharp(models, enlarger):
    _, small = crop("chelsea")
    pictures = [redraw(small, models, enlarger, negative_prompt=word) for word in ("blurry", "sharp")]
    assert fine_detail(pictures[0]) > 1.02 * fine_detail(pictures[1])


def test_diffusers_own_pipeline_redraws_with_it():
    pipeline = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        starter.DIFFUSION, torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    truth, _ = crop("coffee")
    made = pipeline(
        "sharp",
        truth,
        control_image=truth,
        strength=0.1,
        num_inference_steps=40,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    assert peak_signal_noise_ratio(truth.numpy(), made.numpy(), data_range=1) > 26


def test_the_command_redraws_with_it_where_no_model_is_named_and_says_so(tmp_path):
    Image.fromarray((crop("coffee")[1][0].permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "in.png")
    command = ["upscale", tmp_path / "in.png", "-o", tmp_path / "out.png", "--no-enable-safety-checks"]
    assert main(list(map(str, command))) == 0
    record = read_record(tmp_path / "out.png")
    assert record["models"]["checkpoint"] == starter.NAMES[1]
    assert record["models"]["upscaler"] == starter.NAMES[0]
    limits = starter.Limits.read(starter.DIFFUSION)
    assert record["settings"]["creativity"] == limits.creativity
    assert Image.open(tmp_path / "out.png").size == (240, 240)
