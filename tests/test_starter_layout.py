"""A model folder unlike SD1.5: words of its own, 16 channels at a quarter of the side, v-prediction."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline

from creative_upscaler.pipelines import redrawing
from creative_upscaler.pipelines.creative import upscale
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.models import CreativeModels, load_models
from creative_upscaler.pipelines.parameters import UpscaleParameters
from photographs import photograph
from tiny_checkpoints import write_controlnet
from tiny_starter import write_starter_diffusion

PICTURE = photograph("astronaut")[:, :, 64:160, 128:256]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter") / "diffusion"
    write_starter_diffusion(folder)
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> CreativeModels:
    return load_models(folder)


def test_upscale_equals_diffusers_own_pipeline_on_the_same_folder(
    folder: Path, models: CreativeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    # The engine takes the posterior's mode, a pipeline draws from it.
    stock = sys.modules[StableDiffusionControlNetImg2ImgPipeline.__module__]
    mode = partial(stock.retrieve_latents, sample_mode="argmax")
    monkeypatch.setattr(stock, "retrieve_latents", lambda output, generator: mode(output))
    parameters = UpscaleParameters(
        prompt="a sharp, detailed one",
        prompt_suffix="",
        negative_prompt="blurry",
        scale=1,
        creativity=0.5,
        num_inference_steps=8,
        shape_preservation=0.7,
        detail=0.0,
        seed=11,
        sampler="ddim",
        color_fix="none",
        guidance_scale=3.0,
    )
    theirs = pipeline(
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        image=PICTURE,
        control_image=PICTURE,
        height=PICTURE.shape[2],
        width=PICTURE.shape[3],
        strength=0.5,
        num_inference_steps=8,
        guidance_scale=3.0,
        controlnet_conditioning_scale=0.7,
        generator=torch.Generator().manual_seed(11),
        output_type="pt",
    ).images
    # diffusers places the timesteps one lower.
    alphas = pipeline.scheduler.alphas_cumprod[pipeline.scheduler.timesteps[-4:]].double()
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1, dtype=torch.float64)])
    monkeypatch.setattr(redrawing, "spread_sigmas", lambda *_: sigmas)
    ours = upscale(PICTURE, parameters, models).image
    assert (theirs - PICTURE).abs().mean() > 0.05
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_words_are_the_folders_own(folder: Path, models: CreativeModels, tmp_path: Path) -> None:
    tokenizer = models.text_encoders[0].tokenizer
    assert len(tokenizer("sharp blurry", add_special_tokens=False)["input_ids"]) == 2
    # In the form that transformers 5 saves, too.
    again = tmp_path / "again"
    write_starter_diffusion(again)
    for file in (again / "tokenizer").iterdir():
        file.unlink()
    tokenizer.save_pretrained(again / "tokenizer")
    (again / "tokenizer" / "vocab.json").unlink(missing_ok=True)
    words = load_models(again).text_encoders[0].tokenizer
    assert words("a sharp one").input_ids == tokenizer("a sharp one").input_ids


@pytest.mark.parametrize(("scale", "creativity"), [(2.0, 1.0), (2.6, 0.3)])
def test_pictures_of_odd_sizes_are_redrawn_from_any_noise(
    models: CreativeModels, scale: float, creativity: float
) -> None:
    parameters = UpscaleParameters(scale=scale, creativity=creativity, num_inference_steps=4, seed=1)
    result = upscale(PICTURE[:, :, :51, :37], parameters, models)
    assert result.image.shape == (1, 3, round(51 * scale + 1e-6), round(37 * scale + 1e-6))
    assert result.image.isfinite().all() and result.image.std() > 0.01


def test_tiles_are_as_large_as_a_network_without_self_attention_allows(models: CreativeModels) -> None:
    assert models.tile_range == (64, 512)
    assert models.scale_factor == 4


def test_a_controlnet_that_is_named_takes_the_place_of_the_folders(folder: Path, tmp_path: Path) -> None:
    write_controlnet(tmp_path / "tile.safetensors", "sd15")
    with pytest.raises(ModelFileError, match="does not fit the base model"):
        load_models(folder, controlnet=tmp_path / "tile.safetensors")
    assert load_models(folder, controlnet=folder / "controlnet").names["controlnet"] == "controlnet"


def test_a_hint_of_another_size_than_the_latents_is_refused(tmp_path: Path) -> None:
    write_starter_diffusion(tmp_path / "set", hint=(16, 32, 48, 64))
    with pytest.raises(ModelFileError, match="shrinks its hint 8 times"):
        load_models(tmp_path / "set")
