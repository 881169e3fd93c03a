"""The benchmark runs in one command and its figures are what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one command measures of two programs on a picture of one tile."""
    file = tmp_path_factory.mktemp("benchmark") / "figures.json"
    command = [
        sys.executable,
        BENCHMARKS / "creative.py",
        "--family",
        "tiny",
        "--size",
        "64",
        "--device",
        "cpu",
    ]
    command += ["--programs", "ours,diffusers,ultimate", "--json", file]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(file.read_text()) | {"text": process.stdout}


@pytest.mark.parametrize("program", ["ours", "diffusers"])
def test_the_figures_of_a_program_add_up(record: dict, program: str) -> None:
    figures = record["programs"][program]
    seconds = figures["seconds"]
    parts = [seconds[phase] for phase in ("text", "encode", "sample", "decode", "outside")]
    assert min(parts[1:]) > 0
    assert sum(parts) == pytest.approx(seconds["total"])
    assert figures["outside_share"] == pytest.approx(seconds["outside"] / seconds["total"])
    assert figures["megapixels_per_second"] == pytest.approx(0.128**2 / seconds["total"])
    assert figures["tflop_per_megapixel"] == pytest.approx(sum(figures["tflop"].values()) / 0.128**2)
    assert figures["peak_bytes"] > figures["bytes_before"] > figures["network_bytes"] > 0


def test_programs_do_the_same_work(record: dict) -> None:
    ours, theirs = (record["programs"][program] for program in ("ours", "diffusers"))
    assert ours["evaluations"] == theirs["evaluations"] == 2 * 2  # steps, branches of guidance
    for phase in ("encode", "decode"):
        assert ours["tflop"][phase] == theirs["tflop"][phase]
    # diffusers embeds the hint in every step and for both branches.
    assert 0.5 * theirs["tflop"]["sample"] < ours["tflop"]["sample"] <= theirs["tflop"]["sample"]


def test_the_settings_the_hardware_and_what_is_missing_are_printed(record: dict) -> None:
    text = record["text"]
    assert "64² to 128² px, 2 evaluated steps" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "ultimate: no checkout of ultimate and comfyui was given" in text
    assert "speed of ours over the fastest other" in text


class _Networks(nn.Module):
    """A convolution, attention and a matrix product, of which the operations are known."""

    OPERATIONS = 2 * (8 * 4 * 9 * 16 * 16 + 2 * 256 * 256 * 8 + 256 * 8 * 5)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.convolution(x).flatten(2).transpose(1, 2)[:, None]
        return self.linear(F.scaled_dot_product_attention(tokens, tokens, tokens))


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_operations_are_counted_computed_or_not(
    monkeypatch: pytest.MonkeyPatch, dry: bool, mode: type
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    network = _Networks()
    meter = importlib.import_module("metering").Meter({"sample": [network]}, torch.device("cpu"), dry=dry)
    with mode():
        for count in (1, 2):
            result = network(torch.rand(1, 4, 16, 16))
            assert result.shape == (1, 1, 256, 5)
            assert (result.count_nonzero() == 0) == dry
            assert meter.flop["sample"] == count * _Networks.OPERATIONS
    assert meter.samples["sample"] == 2
    assert meter.seconds()["sample"] > 0
