"""The starter models: where they are, when they are used, and that it is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from creative_upscaler.cli import exit_codes, main
from creative_upscaler.cli.metadata import read_record
from creative_upscaler.pipelines import starter
from creative_upscaler.pipelines.errors import ModelFileError
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.previews import fit_colors
from photographs import photograph
from tiny_starter import write_starter_diffusion, write_starter_sr

SR, DIFFUSION = starter.NAMES
LIMITS = {"creativity": 0.3, "settings": {"detail": 0.5, "num_inference_steps": 4}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter")
    write_starter_diffusion(folder / "diffusion", limits=LIMITS)
    write_starter_sr(folder / "sr" / "starter-sr-2x.safetensors")
    return folder


@pytest.fixture
def installed(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny files in the place of the shipped ones."""
    monkeypatch.setattr(starter, "UPSCALER", files / "sr" / "starter-sr-2x.safetensors")
    monkeypatch.setattr(starter, "DIFFUSION", files / "diffusion")
    return files


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    array = (photograph("chelsea")[0, :, 60:92, 100:150] * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def run(picture: Path, *arguments: object) -> int:
    files = [str(picture), "-o", str(picture.with_name("out.png"))]
    return main(["upscale", *files, "--no-enable-safety-checks", *map(str, arguments)])


def test_without_any_model_named_the_starter_models_are_used_and_named(installed, picture, capsys) -> None:
    assert run(picture) == 0
    record = read_record(picture.with_name("out.png"))
    assert record["models"] == {"checkpoint": DIFFUSION, "upscaler": SR}
    assert (record["settings"]["creativity"], record["settings"]["detail"]) == (0.3, 0.5)
    notes = capsys.readouterr().err
    assert f"uses {DIFFUSION} and {SR}" in notes
    assert "creativity 0.3" in notes
    assert run(picture, "--resume") == 0  # the settings that were used are those compared
    assert "is done" in capsys.readouterr().err
    assert run(picture, "--from-image", picture.with_name("out.png"), "--overwrite") == 0
    assert read_record(picture.with_name("out.png")) == record


def test_what_the_user_asks_for_is_kept_with_a_warning(installed, picture, capsys) -> None:
    flags = ("--creativity", 0.6, "--detail", 1, "--num-inference-steps", 2, "--upscaler", "none")
    assert run(picture, *flags) == 0
    record = read_record(picture.with_name("out.png"))
    assert record["models"] == {"checkpoint": DIFFUSION}
    settings = record["settings"]
    assert (settings["creativity"], settings["detail"], settings["num_inference_steps"]) == (0.6, 1, 2)
    assert "warning: " in capsys.readouterr().err


def test_a_plain_resize_stays_one_unless_the_network_is_asked_for(installed, picture) -> None:
    assert run(picture, "--creativity", 0) == 0
    assert read_record(picture.with_name("out.png"))["models"] == {}
    plain = np.asarray(Image.open(picture.with_name("out.png")))
    assert run(picture, "--creativity", 0, "--upscaler", "starter", "--overwrite") == 0
    assert read_record(picture.with_name("out.png"))["models"] == {"upscaler": SR}
    assert not np.array_equal(np.asarray(Image.open(picture.with_name("out.png"))), plain)


@pytest.mark.parametrize("flags", [("--controlnet", "x.safetensors"), ("--model-type", "SDXL")])
def test_the_starter_is_no_substitute_for_what_was_asked_for(installed, picture, flags, capsys) -> None:
    assert run(picture, *flags) == exit_codes.USAGE_ERROR
    assert "--checkpoint" in capsys.readouterr().err


def test_without_the_files_a_model_must_be_named(tmp_path, picture, monkeypatch, capsys) -> None:
    monkeypatch.setattr(starter, "UPSCALER", tmp_path / "none")
    monkeypatch.setattr(starter, "DIFFUSION", tmp_path / "none")
    assert run(picture) == exit_codes.USAGE_ERROR
    assert "--checkpoint" in capsys.readouterr().err
    assert run(picture, "--creativity", 0, "--upscaler", "starter") == exit_codes.USAGE_ERROR
    assert "not installed" in capsys.readouterr().err


def test_a_models_limits_replace_defaults_and_never_what_was_given() -> None:
    limits = starter.Limits("small one", 0.3, {"detail": 0.5, "sampler": "ddim"})
    parameters, notes = limits.fit(UpscaleParameters(), ())
    assert (parameters.creativity, parameters.detail, parameters.sampler) == (0.3, 0.5, "ddim")
    assert len(notes) == 1 and "creativity 0.3" in notes[0] and "small one" in notes[0]
    # A default below the limit is left.
    lower, _ = starter.Limits("small one", 0.9).fit(UpscaleParameters(), ())
    assert lower == UpscaleParameters()
    given = UpscaleParameters(creativity=0.8, sampler="euler")
    parameters, notes = limits.fit(given, {"creativity", "sampler"})
    assert (parameters.creativity, parameters.detail, parameters.sampler) == (0.8, 0.5, "euler")
    assert any(note.startswith("warning") and "0.8" in note for note in notes)
    preset = UpscaleParameters.from_mapping({"preset": "finegrain"})
    assert limits.fit(preset, {"preset"})[0] == preset


@pytest.mark.parametrize("table", ["[]", '{"creativity": 2}', '{"settings": {"nonsense": 1}}', "{"])
def test_damaged_limits_are_an_error_that_names_the_file(tmp_path, table) -> None:
    (tmp_path / "limits.json").write_text(table)
    with pytest.raises(ModelFileError, match=r"limits\.json"):
        starter.Limits.read(tmp_path)


def test_shipped_files_that_are_there_are_what_they_say() -> None:
    if upscaler := starter.find_upscaler():
        assert starter.name_model(upscaler) == SR
        assert upscaler.stat().st_size <= 1.5e6
    if diffusion := starter.find_diffusion():
        assert starter.name_model(diffusion) == DIFFUSION
        starter.Limits.read(diffusion)
        sizes = [file.stat().st_size for file in diffusion.rglob("*") if file.is_file()]
        assert max(sizes) <= 15e6 and sum(sizes) <= 24e6
        index = json.loads((diffusion / "model_index.json").read_text())
        assert index["controlnet"][0] and (diffusion / "controlnet").is_dir()


class LinearCodec:
    """Latents that are linear in the pixels under them, as those of the starter models."""

    scale_factor = 4

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mix = torch.randn(16, 48, generator=generator) / 7

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        pixels = torch.nn.functional.pixel_unshuffle(image * 2 - 1, 4)
        return torch.einsum("ck,bkhw->bchw", self.mix, pixels) + 0.3


def test_previews_show_the_colors_of_latents() -> None:
    codec = LinearCodec()
    factors, bias = fit_colors(codec)
    assert factors.shape == (16, 3) and bias.shape == (3,)
    picture = photograph("coffee")[:, :, 100:292, 200:424]
    shown = codec.encode(picture)[0].permute(1, 2, 0) @ factors + bias
    truth = torch.nn.functional.avg_pool2d(picture, 4)[0].permute(1, 2, 0) * 2 - 1
    correlation = torch.corrcoef(torch.stack([shown.flatten(), truth.flatten()]))[0, 1]
    assert correlation > 0.9
