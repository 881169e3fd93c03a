"""The starter models' training, at toy size: what it makes loads elsewhere, and it resumes exactly."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from spandrel import ModelLoader
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.starter.train import __main__ as program
from creative_upscaler.starter.train import beginning, diffusion, latents, tags
from creative_upscaler.starter.train.degradation import degrade, jpeg
from creative_upscaler.starter.train.photographs import Photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea", "astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    """A run of every stage, two steps each."""
    folder = tmp_path_factory.mktemp("run")
    for stage in ("sr", "vae", "diffusion"):
        train(stage, photographs, folder, 2)
    return folder


real_plan = program.Plan


def train(stage, photographs, run, steps):
    size = ["--batch", "2", "--crop", "64", "--steps", str(steps)] if stage in program.STAGES else []
    given = ["--photographs", str(photographs), "--run", str(run), "--device", "cpu", *size]
    assert program.main([stage, *given]) == 0


def test_an_interrupted_run_ends_as_one_that_was_not(photographs, tmp_path, monkeypatch):
    weights = []
    for name, stops in (("through", ()), ("interrupted", (2,))):
        with monkeypatch.context() as patch:
            for stop in stops:
                real = torch.optim.AdamW.step
                taken = iter(range(10))

                def step(self, *rest, real=real, taken=taken, stop=stop):
                    if next(taken) == stop:
                        raise KeyboardInterrupt
                    return real(self, *rest)

                patch.setattr(torch.optim.AdamW, "step", step)
                patch.setattr(program, "Plan", lambda **plan: real_plan(**plan, checkpoint_every=1))
                with pytest.raises(KeyboardInterrupt):
                    train("sr", photographs, tmp_path / name, 4)
        train("sr", photographs, tmp_path / name, 4)
        weights.append((tmp_path / name / "sr" / "averaged.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_the_exported_models_load_in_spandrel_and_diffusers(run, tmp_path):
    program.main(["export", "--run", str(run), "--destination", str(tmp_path)])
    enlarger = ModelLoader().load_from_file(tmp_path / "sr" / "starter-sr-2x.safetensors")
    assert (enlarger.architecture.id, enlarger.scale) == ("Compact", 2)
    assert (tmp_path / "sr" / "starter-sr-2x.safetensors").stat().st_size < 1.5e6
    files = [path for path in (tmp_path / "diffusion").rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 15e6
    assert sum(path.stat().st_size for path in files) < 24e6
    pipeline = StableDiffusionControlNetImg2ImgPipeline.from_pretrained(
        tmp_path / "diffusion", torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = Image.fromarray(data.chelsea()[:64, :64])
    made = pipeline(
        "sharp", picture, control_image=picture, num_inference_steps=2, strength=0.5, output_type="np"
    )
    assert made.images.shape == (1, 64, 64, 3)
    assert np.isfinite(made.images).all()


def test_encoder_and_decoder_are_linear_maps_written_into_diffusers_weights(photographs, tmp_path):
    pool = Photographs(photographs, tmp_path, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    vae = latents.fit_vae(pool.crops(100, 48, generator, per_picture=1))
    picture = pool.crops(2, 128, generator)
    posterior = vae.encode(picture * 2 - 1).latent_dist
    expected = latents.encode(picture, *latents.read_transform(vae))
    torch.testing.assert_close(posterior.mean, expected, atol=0.01, rtol=0.01)
    assert posterior.std.max() < 1e-6
    assert abs(float(expected.mean())) < 0.2 * latents.DEVIATION
    assert 0.5 < float(expected[:, 0].std()) / latents.DEVIATION < 2
    made = vae.decode(posterior.mean).sample / 2 + 0.5
    inner, border = (..., slice(4, -4), slice(4, -4)), (..., slice(0, 1), slice(None))
    for part, least in ((inner, 34), (border, 24)):
        assert peak_signal_noise_ratio(picture[part].numpy(), made[part].numpy(), data_range=1) > least


def test_training_begins_with_networks_that_answer_with_hint_and_noisy_latents(photographs, tmp_path):
    pool = Photographs(photographs, tmp_path, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    transform, offset = latents.fit_transform(pool.crops(100, 48, generator))
    networks = diffusion.Networks(tags.make_tokenizer())
    beginning.carry_through(networks.unet, networks.controlnet, transform, offset)
    hint = pool.crops(2, 64, generator)
    clean = latents.encode(hint, transform, offset)
    noisy = clean + torch.randn(clean.shape, generator=generator)
    tokens = torch.zeros(2, 77, dtype=torch.long)
    with torch.no_grad():
        made = networks(noisy, torch.tensor([999, 200]), tokens, hint, torch.ones(2, 1, 1, 1))
    expected = beginning.ANSWER[beginning.NOISY] * noisy + beginning.ANSWER[beginning.HINT] * clean
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(made[inner], expected[inner], atol=0.5, rtol=0.05)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_jpeg_harms_as_a_real_encoder_does(quality):
    picture = data.chelsea()[:128, :128]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    real = np.asarray(Image.open(buffer)).astype(np.float32) / 255
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    ours = jpeg(tensor, torch.tensor([float(quality)]))[0].permute(1, 2, 0).numpy()
    harm = peak_signal_noise_ratio(picture / np.float32(255), real, data_range=1)
    assert peak_signal_noise_ratio(real, ours, data_range=1) > harm + 4


def test_harm_depends_on_the_seed_alone_and_a_share_stays_clean():
    picture = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first, second = (degrade(picture, 2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    clean = (first.blur == 0) & (first.noise == 0) & (first.jpeg == 100)
    assert 8 <= int(clean.sum()) <= 24


def test_every_tag_is_one_token_and_fal_defaults_are_tags():
    tokenizer = tags.make_tokenizer()
    for word in tags.vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word
    defaults = UpscaleParameters()
    known = set(tags.vocabulary())
    for text in (defaults.prompt_suffix, defaults.negative_prompt):
        assert set(text.replace(",", " ").split()) <= known


def test_the_tokenizer_is_the_same_from_the_files_of_transformers_4_and_5(tmp_path):
    tags.save_tokenizer(tmp_path)
    text = "highly detailed, blurry cat"
    from_5 = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).tokens
    (tmp_path / "tokenizer.json").unlink()
    from_4 = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True).tokenize(text)
    assert from_5[1:-1] == from_4 and from_4[:3] == ["highly</w>", "detailed</w>", ",</w>"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no pictures"):
        Photographs(tmp_path / "none", tmp_path / "cache", torch.device("cpu"))
