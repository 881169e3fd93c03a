"""Our samplers mean what the same names mean in ComfyUI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from creative_upscaler.pipelines.samplers import sample
from creative_upscaler.pipelines.schedules import scaled_linear_alphas, spread_sigmas

VARIANCE = 0.1


def two_peaks(x: Tensor, sigma: float, index: int) -> Tensor:
    total = VARIANCE + sigma**2
    return (VARIANCE * x + sigma**2 * torch.tanh(x / total)) / total


def test_samplers_are_those_of_comfyui(host: Path, tmp_path: Path):
    # Without the last step, at which all return their estimate: where they differ shows best before it.
    sigmas = spread_sigmas(scaled_linear_alphas(), 0.6, 20, "karras")[:-1]
    generator = torch.Generator().manual_seed(5)
    shape = (2, 4, 6, 5)
    x = torch.rand(shape, generator=generator) + sigmas[0] * torch.randn(shape, generator=generator)
    noises = torch.randn(len(sigmas), *shape, generator=generator)
    problem, results = tmp_path / "problem.npz", tmp_path / "results.npz"
    np.savez(problem, x=x.float(), sigmas=sigmas.float(), noises=noises, variance=np.float32(VARIANCE))
    script = Path(__file__).parent / "run_k_diffusion.py"
    subprocess.run([sys.executable, script, host, problem, results], cwd=tmp_path, check=True)
    theirs = np.load(results)
    assert len(theirs) == 6
    for name in theirs:
        fresh = iter(noises)
        ours = sample(name, two_peaks, x.float(), sigmas, lambda fresh=fresh: next(fresh))
        torch.testing.assert_close(ours, torch.from_numpy(theirs[name]), rtol=1e-4, atol=1e-4, msg=name)
