"""The stages around the redraw: which run, in what order, and what is told."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ccsr_files import SMALL, write_v1
from creative_upscaler.cli import exit_codes, main
from creative_upscaler.cli.metadata import read_record
from creative_upscaler.pipelines.ccsr import upscaling as ccsr_upscaling
from creative_upscaler.pipelines.errors import MissingSafetyCheckerError, SizeLimitError
from creative_upscaler.pipelines.parameters import UpscaleParameters
from creative_upscaler.pipelines.safety import SafetyResult
from creative_upscaler.pipelines.stages import Stages, run_stages
from tiny_captioners import write_blip
from tiny_safety_checkers import ALWAYS, NEVER, write_folder

PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SETTINGS = UpscaleParameters(num_inference_steps=2, seed=3, color_fix="none", detail=0)


class Recorded:
    """Stages that only note what they were asked."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.stages = Stages(describe=self.describe, restore=self.restore, check=self.check)

    def describe(self, image):
        self.calls.append(("describe", tuple(image.shape)))
        return ["a cat", "a dog"]

    def restore(self, image, size, seed):
        self.calls.append(("restore", tuple(image.shape), size, seed))
        return torch.full((len(image), 3, *size), 0.5)

    def check(self, image):
        self.calls.append(("check", tuple(image.shape)))
        return SafetyResult(image.clone(), [False] * len(image))


def test_an_empty_prompt_is_written_for_each_picture_and_the_suffix_added(sd15):
    recorded = Recorded()
    result = run_stages(PICTURES, SETTINGS, sd15, recorded.stages)
    assert result.prompts == ["a cat" + SETTINGS.prompt_suffix, "a dog" + SETTINGS.prompt_suffix]
    assert result.flags == [False, False]
    assert recorded.calls[0] == ("describe", (2, 3, 16, 16))
    assert recorded.calls[-1] == ("check", (2, 3, 32, 32))


def test_each_picture_is_restored_with_its_own_seed_and_redrawn_from_that(sd15):
    recorded = Recorded()
    both = run_stages(PICTURES, SETTINGS, sd15, recorded.stages)
    restored = [call for call in recorded.calls if call[0] == "restore"]
    seeds = [seed + i for _, shape, size, seed in restored for i in range(shape[0])]
    assert seeds == [3, 4]
    assert {size for _, _, size, _ in restored} == {(32, 32)}
    plain = run_stages(PICTURES, SETTINGS, sd15, dataclasses.replace(recorded.stages, restore=None))
    assert not torch.equal(both.image, plain.image)
    skipped = run_stages(PICTURES, dataclasses.replace(SETTINGS, skip_ccsr=True), sd15, recorded.stages)
    assert torch.equal(skipped.image, plain.image)


def test_a_prompt_that_is_given_is_not_replaced_and_one_that_stays_empty_is_told(sd15):
    recorded = Recorded()
    given = dataclasses.replace(SETTINGS, prompt="a boat")
    assert run_stages(PICTURES, given, sd15, recorded.stages).prompts == ["a boat" + given.prompt_suffix] * 2
    assert "describe" not in [call[0] for call in recorded.calls]
    silent = run_stages(PICTURES, SETTINGS, sd15, dataclasses.replace(recorded.stages, describe=None))
    assert silent.prompts == [SETTINGS.prompt_suffix] * 2
    assert "prompt is empty" in silent.notes[0]


def test_nothing_is_done_without_a_checker_that_is_asked_for_or_for_a_picture_too_large(sd15):
    recorded = Recorded()
    with pytest.raises(MissingSafetyCheckerError, match="switch enable_safety_checks off"):
        run_stages(PICTURES, SETTINGS, sd15, dataclasses.replace(recorded.stages, check=None))
    with pytest.raises(SizeLimitError):
        run_stages(torch.rand(1, 3, 8, 8), UpscaleParameters(width=9000), sd15, recorded.stages)
    assert recorded.calls == []


def test_the_command_captions_restores_redraws_and_checks(tmp_path, sd15_files, capsys, monkeypatch):
    monkeypatch.setattr(ccsr_upscaling, "LEAST_SIDE", 32)
    base, controlnet = sd15_files
    pixels = (PICTURES[0].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "in.png")
    text = {"cond_stage_model.emb": torch.zeros(1, 77, 16)}
    write_v1(tmp_path / "ccsr.safetensors", text, **SMALL)
    write_blip(tmp_path / "blip")
    verdicts = {
        name: write_folder(tmp_path / name, value) for name, value in (("no", NEVER), ("yes", ALWAYS))
    }

    def run(*flags):
        models = [
            "--checkpoint",
            base,
            "--controlnet",
            controlnet,
            "--ccsr-model",
            tmp_path / "ccsr.safetensors",
        ]
        command = ["upscale", tmp_path / "in.png", "-o", tmp_path / "out.png", "--overwrite", *models, *flags]
        command += [
            "--captioner",
            tmp_path / "blip",
            "--num-inference-steps",
            2,
            "--seed",
            1,
            "--device",
            "cpu",
        ]
        return main([str(part) for part in command])

    assert run("--safety-checker", verdicts["no"], "--json") == exit_codes.OK
    (entry,) = json.loads(capsys.readouterr().out)
    record = read_record(tmp_path / "out.png")
    assert record["safety_checked"] is entry["safety_checked"] is True
    assert record["models"]["ccsr_model"] == "ccsr.safetensors"
    assert record["models"]["captioner"] == "blip"
    assert len(record["prompt"]) > len(SETTINGS.prompt_suffix)
    kept = np.asarray(Image.open(tmp_path / "out.png"))
    assert kept.max() > 0

    assert run("--safety-checker", verdicts["yes"]) == exit_codes.OK
    assert "made picture 1 black" in capsys.readouterr().err
    assert np.asarray(Image.open(tmp_path / "out.png")).max() == 0

    assert run("--no-enable-safety-checks", "--skip-ccsr") == exit_codes.OK
    assert read_record(tmp_path / "out.png")["safety_checked"] is False
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), kept)

    assert run("--enable-safety-checks") == exit_codes.USAGE_ERROR
    assert "no safety checker" in capsys.readouterr().err


def test_an_address_is_fetched_only_when_the_user_says_so(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    url = "https://huggingface.co/somebody/model/resolve/main/base.safetensors"
    command = ["upscale", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png"), "--base-model-url", url]
    assert main([*command, "--no-enable-safety-checks"]) == exit_codes.MODEL_FILE_ERROR
    assert "the settings do not allow it" in capsys.readouterr().err
    foreign = url.replace("huggingface.co", "example.com")
    command = [*command[:-1], foreign, "--download-models", "--no-enable-safety-checks"]
    assert main(command) == exit_codes.MODEL_FILE_ERROR
    assert "example.com" in capsys.readouterr().err
