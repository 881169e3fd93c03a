"""The super-resolution network that ships with the pack, on photographs it was not trained on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from creative_upscaler.cli import main
from creative_upscaler.cli.metadata import read_record
from creative_upscaler.pipelines import starter
from creative_upscaler.pipelines.pre_upscaling import load_upscaler, pre_upscale
from creative_upscaler.pipelines.resizing import resize
from creative_upscaler.pipelines.runtime import Runtime
from photographs import photograph


def shrink(picture):
    size = (picture.shape[2] // 2, picture.shape[3] // 2)
    return (F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("noise", [0.0, 8 / 255])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_it_is_nearer_to_the_truth_than_lanczos(name, noise):
    truth = photograph(name)[:, :, -200:, 140:340]
    small = shrink(truth)
    small = (small + noise * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    network = load_upscaler(starter.UPSCALER)
    pictures = (pre_upscale(small, (200, 200), network, Runtime()), resize(small, (200, 200)))
    ours, lanczos = (peak_signal_noise_ratio(truth.numpy(), p.numpy(), data_range=1) for p in pictures)
    assert ours > lanczos + 0.4


def test_the_command_enlarges_with_it_when_asked_and_says_so(tmp_path):
    Image.new("RGB", (20, 10), "orange").save(tmp_path / "in.png")
    command = ["upscale", tmp_path / "in.png", "-o", tmp_path / "out.png", "--no-enable-safety-checks"]
    assert main([*map(str, command), "--creativity", "0", "--upscaler", "starter"]) == 0
    assert read_record(tmp_path / "out.png")["models"] == {"upscaler": starter.NAMES[0]}
    assert Image.open(tmp_path / "out.png").size == (40, 20)
