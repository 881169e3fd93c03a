"""The benchmark runs in one command and its figures are what they say."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _import_benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What one command measures on a picture of one tile."""
    file = tmp_path_factory.mktemp("benchmark") / "figures.json"
    command = [sys.executable, BENCHMARKS / "creative.py", "--family", "tiny", "--size", "32"]
    command += ["--device", "cpu", "--programs", "ours,ultimate", "--json", file]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return json.loads(file.read_text()) | {"text": process.stdout}


@pytest.fixture(scope="module")
def programs(record: dict) -> dict:
    """The figures of ours, and of diffusers for the same job in this process, where it is loaded already."""
    job = importlib.import_module("jobs").Job(**record["job"])
    theirs = importlib.import_module("creative").measure("diffusers", job)
    return {"ours": record["programs"]["ours"], "diffusers": theirs}


@pytest.mark.parametrize("program", ["ours", "diffusers"])
def test_the_figures_of_a_program_add_up(programs: dict, program: str) -> None:
    figures = programs[program]
    seconds = figures["seconds"]
    parts = [seconds[phase] for phase in ("text", "encode", "sample", "decode", "outside")]
    assert min(parts[1:]) > 0
    assert sum(parts) == pytest.approx(seconds["total"])
    assert figures["outside_share"] == pytest.approx(seconds["outside"] / seconds["total"])
    assert figures["megapixels_per_second"] == pytest.approx(0.064**2 / seconds["total"])
    assert figures["tflop_per_megapixel"] == pytest.approx(sum(figures["tflop"].values()) / 0.064**2)
    assert figures["peak_bytes"] >= figures["bytes_before"] > figures["network_bytes"] > 0


def test_programs_do_the_same_work(programs: dict) -> None:
    ours, theirs = programs["ours"], programs["diffusers"]
    assert ours["evaluations"] == theirs["evaluations"] == 2 * 2  # steps, branches of guidance
    for phase in ("encode", "decode"):
        assert ours["tflop"][phase] == theirs["tflop"][phase]
    # diffusers embeds the hint in every step and for both branches.
    assert 0.5 * theirs["tflop"]["sample"] < ours["tflop"]["sample"] <= theirs["tflop"]["sample"]


def test_the_settings_the_hardware_and_what_is_missing_are_printed(record: dict) -> None:
    text = record["text"]
    assert "32² to 64² px, 2 evaluated steps" in text
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "ultimate: no checkout of ultimate and comfyui was given" in text
    assert "outside %" in text and "TFLOP/MP" in text


class _Networks(nn.Module):
    """A convolution, attention and a matrix product, of which the operations are known."""

    OPERATIONS = 2 * (8 * 4 * 9 * 16 * 16 + 2 * 256 * 256 * 8 + 256 * 8 * 5)

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.convolution(x).flatten(2).transpose(1, 2)[:, None].contiguous()
        return self.linear(F.scaled_dot_product_attention(tokens, tokens, tokens))


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_operations_are_counted_computed_or_not(dry: bool, mode: type) -> None:
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
