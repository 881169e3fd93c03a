"""The figures of the quality benchmark are what the literature calls by their names."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from photographs import photograph
from tiny_starter import write_starter_diffusion, write_starter_sr

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _import_benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def metrics():
    return importlib.import_module("picture_metrics")


@pytest.fixture(scope="module")
def pair(metrics) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma of a photograph and of a noisy copy."""
    truth = photograph("coffee")[0, :, 100:292, 200:424]
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return metrics.luma(truth), metrics.luma(truth + noise)


def test_psnr_and_ssim_are_scikit_images(metrics, pair) -> None:
    x, y = (image.numpy() for image in pair)
    assert metrics.psnr(*pair) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=255))
    theirs = structural_similarity(
        x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(*pair) == pytest.approx(theirs, abs=1e-9)


def test_a_picture_beside_itself_is_perfect(metrics, pair) -> None:
    truth = pair[0]
    assert metrics.psnr(truth, truth) > 150
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    assert metrics.gmsd(truth, truth) == pytest.approx(0, abs=1e-9)
    assert metrics.detail_band(truth, truth) == pytest.approx((1, 1))
    assert metrics.spectrum_distance(truth, truth) == 0


def test_fine_detail_is_what_a_blur_takes_and_noise_adds(metrics, pair) -> None:
    truth, noisy = pair
    blurred = torch.nn.functional.pad(metrics.blur(truth, 1.5, 5)[None, None], (5,) * 4, "replicate")[0, 0]
    energy, correlation = metrics.detail_band(truth, blurred)
    assert energy < 0.1 and correlation > 0.3
    energy, correlation = metrics.detail_band(truth, noisy)
    assert energy > 1.5 and correlation < 0.9
    # Twice the contrast is 6 dB at every frequency.
    assert metrics.spectrum_distance(truth, 2 * truth) == pytest.approx(20 * np.log10(2))
    assert metrics.gmsd(truth, blurred) > metrics.gmsd(truth, noisy * 0.1 + truth * 0.9) > 0


def test_grain_is_noise_on_flat_areas(metrics) -> None:
    flat = torch.full((64, 64), 100.0, dtype=torch.float64)
    noise = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert metrics.grain(flat, flat + 3 * noise) == pytest.approx(3, rel=0.05)
    assert np.isnan(metrics.grain(30 * noise, flat))


def test_a_folder_is_measured_with_every_kind_of_method(tmp_path, capsys) -> None:
    truth = (photograph("chelsea")[0, :, 60:160, 100:231] * 255).byte().permute(1, 2, 0).numpy()
    (tmp_path / "in").mkdir()
    Image.fromarray(truth).save(tmp_path / "in" / "cat.png")
    write_starter_sr(tmp_path / "sr.safetensors")
    write_starter_diffusion(tmp_path / "set", limits={"creativity": 0.25, "settings": {"detail": 0.5}})
    command = [tmp_path / "in", "--upscaler", tmp_path / "sr.safetensors", "--models", tmp_path / "set"]
    command += ["--run", "one-step", "--run", "creative:num_inference_steps=8", "--both", "--gates"]
    command += ["--json", tmp_path / "figures.json", "--sheet", tmp_path / "sheet.png"]
    assert importlib.import_module("quality").main([str(part) for part in command]) == 0
    record = json.loads((tmp_path / "figures.json").read_text())
    clean = record["variants"]["clean"]
    assert list(clean) == ["lanczos", "lanczos-bp", "sr", "one-step", "creative"]
    assert clean["lanczos-bp"]["mean"]["psnr"] > clean["lanczos"]["mean"]["psnr"] > 25
    assert clean["lanczos-bp"]["mean"]["input_psnr"] > clean["lanczos"]["mean"]["input_psnr"]
    assert record["variants"]["degraded"]["lanczos"]["mean"]["psnr"] < clean["lanczos"]["mean"]["psnr"]
    # What is not asked for follows the folder's own limits.
    assert (record["settings"]["creative"]["creativity"], record["settings"]["creative"]["detail"]) == (
        0.25,
        0.5,
    )
    assert record["settings"]["one-step"]["creativity"] == 1
    assert clean["sr"]["gates"] == {"PSNR of Lanczos + 1 dB": False, "PSNR above back-projection": False}
    assert "35 dB to input: FAILED" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet-degraded.png").width > 7 * 96 * 3


def test_a_control_is_swept_and_drawn(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 80, 3), np.uint8)).save(tmp_path / "a.png")
    write_starter_diffusion(tmp_path / "set")
    command = [tmp_path, "--models", tmp_path / "set", "--controls", "creativity", "--settings"]
    command += ["num_inference_steps=2,sampler=euler,color_fix=none", "--json", tmp_path / "sweep.json"]
    sweeps = importlib.import_module("sweeps")
    assert sweeps.main([str(part) for part in [*command, "--plot", tmp_path / "sweep.png"]]) == 0
    sweep = json.loads((tmp_path / "sweep.json").read_text())["creativity"]
    assert len(sweep["values"]) == len(sweep["mean"]) == len(sweep["pictures"]["a.png"])
    assert min(sweep["mean"]) > 0
    assert ("NOT" in capsys.readouterr().out) != sweep["monotonic"]
    assert Image.open(tmp_path / "sweep.png").width > 400


def test_a_curve_that_turns_back_is_not_monotonic() -> None:
    is_monotonic = importlib.import_module("sweeps").is_monotonic
    assert is_monotonic([0, 1, 0.99, 2], True) and is_monotonic([3, 1, 0], False)
    assert not is_monotonic([0, 1, 0.5, 2], True)
    assert not is_monotonic([1, 1, 1], True)
