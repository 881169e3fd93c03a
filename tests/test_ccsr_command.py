"""The command `ccsr` with tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ccsr_files
from creative_upscaler.cli import exit_codes, main
from creative_upscaler.cli.metadata import read_record


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ccsr") / "real-world_ccsr.safetensors"
    text = {"cond_stage_model.emb": torch.zeros(1, 77, 16)}
    ccsr_files.write_v1(path, text, **ccsr_files.SMALL)
    return path


def run(*arguments: object) -> int:
    return main(["ccsr", *(str(argument) for argument in arguments)])


def test_a_picture_is_restored_and_says_how(tmp_path, model, capsys):
    source, out, again = (tmp_path / name for name in ("a.png", "out.png", "again.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)).save(source)
    flags = ["--ccsr-model", model, "--device", "cpu"]
    chain = ["--preset", "custom", "--steps", "3", "--tile-size", "64", "--tile-stride", "32"]
    assert run(source, "-o", out, *flags, *chain, "--scale", "3", "--seed", "4", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["width"], result["height"], result["seed"]) == (102, 63, 4)
    assert Image.open(out).size == (102, 63)
    record = read_record(out)
    assert record["settings"]["steps"] == 3 and record["models"] == {"ccsr_model": model.name}
    assert run(source, "-o", out, *flags, *chain, "--scale", "3", "--seed", "4", "--resume") == 0
    assert "is done" in capsys.readouterr().err
    assert run(source, "-o", again, *flags, "--from-image", out) == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    assert run(source, "-o", again, "--overwrite", "--ccsr-base", model) == exit_codes.USAGE_ERROR
    assert "--ccsr-controlnet and --ccsr-base" in capsys.readouterr().err
    wrong = ["--overwrite", "--preset", "v2 one-step"]
    assert run(source, "-o", again, *flags, *wrong) == exit_codes.USAGE_ERROR
    assert "preset: v2 one-step is for CCSR v2" in capsys.readouterr().err
